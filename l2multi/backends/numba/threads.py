"""How many threads a call may use, and the pool they come from; `thread_pool` has the threads.

A call uses as many threads as its size pays for (`paid`), and no more than the cores that the
calling thread may use, the CPU quota of its cgroup, ``NUMBA_NUM_THREADS`` and Numba's mask
(``numba.set_num_threads``). A forked child works alone: the helpers are its parent's, and a pool of
workers has a process for each core already. Looks at Numba only where a program has imported it.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from l2multi import _usable
from l2multi.backends.numba import descriptor, loader

# Elements from which more than one thread works. With a helper awake, two threads need 0.6 of the
# time of one there (3 us).
PARALLEL = 2**15

# Elements for each of more than two threads: 9 us of float32 in the caches, where waking a helper
# takes a caller 2 to 9 us and the helper comes after 5 to 40. In a model of 64 cores, over sizes of
# 2**15 to 2**24 elements, calls that find all helpers asleep then take 1.05 to 1.22 of the least
# time. Twice as many elements make that 1.10 to 1.19, but calls that find helpers awake take 1.35
# times as long.
EACH = 2**16

# Elements up to which columns in place go by one thread. Each core prefetches, and so takes away,
# what the other has just written next to its own: 1000x256 float32 took two threads 1.1 to 3.6
# times as long as one, 4000x256 0.8 to 3.3 times (Zen 4 in a virtual machine, by where its cores
# were).
IN_PLACE = 2**20

_forced: ContextVar[str | None] = ContextVar("l2multi_numba_threads", default=None)

PARALLEL_FOR, HELPER = ("parallel_for",), ("helper",)  # the kernel keys of the pool

# Made while this is imported, and so once: `functools.cache` lets two threads make one each, and a
# call that found the one of which nobody knows had a helper begin at address 0.
POOL = loader.room(descriptor.POOL_SIZE)  # its address
_pool = loader.slots(POOL, descriptor.POOL_SIZE)


def _child_of_fork() -> bool:
    """Whether this process was forked by multiprocessing, before this module was imported."""
    if "multiprocessing" not in sys.modules:
        return False
    import multiprocessing

    forks = multiprocessing.get_start_method(allow_none=True) in (None, "fork")
    return multiprocessing.parent_process() is not None and forks


_forked = _child_of_fork()


def _in_child() -> None:
    global _forked
    _forked = True
    _pool[descriptor.LIMIT] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def ready() -> bool:
    """Whether the pool can be used; links what gives it work."""
    if not _pool[descriptor.PARALLEL_FOR]:
        if _usable.asking.get() and not loader.available(PARALLEL_FOR, HELPER):
            return False
        try:
            _pool[descriptor.HELPER] = loader.address(HELPER)
            _pool[descriptor.PARALLEL_FOR] = loader.address(PARALLEL_FOR)
        except ImportError:  # no POSIX threads here
            return False
    return True


def paid(size: int) -> int:
    """How many threads the size of a call pays for, in elements. Compiled too, by `thread_pool`."""
    return size // EACH if size >= 2 * EACH else 2 if size >= PARALLEL else 1


@functools.cache
def _allowed() -> int:
    """How many threads the machine, the cgroup and the environment allow."""
    from l2multi.backends.numba import quota  # 0.1 ms that the first small call need not take

    limits = [os.cpu_count() or 1, quota.cpus()]
    with contextlib.suppress(ValueError):
        limits.append(int(os.environ.get("NUMBA_NUM_THREADS", "")))
    return min(limit for limit in limits if limit is not None and limit > 0)


def cores() -> int:
    """How many cores the calling thread may use now; 0.3 us for two, 1 us for sixty-four."""
    if _pool[descriptor.CORES]:
        return int(_pool[descriptor.CORES])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _allowed()


def by_mask() -> int:
    """How many threads any call may use, but for its thread's cores. Calls by XLA, which cannot ask
    Numba for its mask, keep to what any thread found here last."""
    numba: Any = sys.modules.get("numba.np.ufunc.parallel")
    # Numba has no mask before it has threads; asked for it, it would start them.
    most = int(_pool[descriptor.CORES]) or _allowed()
    if getattr(numba, "_is_initialized", False):
        most = min(most, int(numba.get_num_threads()))
    _pool[descriptor.LIMIT] = 1 if _forked else most
    return most


def limit() -> int:
    """As `by_mask`, by all that forbids threads too. Whoever only asks has those that are there.

    Nothing compiled could take its place: Numba starts to keep a mask, one for each thread, without
    telling anybody, and what `force` and `asking` say are context variables. So a fast call that
    pays for threads returns, to be called again with this.
    """
    if _forked or _forced.get() == "serial":
        return 1
    most = by_mask()
    if most == 1 or not ready():
        return 1
    return min(most, _pool[descriptor.HELPERS] + 1) if _usable.asking.get() else most


def threads(size: int, in_place_columns: bool, explain: bool = False) -> int:
    """How many threads a call uses; `explain`, for what a call would use, starts nothing."""
    forced = _forced.get()
    most = 1 if in_place_columns and size <= IN_PLACE else paid(size)
    if most == 1 and forced != "parallel":
        return 1
    allowed = cores()
    if allowed > 1:
        free = by_mask() if not _forked and forced != "serial" else 1
        allowed = min(allowed, free if explain else limit())
    return allowed if forced == "parallel" else min(most, allowed)


def threads_in_xla(size: int) -> int:
    """How many threads a call by XLA uses."""
    return 1 if _forked else min(paid(size), by_mask(), cores())


def pretend(cores: int) -> None:
    """Take this machine for one of so many cores, or, with 0, for itself. For tests."""
    _pool[descriptor.CORES] = cores


@contextlib.contextmanager
def force(how: str) -> Iterator[None]:
    """Within this block and thread, use threads for the smallest call ("parallel", where that is
    safe) or for none ("serial"). For tests and benchmarks: "parallel" takes the fast path, which
    uses none for a call so small, from all threads. Derivatives use as many as their size pays
    for."""
    if how not in ("serial", "parallel"):
        raise ValueError(f"how: expected 'serial' or 'parallel', got {how!r}")
    from l2multi import _testing

    token, eager = _forced.set(how), _pool[descriptor.EAGER]
    _pool[descriptor.EAGER] = how == "parallel"
    try:
        with _testing.general_path() if how == "parallel" else contextlib.nullcontext():
            yield
    finally:
        _forced.reset(token)
        _pool[descriptor.EAGER] = eager
