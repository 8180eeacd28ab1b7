"""Arrow arrays of vectors: fixed-size lists and fixed-shape tensors, chunked or not.

A null vector stays null, a null element makes its vector null, and what lies under a null never
counts. Values are seen where they are; the result is one buffer.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from l2multi import _contract
from l2multi._containers import Opened

Array = np.ndarray[Any, Any]


class Vectors(Opened):
    """Vectors of one shape, one or more for each row, of a chunked array if `chunks` says how long
    its chunks are."""

    has_fast_path = False
    has_nulls = True

    def __init__(self, rows: Array, missing: Array, kind: Any, chunks: list[int] | None) -> None:
        super().__init__(rows, "numpy")
        self.missing, self.kind, self.chunks = missing, kind, chunks

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        axes = super().axes(request)
        if 0 in axes:
            raise ValueError(
                f"axis: each row of an Arrow array is a vector of its own, got {request.axis!r}"
            )
        return axes

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        if look or not self.missing.any():
            return self.array
        # A vector of ones is neither zero nor long, so that nothing of what lies there shows.
        rows = self.missing.reshape(-1, *(1,) * (self.array.ndim - 1))
        return np.where(rows, np.ones((), self.array.dtype), self.array)

    def target(self, out: Any) -> Any:
        raise TypeError("out: Arrow arrays are immutable, so out= cannot be used")

    def make_null(self, vectors: Array) -> None:
        if vectors.ndim != 1:
            raise ValueError('zero: "null" is for rows that are one vector each')
        self.missing = self.missing | vectors

    def close(self, y: Any) -> Any:
        kind = _with_values(self.kind, y.dtype)
        storage = getattr(kind, "storage_type", kind)
        rows = _storage_order(kind, y).reshape(len(y), storage.list_size)
        mask = pa.array(self.missing) if self.missing.any() else None
        if rows.shape[1]:
            child = pa.Array.from_buffers(
                storage.value_type, rows.size, [None, pa.py_buffer(np.ascontiguousarray(rows))]
            )
            found = pa.FixedSizeListArray.from_arrays(child, type=storage, mask=mask)
        else:
            found = pa.array([None if m else [] for m in self.missing.tolist()], storage)
        if storage is not kind:
            found = pa.ExtensionArray.from_storage(kind, found)
        return self._chunked(found)

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        if keepdims or norms.ndim != 1:
            raise TypeError(
                "axis: Arrow arrays have norms for rows that are one vector each, without keepdims;"
                " of parts of tensors, try l2multi.norm(x.to_numpy_ndarray(), axis)"
            )
        return self._chunked(pa.array(norms, mask=self.missing if self.missing.any() else None))

    def _chunked(self, found: Any) -> Any:
        if self.chunks is None:
            return found
        starts = np.cumsum([0, *self.chunks]).tolist()
        parts = [found.slice(a, n) for a, n in zip(starts, self.chunks, strict=False)]
        return pa.chunked_array(parts, found.type)


def open(x: Any, request: _contract.Request) -> Opened:
    """As a NumPy array with a first axis of rows."""
    if request.dtype is not None:
        asked = _contract.floating(request.dtype, complex_=False)
        if asked not in (np.float16, np.float32, np.float64):
            raise TypeError(f"dtype: Arrow has no {_contract.name(asked)}")
    kind, chunks = x.type, None
    parts = [x]
    if isinstance(x, pa.ChunkedArray):
        parts, chunks = x.chunks, [len(part) for part in x.chunks]
    storage = getattr(kind, "storage_type", kind)
    tensor = isinstance(kind, pa.FixedShapeTensorType)
    if not pa.types.is_fixed_size_list(storage) or (storage is not kind and not tensor):
        raise TypeError(
            f"x: Arrow type {kind} is not supported; accepted are fixed-size lists of numbers and "
            "fixed_shape_tensor, chunked or not"
        )
    opened = [_rows(getattr(part, "storage", part), storage) for part in parts]
    if len(opened) == 1:
        ((rows, missing),) = opened
    else:
        empty = _rows(pa.array([], storage), storage)
        rows, missing = map(np.concatenate, zip(empty, *opened, strict=True))
    return Vectors(_logical_order(kind, rows), missing, kind, chunks)


def _rows(x: Any, storage: Any) -> tuple[Array, Array]:
    """The values of a fixed-size list array as a matrix, and which of its rows are null or have a
    null element."""
    width, n = storage.list_size, len(x)
    values = x.values.slice(x.offset * width, n * width)
    missing = np.asarray(x.is_null())
    if values.null_count:
        missing = missing | np.asarray(values.is_null()).reshape(n, width).any(axis=1)
    return _numbers(values).reshape(n, width), missing


# What NumPy calls them; the names of integers are the same.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def _numbers(values: Any) -> Array:
    """The numbers of an Arrow array where they lie; what is under a null is what it is."""
    if pa.types.is_boolean(values.type):
        filled = values.fill_null(False)
        return np.asarray(filled.to_numpy(zero_copy_only=False), bool)
    kind = values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise TypeError(
            f"x: Arrow lists of {kind} are not supported; accepted are lists of numbers"
        )
    dtype = np.dtype(_FLOATS.get(str(kind), str(kind)))
    buffer = values.buffers()[1]
    if buffer is None:
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def _with_values(kind: Any, dtype: np.dtype[Any]) -> Any:
    """The same type of other numbers, with its field's name and metadata."""
    value = pa.from_numpy_dtype(dtype)
    if isinstance(kind, pa.FixedShapeTensorType):
        names, order = kind.dim_names, kind.permutation
        return pa.fixed_shape_tensor(value, kind.shape, names, order)
    return pa.list_(kind.value_field.with_type(value), kind.list_size)


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
