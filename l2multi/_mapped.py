"""Files whose vectors lie in them as an array does in memory: mapped, and written from map to map.

The library reads and writes a vector longer than any window in parts, so its scratch is the only
memory that counts.
"""

import contextlib
import errno
import itertools
import math
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from l2multi import _formats
from l2multi._contract import Axis
from l2multi._formats import Array, Block, Opened, Writer

# Where vectors lie across the file, neighbours share pages, and a window of a few vectors would
# read every page for each few. This many neighbours fill whole pages, and their norms are small.
NEIGHBOURS = 2**16

# Of madvise(2), from Linux 5.14, of which `mmap` has no names. 205 MB of float32 take 104 ms with
# both, 116 with the latter, 186 without (ext4, two cores of an AMD EPYC, load 6).
READ, WRITE = 22, 23


class Mapped(Opened):
    """A file whose vectors are mapped.

    Attributes
    ----------
    array : numpy.ndarray
        The vectors, of any strides.
    writer : type
        What writes a file like it.
    """

    writer: "type[MappedWriter]"

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def head(self, dtype: np.dtype[Any]) -> bytes:
        """What a file like this begins with if its vectors have this dtype and this `shape`."""
        return b""

    def size(self, dtype: np.dtype[Any]) -> int:
        """How many bytes follow the head."""
        return math.prod(map(int, self.shape)) * dtype.itemsize

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        """The vectors in the bytes that follow the head, mapped too; all else is copied there."""
        return space.view(dtype.newbyteorder("<")).reshape(self.shape)

    def check(self, window: tuple[Any, ...]) -> None:
        """Check what stands between the vectors of a window, which is read next."""

    def check_axes(self, axes: tuple[int, ...]) -> Axis:
        return axes

    def cut(self, dims: int) -> None:
        self.array = self.array[..., :dims]
        self.shape = self.array.shape

    def sample(self, axes: tuple[int, ...]) -> Array:
        return self.array

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        x = self.array
        for window in windows_of(x, axes):
            populate(x[window], READ, 4 * _formats.WINDOW)
            self.check(window)
            starts = tuple(window[d].start for d in range(x.ndim) if d not in axes)
            yield Block(x[window], starts, window)
            unload(x)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        whole = self.shape
        try:
            if vectors is not None:
                self.shape = (vectors, *whole[1:])
            return self.writer(self, path, dtype, vectors is not None)
        finally:
            self.shape = whole


class MappedWriter(Writer):
    """A file of the same head and layout, mapped. Its space is reserved first: a disk found full
    while writing to a map would end the process."""

    def __init__(self, opened: Mapped, path: str, dtype: np.dtype[Any], dropped: bool) -> None:
        head, nbytes = opened.head(dtype), opened.size(dtype)
        space: Array = np.empty(0, np.uint8)
        with open(path, "r+b") as file:
            file.write(head)
            file.flush()
            if nbytes:
                reserve(file, len(head), nbytes)
                space = np.asarray(np.memmap(file, np.uint8, "r+", len(head), (nbytes,)))
        self.array: Any = opened.lay(space, dtype)
        self.dropped, self.at = dropped, 0

    def room(self, block: Block) -> Array | None:
        if self.dropped:
            return None
        room: Array = self.array[block.where]
        populate(room, WRITE, 4 * _formats.WINDOW)
        return room

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        if self.dropped:
            kept = unit[keep]
            self.array[self.at : self.at + len(kept)] = kept
            self.at += len(kept)
        unload(self.array)

    def close(self, complete: bool) -> None:
        # No map must outlive the call: on Windows a mapped file cannot be renamed.
        self.array = None


Mapped.writer = MappedWriter


def reserve(file: BinaryIO, offset: int, nbytes: int) -> None:
    """Take the space of a file now."""
    try:
        _reserve(file, offset, nbytes)
    except OSError as error:
        told = f"no room for its {nbytes} bytes ({error.strerror}); nothing has changed"
        raise OSError(error.errno, told) from None


def _reserve(file: BinaryIO, offset: int, nbytes: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), offset, nbytes)
    except AttributeError:  # macOS, Windows
        pass
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    else:
        return
    for lo in range(0, nbytes, _formats.WINDOW):
        file.write(bytes(min(_formats.WINDOW, nbytes - lo)))
    file.flush()


def windows(
    shape: Sequence[int],
    itemsize: int,
    axes: tuple[int, ...],
    order: Sequence[int],
    chunks: Sequence[int] | None = None,
    neighbours: int = 1,
) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array between its vectors, in the order of the file.

    `order` has the axes from the one whose neighbours lie furthest apart; `chunks` is the shape of
    what is read and written as one, where that is so: no window ends within one. Of vectors that
    lie across one another, as many `neighbours` are taken together however long they are.
    """
    kept = [d for d in order if d not in axes]
    vector = itemsize * math.prod(shape[d] for d in axes)
    if vector == 0 or 0 in shape:
        return
    # The vectors that lie between the elements of one another, not one after the other.
    outer = min((order.index(d) for d in axes), default=len(shape))
    woven = math.prod(shape[d] for d in order[outer:] if d not in axes)
    most = max(1, _formats.WINDOW // vector, min(woven, neighbours))
    steps = {}
    for d in reversed(kept):
        steps[d] = min(shape[d], most)
        if chunks is not None:
            steps[d] = max(chunks[d], steps[d] // chunks[d] * chunks[d])
        most //= min(most, steps[d])
    for starts in itertools.product(*(range(0, shape[d], steps[d]) for d in kept)):
        cut = {d: slice(lo, lo + steps[d]) for d, lo in zip(kept, starts, strict=True)}
        # The Ellipsis keeps an array an array where there are no axes.
        yield (*(cut.get(d, slice(None)) for d in range(len(shape))), ...)


def windows_of(x: Array, axes: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """The `windows` of an array in memory."""
    order = sorted(range(x.ndim), key=lambda d: -x.strides[d])
    return windows(x.shape, x.itemsize, axes, order, neighbours=NEIGHBOURS)


def whole_of(array: Array) -> Array:
    """All of the map that an array lies in."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def populate(array: Array, advice: int, most: int) -> None:
    """Have the pages of a window of at most so many bytes at once, not by a fault for each."""
    lo, hi = np.lib.array_utils.byte_bounds(array)
    if sys.platform == "linux" and hi - lo <= most:
        whole: Any = whole_of(array)
        start = lo - whole.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE  # of the map, by pages
        start -= start % mmap.PAGESIZE
        with contextlib.suppress(OSError):  # an older one
            whole.base.madvise(advice, start, min(hi - lo + mmap.PAGESIZE, len(whole.base) - start))


def unload(array: Array) -> None:
    """Take a map's pages out of the process. The kernel still has them, as a cache."""
    base: Any = whole_of(array).base
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(base, mmap.mmap):  # not of what is empty
        base.madvise(mmap.MADV_DONTNEED)
