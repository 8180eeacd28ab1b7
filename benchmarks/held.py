"""What each kind of container costs: ``python -m benchmarks.held [--only torch]``.

For each row of the table of containers: the time of a call over that of the call on a NumPy array
of the same numbers, in turns in one process; and over that of what its own library's users write.
A container whose library is not installed is left out.
"""

import argparse
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import l2multi as l2
from benchmarks import common
from benchmarks.common import Array, Call

SHAPES = ("1x128", "1000x768", "30000x384")
BUDGET = 1.0  # seconds a cell


def _library(name: str) -> Any:
    return importlib.import_module(name)


def _arrow(x: Array) -> Any:
    pa = _library("pyarrow")
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def _lists(x: Array) -> Any:
    pa = _library("pyarrow")
    ends = np.arange(0, x.size + 1, x.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(x.ravel()))


def _chunks(x: Array) -> Any:
    column, step = _arrow(x), -(-len(x) // 8)
    chunks = [column.slice(first, step) for first in range(0, len(x), step)]
    return _library("pyarrow").chunked_array(chunks)


def _polars(x: Array) -> Any:
    pl = _library("polars")
    return pl.Series("e", x, dtype=pl.Array(pl.Float32, x.shape[1]))


def _pandas(x: Array) -> Any:
    pd = _library("pandas")
    return pd.Series(pd.arrays.ArrowExtensionArray(_arrow(x)))


def _frame(x: Array) -> Any:
    return _library("pandas").DataFrame(x, copy=False)


def _quantity(x: Array) -> Any:
    return _library("pint").UnitRegistry().Quantity(x, "meter")


def _sparse_jax(x: Array) -> Any:
    return _library("jax.experimental.sparse").BCOO.fromdense(x)


# How a matrix is held, by the row of `l2multi._containers.ROWS`.
HELD: dict[str, Callable[[Array], Any]] = {
    "NumPy array": lambda x: x,
    "list or number": lambda x: x.tolist(),
    "masked array": np.ma.MaskedArray,
    "quantity": _quantity,
    "DataArray": lambda x: _library("xarray").DataArray(x, dims=("row", "column")),
    "Arrow array": _arrow,
    "Polars Series": _polars,
    "Arrow PyCapsule": lambda x: _library("nanoarrow").Array(_arrow(x)),
    "pandas": _pandas,
    "PyTorch tensor": lambda x: _library("torch").from_numpy(x),
    "JAX array": lambda x: _library("jax").numpy.asarray(x),
    "sparse JAX matrix": _sparse_jax,
    "SciPy sparse": lambda x: _library("scipy.sparse").csr_array(x),
    "Dask array": lambda x: _library("dask.array").from_array(x),
    "array API": lambda x: _library("array_api_strict").asarray(x),
}
# The same for what is of a row, but another kind.
MORE: dict[str, Callable[[Array], Any]] = {
    "Arrow lists": _lists,
    "Arrow chunks": _chunks,
    "pandas, DataFrame": _frame,
    "pandas, arrays": lambda x: _library("pandas").Series(list(x)),
}


def _torch_own(x: Any) -> Any:
    return _library("torch").nn.functional.normalize(x, dim=-1)


def _strict_linalg() -> Any:
    return _library("array_api_strict").linalg


def _dask_own(x: Any) -> Any:
    return x / _library("dask.array").linalg.norm(x, axis=-1, keepdims=True)


def _polars_own(x: Any) -> Any:
    pl = _library("polars")
    squares = (pl.col("e") * pl.col("e")).arr.sum()
    return x.to_frame().select(pl.col("e") / squares.sqrt())


# What people write for it.
OWN: dict[str, Callable[[Any], Any]] = {
    "PyTorch tensor": _torch_own,
    "Polars Series": _polars_own,
    "pandas, DataFrame": lambda x: x.div((x**2).sum(axis=1) ** 0.5, axis=0),
    "pandas, arrays": lambda x: x / x.map(np.linalg.norm),
    "SciPy sparse": lambda x: _library("sklearn.preprocessing").normalize(x),
    "JAX array": lambda x: x / _library("jax").numpy.linalg.norm(x, axis=-1, keepdims=True),
    "Dask array": _dask_own,
    "array API": lambda x: x / _strict_linalg().vector_norm(x, axis=-1, keepdims=True),
}


def calls(name: str, shape: str) -> dict[str, Call]:
    """The calls on a container, on the NumPy array, and what people write; ImportError where a
    library is not installed."""
    x, _ = common.array(shape, "float32")
    held = (HELD | MORE)[name](x)
    found = {"ours": functools.partial(l2.normalize, held), "NumPy": lambda: l2.normalize(x)}
    if name in OWN:
        found["own"] = functools.partial(OWN[name], held)
    return {one: common.waited(call, common.settled(call)) for one, call in found.items()}


def ratios(name: str, shape: str, budget: float = BUDGET) -> dict[str, float]:
    """The microseconds of a call, and that time over the others'."""
    times = common.interleave(calls(name, shape), budget)
    medians = {one: float(np.median(time)) for one, time in times.items()}
    ours = medians.pop("ours")
    return {"us": ours * 1e6} | {one: ours / time for one, time in medians.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.held")
    parser.add_argument("--only", default="", help="containers whose name holds this")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds a cell [{BUDGET}]")
    arguments = parser.parse_args()
    common.keep_memory()
    print("| held | shape | us | times NumPy's | times what people write |")
    print("| --- | --- | --- | --- | --- |")
    for name in HELD | MORE:
        for shape in SHAPES if arguments.only.lower() in name.lower() else ():
            if name == "list or number" and shape != SHAPES[0]:
                continue  # which takes as long as making an array of the list
            try:
                found = ratios(name, shape, arguments.budget)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                break
            own = f"{found['own']:.2f}" if "own" in found else ""
            print(
                f"| {name} | {shape} | {found['us']:.1f} | {found['NumPy']:.2f} | {own} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
