#!/bin/sh
# torch 2.13.0 (CPU), CPython 3.11
#
# torch.nested.narrow gives a jagged tensor that is a view of some rows of each sequence; between them
# lies what was left out. Elementwise operations and unbind leave it out. A reduction along the ragged
# dimension is refused, for the tensor has holes. But sum, mean, max and any without a dimension count
# what lies in the holes: the sum of squares, which is all there is, for torch has no norm of nested
# tensors, is of the tensor before it was narrowed. After .contiguous() all are right. (The project
# knows of a kin: pytorch/pytorch#196708, September 2026, where unbind does so.)
#
# Output seen:
#   rows: [[[1.0, 2.0], [3.0, 4.0]], [[11.0, 12.0]]]
#   sum of squares: 1496.0, of the contiguous one 295.0
#   mean: 8.5, of the contiguous one 5.5; max: 16.0 and 12.0
#   along the rows: RuntimeError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import torch

full = torch.arange(1.0, 17).reshape(2, 4, 2)
starts, lengths = torch.tensor([0, 1]), torch.tensor([2, 1])
x = torch.nested.narrow(full, 1, starts, lengths, layout=torch.jagged)
y = x.contiguous()
print("rows:", [row.tolist() for row in x.unbind()])
squares = (x * x).sum().item(), (y * y).sum().item()
print(f"sum of squares: {squares[0]}, of the contiguous one {squares[1]}")
print(f"mean: {x.mean().item()}, of the contiguous one {y.mean().item()};", end=" ")
print(f"max: {x.max().item()} and {y.max().item()}")
try:
    told = str((x * x).sum(1))
except RuntimeError:
    told = "RuntimeError"
print("along the rows:", told)
sys.exit(squares != (1496, 295) or told != "RuntimeError")
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
