"""The readable form of the algorithm that `l2multi._summation` specifies, in NumPy.

Works through the input in parts of `PART` elements, so that it never holds a float64 copy of more
than that: its scratch memory is a few MiB whatever the size of the input.

Where another library has set flush-to-zero or denormals-are-zero in the calling thread, these modes
are put aside for the length of a call on Linux, by C's ``fesetenv`` (on macOS by code that nobody
has run); elsewhere NumPy computes in the modes that it finds, and subnormal numbers count as zeros.
"""

import contextlib
import ctypes
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from l2multi import _contract
from l2multi._summation import LANES, RowTree, rescue, sum_lanes, sum_rows

Array = np.ndarray[Any, Any]

# A power of two of rows, as the tree over rows asks of every part but the last. 128 KiB of float64
# stay in the L2 cache, and the C library keeps the memory of what is no longer needed: 100000x768
# float32 take 0.47 s, and 0.78 s at four times the size, whose pages are new each time.
PART = 2**10 * LANES


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
    own = _contract.rule(x.dtype).wide
    wide = _contract.wider(own, _contract.rule(dtype).wide)
    norms = None
    if norm_dtype is not None:
        # A wider output must not change the norms: they are then measured apart.
        norms = np.empty(_contract.batch_shape(x.shape, axes, False), norm_dtype)
        if wide != own:
            norm(x, axes, keepdims=False, out=norms, dtype=norm_dtype)
    _run(x, axes, wide, y, norms if wide == own else None, eps, zero_nan)
    return y, None if norms is None else norms[()]


def norm(
    x: Array, axes: tuple[int, ...], *, keepdims: bool, out: Array | None, dtype: np.dtype[Any]
) -> Any:
    """The norms."""
    rule = _contract.rule(x.dtype)
    wide = _contract.wider(rule.wide, _contract.rule(dtype).wide)
    shape = _contract.batch_shape(x.shape, axes, keepdims)
    norms = np.empty(shape, dtype) if out is None else out
    into = norms
    if keepdims:
        into = norms.transpose((*(d for d in range(x.ndim) if d not in axes), *axes))
    _run(x, axes, wide, None, into, 0.0, False)
    return norms[()] if out is None else norms


def divide(
    x: Array,
    axes: tuple[int, ...],
    roots: tuple[Array, Array, Array],
    *,
    eps: float,
    zero_nan: bool,
    dtype: np.dtype[Any],
) -> Array:
    """Parts of unit vectors. `x` holds parts of the vectors, and `roots`, with their axes kept, of
    each whole vector the root of the sum of squares of ``x * scale_up * scale_down``, and these
    two."""
    y = np.empty_like(x, dtype=dtype, subok=False)
    root, scale_up, scale_down = roots
    if (
        dtype.kind not in "fc"
        or dtype.itemsize < 4
        or (scale_up != 1).any()
        or (scale_down != 1).any()
    ):
        _run(x, axes, root.dtype, y, None, eps, zero_nan, roots)
        return y
    # The same without scratch memory: 0.16 of the time in float64, 0.4 in float32.
    source, target = real_parts(x), real_parts(y)
    zero = root == 0
    root = np.where(zero, np.nan if zero_nan else 1, np.where(root <= eps, eps, root))
    root = root[..., None] if source.ndim > x.ndim else root
    how: dict[str, Any] = {"out": target, "dtype": root.dtype, "casting": "unsafe"}
    with exact_modes(), np.errstate(all="ignore"):
        if _are_narrow(x, y):
            np.multiply(source, 1 / root, **how)
        else:
            np.divide(source, root, **how)
        if not np.isfinite(root).all():
            target[np.isnan(target)] = np.nan
    return y


def finite(x: Array, axes: tuple[int, ...]) -> Any:
    """Whether each vector is free of inf and NaN."""
    return np.isfinite(x).all(axis=axes)


def traced(x: Array) -> bool:
    """NumPy arrays have values."""
    return False


def unsupported(x: Array, result: np.dtype[Any]) -> str | None:
    """NumPy takes all that the dtype table has."""
    return None


def unready(x: Array, axes: tuple[int, ...], result: np.dtype[Any], look: bool) -> None:
    """NumPy is always ready."""


def fast_path(x: Array, dtype: Any, result: np.dtype[Any]) -> None:
    """NumPy has none."""


def check() -> None:
    """NumPy is usable."""


def report() -> dict[str, str]:
    """Nothing else."""
    return {}


