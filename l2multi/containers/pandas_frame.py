"""Series and DataFrames of pandas: index, name, columns and attrs are kept.

A column of vectors is a Series of Arrow lists, or of objects that are arrays or lists. A Series of
numbers is one vector, as a row or a column of a DataFrame is. Where a dtype has nulls, a null
element makes its vector null; NaN in a dtype of NumPy is a NaN.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from l2multi import _contract, _cures
from l2multi._opened import Inside, Opened
from l2multi._ragged import Array, Ragged
from l2multi.containers import numbers, numpy_array

# pandas' own dtypes with nulls.
_NULLABLE = (
    pd.BooleanDtype, pd.Float32Dtype, pd.Float64Dtype,
    pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype, pd.Int64Dtype,
    pd.UInt8Dtype, pd.UInt16Dtype, pd.UInt32Dtype, pd.UInt64Dtype,
)  # fmt: skip
_PLAIN = {bool, int, float, complex}
_NULLS = {type(None), type(pd.NA), type(pd.NaT)}


class _Pandas(Opened):
    """What both kinds have in common. `kind` is a dtype of the family that the nulls are of."""

    has_fast_path = False
    kind: Any = None

    def target(self, out: Any) -> Any:
        raise TypeError(
            "out: a Series or DataFrame may share its memory with others, so out= cannot be used; "
            "try without"
        )

    def refuse_keepdims(self, keepdims: bool) -> None:
        """Refuse norms with axes for which there is no index."""
        if keepdims:
            raise TypeError("keepdims: norms of pandas are a Series or a number, without keepdims")


class Numbers(_Pandas):
    """A Series or DataFrame of numbers, as an array of one dtype, to which NumPy promotes those of
    the columns, `kinds`. Where one has nulls, `null` tells which vectors are null."""

    def __init__(self, x: Any, kinds: list[Any]) -> None:
        self.x, self.given = x, kinds
        self.found = {kind: _number(kind) for kind in dict.fromkeys(kinds)}
        common = np.result_type(*self.found.values()) if kinds else np.dtype(np.float64)
        other = [kind for kind in self.found if not isinstance(kind, np.dtype)]
        self.has_nulls = bool(other)
        self.null: Any = None
        self.ready = len(self.found) < 2 and not other
        if self.ready:
            array = np.asarray(x.to_numpy(dtype=common))
        else:  # memory that nobody touches before `values` does
            array = np.empty(x.shape, common, "F")
        super().__init__(array, "numpy")
        if other:
            self.kind = other[0]
            self.kinds = [self.kind if isinstance(kind, np.dtype) else kind for kind in kinds]

    def check_result(self, dtype: np.dtype[Any]) -> None:
        _check_held(dtype, self.kind)

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        self.over = axes
        if look or self.ready:
            return self.array
        if not self.has_nulls:
            return np.asarray(self.x.to_numpy(dtype=self.array.dtype))
        missing = np.zeros(self.x.shape, bool, "F")
        for i, kind in enumerate(self.given):
            at = (slice(None), i)[: self.x.ndim]
            column = self.x.iloc[at].array
            if isinstance(kind, np.dtype):
                self.array[at] = column
            else:
                found = self.found[kind]
                self.array[at] = column.to_numpy(dtype=found, na_value=found.type(1).item())
                missing[at] = column.isna()
        self.null = missing.any(axis=axes, keepdims=True)
        return self.array

    def judged(self, norms: Array) -> Array:
        if self.null is None:
            return norms
        return np.where(np.squeeze(self.null, self.over), np.ones((), norms.dtype), norms)

    def make_null(self, vectors: Any) -> None:
        self.null = self.null | np.expand_dims(vectors, self.over)

    def close(self, y: Any) -> Any:
        x, null = self.x, None if self.null is None else np.broadcast_to(self.null, y.shape)
        if x.ndim == 1:
            return _series(_held(y, null, self.kind), x, x.index)
        if null is None:
            made = x._constructor(y, x.index, x.columns, copy=False)
        else:
            columns = enumerate(zip(y.T, null.T, self.kinds, strict=True))
            held = {i: _held(*column) for i, column in columns}
            made = x._constructor(held, x.index, copy=False)
            made.columns = x.columns
        return made.__finalize__(x)

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        self.refuse_keepdims(keepdims)
        if not axes:
            return self.close(norms)
        null = None if self.null is None else np.squeeze(self.null, axes)
        if norms.ndim:
            index = self.x.columns if axes == (0,) else self.x.index
            return _series(_held(norms, null, self.kind), self.x, index)
        return norms if null is None or not null else pd.NA


class Column(Inside):
    """A Series of Arrow lists, by its Arrow array."""

    def __init__(self, inner: Opened, x: Any) -> None:
        super().__init__(inner)
        self.x = x

    def wrap(self, result: Any) -> Any:
        return _series(pd.arrays.ArrowExtensionArray(result), self.x, self.x.index)


class Rows(_Pandas):
    """A Series of objects, each an array, a list or a tuple of numbers, or null, as a row with a
    null element is. They open as ragged vectors, of which nulls are empty ones."""

    has_nulls, kind = True, pd.Float64Dtype()

    def __init__(self, x: Any) -> None:
        self.x, self.held = x, x.to_numpy().tolist()
        null = x.isna().tolist()
        self.rows = [None if null[i] else _seen(i, row) for i, row in enumerate(self.held)]
        # A null stays what it is; a row that becomes one is None.
        self.nulls = [row if null[i] else None for i, row in enumerate(self.held)]
        self.null = np.array([row is None for row in self.rows], bool)
        self.lengths = np.array([0 if row is None else row.size for row in self.rows], np.intp)
        dtype = _common(self.rows, self.held)
        super().__init__(np.broadcast_to(np.empty((), dtype), (len(x), 1)), "ragged")

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        axes = super().axes(request)
        if axes != (1,):
            raise ValueError(
                f"axis: each row of a Series of arrays is a vector of its own, got {request.axis!r}"
            )
        return axes

    def moved(self, name: str, library: str) -> Opened:
        raise TypeError(
            f"x: backend {name!r} cannot serve this input: a Series of arrays; try "
            'backend="numba" or "numpy"'
        )

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        dtype = self.array.dtype
        self.offsets = np.append(0, np.cumsum(self.lengths))
        if look:
            entries = np.broadcast_to(np.empty((), dtype), self.offsets[-1])
        else:
            rows = [(i, row) for i, row in enumerate(self.rows) if row is not None and row.size]
            parts = [_row(i, self.held[i]) if type(row) is _Like else row for i, row in rows]
            entries = np.concatenate([np.empty(0, dtype), *parts], dtype=dtype, casting="same_kind")
        return Ragged(entries, self.offsets, (len(self.rows),))

    def judged(self, norms: Array) -> Array:
        return np.where(self.lengths == 0, np.ones((), norms.dtype), norms)

    def make_null(self, vectors: Any) -> None:
        self.null = self.null | vectors

    def close(self, y: Any) -> Any:
        made = np.empty(len(self.rows), object)
        bounds = self.offsets.tolist()
        for i, null in enumerate(self.null.tolist()):
            row: Any = self.nulls[i] if null else y[bounds[i] : bounds[i + 1]]
            if not null and isinstance(self.held[i], (list, tuple)):
                row = row.tolist() if isinstance(self.held[i], list) else tuple(row.tolist())
            made[i] = row
        return _series(made, self.x, self.x.index)

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        self.refuse_keepdims(keepdims)
        return _series(_held(norms, self.null, self.kind), self.x, self.x.index)


def open(x: Any, request: _contract.Request) -> Opened:
    """By what its dtypes say it holds."""
    if isinstance(x, pd.DataFrame):
        return Numbers(x, list(x.dtypes))
    if isinstance(x.dtype, pd.ArrowDtype):
        import pyarrow as pa  # which nobody needs for the rest

        kind = x.dtype.pyarrow_dtype
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            from l2multi.containers import arrow

            return Column(arrow.open(x.array.__arrow_array__(), request), x)
    return Rows(x) if x.dtype == np.object_ else Numbers(x, [x.dtype])


def _number(kind: Any) -> np.dtype[Any]:
    """The dtype of the numbers of a column."""
    dtype: Any = kind
    if isinstance(kind, (pd.ArrowDtype, *_NULLABLE)) and np.dtype(kind.numpy_dtype).kind in "biuf":
        dtype = np.dtype(kind.numpy_dtype)
    try:
        _contract.rule(dtype)
    except TypeError as error:
        how = (
            "of numbers in text, try x.astype(float); of a DataFrame, columns of numbers alone are "
            'x.select_dtypes("number")'
        )
        if isinstance(kind, pd.SparseDtype):
            how = "try x.sparse.to_coo() of a frame, x.sparse.to_dense() of a Series"
        if kind == np.object_ or getattr(kind, "type", None) is list:  # as Arrow's lists are
            how = "for numbers, try x.convert_dtypes(); for vectors, one column of them: x[name]"
        raise TypeError(f"{error}; {how}") from None
    found: np.dtype[Any] = dtype
    return found


class _Like(NamedTuple):
    """What is known of a row that is not an array yet."""

    dtype: np.dtype[Any]
    size: int


def _seen(i: int, row: Any) -> Array | _Like | None:
    """A row of a Series of objects if it is an array, else what it will be as one; None if it has a
    null element."""
    if isinstance(row, (list, tuple)):  # as an array they would be a copy
        kinds = set(map(type, row))
        small = kinds in ({int}, {int, float}) and min(row) >= -(2**63) and max(row) < 2**63
        if kinds == {float} or small:
            return _Like(np.dtype(np.int64 if kinds == {int} else np.float64), len(row))
    made = _row(i, row)
    if made is None or (isinstance(row, np.ndarray) and row.dtype != object):
        return made
    return _Like(made.dtype, made.size)


def _row(i: int, row: Any) -> Array | None:
    """A row of a Series of objects as an array; None if it has a null element."""
    if type(row) is not np.ndarray or row.dtype == object:
        plain = type(row) is np.ndarray or isinstance(row, (list, tuple))
        kinds = set(map(type, row)) if plain else set()
        if not _NULLS.isdisjoint(kinds):
            return None
        if kinds == {float}:
            row = np.asarray(row, np.float64)
        elif plain:  # of an empty one nothing says that it is of float64
            row = numbers.stacked(list(row)) if len(row) else np.empty(0, bool)
        elif isinstance(row, np.ndarray) and not isinstance(row, np.ma.MaskedArray):
            row = numpy_array.base(f"x.iloc[{i}]", row)
        elif _cures.is_number(row):
            raise TypeError(
                f"x: this Series of objects holds a number at position {i}; of numbers, try "
                "x.convert_dtypes()"
            )
        else:
            raise TypeError(f"x: this Series {_cures.no_number(row)}")
    if row.ndim != 1:
        raise ValueError(
            f"x: the row at position {i} has {row.ndim} axes; accepted are rows of one axis"
        )
    found: Array = row
    return found


def _common(rows: list[Array | _Like | None], held: list[Any]) -> np.dtype[Any]:
    """The dtype of the results: that to which NumPy promotes those of the rows. Empty rows have no
    say beside others, nor have Python's numbers beside an array of floating ones, but that complex
    numbers stay complex."""
    rules = {dtype: _contract.rule(dtype) for dtype in {r.dtype for r in rows if r is not None}}
    heard: list[Any] = list(rules)
    weak: list[tuple[int, Array | _Like]] = []
    if len(rules) > 1:
        full = [(i, row) for i, row in enumerate(rows) if row is not None and row.size]
        heard = list({row.dtype for _, row in full}) or heard
        own = {row.dtype for i, row in full if not _is_plain(held[i])}
        if any(rules[dtype].result == rules[dtype].native for dtype in own):
            weak = [(i, row) for i, row in full if _is_plain(held[i])]
            some_complex = any(_contract.is_complex(row.dtype) for _, row in weak)
            heard = [*own, 0j] if some_complex else [*own]
    common = _contract.rule(np.result_type(*heard) if heard else np.dtype(np.float64)).result
    for i, _ in weak:
        _check_fits(i, _row(i, held[i]), common)
    return common


def _is_plain(row: Any) -> bool:
    """Whether a row is of Python's numbers, which are of no dtype."""
    if isinstance(row, np.ndarray) and row.dtype != object:
        return False
    return _PLAIN.issuperset(map(type, row))


