"""Folders of files of vectors: each to one of the same name, and what is done is not done again."""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import l2multi
from l2multi import _contract, _file_arguments, _formats, _remote
from l2multi._replacing import replacing, told
from l2multi.files import Path, Report, normalize_file

# What was done stands here, in the folder of the results.
RECORD = ".l2multi.json"


class Part(NamedTuple):
    """One file of a folder.

    Attributes
    ----------
    source, target : str
        The paths.
    report : Report or None
        What was met; None where the file had been done before, by the same words and of the same
        content, so that nothing was written.
    """

    source: str
    target: str
    report: Report | None


def normalize_folder(
    source: Path | Iterable[Path],
    target: Path,
    axis: _contract.Axis = -1,
    *,
    norms: Path | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    done: Callable[[Part], None] | None = None,
    **keywords: Any,
) -> list[Part]:
    """Scale the vectors of all files of a folder to unit length, into files of the same names.

    Parts may be of any formats that `normalize_file` knows, and of any numbers of vectors, whose
    lengths have to agree; that is looked at before anything is written. Each part is complete or
    not there. A second run skips what was done: the target keeps a record (``.l2multi.json``) of
    the SHA-256 of each source and result and of the keywords, and a part is skipped if all three
    are what they were, whatever the dates of the files are.

    Parameters
    ----------
    source : path or iterable of paths
        A folder, of which the files that bear a known suffix are taken (but not ``.txt`` and
        ``.bin``, as much else is called), a pattern such as ``parts/*.npy``, or the files
        themselves.
    target : path
        The folder to write to, which is made if it is not there.
    axis, tensor, column, dims, dtype, dtype_in, eps, zero, nonfinite, backend
        As for `normalize_file`.
    norms : path, optional
        A folder for the norms of each part, as ``.npy``.
    dry_run : bool, default False
        Whether nothing is to be written; nothing is skipped either.
    progress : callable, optional
        As for `normalize_file`, for one part after the other.
    done : callable, optional
        Called with each `Part`.

    Returns
    -------
    list of Part
        In the order of the names.

    Raises
    ------
    OSError, TypeError, ImportError
        As for `normalize_file`.
    ValueError
        As for `normalize_file`; there is no file; two have one name; `target` has the source in it;
        a part has vectors of another length than those before it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from l2multi.folders import normalize_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts, unit = os.path.join(folder, "parts"), os.path.join(folder, "unit")
    ...     os.mkdir(parts)
    ...     for i in range(3):
    ...         np.save(os.path.join(parts, f"{i}.npy"), np.full((2, 4), i, np.float32))
    ...     first = normalize_folder(parts, unit)
    ...     second = normalize_folder(parts, unit)
    ...     sorted(os.listdir(unit))
    ['.l2multi.json', '0.npy', '1.npy', '2.npy']
    >>> [part.report.zero for part in first], [part.report for part in second]
    ([2, 0, 0], [None, None, None])
    """
    target = os.fsdecode(target)
    pairs = _pairs(_sources(source), target)
    _check_lengths([path for path, _ in pairs], axis, keywords)
    if not dry_run:
        for what, folder in (("target", target), ("norms", norms)):
            if folder is not None:
                with told(what, os.fsdecode(folder)):
                    os.makedirs(folder, exist_ok=True)
    record = _read_record(target)
    asked = {name: str(value) for name, value in sorted(keywords.items()) if value is not None}
    asked |= {"axis": str(axis), "version": l2multi.__version__}
    found = []
    for path, result in pairs:
        name = os.path.basename(result)
        own = None if norms is None else os.path.join(os.fsdecode(norms), f"{name}.npy")
        before = record.get(name)
        report = None
        if dry_run or own is not None or not _is_done(before, asked, path, result):
            read = "" if dry_run else digest(path)  # before: who changes it meanwhile is found out
            report = normalize_file(
                path, result, axis, norms=own, dry_run=dry_run, progress=progress, **keywords
            )
            if not dry_run:
                record[name] = {"asked": asked, "source": read, "target": digest(result)}
                _write_record(target, record)
        found.append(Part(path, result, report))
        if done is not None:
            done(found[-1])
    return found


