"""The table of file formats: what they are called, and how a file is opened and its like created.

A row says the suffixes and which module opens a file: its ``open(path, selection)`` returns an
`OpenFile`. `files` takes the blocks of that one by one and hands them to a `Writer`, and knows no
format.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from l2multi import _contract

Array = np.ndarray[Any, Any]

# Bytes of input in a block, between two calls of `progress`: 20 ms of work.
WINDOW = 2**24


# How many names of what is in a file a message has at most.
SHOWN = 20


class Selection(NamedTuple):
    """The keywords that say what is meant in a file."""

    tensor: str | None = None
    column: str | None = None
    dtype_in: np.dtype[Any] | None = None


class Block(NamedTuple):
    """Some vectors of a file, each of them whole.

    Attributes
    ----------
    values : array
        The vectors, of whatever type `l2multi.normalize` takes.
    starts : tuple of int
        Where the first of them is in the batch of all.
    where : object
        What the format has to know of the block to write its like.
    """

    values: Any
    starts: tuple[int, ...]
    where: Any = None


class Writer:
    """A file like the one that was opened, while it is written block by block."""

    def room(self, block: Block) -> Array | None:
        """Where the unit vectors of a block shall be computed, if that is known."""
        return None

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        """Write the unit vectors of a block: all, or those that `keep` tells to."""
        raise NotImplementedError

    def close(self, complete: bool) -> None:
        """Complete the file, or give it up."""


class OpenFile:
    """A file whose head was found to be sound: its vectors, and how a file like it is written.

    Attributes
    ----------
    shape : tuple of int
        Of the array of vectors; its last number is None where each vector has its own length.
    dtype : numpy.dtype
        Of the elements.
    instead : str
        What else to ask for where the format cannot hold a dtype.
    has_nulls : bool
        Whether vectors may be null.
    name : str
        Of the tensor, array, dataset or column that was taken; empty where it has none.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype[Any]
    name: str = ""
    instead = "float32"
    has_nulls = False

    def holds(self, name: str) -> bool:
        """Whether the format can hold a result of this dtype."""
        return name == "float32"

    def cut(self, dims: int) -> None:
        """From now on, only the first elements of each vector count."""
        raise ValueError("dims: expected none, for vectors of this format cannot be cut")

    def can_drop(self, axes: tuple[int, ...]) -> bool:
        """Whether a file like this may have fewer vectors, by these axes."""
        return len(self.shape) == 2 and axes == (1,)

    def check_axes(self, axes: tuple[int, ...]) -> _contract.Axis:
        """What the `axis` of a block's values is; refused where no block can have whole vectors."""
        if axes != (len(self.shape) - 1,):
            raise ValueError(
                f"axis: expected -1, for the file holds vectors one by one, got {axes}"
            )
        return -1

    def sample(self, axes: tuple[int, ...]) -> Any:
        """What stands for all vectors where `l2multi.explain` is asked."""
        first = next(self.blocks(axes), None)
        if first is None:
            return np.empty([n or 0 for n in self.shape], self.dtype)
        return first.values

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        """All vectors, in the order of the file."""
        raise NotImplementedError

    def plain(self, norms: Any) -> tuple[Array, Array | None]:
        """Norms as a NumPy array, and which of them are not null; None where no one can be."""
        return np.asarray(norms), None

    def close(self) -> None:
        """Nothing more will be read."""

    def elements(self, block: Block) -> int:
        """How many elements a block has."""
        return int(block.values.size)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        """A file like this one, with vectors of this dtype; with so many of them, where some are
        dropped."""
        raise NotImplementedError


class Row(NamedTuple):
    """A format: the suffix of results, the module that opens it, what is said of it, the keywords
    that it takes, other suffixes of the same, suffixes of what can be read and not written, and, if
    it is a folder, the files of which one is in each such."""

    suffix: str
    module: str
    rules: str
    takes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    folder: tuple[str, ...] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """All that can be read."""
        return (self.suffix, *self.also, *self.reads)

    def is_like(self, path: str) -> bool:
        """Whether a folder is of this format, or has nothing in it."""
        with contextlib.suppress(NotADirectoryError):
            found = os.listdir(path)
            return not found or any(name in found for name in self.folder)
        return False

    def open(self, path: str, selection: Selection) -> OpenFile:
        """A file opened for reading."""
        for name, value in selection._asdict().items():
            if value is not None and name not in self.takes:
                told = f"{value!r}, and a {self.suffix} file has no use for it"
                raise ValueError(f"{name}: expected none, got {told}: {self.rules}")
        try:
            opened: OpenFile = importlib.import_module(self.module).open(path, selection)
        except NotNamedError as error:
            ones = (name for name in error.names[:SHOWN] if self._is_floating(path, error, name))
            raise error.suggest(next(ones, error.names[0])) from None
        return opened

    def _is_floating(self, path: str, which: "NotNamedError", name: str) -> bool:
        """Whether one of what a file holds has vectors of floating numbers."""
        named: dict[str, Any] = {which.option: name}
        try:
            opened = self.open(path, Selection(**named))
        except (ImportError, OSError, TypeError, ValueError):
            return False
        opened.close()
        return bool(_contract.rule(opened.dtype).result == opened.dtype)


