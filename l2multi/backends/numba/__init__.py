"""The Numba backend's adapter: what the table of backends calls, by the kernels.

Loads LLVM to link a kernel, and Numba only to compile one that did not come with the package.
"""

import ctypes
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from l2multi import _contract, _usable
from l2multi._summation import LANES
from l2multi.backends import numpy as readable
from l2multi.backends.numba import descriptor, fast_call, loader, machine, plan, shipped, threads
from l2multi.backends.numba.fast_path import FastPath
from l2multi.backends.numba.pairs import FAST_CALL, JVP_ROWS, LONG_ROWS, Array, Pair, own, pair
from l2multi.backends.numba.threads import threads_in_xla  # noqa: F401  # for the JAX backend


def _missing(name: str) -> bool:
    """Whether a module cannot be found. `importlib.util`, which can tell that too, takes 0.2 ms of
    the first small call."""
    if name in sys.modules:
        return sys.modules[name] is None
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return not any(find(name, None, None) for find in finders if find is not None)


if _missing("llvmlite"):  # which comes with Numba
    raise ModuleNotFoundError("No module named 'llvmlite'")

finite = readable.finite
traced = readable.traced

# Elements from which auto waits for LLVM, 40 ms at the first call; NumPy takes as long for so many.
WAIT = 2**22

# Load-once caches.
_paths: dict[np.dtype[Any], FastPath] = {}
_functions: dict[shipped.Key, Any] = {}

# Of a kernel for derivatives: see `tangents`.
Tangents = Callable[[int, int, int, int, int, float], None]

_call_type = ctypes.c_int64 * descriptor.CALL_SIZE


def unsupported(x: Array, result: np.dtype[Any]) -> str | None:
    """Why Numba cannot turn `x` into `result`, or None if it can."""
    for dtype in (x.dtype, result):
        if _contract.rule(dtype).wide != np.float64:
            return f"Numba has no {_contract.name(dtype)}"
    return None


def unready(x: Array, axes: tuple[int, ...], result: np.dtype[Any], look: bool) -> str | None:
    """Why a call that may go elsewhere should, this time: LLVM is being imported, or there is no
    kernel and nothing that could make it."""
    # Policies and float32 norms of a float64 result are measured by the input's own pair.
    pairs = {one.key("rows"): one for one in (pair(x.dtype, result), own(x.dtype))}
    keys = [one.key(_layout(x, axes, one)) for one in pairs.values()]
    return unready_kernels(keys, x.size, look)


def unready_kernels(keys: list[shipped.Key], size: int, look: bool) -> str | None:
    """The same for a call of so many elements, by the kernels that it needs."""
    if loader.linked(*keys):
        return None
    if (why := loader.failure(*keys)) is not None:
        return why
    if look:
        return machine.trouble()
    if _usable.asking.get():
        found = (size >= WAIT or loader.started()) and loader.available(*keys)
        return None if found else "no kernel is made ready for who only asks"
    if size < WAIT and loader.link_soon(*keys, FAST_CALL):
        return "its kernel is being linked"
    try:
        for key in keys:
            loader.address(key)
    except ImportError as error:
        return loader.failure(*keys) or str(error)
    return None


def fast_path(x: Array, dtype: Any, result: np.dtype[Any]) -> FastPath | None:
    """The fast path for arrays of this dtype, if there is one by now."""
    made = _paths.get(x.dtype) or FastPath(x.dtype)
    if dtype is None and made.own is None:
        found = _fast_call(x.dtype, result)
        made.own = None if found is None else (found, result)
    elif dtype is not None and _contract.hashable(dtype) and dtype not in made.ways:
        found = _fast_call(x.dtype, result)
        if found is not None:
            made.ways[dtype] = found, result
    return _paths.setdefault(x.dtype, made) if made.own or made.ways else None


