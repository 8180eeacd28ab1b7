"""What the benchmarks share: parameters, inputs, copies, and the one way to compare times.

The backends are those of the registry; one that is not installed, or that cannot do the work,
raises NotImplementedError, which asv shows as a skip.
"""

import contextlib
import ctypes
import functools
import gc
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2
from l2multi import _registry

Axis = int | tuple[int, ...]
Call = Callable[[], Any]

BACKENDS = _registry.NAMES
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "complex64")
OPERATIONS = ("new", "out", "inplace", "norm", "return_norm", "cast")

# The benchmarks run as tests with these lowered.
LARGEST: int | None = None  # no axis of an input is longer
ROUNDS = 15
BURST = 1e-3  # seconds that one contender runs before the next one does
# Seconds for the OpenMP teams of others to stop spinning, as torch's and Numba's do for 6 to 13 ms:
# they would hold a core that the next contender needs.
SETTLE = 15e-3


class Work(NamedTuple):
    """What is to be done to an array."""

    operation: str = "new"
    axis: Axis = -1
    cast: str = "float16"  # the dtype of the result, where the operation is "cast"
    out: Any = None  # where to write, where the operation is "out"; None for an array of one's own


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of this name, those of ml_dtypes included."""
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError as error:
            raise NotImplementedError(str(error)) from None
        return np.dtype(getattr(ml_dtypes, name))


def result_dtype(work: Work, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the unit vectors, as every contender has to return it."""
    if work.operation == "cast":
        return dtype_of(work.cast)
    return np.dtype(np.float64) if dtype.kind in "iub" else dtype


def norm_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the norms, likewise."""
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    return np.dtype(np.float32 if dtype.itemsize <= (8 if dtype.kind == "c" else 4) else np.float64)


def _values(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Normal deviates; a block of them over and over, for a large array is slow to draw."""
    random = np.random.default_rng(20)
    count = min(math.prod(shape), 1 << 20)
    block = random.standard_normal(count, dtype=np.float32)
    kind = dtype_of(dtype)
    if kind.kind == "i":
        block *= 40
    elif kind.kind == "c":
        block = block + 1j * random.standard_normal(count, dtype=np.float32)
    x = np.empty(math.prod(shape), kind)
    block = block.astype(kind)
    for start in range(0, x.size, max(count, 1)):
        x[start : start + count] = block[: x.size - start]
    return x.reshape(shape)


def _sliced(m: int, n: int, dtype: str) -> np.ndarray[Any, Any]:
    return _values((m, n + 16), dtype)[:, 8 : 8 + n]


def _fortran(m: int, n: int, dtype: str) -> np.ndarray[Any, Any]:
    return np.asfortranarray(_values((m, n), dtype))


