"""The readable form for ragged arrays: vectors of one length make a dense array, which
`l2multi.backends.numpy` serves. So a vector has the bits that it has there."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi._ragged import Array, Ragged
from l2multi.backends import numpy as dense

check, report, fast_path = dense.check, dense.report, dense.fast_path
traced, unready, unsupported = dense.traced, dense.unready, dense.unsupported


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
    for vectors, at in _blocks(x):
        y[at], lengths = dense.normalize(
            x.entries[at],
            (1,),
            eps=eps,
            zero_nan=zero_nan,
            out=None,
            dtype=dtype,
            norm_dtype=norm_dtype,
        )
        if norms is not None:
            norms[vectors] = lengths
    return y, None if norms is None else x.spread(norms, axes)


def norm(
    x: Ragged, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    norms = np.empty(x.count, dtype)
    for vectors, at in _blocks(x):
        norms[vectors] = dense.norm(x.entries[at], (1,), keepdims=False, out=None, dtype=dtype)
    return x.spread(norms, axes, keepdims, out)


def _blocks(x: Ragged) -> Iterator[tuple[Any, Any]]:
    """Numbers of vectors of one length, not too many at a time, and an index that takes them from
    the entries, as rows."""
    lengths = np.diff(x.offsets)
    order = np.argsort(lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    for n, vectors in zip(sizes.tolist(), np.split(order, counts.cumsum()), strict=False):
        if n > dense.PART:
            for i in vectors.tolist():
                yield slice(i, i + 1), np.s_[None, x.offsets[i] : x.offsets[i + 1]]
            continue
        step = dense.PART // max(n, 1)
        for lo in range(0, len(vectors), step):
            some = vectors[lo : lo + step]
            yield some, x.offsets[some, None].astype(np.intp) + np.arange(n)


def finite(x: Ragged, axes: tuple[int, ...]) -> Any:
    """Whether each vector is free of inf and NaN."""
    found = np.ones(x.count, bool)
    bad = np.flatnonzero(~np.isfinite(x.entries))
    found[np.searchsorted(x.offsets, bad, side="right") - 1] = False
    return x.spread(found, axes)


def kernel(x: Ragged, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """The name of the algorithm and its number of threads."""
    return "vectorized NumPy by length", 1
