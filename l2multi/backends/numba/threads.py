"""How many threads a call may use, and the pool they come from; `team` has the threads themselves.

A call uses as many threads as its size pays for (`paid`), and no more than the cores that the
calling thread may use, the CPU quota of its cgroup, ``NUMBA_NUM_THREADS`` and Numba's mask
(``numba.set_num_threads``). A forked child works alone: the helpers are its parent's, and a pool of
workers has a process for each core already.
"""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from l2multi import _registry
from l2multi.backends.numba import descriptor, quota

# Elements from which more than one thread works: with a helper awake, two need 0.6 of one's time
# there (3 us).
PARALLEL = 2**15

# Elements for each of more than two threads: 9 us of float32 in the caches, where waking a helper
# takes a caller 2 to 9 us and the helper comes after 5 to 40. In a model of 64 cores, over sizes
# from 2**15 to 2**24 elements and all numbers of threads, calls that find all helpers asleep then
# take 1.05 to 1.22 of the least time; with twice as many elements 1.10 to 1.19, but calls that find
# them awake take 1.35 times as long.
EACH = 2**16

# Elements up to which columns go by one thread in place: each core fetches ahead, and takes away,
# what the other has just written next to its own. 1000x256 float32 took two threads 1.1 to 3.6
# times as long as one, 4000x256 0.8 to 3.3 times (Zen 4 in a virtual machine, by where its cores
# were).
IN_PLACE = 2**20

_forced: ContextVar[str | None] = ContextVar("l2multi_numba_launch", default=None)


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
    _pool()[descriptor.LIMIT] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def paid(size: int) -> int:
    """How many threads the size of a call pays for, in elements. Compiled too (see `team`)."""
    return size // EACH if size >= 2 * EACH else 2 if size >= PARALLEL else 1


@functools.cache
def _allowed() -> int:
    """How many threads the machine, the cgroup and the environment allow."""
    limits = [os.cpu_count() or 1, quota.cpus()]
    with contextlib.suppress(ValueError):
        limits.append(int(os.environ.get("NUMBA_NUM_THREADS", "")))
    return min(limit for limit in limits if limit is not None and limit > 0)


def cores() -> int:
    """How many cores the calling thread may use now; 0.3 us for two, 1 us for sixty-four."""
    if _pool()[descriptor.CORES]:
        return int(_pool()[descriptor.CORES])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _allowed()


def _limit() -> int:
    """How many threads a call may use, but for its thread's cores. XLA's calls, which cannot ask
    Numba, keep to what was found here last, by any thread."""
    numba: Any = sys.modules.get("numba.np.ufunc.parallel")
    # Numba has no mask before it has threads; asked for it, it would start them.
    most = int(_pool()[descriptor.CORES]) or _allowed()
    if getattr(numba, "_is_initialized", False):
        most = min(most, int(numba.get_num_threads()))
    _pool()[descriptor.LIMIT] = 1 if _forked else most
    return most


def _room(slots: int) -> int:
    """The address of so many zeros, a cache line's start. It is there for ever, as helpers are."""
    room = np.zeros(slots + 8, np.int64)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(room))
    address = int(room.ctypes.data)
    return address + -address % 64


def _slots(address: int, count: int) -> Any:
    return (ctypes.c_int64 * count).from_address(address)


@functools.cache
def pool() -> int:
    """The address of the pool."""
    return _room(descriptor.POOL_SIZE)


@functools.cache
def _pool() -> Any:
    """The slots of the pool."""
    return _slots(pool(), descriptor.POOL_SIZE)


@functools.cache
def foreign_table() -> int:
    """The address of the table of kernels for XLA."""
    return _room(descriptor.XLA_SIZE)


@functools.cache
def machine_table(habits: tuple[int, ...]) -> int:
    """The address of what kernels know of this machine."""
    address = _room(descriptor.MACHINE_SIZE)
    _slots(address, descriptor.MACHINE_SIZE)[:] = habits
    return address


def open_pool(team: int, helper: int) -> None:
    """Tell the pool the addresses of the compiled functions."""
    slots = _pool()
    slots[descriptor.HELPER], slots[descriptor.PARALLEL_FOR] = helper, team


def is_open() -> bool:
    """Whether the pool has been told."""
    return bool(_pool()[descriptor.PARALLEL_FOR])


def open_foreign(pair: int, entries: dict[int, int]) -> None:
    """Enter kernels for one pair of kinds, and the sizes of its elements, into their slots."""
    slots = _slots(foreign_table(), descriptor.XLA_SIZE)
    for slot, value in entries.items():
        slots[pair * descriptor.XLA_PAIR + slot] = value
    slots[descriptor.XLA_POOL] = pool()
    _limit()


def limit(prepare: Callable[[], bool]) -> int:
    """How many threads a call of any size may use here, but for its thread's cores. `prepare` makes
    the launcher ready and says whether it is; it is not called where there shall be no launch."""
    if _forked or _forced.get() == "serial":
        return 1
    most = _limit()
    return most if most > 1 and prepare() else 1


def threads(prepare: Callable[[], bool]) -> int:
    """How many threads a call of any size may use here."""
    most = cores()
    return min(most, limit(prepare)) if most > 1 else 1


def pretend(cores: int) -> None:
    """Take this machine for one of so many cores, or, with 0, for itself. For tests."""
    _pool()[descriptor.CORES] = cores


def helpers() -> int:
    """How many helpers there are."""
    return int(_pool()[descriptor.HELPERS])


def threads_in_xla(size: int) -> int:
    """How many threads a call by XLA uses."""
    return 1 if _forked else min(paid(size), _limit(), cores())


def forced() -> bool:
    """Whether a launch is wanted for the smallest call."""
    return _forced.get() == "parallel"


@contextlib.contextmanager
def force(how: str) -> Iterator[None]:
    """Within this block and thread, launch threads for the smallest call ("parallel", where that
    is safe) or for none ("serial"). For tests and benchmarks: "parallel" takes the short way, which
    launches none so small, from all threads."""
    if how not in ("serial", "parallel"):
        raise ValueError(f"how: expected 'serial' or 'parallel', got {how!r}")
    token = _forced.set(how)
    try:
        with _registry.no_short_way() if how == "parallel" else contextlib.nullcontext():
            yield
    finally:
        _forced.reset(token)