def _fast_call(dtype: np.dtype[Any], result: np.dtype[Any]) -> fast_call.FastCall | None:
    """The fast call for native arrays of `dtype` with results of `result`, or None for now."""
    one = pair(dtype, result)
    if one.source.swap or not fast_call.usable():
        return None
    if _usable.asking.get() and not loader.linked(FAST_CALL):
        return None
    try:
        return one.fast_call
    except Exception:  # CPython is not what it was, or there is no kernel
        return None


def check() -> None:
    """Raise an ImportError if there is no kernel, and nothing to compile one with."""
    loader.check(FAST_CALL)


def report() -> dict[str, str]:
    """For `show_versions`."""
    return loader.report()


# For XLA: workers by what is to be done, and their slots in the table.
_FOR_XLA = {
    "rows": {"rows": descriptor.XLA_ROWS, "short_rows": descriptor.XLA_SHORT_ROWS},
    "jvp": {
        "jvp_part_sum": descriptor.XLA_JVP_PART_SUM,
        "jvp_part_scale": descriptor.XLA_JVP_PART_SCALE,
        "jvp": descriptor.XLA_JVP,  # the one by which the handler tells whether they are there
    },
}


def _keys_for_xla(one: Pair, work: str) -> tuple[shipped.Key, ...]:
    workers = map(one.key, _FOR_XLA[work])
    shared = (("xla_ffi",), threads.PARALLEL_FOR, threads.HELPER)
    return (*shared, *workers, *([JVP_ROWS] if work == "jvp" else []))


def ready_for_xla(x: np.dtype[Any], y: np.dtype[Any], work: str) -> bool:
    """Whether `for_xla` need not compile anything."""
    return _known_to_xla(pair(x, y)) and loader.available(*_keys_for_xla(pair(x, y), work))


def known_to_xla(x: np.dtype[Any], y: np.dtype[Any]) -> bool:
    """Whether there are kernels for `for_xla`, as far as can be told without making any."""
    one = pair(x, y)
    return _known_to_xla(one) and loader.failure(*_keys_for_xla(one, "rows")) is None


def _known_to_xla(one: Pair) -> bool:
    return {one.source.kind, one.target.kind} <= set(descriptor.XLA_KINDS)


def for_xla(x: np.dtype[Any], y: np.dtype[Any], work: str) -> tuple[int, int] | None:
    """For programs that XLA compiles for the CPU: the address of the handler, and the number of the
    kernels that take `x` to `y`; `work` is "rows" or, for their derivative, "jvp". None where there
    is no such kernel."""
    one = pair(x, y)
    if not _known_to_xla(one):
        return None
    first, second = map(descriptor.XLA_KINDS.index, (one.source.kind, one.target.kind))
    number = first * len(descriptor.XLA_KINDS) + second
    try:
        handler, *_ = map(loader.address, _keys_for_xla(one, work))
    except ImportError:
        return None
    threads.ready()
    table = loader.slots(loader.XLA_TABLE, descriptor.XLA_SIZE)
    at = number * descriptor.XLA_PAIR
    table[at + descriptor.XLA_READ] = one.source.size
    table[at + descriptor.XLA_WRITE] = one.target.size
    if work == "jvp":
        table[descriptor.XLA_JVP_ROWS] = loader.address(JVP_ROWS)
    for name, slot in _FOR_XLA[work].items():
        table[at + slot] = loader.address(one.key(name))
    table[descriptor.XLA_POOL] = threads.POOL
    threads.by_mask()
    return handler, number


def warm(dtypes: Iterable[np.dtype[Any]], result: np.dtype[Any] | None) -> tuple[int, int, int]:
    """Link all kernels for inputs of these dtypes, with results of `result` or of their own dtypes,
    and what these share, and compile and keep those that are not there: how many there are, how
    many were compiled, and how many a later process will not find.
    """
    pairs = [own(dtype) if result is None else pair(dtype, result) for dtype in dtypes]
    keys: dict[shipped.Key, None] = dict.fromkeys((name,) for name in shipped.SHARED)
    keys |= dict.fromkeys(one.key(name) for one in pairs for name in descriptor.WORKERS)
    derivatives = (one.key(name) for one in pairs for name in descriptor.DERIVATIVES)
    keys |= dict.fromkeys(key for key in derivatives if key in shipped.KEYS)
    compiled = 0
    for key in keys:
        compiled += not loader.available(key)
        loader.address(key)
    return len(keys), compiled, sum(not loader.kept(key) for key in keys)