def is_many(path: Path) -> bool:
    """Whether a path is a folder of files or a pattern, and not a file."""
    path = os.fsdecode(path)
    if _remote.is_url(path):
        return False
    if os.path.lexists(path):
        return os.path.isdir(path) and not _formats.find(path).folder
    return glob.has_magic(path)


def _sources(source: Path | Iterable[Path]) -> list[str]:
    """The files, by name."""
    if not isinstance(source, str | bytes | os.PathLike):
        found = [os.fsdecode(path) for path in source]
        if not found:
            raise ValueError("source: expected files, got none")
        return found
    path = os.fsdecode(source)
    if is_many(path) and os.path.isdir(path):
        with told("source", path):
            names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        found = [os.path.join(path, name) for name in names if _formats.is_known(name)]
    elif is_many(path):
        found = sorted(one for one in glob.glob(path) if not is_many(one))
    else:
        found = [path]
    if not found:
        raise ValueError(
            f"source: expected files that bear one of {_formats.known()}, got {path!r}, where "
            "there are none"
        )
    return found


def _pairs(sources: list[str], target: str) -> list[tuple[str, str]]:
    """Each source with the path of its result."""
    pairs: dict[str, str] = {}
    if _formats.find(target).folder or (os.path.lexists(target) and not os.path.isdir(target)):
        raise ValueError(f"target: expected a folder of files, got {target!r}")
    for path in sources:
        stem, suffix = os.path.splitext(os.path.basename(path.rstrip(os.sep)))
        row = _formats.find(path)
        name = stem + (row.suffix if suffix.lower() in row.reads else suffix)
        if name in pairs:
            raise ValueError(
                f"source: expected files of different names, got {pairs[name]!r} and {path!r}, "
                f"which would both be written as {name!r}"
            )
        pairs[name] = path
        if os.path.realpath(os.path.dirname(path)) == os.path.realpath(target):
            raise ValueError(
                f"target: expected another folder than that of the files to read, got {target!r}"
            )
    return [(path, os.path.join(target, name)) for name, path in pairs.items()]


def _check_lengths(paths: list[str], axis: _contract.Axis, keywords: dict[str, Any]) -> None:
    """Refuse a part whose vectors have another length, by the heads of all."""
    asked = {name: keywords.get(name) for name in ("tensor", "column", "dtype_in")}
    first: tuple[str, int] | None = None
    for path in paths:
        with ExitStack() as stack:
            opened = _file_arguments.open_file(path, _file_arguments.request(**asked))
            stack.callback(opened.close)
            axes = _contract.normalize_axes(axis, len(opened.shape))
            along = [opened.shape[d] for d in axes]
        if 0 in opened.shape or None in along or axes != (len(opened.shape) - 1,):
            continue
        length = along[0] if keywords.get("dims") is None else min(along[0], keywords["dims"])
        if first is None:
            first = (path, length)
        elif length != first[1]:
            raise ValueError(
                f"source: expected vectors of one length, got {path!r}, whose vectors have "
                f"{length} elements, where those of {first[0]!r} have {first[1]}"
            )


def digest(path: str) -> str:
    """The SHA-256 of a file; of a folder, that of the names and digests of what is in it."""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(os.listdir(path))
    lines = (f"{name}\0{digest(os.path.join(path, name))}\n" for name in names)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _is_done(before: Any, asked: dict[str, str], source: str, target: str) -> bool:
    """Whether the record of a part says of these two files that nothing is left to do."""
    try:
        return bool(
            before["asked"] == asked
            and os.path.lexists(target)
            and before["source"] == digest(source)
            and before["target"] == digest(target)
        )
    except (KeyError, TypeError, OSError):
        return False


def _read_record(folder: str) -> dict[str, Any]:
    """What was done; nothing, if nothing can be read."""
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            record = json.load(file)
        if isinstance(record, dict):
            return record
    return {}


def _write_record(folder: str, record: dict[str, Any]) -> None:
    path = os.path.join(os.path.realpath(folder), RECORD)
    with replacing(path, path, durable=False) as temporary, open(temporary, "w") as file:
        json.dump(record, file, indent=1)
