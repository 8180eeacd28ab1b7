"""Files whose vectors lie in them as an array does in memory: mapped, and windows of them copied.

A window that is one piece of the file is read into a `Place` in memory, and written from there by
another thread while the next is read; others are computed from map to map. The library reads and
writes a vector longer than any window in parts, so its scratch and the places are the only memory
that counts.
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
from l2multi._formats import Array, Block, OpenFile, Writer
from l2multi._write_behind import WriteBehind

# Where vectors lie across the file, neighbours share pages, and a window of a few vectors would
# read every page for each few. This many neighbours fill whole pages, and their norms are small.
NEIGHBOURS = 2**16

# Bytes of a window, which stay in the cache. 300 MB of float32 take 1.04 of the time with half as
# many, 1.12 with a quarter, 1.2 with four times as many (Zen 5, two cores).
PLACE = 2**22

# Of madvise(2), from Linux 5.14, of which `mmap` has no names. 205 MB of float32 take 104 ms with
# both, 116 with the latter, 186 without (ext4, two cores of an AMD EPYC, load 6).
READ, WRITE = 22, 23


class Mapped(OpenFile):
    """A file whose vectors are mapped.

    Attributes
    ----------
    array : numpy.ndarray
        The vectors, of any strides.
    writer : type
        What writes a file like it.
    """

    writer: "type[MappedWriter]"
    before = 0  # bytes of something else before each vector

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.identity = identity(whole_of(array))
        self.place: Place | None = None

    def head(self, dtype: np.dtype[Any]) -> bytes:
        """What a file like this begins with if its vectors have this dtype and this `shape`."""
        return b""

    def size(self, dtype: np.dtype[Any]) -> int:
        """How many bytes follow the head."""
        return math.prod(map(int, self.shape)) * dtype.itemsize

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        """The vectors in the bytes that follow the head, mapped too; all else is copied there."""
        return space.view(dtype.newbyteorder("<")).reshape(self.shape)

    def check(self, window: tuple[Any, ...], space: Array | None) -> None:
        """Check what stands before the vectors of a window, in its bytes if they were copied."""

    def check_axes(self, axes: tuple[int, ...]) -> Axis:
        return axes

    def cut(self, dims: int) -> None:
        self.array = self.array[..., :dims]
        self.shape = self.array.shape

    def sample(self, axes: tuple[int, ...]) -> Array:
        return self.array

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        x = self.array
        with contextlib.closing(Place(x, "rb", self.before, self.identity)) as place:
            self.place = place
            for window in windows_of(x, axes):
                values = place.like(x[window])
                if values is None:
                    populate(x[window], READ, 4 * _formats.WINDOW)
                    values = x[window]
                else:
                    place.read()
                self.check(window, place.space)
                starts = tuple(window[d].start for d in range(x.ndim) if d not in axes)
                yield Block(values, starts, window)
                if place.space is None:
                    unload(x)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        whole = self.shape
        try:
            if vectors is not None:  # in the head and the size
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
        self.begin(opened, opened.lay(space, dtype), dropped)

    def begin(self, opened: Mapped, array: Array, dropped: bool = False) -> None:
        """Write to this array of the map; only vectors that stay, where some are `dropped`."""
        self.opened: Mapped = opened
        self.array: Any = array
        self.place = Place(array, "r+b", opened.before)
        self.behind = WriteBehind()
        self.dropped, self.at = dropped, 0

    def room(self, block: Block) -> Array | None:
        if self.dropped:
            return None
        part: Array = self.array[block.where]
        room = self.place.like(part, self.opened.place, block.values)
        if room is None:
            populate(part, WRITE, 4 * _formats.WINDOW)
            return part
        return room

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        if self.dropped:
            kept = unit[keep]
            self.array[self.at : self.at + len(kept)] = kept
            self.at += len(kept)
        if self.place.space is None:
            unload(self.array)
        else:
            self.behind.begin(*self.place.taken())

    def close(self, complete: bool) -> None:
        try:
            if complete:
                self.behind.wait()
        finally:
            self.behind.close()
            # No map must outlive the call: on Windows a mapped file cannot be renamed.
            self.array = None
            self.opened.place = None
            self.place.close()


Mapped.writer = MappedWriter


class Place:
    """Where one window of a map after the other is while it is in memory.

    300 MB of float32 take 0.75 of the time that computing from map to map takes, for no page has to
    be mapped (Zen 5, two cores); and 0.6 of that where windows are written while the next are read
    (Intel Xeon, two cores).

    Attributes
    ----------
    space : array of uint8 or None
        The bytes of the window, if it is one that can be copied.
    owner : Place
        Whose the space is: that of a reader may serve a writer too.
    rooms : list of array of uint8
        What the space is taken from, and what is still being written.
    """

    def __init__(
        self, array: Array, mode: str, before: int, known: tuple[int, int] | None = None
    ) -> None:
        self.whole: Any = whole_of(array)
        self.known = known
        self.mode, self.before, self.at = mode, before, 0
        self.space: Any = None
        self.owner = self  # of the space
        self.rooms: list[Array] = [np.empty(0, np.uint8)] * 2
        # Elsewhere what is written to a file may be another than what is seen in its map.
        self.usable = os.name == "posix" and getattr(self.whole, "filename", None) is not None
        self.file: Any = None

    def like(
        self, window: Array, other: "Place | None" = None, values: Array | None = None
    ) -> Array | None:
        """An array in this place that lies in memory as a window of the map does; in the `other`
        place, if the `values` there do: they are computed where they are."""
        self.space = None
        lo, hi = np.lib.array_utils.byte_bounds(window)
        lo -= self.before
        size = window.nbytes + (self.before and self.before * len(window))
        if not self.usable or not hi - lo == size <= 4 * _formats.WINDOW:
            return None
        if self.file is None:
            self.file = open(self.whole.filename, self.mode, buffering=0)  # noqa: SIM115
            found = os.fstat(self.file.fileno())
            if self.known not in (None, (found.st_dev, found.st_ino)):  # the map knows the old one
                self.usable = False
                return None
        self.at = self.whole.offset + lo - self.whole.ctypes.data
        if other and values is not None and other.space is not None and _alike(window, values):
            self.owner, self.space = other, other.space
            return values
        if self.rooms[0].size < hi - lo:
            self.rooms[0] = np.empty(hi - lo, np.uint8)
        self.owner, self.space = self, self.rooms[0][: hi - lo]
        return np.ndarray(
            window.shape, window.dtype, self.space, window.ctypes.data - lo, window.strides
        )

    def read(self) -> None:
        """Fill the space from the file."""
        self.file.seek(self.at)
        done = 0
        while done < self.space.size:
            got = self.file.readinto(self.space[done:])
            if not got:
                raise ValueError("source: it has become shorter while it was read")
            done += got

    def taken(self) -> tuple[Any, ...]:
        """The job of writing the space to the file. Who owns it goes on with its other room."""
        self.owner.rooms.reverse()
        return _write, self.file.fileno(), self.space, self.at

    def close(self) -> None:
        """Close the file, and let go of the map."""
        self.whole = None
        if self.file is not None:
            self.file.close()


def _write(file: int, space: Array, at: int) -> None:
    """Write all bytes to a place in an open file."""
    left = memoryview(space.data)
    while left:
        done = os.pwrite(file, left, at)
        left, at = left[done:], at + done


def identity(whole: Any) -> tuple[int, int] | None:
    """What tells the file of a map from another of its name."""
    name = getattr(whole, "filename", None)
    if name is None:
        return None
    found = os.stat(name)
    return found.st_dev, found.st_ino


def _alike(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides


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
    size: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array between its vectors, in the order of the file.

    `order` has the axes from the one whose neighbours lie furthest apart; `chunks` is the shape of
    what is read and written as one, where that is so: no window ends within one. Of vectors that
    lie across one another, as many `neighbours` are taken together however long they are. A window
    has `size` bytes at most, where a vector does.
    """
    size = _formats.WINDOW if size is None else size
    kept = [d for d in order if d not in axes]
    vector = itemsize * math.prod(shape[d] for d in axes)
    if vector == 0 or 0 in shape:
        return
    # The vectors that lie between the elements of one another, not one after the other.
    outer = min((order.index(d) for d in axes), default=len(shape))
    woven = math.prod(shape[d] for d in order[outer:] if d not in axes)
    most = max(1, size // vector, min(woven, neighbours))
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
    """The `windows` of an array in memory, each small enough for a `Place`."""
    order = sorted(range(x.ndim), key=lambda d: -x.strides[d])
    size = min(_formats.WINDOW, PLACE)
    return windows(x.shape, x.itemsize, axes, order, neighbours=NEIGHBOURS, size=size)


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
