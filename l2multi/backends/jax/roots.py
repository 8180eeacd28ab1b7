"""The norms of vectors, by XLA: roots of sums of squares that neither overflow nor lose digits.

Each is a root and the exponent of a power of two that it is to be multiplied by, as `powers` has
them. Knows no unit vectors and no derivatives; `sums` adds.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract
from l2multi.backends.jax import sums
from l2multi.backends.jax.cpu_primitives import WIDE, Axes, Call
from l2multi.backends.jax.powers import Norms, split

F64 = np.dtype(np.float64)

# Elements from which sums that are seldom needed are worth a branch.
LARGE = 2**15


def roots(x: jax.Array, axes: Axes, call: Call) -> Norms:
    """The norms."""
    three = functools.partial(_three_roots, axes=axes, call=call)
    if width_for(x, call) == np.float64 or call.mesh:
        return three(x)
    wide = functools.partial(_wide_roots, axes=axes, call=call)
    roots: Norms = lax.platform_dependent(x, default=three, **dict.fromkeys(WIDE, wide))
    return roots


def _wide_roots(x: jax.Array, axes: Axes, call: Call) -> Norms:
    """Of float32, from one sum in float64."""
    with jax.enable_x64(True):
        return split(jnp.sqrt(sums.squares(x, axes, F64)), call.narrow)


def _three_roots(x: jax.Array, axes: Axes, call: Call) -> Norms:
    """From the sums of squares of `x`, and of `x` times ``2**shift`` and ``2**-shift``."""
    width = width_for(x, call)
    shift, least = scales(width)

    def one(exponent: int, x: jax.Array) -> jax.Array:
        # 2**0 too: the caller's last operation may have been a product with a constant.
        return sums.squares(x, axes, width, exponent)

    def each(x: jax.Array) -> tuple[jax.Array, ...]:
        return one(0, x), one(shift, x), one(-shift, x)

    if call.mesh:
        wide = functools.partial(_wide_sums, axes, shift) if width == np.float32 else each
        found = lax.platform_dependent(x, default=each, **dict.fromkeys(WIDE, wide))
        plain, raised, lowered = map(jnp.sqrt, over_devices(found, call))
    elif not _large(x.shape) or jax.device_count() > 1:
        plain, raised, lowered = map(jnp.sqrt, each(x))
    else:
        # Two further sums of 10000x768 float32 on two CPUs take 1 ms beside 3.5 ms for all else,
        # and the branch 30 us. (Under vmap, which would compute both sides of the branch, the size
        # is that of one example.) With several devices, the question costs an all-reduce.
        plain = jnp.sqrt(one(0, x))
        safe = (plain >= least) & (plain < jnp.inf)
        raised, lowered = lax.cond(
            safe.all(),
            lambda: (jnp.zeros_like(plain), jnp.zeros_like(plain)),
            lambda: (jnp.sqrt(one(shift, x)), jnp.sqrt(one(-shift, x))),
        )
    return chosen(plain, raised, lowered, width)


def scales(width: np.dtype[Any]) -> tuple[int, float]:
    """The exponent of the power of two by which vectors are multiplied and divided, and the root
    below which the sum of multiplied ones cannot overflow."""
    form = np.finfo(width)
    shift = 3 * form.maxexp // 4
    return shift, 2.0 ** (form.maxexp // 2 - 1 - shift)


def chosen(plain: jax.Array, raised: jax.Array, lowered: jax.Array, width: np.dtype[Any]) -> Norms:
    """Of the roots of three sums, the one that has neither overflowed nor lost digits."""
    shift, least = scales(width)
    small, fits = plain < least, plain < jnp.inf
    exponent = jnp.where(small, -shift, jnp.where(fits, 0, shift))
    return jnp.where(small, raised, jnp.where(fits, plain, lowered)), exponent.astype(np.int32)


def _wide_sums(axes: Axes, shift: int, x: jax.Array) -> tuple[jax.Array, ...]:
    """The three sums in float32, from one in float64."""
    with jax.enable_x64(True):
        total = sums.squares(x, axes, F64)
        scales = (np.float64(2.0**s) for s in (0, 2 * shift, -2 * shift))
        return tuple((total * scale).astype(np.float32) for scale in scales)


def _large(shape: tuple[Any, ...]) -> bool:
    return all(isinstance(d, int) for d in shape) and math.prod(shape) >= LARGE


def over_devices(found: Any, call: Call) -> Any:
    """Sums over devices of sums over axes."""
    return lax.psum(found, call.mesh) if call.mesh else found  # type: ignore[no-untyped-call]


def canonical(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What JAX makes of a dtype: 64 bits become 32 without x64."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def width_of(x: jax.Array, result: str) -> np.dtype[Any]:
    """The real dtype to compute in: as wide as `x` or the result, and at least float32."""
    own, wanted = (canonical(_contract.rule(d).norm) for d in (x.dtype, np.dtype(result)))
    return np.promote_types(own, wanted)


def width_for(x: jax.Array, call: Call) -> np.dtype[Any]:
    """The same for a call."""
    return width_of(x, call.unit or call.norm)
