"""Rows of BCOO and BCSR arrays: the stored entries are scaled, and no others appear.

The formulas and their derivatives are those of `functions`; only the sums differ. XLA adds what it
scatters to one place one by one (in float32, twenty million ones make 16777216). So the sums are
sums of integers, which need no order to be exact: see `_fixed_point`. Two linear primitives, each
the transpose of the other, take them to all derivatives: `_sums` from entries to their rows and
`_spread` from rows to their entries.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO, BCSR
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from l2multi import _contract
from l2multi.backends.jax import functions, native, sums
from l2multi.backends.jax.functions import Polar
from l2multi.backends.jax.sums import Parts


class Entries(NamedTuple):
    """The entries of a matrix, one for each of its places.

    An entry out of range is 0 and belongs to the row after the last, which nobody sums or reads.
    """

    data: Parts
    row: jax.Array
    rows: int


def check(x: BCOO | BCSR, axis: Any) -> None:
    """Refuse what cannot be served."""
    if x.ndim != 2 or x.n_batch or x.n_dense:
        raise TypeError(
            "x: expected a sparse matrix without batch dimensions (jax.vmap takes them off) or "
            f"dense ones, got shape {x.shape} with n_batch={x.n_batch}, n_dense={x.n_dense}"
        )
    if _contract.normalize_axes(axis, 2) != (1,):
        raise ValueError(f"axis: sparse arrays have vectors along axis -1 only, got {axis!r}")


def kernel(x: BCOO | BCSR) -> tuple[str, int]:
    """For `explain`: XLA scatters in one thread."""
    if not isinstance(x.data, jax.Array) or isinstance(x.data, jax.core.Tracer):
        return "XLA, as part of the traced function", 1
    return f"XLA on {next(iter(x.data.devices())).platform}", 1


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def normalize(
    x: BCOO | BCSR, eps: float, dtype: str, return_norm: bool, norm_dtype: str
) -> tuple[BCOO | BCSR, jax.Array | None]:
    """The unit rows of `dtype`, of the class of `x`, and the norms where asked for."""
    width = functions._width(x.data, dtype)
    entries, indices = _entries(x, width)
    polar = _polar(entries.rows, entries.row, entries.data)
    unit = polar.unit
    if eps:
        each = (_of_entries(n, entries.row) for n in polar[1:])
        unit = functions._at_least(eps, entries.data, Polar(unit, *each))
    y = _as_one(unit, dtype)
    norms = None
    if return_norm:  # the bits of `norm`: from sums no wider than its own
        same = functions._width(x.data, norm_dtype) == width
        norms = _as_one((polar.norm,), norm_dtype) if same else norm(x, False, norm_dtype)
    if x.unique_indices:
        # What is out of range is no part of the matrix: it is carried along, as indices are.
        outside = entries.row == entries.rows
        y = jnp.where(outside, lax.stop_gradient(x.data).astype(dtype), y)
        own = (x.indices,) if isinstance(x, BCOO) else (x.indices, x.indptr)
        flags = {"indices_sorted": x.indices_sorted, "unique_indices": True}
        return type(x)((y, *own), shape=x.shape, **flags), norms
    assert indices is not None
    result = BCOO((y, indices), shape=x.shape, indices_sorted=True, unique_indices=True)
    return BCSR.from_bcoo(result) if isinstance(x, BCSR) else result, norms


@functools.partial(jax.jit, static_argnums=(1, 2))
def norm(x: BCOO | BCSR, keepdims: bool, dtype: str) -> jax.Array:
    """The norms of the rows, of `dtype`."""
    entries, _ = _entries(x, functions._width(x.data, dtype))
    norms = _as_one((_polar(entries.rows, entries.row, entries.data).norm,), dtype)
    return norms[:, None] if keepdims else norms


def _as_one(parts: Parts, dtype: str) -> jax.Array:
    """An array of `dtype` from its real parts."""
    return functions._rounded(parts[0] if len(parts) == 1 else lax.complex(*parts), dtype)


def _entries(x: BCOO | BCSR, width: np.dtype[Any]) -> tuple[Entries, jax.Array | None]:
    """The entries in this dtype and, where entries for one place had to be added, the indices of
    what has come of them. As many as before, for their number has to be known under jit."""
    (rows, columns), n = x.shape, x.nse
    if isinstance(x, BCSR):
        starts = jnp.zeros(n, np.int32).at[x.indptr].add(1, mode="drop")
        row, column = jnp.cumsum(starts, dtype=np.int32) - 1, x.indices
    else:
        row, column = x.indices[:, 0], x.indices[:, 1]
    # The barrier: XLA would sort constants while it compiles, which takes minutes.
    row, column = sums.barrier((row, column))
    row, column = _counted(row, rows), _counted(column, columns)
    inside = (row < rows) & (column < columns)
    row, column = jnp.where(inside, row, rows), jnp.where(inside, column, columns)
    data = jnp.where(inside, x.data, jnp.zeros((), x.data.dtype))
    if x.unique_indices:
        return Entries(sums.parts(data, width), row, rows), None
    first = lax.iota(np.int32, n)
    row, column, order = lax.sort((row, column, first), num_keys=2)
    new = (first > 0) & ((row != jnp.roll(row, 1)) | (column != jnp.roll(column, 1)))
    place = jnp.cumsum(new, dtype=np.int32)
    at = jnp.zeros_like(order).at[order].set(place)
    row, column = (
        jnp.full(n, end, i.dtype).at[place].set(i) for i, end in ((row, rows), (column, columns))
    )
    indices = jnp.stack([row, column], 1)
    if np.iinfo(x.indices.dtype).max >= max(x.shape):
        indices = indices.astype(x.indices.dtype)
    if jnp.issubdtype(data.dtype, jnp.inexact):
        parts = tuple(_sums_of(p, at, n) for p in sums.parts(data, width))
    else:
        with jax.enable_x64(True):
            whole = np.uint64 if jnp.issubdtype(data.dtype, jnp.unsignedinteger) else np.int64
            total = jnp.zeros(n, whole).at[at].add(data.astype(whole))
            # True and True make True, as in NumPy.
            parts = ((total != 0 if data.dtype == np.bool_ else total).astype(width),)
    return Entries(parts, row, rows), indices


def _counted(index: jax.Array, size: int) -> jax.Array:
    """Indices counted from 0, as `todense` takes them, of a dtype that holds `size`."""
    if index.dtype.itemsize < 4:
        index = index.astype(np.int32)
    index = jnp.where(index < 0, index + size, index)
    return jnp.where((index < 0) | (index > size), size, index)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polar(rows: int, row: jax.Array, x: Parts) -> Polar:
    """As `functions._polar`, where only the unit vectors have as many elements as `x`."""
    dtype = x[0].dtype
    bias = np.finfo(dtype).maxexp - 1
    largest = _field(functools.reduce(jnp.maximum, (_largest(p, row, rows) for p in x)), dtype)
    # The barrier: XLA would take scaled * scaled for x * x * power**2, which may be infinite.
    power = sums.barrier(functions._power(2 * bias - largest, dtype))
    scaled = tuple(p * _of_entries(power, row) for p in x)
    root = jnp.sqrt(_dot(scaled, scaled, row, rows))
    lengths = functions._lengths(root, (largest - bias).astype(np.int32))
    power, rest = (_of_entries(n, row) for n in lengths[1:])
    return Polar(tuple(p * power * rest for p in x), *lengths)


@_polar.defjvp
def _polar_jvp(rows: int, primals: Any, tangents: Any) -> tuple[Polar, Polar]:
    (row, x), (_, dx) = primals, tangents
    polar = _polar(rows, row, x)
    u, _, power, rest = polar
    first, second = functions._halves(lax.stop_gradient(power))
    over = tuple(d * _of_entries(first, row) for d in dx)
    growth = _dot(u, over, row, rows)
    each, factor, inverse = (_of_entries(n, row) for n in (growth, second, rest))
    turn = tuple((d - p * each) * inverse * factor for d, p in zip(over, u, strict=True))
    lost = -rest * (growth * rest * second)
    return polar, Polar(turn, _dot(u, dx, row, rows), jnp.zeros_like(power), lost)


def _dot(a: Parts, b: Parts, row: jax.Array, rows: int) -> jax.Array:
    """The inner products of rows."""
    return _sums_of(functools.reduce(jnp.add, map(jnp.multiply, a, b)), row, rows)


def _largest(x: jax.Array, row: jax.Array, rows: int) -> jax.Array:
    """The largest magnitude of each row, by its bits."""
    whole = np.dtype(f"i{x.dtype.itemsize}")
    bits = lax.bitcast_convert_type(x, whole) & np.iinfo(whole).max
    largest: jax.Array = jnp.zeros(rows, whole).at[row].max(bits, mode="drop")
    return largest


def _field(bits: jax.Array, dtype: np.dtype[Any]) -> jax.Array:
    """The exponent field of numbers, such that neither the power of two with it nor its inverse is
    subnormal."""
    form = np.finfo(dtype)
    return jnp.clip(bits >> form.nmant, 1, 2 * form.maxexp - 3)


def _sums_of(x: jax.Array, row: jax.Array, rows: int) -> jax.Array:
    """The sum of each row."""
    total: jax.Array = _sums.bind(x, row, rows=rows)
    return total


def _of_entries(of_row: jax.Array, row: jax.Array) -> jax.Array:
    """A number of each row for each of its entries."""
    each: jax.Array = _spread.bind(of_row, row)
    return each


def _fixed_point(whole: np.dtype[Any], x: jax.Array, row: jax.Array, *, rows: int) -> jax.Array:
    """The sum of each row: right, to an ulp or two of it, or to half an ulp of its largest entry.

    The entries, in the unit of the largest of their row, are cut into slices of so many bits that
    sums of a slice are integers within the range of `whole`, and there are as many slices as it
    takes.
    """
    with jax.enable_x64(True):
        form, n = np.finfo(x.dtype), x.shape[0]
        length = (n - 1).bit_length() if isinstance(n, int) else 31
        bits = max(1, 8 * whole.itemsize - 3 - length)  # an entry is below 4
        bias = form.maxexp - 1
        # NaN is in both.
        above = _largest(jnp.where(x < 0, 0, x), row, rows)
        below = _largest(jnp.where(x > 0, 0, x), row, rows)
        largest = _field(jnp.maximum(above, below), x.dtype)
        power = functions._power(2 * bias - largest, x.dtype)
        rest = jnp.where(jnp.isfinite(x), x, 0) * _gathered(power, row)
        parts = []
        for _ in range(-(-(form.nmant + 2 + length) // bits)):
            rest = rest * 2.0**bits
            cut = rest.astype(whole)
            rest = rest - cut.astype(x.dtype)
            parts.append(jnp.zeros(rows, whole).at[row].add(cut, mode="drop"))
        total = jnp.zeros(rows, f"f{whole.itemsize}")
        for one in reversed(parts):
            total = (total + one.astype(total.dtype)) * 2.0**-bits
        total = total * functions._power(largest, x.dtype).astype(total.dtype)
        infinite = lax.bitcast_convert_type(x.dtype.type(np.inf), above.dtype)
        far = (jnp.where(b >= infinite, jnp.inf, 0).astype(x.dtype) for b in (above, below))
        return total.astype(x.dtype) + functools.reduce(jnp.subtract, far)


def _gathered(of_row: jax.Array, row: jax.Array) -> jax.Array:
    return of_row.at[row].get(mode="fill", fill_value=0)


_sums: Any = Primitive("l2multi_row_sums")
_spread: Any = Primitive("l2multi_row_spread")


def _each(function: Any, x: jax.Array, row: jax.Array, **parameters: Any) -> jax.Array:
    """A function of vectors on arrays of them."""
    one = functools.partial(function, **parameters)
    for _ in x.shape[1:]:
        one = jax.vmap(one)
    result: jax.Array = one(x, row)
    return result


_sums.def_abstract_eval(
    lambda x, row, *, rows: x.update(shape=(*x.shape[:-1], rows), weak_type=False)
)
_spread.def_abstract_eval(
    lambda x, row: x.update(shape=(*x.shape[:-1], row.shape[-1]), weak_type=False)
)
# Linear in their first argument.
_linear: Any = ad.defjvp
_linear(_sums, lambda d, x, row, **rows: _sums.bind(d, row, **rows), None)
_linear(_spread, lambda d, x, row: _spread.bind(d, row), None)


def _sums_transpose(d: Any, x: Any, row: jax.Array, *, rows: int) -> tuple[Any, None]:
    return ad.Zero(x.aval) if type(d) is ad.Zero else _spread.bind(d, row), None


def _spread_transpose(d: Any, x: Any, row: jax.Array) -> tuple[Any, None]:
    rows = x.aval.shape[-1]
    return ad.Zero(x.aval) if type(d) is ad.Zero else _sums.bind(d, row, rows=rows), None


ad.primitive_transposes[_sums] = _sums_transpose
ad.primitive_transposes[_spread] = _spread_transpose


def _batch(primitive: Any, arrays: Any, dimensions: Any, **parameters: Any) -> tuple[Any, int]:
    return primitive.bind(*native.batch_first(arrays, dimensions), **parameters), 0


for _primitive in (_sums, _spread):
    _primitive.def_impl(functools.partial(native.evaluate, _primitive))
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)


def _lowering(whole: Any) -> Any:
    """Of `_sums`, by integers of this width; None: of the width of the entries."""

    def summed(x: jax.Array, row: jax.Array, *, rows: int) -> jax.Array:
        dtype = np.dtype(whole or f"i{x.dtype.itemsize}")
        return _each(functools.partial(_fixed_point, dtype), x, row, rows=rows)

    return mlir.lower_fun(summed, False)


mlir.register_lowering(_spread, mlir.lower_fun(functools.partial(_each, _gathered), False))
mlir.register_lowering(_sums, _lowering(None))
for _platform in native.WIDE:
    mlir.register_lowering(_sums, _lowering("i8"), platform=_platform)
