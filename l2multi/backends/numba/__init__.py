"""The Numba backend: which kernel serves a call, and what it is given."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from l2multi import _contract
from l2multi._summation import LANES
from l2multi.backends import numpy as readable
from l2multi.backends.numba import entries, launch, simd

Array = np.ndarray[Any, Any]

finite = readable.finite
traced = readable.traced

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
    """What is known of an input and an output dtype, and its kernels as far as compiled."""

    __slots__ = (
        "_entries", "direct", "norm", "norms", "source", "table_x", "table_y", "target", "threads"
    )  # fmt: skip

    def __init__(self, x: np.dtype[Any], y: np.dtype[Any] | None) -> None:
        self.source = _side(x)
        self.target = None if y is None else _side(y)
        self.norm = _contract.rule(x).norm
        self.norms = np.empty(0, self.norm)
        self.direct = not self.source.swap
        self.table_x = self.source.decode.ctypes.data
        self.table_y = 0 if self.target is None else self.target.encode.ctypes.data
        self._entries: dict[tuple[str, bool], Callable[..., None]] = {}

    def entry(self, name: str, parallel: bool) -> Callable[..., None]:
        """The compiled entry of this name."""
        found = self._entries.get((name, parallel))
        if found is None:
            source = simd.KINDS[self.source.kind]
            target = None if self.target is None else simd.KINDS[self.target.kind]
            key = (name, self.source.kind, self.target and self.target.kind, parallel)
            with global_compiler_lock:
                if key not in _compiled:
                    _compiled[key] = entries.MAKERS[name](source, target, parallel)
                found = self._entries[name, parallel] = _compiled[key]
        return found


# Load-once caches.
_pairs: dict[tuple[Any, Any], _Pair] = {}
_compiled: dict[tuple[str, str, str | None, bool], Callable[..., None]] = {}


def _pair(x: np.dtype[Any], y: np.dtype[Any] | None) -> _Pair:
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
    y = np.broadcast_to(np.empty((), result), x.shape) if not x.flags.c_contiguous else None
    name = "rows"
    if x.size and y is not None:
        name = _plan(x, None, None, axes)[0]
    return f"compiled {name}", launch.threads() if launch.parallel(x.size) else 1


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
    size = x.size
    flags = x.flags
    if flags.c_contiguous and pair.direct and 0 < size < launch.PARALLEL and flags.aligned:
        start = axes[0] if axes else x.ndim
        if x.ndim - start == len(axes) and (out is None or _plain(out)):
            y = np.empty(x.shape, dtype) if out is None else out
            if norm_dtype is None:
                norms, flat = None, pair.norms
            else:
                norms = np.empty(x.shape[:start], norm_dtype)
                flat = norms.reshape(-1)
            n = x.shape[start] if len(axes) == 1 else math.prod(x.shape[start:])
            _flat(pair, x, y, flat, n, eps, zero_root)
            return y, norms if norms is None or start else norms[()]
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
    pair = _pairs.get((x.dtype, None)) or _pair(x.dtype, None)
    flags = x.flags
    if (
        out is None
        and dtype is pair.norm
        and flags.c_contiguous
        and pair.direct
        and 0 < x.size < launch.PARALLEL
        and flags.aligned
    ):
        start = axes[0] if axes else x.ndim
        if x.ndim - start == len(axes):
            norms = np.empty(x.shape[:start], dtype)
            n = x.shape[start] if len(axes) == 1 else math.prod(x.shape[start:])
            _flat(pair, x, None, norms.reshape(-1), n, 0.0, 1.0)
            if keepdims:
                return norms.reshape(x.shape[:start] + (1,) * len(axes))
            return norms if start else norms[()]
    norms = np.empty(_contract.batch_shape(x.shape, axes, keepdims), dtype) if out is None else out
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    view = norms.transpose((*kept, *axes)) if keepdims else norms
    target = view
    if dtype != np.float64 and dtype != pair.norm:
        target = np.empty(view.shape, np.float64)
    _run(pair, x, None, target.reshape(target.shape[: len(kept)]) if keepdims and target is not view
         else _batch_view(view, len(kept)) if target is view else target, axes, 0.0, 1.0)
    if target is not view:
        view[...] = readable.round_to(target, dtype)
    return norms[()] if out is None else norms


def _batch_view(norms: Array, batch: int) -> Array:
    """The norms without the axes of length one that keepdims has put last."""
    return norms[(..., *[0] * (norms.ndim - batch))] if norms.ndim > batch else norms


def _plain(out: Array) -> bool:
    flags = out.flags
    return bool(flags.c_contiguous and flags.aligned)


def _flat(
    pair: _Pair, x: Array, y: Array | None, norms: Array, n: int, eps: float, zero_root: float
) -> None:
    """A small call on contiguous arrays."""
    source, target = pair.source, pair.target
    flat = x if x.ndim == 1 else x.reshape(-1)
    if flat.dtype is not source.storage:
        flat = flat.view(source.storage)
    if target is None:
        line = _NO_TABLE
    else:
        line = y if y.ndim == 1 else y.reshape(-1)  # type: ignore[union-attr]
        if line.dtype is not target.storage:
            line = line.view(target.storage)
    run = pair.entry("flat", False)
    run(flat, line, norms, n * source.parts, eps, zero_root, pair.table_x, pair.table_y)


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
    source = pair.source
    parallel = launch.parallel(x.size)
    taken = parallel and launch.busy.acquire(blocking=False)
    try:
        at = (
            x.ctypes.data,
            0 if y is None else y.ctypes.data,
            0 if norms is None else norms.ctypes.data,
            8 if norms is None else norms.itemsize,
        )
        count = math.prod(int(size) for size in batch[:, 0])
        if taken and name == "rows" and len(batch) == 1 and _worth_splitting(n, count):
            scratch = np.empty((n * source.parts // entries.SPLIT + 1, LANES))
            run = pair.entry("split", True)
            run(
                *at, n * source.parts, count, *map(int, batch[0, 1:]), scratch.ctypes.data,
                eps, zero_root, pair.table_x, pair.table_y,
            )  # fmt: skip
            return
        columns = -(-int(batch[-1, 0]) // LANES)
        if name == "columns":
            count = count // int(batch[-1, 0]) * columns
        run = pair.entry(name, taken)
        run(
            *at, n, count, inner, batch, source.parts, source.swap, columns,
            eps, zero_root, pair.table_x, pair.table_y,
        )  # fmt: skip
    finally:
        if taken:
            launch.busy.release()


def _worth_splitting(n: int, count: int) -> bool:
    """Whether threads should share each vector: few vectors, and long ones."""
    return count < 2 * launch.threads() and n >= 2 * entries.SPLIT


def _plan(
    x: Array, y: Array | None, norms: Array | None, axes: tuple[int, ...], pair: _Pair
) -> tuple[str, int, Array, Array]:
    """The kernel, the length of a vector in elements, and the tables of its geometry."""
    kept = [d for d in range(x.ndim) if d not in axes]
    sx, sy = x.strides, x.strides if y is None else y.strides
    sn = norms.strides if norms is not None else (0,) * len(kept)
    batch = [(x.shape[d], sx[d], sy[d], sn[k]) for k, d in enumerate(kept) if x.shape[d] > 1]
    # Any order of the vectors gives the same; this one goes through memory straight.
    batch.sort(key=lambda row: -abs(row[1]))
    inner = [(x.shape[d], sx[d], sy[d]) for d in axes if x.shape[d] > 1]
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
    return name, n, np.array(inner, np.intp), np.array(batch, np.intp)


def _joined(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The same axes, neighbours made one where memory allows."""
    done: list[tuple[int, ...]] = []
    for size, *strides in rows:
        if done and all(
            outer == size * own for outer, own in zip(done[-1][1:], strides, strict=True)
        ):
            done[-1] = (done[-1][0] * size, *strides)
        else:
            done.append((size, *strides))
    return done
