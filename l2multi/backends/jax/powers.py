"""Numbers as ``root * 2**exponent``, powers of two, and roundings that happen once.

Powers of two are made from exponent bits: ``jnp.ldexp`` and ``exp2`` are not exact on XLA's CPU
backend. The bits are clipped so that neither a power nor its inverse is subnormal, which XLA's CPU
backend would flush to zero. Everything here works element by element and may be traced anywhere.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Norms as ``root * 2**exponent``: one may be beyond the range of its dtype.
Norms = tuple[jax.Array, jax.Array]


def lengths(root: jax.Array, exponent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The norms, and their inverses as two factors: see `functions.Polar`."""
    form = np.finfo(root.dtype)
    bias = form.maxexp - 1
    bits = lax.bitcast_convert_type(root, np.dtype(f"i{root.dtype.itemsize}"))
    field = jnp.clip((bits >> form.nmant) + exponent, 1, 2 * bias - 1)
    root = root * power_of_two(bias + exponent + bias - field, root.dtype)
    # Of a zero vector 1, by which nothing leaves the range, and 0.
    power = power_of_two(jnp.where(root == 0, bias, 2 * bias - field), root.dtype)
    rest = 1 / jnp.where(root == 0, jnp.inf, root)
    return root * power_of_two(field, root.dtype), power, rest


def split(root: jax.Array, narrow: bool) -> Norms:
    """float64 roots as roots in the range of float32, as norms may not be, and powers of two. Those
    for a `narrow` dtype are rounded to odd, so that the rounding from float32 is the only one."""
    bits = lax.bitcast_convert_type(root, np.int64)
    field = bits >> np.int64(52)
    ordinary = (field > 0) & (field < 2047)
    fraction = (bits & np.int64((1 << 52) - 1)) | np.int64(1023 << 52)
    one = jnp.where(ordinary, lax.bitcast_convert_type(fraction, np.float64), root)
    power = jnp.where(ordinary, field - np.int64(1023), np.int64(0))
    return (_odd(one) if narrow else one).astype(np.float32), power.astype(np.int32)


def rounded(x: jax.Array, dtype: str) -> jax.Array:
    """`x` as `dtype`, rounded once: XLA takes float64 to float16 and bfloat16 by way of float32."""
    return (_odd(x) if x.dtype == np.float64 and np.dtype(dtype).itemsize < 4 else x).astype(dtype)


@jax.custom_jvp
def _odd(x: jax.Array) -> jax.Array:
    """float64 rounded to odd at twelve bits below the leading one, which are two more than any of
    the narrow dtypes has, and which float32 holds; see `l2multi._summation`, Rounding."""
    bits = lax.bitcast_convert_type(x, np.int64)
    rest = bits & np.int64((1 << 40) - 1)
    odd = (bits - rest) | (rest != 0).astype(np.int64) << np.int64(40)
    return lax.bitcast_convert_type(odd, np.float64)


@_odd.defjvp
def _odd_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _odd(*primals), tangents[0]


def power_of_two(field: Any, dtype: np.dtype[Any]) -> jax.Array:
    """The power of two with this exponent field: 0 below the smallest, inf above the largest."""
    form = np.finfo(dtype)
    bits = jnp.clip(field, 0, 2 * form.maxexp - 1) << form.nmant
    return lax.bitcast_convert_type(bits, dtype)


def halves(power: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two powers of two with this product, about alike."""
    form = np.finfo(power.dtype)
    bits = lax.bitcast_convert_type(power, np.dtype(f"i{power.dtype.itemsize}"))
    half = power_of_two(((bits >> form.nmant) + form.maxexp - 1) >> 1, power.dtype)
    return half, power / half
