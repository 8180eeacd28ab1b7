"""The subjects of what people hold: each container in the variants that the shared suite runs on.

They have backends of which the bits are known from their own subjects, and go through fewer dtypes.
"""

import contextlib
import functools
import importlib
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import l2multi as l2
from l2multi import _backends, _containers, _contract
from tests import cases
from tests.conftest import VARIANTS, ArrayApiSubject, JaxSubject, Subject, TensorSubject


class Held(Subject):
    """A container that is opened as a NumPy array."""

    plain = False
    few = tuple(np.dtype(t) for t in ("f4", "c16", ml_dtypes.bfloat16, "i4"))

    def why_not(self, dtype):
        if dtype in cases.LONGS and self.name != self.reference:
            return "the contract has longdouble on NumPy only"
        return None

    def call(self, function, x, axis=-1, **keywords):
        return function(x, axis, backend=self.name, **keywords)


class ListSubject(Held):
    """Numbers, and lists of lists of Python's numbers or, where those have not the dtype, of NumPy
    arrays."""

    container = "list or number"

    def holds(self, shape, axis):
        return shape[:1] != (0,)

    def array(self, a):
        if not a.ndim:
            return a[()]
        numbers = a.tolist()
        found = np.asarray(numbers)
        return numbers if (found.dtype, found.shape) == (a.dtype, a.shape) else list(a)


class VectorSubject(Held):
    """Kinds of which each is one vector: the rows of an array, one by one. `array` makes one of a
    row, and `owns` looks at what comes of it."""

    any_axis = keeps_axes = refuses = False

    def holds(self, shape, axis):
        """Of no rows there is no dtype."""
        return len(shape) == 2 and shape[0] > 0 and axis in (1, -1)

    def run(self, function, a, axis=-1, **keywords):
        found = []
        for row in a:
            x = self.array(row)
            results = self.call(function, x, **keywords)
            results = results if isinstance(results, tuple) else (results,)
            if function is l2.normalize:
                assert self.owns(results[0], x)
            found.append([self.numpy(y) for y in results])
        found = [np.array(every) for every in zip(*found, strict=True)]
        return tuple(found) if len(found) > 1 else found[0]


class NumbersSubject(VectorSubject):
    """A Series of numbers."""

    container = "pandas"
    few = Held.few[:1]

    def array(self, a):
        return importlib.import_module("pandas").Series(a, name="e")

    def owns(self, y, like):
        return type(y) is type(like) and y.name == like.name and y.index.equals(like.index)


class SubclassSubject(Held):
    """Memory maps, and another subclass of `numpy.ndarray`, which come back as base arrays."""

    holds_layouts = True

    def hold(self, a):
        return a.view(np.memmap if self.variant.endswith("memory map") else np.recarray)

    def array(self, a):
        if self.variant.endswith("recarray") or not a.size:
            return self.hold(a)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x"
            a.tofile(path)
            return np.memmap(path, a.dtype, "r", shape=a.shape or (1,)).reshape(a.shape)


