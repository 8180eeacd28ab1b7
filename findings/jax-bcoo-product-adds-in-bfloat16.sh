#!/bin/sh
# jax 0.10.2 (CPU), numpy 2.4.6, CPython 3.11
#
# A dense product of bfloat16 or float16 adds wide and rounds once. The same product of a BCOO or BCSR
# matrix of jax.experimental.sparse is a scatter, which adds one number after another in the dtype
# itself: the sum of ones stops at 256 in bfloat16 and at 2048 in float16. So do the sum of a row and
# the merging of repeated entries, and todense() of them: the dense matrix is then wrong itself.
# preferred_element_type, which bcoo_dot_general takes, helps.
#
# Output seen:
#   1000 ones in bfloat16: dense 1000.0, BCOO 256.0, BCSR 256.0, preferred float32 1000.0
#   4096 ones in float16: dense 4096.0, BCOO 2048.0, BCSR 2048.0, preferred float32 4096.0
#   1000 repeated entries in bfloat16: todense 256.0, bcoo_sum_duplicates 256.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import jax.numpy as jnp
from jax.experimental import sparse

good = True
for count, dtype, stops in ((1000, jnp.bfloat16, 256), (4096, jnp.float16, 2048)):
    row, ones = jnp.ones((1, count), dtype), jnp.ones(count, dtype)
    matrix = sparse.BCOO.fromdense(row)
    wide = sparse.bcoo_dot_general(
        matrix, ones, dimension_numbers=(([1], [0]), ([], [])), preferred_element_type=jnp.float32
    )
    products = row @ ones, matrix @ ones, sparse.BCSR.fromdense(row) @ ones, wide
    seen = [float(product[0]) for product in products]
    print(f"{count} ones in {jnp.dtype(dtype).name}: dense {seen[0]}, BCOO {seen[1]},", end=" ")
    print(f"BCSR {seen[2]}, preferred float32 {seen[3]}")
    good = good and seen == [count, stops, stops, count]
repeated = sparse.BCOO((jnp.ones(1000, jnp.bfloat16), jnp.zeros((1000, 1), int)), shape=(1,))
dense, merged = repeated.todense(), sparse.bcoo_sum_duplicates(repeated).data
print(f"1000 repeated entries in bfloat16: todense {float(dense[0])},", end=" ")
print(f"bcoo_sum_duplicates {float(merged[0])}")
sys.exit(not (good and dense[0] == 256 and merged[0] == 256))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
