"""Pure functions on JAX arrays: traceable, differentiable to any order, right at every magnitude.

A vector x has ``norm = sqrt(sum(|x|**2))`` and the unit vector ``u = x / max(norm, eps)``. For a
tangent dx, with ``<u, dx>`` the real part of the inner product,

    d norm = <u, dx>        d u = (dx - u <u, dx>) / norm,  or dx / eps where norm <= eps.

JAX's own derivatives of these formulas are NaN for the zero vector, where they are to be 0, and
overflow or lose digits where the results do not; so `_polar` and `_rows` have rules. That of
`_polar` is linear in the tangents and made of `_polar` itself, so second derivatives come out as
safe as first ones. (A rule must not call anything with a rule on the tangents: partial evaluation
inlines that, and the square root in it has no derivative at 0.)

A sum of squares has three values: of the vector as it is, times a large power of two, and over it.
Wherever one of them overflows or loses digits, another does neither, as with the three accumulators
of Blue, ACM Trans. Math. Softw. 4 (1978), doi:10.1145/355769.355771, but with no choice to make for
each element. So nothing must be known before the sums begin, and where a vector is spread over
devices, one all-reduce of three scalars serves. On platforms that have float64 the three values of
a float32 vector come from one sum in it, which also makes up for the order that XLA adds in.

This module knows no containers and no policy but zeros that become NaN; `roots` measures, `sums`
adds, `powers` makes powers of two, and `cpu_primitives` may run a Numba kernel for real vectors
along the last axes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi.backends.jax import cpu_primitives, sums
from l2multi.backends.jax.cpu_primitives import Axes, Call, Primitive, Target
from l2multi.backends.jax.powers import halves, lengths, rounded, split
from l2multi.backends.jax.roots import F64, over_devices, roots, width_for, width_of
from l2multi.backends.jax.sums import Parts


class Polar(NamedTuple):
    """Unit vectors, norms with their axes kept, and ``1 / norm`` as two factors, 0 for 0.

    The first factor is a power of two, the second in (0.5, 1] or close to it: a number times both
    leaves the range only where the quotient does.
    """

    unit: Parts
    norm: jax.Array
    power: jax.Array
    rest: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6, 7))
def normalize(
    x: jax.Array,
    axes: Axes,
    eps: float,
    zero_nan: bool,
    dtype: str,
    norm_dtype: str,
    mesh: tuple[str, ...] = (),
    kernels: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """The unit vectors of `dtype` and, where `norm_dtype` is given, the norms before `eps`.

    `kernels` is what `cpu_primitives.allowed` said.
    """
    call = Call(dtype, norm_dtype, eps, zero_nan, mesh, kernels)
    if not mesh and _own_width(x, norm_dtype) and cpu_primitives.serves(x, dtype):
        y, *norms = _rows(x, axes, call)
    else:
        y, *norms = _normalize(x, axes, call._replace(kernels=False))
    return y, norms[0].astype(norm_dtype).squeeze(axes) if norms else None


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def norm(
    x: jax.Array,
    axes: Axes,
    keepdims: bool,
    dtype: str,
    mesh: tuple[str, ...] = (),
    kernels: bool = False,
) -> jax.Array:
    """The norms of `dtype`."""
    call = Call(norm=dtype, mesh=mesh, kernels=kernels)
    if not mesh and _own_width(x, dtype) and cpu_primitives.serves(x):
        (norms,) = _rows(x, axes, call)
    else:
        norms = _norm(x, axes, call._replace(kernels=False))
    norms = rounded(norms, dtype)
    return norms if keepdims else norms.squeeze(axes)


@functools.partial(jax.jit, static_argnums=1)
def finite(x: jax.Array, axes: Axes) -> jax.Array:
    """Whether each vector is free of inf and NaN."""
    return jnp.isfinite(x).all(axes)


# Real vectors, by a kernel or by one formula for all that is asked.


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _rows(x: jax.Array, axes: Axes, call: Call) -> tuple[jax.Array, ...]:
    """The unit vectors, if wanted; then the norms, axes kept, if wanted."""
    results = _rows_primitive(x, axes=axes, call=call)
    return tuple(results[:-2] if call.norm else results)


@_rows.defjvp
def _rows_jvp(axes: Axes, call: Call, primals: Any, tangents: Any) -> Any:
    """The values are those of `_rows`, so that they do not depend on whether a derivative is taken;
    and where only derivatives are wanted, nobody has to write unit vectors."""
    (x,), (dx,) = primals, tangents

    def jvp(function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        found: jax.Array = jax.jvp(function, primals, tangents)[1]
        return found

    found = []
    if call.unit:
        unit = call._replace(norm="")
        # With `eps` and zero vectors that become NaN, the derivative at these is another.
        if x.dtype.name == call.unit != F64.name and not (call.eps and call.zero_nan):
            found.append(_jvp_primitive(x, dx, axes=axes, call=unit))
        else:
            found.append(jvp(lambda x: _normalize(x, axes, unit)[0]))
    if call.norm:
        own = Call(norm=width_for(x, call._replace(unit="")).name, kernels=call.kernels)
        found.append(jvp(lambda x: _norm(x, axes, own)))
    return _rows(x, axes, call), tuple(found)


def _rows_formula(target: Target, x: jax.Array, *, axes: Axes, call: Call) -> list[jax.Array]:
    """The unit vectors, if wanted; then, if wanted, the norms and their inverses as two factors
    (see `Polar`), with axes kept and of at least float32."""
    if target.wide and x.dtype != np.float64:
        return _wide_rows(target, x, axes, call)
    norms: Any = ()
    if call.norm:  # from sums no wider than its own
        norms = lengths(*roots(x, axes, call._replace(unit="")))
    if not call.unit:
        return [*norms]
    width = width_for(x, call)
    same = call.norm and norms[0].dtype == width
    wider = norms if same else lengths(*roots(x, axes, call._replace(norm="")))
    (y,) = _finish(sums.parts(x, width), _polar_of(x, width, wider), call)
    return [rounded(y, call.unit), *norms]


def _wide_rows(target: Target, x: jax.Array, axes: Axes, call: Call) -> list[jax.Array]:
    """One sum, a factor, a product: no square of a narrower number leaves the range of float64. And
    no choice between operands, which would keep XLA's GPU backend from making one kernel of it."""
    root = jnp.sqrt(sums.squares(x, axes, F64))
    norms = lengths(*split(root, call.narrow)) if call.norm else ()
    if not call.unit:
        return [*norms]
    # 0 stays 0 by a factor that is finite; inf becomes 0; NaN stays NaN.
    inverse = 1 / jnp.maximum(root, max(call.eps, 2.0**-500))
    if call.zero_nan:
        inverse = jnp.where(root == 0, jnp.nan, inverse)
    return [(x.astype(F64) * inverse).astype(call.unit), *norms]


