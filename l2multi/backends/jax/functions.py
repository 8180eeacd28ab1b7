"""Pure functions on JAX arrays: traceable, differentiable to any order, right at every magnitude.

A sum of squares has three values: of the vector as it is, times a large power of two, and over it.
Wherever one of them overflows or loses digits, another does neither, as with the three accumulators
of Blue, ACM Trans. Math. Softw. 4 (1978), doi:10.1145/355769.355771, but with no choice to make for
each element. So nothing must be known before the sums begin, and where a vector is spread over
devices, one all-reduce of three scalars serves. On platforms that have float64 the three values of
a float32 vector come from one sum in it, which also makes up for the order that XLA adds in.

Powers of two are made from exponent bits: ``jnp.ldexp`` and ``exp2`` are not exact on XLA's CPU
backend. The bits are clipped so that neither a power nor its inverse is subnormal, which XLA's CPU
backend would flush to zero.

All derivatives follow from the rule of `_polar`, which is linear in the tangents and made of
`_polar` itself, so second derivatives come out as safe as first ones. (A rule must not call
anything with a rule on the tangents: partial evaluation inlines that, and the square root in it has
no derivative at 0.)
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract
from l2multi.backends.jax import native, sums
from l2multi.backends.jax.native import Axes
from l2multi.backends.jax.sums import Parts

F64 = np.dtype(np.float64)

# Elements from which sums that are seldom needed are worth a branch.
LARGE = 2**15
# Norms as ``root * 2**power``: one may be beyond the range of its dtype.
Norms = tuple[jax.Array, jax.Array]


class Along(NamedTuple):
    """What a vector extends over: axes of an array and, in `jax.shard_map`, axes of the mesh; and
    the real dtype to compute in."""

    axes: Axes
    dtype: np.dtype[Any]
    mesh: tuple[str, ...] = ()
    kernels: bool = False  # as `normalize` has it
    odd: bool = False  # as `native.Wanted` has it

    def tiny(self, x: jax.Array) -> bool:
        """Whether kernels may have measured `x`, for which subnormal numbers are not 0."""
        return bool(self.kernels) and self.serves(x) and native._trailing(self.axes, x.ndim)

    def serves(self, x: jax.Array) -> bool:
        """Whether `native.rows` can measure `x`."""
        return not self.mesh and x.dtype == self.dtype and native.serves(x)

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


# JAX compares static arguments by ``==``, one by one, and NumPy finds float64 equal to None. So
# dtypes among them go by their names, and none is the empty one.
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

    `kernels` is what `native.allowed` said.
    """
    results: tuple[jax.Array, jax.Array | None]
    if not mesh and _own_width(x, norm_dtype) and native.serves(x, dtype):
        wanted = native.Wanted(axes, eps, zero_nan, dtype, bool(norm_dtype))
        y, *norms = _rows(x, wanted, kernels)
        results = y, norms[0].astype(norm_dtype).squeeze(axes) if norms else None
    else:
        along = Along(axes, _width(x, dtype), mesh)
        results = _traced_normalize(x, along, eps, zero_nan, dtype, norm_dtype)
    return results


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
    norms: jax.Array
    odd = np.dtype(dtype).itemsize < 4
    if not mesh and _own_width(x, dtype) and native.serves(x):
        lengths, *_ = _rows(x, native.Wanted(axes, 0.0, False, "", True, odd), kernels)
        norms = _rounded(lengths, dtype)
    else:
        norms = _traced_norm(x, Along(axes, _width(x, dtype), mesh, odd=odd), dtype)
    return norms if keepdims else norms.squeeze(axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _rows(x: jax.Array, wanted: native.Wanted, kernels: bool) -> tuple[jax.Array, ...]:
    """The unit vectors, if wanted; then the norms, axes kept, if wanted."""
    results = native.rows(x, wanted, kernels, _formula)
    return results[:-2] if wanted.norm else results


@_rows.defjvp
def _rows_jvp(wanted: native.Wanted, kernels: bool, primals: Any, tangents: Any) -> Any:
    """The derivatives are those of the traced functions. The values are not: where only derivatives
    are wanted, nobody has to write unit vectors."""
    (x,), (dx,) = primals, tangents

    def derivative(function: Callable[..., jax.Array]) -> jax.Array:
        found: jax.Array = jax.jvp(lambda x: function(x, wanted, kernels), primals, tangents)[1]
        return found

    derivatives = []
    if native.turns(x, wanted):
        derivatives.append(native.turn(x, dx, wanted, kernels, _TURN))
    elif wanted.unit:
        derivatives.append(derivative(_traced_unit))
    if wanted.norm:
        derivatives.append(derivative(_traced_length))
    return _rows(x, wanted, kernels), tuple(derivatives)


def _traced_unit(x: jax.Array, wanted: native.Wanted, kernels: bool) -> jax.Array:
    along = Along(wanted.axes, _width(x, wanted.unit), kernels=kernels)
    return _traced_normalize(x, along, wanted.eps, wanted.zero_nan, wanted.unit, "")[0]


def _traced_length(x: jax.Array, wanted: native.Wanted, kernels: bool) -> jax.Array:
    width = _width(x, x.dtype.name)
    return _traced_norm(x, Along(wanted.axes, width, kernels=kernels), width.name)


def _traced_normalize(
    x: jax.Array, along: Along, eps: float, zero_nan: bool, dtype: str, norm_dtype: str
) -> tuple[jax.Array, jax.Array | None]:
    polar = _polar(along, x)
    unit = _finish(sums.parts(x, along.dtype), polar, eps, zero_nan)
    y = unit[0] if len(unit) == 1 else lax.complex(*unit)
    norms = None
    if norm_dtype:  # the bits of `norm`: from sums no wider than its own
        own = _width(x, norm_dtype)
        same = own == along.dtype
        length = polar.norm if same else _traced_norm(x, along._replace(dtype=own), norm_dtype)
        norms = length.astype(norm_dtype).squeeze(along.axes)
    return _rounded(y, dtype), norms


def _traced_norm(x: jax.Array, along: Along, dtype: str) -> jax.Array:
    """The norms, axes kept."""
    return _rounded(_polar(along, x).norm, dtype)


def _formula(x: jax.Array, wanted: native.Wanted, target: native.Target) -> tuple[jax.Array, ...]:
    """What `native.rows` does, for XLA to compile."""
    if target.wide and x.dtype != np.float64:
        return _wide_formula(x, wanted, target)
    own = Along(wanted.axes, _width(x, x.dtype.name))
    norms = _lengths(*_roots(own, x))
    if not wanted.unit:
        return norms
    along = own._replace(dtype=_width(x, wanted.unit))
    polar = _divided(along, x, *(norms if along == own else _lengths(*_roots(along, x))))
    (y,) = _finish(sums.parts(x, along.dtype), polar, wanted.eps, wanted.zero_nan)
    return _rounded(y, wanted.unit), *(norms if wanted.norm else ())


def _wide_formula(
    x: jax.Array, wanted: native.Wanted, target: native.Target
) -> tuple[jax.Array, ...]:
    """One sum, a factor, a product: no square of a narrower number leaves the range of float64. And
    no choice between operands, which would keep XLA's GPU backend from making one kernel of it."""
    with jax.enable_x64(True):
        root = jnp.sqrt(sums.squares(x, wanted.axes, F64))
        norms = _lengths(*_split(root, wanted.odd)) if wanted.norm else ()
        if not wanted.unit:
            return norms
        # 0 stays 0 by a factor that is finite; inf becomes 0; NaN stays NaN.
        inverse = 1 / jnp.maximum(root, max(wanted.eps, 2.0**-500))
        if wanted.zero_nan:
            inverse = jnp.where(root == 0, jnp.nan, inverse)
        return (x.astype(np.float64) * inverse).astype(wanted.unit), *norms


def _wide_turn(
    x: jax.Array, d: jax.Array, wanted: native.Wanted, target: native.Target
) -> jax.Array:
    """How unit vectors move as `x` moves by `d`, in float64, as the kernel computes it: no product
    of narrower numbers leaves its range."""
    with jax.enable_x64(True):

        def product(a: jax.Array, b: jax.Array) -> jax.Array:
            return sums.wide(a) * sums.wide(b)

        root = jnp.sqrt(sums.squares(x, wanted.axes, F64))
        short = root <= wanted.eps  # of such the divisor is `eps`, or 0 stays 0
        factor = jnp.where(short, 1 / wanted.eps if wanted.eps else 0.0, 1 / root)
        along = sums.total(product, wanted.axes, x, d, tree=target.tree)
        back = jnp.where(short, 0.0, along / (root * root) * -factor)
        moved = sums.wide(x) * back + sums.wide(d) * factor
        return moved.astype(np.float32).astype(x.dtype)


_TURN = native.Turn(_traced_unit, _wide_turn)


def _finish(x: Parts, polar: Polar, eps: float, zero_nan: bool) -> Parts:
    """The unit vectors, by what is wanted of short vectors and zero ones."""
    unit = _at_least(eps, x, polar) if eps else polar.unit
    if zero_nan:
        unit = tuple(jnp.where(polar.norm == 0, jnp.nan, u) for u in unit)
    return unit


@functools.partial(jax.jit, static_argnums=1)
def finite(x: jax.Array, axes: Axes) -> jax.Array:
    """Whether each vector is free of inf and NaN."""
    return jnp.isfinite(x).all(axes)


def canonical(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What JAX makes of a dtype: 64 bits become 32 without x64."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def _width(x: jax.Array, result: str) -> np.dtype[Any]:
    """The real dtype to compute in: as wide as `x` or the result, and at least float32."""
    own, wanted = (canonical(_contract.rule(d).norm) for d in (x.dtype, np.dtype(result)))
    return np.promote_types(own, wanted)


def _own_width(x: jax.Array, norm_dtype: str) -> bool:
    """Whether norms of this dtype need no wider sums than those of `x` itself."""
    return not norm_dtype or _width(x, norm_dtype) == _width(x, x.dtype.name)


def _rounded(x: jax.Array, dtype: str) -> jax.Array:
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
    # XLA would make one constant of the two, which may be beyond the range. And what is not taken
    # has to be 0: the derivative would be 0 times that constant.
    first = sums.opaque(2.0**power, form.dtype)
    shorter = (jnp.where(below, p, 0) * first * rest for p in x)
    units = zip(shorter, polar.unit, strict=True)
    return tuple(jnp.where(below, short, unit) for short, unit in units)


def _dot(along: Along, a: Parts, b: Parts, *made_of: jax.Array) -> jax.Array:
    """The inner products, axes kept."""
    tiny = bool(made_of) and along.tiny(made_of[0])
    total: jax.Array = along.total(sums.inner(a, b, along.axes, *made_of, tiny=tiny))
    return total


def _power(field: Any, dtype: np.dtype[Any]) -> jax.Array:
    """The power of two with this exponent field: 0 below the smallest, inf above the largest."""
    form = np.finfo(dtype)
    bits = jnp.clip(field, 0, 2 * form.maxexp - 1) << form.nmant
    return lax.bitcast_convert_type(bits, dtype)


def _roots(along: Along, x: jax.Array) -> Norms:
    """The norms."""
    if along.dtype == np.float64 or along.mesh:
        return _three_roots(along, x)
    three, wide = (functools.partial(f, along) for f in (_three_roots, _wide_roots))
    roots: Norms = lax.platform_dependent(x, default=three, **dict.fromkeys(native.WIDE, wide))
    return roots


def _wide_roots(along: Along, x: jax.Array) -> Norms:
    """Of float32, from one sum in float64."""
    with jax.enable_x64(True):
        return _split(jnp.sqrt(sums.squares(x, along.axes, F64)), along.odd)


def _three_roots(along: Along, x: jax.Array) -> Norms:
    """From the sums of squares of `x`, and of `x` times ``2**shift`` and ``2**-shift``."""
    form = np.finfo(along.dtype)
    shift = 3 * form.maxexp // 4
    least = 2.0 ** (form.maxexp // 2 - 1 - shift)  # below this, the sum of `up` cannot overflow
    if not along.mesh:
        plain, up, down = _apart(along, shift, least, jnp.sqrt, x)
    else:
        three = functools.partial(_apart, along, shift, least, jnp.asarray)
        if along.dtype == np.float32:
            wide = dict.fromkeys(native.WIDE, functools.partial(_wide_sums, along, shift))
            found = lax.platform_dependent(x, default=three, **wide)
        else:
            found = three(x)
        plain, up, down = map(jnp.sqrt, along.total(found))
    small, fits = plain < least, plain < jnp.inf
    exponent = jnp.where(small, -shift, jnp.where(fits, 0, shift))
    return jnp.where(small, up, jnp.where(fits, plain, down)), exponent.astype(np.int32)


def _apart(
    along: Along, shift: int, least: float, of: Callable[..., jax.Array], x: jax.Array
) -> tuple[jax.Array, ...]:
    """The three sums, or roots, one by one; the latter two where a root is out of bounds."""

    def scaled(exponent: int) -> jax.Array:
        # 1 too: the caller's last operation may have been a product with a constant.
        return of(sums.squares(x, along.axes, along.dtype, exponent))

    plain = scaled(0)
    if along.mesh or not _large(x.shape) or jax.device_count() > 1:
        return plain, scaled(shift), scaled(-shift)
    # Two further sums of 10000x768 float32 on two CPUs take 1 ms beside 3.5 ms for all else, and
    # the branch 30 us. (Under vmap, which would compute both sides of the branch, the size is that
    # of one example.) With several devices, the question costs an all-reduce.
    safe = (plain >= least) & (plain < jnp.inf)
    return plain, *lax.cond(
        safe.all(),
        lambda: (jnp.zeros_like(plain), jnp.zeros_like(plain)),
        lambda: (scaled(shift), scaled(-shift)),
    )


def _wide_sums(along: Along, shift: int, x: jax.Array) -> tuple[jax.Array, ...]:
    """The three sums in float32, from one in float64."""
    with jax.enable_x64(True):
        total = sums.squares(x, along.axes, F64)
        scales = (np.float64(2.0**s) for s in (0, 2 * shift, -2 * shift))
        return tuple((total * scale).astype(np.float32) for scale in scales)


def _large(shape: tuple[Any, ...]) -> bool:
    return all(isinstance(d, int) for d in shape) and math.prod(shape) >= LARGE


def _lengths(root: jax.Array, exponent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The norms, and their inverses as two factors: see `Polar`."""
    form = np.finfo(root.dtype)
    bias = form.maxexp - 1
    bits = lax.bitcast_convert_type(root, np.dtype(f"i{root.dtype.itemsize}"))
    field = jnp.clip((bits >> form.nmant) + exponent, 1, 2 * bias - 1)
    root = root * _power(bias + exponent + bias - field, root.dtype)
    # Of a zero vector 1, by which nothing leaves the range, and 0.
    power = _power(jnp.where(root == 0, bias, 2 * bias - field), root.dtype)
    rest = 1 / jnp.where(root == 0, jnp.inf, root)
    return root * _power(field, root.dtype), power, rest


def _split(root: jax.Array, odd: bool) -> Norms:
    """float64 roots as roots in the range of float32, as norms may not be, and powers of two. What
    is `odd` is rounded once by the rounding from float32 to a narrower dtype."""
    bits = lax.bitcast_convert_type(root, np.int64)
    field = bits >> np.int64(52)
    ordinary = (field > 0) & (field < 2047)
    fraction = (bits & np.int64((1 << 52) - 1)) | np.int64(1023 << 52)
    one = jnp.where(ordinary, lax.bitcast_convert_type(fraction, np.float64), root)
    power = jnp.where(ordinary, field - np.int64(1023), np.int64(0))
    return (_odd(one) if odd else one).astype(np.float32), power.astype(np.int32)


def _divided(
    along: Along, x: jax.Array, length: jax.Array, power: jax.Array, rest: jax.Array
) -> Polar:
    by = sums.scaled if along.tiny(x) else jnp.multiply
    unit = tuple(by(p, power) * rest for p in sums.parts(x, along.dtype))
    return Polar(unit, length, power, rest)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polar(along: Along, x: jax.Array) -> Polar:
    """Directions and lengths; zero vectors as they are."""
    if along.serves(x):
        wanted = native.Wanted(along.axes, 0.0, False, "", True, along.odd)
        return _divided(along, x, *native.rows(x, wanted, along.kernels, _formula))
    return _divided(along, x, *_lengths(*_roots(along, x)))


@_polar.defjvp
def _polar_jvp(
    along: Along, primals: tuple[jax.Array], tangents: tuple[Any]
) -> tuple[Polar, Polar]:
    polar = _polar(along, *primals)
    (dx,) = tangents
    if dx.dtype == jax.dtypes.float0:  # that of integers, which do not move
        dx = jnp.zeros(dx.shape, along.dtype)
    dx = sums.parts(dx, along.dtype)
    u, _, power, rest = polar
    # Half of the power before the sums and half after, for what a sum is made of may be far below
    # the result and be flushed to zero: with all of it before, for norms of 1e37, with all of it
    # after, for those of 1e-18.
    first, second = _halves(lax.stop_gradient(power))
    over = tuple(d * first for d in dx)
    growth = _dot(along, u, over)
    # So too the other way round: a transposed program meets `second` first.
    back = sums.outer(u, growth, along.axes)
    across = tuple(map(jnp.subtract, over, back))
    turn = tuple(t * second for t in sums.outer(across, rest, along.axes))
    lost = -rest * (growth * rest * second)
    growing = _dot(along, u, dx, *primals, power, rest)
    return polar, Polar(turn, growing, jnp.zeros_like(power), lost)


def _halves(power: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two powers of two with this product, about alike."""
    form = np.finfo(power.dtype)
    bits = lax.bitcast_convert_type(power, np.dtype(f"i{power.dtype.itemsize}"))
    half = _power(((bits >> form.nmant) + form.maxexp - 1) >> 1, power.dtype)
    return half, power / half
