"""Sums of squares and of products, as accurate as those of a tree.

XLA's GPU backend sums in a tree. Its CPU backend adds one by one, at best in windows of 32: equal
values, which round alike at each addition, gave float64 norms that were off by 7 ulp along one axis
and by 315 along two. So on a CPU the tree is spelled out, unless the process has several devices:
the compiler could not spread it over them.

XLA may rearrange products. Where what is squared is one number for it, it makes ``x*x * (c*c)`` of
``(x*c) * (x*c)``, and of ``x*c*d`` it makes ``x * (c*d)`` for arrays of any size: constants that
leave the range where the products do not. So powers of two that are constants are `opaque`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Axes = tuple[int, ...]

barrier: Any = lax.optimization_barrier  # which has no types

# Blocks of a vector that are added in one pass: what a pass writes is so many times smaller than
# what it reads.
BLOCKS = 32


def opaque(value: float, dtype: np.dtype[Any]) -> jax.Array:
    """A constant that XLA does not know."""
    constant: jax.Array = barrier(jnp.asarray(value, dtype))
    return constant


def total(
    term: Callable[..., jax.Array], axes: Axes, *arrays: jax.Array, tree: bool | None = None
) -> jax.Array:
    """The sums over `axes`, which stay, of what `term` makes of the elements of arrays. Whether as
    a `tree`, is found out here where it is None.

    On a CPU blocks are added in pairs, then the elements of their sum likewise. This is faster too
    (squares of 10000x768 float32 in float64: 1.4 to 2.4 ms for 2 to 6; of 1000000x3: 0.5 for 3 to
    6; two cores of a Zen 5), and XLA does not hold a float64 copy of x, as it does for its own sum.

    XLA's CPU compiler computes additions again wherever their result is used, for each element of
    an array that they are spread over, also behind a barrier. So who calls this uses the result
    once, and only by what is computed once: a root, or a quotient of sums.
    """

    def whole(*arrays: jax.Array) -> jax.Array:
        return term(*arrays).sum(axes, keepdims=True)

    known = all(isinstance(d, int) and d > 0 for d in arrays[0].shape)
    if not axes or not known or tree is False or (tree is None and jax.device_count() > 1):
        return whole(*arrays)
    spelled_out = functools.partial(_tree, term, axes)
    if tree:
        return spelled_out(*arrays)
    sums: jax.Array = lax.platform_dependent(*arrays, cpu=spelled_out, default=whole)
    return sums


def _tree(of: Callable[..., jax.Array], axes: Axes, *given: jax.Array) -> jax.Array:
    # XLA's CPU compiler has no slices of bfloat16: it would make a float32 copy of the whole.
    bits = [jnp.bfloat16 == a.dtype for a in given]
    arrays = [
        lax.bitcast_convert_type(a, np.uint16) if b else a for a, b in zip(given, bits, strict=True)
    ]

    def first(*arrays: jax.Array) -> jax.Array:
        return of(*(_from_bits(a) if b else a for a, b in zip(arrays, bits, strict=True)))

    term: Callable[..., jax.Array] = first
    for axis in sorted(axes, key=lambda d: -arrays[0].shape[d]):
        rest: list[jax.Array] = []
        while (n := arrays[0].shape[axis]) > 1:
            count = min(n, BLOCKS)
            size = n // count
            cuts = [(k * size, (k + 1) * size) for k in range(count)]
            cuts += [(k, k + 1) for k in range(count * size, n)]
            terms = [term(*(lax.slice_in_dim(a, *c, axis=axis) for a in arrays)) for c in cuts]
            rest += terms[count:]
            arrays = [_in_pairs(terms[:count])]
            term = jnp.asarray
        if rest:
            arrays = [_in_pairs([*arrays, *reversed(rest)])]
    return term(*arrays)


def _from_bits(bits: jax.Array) -> jax.Array:
    """bfloat16 as float32."""
    return lax.bitcast_convert_type(bits.astype(np.uint32) << np.uint32(16), np.float32)


def _in_pairs(terms: list[jax.Array]) -> jax.Array:
    """The sum of all, neighbours first."""
    while len(terms) > 1:
        pairs = list(map(jnp.add, terms[0:-1:2], terms[1::2]))
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
