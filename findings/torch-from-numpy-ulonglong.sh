#!/bin/sh
# torch 2.13.0 (CPU), numpy 2.4.6, CPython 3.11
#
# On Linux NumPy has two unsigned dtypes of 64 bits, of C's unsigned long and unsigned long long,
# which compare equal; some libraries hand out the second one. torch.from_numpy takes the first and
# refuses the second, by a message that lists uint64 among those it takes. Of the signed pair it
# takes both.
#
# Output seen:
#   equal: True, int64: torch.int64 torch.int64
#   uint64: torch.uint64 TypeError (uint64 is listed: True)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import numpy as np
import torch


def told(code):
    try:
        return str(torch.from_numpy(np.ones(2, code)).dtype)
    except TypeError as error:
        return f"TypeError (uint64 is listed: {'uint64' in str(error)})"


found = [told(code) for code in "lqLQ"]
print(f"equal: {np.dtype('L') == np.dtype('Q')}, int64: {found[0]} {found[1]}")
print(f"uint64: {found[2]} {found[3]}")
sys.exit(found != ["torch.int64"] * 2 + ["torch.uint64", "TypeError (uint64 is listed: True)"])
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