def busy() -> bool:
    """Whether LLVM is being imported, for who measures."""
    return loader.busy()


def machine_code() -> dict[str, str]:
    """The assembly of the kernels linked by now, for who watches it; compiles each again."""
    from l2multi.backends.numba import build

    return {" ".join(key): build.assembly(key) for key in loader.workers()}


def kernel(x: Array, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """The name of the kernel and its number of threads."""
    y = out if isinstance(out, np.ndarray) and out.shape == x.shape else None
    if x.size == 0:
        return "compiled rows", 1
    planned = _plan(x, y, None, axes, pair(x.dtype, result))
    in_place = y is not None and address(x) == address(y)
    used = threads.threads(x.size, planned.layout == "columns" and in_place, explain=True)
    chunks = planned.items // planned.call[descriptor.TOGETHER]
    return f"compiled {planned.layout}", used if planned.layout == "rows" else min(used, chunks)


def normalize(
    x: Array,
    axes: tuple[int, ...],
    *,
    eps: float,
    zero_nan: bool,
    out: Array | None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[Array, Any]:
    """The unit vectors, and the norms where asked for."""
    y = np.empty_like(x, dtype=dtype, subok=False) if out is None else out
    norms = None
    if norm_dtype is not None:
        norms = np.empty(_contract.batch_shape(x.shape, axes, False), norm_dtype)
    how = norms, axes, eps, math.nan if zero_nan else 1.0
    try:
        run(pair(x.dtype, dtype), x, y, *how)
    except ImportError:  # there is no kernel that could write to `out` as it lies
        if out is None or x is out:
            raise
        fresh = np.empty_like(x, dtype=dtype, subok=False)
        run(pair(x.dtype, dtype), x, fresh, *how)
        out[...] = fresh
    return y, None if norms is None else norms[()]


def norm(
    x: Array, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    one = own(x.dtype)
    norms = np.empty(_contract.batch_shape(x.shape, axes, keepdims), dtype) if out is None else out
    dropped = (0 if d in axes else slice(None) for d in range(x.ndim))
    target = norms[(*dropped, ...)] if keepdims else norms
    if dtype == one.norm or dtype == np.float64:
        run(one, x, None, target, axes, 0.0, 1.0)
    else:
        wide = np.empty(target.shape)
        run(one, x, None, wide, axes, 0.0, 1.0)
        target[...] = rounded(wide, dtype)
    return norms[()] if out is None else out


def tangents(dtype: np.dtype[Any]) -> Tangents | None:
    """What writes the tangents of unit vectors, along rows of neighbouring elements of a dtype, for
    the tangents of the rows: the derivative forwards and backwards, for as a matrix it is
    symmetric. None where there is no kernel for it, or Python's objects are not as compiled code
    reads them.

    Its arguments are the addresses of the rows, of their tangents and of the result, how many rows
    there are and of how many elements, and `eps`: to look up addresses of arrays takes as long as a
    row of 1000.
    """
    one = own(dtype)
    has_kernel = one.source.kind in shipped.DERIVATIVES and one.source.parts == 1
    if not has_kernel or one.source.swap or not fast_call.usable():
        return None
    try:
        call = one.tangents_call()
    except ImportError:
        raise
    except Exception:  # CPython is not what it was
        return None

    def write(x: int, d: int, y: int, count: int, n: int, eps: float) -> None:
        if call(x, d, y, count, n, eps := float(eps), 0) is int:
            call(x, d, y, count, n, eps, threads.limit())

    return write


def rounded(norms: Array, dtype: np.dtype[Any]) -> Array:
    """Norms in a dtype that no kernel writes."""
    with readable.exact_modes(), np.errstate(all="ignore"):
        return readable.round_to(norms, dtype)


def run(
    one: Pair,
    x: Array,
    y: Array | None,
    norms: Array | None,
    axes: tuple[int, ...],
    eps: float,
    zero_root: float,
) -> None:
    """The general path: any call, by a plan made from its strides."""
    if x.size == 0:
        if norms is not None:
            norms[...] = 0
        return
    planned = _plan(x, y, norms, axes, one)
    in_place = y is not None and address(x) == address(y)
    used = threads.threads(x.size, planned.layout == "columns" and in_place)
    call = filled(planned.call, one, x, y, norms, eps, zero_root, used)
    worker, at = one.worker(planned.layout), ctypes.addressof(call)
    n = planned.n * one.source.parts
    if used == 1:
        function(one.key(planned.layout), 3)(0, planned.items, at)
    elif (
        planned.layout == "rows" and planned.items < 2 * used and n >= 2 * plan.SPLIT
        and (workers := one.long_rows()) is not None
    ):  # fmt: skip
        scratch = np.empty((n // plan.SPLIT + 1, LANES))
        call[descriptor.PART_SUM], call[descriptor.PART_SCALE] = workers
        call[descriptor.RESCALING] = one.source.kind == "float64"
        call[descriptor.SCRATCH] = address(scratch)
        function(LONG_ROWS, 2)(planned.items, at)
    else:
        function(threads.PARALLEL_FOR, 3)(worker, planned.items, at)


def filled(
    planned: Iterable[int],
    one: Pair,
    x: Array,
    y: Array | None,
    norms: Array | None,
    eps: float,
    zero_root: float,
    used: int,
) -> Any:
    """A call descriptor: its slots as planned, and the rest of them."""
    call = _call_type(*planned)
    for slot, value in (
        (descriptor.X, address(x)),
        (descriptor.Y, 0 if y is None else address(y)),
        (descriptor.NORMS, 0 if norms is None else address(norms)),
        (descriptor.NORM_SIZE, 8 if norms is None else norms.itemsize),
        (descriptor.TABLE_X, one.descriptor[descriptor.PAIR_TABLE_X]),
        (descriptor.TABLE_Y, one.descriptor[descriptor.PAIR_TABLE_Y]),
        (descriptor.TOTAL, x.size),
        (descriptor.POOL, threads.POOL),
        (descriptor.THREADS, used),
    ):
        call[slot] = value
    for slot, number in ((descriptor.EPS, eps), (descriptor.ZERO_ROOT, zero_root)):
        ctypes.c_double.from_buffer(call, 8 * slot).value = number
    return call


def function(key: shipped.Key, arguments: int) -> Any:
    """A compiled function of so many addresses or numbers, which releases the GIL."""
    found = _functions.get(key)
    if found is None:
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * arguments)
        found = _functions[key] = prototype(loader.address(key))
    return found


def address(a: Array) -> int:
    """Where the first element is; half the time of ``a.ctypes.data``."""
    return int(a.__array_interface__["data"][0])


def _plan(
    x: Array, y: Array | None, norms: Array | None, axes: tuple[int, ...], one: Pair
) -> plan.Plan:
    strides, size = (x.strides, x.itemsize) if y is None else (y.strides, y.itemsize)
    of_norms = norms.strides if norms is not None else (0,) * (x.ndim - len(axes))
    sizes = x.itemsize, size, one.source.parts
    return plan.planned(x.shape, x.strides, strides, of_norms, axes, sizes, one.source.swap)


def _layout(x: Array, axes: tuple[int, ...], one: Pair, y: Array | None = None) -> str:
    return _plan(x, y, None, axes, one).layout if x.size else "rows"
