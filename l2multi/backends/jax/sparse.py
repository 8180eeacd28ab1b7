"""Rows of BCOO and BCSR matrices: the stored entries are scaled, and no others appear.

The formulas and their derivatives are those of `functions`; only the sums differ. XLA adds what it
scatters to one place one by one (in float32, twenty million ones make 16777216). So the sums are
sums of integers, which need no order to be exact: see `_fixed_point`. Two linear primitives, each
the transpose of the other, take them to all derivatives: `_sums` from entries to their rows and
`_of_entries` from rows to their entries. This module knows neither the containers nor any kernel.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO, BCSR

from l2multi.backends.jax import cpu_primitives, functions, powers, roots, sums
from l2multi.backends.jax.cpu_primitives import Primitive, Target
from l2multi.backends.jax.functions import Polar
from l2multi.backends.jax.sums import Parts


class Entries(NamedTuple):
    """The entries of a matrix, one for each of its places.

    An entry out of range is 0 and belongs to the row after the last, which nobody sums or reads.
    """

    data: Parts
    row: jax.Array
    rows: int


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
    width = roots.width_of(x.data, dtype)
    entries, indices = _entries(x, width)
    polar = _polar(entries.rows, False, entries.row, entries.data)
    unit = polar.unit
    if eps:
        each = (_of_entries(n, entries.row) for n in polar[1:])
        unit = functions.at_least(eps, entries.data, Polar(unit, *each))
    y = powers.rounded(unit[0] if len(unit) == 1 else lax.complex(*unit), dtype)
    norms = None
    if return_norm:  # the bits of `norm`: from sums no wider than its own
        same = roots.width_of(x.data, norm_dtype) == width
        norms = polar.norm.astype(norm_dtype) if same else norm(x, False, norm_dtype)
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
    entries, _ = _entries(x, roots.width_of(x.data, dtype))
    narrow = np.dtype(dtype).itemsize < 4
    polar = _polar(entries.rows, narrow, entries.row, entries.data)
    norms = powers.rounded(polar.norm, dtype)
    return norms[:, None] if keepdims else norms


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
        parts = tuple(_sums(p, at, rows=n) for p in sums.parts(data, width))
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _polar(rows: int, narrow: bool, row: jax.Array, x: Parts) -> Polar:
    """As `functions._polar`, where only the unit vectors have as many elements as `x`; the norms
    are to be rounded once where they will be `narrow`."""
    norms = powers.lengths(*_roots(*x, row, rows=rows, narrow=narrow))
    power, rest = (_of_entries(n, row) for n in norms[1:])
    return Polar(tuple(p * power * rest for p in x), *norms)


@_polar.defjvp
def _polar_jvp(rows: int, narrow: bool, primals: Any, tangents: Any) -> tuple[Polar, Polar]:
    (row, x), (_, dx) = primals, tangents
    polar = _polar(rows, narrow, row, x)

    def dot(a: Parts, b: Parts) -> jax.Array:
        inner: jax.Array = _sums(sums.dot(a, b), row, rows=rows)
        return inner

    def times(x: Parts, of_row: jax.Array) -> Parts:
        each = _of_entries(of_row, row)
        return tuple(p * each for p in x)

    return polar, functions.tangents_of(polar, dx, dot(polar.unit, dx), dot, times)


def _largest(x: jax.Array, row: jax.Array, rows: int) -> jax.Array:
    """The bits of the largest magnitude of each row: of NaN, if there is one."""
    whole = np.dtype(f"i{x.dtype.itemsize}")
    bits = lax.bitcast_convert_type(x, whole) & np.iinfo(whole).max
    largest: jax.Array = jnp.zeros(rows, whole).at[row].max(bits, mode="drop")
    return largest


def _unit_of(largest: jax.Array, dtype: np.dtype[Any]) -> tuple[jax.Array, jax.Array]:
    """The exponents of numbers with these bits, such that neither the power of two with it nor its
    inverse is subnormal, and that inverse."""
    form = np.finfo(dtype)
    bias = form.maxexp - 1
    field = jnp.clip(largest >> form.nmant, 1, 2 * bias - 1)
    return field - bias, powers.power_of_two(2 * bias - field, dtype)


def _roots_formula(target: Target, *arrays: jax.Array, rows: int, narrow: bool) -> list[jax.Array]:
    """The norms as `powers.Norms`: roots of sums of squares in the unit of the largest entry."""
    *x, row = arrays
    dtype = x[0].dtype
    wide = target.wide and dtype == np.float32  # whose squares float64 holds exactly
    largest = functools.reduce(jnp.maximum, (_largest(p, row, rows) for p in x))
    exponent, power = _unit_of(largest, dtype)
    # The barrier: XLA would take scaled * scaled for x * x * power**2, which may be infinite.
    each = _gathered(sums.barrier(power), row)
    parts = [p * each for p in x]
    if wide:
        parts = [p.astype(np.float64) for p in parts]
    squares = sums.dot(parts, parts)
    # A row with an inf or a NaN is as long as the largest entry, whatever the sum.
    ordinary = largest < np.array(np.inf, dtype).view(largest.dtype)
    bound = 16 * len(x)  # for the largest numbers are 2 to 4 of their unit
    squares = jnp.where(squares < bound, squares, 0)
    digits = 24 if wide and not narrow else np.finfo(squares.dtype).nmant + 2
    root = jnp.sqrt(_fixed_point(_whole(target, dtype), squares, row, rows, bound, digits))
    if wide:
        root, more = powers.split(root, narrow)
        exponent = exponent + more
    far = lax.bitcast_convert_type(largest, dtype)
    return [jnp.where(ordinary, root, far), exponent.astype(np.int32)]


def _sums_formula(target: Target, x: jax.Array, row: jax.Array, *, rows: int) -> jax.Array:
    """The sums of rows: right, to an ulp or two of it, or to half an ulp of its largest entry; -0
    where there is nothing else."""
    largest = _largest(x, row, rows)
    exponent, power = _unit_of(largest, x.dtype)
    finite = jnp.isfinite(x)
    each = jnp.where(finite, x, 0) * _gathered(power, row)
    form = np.finfo(x.dtype)
    total = _fixed_point(_whole(target, x.dtype), each, row, rows, 4, form.nmant + 2)
    unit = powers.power_of_two(exponent + form.maxexp - 1, x.dtype)
    found = (total * unit.astype(total.dtype)).astype(x.dtype)
    some = largest >= np.array(np.inf, x.dtype).view(largest.dtype)

    def with_others(found: jax.Array) -> jax.Array:
        return found.at[row].add(jnp.where(finite, 0, x), mode="drop")

    def with_signs(found: jax.Array) -> jax.Array:
        only = jnp.ones(rows, bool).at[row].min(negative_zero, mode="drop")
        some = jnp.zeros(rows, bool).at[row].max(negative_zero, mode="drop")
        return jnp.where(only & some, -jnp.zeros((), found.dtype), found)

    negative_zero = (x == 0) & jnp.signbit(x)
    for needed, more in ((some.any(), with_others), (negative_zero.any(), with_signs)):
        found = lax.cond(needed, more, lambda found: found, found)
    return found


def _whole(target: Target, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The integers that a platform adds."""
    return np.dtype(np.int64 if target.wide else f"i{dtype.itemsize}")


