"""The Numba backend's adapter for ragged arrays. Vectors of one length are a dense array to it, if
they are short or long: the kernel for short ones is faster, and all threads share one vector alone.
"""

import ctypes
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from l2multi import _usable
from l2multi._ragged import Array, Ragged
from l2multi.backends import numba as dense
from l2multi.backends import numpy_ragged as readable
from l2multi.backends.numba import descriptor, loader, shipped, threads
from l2multi.backends.numba.pairs import Pair, own, pair

check, report, unsupported = dense.check, dense.report, dense.unsupported
fast_path, finite, traced = readable.fast_path, readable.finite, readable.traced


def unready(x: Ragged, axes: tuple[int, ...], result: np.dtype[Any], look: bool) -> str | None:
    """As of dense arrays."""
    if (rows := _rows(x)) is not None:
        return dense.unready(rows, (1,), result, look)
    pairs = {one.key("ragged"): one for one in (pair(x.dtype, result), own(x.dtype))}
    return dense.unready_kernels(list(pairs), x.size, look)


def kernel(x: Ragged, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """The name of the kernel and its number of threads."""
    if (rows := _rows(x)) is not None:
        # Who only looks may give entries without memory, which a call has in a row.
        steps = (rows.shape[1] * rows.itemsize, rows.itemsize)
        return dense.kernel(as_strided(rows, strides=steps), (1,), result, out)
    return "compiled ragged", threads.threads(x.size, False, explain=True)


def normalize(
    x: Ragged,
    axes: tuple[int, ...],
    *,
    eps: float,
    zero_nan: bool,
    out: Array | None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[Array, Any]:
    """The unit vectors, as entries, and the norms where asked for."""
    y = np.empty(x.shape, dtype) if out is None else out
    norms = None if norm_dtype is None else np.empty(x.count, norm_dtype)
    _run(pair(x.dtype, dtype), x, y, norms, eps, math.nan if zero_nan else 1.0)
    return y, None if norms is None else x.spread(norms, axes)


def norm(
    x: Ragged, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    one = own(x.dtype)
    norms = np.empty(x.count, dtype if dtype == one.norm else np.float64)
    _run(one, x, None, norms, 0.0, 1.0)
    if norms.dtype != dtype:
        norms = dense.rounded(norms, dtype)
    return x.spread(norms, axes, keepdims, out)


# Elements of a vector for which the ragged kernel is no slower, of one length too, so that nobody
# need look whether it is one. One core takes 2.1 ms for the norms of 15 million float32 in vectors
# of 64, and the dense one 1.6, beside which the look takes 0.3; in vectors of 3 it is 46 to 8.
MIDDLE = range(17, 512)


def _rows(x: Ragged) -> Array | None:
    """Vectors of one length as the rows of a dense array; None for others, and where it is slower
    for them."""
    return None if x.size // max(x.count, 1) in MIDDLE else x.rows


def ascending(indices: Array, ends: Array) -> bool | None:
    """Whether the indices of each vector ascend, so that none comes twice; None where there is no
    kernel for them."""
    found = ctypes.c_int64(0)
    done = _indices(indices, ends, descriptor.NORMS, ctypes.addressof(found))
    return not found.value if done else None


# Bytes of indices from which a copy of them is streamed, by all threads: a core takes 1.9 times as
# long for 60 MB (Xeon). Elements of them that a thread is given.
COPY_FROM, COPY_STEP = 2**23, 2**15


def copied(indices: Array) -> Array:
    """A copy of indices."""
    if indices.nbytes >= COPY_FROM and not _usable.asking.get():
        new, size = np.empty_like(indices), indices.size
        ends = np.append(np.arange(0, size, COPY_STEP), size)
        if _indices(indices, ends, descriptor.Y, dense.address(new)):
            return new
    return indices.copy()


def _indices(indices: Array, ends: Array, slot: int, to: int) -> bool:
    """Give indices to their kernel, with an address in this slot; whether there is one for them."""
    key = ("ascending", *[indices.dtype.name] * 2)
    if (
        key not in shipped.KEYS or not indices.dtype.isnative
        or not indices.flags.c_contiguous or not loader.available(key)
    ):  # fmt: skip
        return False
    ends = np.ascontiguousarray(ends, np.int64)
    call = (ctypes.c_int64 * descriptor.CALL_SIZE)()
    call[slot] = to
    call[descriptor.X], call[descriptor.BATCH] = dense.address(indices), dense.address(ends)
    call[descriptor.TOTAL], call[descriptor.TOGETHER] = indices.size, 1
    call[descriptor.POOL] = threads.POOL
    _give(key, len(ends) - 1, call, threads.threads(indices.size, False))
    return True


def _run(
    one: Pair, x: Ragged, y: Array | None, norms: Array | None, eps: float, zero_root: float
) -> None:
    """Any call."""
    if (rows := _rows(x)) is not None:
        dense.run(
            one, rows, None if y is None else y.reshape(rows.shape), norms, (1,), eps, zero_root
        )
        return
    ends = np.ascontiguousarray(x.offsets, np.int64)
    used = threads.threads(x.size, False)
    planned = (ctypes.c_int64 * descriptor.CALL_SIZE)()
    planned[descriptor.BATCH], planned[descriptor.TOGETHER] = dense.address(ends), 1
    planned[descriptor.PARTS] = one.source.parts
    call = dense.filled(planned, one, x.entries, y, norms, eps, zero_root, used)
    _give(one.key("ragged"), x.count, call, used)


def _give(worker: shipped.Key, count: int, call: Any, used: int) -> None:
    """Have a worker do so many vectors, by so many threads."""
    call[descriptor.THREADS], at = used, ctypes.addressof(call)
    if used == 1:
        dense.function(worker, 3)(0, count, at)
    else:
        dense.function(threads.PARALLEL_FOR, 3)(loader.address(worker), count, at)