# The first row opens what has a suffix of none.
ROWS = (
    Row(".npy", "l2multi.formats.npy", "one array", ("dtype_in",)),
    Row(
        ".npz",
        "l2multi.formats.npz",
        "named arrays, stored plain or compressed",
        ("tensor", "dtype_in"),
    ),
    Row(
        ".safetensors",
        "l2multi.formats.safetensors",
        "named tensors, which say their dtypes, BF16 and F8 too",
        ("tensor",),
    ),
    Row(
        ".zarr",
        "l2multi.formats.zarr",
        "an array in chunks, or many in groups",
        ("tensor", "dtype_in"),
        folder=("zarr.json", ".zgroup", ".zarray", ".zmetadata"),
    ),
    Row(
        ".h5",
        "l2multi.formats.hdf5",
        "HDF5, by h5py: named datasets, also within groups",
        ("tensor", "dtype_in"),
        also=(".hdf5", ".h5ad"),
    ),
    Row(".fvecs", "l2multi.formats.vecs", "float32; .bvecs holds uint8", reads=(".bvecs",)),
    Row(
        ".fbin",
        "l2multi.formats.fbin",
        "float32; .u8bin holds uint8, .i8bin int8",
        reads=(".u8bin", ".i8bin"),
    ),
    Row(
        ".vec",
        "l2multi.formats.word_vectors",
        "words and float32 in decimal: text of word2vec, or that of GloVe, which has no header",
        also=(".w2v", ".glove", ".txt"),
    ),
    Row(".bin", "l2multi.formats.word_vectors", "words and float32: the binary of word2vec"),
    Row(
        ".parquet",
        "l2multi.formats.parquet",
        "a column of lists or tensors, nulls too",
        ("column",),
        also=(".pq",),
    ),
    Row(
        ".arrow",
        "l2multi.formats.arrow_ipc",
        "as .parquet; the file format, which is Feather version 2, or the stream format",
        ("column",),
        also=(".feather", ".ipc"),
    ),
)


def suffix(path: str) -> str:
    """What says the format of a file."""
    return os.path.splitext(path.rstrip(os.sep))[1].lower()


def find(path: str) -> Row:
    """The row of a file."""
    own = suffix(path)
    return next((row for row in ROWS if own in row.suffixes), ROWS[0])


def check_target(source: str, target: str) -> None:
    """Refuse a target whose name says another format than what is written."""
    row = find(source)
    if os.path.basename(target) and (find(target) != row or suffix(target) in row.reads):
        raise ValueError(
            f"target: expected a name that ends in {row.suffix}, which is what {source!r} is "
            f"written as, got {target!r}"
        )


# Of much that has no vectors, so that in a folder they are taken only where they are asked for.
COMMON = (".txt", ".bin")


def is_known(path: str) -> bool:
    """Whether a name bears a suffix of the table, and one that says vectors."""
    own = suffix(path)
    return own not in COMMON and any(own in row.suffixes for row in ROWS)


def table() -> str:
    """The docs' table of files."""
    rows = ["| files | hold | options |", "| --- | --- | --- |"]
    for row in ROWS:
        names = ", ".join(f"`{name}`" for name in row.suffixes)
        options = ", ".join("`--" + name.replace("_", "-") + "`" for name in row.takes)
        rows.append(f"| {names} | {row.rules} | {options} |")
    return "\n".join(rows)


def known(alone: bool = False) -> str:
    """All suffixes, for messages; or those that say vectors by themselves."""
    kinds = [kind for row in ROWS for kind in row.suffixes]
    return ", ".join(kind for kind in kinds if not (alone and kind in COMMON))


def chosen(names: list[str], tensor: str | None, path: str) -> str:
    """The name that is asked for, or the only one."""
    if tensor is None and len(names) == 1:
        return names[0]
    if tensor in names:
        return tensor
    raise not_named("tensor", f"those in {path!r}", names, tensor)


class NotNamedError(ValueError):
    """A file holds many, and none was named: `names`, for the keyword `option`."""

    def __init__(self, told: str, option: str, names: list[str]) -> None:
        super().__init__(told)
        self.option, self.names = option, names

    def suggest(self, name: str) -> "NotNamedError":
        """The same, with a name for example."""
        told = f"{self}; name one, such as {self.option}={name!r}"
        return NotNamedError(told, self.option, self.names)


def not_named(option: str, what: str, names: list[str], asked: str | None) -> ValueError:
    """The error where none of the names in a file was asked for."""
    shown = ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    told = f"{option}: expected one of {what} ({shown}), got "
    if asked is not None or not names:
        return ValueError(told + ("none" if asked is None else repr(asked)))
    return NotNamedError(f"{told}none", option, names)


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