def _check_fits(i: int, row: Any, dtype: np.dtype[Any]) -> None:
    """Refuse a row whose numbers are beyond the range of the dtype of the others."""
    wide = row.astype(np.result_type(row.dtype, np.float64))
    wide = wide[np.isfinite(wide)]
    with np.errstate(all="ignore"):
        lost = abs(wide.astype(dtype).astype(wide.dtype) - wide)
    if not (lost <= _contract.default_tol(dtype) * abs(wide).max(initial=0.0)).all():
        raise ValueError(
            f"x: the row at position {i} holds numbers beyond {_contract.name(dtype)}, the dtype "
            "of other rows; for results of float64, have it be np.asarray(row)"
        )


def _check_held(dtype: np.dtype[Any], kind: Any) -> None:
    """Refuse results for which the family of `kind` has no dtype."""
    if isinstance(kind, pd.ArrowDtype):
        if dtype.char not in "?efd":
            raise TypeError(f"dtype: Arrow has no {_contract.name(dtype)}")
    elif kind is not None and dtype.char not in "?fd":
        raise TypeError(f"dtype: pandas has no nullable {_contract.name(dtype)}")


def _held(values: Array, null: Any, kind: Any) -> Any:
    """Values as a column of the family of `kind`."""
    if kind is None:
        return values
    _check_held(values.dtype, kind)
    values, null = np.ascontiguousarray(values), np.ascontiguousarray(null)
    if isinstance(kind, pd.ArrowDtype):
        import pyarrow as pa

        return pd.arrays.ArrowExtensionArray(pa.array(values, mask=null))
    if values.dtype == bool:
        return pd.arrays.BooleanArray(values, null)
    return pd.arrays.FloatingArray(values, null)


def _series(values: Any, x: Any, index: Any) -> Any:
    """A Series of these values, of the class that goes with that of `x`, with what `x` says of
    itself. (What begins with an underscore here, pandas documents for subclasses.)"""
    if x.ndim == 1:
        made = x._constructor(values, index, name=x.name, copy=False)
    else:
        made = x._constructor_sliced(values, index, copy=False)
    return made.__finalize__(x)