class MaskedSubject(Held):
    """Masked arrays; in one variant each vector ends in entries that are masked, which must not
    count. At the end they do not change the order of the summation either."""

    container = "masked array"

    @property
    def padded(self):
        """Whether there are masked entries."""
        return self.variant.endswith("masked entries")

    @property
    def holds_layouts(self):
        """With masked entries it is another array."""
        return not self.padded

    def hold(self, a):
        return np.ma.MaskedArray(a)

    array = hold

    def numpy(self, y):
        assert not np.ma.getmaskarray(y).any()
        return np.asarray(y)

    def owns(self, y, like):
        return type(y) is np.ma.MaskedArray or (isinstance(y, np.generic) and y.ndim == 0)

    def run(self, function, a, axis=-1, **keywords):
        along = self._along(a, axis)
        if along is None:
            return super().run(function, a, axis, **keywords)
        n = a.shape[along]
        shape = (*a.shape[:along], n + 3, *a.shape[along + 1 :])
        data = np.empty_like(a, shape=shape)
        inner, outer = ((*[slice(None)] * along, at) for at in (slice(n), slice(n, None)))
        data[inner] = a
        data[outer] = np.nan if cases.is_float(a.dtype.newbyteorder("=")) else 1
        mask = np.zeros(shape, bool)
        mask[outer] = True
        with self.scope(a.dtype, keywords.get("dtype")):
            results = self.call(function, np.ma.MaskedArray(data, mask), axis, **keywords)
        if function is not l2.normalize:
            assert self.owns(results, None)
            return self.numpy(results)
        y, *norms = results if isinstance(results, tuple) else (results,)
        assert all(self.owns(z, None) for z in (y, *norms))
        assert np.array_equal(np.ma.getmaskarray(y), mask)
        y = np.ascontiguousarray(y.data[inner])
        return (y, *map(self.numpy, norms)) if norms else y

    def _along(self, a, axis):
        """The first of the axes of the vectors, if they can have more entries."""
        axes = range(a.ndim) if axis is None else np.atleast_1d(np.array(axis)).ravel().tolist()
        try:
            axes = [range(a.ndim)[d] for d in axes]
        except (IndexError, TypeError):
            return None
        return min(axes) if self.padded and axes and a.size else None


class JaxOnHostSubject(JaxSubject):
    """JAX arrays that a backend of NumPy's library serves, to its bits."""

    same_bits, differentiable, immutable, compiles_shapes = True, False, False, False
    plain = False
    few = Held.few

    def scope(self, *dtypes):
        return self.jax.enable_x64(any(d is not None and self.x64(np.dtype(d)) for d in dtypes))

    def x64(self, dtype):
        """Integers become float64, as in NumPy."""
        return super().x64(dtype) or not cases.is_float(dtype)

    bound, default_float = Subject.bound, Subject.default_float

    def flushes(self, dtype):
        return False


class SparseSubject(JaxSubject):
    """BCOO and BCSR matrices by rows, with all entries stored, each once."""

    container = "sparse JAX matrix"
    differentiable, immutable, plain, any_axis = False, False, False, False
    zeros, refuses = ("keep",), False

    @property
    def few(self):
        """Integers in one of the classes only: a compilation takes long."""
        return (np.dtype("f4"), np.dtype("i4"))[: 1 + self.all_dtypes]

    @property
    def all_dtypes(self):
        """In one of them too."""
        return self.kind is self.sparse.BCOO

    def holds(self, shape, axis):
        return len(shape) == 2 and axis in (1, -1)

    @functools.cached_property
    def kind(self):
        """The class."""
        return getattr(self.sparse, self.variant.partition(":")[2])

    @functools.cached_property
    def sparse(self):
        """Loaded only for it."""
        import jax.experimental.sparse

        return jax.experimental.sparse

    def array(self, a):
        m, n = a.shape
        column = np.tile(np.arange(n, dtype="i4"), m)
        if self.kind is self.sparse.BCSR:
            places = [column, n * np.arange(m + 1, dtype="i4")]
        else:
            places = [np.stack([np.repeat(np.arange(m, dtype="i4"), n), column], 1)]
        parts = tuple(map(super().array, (a.reshape(-1), *places)))
        return self.kind(parts, shape=a.shape, indices_sorted=True, unique_indices=True)

    def run(self, function, a, axis=-1, **keywords):
        with self.scope(a.dtype, keywords.get("dtype")):
            x = self.array(a)
            results = self.call(function, x, axis, **keywords)
            if function is not l2.normalize:
                assert isinstance(results, self.jax.Array)
                return np.array(results)
            y, *norms = results if isinstance(results, tuple) else (results,)
            assert type(y) is self.kind
            places, expected = (z.tree_flatten()[0][1:] for z in (y, x))
            assert y.shape == x.shape
            assert all(map(np.array_equal, places, expected))
            y = np.array(y.data).reshape(a.shape)
            return (y, *map(np.array, norms)) if norms else y


