"""The Numba backend: which kernel serves a call, and what it is given."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from l2multi import _contract
from l2multi._summation import LANES
from l2multi.backends import numpy as readable
from l2multi.backends.numba import entries, kernels, launch, simd

Array = np.ndarray[Any, Any]

finite = readable.finite
traced = readable.traced

_Table = list[tuple[int, ...]]

_NO_TABLE = np.empty(0, np.uint8)


class _Side(NamedTuple):
    """A dtype as the kernels see it."""

    kind: str
    storage: np.dtype[Any]
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
        kind, decode, encode = "byte", simd.decode_table(real), simd.encode_table(real)
    elif real in _contract.ml_dtypes_in(_contract.ML_INTEGERS):
        kind, decode = "small", simd.decode_table(real)
    else:
        kind = f"{ {'i': 'int', 'u': 'uint', 'f': 'float'}[real.kind] }{8 * real.itemsize}"
    return _Side(kind, np.dtype(simd.KINDS[kind].storage), parts, swap, decode, encode)


class _Pair:
    """What is known of an input and an output dtype, and its workers as far as compiled."""

    __slots__ = (
        "_workers",
        "flat",
        "norm",
        "norms",
        "nothing",
        "source",
        "table_x",
        "table_y",
        "target",
    )

    def __init__(self, x: np.dtype[Any], y: np.dtype[Any]) -> None:
        self.source, self.target = _side(x), _side(y)
        self.norm = _contract.rule(x).norm
        self.norms = np.empty(0, self.norm)
        self.nothing = np.empty(0, self.target.storage)
        self.table_x = self.source.decode.ctypes.data
        self.table_y = self.target.encode.ctypes.data
        self._workers: dict[str, int] = {}
        self.flat: Callable[..., None] | None = None

    def worker(self, name: str) -> int:
        """The address of the compiled worker of this name."""
        found = self._workers.get(name)
        if found is None:
            kinds = self.source.kind, self.target.kind
            make = entries.WORKERS[name]
            worker = _once((name, *kinds), lambda: make(*(simd.KINDS[kind] for kind in kinds)))
            found = self._workers[name] = worker.address
        return found

    def ready_flat(self) -> Callable[..., None]:
        """The short way in."""
        storage = (self.source.storage.str, self.target.storage.str, self.norm.str)
        launcher = _once(("flat", *storage), lambda: entries.flat(*storage))
        self.flat = functools.partial(launcher, self.worker("rows"))
        return self.flat


# Load-once caches.
_pairs: dict[tuple[Any, Any], _Pair] = {}
_own: dict[np.dtype[Any], _Pair] = {}  # by the input's dtype, of its own result
_compiled: dict[tuple[str, ...], Any] = {}


def _once(key: tuple[str, ...], make: Callable[[], Any]) -> Any:
    """What `make` compiles, once and in one thread at a time."""
    found = _compiled.get(key)
    if found is None:
        with global_compiler_lock:
            found = _compiled.get(key)
            if found is None:
                found = _compiled[key] = make()
    return found


def _pair(x: np.dtype[Any], y: np.dtype[Any]) -> _Pair:
    found = _pairs.get((x, y))
    if found is None:
        found = _pairs[x, y] = _Pair(x, y)
    return found


def unsupported(x: Array, result: np.dtype[Any]) -> str | None:
    """Why Numba cannot turn `x` into `result`, or None if it can."""
    for dtype in (x.dtype, result):
        if _contract.rule(dtype).wide != np.float64:
            return f"Numba has no {dtype}"
    return None


def kernel(x: Array, axes: tuple[int, ...], result: np.dtype[Any]) -> tuple[str, int]:
    """The name of the kernel and its number of threads."""
    pair = _pair(x.dtype, result)
    name = _plan(x, None, None, axes, pair)[0] if x.size else "rows"
    return f"compiled {name}", launch.threads() if launch.worth(x.size) else 1


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
    pair = _pairs.get((x.dtype, dtype)) or _pair(x.dtype, dtype)
    zero_root = math.nan if zero_nan else 1.0
    start = _flat_from(pair, x, axes)
    if start >= 0 and (out is None or _direct(out)):
        y = np.empty(x.shape, dtype) if out is None else out
        norms = None if norm_dtype is None else np.empty(x.shape[:start], norm_dtype)
        _flat(pair, x, y, pair.norms if norms is None else norms, start, eps, zero_root)
    else:
        y = np.empty_like(x, dtype=dtype, subok=False) if out is None else out
        norms = None
        if norm_dtype is not None:
            norms = np.empty(_contract.batch_shape(x.shape, axes, False), norm_dtype)
        _run(pair, x, y, norms, axes, eps, zero_root)
    return y, None if norms is None else norms[()]


def norm(
    x: Array, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    pair = _own.get(x.dtype)
    if pair is None:
        pair = _own[x.dtype] = _pair(x.dtype, _contract.rule(x.dtype).result)
    if out is None and dtype is pair.norm and (start := _flat_from(pair, x, axes)) >= 0:
        norms = np.empty(x.shape[:start], dtype)
        _flat(pair, x, pair.nothing, norms, start, 0.0, 1.0)
    else:
        norms = np.empty(_contract.batch_shape(x.shape, axes, False), dtype) if out is None else out
        target = norms
        if out is not None:
            dropped = (0 if d in axes else slice(None) for d in range(x.ndim))
            target = out[(*dropped, ...)] if keepdims else out
        if dtype == pair.norm or dtype == np.float64:
            _run(pair, x, None, target, axes, 0.0, 1.0)
        else:
            wide = np.empty(target.shape)
            _run(pair, x, None, wide, axes, 0.0, 1.0)
            with np.errstate(all="ignore"):
                target[...] = readable.round_to(wide, dtype)
    if out is not None:
        return out
    return norms.reshape(_contract.batch_shape(x.shape, axes, True)) if keepdims else norms[()]


def _direct(a: Array) -> bool:
    """Whether Numba can take an array as it is."""
    flags = a.flags
    return flags.c_contiguous and flags.aligned


def _flat_from(pair: _Pair, x: Array, axes: tuple[int, ...]) -> int:
    """The first axis of the vectors of a small contiguous call; -1 for any other call."""
    if 0 < x.size < launch.PARALLEL and not pair.source.swap and _direct(x):
        start = axes[0] if axes else x.ndim
        if x.ndim - start == len(axes):
            return start
    return -1


def _line(a: Array, storage: np.dtype[Any]) -> Array:
    """A contiguous array as one that Numba's types have a name for."""
    if a.ndim != 1:
        a = a.reshape(-1)
    return a if a.dtype is storage else a.view(storage)


