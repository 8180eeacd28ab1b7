"""How long does a call on my array take?"""

from benchmarks import common
from benchmarks.common import BACKENDS, Work

# A process for each combination: a few hundred of them are a matter of minutes.
DTYPES = ("float16", "float32", "float64", "int8", "complex64")

SHAPES = ("1x8", "1x128", "100x768", "1000x768", "10000x768", "1000000x2")


class _Speed:
    params = (BACKENDS, SHAPES, DTYPES)
    param_names = ("backend", "shape", "dtype")
    operation = "new"

    def setup(self, backend: str, shape: str, dtype: str) -> None:
        x, axis = common.array(shape, dtype)
        self.call = common.ours(Work(self.operation, axis), x, backend)
        self.call()


class Normalize(_Speed):
    """A new array of unit vectors."""

    def time_normalize(self, backend: str, shape: str, dtype: str) -> None:
        self.call()


class Norm(_Speed):
    """The norms alone."""

    params = (BACKENDS, ("1x128", "100x768", "1000x768", "10000x768"), DTYPES)
    operation = "norm"

    def time_norm(self, backend: str, shape: str, dtype: str) -> None:
        self.call()