def _split(m: int, n: int, dtype: str) -> np.ndarray[Any, Any]:
    return _values((8, m, max(n // 8, 1)), dtype)


def _middle(m: int, n: int, dtype: str) -> np.ndarray[Any, Any]:
    return _values((max(m // 8, 1), n, 8), dtype)


# How vectors lie in memory, for an array of about m times n elements, and their axis.
LAYOUTS: dict[str, tuple[Callable[[int, int, str], np.ndarray[Any, Any]], Axis]] = {
    "rows": (lambda m, n, dtype: _values((m, n), dtype), -1),
    "sliced rows": (_sliced, -1),
    "columns": (lambda m, n, dtype: _values((m, n), dtype), 0),
    "Fortran": (_fortran, -1),
    "middle axis": (_middle, 1),
    "two axes": (_split, (0, 2)),
}


def array(shape: str, dtype: str, layout: str = "rows") -> tuple[np.ndarray[Any, Any], Axis]:
    """An array of the shape "m x n", new each time and always the same, and the vectors' axis."""
    m, n = (int(size) if LARGEST is None else min(int(size), LARGEST) for size in shape.split("x"))
    make, axis = LAYOUTS[layout]
    return make(m, n, dtype), axis


def like(x: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array laid out as `x` that has been written to: its pages are there."""
    out = np.empty_like(x, dtype=dtype)
    out.fill(0)
    return out


def target(work: Work, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where to write: `x` itself, or an output that is warm."""
    if work.operation == "inplace":
        return x
    return work.out if work.out is not None else like(x, result_dtype(work, x.dtype))


def _settled(call: Call) -> Call:
    """A call at full speed: LLVM has been imported, and the kernel linked."""

    def busy() -> bool:  # a backend may load another when it is first called
        return any(getattr(module, "busy", bool)() for module in list(_registry._loaded.values()))

    again = True
    while again:
        call()
        again = busy()
        while busy():
            time.sleep(0.001)
    return call


def ours(work: Work, x: np.ndarray[Any, Any], backend: str | None = None) -> Call:
    """The call of l2multi that does this work, and waits for the result.

    Under `backend` None it is the one in ``L2MULTI_BACKEND``, or the choice is the library's, made
    when no kernel has to be waited for.
    """
    operation, axis = work.operation, work.axis
    function = l2.norm if operation == "norm" else l2.normalize
    keywords: dict[str, Any] = {}
    if operation == "cast":
        keywords["dtype"] = dtype_of(work.cast)
    elif operation == "return_norm":
        keywords["return_norm"] = True
    elif operation == "inplace":
        if result_dtype(work, x.dtype) != x.dtype:
            raise NotImplementedError(f"{x.dtype} cannot hold its own unit vectors")
        keywords["out"] = x
    elif operation == "out":
        keywords["out"] = target(work, x)

    def refused(name: str) -> str | None:
        try:
            l2.explain(x, axis, dtype=keywords.get("dtype"), backend=name)
        except (ImportError, TypeError) as error:
            return str(error)
        return None

    if backend is None:
        backend = _registry.named(None)
    if backend is None:
        for row in _registry.ROWS:  # a backend asked for by name compiles before it answers
            if row.library == "numpy" and not refused(row.name):
                function(x, axis, **keywords, backend=row.name)
        return _settled(functools.partial(function, x, axis, **keywords))
    if why := refused(backend):
        raise NotImplementedError(why)
    library = _registry.row(backend).library
    if library != "numpy":
        if "out" in keywords:
            raise NotImplementedError(f"{library} arrays are immutable")
        x = _registry.carry(x, "numpy", library)
    call = functools.partial(function, x, axis, **keywords, backend=backend)
    _settled(call)
    if not hasattr(x, "block_until_ready"):
        return call
    if operation == "return_norm":
        return lambda: [y.block_until_ready() for y in call()]
    return lambda: call().block_until_ready()


def burst(call: Call, repeats: int) -> float:
    """Seconds per call, over so many of them."""
    loop = itertools.repeat(None, repeats)
    start = time.perf_counter()
    for _ in loop:
        call()
    return (time.perf_counter() - start) / repeats


def repeats_for(call: Call, seconds: float) -> int:
    """How many calls take so long."""
    repeats, taken = 1, burst(call, 1)
    while taken * repeats < seconds / 8:
        repeats *= 4
        taken = burst(call, repeats)
    return max(1, round(seconds / taken))


def keep_memory() -> None:
    """Have glibc keep what is freed, for this process. By default it depends on what happened
    before whether the next output's pages have to be faulted in again, a factor of two or three."""
    with contextlib.suppress(AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-3, 1 << 25), (-1, 1 << 30)):  # to map memory from; to give it back
            mallopt(option, value)


def settle() -> None:
    """Let SETTLE pass, at work. After a sleep some systems (seen on Linux in a virtual machine) put
    a thread that is woken on the core of who woke it, for the next milliseconds."""
    start = time.perf_counter()
    while time.perf_counter() - start < SETTLE:
        pass


def interleave(
    calls: dict[str, Call], budget: float = 1.0, longer: float = 1.0
) -> dict[str, list[float]]:
    """Seconds per call of each contender, a figure per round.

    The contenders take turns, in an order drawn anew for two rounds, once there and once back, so
    that a change in the machine's pace meets all of them, and so does what another leaves behind,
    such as threads that are not yet asleep. Each begins its turn with a call that is not timed.
    `budget` is the number of seconds after which it does not go beyond five rounds; turns are
    `longer` times as usual.
    """
    repeats = {name: repeats_for(call, longer * BURST) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for number in range(ROUNDS):
            if number >= 5 and time.perf_counter() - start > budget:
                break
            order = random.Random(number // 2).sample(names, len(names))
            for name in order if number % 2 == 0 else order[::-1]:
                settle()
                calls[name]()
                times[name].append(burst(calls[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    return times


def ratio(times: dict[str, list[float]], name: str, others: Iterable[str]) -> float:
    """The median time of one contender over that of the fastest of the others."""
    return float(np.median(times[name]) / min(np.median(times[other]) for other in others))


@functools.cache
def _streaming_copy() -> Any:
    """A parallel copy by stores that go past the caches: ``copy(to, from, lines)``, in lines of
    64 bytes, `to` aligned to them. None without Numba.

    An ordinary store first reads the line that it overwrites, which makes three transfers of two;
    above the caches' size this is the fastest copy there is. It is written out here, apart from
    the library, so that the limit does not move with what is measured against it.
    """
    try:
        import numba
        from llvmlite import ir
        from numba.core import types
        from numba.extending import intrinsic
    except ImportError:
        return None

    @intrinsic
    def move(context: Any, to: Any, source: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            line = ir.VectorType(ir.IntType(64), 8).as_pointer()
            to, source = (builder.inttoptr(value, line) for value in values)
            value = builder.load(source)
            value.align = 8
            store = builder.store(value, to)
            store.align = 64
            one = ir.Constant(ir.IntType(32), 1)
            store.set_metadata("nontemporal", builder.module.add_metadata([one]))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), build

    @intrinsic
    def fence(context: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), build

    @numba.njit(parallel=True, nogil=True)
    def copy(to, source, lines, parts):  # type: ignore[no-untyped-def]
        for part in numba.prange(parts):
            for line in range(lines * part // parts, lines * (part + 1) // parts):
                move(to + 64 * line, source + 64 * line)
            fence()

    threads = numba.get_num_threads()
    return lambda to, source, lines: copy(to, source, lines, threads)


def cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


def copies(x: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> dict[str, Call]:
    """Ways to copy the bytes of `x` into those of `out`, both contiguous: the machine's limit.

    Where the sizes differ, as many bytes are moved as `x` and `out` have on the average.
    """
    size = (x.nbytes + out.nbytes) // 2
    if out.nbytes < size:
        out = np.full(size, 1, np.uint8)
    elif x.nbytes < size:
        x = np.full(size, 1, np.uint8)
    source, to = (a.reshape(-1, order="A").view(np.uint8)[:size] for a in (x, out))
    found: dict[str, Call] = {"copy, one thread": functools.partial(np.copyto, to, source)}
    pool, threads = _pool(), cores()
    if threads > 1 and size >= 1 << 20:
        parts = list(zip(np.array_split(to, threads), np.array_split(source, threads), strict=True))

        def in_threads() -> None:
            waiting = [pool.submit(np.copyto, *part) for part in parts]
            for future in waiting:
                future.result()

        found[f"copy, {threads} threads"] = in_threads
    streaming = _streaming_copy()
    if streaming is not None and size >= 1 << 16:
        skip = -to.ctypes.data % 64  # the ends that are not whole lines, 1 in 500 at most, are left
        arguments = (to.ctypes.data + skip, source.ctypes.data + skip, (size - skip) // 64)
        streaming(*arguments)
        keep = (to, source)  # addresses alone do not keep arrays alive
        found["copy, streaming"] = lambda: (streaming(*arguments), keep)
    return found
