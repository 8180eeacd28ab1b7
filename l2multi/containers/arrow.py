"""Arrow arrays of vectors: lists of all kinds and fixed-shape tensors, chunked or not.

A null vector stays null, a null element makes its vector null, and what lies under a null never
counts. Values are seen where they are; the result is one buffer.
"""

from typing import Any

import numpy as np

from l2multi import _contract
from l2multi._chunks import Chunks
from l2multi._opened import Opened
from l2multi._ragged import Array, Ragged

try:
    import pyarrow as pa
    from pyarrow import LargeListViewType, ListViewType  # since 16
except ImportError as error:
    raise ImportError(
        f"x: columns of vectors need pyarrow 16 or newer ({error}); try: pip install 'pyarrow>=16'"
    ) from error

__all__ = ["open", "pa"]


class Column(Opened):
    """Rows of an Arrow array, with one vector or more in each. `missing` tells which are null and,
    once there are `values`, which have a null element; `chunks` how long those of the result are,
    if it has any."""

    has_fast_path = False
    has_nulls = True

    def __init__(self, x: Any, array: Array, library: str, missing: Array) -> None:
        super().__init__(array, library)
        self.kind, self.missing = x.type, missing
        self.chunks = list(map(len, x.chunks)) if isinstance(x, pa.ChunkedArray) else None

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        axes = super().axes(request)
        if 0 in axes:
            raise ValueError(
                f"axis: each row of an Arrow array is a vector of its own, got {request.axis!r}"
            )
        return axes

    def target(self, out: Any) -> Any:
        raise TypeError("out: Arrow arrays are immutable, so out= cannot be used; try without")

    def spared(self) -> Array:
        """The rows that no policy is for."""
        return self.missing

    def judged(self, norms: Array) -> Array:
        spared = self.spared().reshape(-1, *(1,) * (norms.ndim - 1))
        return np.where(spared, np.ones((), norms.dtype), norms)

    def make_null(self, vectors: Array) -> None:
        if vectors.ndim != 1:
            raise ValueError('zero: "null" is for rows that are one vector each')
        self.missing = self.missing | vectors

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        if keepdims or norms.ndim != 1:
            raise TypeError(
                "axis: Arrow arrays have norms for rows that are one vector each, without keepdims;"
                " of parts of tensors, try l2multi.norm(x.to_numpy_ndarray(), axis)"
            )
        kind = pa.from_numpy_dtype(norms.dtype)
        return self.built(kind, lambda at: pa.array(norms[at], kind, mask=self.missing[at]))

    def built(self, kind: Any, build: Any) -> Any:
        """An array like `x`, of what is built for each slice of rows."""
        if self.chunks is None:
            return build(slice(0, len(self.missing)))
        ends = np.cumsum([0, *self.chunks]).tolist()
        return pa.chunked_array(map(build, map(slice, ends[:-1], ends[1:])), kind)


class Vectors(Column):
    """Fixed-size lists and tensors: rows of one shape."""

    def __init__(self, x: Any, storage: Any) -> None:
        opened = [_rows(part, storage) for part in _parts(x, storage)]
        self.parts = [_logical_order(x.type, rows) for rows, _ in opened]
        missing = np.concatenate([missing for _, missing in opened])
        array, library = self.parts[0], "numpy"
        if len(self.parts) > 1:
            like = np.empty((), array.dtype)
            array, library = np.broadcast_to(like, (len(x), *array.shape[1:])), "chunks"
        super().__init__(x, array, library, missing)

    def moved(self, name: str, library: str) -> Opened:
        self.library = "numpy"
        return super().moved(name, library)

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        if self.library == "chunks":
            return Chunks(self.parts)
        return self.array if look or len(self.parts) == 1 else np.concatenate(self.parts)

    def close(self, y: Any) -> Any:
        kind = _with_values(self.kind, y.dtype)
        storage = getattr(kind, "storage_type", kind)
        rows = np.ascontiguousarray(_storage_order(kind, y).reshape(len(y), storage.list_size))

        def build(at: slice) -> Any:
            found = nested(storage, self.missing[at], None, rows[at])
            return found if storage is kind else pa.ExtensionArray.from_storage(kind, found)

        return self.built(kind, build)


