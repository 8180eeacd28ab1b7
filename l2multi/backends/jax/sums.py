"""Sums of squares and of products, as accurate as those of a tree.

XLA's GPU backend sums in a tree. Its CPU backend adds one by one, at best in windows of 32: equal
values, which round alike at each addition, gave float64 norms that were off by 7 ulp along one axis
and by 315 along two. So in a program for one CPU the tree is spelled out; one for several is the
compiler's to spread, which it could not do with a tree. For whom a program is, is known when it is
lowered. So these sums are primitives, with derivatives that are such sums again.

XLA may rearrange products. Where what is squared is one number for it, it makes ``x*x * (c*c)`` of
``(x*c) * (x*c)``, and of ``x*c*d`` it makes ``x * (c*d)`` for arrays of any size: constants that
leave the range where the products do not. So powers of two that are constants are `opaque`.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2multi import _contract
from l2multi.backends.jax import native

with contextlib.suppress(Exception):  # JAX promises none of these to anyone; see `_install`
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

Axes = tuple[int, ...]
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


def parts(x: jax.Array, dtype: np.dtype[Any]) -> Parts:
    """The parts of `x` in this dtype."""
    own = (x.real, x.imag) if _contract.is_complex(x.dtype) else (x,)
    return tuple(wide(p) if dtype == np.float64 else p.astype(dtype) for p in own)


def wide(x: jax.Array) -> jax.Array:
    """`x` in float64, narrow floats by way of float32: XLA's CPU compiler calls a function for each
    number that it takes from bfloat16 to float64."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return (x.astype(np.float32) if narrow else x).astype(np.float64)


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
    ``2**exponent``."""
    if _to_spread(x):
        return _squares_in(native.Target(), x, axes=axes, dtype=dtype.name, exponent=exponent)
    found: jax.Array = _squares.bind(x, axes=axes, dtype=dtype.name, exponent=exponent)
    return found


def inner(a: Parts, b: Parts, axes: Axes, *made_of: jax.Array, tiny: bool = False) -> jax.Array:
    """The inner products over `axes`, which stay; of float32 as float64 has them, where that is.

    `made_of` is what `a` is the product of, if given: an array, powers of two and other factors for
    its vectors. Then `a` need not be written for this. `tiny`: by `scaled`.
    """
    if _to_spread(*a, *b, *made_of):  # norms of vectors over several devices are of another type
        made_of = ()
    if _to_spread(*a, *b):
        return _added(a, b).sum(axes, keepdims=True)
    found: jax.Array = _inner.bind(*a, *b, *made_of, axes=axes, width=len(a), tiny=tiny)
    return found


def outer(a: Parts, factor: jax.Array, axes: Axes) -> Parts:
    """Vectors over `axes` times a factor for each: in either, the transpose of `inner`."""
    if _to_spread(*a, factor):
        return tuple(p * factor for p in a)
    return tuple(_outer.bind(*a, factor, axes=axes, width=len(a)))


def _to_spread(*arrays: jax.Array) -> bool:
    """Whether the compiler has to see the sums: types say that the arrays are spread over devices.
    (What each device does alone in `jax.shard_map` is a program for one.)"""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and all(jax.typeof(a).sharding.mesh.empty for a in arrays):
        return not _installed
    return (
        not (_installed and mesh.are_all_axes_manual)
        or len({_few(jax.typeof(a), range(a.ndim), a.dtype) for a in arrays}) > 1
    )


def _added(a: Any, b: Any) -> jax.Array:
    products: jax.Array = functools.reduce(jnp.add, map(jnp.multiply, a, b))
    return products


_squares: Any
_inner: Any
_outer: Any


def _few(x: Any, axes: Any, dtype: Any) -> Any:
    shape = tuple(1 if d in axes else n for d, n in enumerate(x.shape))
    return x.update(shape=shape, dtype=np.dtype(dtype), weak_type=False)


def _batch(
    primitive: Any, arrays: Any, dimensions: Any, *, axes: Axes, **parameters: Any
) -> tuple[Any, Any]:
    axes = tuple(d + 1 for d in axes)
    found = primitive.bind(*native.batch_first(arrays, dimensions), axes=axes, **parameters)
    return found, [0] * len(found) if primitive.multiple_results else 0


def _bilinear(apply: Callable[..., Any], add: Callable[..., Any], after: int | None) -> Any:
    """The rule of what is linear in the first `width` arguments, and in those up to `after` times
    as many."""

    def rule(primals: Any, tangents: Any, *, width: int, **parameters: Any) -> tuple[Any, Any]:
        moved = []
        for side in (slice(width), slice(width, after and after * width)):
            if all(type(t) is ad.Zero for t in tangents[side]):
                continue
            # What was the product of others, is no longer.
            arguments = list(primals if side.start else primals[: after and after * width])
            arguments[side] = map(ad.instantiate_zeros, tangents[side])
            moved.append(apply(*arguments, width=width, **parameters))
        return apply(*primals, width=width, **parameters), functools.reduce(add, moved)

    return rule


def _each_sum(a: Any, b: Any) -> list[jax.Array]:
    return list(map(jnp.add, a, b))


def _inner_transpose(d: Any, *arrays: Any, axes: Axes, width: int, tiny: bool) -> list[Any]:
    sides = slice(width), slice(width, 2 * width)
    found: list[Any] = [None] * len(arrays)
    for side, other in (sides, sides[::-1]):
        if ad.is_undefined_primal(arrays[side][0]):  # type: ignore[no-untyped-call]
            zero = type(d) is ad.Zero
            found[side] = (
                [ad.Zero(x.aval) for x in arrays[side]] if zero else outer(arrays[other], d, axes)
            )
    return found


def _outer_transpose(ds: Any, *arrays: Any, axes: Axes, width: int) -> list[Any]:
    *a, factor = arrays
    ds = tuple(map(ad.instantiate_zeros, ds))
    if ad.is_undefined_primal(factor):  # type: ignore[no-untyped-call]
        return [None] * width + [inner(tuple(a), ds, axes)]
    return [*outer(ds, factor, axes), None]


def _squares_in(
    target: native.Target, x: jax.Array, *, axes: Axes, dtype: str, exponent: int | None
) -> jax.Array:
    form = np.dtype(dtype)
    factor = None if exponent is None else opaque(2.0**exponent, form)

    def term(x: jax.Array) -> jax.Array:
        scaled = tuple(p if factor is None else p * factor for p in parts(x, form))
        return _added(scaled, scaled)

    return total(term, axes, x, tree=target.tree)


def _inner_in(
    target: native.Target, *arrays: jax.Array, axes: Axes, width: int, tiny: bool
) -> jax.Array:
    form = np.dtype(np.float64 if target.wide else arrays[0].dtype)
    a, b, made_of = arrays[:width], arrays[width : 2 * width], arrays[2 * width :]

    def term(*arrays: jax.Array) -> jax.Array:
        *b, x, power, rest = arrays
        by = scaled if tiny else jnp.multiply
        a = [by(p, power).astype(form) * rest.astype(form) for p in parts(x, power.dtype)]
        return _added(a, [p.astype(form) for p in b])

    def plain(*arrays: jax.Array) -> jax.Array:
        each = [p.astype(form) for p in arrays]
        return _added(each[:width], each[width:])

    if made_of:
        found = total(term, axes, *b, *made_of, tree=target.tree)
    else:
        found = total(plain, axes, *a, *b, tree=target.tree)
    if target.tree:
        # By 1, which the compiler does not see.
        found = found / jnp.where(found == found, np.ones((), found.dtype), found)
    return found.astype(arrays[0].dtype)


def _outer_in(_: native.Target, *arrays: jax.Array, axes: Axes, width: int) -> list[jax.Array]:
    return [x * arrays[-1] for x in arrays[:-1]]


def _lowering(primitive: Any, formula: Callable[..., Any], platform: str) -> Callable[..., Any]:
    """The rule by which a primitive becomes ``formula(target, *arrays, **parameters)``."""

    def lower(context: Any, *arrays: Any, **parameters: Any) -> Any:
        on_cpu = platform == "cpu" and native.alone(context)
        target = native.Target(platform in native.WIDE, on_cpu)

        def traced(*arrays: jax.Array, **parameters: Any) -> Any:
            with jax.enable_x64(True):
                return formula(target, *arrays, **parameters)

        return mlir.lower_fun(traced, primitive.multiple_results)(context, *arrays, **parameters)

    return lower


def _install() -> bool:
    """Make the primitives; whether that is possible with this JAX."""
    global _squares, _inner, _outer
    try:
        _squares, _inner = Primitive("l2multi_squares"), Primitive("l2multi_inner")
        _outer = Primitive("l2multi_outer")
        _outer.multiple_results = True
        _squares.def_abstract_eval(lambda x, *, axes, dtype, **_: _few(x, axes, dtype))
        _inner.def_abstract_eval(lambda x, *_, axes, **__: _few(x, axes, x.dtype))
        _outer.def_abstract_eval(lambda *xs, **_: [x.update(weak_type=False) for x in xs[:-1]])
        for one, formula in ((_squares, _squares_in), (_inner, _inner_in), (_outer, _outer_in)):
            one.def_impl(functools.partial(native.evaluate, one))
            batching.primitive_batchers[one] = functools.partial(_batch, one)
            mlir.register_lowering(one, _lowering(one, formula, "other"))
            for platform in native.WIDE:
                mlir.register_lowering(one, _lowering(one, formula, platform), platform=platform)
        ad.primitive_jvps[_inner] = _bilinear(_inner.bind, jnp.add, 2)
        ad.primitive_jvps[_outer] = _bilinear(_outer.bind, _each_sum, None)
        ad.primitive_transposes[_inner] = _inner_transpose
        ad.primitive_transposes[_outer] = _outer_transpose
    except Exception:  # whatever else has changed there
        return False
    return True


def total(term: Callable[..., jax.Array], axes: Axes, *arrays: jax.Array, tree: bool) -> jax.Array:
    """The sums over `axes`, which stay, of what `term` makes of the elements of arrays; as a `tree`
    on a CPU.

    Blocks are added in pairs, then the elements of their sum likewise. This is faster too
    (squares of 10000x768 float32 in float64: 1.4 to 2.4 ms for 2 to 6; of 1000000x3: 0.5 for 3 to
    6; two cores of a Zen 5), and XLA does not hold a float64 copy of x, as it does for its own sum.

    XLA's CPU compiler computes additions again wherever their result is used, for each element of
    an array that they are spread over, also behind a barrier; roots and quotients it computes once.
    """
    known = all(isinstance(d, int) and d > 0 for d in arrays[0].shape)
    if axes and known and tree:
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


_installed = _install()