def _jvp_formula(
    target: Target, x: jax.Array, dx: jax.Array, *, axes: Axes, call: Call
) -> jax.Array:
    """The tangents of unit vectors for tangents `dx`: linear in `dx`, and its own transpose. In
    float64, as the kernel computes it: no product of narrower numbers leaves its range."""
    if not target.wide:
        tangent: jax.Array = jax.jvp(lambda x: _normalize(x, axes, call)[0], (x,), (dx,))[1]
        return tangent

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return sums.as_dtype(a, F64) * sums.as_dtype(b, F64)

    root = jnp.sqrt(sums.squares(x, axes, F64))
    short = root <= call.eps  # of such the divisor is `eps`, or 0 stays 0
    factor = jnp.where(short, 1 / call.eps if call.eps else 0.0, 1 / root)
    along = sums.total(product, axes, x, dx, target=target)
    back = jnp.where(short, 0.0, along / (root * root) * -factor)
    wide = sums.as_dtype(x, F64) * back + sums.as_dtype(dx, F64) * factor
    return wide.astype(np.float32).astype(x.dtype)


def _jvp_jvp(arrays: Any, tangents: Any, *, axes: Axes, call: Call) -> jax.Array:
    (x, dx), (x_moves, dx_moves) = arrays, tangents
    second: jax.Array
    if x_moves is None:
        second = _jvp_primitive(x, dx_moves, axes=axes, call=call)
    else:
        dx_moves = jnp.zeros_like(dx) if dx_moves is None else dx_moves
        function = functools.partial(_jvp_formula, Target(), axes=axes, call=call)
        second = jax.jvp(function, (x, dx), (x_moves, dx_moves))[1]
    return second