class ArrayApiOnHostSubject(ArrayApiSubject):
    """Arrays of array-api-strict that a backend of NumPy's library serves, to its bits."""

    same_bits, plain = True, False
    bound = Subject.bound

    def __init__(self, variant, row):
        super().__init__("array_api:strict", _backends.first("array_api"))
        self.variant, self.group, self.name = variant, row.name, row.name
        self.few = Held.few


class WrappedSubject(Held):
    """What holds an array and says something about it: here of dimensions, or a unit."""

    def run(self, function, a, axis=-1, **keywords):
        results = self.call(function, self.array(a), axis, **keywords)
        if function is not l2.normalize:
            return self.bare(results, function)
        y, *norms = results if isinstance(results, tuple) else (results,)
        y = self.bare(y, function)
        return (y, *(self.bare(n, l2.norm) for n in norms)) if norms else y


class DataArraySubject(WrappedSubject):
    """DataArrays of xarray."""

    container = "DataArray"
    names_axes = True
    library = functools.cached_property(lambda self: importlib.import_module("xarray"))

    def array(self, a):
        """With dimensions that have names."""
        return self.library.DataArray(a, name="x", attrs={"from": "here"})

    def bare(self, y, function):
        """The data, once it is known that what was said about them has been kept."""
        assert type(y) is self.library.DataArray
        assert (y.name, y.attrs) == ("x", {"from": "here"})
        return np.asarray(y.data)


class QuantitySubject(WrappedSubject):
    """Quantities of pint."""

    container = "quantity"
    registry = functools.cached_property(
        lambda self: importlib.import_module("pint").UnitRegistry()
    )

    def array(self, a):
        """In metres."""
        return self.registry.Quantity(a, "metre")

    def bare(self, y, function):
        """The numbers: of norms in metres, of unit vectors without a unit."""
        if function is not l2.norm:
            return self.numpy(y)
        assert isinstance(y, self.registry.Quantity)
        assert y.units == self.registry.metre
        return np.asarray(y.magnitude)


