#!/bin/sh
# numexpr 2.14.2, numpy 2.4.6, CPython 3.11
#
# A sum over no numbers is 0, and the sums over axis 1 of a (2, 0) matrix are two zeros. numexpr returns
# an empty matrix of the operand's shape in place of the reduced one. So the norms of two empty vectors
# are not two numbers, and the result has a dimension too many, which broadcasts: divided by it, a row
# of three is refused, and a column becomes an empty matrix without a word. prod and max do the same,
# where NumPy gives 1 and an error. The guide says of reductions only that axes are not negative.
#
# Output seen:
#   sum(x * x, axis=1) of (2, 0): numexpr shape (2, 0), NumPy shape (2,)
#   sum(x * x) of (0,): numexpr [], NumPy 0.0
#   a column of two, divided by it: shape (2, 0)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numexpr==2.14.2 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import numexpr
import numpy as np

x = np.zeros((2, 0))
rows = numexpr.evaluate("sum(x * x, axis=1)")
print(f"sum(x * x, axis=1) of (2, 0): numexpr shape {rows.shape},", end=" ")
print(f"NumPy shape {(x * x).sum(axis=1).shape}")
x = np.zeros(0)
whole = numexpr.evaluate("sum(x * x)")
print(f"sum(x * x) of (0,): numexpr {whole.tolist()}, NumPy {(x * x).sum()}")
column = np.ones((2, 1)) / rows
print(f"a column of two, divided by it: shape {column.shape}")
sys.exit((rows.shape, whole.shape, column.shape) != ((2, 0), (0,), (2, 0)))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
