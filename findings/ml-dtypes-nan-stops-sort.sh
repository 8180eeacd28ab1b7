#!/bin/sh
# ml_dtypes 0.6.0, numpy 2.4.6, CPython 3.11
#
# NumPy sorts NaN to the end in each of its own floating dtypes. In bfloat16 and float8 NaN compares as
# neither less nor greater, and so it is a wall: what stands on one side of it is not sorted with what
# stands on the other. sort, argsort, unique and partition return the order that came, and median and
# percentile take the number that happens to stand in the middle, where NumPy's own floats give NaN.
# max and argmax see the NaN. So scores with one NaN row have no order and a median that looks sound.
#
# Output seen ([5, nan, 1, 4, nan, 2]):
#   float16: sort [1.0, 2.0, 4.0, 5.0, nan, nan], median nan, unique 5, max nan
#   bfloat16: sort [5.0, nan, 1.0, 4.0, nan, 2.0], median 2.5, unique 6, max nan
#   float8_e4m3fn: sort [5.0, nan, 1.0, 4.0, nan, 2.0], median 2.5, unique 6, max nan
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ml_dtypes==0.6.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import ml_dtypes
import numpy as np

seen = []
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    x = np.array([5, np.nan, 1, 4, np.nan, 2], dtype)
    in_order, middle = np.sort(x).astype(float), float(np.median(x))
    kinds, most = np.unique(x).size, float(np.max(x))
    print(f"{x.dtype.name}: sort {in_order.tolist()}, median {middle}, unique {kinds}, max {most}")
    seen.append((np.array_equal(in_order, x.astype(float), equal_nan=True), np.isnan(middle)))
sys.exit(seen != [(False, True), (True, False), (True, False)])
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
