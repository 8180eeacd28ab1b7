#!/bin/sh
# torch 2.13.0 (CPU), CPython 3.11
#
# A compiled function that is called with one integer and then with another has that argument as a
# symbol from then on. Of a symbol `in` is right and compiles anew where it has to; `not in` is always
# true. So the usual list of the axes that are kept, [d for d in range(x.ndim) if d not in axes], keeps
# the one that is to go, and what is computed of it has another shape or other values, without a word.
# dynamic=False, or the first integer alone, is right.
#
# Output seen (axis 0, then 1, of ones of 2x3, in one compiled function; the sum over all other axes):
#   eager: [3.0, 3.0] [2.0, 2.0, 2.0]
#   compiled: [3.0, 3.0] 6.0
#   compiled, dynamic=False: [3.0, 3.0] [2.0, 2.0, 2.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cat >"$folder/look.py" <<'PY'
import sys

import torch


def sums_of(x, axis):
    return x.sum([d for d in range(x.ndim) if d not in (axis,)])


def told(function):
    return [function(torch.ones(2, 3), axis).tolist() for axis in (0, 1)]


found = {
    "eager": told(sums_of),
    "compiled": told(torch.compile(sums_of, backend="eager")),
    "compiled, dynamic=False": told(torch.compile(sums_of, backend="eager", dynamic=False)),
}
for name, (first, second) in found.items():
    print(f"{name}: {first} {second}")
right = [[3.0, 3.0], [2.0, 2.0, 2.0]]
sys.exit(list(found.values()) != [right, [[3.0, 3.0], 6.0], right])
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
