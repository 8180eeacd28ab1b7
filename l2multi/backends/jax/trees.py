"""One vector that is spread over several arrays, of shapes and dtypes of their own.

Its sum of squares is the sum of theirs, and all else follows from that as in `functions`: each
array is read where it lies, and none is joined with another or made wider as a whole. The
derivative is that of one vector, so where one array is zero and others are not, its second
derivatives are not those of its own norm.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract
from l2multi.backends.jax import roots, sums
from l2multi.backends.jax.cpu_primitives import WIDE
from l2multi.backends.jax.powers import Norms, halves, lengths, rounded, split
from l2multi.backends.jax.roots import F64, LARGE
from l2multi.backends.jax.sums import Parts

Leaves = tuple[jax.Array, ...]


def width_of(leaves: Leaves) -> np.dtype[Any]:
    """The real dtype of the norm: the widest that one of the arrays would have."""
    widths = (roots.width_of(x, x.dtype.name) for x in leaves)
    return functools.reduce(np.promote_types, widths)


@functools.partial(jax.jit, static_argnums=1)
def norm(leaves: Leaves, width: str) -> jax.Array:
    """The norm."""
    return _polar(width, leaves)[0]


@functools.partial(jax.jit, static_argnums=2)
def clip(leaves: Leaves, limit: jax.Array, width: str) -> tuple[Leaves, jax.Array]:
    """The arrays times ``limit / norm`` where the norm is larger than the limit; and the norm."""
    length, power, rest = _polar(width, leaves)
    short = length <= limit
    # What is not taken is finite, for its derivative is multiplied by 0.
    part = jnp.where(short, 0, limit)
    # The quotient of limit and norm, or where it is too small for its dtype, two factors of it.
    ratio = part * power * rest
    whole = ratio >= np.finfo(width).tiny
    factors = jnp.where(whole, ratio, power), jnp.where(whole, 1, part * rest)

    def one(x: jax.Array) -> jax.Array:
        scaled = (p * factors[0] * factors[1] for p in sums.parts(x, np.dtype(width)))
        return jnp.where(short, x, _joined(tuple(scaled), x.dtype.name))

    return tuple(map(one, leaves)), length


def _joined(parts: Parts, dtype: str) -> jax.Array:
    return rounded(parts[0] if len(parts) == 1 else lax.complex(*parts), dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polar(width: str, leaves: Leaves) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The norm, and its inverse as two factors: see `functions.Polar`."""
    return lengths(*_roots(leaves, np.dtype(width)))


@_polar.defjvp
def _polar_jvp(width: str, primals: tuple[Leaves], tangents: tuple[Any]) -> Any:
    (leaves,), (moved,) = primals, tangents
    length, power, rest = _polar(width, leaves)
    first, second = halves(lax.stop_gradient(power))

    def along(factor: jax.Array | None) -> jax.Array:
        """The inner product of the unit vector and the tangent times a factor."""
        found = [jnp.zeros((), width)]
        for x, dx in zip(leaves, moved, strict=True):
            if dx.dtype == jax.dtypes.float0:  # that of integers, which do not move
                continue
            axes, each = tuple(range(x.ndim)), (power, rest)
            over = tuple(a.reshape((1,) * x.ndim) for a in each)
            unit = tuple(p * over[0] * over[1] for p in sums.parts(x, np.dtype(width)))
            if factor is None:
                inner = sums.inner(unit, sums.own_parts(dx), axes, x, *over)
            else:
                times = tuple(p * factor for p in sums.parts(dx, np.dtype(width)))
                inner = sums.inner(unit, times, axes)
            found.append(inner.reshape(()))
        return functools.reduce(operator.add, found)

    # In halves, as in `functions.tangents_of`.
    lost = -rest * (along(first) * rest * second)
    return (length, power, rest), (along(None), jnp.zeros_like(power), lost)


def _roots(leaves: Leaves, width: np.dtype[Any]) -> Norms:
    three = functools.partial(_three_roots, width=width)
    if width == F64:
        return three(*leaves)
    roots: Norms = lax.platform_dependent(
        *leaves, default=three, **dict.fromkeys(WIDE, _wide_roots)
    )
    return roots


def _wide_roots(*leaves: jax.Array) -> Norms:
    """Of float32 and narrower, from one sum in float64."""
    with jax.enable_x64(True):
        return split(jnp.sqrt(_squares(leaves, F64)), False)


def _three_roots(*leaves: jax.Array, width: np.dtype[Any]) -> Norms:
    """As `roots` has them of one array."""
    shift, least = roots.scales(width)

    def one(exponent: int) -> jax.Array:
        return jnp.sqrt(_squares(leaves, width, exponent))

    plain = one(0)
    if sum(math.prod(x.shape) for x in leaves) < LARGE:
        return roots.chosen(plain, one(shift), one(-shift), width)
    raised, lowered = lax.cond(
        (plain >= least) & (plain < jnp.inf),
        lambda: (jnp.zeros_like(plain), jnp.zeros_like(plain)),
        lambda: (one(shift), one(-shift)),
    )
    return roots.chosen(plain, raised, lowered, width)


def _squares(leaves: Leaves, width: np.dtype[Any], exponent: int | None = None) -> jax.Array:
    """The sum of squares, of all numbers times ``2**exponent``."""
    each = (sums.squares(x, tuple(range(x.ndim)), width, exponent).reshape(()) for x in leaves)
    return functools.reduce(operator.add, each)


def keeps(dtype: np.dtype[Any]) -> bool:
    """Whether an array of this dtype can be scaled and keep it."""
    return _contract.rule(dtype).result == dtype
