#!/bin/sh
# torch 2.13.0 (CPU), numpy 2.4.6, CPython 3.11
#
# Inside forward-mode differentiation a dual tensor is a tensor and its tangent. numpy() of one that
# requires a gradient is refused, for the derivative would be lost. numpy() of a dual tensor is not:
# it returns the values, and the tangent is lost without a word, so a function that computes in
# NumPy and comes back by from_numpy has the derivative 0.
#
# Output seen:
#   requires_grad: RuntimeError
#   dual: [3.0, 4.0], tangent after the way through NumPy: None
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import torch
from torch.autograd import forward_ad

x = torch.tensor([3.0, 4.0])
try:
    x.clone().requires_grad_().numpy()
    graded = "passes"
except RuntimeError:
    graded = "RuntimeError"
with forward_ad.dual_level():
    dual = forward_ad.make_dual(x, torch.ones(2))
    values = dual.numpy()
    tangent = forward_ad.unpack_dual(torch.from_numpy(values)).tangent
print(f"requires_grad: {graded}")
print(f"dual: {values.tolist()}, tangent after the way through NumPy: {tangent}")
sys.exit(not (graded == "RuntimeError" and tangent is None))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
