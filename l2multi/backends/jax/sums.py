"""Sums of squares and of products, as accurate as those of a tree.

XLA's GPU backend sums in a tree. Its CPU backend adds one by one, at best in windows of 32: equal
values, which round alike at each addition, gave float64 norms that were off by 7 ulp along one axis
and by 315 along two. So in a program for one CPU the tree is spelled out; one for several is the
compiler's to spread, which it could not do with a tree. What a program is for is known when it is
lowered. So these sums are primitives, with derivatives that are such sums again. This module knows
no norms, no policies and no kernels.

XLA may rearrange products. Where what is squared is one number for it, it makes ``x*x * (c*c)`` of
``(x*c) * (x*c)``, and of ``x*c*d`` it makes ``x * (c*d)`` for arrays of any size: constants that
leave the range where the products do not. So powers of two that are constants are `opaque`; and so
are numbers that `squares` multiplies with one, for of a constant x, a zero that pads a vector say,
it would make ``c*c * (x*x)``, which is NaN.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract
from l2multi.backends.jax import cpu_primitives
from l2multi.backends.jax.cpu_primitives import Axes, Primitive, Target

# A real array, or the real and the imaginary part of a complex one.
Parts = tuple[jax.Array, ...]

barrier: Any = lax.optimization_barrier  # which has no types

# Blocks of a vector that are added in one pass: what a pass writes is so many times smaller than
# what it reads.
BLOCKS = 32


def opaque(value: float, dtype: np.dtype[Any]) -> jax.Array:
    """A constant that XLA does not know."""
    constant: jax.Array = barrier(jnp.asarray(value, dtype))
    return constant


def own_parts(x: jax.Array) -> Parts:
    """The parts of `x` in its own dtype."""
    return (x.real, x.imag) if _contract.is_complex(x.dtype) else (x,)


def parts(x: jax.Array, dtype: np.dtype[Any]) -> Parts:
    """The parts of `x` in this dtype."""
    return tuple(as_dtype(p, dtype) for p in own_parts(x))


def as_dtype(x: jax.Array, dtype: np.dtype[Any]) -> jax.Array:
    """`x` in this dtype, narrow floats in float64 by way of float32: XLA's CPU compiler calls a
    function for each number that it takes from bfloat16 to float64."""
    if dtype == np.float64 and jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4:
        x = x.astype(np.float32)
    return x.astype(dtype)


def scaled(x: jax.Array, power: jax.Array) -> jax.Array:
    """``x * power``, a power of two, of subnormal numbers too, which XLA's CPU backend takes for 0:
    their digits with the exponent of 1, less 1."""
    form = np.finfo(x.dtype)
    whole = np.dtype(f"i{x.dtype.itemsize}")
    bits, one = (lax.bitcast_convert_type(a, whole) for a in (x, form.dtype.type(1)))
    sign = whole.type(np.iinfo(whole).min)
    more, less = (lax.bitcast_convert_type(b | one, x.dtype) for b in (bits, bits & sign))
    return jnp.where(x == 0, (more - less) * (power * form.tiny), x * power)


def squares(
    x: jax.Array, axes: Axes, dtype: np.dtype[Any], exponent: int | None = None
) -> jax.Array:
    """The sums over `axes`, which stay, of the squares in `dtype` of `x`, or of `x` times
    ``2**exponent``. They have no derivative."""
    function = _squares.plain if cpu_primitives.spread(x) else _squares
    found: jax.Array = function(x, axes=axes, dtype=dtype.name, exponent=exponent)
    return found


def inner(a: Parts, b: Parts, axes: Axes, *factors: jax.Array, tiny: bool = False) -> jax.Array:
    """The inner products over `axes`, which stay, in the dtype of `a`; of float32 as float64 has
    them, where that is. `b` may be narrower.

    `factors` are what `a` is the product of, if given: an array, and for each vector a power of two
    and another number. Then `a` need not be written for this. `tiny`: multiply by `scaled`.
    """
    if cpu_primitives.spread(*a, *b, *factors):
        factors = ()  # norms that several devices share are of another type than what varies
    function = _inner.plain if cpu_primitives.spread(*a, *b) else _inner
    found: jax.Array = function(*a, *b, *factors, axes=axes, width=len(a), tiny=tiny)
    return found


def outer(a: Parts, factor: jax.Array, axes: Axes) -> Parts:
    """Vectors over `axes` times a factor for each: in either, the transpose of `inner`."""
    function = _outer.plain if cpu_primitives.spread(*a, factor) else _outer
    return tuple(function(*a, factor, axes=axes, width=len(a)))


def dot(a: Any, b: Any) -> jax.Array:
    """The products of parts, added."""
    products: jax.Array = functools.reduce(jnp.add, map(jnp.multiply, a, b))
    return products


def _squares_formula(
    target: Target, x: jax.Array, *, axes: Axes, dtype: str, exponent: int | None
) -> jax.Array:
    form = np.dtype(dtype)
    factor = None
    if exponent is not None:
        factor, x = opaque(2.0**exponent, form), barrier(x)

    def term(x: jax.Array) -> jax.Array:
        each = tuple(p if factor is None else p * factor for p in parts(x, form))
        return dot(each, each)

    return total(term, axes, x, target=target)


def _inner_formula(
    target: Target, *arrays: jax.Array, axes: Axes, width: int, tiny: bool
) -> jax.Array:
    form = np.dtype(np.float64 if target.wide else arrays[0].dtype)
    a, b, factors = arrays[:width], arrays[width : 2 * width], arrays[2 * width :]

    def product(*arrays: jax.Array) -> jax.Array:
        each = [as_dtype(p, form) for p in arrays]
        return dot(each[:width], each[width:])

    def product_of_factors(*arrays: jax.Array) -> jax.Array:
        *b, x, power, rest = arrays
        times = scaled if tiny else jnp.multiply
        a = [times(p, power).astype(form) * rest.astype(form) for p in parts(x, power.dtype)]
        return dot(a, [as_dtype(p, form) for p in b])

    if factors:
        found = total(product_of_factors, axes, *b, *factors, target=target)
    else:
        found = total(product, axes, *a, *b, target=target)
    if target.one_cpu:
        # By 1, which the compiler does not see.
        found = found / jnp.where(found == found, np.ones((), found.dtype), found)
    return found.astype(arrays[0].dtype)


def _outer_formula(_: Target, *arrays: jax.Array, axes: Axes, width: int) -> list[jax.Array]:
    return [x * arrays[-1] for x in arrays[:-1]]


def _filled(tangents: Any, arrays: Any) -> Any:
    """Tangents of parts, with those that are 0 written out; or None where all are."""
    if all(t is None for t in tangents):
        return None
    pairs = zip(tangents, arrays, strict=True)
    return [jnp.zeros_like(x) if t is None else t for t, x in pairs]


def _inner_jvp(arrays: Any, tangents: Any, *, width: int, **static: Any) -> jax.Array:
    a, b, factors = arrays[:width], arrays[width : 2 * width], arrays[2 * width :]
    da, db = _filled(tangents[:width], a), _filled(tangents[width : 2 * width], b)
    found = []
    if da is not None:  # no longer the product of these factors
        found.append(_inner(*da, *b, width=width, **static))
    if db is not None:
        found.append(_inner(*a, *db, *factors, width=width, **static))
    tangent: jax.Array = functools.reduce(jnp.add, found)
    return tangent


def _inner_transpose(
    cotangent: jax.Array, arrays: Any, *, axes: Axes, width: int, **_: Any
) -> Parts:
    a, b = arrays[:width], arrays[width : 2 * width]
    other = b if a[0] is None else a
    return outer(tuple(p.astype(cotangent.dtype) for p in other), cotangent, axes)


def _outer_jvp(arrays: Any, tangents: Any, *, axes: Axes, width: int) -> list[jax.Array]:
    (*a, factor), (*da, dfactor) = arrays, tangents
    found = []
    if (moved := _filled(da, a)) is not None:
        found.append(outer(tuple(moved), factor, axes))
    if dfactor is not None:
        found.append(outer(tuple(a), dfactor, axes))
    return [functools.reduce(jnp.add, each) for each in zip(*found, strict=True)]


def _outer_transpose(cotangents: Parts, arrays: Any, *, axes: Axes, width: int) -> Parts:
    *a, factor = arrays
    if factor is None:
        return (inner(tuple(a), cotangents, axes),)
    return outer(cotangents, factor, axes)


_squares = Primitive(
    "l2multi_squares",
    lambda x, *, axes, dtype, **_: cpu_primitives.few(x, axes, dtype),
    _squares_formula,
)
_inner = Primitive(
    "l2multi_inner",
    lambda a, *_, axes, **__: cpu_primitives.few(a, axes, a.dtype),
    _inner_formula,
    jvp=_inner_jvp,
    transpose=_inner_transpose,
)
_outer = Primitive(
    "l2multi_outer",
    lambda *arrays, **_: [cpu_primitives.alike(a, a.shape, a.dtype) for a in arrays[:-1]],
    _outer_formula,
    several=True,
    jvp=_outer_jvp,
    transpose=_outer_transpose,
)


def total(
    term: Callable[..., jax.Array], axes: Axes, *arrays: jax.Array, target: Target
) -> jax.Array:
    """The sums over `axes`, which stay, of what `term` makes of the elements of arrays; as a tree
    on one CPU.

    Blocks are added in pairs, then the elements of their sum likewise. This is faster too
    (squares of 10000x768 float32 in float64: 1.4 to 2.4 ms for 2 to 6; of 1000000x3: 0.5 for 3 to
    6; two cores of a Zen 5), and XLA does not hold a float64 copy of x, as it does for its own sum.

    XLA's CPU compiler computes additions again wherever their result is used, for each element of
    an array that they are spread over, also behind a barrier; roots and quotients it computes once.
    """
    known = all(isinstance(d, int) and d > 0 for d in arrays[0].shape)
    if axes and known and target.one_cpu:
        return _tree(term, axes, *arrays)
    return term(*arrays).sum(axes, keepdims=True)


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
            terms = [term(*(_cut(a, c, axis) for a in arrays)) for c in cuts]
            rest += terms[count:]
            arrays = [_in_pairs(terms[:count])]
            term = jnp.asarray
        if rest:
            arrays = [_in_pairs([*arrays, *reversed(rest)])]
    return term(*arrays)


def _cut(a: jax.Array, bounds: tuple[int, int], axis: int) -> jax.Array:
    """A slice; of a factor for a vector, the factor."""
    return a if a.shape[axis] == 1 else lax.slice_in_dim(a, *bounds, axis=axis)


def _from_bits(bits: jax.Array) -> jax.Array:
    """bfloat16 as float32."""
    return lax.bitcast_convert_type(bits.astype(np.uint32) << np.uint32(16), np.float32)


def _in_pairs(terms: list[jax.Array]) -> jax.Array:
    """The sum of all, neighbours first."""
    while len(terms) > 1:
        pairs = list(map(jnp.add, terms[0:-1:2], terms[1::2]))
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
