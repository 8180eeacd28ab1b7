"""``.fbin``, ``.u8bin`` and ``.i8bin``: how many vectors and how long, two uint32, and the vectors.

As https://big-ann-benchmarks.com describes them.
"""

import os
from typing import Any, BinaryIO

import numpy as np

from l2multi._formats import Opened, Request, suffix

DTYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"), ".i8bin": np.dtype("i1"),
}  # fmt: skip


class Fbin(Opened):
    """Vectors, one after the other."""

    def head(self, dtype: np.dtype[Any]) -> bytes:
        return np.array(self.array.shape, "<u4").tobytes()


def open(file: BinaryIO, path: str, request: Request) -> Opened:
    """All vectors."""
    kind = suffix(path)
    dtype = DTYPES[kind]
    head = file.read(8)
    shape = tuple(int.from_bytes(head[i : i + 4], "little") for i in (0, 4))
    claimed = 8 + shape[0] * shape[1] * dtype.itemsize
    found = os.fstat(file.fileno()).st_size
    if claimed != found:
        raise ValueError(
            f"source: expected a complete {kind} file, got {path!r} (it claims to hold {shape[0]} "
            f"vectors of {shape[1]}, in {claimed} bytes, and has {found}"
            f"{': it is truncated' if found < claimed else ''})"
        )
    if claimed == 8:
        return Fbin(np.empty(shape, dtype))
    return Fbin(np.asarray(np.memmap(file, dtype, "r", 8, shape)))