def kernel(x: Array, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """The name of the algorithm and its number of threads."""
    return "vectorized NumPy in parts", 1


@functools.cache
def _environment() -> tuple[Any, Any, Any] | None:
    """C's functions that read and write the floating-point environment of a thread, and the address
    of the one that a process begins with; None where these are not known."""
    c = ctypes.pythonapi
    try:
        usual = (
            -1
            if sys.platform == "linux"
            else ctypes.addressof(ctypes.c_char.in_dll(c, "_FE_DFL_ENV"))
        )
        return c["fegetenv"], c["fesetenv"], ctypes.c_void_p(usual)
    except (AttributeError, ValueError):
        return None


def exact_modes() -> contextlib.AbstractContextManager[None]:
    """Compute with subnormal numbers, whatever another library has set in this thread, if C can be
    told to."""
    found = None if sys.float_info.min / 2 != 0 else _environment()
    return contextlib.nullcontext() if found is None else _usual_modes(*found)


@contextlib.contextmanager
def _usual_modes(read: Any, write: Any, usual: Any) -> Iterator[None]:
    before = ctypes.create_string_buffer(256)  # more than any fenv_t
    read(before)
    write(usual)
    try:
        yield
    finally:
        write(before)


def real_parts(a: Array) -> Array:
    """A view of complex elements as pairs along a new last axis; real ones as they are."""
    return a[..., None].view(a.real.dtype) if _contract.is_complex(a.dtype) else a


def _run(
    x: Array,
    axes: tuple[int, ...],
    wide: np.dtype[Any],
    y: Array | None,
    norms: Array | None,
    eps: float,
    zero_nan: bool,
    roots: tuple[Array, Array, Array] | None = None,
) -> None:
    """Fill `y` and `norms`, some vectors at a time, or a long vector in parts."""
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    batch = tuple(x.shape[d] for d in kept)
    source = real_parts(x)
    order = (*kept, *axes, *range(x.ndim, source.ndim))
    source = source.transpose(order)
    target = None if y is None else real_parts(y).transpose(order)
    n = math.prod(source.shape[len(kept) :])
    if n == 0 and norms is not None:
        norms[...] = 0
    if source.size == 0:
        return
    needs_rescaling = _contract.rule(x.dtype).norm != np.float32 and x.dtype.kind in "fc"
    narrow = y is not None and _are_narrow(x, y)
    step = PART
    if n > PART and source.ndim == len(kept) + 1:
        # Several long vectors at a time: where they are columns, each cache line is read once.
        step = PART // LANES
    slices = [slice(lo, min(lo + step, n)) for lo in range(0, n, step)]
    with exact_modes(), np.errstate(all="ignore"):
        for chunk in _chunks(batch, max(1, PART // min(n, step))):
            read = functools.partial(_read, source[chunk], n, source.ndim - len(kept), wide)
            if len(slices) == 1:
                read = functools.partial(_only, read(slices[0]))
            if roots is None:
                root, scale_up, scale_down = _root(read, slices, wide, needs_rescaling)
            else:
                root, scale_up, scale_down = (
                    np.array(a.squeeze(axes)[chunk]).reshape(-1, 1) for a in roots
                )
            length = root.copy() if scale_up is None else root / scale_up / scale_down
            if norms is not None:
                length[np.isnan(length)] = np.nan
                norms[chunk] = round_to(length, norms.dtype).reshape(norms[chunk].shape)
            if target is None:
                continue
            if eps > 0:
                small = length <= eps
                root[small] = eps
                if scale_up is not None:
                    scale_up[small], scale_down[small] = 1, 1
            root[length == 0] = np.nan if zero_nan else 1
            canonical = not np.isfinite(root).all()
            for part in slices:
                values = read(part)
                _divide_by(root, scale_up, scale_down, values, narrow)
                if canonical:
                    values[np.isnan(values)] = np.nan
                if target.dtype.kind != "f" or target.dtype.itemsize < 4:
                    values = round_to(values, target.dtype)
                done = 0
                for piece in _pieces(target[chunk], part, n, source.ndim - len(kept)):
                    width = piece.size // len(values)
                    piece[...] = values[:, done : done + width].reshape(piece.shape)
                    done += width


def _divide_by(
    root: Array, scale_up: Array | None, scale_down: Any, values: Array, narrow: bool
) -> None:
    """Rows of values over their roots, in place; times the inverses where all are `narrow`."""
    if narrow:
        values *= 1 / root
    elif scale_up is None:
        values /= root
    else:
        values *= scale_up
        values /= root
        values *= scale_down


def _are_narrow(x: Array, y: Array) -> bool:
    """Whether both are narrower than float64."""
    return all(_contract.rule(a.dtype).norm == np.float32 for a in (x, y))


def _chunks(batch: tuple[int, ...], most: int) -> Iterator[tuple[Any, ...]]:
    """Indices that cut a batch into blocks of at most `most` vectors, whole last axes at a time."""
    split, block = len(batch), 1
    while split and block * batch[split - 1] <= most:
        split -= 1
        block *= batch[split]
    if split == 0:
        yield (...,)
        return
    step = most // block
    for lead in np.ndindex(batch[: split - 1]):
        for lo in range(0, batch[split - 1], step):
            yield (*lead, slice(lo, lo + step), ...)


def _pieces(vectors: Array, part: slice, n: int, axes: int) -> list[Array]:
    """Views that together hold one part of each vector, the elements in C order."""
    if axes == 1:
        return [vectors[..., part]]
    if part.stop - part.start == n:
        return [vectors]
    vector = vectors.reshape(vectors.shape[-axes:])  # more than PART elements: one at a time
    return [vector[box] for box in _boxes(vector.shape, part.start, part.stop)]


def _boxes(shape: tuple[int, ...], lo: int, hi: int) -> Iterator[tuple[Any, ...]]:
    """Indices of the blocks that hold the elements `lo` to `hi` of an array, in C order.

    No more than two for each axis, while reaching an element by its number alone takes NumPy a walk
    from the first one.
    """
    if len(shape) == 1:
        yield (slice(lo, hi),)
        return
    size = math.prod(shape[1:])
    first, last = -(-lo // size), hi // size  # between these, whole rows
    if first > last:
        yield from ((last, *box) for box in _boxes(shape[1:], lo - last * size, hi - last * size))
        return
    if lo < first * size:
        start = lo - (first - 1) * size
        yield from ((first - 1, *box) for box in _boxes(shape[1:], start, size))
    if first < last:
        yield (slice(first, last),)
    if last * size < hi:
        yield from ((last, *box) for box in _boxes(shape[1:], 0, hi - last * size))


def _read(vectors: Array, n: int, axes: int, wide: np.dtype[Any], part: slice) -> Array:
    """A copy of one part of each vector, as rows of `wide`."""
    pieces = _pieces(vectors, part, n, axes)
    if len(pieces) == 1:
        return np.array(pieces[0], wide, order="C").reshape(-1, part.stop - part.start)
    flat = [piece.reshape(-1) for piece in pieces]
    return np.concatenate(flat, dtype=wide, casting="unsafe")[None]


def _only(values: Array, part: slice) -> Array:
    """What `_read` gives where there is but one part, read before."""
    return values


def _sum_squares(parts: Iterable[Array]) -> Array:
    """The sum of squares of each row, given in parts."""
    tree = RowTree()
    for part in parts:
        m, n = part.shape
        rows = -(-n // LANES)
        make = np.empty if n == rows * LANES else np.zeros
        squares = make((m, rows * LANES), part.dtype)
        np.multiply(part, part, out=squares[:, :n])
        tree.add(sum_rows(squares.reshape(m, rows, LANES)))
    return sum_lanes(tree.total())


def _root(
    read: Callable[[slice], Array], slices: list[slice], wide: np.dtype[Any], needs_rescaling: bool
) -> tuple[Array, Array | None, Any]:
    """The square root of the sum of squares of ``x * scale_up * scale_down``, and these two, as
    columns; None for these where no sum `needs_rescaling`."""
    total = _sum_squares(map(read, slices))
    if not needs_rescaling:
        return np.sqrt(total)[:, None], None, None
    scale_up, scale_down = np.ones((2, total.size), wide)
    safe = rescue(wide)
    for lost, scale, factor in (
        (total < safe.lowest, scale_up, safe.scale_up),
        (total == np.inf, scale_down, safe.scale_down),
    ):
        if lost.any():
            total[lost] = _sum_squares(read(part)[lost] * factor for part in slices)
            scale[lost] = factor
    return np.sqrt(total)[:, None], scale_up[:, None], scale_down[:, None]


def round_to(values: Array, dtype: np.dtype[Any]) -> Array:
    """`values` rounded once to `dtype`; to the narrow types by way of float32 rounded to odd."""
    if dtype.kind == "f" and dtype.itemsize >= 4:
        return values.astype(dtype)
    single = values.astype(np.float32)
    wide = single.astype(values.dtype)
    bits = single.view(np.int32)
    bits -= np.abs(wide) > np.abs(values)
    bits |= (wide != values) & ~np.isnan(values)
    return single.astype(dtype)
