"""The Numba backend: which kernel serves a call, and what it is given. Loads LLVM to link a kernel,
and Numba only to compile one that did not come with the package."""

import array
import ctypes
import functools
import importlib.util
import itertools
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from l2multi import _contract, _registry
from l2multi._summation import LANES
from l2multi.backends import numpy as readable
from l2multi.backends.numba import descriptor, fast_call, loader, machine, plan, shipped, threads
from l2multi.backends.numba.fast_path import FastPath, hashable

if importlib.util.find_spec("llvmlite") is None:  # which comes with Numba
    raise ModuleNotFoundError("No module named 'llvmlite'")

Array = np.ndarray[Any, Any]

finite = readable.finite
traced = readable.traced

_Table = list[tuple[int, ...]]

# Elements from which auto waits for LLVM, 40 ms at the first call; NumPy takes as long for so many.
WAIT = 2**22

_NO_TABLE = np.empty(0, np.uint8)


class _Side(NamedTuple):
    """A dtype as the kernels see it."""

    kind: str
    size: int  # bytes of an element, or of a part of a complex one
    parts: int  # 2 for complex
    swap: bool
    decode: Array
    encode: Array


def _side(dtype: np.dtype[Any]) -> _Side:
    native = dtype.newbyteorder("=")
    swap, parts, real = native != dtype, 1, native
    decode = encode = _NO_TABLE
    if _contract.is_complex(native):
        parts, real = 2, native.type(0).real.dtype
    if real == np.bool_:
        kind = "bool"
    elif real in _contract.ml_dtypes_in(("bfloat16",)):
        kind = "bfloat16"
    elif real in _contract.ml_dtypes_in(_contract.ML_FLOATS):
        kind, decode, encode = "byte", _decode_table(real), _encode_table(real)
    elif real in _contract.ml_dtypes_in(_contract.ML_INTEGERS):
        kind, decode = "small", _decode_table(real)
    else:
        kind = f"{ {'i': 'int', 'u': 'uint', 'f': 'float'}[real.kind] }{8 * real.itemsize}"
    return _Side(kind, real.itemsize, parts, swap, decode, encode)


def _decode_table(dtype: np.dtype[Any]) -> Array:
    """The float32 value of each byte, for a dtype of one byte."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


def _encode_table(dtype: np.dtype[Any]) -> Array:
    """The byte nearest to each float32 whose lower 16 bits are zero."""
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    with np.errstate(all="ignore"):
        return bits.view(np.float32).astype(dtype).view(np.uint8)


class _Pair:
    """What is known of an input and an output dtype."""

    def __init__(self, x: np.dtype[Any], y: np.dtype[Any]) -> None:
        rule = _contract.rule(x)
        self.x, self.y = rule.native, _contract.rule(y).native
        self.source, self.target = _side(x), _side(y)
        self.norm = rule.norm
        self.table_x = self.source.decode.ctypes.data
        self.table_y = self.target.encode.ctypes.data
        self.bound = np.zeros(descriptor.PAIR_SIZE, np.int64)  # what `short` is bound to
        self._short: Callable[..., bool | None] | None = None

    def key(self, name: str) -> shipped.Key:
        """The worker of this name, for these dtypes."""
        return (name, self.source.kind, self.target.kind)

    def worker(self, name: str) -> int:
        """The address of a worker, whatever it takes to get it; the short way knows it from now."""
        found = loader.address(self.key(name))
        self.bound[descriptor.WORKERS.index(name)] = found
        return found

    @property
    def short(self) -> Callable[..., bool | None]:
        """The short way in; see `entries.short`. Links it.

        Not a `functools.cached_property`: until Python 3.12 that held a lock, which a fork would
        have left closed in the child.
        """
        if self._short is not None:
            return self._short
        for slot, value in (
            (descriptor.TYPE_X, id(self.x)),
            (descriptor.TYPE_Y, id(self.y)),
            (descriptor.SIZE_X, self.x.itemsize),
            (descriptor.SIZE_Y, self.y.itemsize),
            (descriptor.PAIR_PARTS, self.source.parts),
            (descriptor.PAIR_TABLE_X, self.table_x),
            (descriptor.PAIR_TABLE_Y, self.table_y),
            (descriptor.PAIR_RESCALING, self.source.kind == "float64"),
            (descriptor.PAIR_THREADS, id(_limit)),
            (descriptor.PAIR_POOL, threads.pool()),
        ):
            self.bound[slot] = value
        self._short = fast_call.function(loader.address(_FAST_CALL), self.bound, (self, _limit))
        return self._short


# Load-once caches.
_pairs: dict[tuple[Any, Any], _Pair] = {}
_paths: dict[np.dtype[Any], FastPath] = {}
_functions: dict[shipped.Key, Any] = {}

# A call's record, without what only `split` asks for, and the length of that.
_RECORD = struct.Struct(f"={descriptor.EPS}q2d{descriptor.PART_SUM - descriptor.TOTAL}q")

_FAST_CALL, _PARALLEL_FOR, _HELPER = ("fast_call",), ("parallel_for",), ("helper",)
_LONG_ROWS, _XLA_FFI = ("long_rows",), ("xla_ffi",)


def _function(key: shipped.Key, arguments: int) -> Any:
    """A compiled function of so many addresses or numbers, which lets go of Python's lock."""
    found = _functions.get(key)
    if found is None:
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * arguments)
        found = _functions[key] = prototype(loader.address(key))
    return found


