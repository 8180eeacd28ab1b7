"""Sparse arrays and matrices of SciPy, all seven formats, over any axes.

They open as ragged vectors of their stored entries, in index order; entries for one place are added
first. All takes work and memory in proportion to the stored entries, and to the index arrays that
are there. The zeros with which BSR fills its blocks and DIA its diagonals are no entries, so that a
matrix has the same bits in every format.
"""

import copy
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from l2multi import _backends, _contract
from l2multi._opened import Opened
from l2multi._ragged import Array, Ragged

_HELD = "fdgFDG"  # the floating dtypes, by their characters, that SciPy has sparse arrays of


class Stored(NamedTuple):
    """The entries of a matrix as its format stores them: their values; where they are in its `data`
    if they are not all of it; and the index of each along each axis."""

    values: Array
    mask: Any
    coords: tuple[Array, ...]


class SparseArray(Opened):
    """A sparse array or matrix."""

    has_fast_path = False

    def __init__(self, x: Any) -> None:
        super().__init__(x, "ragged")
        # Shares all arrays with x, and is asked in its place what is then kept: x may change yet.
        self.like = copy.copy(x)
        # Where the ragged entries are those stored, but in another order, the order; and their
        # places, if there are fewer of them, for some have been added.
        self.order: Array | None = None
        self.places: tuple[Array, ...] | None = None

    def check_result(self, dtype: np.dtype[Any]) -> None:
        if dtype != self.array.dtype and dtype.char not in _HELD:
            raise TypeError(
                f"dtype: SciPy's sparse arrays cannot hold {_contract.name(dtype)}; dense ones can"
            )

    def moved(self, name: str, library: str) -> Opened:
        raise TypeError(
            f"x: backend {name!r} cannot serve this input: a SciPy sparse array; try "
            'backend="numba" or "numpy", or x.toarray()'
        )

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        x = self.array
        batch = _contract.batch_shape(x.shape, axes, False)
        if x.format in ("csr", "csc", "bsr"):
            _check_indptr(x)
        if look:
            like = np.broadcast_to(np.empty((), _floating(x.dtype)), x.nnz)
            self.ragged = Ragged(like, np.array([0] + [x.nnz] * (2 if batch else 1)), batch)
        elif (offsets := _offsets(self.like, axes)) is not None:
            self.stored = Stored(x.data[: offsets[-1]], None, ())
            self.ragged = Ragged(_entries(self.stored.values), offsets, batch)
        else:
            self.stored = _stored(x)
            self.ragged = self._grouped(axes, batch)
        return self.ragged

    def _grouped(self, axes: tuple[int, ...], batch: tuple[int, ...]) -> Ragged:
        """The stored entries, by vector and by index."""
        values, _, coords = self.stored
        shape = self.array.shape
        for index, extent in zip(coords, shape, strict=True):
            # Negative ones are large ones then.
            if len(index) and index.view(index.dtype.str.replace("i", "u")).max() >= extent:
                raise ValueError(f"x: an index is out of range for shape {shape}")
        kept = tuple(d for d in range(len(shape)) if d not in axes)
        lead = kept or axes[:1]
        rows, count = _numbers(coords, shape, lead)
        columns, width = _numbers(coords, shape, tuple(d for d in axes if d not in lead))
        sparsely = count > 4 * len(values)
        if sparsely:  # only vectors that have entries
            rows, count = _compact(rows)
        ends = _ends(rows, columns, count)
        if ends is not None:
            first: Any = ends[:-1]
        else:
            values, order, grid = _sorted(values, rows, columns, (count, width))
            ends = grid.indptr
            first = order[ends[:-1]] if sparsely else None
            if grid.has_canonical_format:
                self.order = order
            else:
                plain = len(shape) == 2 and len(lead) == 1 and not sparsely
                values, ends = self._added(values, order, grid, lead[0] if plain else None)
        if not kept:
            return Ragged(_entries(values), ends[[0, -1]], batch)
        if not sparsely:
            return Ragged(_entries(values), ends, batch)
        where = tuple(coords[d][first] for d in kept)
        return Ragged(_entries(values), np.append(ends, ends[-1]), batch, where)

    def _added(
        self, values: Array, order: Array, grid: Any, lead: int | None
    ) -> tuple[Array, Array]:
        """Values, those for one place added, and where vectors begin and end among them; in more
        than their own width, but bools, which SciPy adds as NumPy does. `lead`: the axis of the
        rows of a grid that has a matrix's rows and columns."""
        new = np.append(True, grid.indices[1:] != grid.indices[:-1])
        new[grid.indptr[grid.indptr < len(new)]] = True
        first = np.flatnonzero(new)
        ends = np.searchsorted(first, grid.indptr)
        if lead is None:
            first_stored = order[first]
            self.places = tuple(index[first_stored] for index in self.stored.coords)
        else:  # in a third of the time
            rows = np.repeat(np.arange(len(ends) - 1, dtype=grid.indices.dtype), np.diff(ends))
            places = rows, grid.indices[first]
            self.places = places[::-1] if lead else places
        wide = values.dtype if values.dtype == bool else np.result_type(values, np.float64)
        with np.errstate(all="ignore"):
            added = np.add.reduceat(values, first, dtype=wide)
            return added.astype(_floating(values.dtype)), ends

    def target(self, out: Any) -> Any:
        x = self.array
        if out is not x:
            raise TypeError(
                "out: of a SciPy sparse array the unit vectors can be written to x itself only, "
                f"by out=x; got {type(out).__name__}"
            )
        if _floating(x.dtype) != x.dtype:
            raise TypeError(
                f"out: expected dtype {_floating(x.dtype)}, got {_contract.name(x.dtype)}; try "
                "without out="
            )
        if x.format not in ("lil", "dok"):
            _contract.check_out(x.data, x.data.shape, x.dtype)
        return self.ragged.entries

    def target_norms(self, out: Any) -> Any:
        return out

    def close(self, y: Any) -> Any:
        x = self.array
        if self.places is not None or x.format in ("lil", "dok"):
            return self._rebuilt(y)
        y = self._as_stored(y)
        new = self.like
        if self.stored.mask is None:
            new.data = y
        else:
            with np.errstate(all="ignore"):
                new.data = x.data.astype(y.dtype)
            new.data[self.stored.mask] = y
        # Copies, for `eliminate_zeros` writes to them.
        if x.format == "coo":
            new.coords = tuple(map(_copied, x.coords))
        elif x.format == "dia":
            new.offsets = x.offsets.copy()
        else:
            new.indices = _copied(x.indices[: len(new.data)])
            new.indptr = x.indptr.copy()
        return new

    def close_target(self, out: Any, axes: tuple[int, ...] | None, keepdims: bool = False) -> Any:
        if axes is not None:
            return out
        y = self.ragged.entries
        if self.places is not None or out.format in ("lil", "dok"):
            vars(out).update(vars(self._rebuilt(y)))
        elif self.stored.mask is not None:
            out.data[self.stored.mask] = self._as_stored(y)
        elif not np.may_share_memory(y, out.data):
            out.data[: len(y)] = self._as_stored(y)
        return out

    def _as_stored(self, y: Array) -> Array:
        """Ragged entries in the order of those stored."""
        if self.order is None:
            return y
        stored = np.empty_like(y)
        stored[self.order] = y
        return stored

    def _rebuilt(self, y: Array) -> Any:
        """A matrix of new structure: where entries have been added, or live in Python's lists and
        dictionaries."""
        x = self.array
        places = self.stored.coords if self.places is None else self.places
        y = self._as_stored(y) if self.places is None else y
        made: Any = sparse.coo_array((y, places), shape=x.shape)
        made = made.tobsr(x.blocksize) if x.format == "bsr" else made.asformat(x.format)
        if x.format in ("csr", "csc", "bsr"):
            made.indices = made.indices.astype(x.indices.dtype)
            made.indptr = made.indptr.astype(x.indptr.dtype)
            made.has_canonical_format = True
        elif x.format == "coo":
            coords = zip(made.coords, x.coords, strict=True)
            made.coords = tuple(new.astype(old.dtype) for new, old in coords)
            made.has_canonical_format = self.places is not None
        vars(self.like).update(vars(made))
        return self.like


