"""The Numba backend's adapter for ragged arrays. One vector alone is a dense one to it, so that all
threads share it."""

import ctypes
import math
from typing import Any

import numpy as np

from l2multi._ragged import Array, Ragged
from l2multi.backends import numba as dense
from l2multi.backends import numpy_ragged as readable
from l2multi.backends.numba import descriptor, loader, threads
from l2multi.backends.numba.pairs import Pair, own, pair

check, report, unsupported = dense.check, dense.report, dense.unsupported
fast_path, finite, traced = readable.fast_path, readable.finite, readable.traced


def unready(x: Ragged, axes: tuple[int, ...], result: np.dtype[Any], look: bool) -> str | None:
    """As of dense arrays."""
    if x.count == 1:
        return dense.unready(x.entries, (0,), result, look)
    pairs = {one.key("ragged"): one for one in (pair(x.dtype, result), own(x.dtype))}
    return dense.unready_kernels(list(pairs), x.size, look)


def kernel(x: Ragged, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """The name of the kernel and its number of threads."""
    if x.count == 1:
        return dense.kernel(x.entries, (0,), result, out)
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


def _run(
    one: Pair, x: Ragged, y: Array | None, norms: Array | None, eps: float, zero_root: float
) -> None:
    """Any call."""
    if x.count == 1:
        target = None if norms is None else norms.reshape(())
        dense.run(one, x.entries, y, target, (0,), eps, zero_root)
        return
    ends = np.ascontiguousarray(x.offsets, np.int64)
    used = threads.threads(x.size, False)
    planned = (ctypes.c_int64 * descriptor.CALL_SIZE)()
    planned[descriptor.BATCH], planned[descriptor.TOGETHER] = dense.address(ends), 1
    planned[descriptor.PARTS] = one.source.parts
    call = dense.filled(planned, one, x.entries, y, norms, eps, zero_root, used)
    worker, at = one.key("ragged"), ctypes.addressof(call)
    if used == 1:
        dense.function(worker, 3)(0, x.count, at)
    else:
        dense.function(threads.PARALLEL_FOR, 3)(loader.address(worker), x.count, at)