def _pair(x: np.dtype[Any], y: np.dtype[Any]) -> _Pair:
    found = _pairs.get((x, y))
    if found is None:
        found = _pairs.setdefault((x, y), _Pair(x, y))
    return found


def _own(x: np.dtype[Any]) -> _Pair:
    """An input dtype and that of its own result."""
    return _pair(x, _contract.rule(x).result)


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
    pairs = {pair.key("rows"): pair for pair in (_pair(x.dtype, result), _own(x.dtype))}
    keys = [pair.key(_way(x, axes, pair)) for pair in pairs.values()]
    if loader.linked(*keys):
        return None
    if (why := loader.failure(*keys)) is not None:
        return why
    if look:
        return machine.trouble()
    if _registry.asking.get():
        found = (x.size >= WAIT or loader.started()) and loader.available(*keys)
        return None if found else "no kernel is made ready for who only asks"
    if x.size < WAIT and loader.link_soon(*keys, _FAST_CALL):
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
        found = short(x.dtype, result)
        made.own = None if found is None else (found, result)
    elif dtype is not None and hashable(dtype) and dtype not in made.ways:
        found = short(x.dtype, result)
        if found is not None:
            made.ways[dtype] = found, result
    return _paths.setdefault(x.dtype, made) if made.own or made.ways else None


def short(dtype: np.dtype[Any], result: np.dtype[Any]) -> Callable[..., bool | None] | None:
    """The short way in for native arrays of `dtype` with results of `result`, or None for now."""
    pair = _pair(dtype, result)
    if pair.source.swap or not fast_call.usable():
        return None
    if _registry.asking.get() and not loader.linked(_FAST_CALL):
        return None
    try:
        return pair.short
    except Exception:  # CPython is not what it was, or there is no kernel
        return None


def check() -> None:
    """Raise an ImportError if there is no kernel, and nothing to compile one with."""
    loader.check(_FAST_CALL)


def report() -> dict[str, str]:
    """For `show_versions`."""
    return loader.report()


# For XLA: workers by what is to be done, and their slots in the table.
_FOR_XLA = {
    "rows": {"rows": descriptor.XLA_ROWS, "short_rows": descriptor.XLA_SHORT_ROWS},
    "jvp": {"jvp": descriptor.XLA_JVP},
}


def _for_xla(pair: _Pair, work: str) -> tuple[shipped.Key, ...]:
    return (_XLA_FFI, _PARALLEL_FOR, _HELPER, *map(pair.key, _FOR_XLA[work]))


def ready_for_xla(x: np.dtype[Any], y: np.dtype[Any], work: str) -> bool:
    """Whether `for_xla` need not compile anything."""
    return _known_to_xla(_pair(x, y)) and loader.available(*_for_xla(_pair(x, y), work))


def known_to_xla(x: np.dtype[Any], y: np.dtype[Any]) -> bool:
    """Whether there are kernels for `for_xla`, as far as can be told without making any."""
    pair = _pair(x, y)
    return _known_to_xla(pair) and loader.failure(*_for_xla(pair, "rows")) is None


def _known_to_xla(pair: _Pair) -> bool:
    return {pair.source.kind, pair.target.kind} <= set(descriptor.XLA_KINDS)


def for_xla(x: np.dtype[Any], y: np.dtype[Any], work: str) -> tuple[int, int] | None:
    """For programs that XLA compiles for the CPU: the address of the handler, and the number of the
    kernels that take `x` to `y`; `work` is "rows" or, for their derivative, "jvp". None where
    there is no such kernel."""
    pair = _pair(x, y)
    if not _known_to_xla(pair):
        return None
    first, second = map(descriptor.XLA_KINDS.index, (pair.source.kind, pair.target.kind))
    number = first * len(descriptor.XLA_KINDS) + second
    try:
        handler, team, helper, *workers = map(loader.address, _for_xla(pair, work))
    except ImportError:
        return None
    threads.open_pool(team, helper)
    sizes = {descriptor.XLA_READ: pair.source.size, descriptor.XLA_WRITE: pair.target.size}
    slots = dict(zip(_FOR_XLA[work].values(), workers, strict=True))
    threads.open_foreign(number, slots | sizes)
    return handler, number


