#!/bin/sh
# optax 0.2.8, jax 0.10.2 (CPU), numpy 2.4.6, CPython 3.11
#
# A BCOO matrix of jax.experimental.sparse is a pytree whose leaves are its entries and their
# indices. So the norm of a tree with a sparse gradient, as jax.experimental.sparse.grad gives it,
# counts row and column numbers as numbers: it depends on where the entries stand. The clipping by
# such a norm then stops at the indices, for they are of another dtype. (And a norm of bfloat16
# leaves is summed in bfloat16, so of 10**6 random numbers it is off by one part in a thousand.)
#
# Output seen:
#   gradient: BCOO with entries [3. 4.] at [[0, 1], [1, 3]]
#   norm: optax 6.0, dense 5.0
#   clip: TypeError: lax.select requires arguments to have the same dtypes, got float32, int32.
#   bfloat16: optax 1000, float32 998.886
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import optax
from jax.experimental import sparse

matrix = sparse.BCOO.fromdense(jnp.array([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]]))
gradient = sparse.grad(lambda m: 0.5 * jnp.sum((m @ jnp.ones(4)) ** 2))(matrix)
print(f"gradient: {type(gradient).__name__} with entries {gradient.data}", end=" ")
print(f"at {gradient.indices.tolist()}")
found, dense = optax.tree.norm(gradient), jnp.linalg.norm(gradient.todense())
print(f"norm: optax {found}, dense {dense}")
try:
    optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    told = "no error"
except TypeError as error:
    told = f"TypeError: {str(error).split(' (Tip')[0]}"
print(f"clip: {told}")
half = jax.random.normal(jax.random.key(0), (1000, 1000)).astype(jnp.bfloat16)
norms = optax.tree.norm([half]), jnp.linalg.norm(half.astype(jnp.float32))
print(f"bfloat16: optax {float(norms[0]):.6g}, float32 {float(norms[1]):.6g}")
sys.exit(not (found == 6 and dense == 5 and told.startswith("TypeError")))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