def open(x: Any, request: _contract.Request) -> Opened:
    """As it is."""
    return SparseArray(x)


def _floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What integers and bools become, as do the unit vectors; others stay."""
    return _contract.rule(dtype).result


def _entries(values: Array) -> Array:
    """Values as the entries of a ragged array."""
    return np.require(values, _floating(values.dtype), ("C", "A"))


def _offsets(x: Any, axes: tuple[int, ...]) -> Array | None:
    """Where vectors begin and end whose entries are stored in a row, in order and each once; None
    where they are not."""
    last = x.ndim - 1
    if x.format not in ("csr", "csc") or (x.format == "csc" and axes != (0,)):
        return None
    if x.format == "csr" and axes not in ((last,), (0, 1)[: x.ndim]):
        return None
    ends = np.ascontiguousarray(x.indptr, np.int64)  # as kernels read them, for which once will do
    if not _canonical(x, ends):
        return None
    return ends if len(axes) == 1 else ends[[0, -1]]


def _of_backend(name: str) -> Any:
    """What does something to indices, of the first backend that has it."""
    for row in _backends.rows("ragged"):
        try:
            return getattr(_backends.load(row), name)
        except (ImportError, AttributeError):
            continue
    return None


def _copied(indices: Array) -> Array:
    copied = _of_backend("copied")
    return indices.copy() if copied is None else copied(indices)


FEW = 2**15  # entries up to which SciPy is done before a kernel has begun


def _canonical(x: Any, ends: Array) -> bool:
    """Whether entries are stored in order and each once. SciPy looks at them by one core, and keeps
    what it finds."""
    unknown = "_has_canonical_format" not in vars(x) and x.indices.size >= FEW
    if unknown and (look := _of_backend("ascending")) is not None:
        found = look(x.indices, ends)
        if found is not None:
            x.has_canonical_format = found
    return bool(x.has_canonical_format)


def _check_indptr(x: Any) -> None:
    """Refuse one that would have entries read beyond the arrays."""
    ends, most = x.indptr, min(len(x.data), len(x.indices))
    if ends[0] != 0 or ends[-1] > most or (ends[1:] < ends[:-1]).any():
        raise ValueError("x: indptr does not ascend from 0 to at most the number of entries")


def _stored(x: Any) -> Stored:
    """The entries of a matrix in any format."""
    if x.format in ("csr", "csc"):
        n = x.indptr[-1]
        index = x.indices[:n]
        if x.ndim == 1:
            return Stored(x.data[:n], None, (index,))
        vectors = np.repeat(np.arange(len(x.indptr) - 1, dtype=index.dtype), np.diff(x.indptr))
        return Stored(x.data[:n], None, (vectors, index) if x.format == "csr" else (index, vectors))
    if x.format == "bsr":
        data, (height, width) = x.data[: x.indptr[-1]], x.blocksize
        mask = block, row, column = np.nonzero(data)
        rows = np.repeat(np.arange(len(x.indptr) - 1), np.diff(x.indptr))
        return Stored(
            data[mask], mask, (rows[block] * height + row, x.indices[block] * width + column)
        )
    if x.format == "dia":
        columns = np.arange(x.data.shape[1])
        rows = columns - x.offsets[:, None].astype(np.intp)
        inside = (rows >= 0) & (rows < x.shape[0]) & (columns < x.shape[1])
        mask = diagonal, column = np.nonzero(inside & (x.data != 0))
        return Stored(x.data[mask], mask, (rows[diagonal, column], column))
    if x.format == "lil":  # whose longdoubles pass through float64 in `tocoo`
        lengths = list(map(len, x.rows))
        values, columns = (
            np.fromiter(chain.from_iterable(lists), dtype, sum(lengths))
            for lists, dtype in ((x.data, x.dtype), (x.rows, np.intp))
        )
        return Stored(values, None, (np.repeat(np.arange(len(lengths)), lengths), columns))
    x = x.tocoo()
    return Stored(x.data, None, x.coords)


def _ends(rows: Array, columns: Array, count: int) -> Array | None:
    """Where vectors begin and end among entries in order, each for a place of its own; None where
    they are not."""
    if (rows[1:] < rows[:-1]).any():
        return None
    again = columns[1:] <= columns[:-1]
    new = np.flatnonzero(rows[1:] != rows[:-1])
    again[new] = False
    if again.any():
        return None
    starts = np.append(0, new + 1)[: len(rows)]
    ends = np.zeros(count + 1, np.int64)
    ends[1:][rows[starts]] = np.diff(starts, append=len(rows))
    return np.cumsum(ends, out=ends)


def _sorted(
    values: Array, rows: Array, columns: Array, shape: tuple[int, int]
) -> tuple[Array, Array, Any]:
    """Values by row and by column, their positions before, and what SciPy sorted them as. It sorts
    by counting, and a value of four bytes or fewer goes along beside its position: 10 million in
    random order take 0.22 s so, fetched later 0.25, and sorted row by row in place of the first
    pass 0.1 more (Zen 5)."""
    size = len(values)
    positions = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
    carried = values.itemsize <= positions.itemsize == 4
    if carried:
        formats = [positions.dtype, values.dtype]
        both = np.dtype(
            {"names": ["position", "value"], "formats": formats, "offsets": [0, 4], "itemsize": 8}
        )
        held = np.empty(size, both)
        held["position"], held["value"] = positions, values
        positions = held.view(np.int64)
    grid: Any = sparse.coo_array((positions, (rows, columns)), shape=shape)
    grid.has_canonical_format = True  # so that none are added
    if shape[1] <= 4 * size:
        grid = grid.tocsc().tocsr()
    else:
        grid = grid.tocsr()
        grid.sort_indices()
    if carried:
        held = grid.data.view(both)
        return np.ascontiguousarray(held["value"]), held["position"].astype(np.intp), grid
    order = grid.data.astype(np.intp)
    return values.take(order, mode="clip"), order, grid


def _numbers(
    coords: tuple[Array, ...], shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[Array, int]:
    """One number for each entry, by its indices along these axes in C order, and a bound."""
    if not axes:
        return np.zeros(len(coords[0]), np.int32), 1
    numbers, extent = coords[axes[0]], shape[axes[0]]
    for d in axes[1:]:
        index, length = coords[d], shape[d]
        if extent * length >= 2**62:
            numbers, extent = _compact(numbers)
            index, length = _compact(index)
        numbers = numbers.astype(np.int64) * length + index.astype(np.int64)
        extent *= length
    return numbers, extent


def _compact(numbers: Array) -> tuple[Array, int]:
    """Numbers in the order of these, but no gaps between them, and how many there are."""
    found, places = np.unique(numbers, return_inverse=True)
    return places, len(found)
