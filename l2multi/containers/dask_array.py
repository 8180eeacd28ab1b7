"""Arrays of Dask: lazy, block by block. What serves a block, serves it as it serves any array.

Where each vector lies in one block, a task is a call of `l2multi` on that block. Where vectors are
split, each block's norms are joined along a tree, and a second pass divides by the whole. These
partial norms are three for each vector, of its numbers and of these times a large and a small power
of two: wherever one overflows or loses digits, another does neither.

A task takes one thread, for the scheduler has given it one core.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np

import l2multi as l2
from l2multi import _backends, _containers, _contract, _usable
from l2multi._opened import Opened, handed_to
from l2multi._summation import rescue
from l2multi.backends import numpy

Axes = tuple[int, ...]


@handed_to("inner", "asked", "default_float", "check_result")
class DaskArray(Opened):
    """An array of blocks, of which `inner` is one, opened without numbers."""

    has_fast_path = False
    judges_later = True

    def __init__(self, x: Any, inner: Opened, request: _contract.Request) -> None:
        super().__init__(x, inner.library)
        self.inner, self.request = inner, request

    def target(self, out: Any) -> Any:
        raise TypeError(
            "out: Dask arrays are lazy, so out= cannot be used; to write the result somewhere, "
            "try l2.normalize(x).store(out) or .to_zarr(...)"
        )

    def moved(self, name: str, library: str) -> Opened:
        self.inner = self.inner.moved(name, library)
        self.library = self.inner.library
        return self

    def select(
        self, values: Any, axes: Axes, result: np.dtype[Any], name: str | None,
        own: np.dtype[Any], look: bool,
    ) -> _backends.Selection:  # fmt: skip
        like = self.inner.values(axes, True)
        found = self.inner.select(like, axes, result, name, own, look)
        blocks: Any = Blocks(self.request, name, found.backend, like)
        return found._replace(backend=blocks, why=f"for each block, {found.why}")


def open(x: Any, request: _contract.Request) -> Opened:
    """As it is, with a block as Dask knows it."""
    _contract.rule(x.dtype)
    return DaskArray(x, _containers.open(x._meta, request), request)


class Blocks:
    """What a backend offers, on each block; `name` is that of one that was asked for."""

    def __init__(
        self, request: _contract.Request, name: str | None, served: _backends.Backend, like: Any
    ) -> None:
        self.name, self.served, self.like = name, served, like
        self.zero, self.nonfinite = request.zero, request.nonfinite

    def normalize(
        self,
        x: Any,
        axes: Axes,
        *,
        eps: float,
        zero_nan: bool,
        out: None,
        dtype: np.dtype[Any],
        norm_dtype: np.dtype[Any] | None,
    ) -> tuple[Any, Any]:
        """The unit vectors, and the norms where asked for."""
        keywords: dict[str, Any] = {
            "axes": axes, "eps": eps, "dtype": dtype, "zero": self.zero, "nonfinite": self.nonfinite
        }  # fmt: skip
        if not _split(x, axes):
            both = norm_dtype is not None
            unit = functools.partial(_normalize, backend=self.name, return_norm=both, **keywords)
            meta = l2.normalize(x._meta, axes, dtype=dtype, backend=self.name)
            y = da.map_blocks(unit, x, meta=meta)
            if norm_dtype is None:
                return y, None
            kept = [d for d in range(x.ndim) if d not in axes]
            meta_of_norms = self._meta(x, axes, norm_dtype)
            norms = da.blockwise(
                _second, kept, y, range(x.ndim), concatenate=False, meta=meta_of_norms
            )
            return da.map_blocks(_first, y, meta=meta), norms
        if not isinstance(x._meta, np.ndarray):
            whole = _joined(x, axes)
            y, norms = self.normalize(
                whole, axes, eps=eps, zero_nan=zero_nan, out=out, dtype=dtype, norm_dtype=norm_dtype
            )
            return y.rechunk(x.chunks), norms
        norms = None
        if norm_dtype is not None:
            # A wider output must not change the norms.
            norms = self.norm(x, axes, keepdims=False, out=None, dtype=norm_dtype)
        wide = _contract.wider(_contract.rule(x.dtype).wide, _contract.rule(dtype).wide)
        divide = functools.partial(_divide, **keywords)
        meta = l2.normalize(x._meta, axes, dtype=dtype, backend="numpy")
        return da.map_blocks(divide, x, self._total(x, axes, wide), meta=meta), norms

    def norm(self, x: Any, axes: Axes, *, keepdims: bool, out: None, dtype: np.dtype[Any]) -> Any:
        """The norms."""
        meta = self._meta(x, axes, dtype)
        keywords: dict[str, Any] = {
            "axes": axes, "keepdims": keepdims, "nonfinite": self.nonfinite, "dtype": dtype
        }  # fmt: skip
        if not _split(x, axes):
            measure = functools.partial(_norm, backend=self.name, **keywords)
            return _reduced(measure, x, axes, keepdims, meta)
        if not isinstance(x._meta, np.ndarray):
            return self.norm(_joined(x, axes), axes, keepdims=keepdims, out=out, dtype=dtype)
        wide = _contract.wider(_contract.rule(x.dtype).wide, _contract.rule(dtype).wide)
        total = self._total(x, axes, wide)
        return _reduced(functools.partial(_length, **keywords), total, axes, keepdims, meta)

    def _total(self, x: Any, axes: Axes, wide: np.dtype[Any]) -> Any:
        """Three norms for each vector, in blocks of one axis more than Dask knows of."""
        part = functools.partial(_part, wide=wide, backend=self.name)
        meta = np.ma.MaskedArray if isinstance(x._meta, np.ma.MaskedArray) else np.asarray
        return da.reduction(
            x, part, _join, axis=axes, keepdims=True, dtype=wide,
            meta=meta(np.empty((0,) * x.ndim, wide)),
        )  # fmt: skip

    def _meta(self, x: Any, axes: Axes, dtype: np.dtype[Any]) -> Any:
        return l2.norm(x._meta, axes, keepdims=True, dtype=dtype, backend=self.name)

    def kernel(self, x: Any, axes: Axes, result: np.dtype[Any], out: None) -> tuple[str, int]:
        """That of a block, and its number of threads."""
        like = self.like
        if isinstance(like, np.ndarray) and not any(map(math.isnan, x.shape)):
            like = np.empty([max(sizes) for sizes in x.chunks], like.dtype)
        with _usable.one_thread():
            kernel, threads = self.served.kernel(like, axes, result, None)
        return f"{kernel} in each of {math.prod(x.numblocks)} blocks", threads


def _split(x: Any, axes: Axes) -> bool:
    """Whether vectors extend over many blocks."""
    return any(x.numblocks[d] > 1 for d in axes)


def _joined(x: Any, axes: Axes) -> Any:
    """Blocks that hold whole vectors."""
    return x.rechunk(dict.fromkeys(axes, -1))


def _reduced(function: Callable[..., Any], x: Any, axes: Axes, keepdims: bool, meta: Any) -> Any:
    """What a function makes of each block, one for each vector."""
    if not keepdims:
        return da.map_blocks(function, x, drop_axis=list(axes), meta=meta)
    chunks = tuple((1,) if d in axes else sizes for d, sizes in enumerate(x.chunks))
    return da.map_blocks(function, x, chunks=chunks, meta=meta)


# What follows runs where blocks are.


@contextlib.contextmanager
def _in_block(block_id: Axes | None) -> Iterator[None]:
    """In one thread, and say which block a policy was met in."""
    try:
        with _usable.one_thread():
            yield
    except (_contract.ZeroVectorError, _contract.NonFiniteError) as error:
        raise type(error)(f"{error} of block {block_id}") from None


def _first(pair: Any) -> Any:
    return pair[0]


def _second(pair: Any) -> Any:
    while isinstance(pair, list):  # Dask nests the blocks along an axis that is left out
        (pair,) = pair
    return pair[1]


def _normalize(block: Any, *, axes: Axes, block_id: Any = None, **keywords: Any) -> Any:
    with _in_block(block_id):
        return l2.normalize(block, axes, **keywords)


def _norm(block: Any, *, axes: Axes, block_id: Any = None, **keywords: Any) -> Any:
    with _in_block(block_id):
        return l2.norm(block, axes, **keywords)


def _part(
    block: Any, *, axis: Axes, keepdims: bool, wide: np.dtype[Any], backend: str | None
) -> Any:
    """The norms of the parts of vectors in a block; along a new axis, of it times powers of two."""
    with _usable.one_thread(), np.errstate(all="ignore"):

        def norms(x: Any) -> Any:
            return l2.norm(x, axis, keepdims=True, dtype=wide, backend=backend)

        found = norms(block)
        safe, plain = rescue(wide), np.ma.getdata(found)
        factors = safe.scale_up, safe.scale_down
        lost = (plain == np.inf) | ((plain > 0) & (plain < np.sqrt(safe.lowest)))
        if (
            lost.any()
            and block.dtype.kind in "fc"
            and _contract.rule(block.dtype).norm.itemsize > 4
        ):
            stack: Any = np.ma.stack if isinstance(found, np.ma.MaskedArray) else np.stack
            return stack([found, *(norms(_times(block, factor)) for factor in factors)], -1)
        return found[..., None] * np.array([wide.type(1), *factors])


def _times(block: Any, factor: Any) -> Any:
    """A block times a real number: of complex numbers each part, for infinite ones."""
    y = numpy.real_parts(np.asarray(np.ma.getdata(block))) * factor
    y = y.view(block.dtype)[..., 0] if block.dtype.kind == "c" else y
    return np.ma.MaskedArray(y, block.mask) if isinstance(block, np.ma.MaskedArray) else y


def _join(parts: Any, *, axis: Axes, keepdims: bool) -> Any:
    """The norms of vectors, given those of their parts."""
    with _usable.one_thread():
        return l2.norm(parts, axis, keepdims=True)


class _Whole:
    """What the three norms of vectors say, axes kept: `root` is that of the vector times `scale_up`
    and `scale_down`."""

    def __init__(self, total: Any, axes: Axes) -> None:
        self.axes, self.masked = axes, isinstance(total, np.ma.MaskedArray)
        self.mask = np.ma.getmaskarray(total)[..., 0]
        # One masked in full is no zero vector, and nothing of it shows.
        total = np.ma.filled(total, 1) if self.masked else total
        found, small, self.large = (total[..., i] for i in range(3))
        one, safe = total.dtype.type(1), rescue(total.dtype)
        below, above = found < np.sqrt(safe.lowest), found == np.inf
        self.root = np.where(below, small, np.where(above, self.large, found))
        self.scale_up = np.where(below, safe.scale_up, one)
        self.scale_down = np.where(above, safe.scale_down, one)
        self.length = self.root / self.scale_up / self.scale_down
        self.length[np.isnan(self.length)] = np.nan

    def refuse(self, zero: str, nonfinite: str, empty: bool) -> None:
        """Raise what the policies ask for."""
        length, large = (np.squeeze(norms, self.axes) for norms in (self.length, self.large))
        _contract.refuse(length, lambda: np.isfinite(large), zero, nonfinite, empty)


def _length(
    total: Any, *, axes: Axes, keepdims: bool, nonfinite: str, dtype: np.dtype[Any],
    block_id: Any = None,
) -> Any:  # fmt: skip
    """The norms of vectors, given three of each."""
    with _in_block(block_id), np.errstate(all="ignore"):
        whole = _Whole(total, axes)
        whole.refuse("keep", nonfinite, False)
        norms = numpy.round_to(whole.length, dtype)
        y = np.ma.MaskedArray(norms, whole.mask) if whole.masked else norms
        return y if keepdims else np.squeeze(y, axes)[()]


def _divide(
    block: Any, total: Any, *, axes: Axes, eps: float, dtype: np.dtype[Any], zero: str,
    nonfinite: str, block_id: Any = None,
) -> Any:  # fmt: skip
    """The unit vectors' parts in a block, given three norms of each vector."""
    with _in_block(block_id), np.errstate(all="ignore"):
        whole = _Whole(total, axes)
        whole.refuse(zero, nonfinite, block.size == 0)
        y = numpy.divide(
            np.asarray(np.ma.getdata(block)), axes, (whole.root, whole.scale_up, whole.scale_down),
            eps=eps, zero_nan=zero == "nan", dtype=dtype,
        )  # fmt: skip
        return np.ma.MaskedArray(y, block.mask) if isinstance(block, np.ma.MaskedArray) else y
