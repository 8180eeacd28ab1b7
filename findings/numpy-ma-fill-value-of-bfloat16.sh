#!/bin/sh
# numpy 2.4.6, ml_dtypes 0.6.0, CPython 3.11
#
# A masked array of bfloat16 or float8 can be made, added up, divided and averaged. But numpy.ma goes
# by the kind of the dtype, which is V, and takes the three bytes ??? for its fill value. filled()
# puts them into the array, which becomes one of Python objects. max, sort and argmax fail, for they
# fill too, with messages about comparing bytes. filled(0), with a number, is right. (The documents
# give ??? for void, and do not say that these floats count as that.)
#
# Output seen:
#   float16: fill value float64; filled float16; max 5.0
#   bfloat16: fill value b'???'; filled object [5.0, b'???', 1.0], with 0 bfloat16
#   mean: 3.0; max: TypeError; sort: TypeError; argmax: TypeError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ml_dtypes==0.6.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import ml_dtypes
import numpy as np


def told(function, x):
    try:
        return str(function(x))
    except (TypeError, ValueError) as error:
        return type(error).__name__


own, x = (
    np.ma.array(np.array([5, 3, 1], dtype), mask=[False, True, False])
    for dtype in (np.float16, ml_dtypes.bfloat16)
)
print(f"float16: fill value {own.fill_value.dtype}; filled {own.filled().dtype}; max {own.max()}")
filled = x.filled()
print(f"bfloat16: fill value {bytes(x.fill_value)}; filled {filled.dtype}", end=" ")
print(f"{[bytes(v) if isinstance(v, bytes) else float(v) for v in filled]},", end=" ")
print(f"with 0 {x.filled(0).dtype}")
ways = {
    "mean": np.ma.mean,
    "max": np.ma.max,
    "sort": np.ma.sort,
    "argmax": np.ma.argmax,
}
found = {name: told(way, x) for name, way in ways.items()}
print("; ".join(f"{name}: {what}" for name, what in found.items()))
failed = [what for name, what in found.items() if name != "mean"]
sys.exit(filled.dtype != object or failed != ["TypeError"] * 3)
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
