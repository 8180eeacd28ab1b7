"""Pure functions on JAX arrays: traceable, differentiable to any order, right at every magnitude.

A sum of squares is taken three times: of the vector as it is, times a large power of two, and over
it. Wherever one of the sums overflows or loses digits, another does neither, as with the three
accumulators of Blue, ACM Trans. Math. Softw. 4 (1978), doi:10.1145/355769.355771, but with no
choice to make for each element. So nothing must be known before the sums begin, and where a vector
is spread over devices, one all-reduce of three scalars serves.

Powers of two are made from exponent bits: ``jnp.ldexp`` and ``exp2`` are not exact on XLA's CPU
backend. The bits are clipped so that neither a power nor its inverse is subnormal, which XLA's CPU
backend would flush to zero.

The sum itself is left to XLA, which does not add in order (its CPU backend sums in windows or
vectors, its GPU backend in a tree): at most 1.7 ulp of a float32 norm over random and sorted values
at any length up to 10**6. Equal values round alike at each addition: there 3.5 to 4 ulp are common
at lengths of 500 to 2000, and 5.5 was met at 777, where four are promised.

All derivatives follow from the rule of `_polar`, which is linear in the tangents and made of
`_polar` itself, so second derivatives come out as safe as first ones. (A rule must not call
anything with a rule on the tangents: partial evaluation inlines that, and the square root in it has
no derivative at 0.)
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract

Axes = tuple[int, ...]
# Elements from which sums that are seldom needed are worth a branch.
LARGE = 2**15
# A real array, or the real and the imaginary part of a complex one: the core is real, so that
# complex derivatives are JAX's own.
Parts = tuple[jax.Array, ...]


class Along(NamedTuple):
    """What a vector extends over: axes of an array and, in `jax.shard_map`, axes of the mesh."""

    axes: Axes
    mesh: tuple[str, ...] = ()

    def total(self, sums: Any) -> Any:
        """Sums over devices of sums over `axes`."""
        return lax.psum(sums, self.mesh) if self.mesh else sums  # type: ignore[no-untyped-call]


class Polar(NamedTuple):
    """Unit vectors, norms with their axes kept, and ``1 / norm`` as two factors, 0 for 0.

    The first factor is a power of two, the second in (0.5, 1] or close to it: a number times both
    leaves the range only where the quotient does.
    """

    unit: Parts
    norm: jax.Array
    power: jax.Array
    rest: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6))
def normalize(
    x: jax.Array,
    axes: Axes,
    eps: float,
    zero_nan: bool,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
    mesh: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array | None]:
    """The unit vectors of `dtype` and, where `norm_dtype` is given, the norms before `eps`."""
    parts = _parts(x, _width(x, dtype))
    polar = _polar(Along(axes, mesh), parts)
    unit = _at_least(eps, parts, polar) if eps else polar.unit
    if zero_nan:
        unit = tuple(jnp.where(polar.norm == 0, jnp.nan, u) for u in unit)
    y = unit[0] if len(unit) == 1 else lax.complex(*unit)
    norms = None
    if norm_dtype is not None:  # the bits of `norm`: from sums no wider than its own
        same = _width(x, norm_dtype) == polar.norm.dtype
        norms = (
            polar.norm.astype(norm_dtype).squeeze(axes)
            if same
            else norm(x, axes, False, norm_dtype, mesh)
        )
    return y.astype(dtype), norms


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def norm(
    x: jax.Array, axes: Axes, keepdims: bool, dtype: np.dtype[Any], mesh: tuple[str, ...] = ()
) -> jax.Array:
    """The norms of `dtype`."""
    n = _polar(Along(axes, mesh), _parts(x, _width(x, dtype))).norm.astype(dtype)
    return n if keepdims else n.squeeze(axes)


@functools.partial(jax.jit, static_argnums=1)
def finite(x: jax.Array, axes: Axes) -> jax.Array:
    """Whether each vector is free of inf and NaN."""
    return jnp.isfinite(x).all(axes)


def canonical(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What JAX makes of a dtype: 64 bits become 32 without x64."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def _width(x: jax.Array, result: np.dtype[Any]) -> np.dtype[Any]:
    """The real dtype to compute in: as wide as `x` or the result, and at least float32."""
    own, wanted = (canonical(_contract.rule(d).norm) for d in (x.dtype, result))
    return np.promote_types(own, wanted)


def _parts(x: jax.Array, dtype: np.dtype[Any]) -> Parts:
    """The parts of `x` in this dtype."""
    parts = (x.real, x.imag) if _contract.is_complex(x.dtype) else (x,)
    return tuple(p.astype(dtype) for p in parts)


def _at_least(eps: float, x: Parts, polar: Polar) -> Parts:
    """``x / max(norm, eps)``."""
    form = np.finfo(polar.norm.dtype)
    top = float(form.max)
    # The inverse of eps as two factors, as in `Polar`. Where the second is beyond the range, only
    # zero vectors are shorter than eps.
    mantissa, exponent = math.frexp(eps)
    power = max(2 - form.maxexp, min(-exponent, form.maxexp - 2))
    rest = min(2.0 ** max(-1000, min(-exponent - power, 1000)) / mantissa, top)
    with np.errstate(all="ignore"):  # whatever the caller has set: 0 and inf are meant
        rest, floor, far = polar.norm.dtype.type([rest, eps, 2.0**64 / eps])
    if top < eps < math.inf:  # perhaps norm is too, but not 2**64 over either
        below = polar.power * 2.0**64 * polar.rest >= far
    else:
        below = polar.norm <= floor
    # The barrier: XLA would make one constant of the two, which may be beyond the range.
    barrier: Any = lax.optimization_barrier
    shorter = (barrier(p * 2.0**power) * rest for p in x)
    units = zip(shorter, polar.unit, strict=True)
    return tuple(jnp.where(below, short, unit) for short, unit in units)


def _dot(along: Along, a: Parts, b: Parts) -> jax.Array:
    """The inner products, axes kept."""
    products = map(jnp.multiply, a, b)
    total: jax.Array = along.total(
        functools.reduce(jnp.add, products).sum(along.axes, keepdims=True)
    )
    return total


def _power(field: Any, dtype: np.dtype[Any]) -> jax.Array:
    """The power of two with this exponent field: 0 below the smallest, inf above the largest."""
    form = np.finfo(dtype)
    bits = jnp.clip(field, 0, 2 * form.maxexp - 1) << form.nmant
    return lax.bitcast_convert_type(bits, dtype)


def _squares(along: Along, x: Parts) -> tuple[jax.Array, jax.Array]:
    """Sums of squares as ``(sum, exponent)``: sum times the power of four with this exponent."""
    form = np.finfo(x[0].dtype)
    shift = 3 * form.maxexp // 4
    least = 2.0 ** (form.maxexp - 2 - 2 * shift)  # below this, the sum of `up` cannot overflow
    local = Along(along.axes)

    def scaled(exponent: int) -> jax.Array:
        up = tuple(p * 2.0**exponent for p in x)
        return _dot(local, up, up)

    plain = _dot(local, x, x)
    if _large(x[0].shape) and jax.device_count() == 1:
        # Two further sums of 10000x768 float32 on two CPUs take 1 ms beside 3.5 ms for all else,
        # and the branch 30 us. (Under vmap, which would compute both sides of the branch, the
        # size is that of one example.) With several devices, the question costs an all-reduce.
        safe = (plain >= least) & (plain < jnp.inf)
        up, down = lax.cond(
            safe.all(),
            lambda: (jnp.zeros_like(plain), jnp.zeros_like(plain)),
            lambda: (scaled(shift), scaled(-shift)),
        )
    else:
        up, down = scaled(shift), scaled(-shift)
    plain, up, down = along.total((plain, up, down))
    small, fits = plain < least, plain < jnp.inf
    total = jnp.where(small, up, jnp.where(fits, plain, down))
    return total, jnp.where(small, -shift, jnp.where(fits, 0, shift))


def _large(shape: tuple[Any, ...]) -> bool:
    return all(isinstance(d, int) for d in shape) and math.prod(shape) >= LARGE


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polar(along: Along, x: Parts) -> Polar:
    """Directions and lengths; zero vectors as they are."""
    total, exponent = _squares(along, x)
    root = jnp.sqrt(total)
    form = np.finfo(root.dtype)
    bias = form.maxexp - 1
    bits = lax.bitcast_convert_type(root, np.dtype(f"i{root.dtype.itemsize}"))
    field = jnp.clip((bits >> form.nmant) + exponent, 1, 2 * bias - 1)
    root = root * _power(bias + exponent + bias - field, root.dtype)
    power, rest = _power(2 * bias - field, root.dtype), 1 / jnp.where(root == 0, jnp.inf, root)
    unit = tuple(p * power * rest for p in x)
    return Polar(unit, root * _power(field, root.dtype), power, rest)


@_polar.defjvp
def _polar_jvp(along: Along, primals: tuple[Parts], tangents: tuple[Parts]) -> tuple[Polar, Polar]:
    (x,), (dx,) = primals, tangents
    polar = _polar(along, x)
    u, _, power, rest = polar
    power = lax.stop_gradient(power)
    growth = _dot(along, u, dx)
    turn = tuple((d - p * growth) * power * rest for d, p in zip(dx, u, strict=True))
    return polar, Polar(turn, growth, jnp.zeros_like(power), -rest * (growth * power * rest))
