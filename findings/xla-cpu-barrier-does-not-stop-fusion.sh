#!/bin/sh
# jax 0.10.2 (CPU), numpy 2.4.6, CPython 3.11
#
# XLA's CPU compiler drops lax.optimization_barrier before it decides what to fuse. A sum that is
# written as additions of slices, and used by a comparison and by a product that spread it over an
# array, is then computed again for each element of that array, whether the barrier stands around
# it or not: 32 rows are added 32 times. The compiled program has one fusion, which reads all the
# slices, and writes the result. The same two steps as two programs add them once, and together
# take a fifth of the time or less. A root of the sum is not computed again: for that the compiler makes an
# array of its own.
#
# Output seen (the times vary):
#   without barrier: 1 fusion, slices where the result is written: 32
#   with barrier: 1 fusion, slices where the result is written: 32
#   by way of a root: 2 fusions, slices where the result is written: 0
#   one program 0.104 s, two programs 0.021 s
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def add_rows(x):
    terms = [lax.square(x[k : k + 1]) for k in range(32)]
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2])]
    return terms[0]


def spread(x, total):
    return x * jnp.where(total < 1, total, 2 * total)


WAYS = {
    "without barrier": lambda x: spread(x, add_rows(x)),
    "with barrier": lambda x: spread(x, lax.optimization_barrier(add_rows(x))),
    "by way of a root": lambda x: spread(x, jnp.sqrt(add_rows(x))),
}


def seconds(function, x):
    jax.block_until_ready(function(x))
    start = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(function(x))
    return (time.perf_counter() - start) / 5


x = jnp.asarray(np.random.default_rng(0).standard_normal((32, 200_000)), jnp.float32)
seen = []
for name, way in WAYS.items():
    text = jax.jit(way).lower(x).compile().as_text()
    main = text[text.index("ENTRY") :]
    written_by = re.search(r"ROOT .*calls=(%\S+?)[,\s]", main)[1]
    body = text[text.index(f"\n{written_by} (") :]
    slices = body[: body.index("\n}")].count("slice(")
    seen.append((main.count("fusion("), slices))
    print(f"{name}: {seen[-1][0]} fusion{'s' * (seen[-1][0] > 1)}, slices where the result is written: {slices}")
total, rest = jax.jit(add_rows), jax.jit(spread)
one = seconds(jax.jit(WAYS["with barrier"]), x)
two = seconds(lambda x: rest(x, total(x)), x)
print(f"one program {one:.3f} s, two programs {two:.3f} s")
assert seen == [(1, 32), (1, 32), (2, 0)], seen
assert one > 1.5 * two
PY
"$folder/venv/bin/python" "$folder/look.py"
