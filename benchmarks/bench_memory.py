"""How much memory does a call need beyond my array and its result?"""

from pathlib import Path

from benchmarks import common
from benchmarks.common import AUTO, Work

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
OPERATIONS = ("new", "norm")
DTYPES = ("float16", "float32")
SHAPE = "50000x768"


def resident(line: str) -> float:
    """MiB of this process in memory now (VmRSS) or at most since the mark was reset (VmHWM)."""
    fields = dict(row.split(":", 1) for row in STATUS.read_text().splitlines())
    return int(fields[line].split()[0]) / 1024


class Memory:
    """The process at its largest, and the part of it that is neither input nor output."""

    params = ((AUTO, "jax"), OPERATIONS, DTYPES)
    param_names = ("backend", "operation", "dtype")
    unit = "MiB"

    def setup(self, backend: str, operation: str, dtype: str) -> None:
        small, axis = common.array("64x768", dtype)
        common.ours(Work(operation, axis), small, backend)  # a compiler's memory is not meant
        x, axis = common.array(SHAPE, dtype)
        self.work, self.x = Work(operation, axis), x

    def peakmem_call(self, backend: str, operation: str, dtype: str) -> None:
        common.ours(self.work, self.x, backend)()

    def track_extra(self, backend: str, operation: str, dtype: str) -> float:
        """At least 1: some pages more or less would be a regression to asv. Linux alone can reset
        the mark."""
        if not CLEAR.exists():
            raise NotImplementedError("/proc/self/clear_refs")
        call = common.ours(self.work, self.x, backend)
        CLEAR.write_text("5")
        before = resident("VmRSS")
        result = call()
        most = resident("VmHWM") - before
        return max(most - result.nbytes / 2**20, 1.0)