def _jvp_transpose(cotangent: jax.Array, arrays: Any, **static: Any) -> tuple[jax.Array]:
    return (_jvp_primitive(arrays[0], cotangent, **static),)


def _rows_types(x: Any, *, axes: Axes, call: Call) -> list[Any]:
    types = [cpu_primitives.alike(x, x.shape, call.unit)] if call.unit else []
    each = cpu_primitives.few(x, axes, cpu_primitives.norm_of(x.dtype))
    return types + [each] * 3 if call.norm else types


_rows_primitive = Primitive(
    "l2multi_rows",
    _rows_types,
    _rows_formula,
    several=True,
    kernel=cpu_primitives.rows_kernel,
)
_jvp_primitive = Primitive(
    "l2multi_jvp",
    lambda x, dx, **_: cpu_primitives.alike(dx, dx.shape, dx.dtype),
    _jvp_formula,
    kernel=cpu_primitives.jvp_kernel,
    jvp=_jvp_jvp,
    transpose=_jvp_transpose,
)


# Vectors of any kind, by unit vectors and norms with their inverses.


def _normalize(x: jax.Array, axes: Axes, call: Call) -> tuple[jax.Array, ...]:
    """The unit vectors; then the norms, axes kept, if wanted."""
    width, alone = width_for(x, call), call._replace(unit="")
    polar = _polar(axes, call._replace(norm=""), x)
    unit = _finish(sums.parts(x, width), polar, call)
    y = rounded(unit[0] if len(unit) == 1 else lax.complex(*unit), call.unit)
    if not call.norm:
        return (y,)
    # The bits of `norm`: from sums no wider than its own.
    return y, polar.norm if width_for(x, alone) == width else _norm(x, axes, alone)


def _norm(x: jax.Array, axes: Axes, call: Call) -> jax.Array:
    """The norms, axes kept."""
    return rounded(_polar(axes, call, x).norm, call.norm)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _polar(axes: Axes, call: Call, x: jax.Array) -> Polar:
    """Directions and lengths; zero vectors as they are."""
    width = width_for(x, call)
    if _measured_by_rows(x, call):
        own = Call(norm=call.norm or width.name, kernels=call.kernels)
        norms = _rows_primitive(x, axes=axes, call=own)
    else:
        norms = lengths(*roots(x, axes, call))
    return _polar_of(x, width, tuple(norms), _may_be_tiny(x, axes, call))


@_polar.defjvp
def _polar_jvp(
    axes: Axes, call: Call, primals: tuple[jax.Array], tangents: tuple[Any]
) -> tuple[Polar, Polar]:
    (x,), (dx,) = primals, tangents
    polar, width = _polar(axes, call, x), width_for(x, call)
    if dx.dtype == jax.dtypes.float0:  # that of integers, which do not move
        dx = jnp.zeros(dx.shape, width)

    def dot(a: Parts, b: Parts, *factors: jax.Array) -> jax.Array:
        tiny = bool(factors) and _may_be_tiny(x, axes, call)
        found: jax.Array = over_devices(sums.inner(a, b, axes, *factors, tiny=tiny), call)
        return found

    # The unit vectors are not written where only the norm's derivative is wanted, nor is the
    # tangent in a wider dtype.
    norm = dot(polar.unit, sums.own_parts(dx), x, polar.power, polar.rest)
    times = functools.partial(sums.outer, axes=axes)
    return polar, tangents_of(polar, sums.parts(dx, width), norm, dot, times)