def _flat(
    pair: _Pair, x: Array, y: Array, norms: Array, start: int, eps: float, zero_root: float
) -> None:
    """A small call on contiguous arrays."""
    n = x.shape[-1] if start == x.ndim - 1 else math.prod(x.shape[start:])
    run = pair.flat or pair.ready_flat()
    run(
        _line(x, pair.source.storage), _line(y, pair.target.storage),
        norms if norms.ndim == 1 else norms.reshape(-1),
        n * pair.source.parts, eps, zero_root, pair.table_x, pair.table_y,
    )  # fmt: skip


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
    parts = pair.source.parts
    count = math.prod(row[0] for row in batch)
    at = (
        x.ctypes.data,
        0 if y is None else y.ctypes.data,
        0 if norms is None else norms.ctypes.data,
        8 if norms is None else norms.itemsize,
    )
    last = (eps, zero_root, pair.table_x, pair.table_y)
    with launch.team(x.size) as threads:
        if name == "rows" and count < 2 * threads and n * parts >= 2 * entries.SPLIT:
            scratch = np.empty((n * parts // entries.SPLIT + 1, LANES))
            _once(("split",), entries.split)(
                pair.worker("part_sum"), pair.worker("part_scale"), *at, n * parts, count,
                *batch[0][1:], *inner[0][1:] if parts == 1 else (
                    k // 2 for k in inner[0][1:]
                ), simd.KINDS[pair.source.kind].risky, scratch.ctypes.data, *last,
            )  # fmt: skip
            return
        tiles = -(-batch[-1][0] // LANES)
        if name == "columns":
            count = count // batch[-1][0] * tiles
        tables = np.array([k for row in (*inner, *batch) for k in row], np.intp)
        start = tables.ctypes.data
        launcher = (
            _once(("parallel",), entries.parallel)
            if threads > 1
            else _once(("serial",), entries.serial)
        )
        launcher(
            pair.worker(name), count, *at, n, start, len(inner),
            start + tables.itemsize * kernels.INNER * len(inner), len(batch),
            parts, pair.source.swap, tiles, *last,
        )  # fmt: skip


def _plan(
    x: Array, y: Array | None, norms: Array | None, axes: tuple[int, ...], pair: _Pair
) -> tuple[str, int, _Table, _Table]:
    """The kernel, the length of a vector in elements, and the tables of its geometry."""
    kept = [d for d in range(x.ndim) if d not in axes]
    sx, sy = x.strides, x.strides if y is None else y.strides
    sn = norms.strides if norms is not None else (0,) * len(kept)
    batch: _Table = [
        (x.shape[d], sx[d], sy[d], sn[k]) for k, d in enumerate(kept) if x.shape[d] > 1
    ]
    # Any order of the vectors gives the same; this one goes through memory straight.
    batch.sort(key=lambda row: -abs(row[1]))
    inner: _Table = [(x.shape[d], sx[d], sy[d]) for d in axes if x.shape[d] > 1]
    n = math.prod(row[0] for row in inner)
    batch = _joined(batch) or [(1, 0, 0, 0)]
    read, write = x.itemsize, x.itemsize if y is None else y.itemsize
    inner = _joined(inner) or [(1, read, write)]
    name = "packed"
    if not pair.source.swap and len(inner) == 1:
        if inner[0][1:] == (read, write):
            name = "rows"
        elif pair.source.parts == 1:
            near = [k for k, row in enumerate(batch) if row[1:3] == (read, write)]
            if near:
                name = "columns"
                batch.append(batch.pop(near[0]))
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
