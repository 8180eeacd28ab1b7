"""Ragged arrays: vectors of different lengths, one after another. What containers whose vectors are
such open as, and the backends of the library "ragged" compute on. Imports no backend.
"""

import functools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Ragged:
    """Vectors one after another, of which number `i` is ``entries[offsets[i]:offsets[i + 1]]``.

    `entries` is one-dimensional, contiguous and of a floating or complex dtype. `batch` is the
    shape of what there is one of for each vector. The vectors are those of the whole batch in C
    order or, where `where` is given, those at these indices into the batch, and after them an
    empty one that stands for all others: a batch may be larger than memory.
    """

    def __init__(
        self,
        entries: Array,
        offsets: Array,
        batch: tuple[int, ...],
        where: tuple[Array, ...] | None = None,
    ) -> None:
        self.entries, self.offsets, self.batch, self.where = entries, offsets, batch, where
        self.dtype, self.shape, self.size = entries.dtype, entries.shape, entries.size
        self.count = len(offsets) - 1

    @functools.cached_property
    def rows(self) -> Array | None:
        """Vectors of one length as the rows of a dense array; None for others."""
        n, rest = divmod(self.size, max(self.count, 1))
        if rest or not self.count or (np.diff(self.offsets) != n).any():
            return None
        return self.entries.reshape(self.count, n)

    def spread(
        self, each: Array, axes: tuple[int, ...], keepdims: bool = False, out: Array | None = None
    ) -> Any:
        """What there is one of for each vector, laid out as the batch; the vectors lie along
        `axes`, which may stay."""
        if self.where is None:
            full = each.reshape(self.batch)
        else:
            full = np.full(self.batch, each[-1])
            full[self.where] = each[:-1]
        if keepdims:
            full = np.expand_dims(full, axes)
        if out is None:
            return full[()]
        out[...] = full
        return out
