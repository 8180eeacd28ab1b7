"""What is asked of files: opened, checked, and refused by the name of the argument."""

import errno
import operator
import os
import stat
from typing import Any

import numpy as np

from l2multi import _containers, _contract, _formats, _remote
from l2multi._formats import OpenFile
from l2multi._replacing import told

ZERO = (*_contract.ZERO, "drop", "null")


def path(name: str, value: Any) -> str:
    """A path as text, refused by the name of the argument if it is none."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}")
    return os.fsdecode(value)


def selection(tensor: str | None, column: str | None, dtype_in: Any) -> _formats.Selection:
    """The keywords that say what is meant in a file."""
    known = None if dtype_in is None else _formats.ml_dtype("dtype_in", dtype_in)
    return _formats.Selection(tensor, column, known)


def open_file(path: str, selection: _formats.Selection) -> OpenFile:
    """What a file holds, opened by the row of its suffix."""
    row = _formats.find(path)
    with told("source", path):
        mode = os.stat(path).st_mode  # before it is opened: a pipe would wait for data
        if not (stat.S_ISDIR(mode) if row.folder else stat.S_ISREG(mode)):
            what = "folder" if row.folder else "file"
            cure = "what comes through a pipe has to be saved to one first"
            if stat.S_ISDIR(mode):
                cure = "folders of files are for normalize and check, in Python for "
                cure += "normalize_folder and check_folder"
            raise ValueError(
                f"source: expected a {row.suffix} {what}, got {path!r}, which is not a {what} "
                f"({cure})"
            )
        return row.open(path, selection)


def check_target(source: str, target: str, *, made: bool = False) -> str:
    """Where `target` leads; refused if it cannot be replaced, or says another format. Its directory
    has to be there, or to be `made`."""
    _formats.check_target(source, target)
    path = os.path.realpath(target)
    folder = _formats.find(source).folder
    if folder and (_remote.is_within(path, source) or _remote.is_within(source, path)):
        raise ValueError(f"target: expected another folder than {source!r}, got {target!r}")
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if not os.path.basename(target.rstrip(os.sep) if folder else target):
            raise ValueError(f"target: expected the path of a file, got {target!r}") from None
        if not (made or os.path.isdir(os.path.dirname(path))):
            raise FileNotFoundError(errno.ENOENT, "its directory does not exist", target) from None
        return path
    if os.path.samestat(status, os.stat(source)):
        raise ValueError(f"target: expected another file than the one to read, got {target!r}")
    if folder:
        if not _formats.find(source).is_like(path):
            raise ValueError(
                f"target: expected a {_formats.find(source).suffix} folder or none, got "
                f"{target!r}, which is something else"
            )
    # What /dev/stdout leads to may be a pipe, or have no name any more.
    elif not (stat.S_ISREG(status.st_mode) and os.path.exists(path)):
        inside = os.path.join(target, os.path.basename(source))
        cure = f" (try {inside!r})" if stat.S_ISDIR(status.st_mode) else ""
        raise ValueError(f"target: expected a file, got {target!r}, which is not one{cure}")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", target)
    return path


def prepare(
    opened: OpenFile, path: str, axis: _contract.Axis, dims: Any, dtype: Any, zero: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The axes of the vectors, which are cut to `dims`, and the dtype of the result; refused if
    that or what shall become of zero vectors is nothing for this file."""
    axes = _contract.normalize_axes(axis, len(opened.shape))
    if dims is not None:
        cut(opened, axes, dims)
    result = result_dtype(opened, path, dtype)
    check_zero(opened, axes, zero, path)
    return axes, result


def cut(opened: OpenFile, axes: tuple[int, ...], dims: Any) -> None:
    """Have the first elements of each vector count alone."""
    wanted = _containers.known("dims", dims, operator.index)
    if axes != (len(opened.shape) - 1,):
        raise ValueError(f"dims: expected none where axis is not the last, got {wanted}")
    length = opened.shape[-1]
    if wanted < 1 or (length is not None and wanted > length):
        raise ValueError(
            f"dims: expected from 1 to {length}, the length of the vectors, got {wanted}"
        )
    opened.cut(wanted)


def check_zero(opened: OpenFile, axes: tuple[int, ...], zero: Any, path: str) -> None:
    """Refuse what cannot be done with zero vectors here."""
    _contract.check_choice("zero", zero, ZERO)
    kind = _formats.find(path).suffix
    if zero == "null" and not opened.has_nulls:
        raise ValueError(
            f"zero: null is for columns, which can hold nulls; this {kind} file has none such"
        )
    if zero == "drop" and not opened.can_drop(axes):
        raise ValueError(
            f"zero: drop is for vectors in the rows of a file, got axis {axes} of shape "
            f"{opened.shape} in a {kind} file"
        )


def result_dtype(opened: OpenFile, path: str, dtype: Any) -> np.dtype[Any]:
    """The dtype of the result; refused if the format cannot name it."""
    own = _contract.rule(opened.dtype).result
    asked = own.name if dtype is None else dtype
    # By name too: the names mean nothing to NumPy before somebody imports ml_dtypes.
    by_name = isinstance(asked, str) and asked in _contract.ML_FLOATS + _contract.ML_INTEGERS
    if not by_name or opened.holds(asked):
        complex_ = _contract.is_complex(own)
        found = own if dtype is None else _contract.floating(dtype, complex_=complex_)
        if opened.holds(found.name):
            return found
    raise TypeError(
        f"dtype: {asked} has no name in a {_formats.find(path).suffix} file, so that the result "
        f"could not be read back; give another, such as dtype={opened.instead}"
    )
