"""How far from the machine's limit is it, and how does it compare with what I use now?

Both sides take turns in one process, so that a ratio says more than two times from two runs. Lower
is better: 1 is as fast as the other.
"""

from benchmarks import common, peers
from benchmarks.common import BACKENDS, Work

BUDGET = 0.3  # seconds: with more, these two would take half of `asv run --quick`
LIGHT = (("numpy",), ("scikit-learn",))  # peers' needs that asv's environments hold


class Copy:
    """The time over that of the fastest copy of the same bytes into memory that is there."""

    params = (
        BACKENDS,
        ("out", "inplace", "norm"),
        ("20000x768",),
        ("float16", "float32", "float64"),
    )
    param_names = ("backend", "operation", "shape", "dtype")
    unit = "copies"

    def setup(self, backend: str, operation: str, shape: str, dtype: str) -> None:
        x, axis = common.array(shape, dtype)
        self.calls = {"ours": common.ours(Work(operation, axis), x, backend)}
        self.calls |= common.copies(x, common.like(x, x.dtype))

    def track_to_copy(self, backend: str, operation: str, shape: str, dtype: str) -> float:
        times = common.interleave(self.calls, BUDGET)
        return common.ratio(times, "ours", times.keys() - {"ours"})


class Peer:
    """The time over that of the fastest peer installed, on the same work."""

    params = (
        BACKENDS,
        ("new", "norm"),
        ("1x128", "1000x768", "100000x3"),
        ("float16", "float32"),
    )
    param_names = ("backend", "operation", "shape", "dtype")
    unit = "peers"

    def setup(self, backend: str, operation: str, shape: str, dtype: str) -> None:
        x, axis = common.array(shape, dtype)
        work = Work(operation, axis)
        self.calls = {"ours": common.ours(work, x, backend)}
        self.calls |= peers.contenders(work, x, [p for p in peers.PEERS if p.needs in LIGHT])

    def track_to_peer(self, backend: str, operation: str, shape: str, dtype: str) -> float:
        times = common.interleave(self.calls, BUDGET)
        return common.ratio(times, "ours", times.keys() - {"ours"})
