"""``.fvecs`` and ``.bvecs``: each vector after its length, an int32.

As http://corpus-texmex.irisa.fr describes them. A file that is empty has no vectors.
"""

import builtins
import os
from typing import Any

import numpy as np

from l2multi._formats import Array, Block, Selection, suffix
from l2multi._mapped import Mapped, MappedWriter

DTYPES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1")}

# How many lengths are looked at together.
_LENGTHS = 2**20


class Vecs(Mapped):
    """Vectors of one length."""

    before = 4

    def __init__(self, data: Array, path: str, dtype: np.dtype[Any], length: int) -> None:
        self.lengths, vectors = _split(data, dtype, length)
        super().__init__(vectors)
        self.path = path
        self.writer = VecsWriter

    def size(self, dtype: np.dtype[Any]) -> int:
        return int(self.shape[0]) * (4 + int(self.shape[1]) * dtype.itemsize)

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        self.laid, vectors = _split(space, dtype.newbyteorder("<"), self.shape[1])
        return vectors

    def check(self, window: tuple[Any, ...], space: Array | None) -> None:
        first, last, _ = window[0].indices(len(self.lengths))
        here = self.lengths[first:last]
        if space is not None:
            here = _split(space, self.dtype, self.array.shape[1])[0]
        for lo in range(first, last, _LENGTHS):
            lengths = here[lo - first : lo - first + _LENGTHS]
            others = np.flatnonzero(lengths != self.lengths[0])
            if others.size:
                at = int(others[0])
                raise ValueError(
                    f"source: expected vectors of one length, got {self.path!r}, where the first "
                    f"has {self.lengths[0]} elements and that at position {lo + at} {lengths[at]}"
                )


class VecsWriter(MappedWriter):
    """Vectors, each after its length."""

    def __init__(self, opened: Any, *args: Any) -> None:
        super().__init__(opened, *args)
        self.lengths: Any = opened.laid

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        length = self.array.shape[1]
        if self.place.space is not None:
            lengths, at = _split(self.place.space, self.array.dtype, length)[0], slice(None)
        else:
            lengths, at = self.lengths, block.where[0]
        if keep is not None and self.dropped:
            at = slice(self.at, self.at + int(keep.sum()))
        lengths[at] = length
        super().put(block, unit, keep)

    def close(self, complete: bool) -> None:
        super().close(complete)
        self.lengths = None


def open(path: str, selection: Selection) -> Mapped:
    """All vectors; that they have the length of the first is checked while they are read."""
    kind = suffix(path)
    dtype = DTYPES[kind]
    with builtins.open(path, "rb") as file:
        found = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(4), "little", signed=True)
    if not found:
        return Vecs(np.empty(0, np.uint8), path, dtype, 0)
    row = 4 + length * dtype.itemsize
    if length <= 0 or found % row:
        raise ValueError(
            f"source: expected a complete {kind} file, got {path!r} (its first vector claims "
            f"{length} elements, and its {found} bytes are no whole number of such vectors)"
        )
    return Vecs(np.asarray(np.memmap(path, np.uint8, "r", 0, (found,))), path, dtype, length)


def _split(data: Array, dtype: np.dtype[Any], length: int) -> tuple[Array, Array]:
    """The lengths and the vectors of the bytes of a file."""
    rows = data.reshape(-1, 4 + length * dtype.itemsize)
    return rows[:, :4].view("<i4")[:, 0], rows[:, 4:].view(dtype)