def warm(dtypes: Iterable[np.dtype[Any]], result: np.dtype[Any] | None) -> tuple[int, int, int]:
    """Link all kernels for inputs of these dtypes, with results of `result` or of their own dtypes,
    and what launches them, and compile and keep those that are not there: how many there are, how
    many were compiled, and how many a later process will not find.
    """
    pairs = [_own(dtype) if result is None else _pair(dtype, result) for dtype in dtypes]
    keys: dict[shipped.Key, None] = dict.fromkeys((name,) for name in shipped.SHARED)
    keys |= dict.fromkeys(pair.key(name) for pair in pairs for name in descriptor.WORKERS)
    jvps = (pair.key("jvp") for pair in pairs)
    keys |= dict.fromkeys(key for key in jvps if key in shipped.KEYS)
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
    fits = isinstance(out, np.ndarray) and out.shape == x.shape
    name = _way(x, axes, _pair(x.dtype, result), out if fits else None)
    return f"compiled {name}", _threads_for(name, x, out if fits else None, lambda: True)


def _way(x: Array, axes: tuple[int, ...], pair: _Pair, y: Array | None = None) -> str:
    return _plan(x, y, None, axes, pair)[0] if x.size else "rows"


def _limit() -> int:
    """How many threads a call of any size may use, but for its thread's cores; who only asks has
    those that are there."""
    most = threads.limit(_ready_team)
    return min(most, threads.helpers() + 1) if _registry.asking.get() else most


def _threads() -> int:
    """How many threads a call of any size may use."""
    cores = threads.cores()
    return min(cores, _limit()) if cores > 1 else 1


def _threads_for(
    name: str, x: Array, y: Array | None, ready: Callable[[], bool] | None = None
) -> int:
    """How many threads this call uses at most."""
    paid = threads.paid(x.size)
    if name == "columns" and y is not None and x.size <= threads.IN_PLACE:
        paid = 1 if _address(x) == _address(y) else paid
    if paid == 1 and not threads.forced():
        return 1
    most = threads.threads(ready) if ready else _threads()
    return most if threads.forced() else min(paid, most)


def _ready_team() -> bool:
    """Whether threads can be launched."""
    if threads.is_open():
        return True
    if _registry.asking.get() and not loader.available(_PARALLEL_FOR, _HELPER):
        return False
    try:
        threads.open_pool(loader.address(_PARALLEL_FOR), loader.address(_HELPER))
    except ImportError:  # no POSIX threads here
        return False
    return True


def _ready_split(pair: _Pair) -> bool:
    try:
        for key in (_LONG_ROWS, pair.key("part_sum"), pair.key("part_scale")):
            loader.address(key)
    except ImportError:
        return False
    return True


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
    """The key vectors, and the norms where asked for."""
    y = np.empty_like(x, dtype=dtype, subok=False) if out is None else out
    norms = None
    if norm_dtype is not None:
        norms = np.empty(_contract.batch_shape(x.shape, axes, False), norm_dtype)
    how = norms, axes, eps, math.nan if zero_nan else 1.0
    try:
        _run(_pair(x.dtype, dtype), x, y, *how)
    except ImportError:  # there is no kernel that could write to `out` as it lies
        if out is None or x is out:
            raise
        fresh = np.empty_like(x, dtype=dtype, subok=False)
        _run(_pair(x.dtype, dtype), x, fresh, *how)
        out[...] = fresh
    return y, None if norms is None else norms[()]