class Lists(Column):
    """Lists of any lengths, by offsets or as views, as ragged vectors of their entries, of which
    those under a null are none."""

    def __init__(self, x: Any) -> None:
        self.parts = _parts(x, x.type)
        self.ends = [_ends(part) for part in self.parts]
        self.bounds = self.ends[0]
        if len(self.ends) > 1:
            begins = np.cumsum([ends[-1] for ends in self.ends])
            shifted = (e[1:] + b for e, b in zip(self.ends[1:], begins, strict=False))
            self.bounds = np.concatenate([self.ends[0], *shifted])
        like = np.broadcast_to(np.empty((), _dtype(x.type.value_type)), (len(x), 1))
        library = "ragged" if len(self.parts) == 1 else "chunks"
        null = np.array(x.is_null()) if x.null_count else np.zeros(len(x), bool)
        super().__init__(x, like, library, null)

    def moved(self, name: str, library: str) -> Opened:
        raise TypeError(
            f"x: backend {name!r} cannot serve this input: lists of any lengths; try "
            'backend="numba" or "numpy"'
        )

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        found, first = [], 0
        for part, ends in zip(self.parts, self.ends, strict=True):
            entries = self.entries(part, first, ends, look)
            found.append(Ragged(entries, ends, (len(part),)))
            first += len(part)
        return found[0] if len(found) == 1 else Chunks(found)

    def entries(self, part: Any, first: int, ends: Array, look: bool) -> Array:
        """The entries of the rows of a chunk, in order; in memory views may have another."""
        dtype = _contract.rule(self.array.dtype).result
        if look:
            return np.broadcast_to(np.empty((), dtype), ends[-1])
        flat = part.flatten()
        if flat.null_count:
            nulls = np.flatnonzero(flat.is_null())
            self.missing[first + np.searchsorted(ends, nulls, side="right") - 1] = True
        entries: Array = np.require(_numbers(flat), dtype, ("C", "A"))
        return entries

    def spared(self) -> Array:
        empty: Array = np.diff(self.bounds) == 0
        return self.missing | empty

    def close(self, y: Any) -> Any:
        kind = _with_values(self.kind, y.dtype)

        def build(at: slice) -> Any:
            bounds = self.bounds[at.start : at.stop + 1]
            values = y[bounds[0] : bounds[-1]]
            return nested(
                kind, self.missing[at], bounds - bounds[0] if at.start else bounds, values
            )

        return self.built(kind, build)


def open(x: Any, request: _contract.Request) -> Column:
    """As a NumPy array with a first axis of rows, or as ragged vectors."""
    if request.dtype is not None:
        asked = _contract.floating(request.dtype, complex_=False)
        if asked not in (np.float16, np.float32, np.float64):
            raise TypeError(f"dtype: Arrow has no {_contract.name(asked)}")
    kind = x.type
    if type(kind) in _LISTS:
        return Lists(x)
    tensor = isinstance(kind, pa.FixedShapeTensorType)
    storage = kind.storage_type if tensor else kind
    if not pa.types.is_fixed_size_list(storage):
        raise TypeError(
            f"x: Arrow type {kind} is not supported; accepted are lists of numbers of all kinds "
            "and fixed_shape_tensor, chunked or not"
            + ("; numbers are one vector by np.asarray(x)" if _is_number(kind) else "")
        )
    return Vectors(x, storage)


# Lists of any lengths: how their types are made, what offsets are of, and whether sizes are beside.
_LISTS: dict[Any, tuple[Any, Any, bool]] = {
    pa.ListType: (pa.list_, np.int32, False),
    pa.LargeListType: (pa.large_list, np.int64, False),
    ListViewType: (pa.list_view, np.int32, True),
    LargeListViewType: (pa.large_list_view, np.int64, True),
}


def nested(kind: Any, missing: Array, bounds: Array | None, values: Array) -> Any:
    """An array of lists, of which these are null, of the numbers between bounds; None where all
    lists are of one size."""
    buffers: list[Array] = []
    if bounds is not None:
        _, index, is_view = _LISTS[type(kind)]
        offsets = bounds.astype(index, copy=False)
        buffers = [offsets[:-1], np.diff(offsets)] if is_view else [offsets]
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    child = pa.Array.from_buffers(kind.value_type, values.size, [None, pa.py_buffer(values)])
    found = [valid, *map(pa.py_buffer, buffers)]
    return pa.Array.from_buffers(kind, len(missing), found, children=[child])


