"""The table of containers: what people hold, and which module opens it.

A row says how a value is recognised, without importing its library, and which module opens it: its
``open(x, request)`` returns an `Opened`, which knows the way back. The public functions, the text
of the TypeError, the docs' table and the conformance suite's variants are made from these rows.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from l2multi import _backends, _contract, _cures
from l2multi._opened import Opened

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

    def open(self, x: Any, request: _contract.Request) -> Opened:
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
        "by `numpy.asarray`; a single number has no axes, so it takes `axis=None`; a list of "
        "tensors or of JAX arrays is a TypeError that says what to do (`l2multi.jax` takes JAX "
        "arrays in lists)",
    ),
    Row(
        "DataArray",
        ("xarray.DataArray",),
        "l2multi.containers.xarray_array",
        "xarray.DataArray",
        "DataArray with the same dimensions, coordinates, attributes and name",
        'its data may be of any other kind of this table; `dim="space"` or `axis="space"` names '
        "dimensions (for `is_normalized`, `axis`)",
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
