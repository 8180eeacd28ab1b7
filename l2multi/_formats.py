"""The table of file formats: what they are called, and how a file is opened and its like created.

A row says the suffixes and which module opens a file: its ``open(file, path, request)`` returns an
`Opened`. `files` streams from that to another and knows no format.
"""

import importlib
import os
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from l2multi import _contract

Array = np.ndarray[Any, Any]


class Request(NamedTuple):
    """The keywords that say what is meant in a file."""

    tensor: str | None = None
    dtype_in: np.dtype[Any] | None = None


class Opened:
    """A file that was found to be complete: its vectors, and how a file like it is written.

    Attributes
    ----------
    array : numpy.ndarray
        The vectors, mapped, of any strides.
    instead : str
        What else to ask for where the format cannot hold a dtype.
    """

    instead = "float32"

    def __init__(self, array: Array) -> None:
        self.array = array

    def holds(self, name: str) -> bool:
        """Whether the format can hold a result of this dtype."""
        return name == "float32"

    def head(self, dtype: np.dtype[Any]) -> bytes:
        """What a file like this begins with if its vectors have this dtype."""
        return b""

    def size(self, dtype: np.dtype[Any]) -> int:
        """How many bytes follow the head."""
        return self.array.size * dtype.itemsize

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        """The vectors in the bytes that follow the head, mapped too; all else is copied there."""
        return space.view(dtype.newbyteorder("<")).reshape(self.array.shape)

    def carry(self, window: tuple[Any, ...]) -> None:
        """Check and copy what stands between the vectors of a window, which is read next."""


class Row(NamedTuple):
    """A format: the suffix of results, the module that opens it, what is said of it, the keywords
    that it takes, and further suffixes of what can be read."""

    suffix: str
    module: str
    rules: str
    takes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def open(self, file: BinaryIO, path: str, request: Request) -> Opened:
        """A file opened for reading, whose name is for messages."""
        for name, value in request._asdict().items():
            if value is not None and name not in self.takes:
                told = f"{value!r}, and a {self.suffix} file has no use for it"
                raise ValueError(f"{name}: expected none, got {told}: {self.rules}")
        opened: Opened = importlib.import_module(self.module).open(file, path, request)
        return opened


# The first row opens what has a suffix of none.
ROWS = (
    Row(".npy", "l2multi.formats.npy", "one array", ("dtype_in",)),
    Row(
        ".safetensors",
        "l2multi.formats.safetensors",
        "named tensors, which say their dtypes, BF16 and F8 too",
        ("tensor",),
    ),
    Row(".fvecs", "l2multi.formats.vecs", "float32; .bvecs holds uint8", (), (".bvecs",)),
    Row(
        ".fbin",
        "l2multi.formats.fbin",
        "float32; .u8bin holds uint8, .i8bin int8",
        (),
        (".u8bin", ".i8bin"),
    ),
)


def suffix(path: str) -> str:
    """What says the format of a file."""
    return os.path.splitext(path)[1].lower()


def find(path: str) -> Row:
    """The row of a file."""
    own = suffix(path)
    return next((row for row in ROWS if own in (row.suffix, *row.also)), ROWS[0])


def check_target(source: str, target: str) -> None:
    """Refuse a target whose name says another format than what is written."""
    row = find(source)
    if os.path.basename(target) and (find(target) != row or suffix(target) in row.also):
        raise ValueError(
            f"target: expected a name that ends in {row.suffix}, which is what {source!r} is "
            f"written as, got {target!r}"
        )


def known() -> str:
    """All suffixes, for messages."""
    return ", ".join(kind for row in ROWS for kind in (row.suffix, *row.also))


def ml_dtype(argument: str, dtype: Any) -> np.dtype[Any]:
    """A dtype of ml_dtypes, by itself or by its name."""
    known = _contract.ML_FLOATS + _contract.ML_INTEGERS
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", f"{dtype}")
    if name not in known:
        raise TypeError(f"{argument}: expected one of {', '.join(known)}, got {dtype!r}")
    try:
        found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{argument}: {name} needs ml_dtypes ({error}); try: pip install -U ml_dtypes"
        ) from None
    return found