def norm(
    x: Array, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    pair = _own(x.dtype)
    norms = np.empty(_contract.batch_shape(x.shape, axes, keepdims), dtype) if out is None else out
    dropped = (0 if d in axes else slice(None) for d in range(x.ndim))
    target = norms[(*dropped, ...)] if keepdims else norms
    if dtype == pair.norm or dtype == np.float64:
        _run(pair, x, None, target, axes, 0.0, 1.0)
    else:
        wide = np.empty(target.shape)
        _run(pair, x, None, wide, axes, 0.0, 1.0)
        with readable.exact_modes(), np.errstate(all="ignore"):
            target[...] = readable.round_to(wide, dtype)
    return norms[()] if out is None else out


def _run(
    pair: _Pair,
    x: Array,
    y: Array | None,
    norms: Array | None,
    axes: tuple[int, ...],
    eps: float,
    zero_root: float,
) -> None:
    """Any call: a plan from the strides, then the kernel for it."""
    if x.size == 0:
        if norms is not None:
            norms[...] = 0
        return
    name, n, inner, batch = _plan(x, y, norms, axes, pair)
    count = math.prod(row[0] for row in batch)
    tiles = -(-batch[-1][0] // LANES)
    threads = _threads_for(name, x, y)
    # array.array takes a tenth of NumPy's time to fill and to tell its address.
    tables = array.array("q", itertools.chain(*inner, *batch))
    at_tables = tables.buffer_info()[0]
    record = array.array(
        "q",
        _RECORD.pack(
            _address(x), 0 if y is None else _address(y), 0 if norms is None else _address(norms),
            8 if norms is None else norms.itemsize,
            n, at_tables, len(inner),
            at_tables + tables.itemsize * len(inner[0]) * len(inner), len(batch),
            pair.source.parts, pair.source.swap, tiles,
            plan.GROUPS if name == "columns" else 1, pair.table_x, pair.table_y,
            eps, zero_root, x.size, threads.pool(), threads,
        ),
    )  # fmt: skip
    if name in ("columns", "narrow_columns", "short_rows"):
        count = count // batch[-1][0] * tiles
    parts = n * pair.source.parts
    worker = pair.worker(name)
    if threads == 1:
        _function(pair.key(name), 3)(0, count, record.buffer_info()[0])
    elif (
        name == "rows" and count < 2 * threads and parts >= 2 * plan.SPLIT and _ready_split(pair)
    ):
        scratch = np.empty((parts // plan.SPLIT + 1, LANES))
        told = (
            pair.worker("part_sum"), pair.worker("part_scale"),
            pair.source.kind == "float64", _address(scratch),
        )  # fmt: skip
        record.extend((*told, *[0] * (descriptor.CALL_SIZE - descriptor.PART_SUM - len(told))))
        _function(_LONG_ROWS, 2)(count, record.buffer_info()[0])
        pair.bound[descriptor.PAIR_LONG_ROWS] = loader.address(_LONG_ROWS)
    else:
        _function(_PARALLEL_FOR, 3)(worker, count, record.buffer_info()[0])


def _address(a: Array) -> int:
    """Where the first element is; half the time of ``a.ctypes.data``."""
    return int(a.__array_interface__["data"][0])


def _plan(
    x: Array, y: Array | None, norms: Array | None, axes: tuple[int, ...], pair: _Pair
) -> tuple[str, int, _Table, _Table]:
    """The kernel, the length of a vector in elements, and the tables of its geometry."""
    strides, size = (x.strides, x.itemsize) if y is None else (y.strides, y.itemsize)
    kept = x.ndim - len(axes)
    sn = norms.strides if norms is not None else (0,) * kept
    sizes = x.itemsize, size, pair.source.parts
    return _planned(x.shape, x.strides, strides, sn, axes, sizes, pair.source.swap)


@functools.lru_cache(256)  # 10 us, twice a call
def _planned(
    shape: tuple[int, ...],
    sx: tuple[int, ...],
    sy: tuple[int, ...],
    sn: tuple[int, ...],
    axes: tuple[int, ...],
    sizes: tuple[int, int, int],
    swap: bool,
) -> tuple[str, int, _Table, _Table]:
    read, write, parts = sizes
    kept = [d for d in range(len(shape)) if d not in axes]
    batch: _Table = [(shape[d], sx[d], sy[d], sn[k]) for k, d in enumerate(kept) if shape[d] > 1]
    # Any order of the vectors gives the same; this one goes through memory straight.
    batch.sort(key=lambda row: -abs(row[1]))
    inner: _Table = [(shape[d], sx[d], sy[d]) for d in axes if shape[d] > 1]
    n = math.prod(row[0] for row in inner)
    batch = _joined(batch) or [(1, 0, 0, 0)]
    inner = _joined(inner) or [(1, read, write)]
    name = "gathered"
    near = inner[-1][1:] == (read, write)
    beside = [k for k, row in enumerate(batch) if row[1:3] == (read, write)]
    if swap:
        pass
    elif len(inner) > 1:
        run = inner[-1][0] * parts
        if near and (run % LANES == 0 or run >= plan.LONG_SEGMENT):
            name = "segmented"
    elif near:
        name = "short_rows" if n * parts <= LANES <= batch[-1][0] else "rows"
    elif parts == 1 and beside and n < plan.COLUMNS_MOST:
        batch.append(batch.pop(beside[0]))
        width = batch[-1][0]
        alone = width <= LANES and inner[0][1:] == (width * read, width * write)
        name = "narrow_columns" if alone else "columns"
    return name, n, inner, batch


def _joined(rows: _Table) -> _Table:
    """The same axes, neighbours made one where memory allows."""
    done: _Table = []
    for size, *strides in rows:
        if done and all(
            outer == size * own for outer, own in zip(done[-1][1:], strides, strict=True)
        ):
            done[-1] = (done[-1][0] * size, *strides)
        else:
            done.append((size, *strides))
    return done
