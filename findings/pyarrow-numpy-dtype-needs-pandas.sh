#!/bin/sh
# pyarrow 18.0.0 and 26.0.1, numpy 2.4.6, CPython 3.11; pandas not installed
#
# DataType.to_pandas_dtype() is the documented way from an Arrow type to a NumPy dtype, and for
# float32 its answer is numpy.float32, in which pandas has no part. Up to some release after 18.0.0
# it imports pandas all the same, and raises ModuleNotFoundError where there is none; array data of
# the same type goes to NumPy without it (numpy.asarray). In 26.0.1 it answers without pandas. So a
# library that asks for pyarrow alone and works with today's breaks on one of two years ago.
#
# Output seen:
#   18.0.0: asarray float32, to_pandas_dtype ModuleNotFoundError: No module named 'pandas'
#   26.0.1: asarray float32, to_pandas_dtype float32
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/look.py" <<'PY'
import sys

import numpy as np
import pyarrow as pa

array = np.asarray(pa.array([1, 2], pa.float32()))
try:
    told = pa.float32().to_pandas_dtype().__name__
except ModuleNotFoundError as error:
    told = f"ModuleNotFoundError: {error}"
print(f"{pa.__version__}: asarray {array.dtype}, to_pandas_dtype {told}")
sys.exit(told != sys.argv[1])
PY
for one in "18.0.0|ModuleNotFoundError: No module named 'pandas'" "26.0.1|float32"; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q "pyarrow==${one%%|*}" numpy==2.4.6
    "$folder/venv/bin/python" "$folder/look.py" "${one#*|}"
done
