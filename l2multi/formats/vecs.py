"""``.fvecs`` and ``.bvecs``: each vector after its length, an int32.

As http://corpus-texmex.irisa.fr describes them. A file that is empty has no vectors.
"""

import os
from typing import Any, BinaryIO

import numpy as np

from l2multi._formats import Array, Opened, Request, suffix

DTYPES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1")}

# How many lengths are looked at together.
_LENGTHS = 2**20


class Vecs(Opened):
    """Vectors of one length."""

    def __init__(self, data: Array, path: str, dtype: np.dtype[Any], length: int) -> None:
        self.lengths, vectors = _split(data, dtype, length)
        super().__init__(vectors)
        self.path, self.length = path, length

    def size(self, dtype: np.dtype[Any]) -> int:
        return len(self.array) * (4 + self.length * dtype.itemsize)

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        self.copied, vectors = _split(space, dtype.newbyteorder("<"), self.length)
        return vectors

    def carry(self, window: tuple[Any, ...]) -> None:
        first, last, _ = window[0].indices(len(self.lengths))
        for lo in range(first, last, _LENGTHS):
            lengths = self.lengths[lo : min(lo + _LENGTHS, last)]
            others = np.flatnonzero(lengths != self.length)
            if others.size:
                at = int(others[0])
                raise ValueError(
                    f"source: expected vectors of one length, got {self.path!r}, where the first "
                    f"has {self.length} elements and that at position {lo + at} {lengths[at]}"
                )
            self.copied[lo : lo + len(lengths)] = self.length


def open(file: BinaryIO, path: str, request: Request) -> Opened:
    """All vectors; that they have the length of the first is checked while they are read."""
    kind = suffix(path)
    dtype = DTYPES[kind]
    found = os.fstat(file.fileno()).st_size
    if not found:
        return Vecs(np.empty(0, np.uint8), path, dtype, 0)
    length = int.from_bytes(file.read(4), "little", signed=True)
    row = 4 + length * dtype.itemsize
    if length <= 0 or found % row:
        raise ValueError(
            f"source: expected a complete {kind} file, got {path!r} (its first vector claims "
            f"{length} elements, and its {found} bytes are no whole number of such vectors)"
        )
    return Vecs(np.asarray(np.memmap(file, np.uint8, "r", 0, (found,))), path, dtype, length)


def _split(data: Array, dtype: np.dtype[Any], length: int) -> tuple[Array, Array]:
    """The lengths and the vectors of the bytes of a file."""
    rows = data.reshape(-1, 4 + length * dtype.itemsize)
    return rows[:, :4].view("<i4")[:, 0], rows[:, 4:].view(dtype)
