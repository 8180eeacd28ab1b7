"""Files whose vectors a library reads and writes by slices, as HDF5 and Zarr: chunk by chunk."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi._contract import Axis
from l2multi._formats import Array, Block, OpenFile, Writer
from l2multi._mapped import windows
from l2multi._write_behind import WriteBehind

# Blocks are as much smaller, for several copies of each are in memory on its way.
COPIES = 4


class Sliced(OpenFile):
    """A file whose vectors are an array of another library.

    Attributes
    ----------
    array : object
        What gives a NumPy array for a tuple of slices.
    chunks : tuple of int or None
        The shape of what is read and written as one.
    """

    def __init__(self, array: Any, chunks: tuple[int, ...] | None) -> None:
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)

    def begin(self, path: str, dtype: np.dtype[Any]) -> Any:
        """What a file like this one has in place of `array`: it takes NumPy arrays for slices. Its
        vectors have this dtype and our `shape`; everything else has been copied."""
        raise NotImplementedError

    def finish(self, complete: bool) -> None:
        """Close what `begin` has begun."""

    def check_axes(self, axes: tuple[int, ...]) -> Axis:
        return axes

    def can_drop(self, axes: tuple[int, ...]) -> bool:
        return False  # what else is in the file may go by the vectors' positions

    def cut(self, dims: int) -> None:
        self.shape = (*self.shape[:-1], dims)

    def sample(self, axes: tuple[int, ...]) -> Array:
        window = next(self.cuts(axes), ())
        lengths = (len(range(*part.indices(n))) for part, n in zip(window, self.shape, strict=True))
        return np.empty(tuple(lengths) if window else self.shape, self.dtype)

    def cuts(self, axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """What cuts the array into blocks."""
        order = range(len(self.shape))
        itemsize = COPIES * self.dtype.itemsize
        for window in windows(self.shape, itemsize, axes, order, self.chunks):
            # Without the Ellipsis, which some libraries lack, and within our shape.
            yield tuple(slice(*window[d].indices(self.shape[d])) for d in order)

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        for window in self.cuts(axes):
            starts = tuple(window[d].start for d in range(len(window)) if d not in axes)
            yield Block(np.asarray(self.array[window]), starts, window)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        return SlicedWriter(self, path, dtype)


class SlicedWriter(Writer):
    """A file like it, written window by window."""

    def __init__(self, opened: Sliced, path: str, dtype: np.dtype[Any]) -> None:
        self.opened = opened
        self.array = opened.begin(path, dtype)
        self.behind = WriteBehind()

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        self.behind.begin(self.array.__setitem__, block.where, unit)

    def close(self, complete: bool) -> None:
        written = False
        try:
            if complete:
                self.behind.wait()
                written = True
        finally:
            self.behind.close()
            self.opened.finish(written)
