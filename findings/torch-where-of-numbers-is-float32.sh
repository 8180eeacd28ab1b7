#!/bin/sh
# torch 2.13.0 (CPU), numpy 2.4.6, CPython 3.11
#
# torch.where of a mask and two Python numbers makes a tensor of the default dtype, and refuses a
# number that float32 cannot hold, also where the result is multiplied into a float64 tensor, in
# which each of the numbers alone would have been one of float64.
#
# Output seen:
#   by a number: 4.149515568880993e+180
#   by where: RuntimeError: value cannot be converted to type float without overflow
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import torch

x = torch.ones(1, dtype=torch.float64)
print("by a number:", (x * 2.0**600).item())
try:
    told = (x * torch.where(x > 0, 2.0**600, 1.0)).item()
except RuntimeError as error:
    told = f"RuntimeError: {str(error).splitlines()[0]}"
print("by where:", told)
sys.exit(told != "RuntimeError: value cannot be converted to type float without overflow")
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
