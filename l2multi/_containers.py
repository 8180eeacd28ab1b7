"""The table of containers: what people hold, and how it is opened and closed again.

A row says how a value is recognised, without importing its library, and which module opens it: its
``open(x, request)`` returns an `Opened`. The public functions, the text of the TypeError,
the docs' table and the conformance suite's variants are made from these rows.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from l2multi import _backends, _contract, _cures

T = TypeVar("T")


class Row(NamedTuple):
    """A kind of value: its classes by their full names, the module that opens it, what messages
    and the documentation call it, what comes back, and what else there is to say; and methods of
    which one makes a class such a kind, whatever its name."""

    name: str
    classes: tuple[str, ...]
    module: str
    accepted: str
    result: str
    rules: str
    offers: tuple[str, ...] = ()

    def owns(self, x: Any) -> bool:
        """Whether `x` is of this kind. A library nobody has imported cannot own anything."""
        for full in self.classes:
            module, _, name = full.rpartition(".")
            found = getattr(sys.modules.get(module), name, None)
            if isinstance(found, type) and isinstance(x, found):
                return True
        return any(hasattr(type(x), name) for name in self.offers)

    def open(self, x: Any, request: _contract.Request) -> "Opened":
        """`x` as an array that a backend computes on, and the way back."""
        module = _modules.get(self.module)
        if module is None:
            module = _modules[self.module] = importlib.import_module(self.module)
        opened: Opened = module.open(x, request)
        return opened


# Load-once cache.
_modules: dict[str, Any] = {}


# The first row that owns a value opens it.
ROWS = (
    Row(
        "quantity",
        ("pint.Quantity", "astropy.units.Quantity"),
        "l2multi.containers.quantity",
        "quantities of pint and astropy",
        "unit vectors without a unit, norms with it",
        "their numbers may be held by any other kind of this table; `eps` is a plain number, in "
        "their unit; a unit with an offset or of logarithms (degC, dB) is a TypeError",
    ),
    Row(
        "masked array",
        ("numpy.ma.MaskedArray",),
        "l2multi.containers.masked",
        "numpy.ma.MaskedArray",
        "masked array",
        "masked entries do not count and stay masked; the norm of a vector masked in full is "
        "masked",
    ),
    Row(
        "NumPy array",
        ("numpy.ndarray",),
        "l2multi.containers.numpy_array",
        "numpy.ndarray",
        "array, laid out in memory as the input",
        "any strides, byte order and alignment, read-only and memory-mapped too; other subclasses "
        "come back as base arrays, but one with a unit or arithmetic of its own (unyt) is "
        "a TypeError that says what to do",
    ),
    Row(
        "list or number",
        (
            *(f"builtins.{name}" for name in ("list", "tuple", "bool", "int", "float", "complex")),
            "numpy.generic",
        ),
        "l2multi.containers.numbers",
        "lists, tuples and numbers",
        "NumPy array or scalar",
        "by `numpy.asarray`; a list of tensors or of JAX arrays is a TypeError that says what to "
        "do (`l2multi.jax` takes JAX arrays in lists)",
    ),
    Row(
        "DataArray",
        ("xarray.DataArray",),
        "l2multi.containers.xarray_array",
        "xarray.DataArray",
        "DataArray with the same dimensions, coordinates, attributes and name",
        'its data may be of any other kind of this table; `dim="space"` or `axis="space"` names '
        "dimensions",
    ),
    Row(
        "Arrow array",
        (
            "pyarrow.Array",
            "pyarrow.ChunkedArray",
        ),
        "l2multi.containers.arrow",
        "Arrow lists of all kinds and fixed-shape tensors",
        "the same Arrow type, chunks kept; norms as an Arrow array",
        "each row is a vector, of a length of its own; a null row stays null, a null element makes "
        "its row null, numbers stored under a null never count, and no policy is for empty lists; "
        '`zero="null"` makes zero vectors null; no `out=`',
    ),
    Row(
        "Polars Series",
        ("polars.Series",),
        "l2multi.containers.polars_series",
        "Polars Series of Array and List",
        "a Series of the same name and type",
        "as Arrow's; after `import l2multi.polars` also expressions, `pl.col(...).l2.normalize()`, "
        "lazy and streaming",
    ),
    Row(
        "pandas",
        ("pandas.Series", "pandas.DataFrame"),
        "l2multi.containers.pandas_frame",
        "Series and DataFrames of pandas",
        "the same; index, name, columns and attrs kept; norms as a Series",
        "a Series of Arrow lists, or of arrays and lists as objects (of any lengths), has a vector "
        "in each row and nulls as Arrow; the arrays give the dtype of lists beside them; a "
        "Series of numbers is one vector, and so is each row of "
        "a DataFrame (`axis=-1`, 1), each column (0) or all of it (None); `pd.NA` makes its vector "
        '`pd.NA`; where there are nulls, also `zero="null"`; no `out=`; an Index is a TypeError '
        "that says what to do",
    ),
    Row(
        "PyTorch tensor",
        ("torch.Tensor",),
        "l2multi.containers.torch_tensor",
        "torch.Tensor",
        "tensor, on its device, laid out in memory as the input",
        "on a CPU by the NumPy backends, without a copy; elsewhere, and where torch traces, maps "
        "or differentiates forwards, by torch's own operations; differentiable to any order; "
        "integers become torch's default dtype; `out=` where no gradient would be lost; "
        "a DTensor keeps its placements, and vectors split over processes take one all-reduce "
        "(two in float64); sparse matrices (COO, CSR) on a CPU as SciPy's; of another subclass "
        "than `Parameter`, a TypeError that says what to do",
    ),
    Row(
        "JAX array",
        ("jax.Array",),
        "l2multi.containers.jax_array",
        "jax.Array",
        "JAX array, on its device",
        "with values or traced (`jit`, `vmap`, `grad`, ...), differentiable to any order; no "
        "`out=`",
    ),
    Row(
        "sparse JAX matrix",
        ("jax.experimental.sparse.BCOO", "jax.experimental.sparse.BCSR"),
        "l2multi.containers.jax_sparse",
        "BCOO and BCSR",
        "the same class",
        'rows only, with `zero="keep"` and `nonfinite="propagate"`; stored entries are scaled and '
        "no others appear, those for one place are added first, those out of range do not count; "
        "`jax.vmap` serves batch dimensions",
    ),
    Row(
        "SciPy sparse",
        ("scipy.sparse.sparray", "scipy.sparse.spmatrix"),
        "l2multi.containers.scipy_sparse",
        "SciPy's sparse arrays and matrices",
        "the same class, format and index dtype; norms are NumPy arrays",
        "all seven formats over any axes; stored entries are scaled, none are added or dropped (a "
        'row without any stays so under `zero="nan"`), '
        "those for one place are added first; `out=` can be `x` itself",
    ),
    Row(
        "Arrow PyCapsule",
        (),
        "l2multi.containers.arrow_capsule",
        "columns with `__arrow_c_array__` or `__arrow_c_stream__` (nanoarrow, arro3, ...)",
        "a pyarrow array of the same type, chunked if it came as a stream",
        "as Arrow's; of a table (a relation of DuckDB, a DataFrame of DataFusion), which is "
        'a TypeError, its column: `pyarrow.table(x)["embedding"]`',
        ("__arrow_c_array__", "__arrow_c_stream__"),
    ),
    Row(
        "Dask array",
        ("dask.array.Array",),
        "l2multi.containers.dask_array",
        "dask.array.Array",
        "lazy array, in the same chunks",
        "nothing is computed early; chunks of NumPy, masked, sparse or CuPy arrays, of unknown "
        "sizes too; vectors may lie in many chunks, and are then measured along a tree; policies "
        "that raise do so when the array is computed, and name the block; no `out=`",
    ),
    Row(
        "array API",
        ("cupy.ndarray",),  # which has no such method before CuPy 14
        "l2multi.containers.array_api",
        "arrays of other libraries that follow the array API standard (CuPy, ndonnx, "
        "array-api-strict, ...)",
        "array of the same library, on its device",
        "by the library's own functions; lazy arrays stay lazy, and have no policy that raises; "
        "integers become the device's default dtype; no `out=`",
        ("__array_namespace__",),
    ),
)


_PLAIN = next(row for row in ROWS if row.name == "NumPy array")


class Opened:
    """A value as backends take it, and the way back: here of an array that has nothing else to it.

    `array` tells shape, dtype and layout; `values` are what is computed on, of `library`.
    """

    has_fast_path = True  # whether a call is none but on `array`
    has_nulls = False  # whether it can hold a null in place of a vector
    judges_later = False  # whether policies are heeded by who computes, for there are no values yet

    def __init__(self, array: Any, library: str = "numpy") -> None:
        self.array, self.library = array, library

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        """The axes of `array` over which a vector extends, ascending."""
        if request.dim is not None:
            raise TypeError("dim: x has no dimensions with names, as those of xarray; use axis=")
        return known("axis", request.axis, _contract.normalize_axes, self.array.ndim)

    def judged(self, norms: Any) -> Any:
        """The norms by which policies judge: 1 for vectors that none is for, such as nulls."""
        return norms

    def make_null(self, vectors: Any) -> None:
        """Make vectors null, before `close`, where `has_nulls`."""
        raise NotImplementedError

    def keep_fast_path(self, found: _backends.Backend, dtype: Any, result: np.dtype[Any]) -> None:
        """Have later calls like this one find the fast path of the backend that serves it."""
        if self.has_fast_path:
            _backends.keep_fast_path(found, self.array, dtype, result)

    def asked(self, dtype: Any) -> Any:
        """A ``dtype=`` as NumPy knows it."""
        return dtype

    def default_float(self) -> np.dtype[Any]:
        """What integers become."""
        if self.library in _backends.OF_NUMPY:
            return np.dtype(np.float64)
        return _backends.home(self.library).default_float()

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        """What a backend computes on, for vectors over these axes; for who will only `look`, an
        array like it."""
        return self.array

    def select(
        self, values: Any, axes: tuple[int, ...], result: np.dtype[Any], name: str | None,
        own: np.dtype[Any], look: bool,
    ) -> _backends.Selection:  # fmt: skip
        """The backend that serves these values."""
        return _backends.select(values, self.library, axes, result, name, own, look)

    def target(self, out: Any) -> Any:
        """An `out` as an array to write to."""
        raise TypeError(f"out: {self.library} arrays are immutable, so out= cannot be used")

    def target_norms(self, out: Any) -> Any:
        """The same for norms."""
        return self.target(out)

    def check_result(self, dtype: np.dtype[Any]) -> None:
        """Refuse unit vectors of a dtype that their owner cannot hold."""

    def writable(self, out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Refuse a target that cannot take the result, before anything is written; and whether a
        backend may write to it while it reads `x`."""
        _contract.check_out(out, shape, dtype)
        if out.dtype != dtype:  # of the other byte order
            return False
        x = getattr(x, "entries", x)  # those of a ragged array
        same = out is x or (
            out.shape == x.shape
            and out.strides == x.strides
            and out.dtype == x.dtype
            and out.ctypes.data == x.ctypes.data
        )
        return same or not np.may_share_memory(out, x)

    def back(self, y: Any) -> Any:
        """What was computed, as an array of the library that `array` is of."""
        return y

    def close(self, y: Any) -> Any:
        """The unit vectors, as their owner holds them."""
        return y

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        """What there is one of for each vector, likewise."""
        return norms

    def close_target(self, out: Any, axes: tuple[int, ...] | None, keepdims: bool = False) -> Any:
        """An `out` that has been written to; by norms, if `axes` are given."""
        return out

    def moved(self, name: str, library: str) -> "Opened":
        """The same for the backend of this name, and of another library."""
        return Moved(self, library)


