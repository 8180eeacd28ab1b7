#!/bin/sh
# dask 2026.8.0, numpy 2.4.6, CPython 3.11
#
# Assigning a number by a condition to a Dask array of masked chunks, x[x > 5] = 0, makes it one of
# plain arrays: the mask is gone, also where nothing was assigned, and what lay under it counts from
# then on. In NumPy the same line keeps the mask. Dask makes of it da.where, whose loss of the mask is
# known (dask/dask#9759; da.ma.where is the way for it); the assignment is still the plain one. By a
# position, x[1, 2] = 0, the mask is kept.
#
# Output seen:
#   norms: [5.0, 2.0]
#   after x[x > 100] = 0: NumPy [5.0, 2.0], Dask [13.0, 1000000.000002]
#   after x[1, 2] = 0: Dask [5.0, 2.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "dask[array]==2026.8.0" numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import dask.array as da
import numpy as np


def norms(x):
    return np.asarray(np.sqrt((x * x).sum(axis=1))).tolist()


held = np.ma.array([[3.0, 4, 12], [2, -1e6, 0]], mask=[[0, 0, 1], [0, 1, 0]])
print("norms:", norms(held))
own, lazy, sliced = held.copy(), *(da.from_array(held, chunks=(1, 3)) for _ in range(2))
own[own > 100] = 0
lazy[lazy > 100] = 0
sliced[1, 2] = 0
found = [norms(own), norms(lazy.compute()), norms(sliced.compute())]
print(f"after x[x > 100] = 0: NumPy {found[0]}, Dask {found[1]}")
print(f"after x[1, 2] = 0: Dask {found[2]}")
sys.exit(found != [[5, 2], [13, 1000000.000002], [5, 2]])
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
