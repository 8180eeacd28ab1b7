#!/bin/sh
# gensim 4.4.0, numpy 2.4.6, scipy 1.17.1, CPython 3.11
#
# gensim has two ways to a unit vector, and for float32 they give different answers for most of what
# is not of ordinary size. matutils.unitvec takes the norm from BLAS, which scales: it is right for
# huge and tiny vectors, keeps zeros, and gives a vector with NaN back as it came, its other numbers
# too. KeyedVectors.get_vector(norm=True), on which most_similar stands, sums squares in float32:
# huge vectors become zeros, tiny ones inf, zeros NaN. A sparse document with a NaN fails an
# assertion about zeros.
#
# Output seen (unitvec, then get_vector):
#   [3e+30, 4e+30]: [0.6, 0.8] [0.0, 0.0]
#   [3e-30, 4e-30]: [0.6, 0.8] [inf, inf]
#   [0.0, 0.0]: [0.0, 0.0] [nan, nan]
#   [nan, 1.0]: [nan, 1.0] [nan, nan]
#   document: AssertionError: sparse documents must not contain any explicit zero entries
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gensim==4.4.0 numpy==2.4.6 scipy==1.17.1
cat >"$folder/look.py" <<'PY'
import sys

import numpy as np
from gensim import matutils
from gensim.models import KeyedVectors

good = True
for row, one, two in (
    ([3e30, 4e30], [0.6, 0.8], [0, 0]),
    ([3e-30, 4e-30], [0.6, 0.8], [np.inf, np.inf]),
    ([0.0, 0.0], [0, 0], [np.nan, np.nan]),
    ([np.nan, 1.0], [np.nan, 1], [np.nan, np.nan]),
):
    x = np.array(row, np.float32)
    vectors = KeyedVectors(2)
    vectors.add_vectors(["w"], [x])
    unit, other = matutils.unitvec(x), vectors.get_vector("w", norm=True)
    shown = (np.round(y.astype(float), 6).tolist() for y in (unit, other))
    print(f"{row}:", *shown)
    pairs = (unit, one), (other, two)
    good = good and all(np.allclose(*pair, equal_nan=True) for pair in pairs)
try:
    told = matutils.unitvec([(0, float("nan")), (1, 1.0)])
except AssertionError as error:
    told = f"AssertionError: {error}"
print(f"document: {told}")
sys.exit(not (good and "zero entries" in str(told)))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