def handed_to(attribute: str, *names: str) -> Callable[[type[T]], type[T]]:
    """Have these methods of a class be those of the opened value in an attribute."""

    def method(name: str) -> Callable[..., Any]:
        return lambda self, *args, **keywords: getattr(getattr(self, attribute), name)(
            *args, **keywords
        )

    def handed(kind: type[T]) -> type[T]:
        for name in names:
            setattr(kind, name, method(name))
        return kind

    return handed


@handed_to(
    "inner", "axes", "judged", "make_null", "asked", "default_float", "values", "select",
    "target", "target_norms", "check_result", "writable", "back", "close_target",
)  # fmt: skip
class Inside(Opened):
    """A value that holds another, which is opened in its place: what comes back is wrapped."""

    has_fast_path = False

    def __init__(self, inner: Opened) -> None:
        super().__init__(inner.array, inner.library)
        self.inner, self.has_nulls, self.judges_later = inner, inner.has_nulls, inner.judges_later

    def wrap(self, result: Any) -> Any:
        """Unit vectors or norms of the inner value, as the owner holds them."""
        raise NotImplementedError

    def moved(self, name: str, library: str) -> Opened:
        self.inner = self.inner.moved(name, library)
        self.library = self.inner.library
        return self

    def close(self, y: Any) -> Any:
        return self.wrap(self.inner.close(y))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return self.wrap(self.inner.close_norms(norms, axes, keepdims))