def tangents_of(
    polar: Polar, dx: Parts, norm: jax.Array, dot: Callable[..., jax.Array], times: Any
) -> Polar:
    """The tangents of `polar`, of which that of the norm is given: ``dot`` makes inner products of
    two arrays of vectors, and ``times`` multiplies vectors with a number for each."""
    u, _, power, rest = polar
    # Half of the power before the sums and half after, for what a sum is made of may be far below
    # the result and be flushed to zero: with all of it before, for norms of 1e37, with all of it
    # after, for those of 1e-18.
    first, second = halves(lax.stop_gradient(power))
    over = times(dx, first)
    along = dot(u, over)
    # So too the other way round: a transposed program meets `second` first.
    across = tuple(map(jnp.subtract, over, times(u, along)))
    unit = times(times(across, rest), second)
    lost = -rest * (along * rest * second)
    return Polar(unit, norm, jnp.zeros_like(power), lost)


def _polar_of(
    x: jax.Array, width: np.dtype[Any], norms: tuple[jax.Array, ...], tiny: bool = False
) -> Polar:
    norm, power, rest = norms
    times = sums.scaled if tiny else jnp.multiply
    return Polar(tuple(times(p, power) * rest for p in sums.parts(x, width)), norm, power, rest)


def _measured_by_rows(x: jax.Array, call: Call) -> bool:
    return not call.mesh and x.dtype == width_for(x, call) and cpu_primitives.serves(x)


def _may_be_tiny(x: jax.Array, axes: Axes, call: Call) -> bool:
    """Whether a kernel may have measured `x`, for which subnormal numbers are not 0."""
    kernel = call.kernels and cpu_primitives.trailing(axes, x.ndim)
    return kernel and _measured_by_rows(x, call)


def _finish(x: Parts, polar: Polar, call: Call) -> Parts:
    """The unit vectors, by what is wanted of short vectors and zero ones."""
    unit = at_least(call.eps, x, polar) if call.eps else polar.unit
    if call.zero_nan:
        unit = tuple(jnp.where(polar.norm == 0, jnp.nan, u) for u in unit)
    return unit


def at_least(eps: float, x: Parts, polar: Polar) -> Parts:
    """``x / max(norm, eps)``."""
    form = np.finfo(polar.norm.dtype)
    top = float(form.max)
    # The inverse of eps as two factors, as in `Polar`: the second at most 1, or a product with the
    # first could be subnormal where that with both is not. Where the second is beyond the range,
    # only zero vectors are shorter than eps.
    mantissa, exponent = math.frexp(eps) if eps < math.inf else (math.inf, 1)
    power = max(2 - form.maxexp, min(1 - exponent, form.maxexp - 2))
    rest = min(2.0 ** max(-1000, min(-exponent - power, 1000)) / mantissa, top)
    with np.errstate(all="ignore"):  # whatever the caller has set: 0 and inf are meant
        rest, floor, far = polar.norm.dtype.type([rest, eps, 2.0**64 / eps])
    if top < eps < math.inf:  # perhaps norm is too, but not 2**64 over either
        below = polar.power * 2.0**64 * polar.rest >= far
    else:
        below = polar.norm <= floor
    # XLA would make one constant of the two, which may be beyond the range. And what is not taken
    # has to be 0: the derivative would be 0 times that constant.
    first = sums.opaque(2.0**power, form.dtype)
    shorter = (jnp.where(below, p, 0) * first * rest for p in x)
    units = zip(shorter, polar.unit, strict=True)
    return tuple(jnp.where(below, short, unit) for short, unit in units)


def _own_width(x: jax.Array, norm_dtype: str) -> bool:
    """Whether norms of this dtype need no wider sums than those of `x` itself."""
    return not norm_dtype or width_of(x, norm_dtype) == width_of(x, x.dtype.name)