class ColumnSubject(Held):
    """Arrow's fixed-size lists, whose rows are vectors; in variants lists with offsets, and views
    of which the last comes first.

    Between the rows lie others that are null, with something under them that must not count.
    """

    container = "Arrow array"
    any_axis = keeps_axes = refuses = False
    few = tuple(np.dtype(t) for t in ("f4", "f8", "i4"))
    arrow = functools.cached_property(lambda self: importlib.import_module("pyarrow"))

    def why_not(self, dtype):
        return None if dtype in map(np.dtype, "efd?bBhHiIqQ") else "Arrow has no such numbers"

    def holds(self, shape, axis):
        return len(shape) == 2 and axis in (1, -1)

    def array(self, a):
        pa, (m, n) = self.arrow, a.shape
        rows = np.repeat(a, 2, axis=0)
        rows[1::2] = np.nan if a.dtype.kind == "f" else 1
        starts, value = np.arange(2 * m) * n, pa.from_numpy_dtype(a.dtype)
        if self.variant.endswith("views"):
            rows, starts = rows[::-1], starts[::-1]
            kind, index = pa.list_view(value), [starts.astype("i4"), np.full(2 * m, n, "i4")]
        elif self.variant.endswith("lists"):
            kind, index = pa.large_list(value), [n * np.arange(2 * m + 1)]
        else:
            kind, index = pa.list_(value, n), []
        valid = np.packbits(np.arange(2 * m) % 2 == 0, bitorder="little")
        buffers = [pa.py_buffer(np.ascontiguousarray(part)) for part in (valid, *index)]
        flat = [pa.array(rows.reshape(-1))]
        return self.column(pa.Array.from_buffers(kind, 2 * m, buffers, children=flat))

    def column(self, made):
        """An Arrow array as this kind holds it."""
        return made

    def arrow_array(self, y):
        """The reverse."""
        assert isinstance(y, self.arrow.Array)
        return y

    def run(self, function, a, axis=-1, **keywords):
        results = self.call(function, self.array(a), axis, **keywords)
        if function is not l2.normalize:
            return self.bare(results)
        y, *norms = results if isinstance(results, tuple) else (results,)
        values = np.array(self.checked(y).flatten()).reshape(a.shape)
        return (values, *map(self.bare, norms)) if norms else values

    def checked(self, y):
        """As an Arrow array, whose nulls are those of `array`."""
        y = self.arrow_array(y)
        y.validate(full=True)
        assert y.is_null().to_pylist() == [False, True] * (len(y) // 2)
        return y

    def bare(self, y):
        """Norms, or whether vectors are normalized: null for each vector that is."""
        return self.checked(y).drop_null().to_numpy(False)


class SeriesSubject(ColumnSubject):
    """Polars' Series of those, of which it has no views."""

    container = "Polars Series"
    polars = functools.cached_property(lambda self: importlib.import_module("polars"))

    def holds(self, shape, axis):
        """Of width 0, polars cannot exchange them with Arrow."""
        return super().holds(shape, axis) and shape[1] > 0

    def column(self, made):
        return self.polars.Series("vectors", made)

    def arrow_array(self, y):
        assert type(y) is self.polars.Series
        assert y.name == "vectors"
        return y.to_arrow()


class CapsuleSubject(ColumnSubject):
    """nanoarrow's arrays of those, in two chunks, which come back as Arrow's."""

    container = "Arrow PyCapsule"
    few = ColumnSubject.few[:1]
    nanoarrow = functools.cached_property(lambda self: importlib.import_module("nanoarrow"))

    def column(self, made):
        chunks = [made.slice(0, 3), made.slice(3)]
        return self.nanoarrow.Array(self.arrow.chunked_array(chunks, made.type))

    def arrow_array(self, y):
        assert isinstance(y, self.arrow.ChunkedArray)
        return y.combine_chunks()


class ArrowSeriesSubject(ColumnSubject):
    """pandas' Series of those."""

    container = "pandas"
    pandas = functools.cached_property(lambda self: importlib.import_module("pandas"))

    def column(self, made):
        held = self.pandas.arrays.ArrowExtensionArray(made)
        return self.pandas.Series(held, range(7, 7 + len(made)), name="vectors")

    def arrow_array(self, y):
        assert type(y) is self.pandas.Series
        assert y.name == "vectors"
        assert y.index.equals(self.pandas.RangeIndex(7, 7 + len(y)))
        return y.array.__arrow_array__().combine_chunks()


class RowsSubject(ArrowSeriesSubject):
    """pandas' Series of arrays; between them null, and rows with a null element."""

    def why_not(self, dtype):
        return (
            None if dtype in map(np.dtype, "fd?bBhHiIqQ") else "of it there are no norms with null"
        )

    def holds(self, shape, axis):
        """Without rows there is no dtype."""
        return super().holds(shape, axis) and shape[0] > 0

    def array(self, a):
        held = np.empty(2 * len(a), object)
        held[::2] = list(a)
        held[1::4] = [[np.nan, None]] * len(held[1::4])
        return self.pandas.Series(held, range(7, 7 + len(held)), name="vectors")

    def run(self, function, a, axis=-1, **keywords):
        results = self.call(function, self.array(a), axis, **keywords)
        y, *norms = results if isinstance(results, tuple) else (results,)
        if function is not l2.normalize:
            return self.bare(y)
        assert y.isna().tolist() == [False, True] * len(a)
        rows = y.tolist()[::2]
        y = np.stack(rows) if rows else np.empty(a.shape, self.unit_dtype(a.dtype))
        return (y, *map(self.bare, norms)) if norms else y

    def bare(self, y):
        assert y.name == "vectors"
        assert y.isna().tolist() == [False, True] * (len(y) // 2)
        return y.dropna().to_numpy(y.dtype.numpy_dtype)


class NullableSubject(RowsSubject):
    """DataFrames of pandas' own dtypes with nulls; between the rows others with a null."""

    def holds(self, shape, axis):
        """Without columns there is no dtype."""
        return super().holds(shape, axis) and shape[1] > 0

    def array(self, a):
        names = {"f": "FloatingArray", "b": "BooleanArray"}
        kind = getattr(self.pandas.arrays, names.get(a.dtype.kind, "IntegerArray"))
        columns = enumerate(np.repeat(a, 2, axis=0).T)
        held = {i: kind(column.copy(), np.arange(2 * len(a)) % 2 == 1) for i, column in columns}
        return self.pandas.DataFrame(held)

    def run(self, function, a, axis=-1, **keywords):
        results = self.call(function, self.array(a), axis, **keywords)
        y, *norms = results if isinstance(results, tuple) else (results,)
        if function is not l2.normalize:
            return self.bare(y)
        assert y.isna().all(axis=1).tolist() == [False, True] * len(a)
        y = y.iloc[::2].to_numpy(y.dtypes.iloc[0].numpy_dtype)
        return (y, *map(self.bare, norms)) if norms else y

    def bare(self, y):
        return super().bare(y.rename("vectors"))


class DataFrameSubject(WrappedSubject):
    """DataFrames, of a dtype without nulls."""

    container = "pandas"
    any_axis = keeps_axes = refuses = False
    pandas = functools.cached_property(lambda self: importlib.import_module("pandas"))

    def holds(self, shape, axis):
        """Without columns there is no dtype."""
        return len(shape) == 2 and shape[1] > 0

    def array(self, a):
        """With labels."""
        self.labels = [
            [f"{name}{i}" for i in range(n)] for name, n in zip("xy", a.shape, strict=True)
        ]
        return self.pandas.DataFrame(a, *self.labels, copy=False)

    def bare(self, y, function):
        """The numbers, once it is known that the labels are those of `array`."""
        index, columns = self.labels
        if function is l2.normalize:
            assert type(y) is self.pandas.DataFrame
            assert list(y.index) == index
            assert list(y.columns) == columns
        elif isinstance(y, self.pandas.Series):
            assert list(y.index) in (index, columns)
        return np.array(y)


class ScipySubject(Held):
    """SciPy's sparse arrays, with all entries stored."""

    container = "SciPy sparse"
    any_axis = refuses = False
    few = tuple(np.dtype(t) for t in ("f4", "c16", "i4"))
    sparse = functools.cached_property(lambda self: importlib.import_module("scipy.sparse"))

    def why_not(self, dtype):
        return None if dtype.char in "fdFD?bBhHiIqQ" else "SciPy has no such numbers"

    def holds(self, shape, axis):
        return len(shape) == 2

    def array(self, a):
        m, n = a.shape
        starts = n * np.arange(m + 1, dtype="i4")
        parts = (a.reshape(-1), np.tile(np.arange(n, dtype="i4"), m), starts)
        return self.sparse.csr_array(parts, shape=a.shape)

    def run(self, function, a, axis=-1, **keywords):
        x = self.array(a)
        results = self.call(function, x, axis, **keywords)
        y, *norms = results if isinstance(results, tuple) else (results,)
        if function is l2.normalize:
            assert type(y) is type(x)
            assert np.array_equal(y.indptr, x.indptr)
            assert np.array_equal(y.indices, x.indices)
            y = y.data.reshape(a.shape)
        assert all(self.owns(z, None) for z in (y, *norms))
        return (y, *map(np.asarray, norms)) if norms else np.asarray(y)


class DaskSubject(Held):
    """Dask arrays of NumPy's, of a few blocks, in which vectors lie whole; in one variant they are
    split over blocks as well."""

    container = "Dask array"
    refuses = False  # but when it is computed, and by block
    dask = functools.cached_property(lambda self: importlib.import_module("dask"))

    @property
    def few(self):
        """Whole vectors are those of the blocks' own kind."""
        return Held.few[:3] if self.split else Held.few[:1]

    @property
    def split(self):
        """Whether vectors are."""
        return self.variant.endswith("split")

    @property
    def same_bits(self):
        """Of vectors in one block."""
        return not self.split

    def why_not(self, dtype):
        return super().why_not(dtype) or (
            "its blocks are other vectors" if self.split and dtype in cases.LONGS else None
        )

    def array(self, a):
        """In blocks along all axes."""
        return importlib.import_module("dask.array").from_array(a, [n // 2 + 1 for n in a.shape])

    def call(self, function, x, axis=-1, **keywords):
        if not self.split:
            with contextlib.suppress(TypeError, ValueError):  # for axes that are none
                axes = _contract.normalize_axes(axis, x.ndim)
                x = x.rechunk(dict.fromkeys(axes, -1))
        results = super().call(function, x, axis, **keywords)
        if function is l2.normalize:
            assert (results[0] if isinstance(results, tuple) else results).chunks == x.chunks
        return results

    def run(self, function, a, axis=-1, **keywords):
        results = self.call(function, self.array(a), axis, **keywords)
        lazy = results if isinstance(results, tuple) else (results,)
        assert all(isinstance(y, importlib.import_module("dask.array").Array) for y in lazy)
        found = self.dask.compute(*lazy, scheduler="sync")
        for y, z in zip(found, lazy, strict=True):
            assert (y.dtype, y.shape) == (z.dtype, z.shape)
            assert type(z._meta) is np.ndarray
        found = tuple(map(np.asarray, found))
        return found if isinstance(results, tuple) else found[0]


# By the row of `_containers.ROWS`; the backend that serves stands before the colon.
HELD = {
    "masked array": (MaskedSubject, {"numpy:masked array": None, "numba:masked entries": None}),
    "NumPy array": (SubclassSubject, {"numba:memory map": None, "numpy:recarray": None}),
    "DataArray": (DataArraySubject, {"numba:DataArray": None}),
    "quantity": (QuantitySubject, {"numba:pint": None}),
    "Arrow array": (ColumnSubject, {"numba:Arrow": None, "numba:Arrow views": None}),
    "Polars Series": (SeriesSubject, {"numpy:Polars": None, "numba:Polars lists": None}),
    "Arrow PyCapsule": (CapsuleSubject, {"numba:nanoarrow lists": None}),
    "pandas": (ArrowSeriesSubject, {"numba:pandas": None, "numpy:pandas lists": None}),
    "pandas, objects": (RowsSubject, {"numba:pandas rows": None}),
    "pandas, nullable": (NullableSubject, {"numpy:nullable DataFrame": None}),
    "pandas, DataFrame": (DataFrameSubject, {"numba:DataFrame": None}),
    "pandas, numbers": (NumbersSubject, {"numba:Series": None}),
    "SciPy sparse": (ScipySubject, {"numba:csr_array": None}),
    "Dask array": (DaskSubject, {"numba:Dask": None, "numpy:Dask split": None}),
    "list or number": (ListSubject, {"numba:list": None}),
    "JAX array": (JaxOnHostSubject, {"numpy:JAX array": None, "numba:JAX array": None}),
    "PyTorch tensor": (TensorSubject, {"torch:numba": None}),
    "array API": (ArrayApiOnHostSubject, {"numpy:array-api-strict": None}),
    "sparse JAX matrix": (SparseSubject, {"jax:BCOO": None, "jax:BCSR": None}),
}


def without_subject():
    """The names of the containers that no subject is for."""
    kinds = [Subject, *(kind for kind, _ in (*VARIANTS.values(), *HELD.values()))]
    found = {kind.container for kind in kinds}
    return [row.name for row in _containers.ROWS if row.name not in found]


def served_by(backend):
    """The classes and variants of what a backend serves."""
    return [
        (kind, {v: possible for v, possible in variants.items() if v.startswith(f"{backend}:")})
        for kind, variants in HELD.values()
    ]
