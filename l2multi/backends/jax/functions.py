"""Pure functions on JAX arrays: traceable, differentiable to any order, right at every magnitude.

A vector whose sum of squares may have left the safe range is multiplied by the power of two that
takes its largest element into [1, 2). Powers are made from exponent bits: ``jnp.ldexp`` and
``exp2`` are not exact on XLA's CPU backend. The bits are clipped so that neither a power nor its
inverse is subnormal, which XLA's CPU backend would flush to zero.

The sum itself is left to XLA, which does not add in order (its CPU backend sums in windows or
vectors, its GPU backend in a tree): at most 2.1 ulp of a float32 norm over random, sorted and equal
values, at any length up to 10**6, where four are promised.

The derivatives are made of `_norm`, `_unit` and `_inverse` alone and are linear in the tangents, so
second derivatives come out as safe as first ones. (A rule must not call anything with a rule on
the tangents: partial evaluation inlines that, and the square root in it has no derivative at 0.)
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract

Axes = tuple[int, ...]
# Elements from which a sum that is seldom repeated beats one that is always scaled.
LARGE = 2**15
# A real array, or the real and the imaginary part of a complex one: the core is real, so that
# complex derivatives are JAX's own.
Parts = tuple[jax.Array, ...]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def normalize(
    x: jax.Array,
    axes: Axes,
    eps: float,
    zero_nan: bool,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[jax.Array, jax.Array | None]:
    """The unit vectors of `dtype` and, where `norm_dtype` is given, the norms before `eps`."""
    parts = _parts(x, dtype)
    unit = _unit(axes, eps, parts)
    if zero_nan:
        zero = _norm(axes, parts) == 0
        unit = tuple(jnp.where(zero, jnp.nan, u) for u in unit)
    y = unit[0] if len(unit) == 1 else lax.complex(*unit)
    norms = None if norm_dtype is None else norm(x, axes, False, norm_dtype)
    return y.astype(dtype), norms


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def norm(x: jax.Array, axes: Axes, keepdims: bool, dtype: np.dtype[Any]) -> jax.Array:
    """The norms of `dtype`."""
    n = _norm(axes, _parts(x, dtype)).astype(dtype)
    return n if keepdims else n.squeeze(axes)


@functools.partial(jax.jit, static_argnums=1)
def finite(x: jax.Array, axes: Axes) -> jax.Array:
    """Whether each vector is free of inf and NaN."""
    return jnp.isfinite(x).all(axes)


def canonical(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What JAX makes of a dtype: 64 bits become 32 without x64."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def _parts(x: jax.Array, result: np.dtype[Any]) -> Parts:
    """The parts of `x`, as wide as it or the result, whichever is wider, and at least float32."""
    own, wanted = (canonical(_contract.rule(d).norm) for d in (x.dtype, result))
    parts = (x.real, x.imag) if _contract.is_complex(x.dtype) else (x,)
    return tuple(p.astype(np.promote_types(own, wanted)) for p in parts)


def _dot(axes: Axes, a: Parts, b: Parts) -> jax.Array:
    """The inner products, axes kept."""
    products = map(jnp.multiply, a, b)
    return functools.reduce(jnp.add, products).sum(axes, keepdims=True)


def _power(field: Any, dtype: np.dtype[Any]) -> jax.Array:
    """The power of two with this exponent field: 0 below the smallest, inf above the largest."""
    form = np.finfo(dtype)
    bits = jnp.clip(field, 0, 2 * form.maxexp - 1) << form.nmant
    return lax.bitcast_convert_type(bits, dtype)


def _measure(axes: Axes, x: Parts) -> tuple[jax.Array, jax.Array]:
    """Norms as ``(root, field)``: root times the power of two with this exponent field.

    Scaling every vector reads the input twice more: for 10000x768 float32 on two CPUs, 17 ms
    against 4 ms. The branch costs 30 us, so a small input is scaled without asking. Under vmap
    that is the size of one example, so there the branch (which would become two) is rare.
    """
    if not _large(x[0].shape):
        return _scaled(axes, x)
    squares = _dot(axes, x, x)
    form = np.finfo(squares.dtype)
    safe = (squares >= 2.0 ** (form.minexp // 2)) & (squares < jnp.inf)
    # Not `full`: under shard_map the branches must vary over the same axes.
    one = jnp.where(safe, form.maxexp - 1, 0).astype(_integer(squares.dtype))
    measured: tuple[jax.Array, jax.Array] = lax.cond(
        safe.all(), lambda: (jnp.sqrt(squares), one), lambda: _scaled(axes, x)
    )
    return measured


def _scaled(axes: Axes, x: Parts) -> tuple[jax.Array, jax.Array]:
    """`_measure` at any magnitude. The root of a nonzero vector is at least 2**-23 (float32)."""
    dtype = x[0].dtype
    form = np.finfo(dtype)
    largest = functools.reduce(jnp.maximum, (abs(p).max(axes, keepdims=True, initial=0) for p in x))
    bits = lax.bitcast_convert_type(largest, _integer(dtype))
    field = jnp.clip((bits >> form.nmant) & (2 * form.maxexp - 1), 1, 2 * form.maxexp - 3)
    scale = _power(2 * form.maxexp - 2 - field, dtype)
    scaled = tuple(p * scale for p in x)
    return jnp.sqrt(_dot(axes, scaled, scaled)), field


def _large(shape: tuple[Any, ...]) -> bool:
    return all(isinstance(d, int) for d in shape) and math.prod(shape) >= LARGE


def _integer(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"i{dtype.itemsize}")


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm(axes: Axes, x: Parts) -> jax.Array:
    """The norms, axes kept."""
    root, field = _measure(axes, x)
    return root * _power(field, root.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _inverse(axes: Axes, eps: float, x: Parts) -> tuple[jax.Array, jax.Array]:
    """``1 / max(norm(x), eps)`` as two factors, 0 where the divisor is 0.

    The first is a power of two, that of the larger of norm and eps: a number times both leaves
    the range only where the quotient does.
    """
    root, field = _measure(axes, x)
    form = np.finfo(root.dtype)
    bias = form.maxexp - 1
    if eps:
        mantissa, exponent = math.frexp(eps)
        own = exponent + bias
        top = jnp.maximum(field, min(max(own, 1), 2 * bias - 1))
        floor = mantissa * _power(bias + own - top, root.dtype)
        root = jnp.maximum(root * _power(bias + field - top, root.dtype), floor)
        field = top
    return _power(2 * bias - field, root.dtype), 1 / jnp.where(root == 0, jnp.inf, root)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _unit(axes: Axes, eps: float, x: Parts) -> Parts:
    """``x / max(norm(x), eps)``, and zero vectors as they are."""
    power, rest = _inverse(axes, eps, x)
    return tuple(p * power * rest for p in x)


def _growth(axes: Axes, eps: float, x: Parts, dx: Parts) -> jax.Array:
    """The derivative of ``max(norm(x), eps)`` along `dx`."""
    growth = _dot(axes, _unit(axes, eps, x), dx)
    if eps:
        # A finite eps beyond the dtype would be cast to inf with a warning.
        floor = eps if eps <= float(np.finfo(growth.dtype).max) else jnp.inf
        growth = jnp.where(_norm(axes, x) > floor, growth, 0)
    return growth


@_norm.defjvp
def _norm_jvp(axes: Axes, primals: tuple[Parts], tangents: tuple[Parts]) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    return _norm(axes, x), _growth(axes, 0.0, x, dx)


@_inverse.defjvp
def _inverse_jvp(
    axes: Axes, eps: float, primals: tuple[Parts], tangents: tuple[Parts]
) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    power, rest = _inverse(axes, eps, x)
    relative = _growth(axes, eps, x, dx) * power * rest
    return (power, rest), (jnp.zeros_like(power), -rest * relative)


@_unit.defjvp
def _unit_jvp(
    axes: Axes, eps: float, primals: tuple[Parts], tangents: tuple[Parts]
) -> tuple[Any, Any]:
    (x,), (dx,) = primals, tangents
    u, (power, rest) = _unit(axes, eps, x), _inverse(axes, eps, x)
    growth = _growth(axes, eps, x, dx)
    return u, tuple((d - p * growth) * power * rest for d, p in zip(dx, u, strict=True))
