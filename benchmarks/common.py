"""What the benchmarks share: parameters, inputs, l2multi's own call, and one way to compare times.

A backend that is not installed, or that cannot do the work, raises NotImplementedError, which asv
shows as a skip.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import itertools
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2

Axis = int | tuple[int, ...]
Call = Callable[[], Any]
Array = np.ndarray[Any, Any]

# How NumPy arrays become those of a backend that works on another library's.
CARRY = {"jax": lambda x: importlib.import_module("jax").device_put(x)}
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "complex64")
OPERATIONS = ("new", "out", "inplace", "norm", "return_norm", "cast")

# The benchmarks run as tests with these lowered.
LARGEST: int | None = None  # no axis of an input is longer
ROUNDS = 15
BURST = 1e-3  # seconds that one contender runs before the next one does
# Seconds for the OpenMP threads of others to stop spinning, as torch's and Numba's do for 6 to
# 13 ms: they would hold a core that the next contender needs.
SETTLE = 15e-3


# All that is used of the inside of l2multi: of this tree's and of that of a base of the gate.

try:
    from l2multi._testing import BACKENDS, busy, machine_code
except ImportError:  # a base before 28 November 2026
    from l2multi import _registry

    BACKENDS = _registry.NAMES

    def busy() -> bool:
        """Whether any backend is still preparing something, such as the import of LLVM."""
        return any(getattr(module, "busy", bool)() for module in list(_registry._loaded.values()))

    def machine_code() -> dict[str, str]:
        """The assembly of the kernels that backends have linked by now, by the kernel's name."""
        found: dict[str, str] = {}
        for module in list(_registry._loaded.values()):
            found |= getattr(module, "machine_code", dict)()
        return found


AUTO = "auto"  # no backend is named, as users call
# What asv measures, which starts a process for each combination: auto is Numba for NumPy arrays,
# and what other libraries hold is in `bench_held`, each beside a NumPy array.
WAYS = (AUTO, "numpy", "jax")


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


def _values(shape: tuple[int, ...], dtype: str) -> Array:
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


# How vectors lie in memory, for an array of about m times n elements, and their axis.
LAYOUTS: dict[str, tuple[Callable[[int, int, str], Array], Axis]] = {
    "rows": (lambda m, n, dtype: _values((m, n), dtype), -1),
    "sliced rows": (lambda m, n, dtype: _values((m, n + 16), dtype)[:, 8 : 8 + n], -1),
    "columns": (lambda m, n, dtype: _values((m, n), dtype), 0),
    "Fortran": (lambda m, n, dtype: np.asfortranarray(_values((m, n), dtype)), -1),
    "middle axis": (lambda m, n, dtype: _values((max(m // 8, 1), n, 8), dtype), 1),
    "two axes": (lambda m, n, dtype: _values((8, m, max(n // 8, 1)), dtype), (0, 2)),
}


def sizes(shape: str, dtype: str, layout: str = "rows") -> tuple[int, int]:
    """The m and n of "m x n"; of "64MBxn" those of an array of 64 MB with vectors of n elements."""
    m, n = shape.split("x")
    if not m.endswith("MB"):
        return int(m), int(n)
    count = max(1, int(float(m[:-2]) * 1e6 / dtype_of(dtype).itemsize / int(n)))
    return (int(n), count) if layout == "columns" else (count, int(n))


def array(shape: str, dtype: str, layout: str = "rows") -> tuple[Array, Axis]:
    """An array of this shape, new each time and always the same, and the vectors' axis."""
    m, n = (min(size, LARGEST or size) for size in sizes(shape, dtype, layout))
    make, axis = LAYOUTS[layout]
    return make(m, n, dtype), axis


def like(x: Array, dtype: np.dtype[Any]) -> Array:
    """An array laid out as `x` that has been written to: its pages are there."""
    out = np.empty_like(x, dtype=dtype)
    out.fill(0)
    return out


def target(work: Work, x: Array) -> Array:
    """Where to write: `x` itself, or an output that is warm."""
    if work.operation == "inplace":
        return x
    return work.out if work.out is not None else like(x, result_dtype(work, x.dtype))


def settled(call: Call) -> Any:
    """The result of a call that is at full speed: LLVM has been imported, and the kernel linked."""
    result = call()
    while busy():
        while busy():
            time.sleep(0.001)
        result = call()  # a backend may load another when it is first called
    return result


def waited(call: Call, result: Any) -> Call:
    """A call that waits for its result, as far as ones like `result` arrive later."""
    one = result[0] if isinstance(result, (tuple, list)) else result
    if getattr(one, "is_cuda", False):  # a tensor of torch
        synchronize = importlib.import_module("torch").cuda.synchronize
        return lambda: (call(), synchronize())[0]
    if hasattr(one, "__dask_graph__"):
        return lambda: call().compute(scheduler="sync")
    if not hasattr(one, "block_until_ready"):
        return call
    if one is not result:
        return lambda: [y.block_until_ready() for y in call()]
    return lambda: call().block_until_ready()


def ours(work: Work, x: Any, backend: str = AUTO) -> Call:
    """The call of l2multi that does this work, and waits for the result.

    Under "auto" no backend is named but by ``L2MULTI_BACKEND``: the choice is the library's, made
    when no kernel has to be waited for.
    """
    operation, axis = work.operation, work.axis
    function = l2.norm if operation == "norm" else l2.normalize
    keywords: dict[str, Any] = {}
    if operation == "cast":
        keywords["dtype"] = dtype_of(work.cast)
    elif operation == "return_norm":
        keywords["return_norm"] = True
    elif operation == "inplace" and result_dtype(work, x.dtype) != x.dtype:
        raise NotImplementedError(f"{x.dtype} cannot hold its own unit vectors")
    elif operation in ("out", "inplace"):
        keywords["out"] = target(work, x)

    def refused(name: str) -> str | None:
        try:
            l2.explain(x, axis, dtype=keywords.get("dtype"), backend=name)
        except (ImportError, TypeError, ValueError) as error:  # a base may not know the name
            return str(error)
        return None

    name = (os.environ.get("L2MULTI_BACKEND") or None) if backend == AUTO else backend
    if name is None and isinstance(x, np.ndarray):
        if not refused("numba"):  # which auto may still be waiting for
            function(x, axis, **keywords, backend="numba")
    elif name is not None:
        if why := refused(name):
            raise NotImplementedError(why)
        if name in CARRY:
            if "out" in keywords:
                raise NotImplementedError(f"arrays of {name} are immutable")
            x = CARRY[name](x)
    call = functools.partial(function, x, axis, **keywords, backend=name)
    return waited(call, settled(call))


def burst(call: Call, repeats: int) -> float:
    """Seconds per call, over so many of them."""
    loop = itertools.repeat(None, repeats)
    start = time.perf_counter()
    for _ in loop:
        call()
    return (time.perf_counter() - start) / repeats


def repeats_for(call: Call, seconds: float) -> int:
    """How many calls take so long, once the threads that they want are awake and those of another
    contender asleep: else a burst is too short, and what is timed is how threads wake up."""
    settle()
    repeats, taken = 1, math.inf
    while True:
        for _ in range(4):
            taken = min(taken, burst(call, repeats))
            if taken * repeats >= seconds:
                break
        if taken * repeats >= seconds / 8:
            return max(1, round(seconds / taken))
        repeats *= 4


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


def cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
