#!/bin/sh
# xarray 2026.9.0, numpy 2.4.6, ml_dtypes 0.6.0, CPython 3.11
#
# A DataArray takes a dtype of ml_dtypes, shows it, multiplies, compares and concatenates it. All
# that may meet or make a missing value is a TypeError, which says that the argument must be a NumPy
# dtype and shows one: mean, sum, max and count (unless skipna=False), isnull, where, shift, reindex and
# an outer join. Behind it is numpy.isdtype, which refuses dtypes that are not NumPy's own. An outer
# join that raises comes late in a program whose arithmetic all went well.
#
# Output seen:
#   float16: a * a float16, sum 6.0, sum(skipna=False) 6.0, isnull, where, shift, align: fine
#   bfloat16: a * a bfloat16, sum TypeError, sum(skipna=False) 6.0, isnull, where, shift, align: TypeError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q xarray==2026.9.0 ml_dtypes==0.6.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import ml_dtypes
import numpy as np
import xarray as xr


def told(call):
    try:
        found = call()
    except TypeError as error:
        assert "must be a NumPy dtype, but it is a <class 'numpy.dtype[" in str(error)
        return "TypeError"
    return found.item() if found.ndim == 0 else "fine"


seen = []
for dtype in (np.float16, ml_dtypes.bfloat16):
    a = xr.DataArray(np.array([1, 2, 3], dtype), dims="x", coords={"x": [0, 1, 2]})
    b = a.assign_coords(x=[1, 2, 3])
    (others,) = {
        told(call)
        for call in (
            a.isnull,
            lambda a=a: a.where(a > 1),
            lambda a=a: a.shift(x=1),
            lambda a=a, b=b: xr.align(a, b, join="outer")[0],
        )
    }
    sums = told(a.sum), told(lambda a=a: a.sum(skipna=False))
    print(
        f"{a.dtype.name}: a * a {(a * a).dtype}, sum {sums[0]}, "
        f"sum(skipna=False) {sums[1]}, isnull, where, shift, align: {others}"
    )
    seen.append((*sums, others))
sys.exit(seen != [(6.0, 6.0, "fine"), ("TypeError", 6.0, "TypeError")])
PY
"$folder/venv/bin/python" "$folder/look.py"
