"""Serial or parallel: never a launch that could end the process or crowd the machine.

What is known of Numba's threading layers (see also numba's `numba.np.ufunc.omppool`):

- workqueue aborts the process when two threads launch at a time, or one launches inside another's
  launch, and no lock of ours can keep others from launching: always serial.
- GNU OpenMP ends a forked child that launches after its parent did, and may hang one whose parent
  used OpenMP through another library: a forked child is serial.
- TBB is safe in both.

One launch at a time: a second thread that comes meanwhile runs serially, on its own core.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from l2multi import _registry

# Elements from which threads are launched. A launch takes microseconds on an idle machine, but
# milliseconds beside a busy neighbour: below 2**18 elements (50 us in one thread) the gain is
# smaller than that risk.
PARALLEL = 2**18

# The launchers that launch threads: Numba's must have been started before they are linked.
THREADED = ("team", "split")

_busy = threading.Lock()
_numba: Any = None  # once its threads have been started
_forced: ContextVar[str | None] = ContextVar("l2multi_numba_launch", default=None)


def _layer() -> str | None:
    """The threading layer in use, whoever started it."""
    parallel: Any = sys.modules.get("numba.np.ufunc.parallel")
    return parallel.threading_layer() if parallel and parallel._is_initialized else None


def _child_of_fork() -> bool:
    """Whether this process was forked, as far as can be told afterwards."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        if multiprocessing.parent_process() is not None:
            return multiprocessing.get_start_method(allow_none=True) in (None, "fork")
    tasks = "/proc/self/task"
    return _layer() is not None and os.path.isdir(tasks) and len(os.listdir(tasks)) == 1


_forked = _child_of_fork()


def _in_child() -> None:
    global _forked, _busy
    _forked = True
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def start() -> None:
    """Start Numba's threads, and tell LLVM the names of what launches them."""
    global _numba
    with _registry.loading:
        if _numba is None:
            import numba
            from numba.core.compiler_lock import global_compiler_lock
            from numba.core.registry import cpu_target
            from numba.core.runtime.nrt import rtsys

            with global_compiler_lock:
                numba.get_num_threads()
                rtsys.initialize(cpu_target.target_context)
            # A compilation in another thread holds what would stay closed in a forked child.
            _registry.hold_over_fork(global_compiler_lock)
            _numba = numba


def threads(prepare: Callable[[], bool]) -> int:
    """How many threads a large call may use here. `prepare` makes the launchers ready and says
    whether they are; it is not called where there shall be no launch."""
    if _forced.get() == "serial" or (_forked and _layer() != "tbb"):
        return 1
    if not prepare() or _layer() == "workqueue":
        return 1
    return int(_numba.get_num_threads())


def forced() -> bool:
    """Whether a launch is wanted for the smallest call."""
    return _forced.get() == "parallel"


@contextlib.contextmanager
def team(elements: int, prepare: Callable[[], bool]) -> Iterator[int]:
    """The number of threads to launch for so many elements, and the right to launch them."""
    count = threads(prepare) if elements >= PARALLEL or forced() else 1
    if count == 1 or not _busy.acquire(blocking=False):
        yield 1
        return
    try:
        yield count
    finally:
        _busy.release()


@contextlib.contextmanager
def force(how: str) -> Iterator[None]:
    """Within this block and thread, launch threads for the smallest call ("parallel", where that
    is safe) or for none ("serial"). For tests and benchmarks: "parallel" takes the short way, which
    launches none, from all threads."""
    if how not in ("serial", "parallel"):
        raise ValueError(f"how: expected 'serial' or 'parallel', got {how!r}")
    token = _forced.set(how)
    try:
        with _registry.no_short_way() if how == "parallel" else contextlib.nullcontext():
            yield
    finally:
        _forced.reset(token)
