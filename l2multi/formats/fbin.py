"""``.fbin``, ``.u8bin`` and ``.i8bin``: how many vectors and how long, two uint32, and the vectors.

As https://big-ann-benchmarks.com describes them.
"""

import builtins
import os
from typing import Any

import numpy as np

from l2multi._formats import Selection, suffix
from l2multi._mapped import Mapped

DTYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"), ".i8bin": np.dtype("i1"),
}  # fmt: skip


class Fbin(Mapped):
    """Vectors, one after the other."""

    def head(self, dtype: np.dtype[Any]) -> bytes:
        return np.array(self.shape, "<u4").tobytes()


def open(path: str, selection: Selection) -> Mapped:
    """All vectors."""
    kind = suffix(path)
    dtype = DTYPES[kind]
    with builtins.open(path, "rb") as file:
        head = file.read(8)
        found = os.fstat(file.fileno()).st_size
    shape = tuple(int.from_bytes(head[i : i + 4], "little") for i in (0, 4))
    claimed = 8 + shape[0] * shape[1] * dtype.itemsize
    if claimed != found:
        raise ValueError(
            f"source: expected a complete {kind} file, got {path!r} (it claims to hold {shape[0]} "
            f"vectors of {shape[1]}, in {claimed} bytes, and has {found}"
            f"{': it is truncated' if found < claimed else ''})"
        )
    if claimed == 8:
        return Fbin(np.empty(shape, dtype))
    return Fbin(np.asarray(np.memmap(path, dtype, "r", 8, shape)))
