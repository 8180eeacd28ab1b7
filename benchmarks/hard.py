"""What other tools make of zero, NaN, tiny and huge vectors: the tables of docs/hard-inputs.md.

``python -m benchmarks.hard --write docs/hard-inputs.md`` replaces them. `benchmarks.peers` makes
the short one of the README. A tool that is not installed keeps out (and is named on stderr); all
want ``pip install scikit-learn scipy torch tensorflow-cpu keras faiss-cpu jax optax polars pandas
pyarrow gensim "dask[array]" datafusion duckdb onnx onnxruntime``.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2
from benchmarks import peers
from benchmarks.common import Array, Work
from benchmarks.contenders import named

# Vectors whose unit vector is [0.6, 0.8].
FINITE: dict[str, Array] = {
    "f64 [3e200, 4e200]": np.array([3e200, 4e200]),
    "f64 [3e-200, 4e-200]": np.array([3e-200, 4e-200]),
    "f64 [3e-310, 4e-310]": np.array([3e-310, 4e-310]),
    "f32 [3e30, 4e30]": np.array([3e30, 4e30], "f4"),
    "f32 [3e-30, 4e-30]": np.array([3e-30, 4e-30], "f4"),
    "f16 [300, 400]": np.array([300, 400], "f2"),
}
SPECIAL: dict[str, Array] = {
    "f32 [0, 0]": np.zeros(2, "f4"),
    "f16 [0, 0]": np.zeros(2, "f2"),
    "f32 [NaN, 1]": np.array([np.nan, 1], "f4"),
    "f32 [inf, 1]": np.array([np.inf, 1], "f4"),
    "int8 [60, 80]": np.array([60, 80], "i1"),
}


class Tool(NamedTuple):
    """A way to make a unit vector of a NumPy array of two numbers."""

    title: str
    needs: str  # distribution
    normalize: Callable[[Array], Any]


def library(name: str) -> Any:
    """A module, imported when it is needed."""
    return importlib.import_module(name)


def _peer(name: str) -> Callable[[Array], Any]:
    """One of those that `benchmarks.race` races."""
    (peer,) = named(name)
    return lambda x: peer.host(peer.build(Work(), x[None])())[0]


def _numpy(x: Array) -> Any:
    return x / np.linalg.norm(x)


def _sklearn_sparse(x: Array) -> Any:
    made = library("scipy.sparse").csr_array(x[None])
    return library("sklearn.preprocessing").normalize(made).toarray()[0]


def _scipy(x: Array) -> Any:
    made = library("scipy.sparse").csr_array(x[None])
    return (made / library("scipy.sparse.linalg").norm(made, axis=1)[:, None]).toarray()[0]


def _tensorflow(x: Array) -> Any:
    tensorflow = library("tensorflow")
    return tensorflow.math.l2_normalize(tensorflow.constant(x)).numpy()


def _optax(x: Array) -> Any:
    project = library("optax").projections.projection_l2_sphere
    return np.asarray(project(library("jax.numpy").asarray(x)))


def _polars(x: Array) -> Any:
    polars = library("polars")
    column = polars.Series("v", x[None], dtype=polars.Array(polars.Series(x).dtype, len(x)))
    norm = (polars.col("v") * polars.col("v")).arr.sum().sqrt()
    return column.to_frame().select(polars.col("v") / norm).to_series().to_list()[0]


def _pandas(x: Array) -> Any:
    frame = library("pandas").DataFrame(x[None])
    return frame.div(np.sqrt((frame**2).sum(axis=1)), axis=0).to_numpy()[0]


def _pyarrow(x: Array) -> Any:
    compute, column = library("pyarrow.compute"), library("pyarrow").array(x)
    return compute.divide(
        column, compute.sqrt(compute.sum(compute.multiply(column, column)))
    ).to_pylist()


def _gensim(x: Array) -> Any:
    return library("gensim.matutils").unitvec(x)


def _dask(x: Array) -> Any:
    made = library("dask.array").from_array(x)
    return (made / library("dask.array.linalg").norm(made)).compute()


def _lists(x: Array) -> Any:
    arrow = library("pyarrow")
    return arrow.table({"v": arrow.array([x], arrow.list_(arrow.from_numpy_dtype(x.dtype)))})


def _datafusion(x: Array) -> Any:
    context = library("datafusion").SessionContext()
    context.register_record_batches("t", [_lists(x).to_batches()])
    return context.sql("select array_normalize(v) as u from t").to_pydict()["u"][0]


def _duckdb(x: Array) -> Any:
    link = library("duckdb").connect().register("t", _lists(x))
    query = "select [e / sqrt(list_inner_product(v, v)) for e in v] from t"
    return link.sql(query).fetchall()[0][0]


TOOLS = (
    Tool("NumPy `x / numpy.linalg.norm(x)`", "numpy", _numpy),
    Tool("scikit-learn `normalize`", "scikit-learn", _peer("scikit-learn")),
    Tool("scikit-learn `normalize` of CSR", "scikit-learn", _sklearn_sparse),
    Tool("SciPy `x / sparse.linalg.norm(x)`", "scipy", _scipy),
    Tool("pandas `x / sqrt((x**2).sum())`", "pandas", _pandas),
    Tool("Polars `v / (v * v).arr.sum().sqrt()`", "polars", _polars),
    Tool("Arrow `pyarrow.compute`", "pyarrow", _pyarrow),
    Tool("Dask `x / linalg.norm(x)`", "dask", _dask),
    Tool("gensim `unitvec`", "gensim", _gensim),
    Tool("PyTorch `F.normalize`", "torch", _peer("torch")),
    Tool("TensorFlow `l2_normalize`", "tensorflow-cpu", _tensorflow),
    Tool("Keras `ops.normalize`", "keras", _peer("keras")),
    Tool("JAX `x / jnp.linalg.norm(x)`", "jax", _peer("jax.jit")),
    Tool("Optax `projection_l2_sphere`", "optax", _optax),
    Tool("ONNX Runtime `LpNormalization`", "onnxruntime", _peer("ONNX Runtime")),
    Tool("faiss `normalize_L2`", "faiss-cpu", _peer("faiss")),
    Tool("DuckDB `list_inner_product`", "duckdb", _duckdb),
    Tool("DataFusion `array_normalize`", "datafusion", _datafusion),
    Tool("**`l2multi.normalize`**", "l2multi", l2.normalize),
)


def _installed(tool: Tool) -> bool:
    try:
        metadata.version(tool.needs)
    except metadata.PackageNotFoundError:
        return tool.needs == "l2multi"
    return True


def cell(tool: Tool, x: Array, right: tuple[float, float] | None) -> str:
    """What a tool makes of a vector, in a few characters; a check mark if it is right."""
    try:
        y = tool.normalize(x.copy())
        if y is None:
            return "null"
        y = np.array(y, float)
    except (ImportError, MemoryError):
        raise
    except BaseException as error:  # what a tool raises is what the table is to show
        if isinstance(error, KeyboardInterrupt):
            raise
        return type(error).__name__
    if right is not None and y.shape == (2,) and np.allclose(y, right, rtol=2e-3, atol=0):
        return "✓"
    shown = [f"{value:.2g}" for value in y.tolist()]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


def tables(tools: list[Tool]) -> str:
    """Both tables in Markdown, and the versions."""
    lines = []
    for columns, right in ((FINITE, (0.6, 0.8)), (SPECIAL, None)):
        lines += ["| tool | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
        for tool in tools:
            cells = [cell(tool, x, right) for x in columns.values()]
            lines.append(f"| {tool.title} | " + " | ".join(cells) + " |")
        lines.append("")
    known = {tool.needs: metadata.version(tool.needs) for tool in tools if tool.needs != "l2multi"}
    shown = ", ".join(f"{name} {version}" for name, version in known.items())
    return "\n".join([*lines, f"Made by `python -m benchmarks.hard` with {shown}."])


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or put them into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the file to put them into")
    options = parser.parse_args(arguments)
    # These are read when the libraries are imported, which is later.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        before, after = peers.around(options.write) if options.write else ("", "")
    except (OSError, ValueError) as error:
        parser.error(f"--write: {error}")
    found = [tool for tool in TOOLS if _installed(tool)]
    for tool in TOOLS:
        if tool not in found:
            print(f"not installed: {tool.needs}", file=sys.stderr)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        made = tables(found)
    if options.write:
        options.write.write_text(f"{before}\n{made}\n{after}", encoding="utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main()