@handed_to(
    "owner", "axes", "judged", "make_null", "asked", "target", "target_norms", "check_result",
    "close_target",
)  # fmt: skip
class Moved(Opened):
    """A value that backends of another library serve, and by them back to its own."""

    has_fast_path = False

    def __init__(self, owner: Opened, library: str) -> None:
        super().__init__(owner.array, library)
        self.owner, self.has_nulls = owner, owner.has_nulls

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        x = on_host(self.owner.values(axes, look), self.owner.library, copy=False)
        _check_holds(self.library, x)
        return x if look else _from_host(x, self.library)

    def back(self, y: Any) -> Any:
        y = on_host(y, self.library, copy=True)
        _check_holds(self.owner.library, y)
        return _from_host(y, self.owner.library, self.array)

    def writable(self, out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        self.owner.writable(out, self.owner.array, shape, dtype)
        return False

    def close(self, y: Any) -> Any:
        return self.owner.close(self.back(y))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return self.owner.close_norms(self.back(norms), axes, keepdims)


def on_host(x: Any, library: str, copy: bool) -> Any:
    """An array of a library as a NumPy array."""
    if library in _backends.OF_NUMPY:
        return x
    return _backends.home(library).to_numpy(x, copy=copy)


def _from_host(x: Any, library: str, like: Any = None) -> Any:
    """A NumPy array as one of a library."""
    return x if library == "numpy" else _backends.home(library).from_numpy(x, like)


def _check_holds(library: str, x: Any) -> None:
    """Refuse a NumPy array that a library cannot hold."""
    why = None if library == "numpy" else _backends.home(library).unsupported(x, x.dtype)
    if why is not None:
        raise TypeError(f"x: {library} cannot hold {_contract.name(x.dtype)}: {why}")


def find(x: Any) -> Row:
    """The row of a value, or a TypeError that says what to do."""
    for row in ROWS:
        if row.owns(x):
            return row
    cure = _cures.of(x)
    raise TypeError(
        f"x: type {_cures.type_name(x)} is not supported; "
        + ("" if cure is None else f"try {cure}; ")
        + f"accepted are {accepted()}"
    )


def accepted() -> str:
    """What messages say that is accepted."""
    return ", ".join(row.accepted for row in ROWS)


def open(x: Any, request: _contract.Request) -> Opened:
    """A value as backends take it."""
    return (_PLAIN if type(x) is np.ndarray else find(x)).open(x, request)


def known(name: str, value: Any, check: Callable[..., T], *rest: Any) -> T:
    """A keyword's value, checked; for a traced one the refusal says how to make it known."""
    try:
        return check(value, *rest)
    except TypeError:
        some = value if isinstance(value, (tuple, list)) else (value,)
        if not any(map(_traced, some)):
            raise
    raise TypeError(
        f"{name}: expected a value that is known when a function is traced, got {value!r}; "
        f"jax.jit takes it as known with static_argnames={name!r}"
    )


def _traced(value: Any) -> bool:
    """Whether a keyword's value is an array that stands for one not known yet."""
    row = next((row for row in ROWS if row.owns(value)), None)
    if row is None or isinstance(value, (int, float, np.ndarray)):
        return False
    try:
        opened = row.open(value, _contract.Request())
    except (TypeError, ValueError):  # no array of numbers
        return False
    return opened.library != "numpy" and _backends.home(opened.library).traced(value)


def table() -> str:
    """The docs' table of what people hold."""
    rows = ["| held | out | rules |", "| --- | --- | --- |"]
    rows += [f"| {row.accepted} | {row.result} | {row.rules} |" for row in ROWS]
    return "\n".join(rows)
