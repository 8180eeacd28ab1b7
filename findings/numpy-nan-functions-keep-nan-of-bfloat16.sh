#!/bin/sh
# numpy 2.4.6, ml_dtypes 0.6.0, CPython 3.11
#
# NumPy's functions that pass over NaN ask first whether a dtype is one of its own inexact ones, and
# take any other for numbers that have no NaN. Those of ml_dtypes are such. So nan_to_num gives NaN and
# inf back as they were, nansum, nanmean and nanstd give NaN, and nanargmax gives the place of a NaN,
# all without a word. nanmax and nanmin are right, for they are reductions that skip NaN themselves, and
# isnan sees it. Embeddings in bfloat16 are as dirty after the usual line that cleans them as before.
#
# Output seen ([1, nan, 3, inf]):
#   float16: nan_to_num [1.0, 0.0, 3.0, 65504.0], nansum inf, nanmean of the first three 2.0, nanargmin 0
#   bfloat16: nan_to_num [1.0, nan, 3.0, inf], nansum nan, nanmean of the first three nan, nanargmin 1
#   float8_e5m2: nan_to_num [1.0, nan, 3.0, inf], nansum nan, nanmean of the first three nan, nanargmin 1
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
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
    x = np.array([1, np.nan, 3, np.inf], dtype)
    cleaned, total = np.nan_to_num(x).astype(float), float(np.nansum(x))
    mean, least = float(np.nanmean(x[:3])), int(np.nanargmin(x))
    print(
        f"{x.dtype.name}: nan_to_num {cleaned.tolist()}, nansum {total}, nanmean of the first three "
        f"{mean}, nanargmin {least}"
    )
    assert np.isnan(x).tolist() == [False, True, False, False]
    assert float(np.nanmax(x[:3])) == 3
    seen.append((bool(np.isfinite(cleaned).all()), np.isnan(total), np.isnan(mean), least))
other = (False, True, True, 1)
sys.exit(list(map(tuple, seen)) != [(True, False, False, 0), other, other])
PY
"$folder/venv/bin/python" "$folder/look.py"
