"""What does it cost if my vectors lie otherwise in memory, or if I ask for something else?"""

from benchmarks import common
from benchmarks.common import BACKENDS, LAYOUTS, OPERATIONS, Work


class Layout:
    """Vectors along another axis, with gaps or with strides."""

    params = (BACKENDS, tuple(LAYOUTS))
    param_names = ("backend", "layout")

    def setup(self, backend: str, layout: str) -> None:
        x, axis = common.array("1000x768", "float32", layout)
        self.call = common.ours(Work("new", axis), x, backend)
        self.call()

    def time_layout(self, backend: str, layout: str) -> None:
        self.call()


class Operation:
    """A warm output, in place, with the norms, to another dtype."""

    params = (BACKENDS, OPERATIONS, ("1x768", "1000x768"))
    param_names = ("backend", "operation", "shape")

    def setup(self, backend: str, operation: str, shape: str) -> None:
        x, axis = common.array(shape, "float32")
        self.call = common.ours(Work(operation, axis), x, backend)
        self.call()

    def time_operation(self, backend: str, operation: str, shape: str) -> None:
        self.call()