def _fixed_point(
    whole: np.dtype[Any], x: jax.Array, row: jax.Array, rows: int, bound: int, digits: int
) -> jax.Array:
    """The sums of rows of entries below `bound`, to ``2**-digits``.

    The entries are cut into slices of so many bits that sums of a slice are integers within the
    range of `whole`, and there are as many slices as it takes.
    """
    n = x.shape[0]
    length = (n - 1).bit_length() if isinstance(n, int) else 31
    bits = max(1, 8 * whole.itemsize - 1 - (bound - 1).bit_length() - length)
    parts = []
    for _ in range(-(-(digits + length) // bits)):
        x = x * 2.0**bits
        cut = x.astype(whole)
        x = x - cut.astype(x.dtype)
        parts.append(jnp.zeros(rows, whole).at[row].add(cut, mode="drop"))
    total = jnp.zeros(rows, f"f{whole.itemsize}")
    for part in reversed(parts):
        total = (total + part.astype(total.dtype)) * 2.0**-bits
    return total


def _of_entries(of_row: jax.Array, row: jax.Array) -> jax.Array:
    """A number of each row for each of its entries."""
    each: jax.Array = _spread(of_row, row, rows=of_row.shape[-1])
    return each


def _gathered(of_row: jax.Array, row: jax.Array) -> jax.Array:
    return of_row.at[row].get(mode="fill", fill_value=0)


def _each(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A formula for vectors, for arrays of them."""

    def mapped(target: Target, *arrays: jax.Array, **static: Any) -> Any:
        one = functools.partial(formula, target, **static)
        for _ in arrays[0].shape[1:]:
            one = jax.vmap(one)
        return one(*arrays)

    return mapped


def _types(x: Any, last: int, dtype: Any) -> Any:
    return cpu_primitives.alike(x, (*x.shape[:-1], last), dtype)


_roots = Primitive(
    "l2multi_row_roots",
    lambda x, *_, rows, **__: [_types(x, rows, x.dtype), _types(x, rows, np.int32)],
    _each(_roots_formula),
    several=True,
)
_sums: Primitive = Primitive(
    "l2multi_row_sums",
    lambda x, row, *, rows: _types(x, rows, x.dtype),
    _each(_sums_formula),
    plain=lambda x, row, *, rows: jnp.zeros(rows, x.dtype).at[row].add(x, mode="drop"),
    jvp=lambda arrays, tangents, *, rows: _sums(tangents[0], arrays[1], rows=rows),
    transpose=lambda d, arrays, **_: [_of_entries(d, arrays[1])],
)
_spread: Primitive = Primitive(
    "l2multi_row_spread",
    lambda of_row, row, *, rows: _types(of_row, row.shape[-1], of_row.dtype),
    _each(lambda _, of_row, row, *, rows: _gathered(of_row, row)),
    jvp=lambda arrays, tangents, *, rows: _spread(tangents[0], arrays[1], rows=rows),
    transpose=lambda d, arrays, *, rows: [_sums(d, arrays[1], rows=rows)],
)
