"""How long does a call on my array take, of whatever dtype and shape; if my vectors lie otherwise
in memory, or if I ask for something else?"""

from benchmarks import common
from benchmarks.common import AUTO, LAYOUTS, OPERATIONS, WAYS, Work

# A process for each combination, of a second: CI waits for 120 of them, in all files.
DTYPES = ("float16", "float32", "float64", "int8", "complex64")
SHAPES = ("1x128", "1000x768", "10000x768", "1000000x2")


class _Speed:
    param_names = ("backend", "operation", "shape", "dtype", "layout")

    def setup(self, backend: str, operation: str, shape: str, dtype: str, layout: str) -> None:
        x, axis = common.array(shape, dtype, layout)
        self.call = common.ours(Work(operation, axis), x, backend)
        self.call()

    def time_call(self, *_: str) -> None:
        self.call()


class Normalize(_Speed):
    """A new array of unit vectors."""

    params = ((AUTO,), ("new",), SHAPES, DTYPES, ("rows",))


class Norm(_Speed):
    """The norms alone."""

    params = ((AUTO,), ("norm",), ("1x128", "10000x768"), DTYPES, ("rows",))


class Backend(_Speed):
    """The same by a backend that is named."""

    params = (WAYS[1:], ("new", "norm"), ("1x128", "10000x768"), ("float32",), ("rows",))


class Layout(_Speed):
    """Vectors along another axis, with gaps or with strides."""

    others = tuple(name for name in LAYOUTS if name != "rows")
    params = ((AUTO, "jax"), ("new",), ("1000x768",), ("float32",), others)


class Operation(_Speed):
    """A warm output, in place, with the norms, to another dtype."""

    others = tuple(name for name in OPERATIONS if name not in ("new", "norm"))
    params = ((AUTO,), others, ("1x128", "1000x768"), ("float32",), ("rows",))