def _parts(x: Any, storage: Any) -> list[Any]:
    """The chunks of an array, or an empty one, as their storage."""
    parts = x.chunks if isinstance(x, pa.ChunkedArray) else [x]
    return [getattr(part, "storage", part) for part in parts] or [pa.array([], storage)]


def _rows(x: Any, storage: Any) -> tuple[Array, Array]:
    """The values of a fixed-size list array as a matrix, and which of its rows are null or have a
    null element."""
    width, n = storage.list_size, len(x)
    if width < 0:  # as a damaged file says
        raise ValueError(f"x: expected lists of a size of 0 or more, got {storage}")
    values = x.values.slice(x.offset * width, n * width)
    missing = np.asarray(x.is_null())
    if values.null_count:
        missing = missing | np.asarray(values.is_null()).reshape(n, width).any(axis=1)
    return _numbers(values).reshape(n, width), missing


def _ends(x: Any) -> Array:
    """Where the rows of an array of lists end among their entries, after a zero, if its offsets
    stay within those; rows that are null have none, whatever their offsets say."""
    x.validate(full=True)
    _, index, is_view = _LISTS[type(x.type)]
    offsets = np.asarray(x.offsets)
    ends: Array
    if not is_view and not x.null_count and len(x):
        ends = np.subtract(offsets, offsets[0], dtype=np.int64)
        return ends
    sizes = np.asarray(x.sizes) if is_view else np.diff(offsets)
    ends = np.append(0, np.cumsum(np.where(x.is_null(), 0, sizes), dtype=np.int64))
    if ends[-1] > np.iinfo(index).max:  # as of views that overlap
        raise ValueError(
            f"x: the rows of this {x.type} have {ends[-1]} entries together, more than its offsets "
            "can count; for such a chunk try pyarrow.LargeListViewArray.from_arrays("
            "x.offsets.cast('int64'), x.sizes.cast('int64'), x.values, mask=x.is_null())"
        )
    return ends


# What NumPy calls them; the names of integers are the same.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def _dtype(kind: Any) -> np.dtype[Any]:
    """What NumPy calls a type of numbers."""
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        told = f"x: Arrow lists of {kind} are not supported; accepted are lists of numbers"
        if kind == pa.binary(2):
            told += (
                "; if these are float16 without their logical type, as some write to Parquet, try "
                "x.view(kind) of each chunk, with such a kind as pyarrow.list_(pyarrow.float16())"
            )
        raise TypeError(told)
    return np.dtype(_FLOATS.get(str(kind), str(kind)))


def _numbers(values: Any) -> Array:
    """The numbers of an Arrow array where they lie; what is under a null is what it is."""
    dtype = _dtype(values.type)
    if dtype == np.bool_:
        filled = values.fill_null(False)
        return np.asarray(filled.to_numpy(zero_copy_only=False), bool)
    buffer = values.buffers()[1]
    if buffer is None or not len(values):  # then it may end before the offset
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def _with_values(kind: Any, dtype: np.dtype[Any]) -> Any:
    """The same type of other numbers, with its field's name and metadata."""
    value = pa.from_numpy_dtype(dtype)
    if isinstance(kind, pa.FixedShapeTensorType):
        names, order = kind.dim_names, kind.permutation
        return pa.fixed_shape_tensor(value, kind.shape, names, order)
    field = kind.value_field.with_type(value)
    if type(kind) in _LISTS:
        return _LISTS[type(kind)][0](field)
    return pa.list_(field, kind.list_size)


def _logical_order(kind: Any, rows: Array) -> Array:
    """Rows of tensors with the axes that their type says."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return rows
    tensors = rows.reshape(len(rows), *kind.shape)
    if kind.permutation is None:
        return tensors
    return tensors.transpose(0, *(d + 1 for d in kind.permutation))


def _storage_order(kind: Any, y: Array) -> Array:
    """The reverse."""
    if not isinstance(kind, pa.FixedShapeTensorType) or kind.permutation is None:
        return y
    return y.transpose(0, *(1 + int(d) for d in np.argsort(kind.permutation)))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
