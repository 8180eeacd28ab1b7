"""How far from the machine's limit is it, and how does it compare with what I use now?

Both sides take turns in one process, so that a ratio says more than two times from two runs. Lower
is better: 1 is as fast as the other.
"""

import numpy as np

from benchmarks import common, contenders, limits
from benchmarks.common import AUTO, Array, Call, Work

BUDGET = 0.3  # seconds: with more, these two would take half of `asv run --quick`
# The peers that asv's environments hold.
LIGHT = contenders.named("x / np.linalg.norm(x)", "np.einsum", "scikit-learn")


class _Ratio:
    param_names = ("backend", "operation", "shape", "dtype")

    def others(self, work: Work, x: Array) -> dict[str, Call]:
        raise NotImplementedError

    def setup(self, backend: str, operation: str, shape: str, dtype: str) -> None:
        x, axis = common.array(shape, dtype)
        work = Work(operation, axis)
        self.call, self.rest = common.ours(work, x, backend), self.others(work, x)

    def track_ratio(self, *_: str) -> float:
        times = common.interleave({"ours": self.call} | self.rest, BUDGET)
        medians = {name: float(np.median(time)) for name, time in times.items()}
        return medians.pop("ours") / min(medians.values())


class Copy(_Ratio):
    """The time over that of the fastest copy of the same bytes into memory that is there."""

    params = ((AUTO,), ("out", "inplace", "norm"), ("10000x768",), ("float16", "float32"))
    unit = "copies"

    def others(self, work: Work, x: Array) -> dict[str, Call]:
        return limits.machine_copies(work, x, x.nbytes)


class Peer(_Ratio):
    """The time over that of the fastest peer installed, on the same work."""

    params = ((AUTO,), ("new", "norm"), ("1x128", "1000x768", "100000x3"), ("float32",))
    unit = "peers"

    def others(self, work: Work, x: Array) -> dict[str, Call]:
        return contenders.contenders(work, x, LIGHT)
