"""Folders of files of vectors: each to one of the same name, and what is done is not done again."""

import contextlib
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any, NamedTuple

import l2multi
from l2multi import _contract, _file_arguments, _formats, _remote
from l2multi._replacing import replacing
from l2multi.files import Check, Path, Report, check_file, normalize_file

# What was done stands here, in the folder of the results.
RECORD = ".l2multi.json"

# Of the keywords of `normalize_file`: to give one is to say nothing.
_DEFAULTS = {name: one.default for name, one in signature(normalize_file).parameters.items()}


class Part(NamedTuple):
    """One file of a folder.

    Attributes
    ----------
    source, target : str
        The paths.
    report : Report or None
        What was met; None where the file had been done before, by the same words and of the same
        content, so that nothing was written.
    stale : bool
        Whether `source` is not there any more, and `target` is what an earlier run made of it.
    """

    source: str
    target: str
    report: Report | None
    stale: bool = False


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
    are what they were, whatever the dates of the files are. What it made of a part that was removed
    from its folder since is told, and stays.

    Folders may be URLs of fsspec, such as ``s3://bucket/parts/``. Parts are fetched one by one
    then, and so the length of each is looked at when it is there.

    Parameters
    ----------
    source : path or iterable of paths
        A folder, of which the files that bear a known suffix are taken (but not ``.txt`` and
        ``.bin``, as much else is called), a pattern such as ``parts/*.npy``, or the files
        themselves.
    target : path
        The folder to write to, which is made if it is not there.
    axis, tensor, column, dims, dtype, dtype_in, eps, zero, nonfinite, backend
        As for `normalize_file`; a name is for the parts of formats that have names.
    norms : path, optional
        A folder for the norms of each part, another than those of the parts and the results: in
        ``a.npy`` those of ``a.npy`` or ``a.parquet``, in ``a.parquet.npy`` where there is another
        part called a. (The command calls this ``--return-norms``.)
    dry_run : bool, default False
        Whether nothing is to be written; nothing is skipped either.
    progress : callable, optional
        As for `normalize_file`, for one part after the other.
    done : callable, optional
        Called with each `Part`.

    Returns
    -------
    list of Part
        In the order of the names; then the stale ones.

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
    target = _file_arguments.path("target", target)
    beside = None if norms is None else _file_arguments.path("norms", norms)
    pairs = _pairs(_sources(source), target)
    own = {} if beside is None else _norms_of([path for path, _ in pairs], target, beside)
    each = _for_each([path for path, _ in pairs], keywords)
    lengths = _Lengths(axis, each)
    for path, _ in pairs:
        if not _remote.is_url(path):
            with _remote.naming("source", path):
                lengths.look(path, path)
    if not dry_run:
        _remote.make("target", target)
        if beside is not None:
            _remote.make("norms", beside)
    record = _read_record(target)
    asked = {name: str(v) for name, v in sorted(keywords.items()) if _is_asked(name, v)}
    asked |= {"axis": str(axis), "version": l2multi.__version__}
    found = []

    def tell(part: Part) -> None:
        found.append(part)
        if done is not None:
            done(part)

    for path, result in pairs:
        name, beside_ = os.path.basename(result), own.get(path)
        report = None
        with _remote.fetched("source", path) as here:
            if here != path:
                lengths.look(here, path)
            # Before it is done: who changes it meanwhile is found out.
            now = {"asked": asked, "source": "" if dry_run else digest(here)}
            if dry_run or not _is_done(record.get(name), now, result, beside_):
                with _remote.sent("target", result) as there:
                    report = normalize_file(
                        here, there, axis, norms=beside_, dry_run=dry_run, progress=progress,
                        **each[path],
                    )._replace(source=path, target=result)  # fmt: skip
                    now["target"] = "" if dry_run else digest(there)
        if report is not None and not dry_run:
            if beside_ is not None:
                now["norms"] = _digest_at(beside_)
            record[name] = now | {"from": _seen_from(target, path)}
            _write_record(target, record)
        tell(Part(path, result, report))
    for part in _stale(record, pairs, target):
        tell(part)
    return found


class Checked(NamedTuple):
    """One file of a folder that was looked at.

    Attributes
    ----------
    source : str
        The path.
    check : Check
        What was met.
    """

    source: str
    check: Check


def check_folder(
    source: Path | Iterable[Path],
    axis: _contract.Axis = -1,
    *,
    done: Callable[[Checked], None] | None = None,
    **keywords: Any,
) -> list[Checked]:
    """Tell of all files of a folder how many vectors have unit length, and what the others are.

    Parameters
    ----------
    source : path or iterable of paths
        As for `normalize_folder`. The lengths of the vectors of the parts need not agree.
    axis, tensor, column, dims, dtype_in, tol, backend, progress
        As for `check_file`.
    done : callable, optional
        Called with each `Checked`.

    Returns
    -------
    list of Checked
        In the order of the names.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        As for `check_file`; ValueError if there is no file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from l2multi.folders import check_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(3):
    ...         np.save(os.path.join(folder, f"{i}.npy"), np.eye(4) * i)
    ...     [one.check.unit for one in check_folder(folder)]
    [0, 4, 0]
    """
    found = []
    for path, own in _for_each(_sources(source), keywords).items():
        found.append(Checked(path, check_file(path, axis, **own)))
        if done is not None:
            done(found[-1])
    return found


def _for_each(paths: list[str], keywords: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The keywords for each part. The name of a tensor, say, is for those of formats that have
    names; where none is, it stays for the first to refuse."""
    takes = {path: _formats.find(path).takes for path in paths}
    taken = {name for some in takes.values() for name in some}
    return {
        path: {
            name: value
            for name, value in keywords.items()
            if name not in taken or name in takes[path]
        }
        for path in paths
    }


def is_many(path: Path) -> bool:
    """Whether a path is a folder of files or a pattern, and not a file."""
    path = _file_arguments.path("source", path)
    kind = _remote.kind("source", path)
    if kind:
        return kind == "folder" and not _formats.find(path).folder
    return glob.has_magic(path)


def _sources(source: Path | Iterable[Path]) -> list[str]:
    """The files, by name."""
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | os.PathLike):
        found = [_file_arguments.path("source", path) for path in source]
        if not found:
            raise ValueError("source: expected files, got none")
        return found
    path = _file_arguments.path("source", source)
    if not is_many(path):
        found = [path]
    elif _remote.kind("source", path):
        names = (name for name in _remote.listed(path) if not name.startswith("."))
        found = [_remote.joined(path, name) for name in names if _formats.is_known(name)]
    else:
        found = [one for one in _remote.matching(path) if not is_many(one)]
    if not found:
        told = "where there are none" if _remote.kind("source", path) else "which matches none"
        if left := left_out(source):
            told += f"; of {left[0]!r} and the like, name the files or a pattern such as '*.txt'"
        raise ValueError(
            f"source: expected files that bear one of {_formats.known(alone=True)}, got {path!r}, "
            f"{told}"
        )
    return found


def left_out(source: Path | Iterable[Path]) -> list[str]:
    """The files of a folder that may be of vectors, and are taken only where they are asked for."""
    if not isinstance(source, str | bytes | os.PathLike):
        return []
    path = _file_arguments.path("source", source)
    if not (is_many(path) and _remote.kind("source", path)):
        return []
    names = _remote.listed(path)
    return [name for name in names if _formats.suffix(name) in _formats.COMMON]


def _pairs(sources: list[str], target: str) -> list[tuple[str, str]]:
    """Each source with the path of its result."""
    pairs: dict[str, str] = {}
    if _formats.find(target).folder or _remote.kind("target", target) == "file":
        raise ValueError(f"target: expected a folder of files, got {target!r}")
    results = _remote.place(target)
    for path in sources:
        stem, suffix = _split(path)
        row = _formats.find(path)
        name = stem + (row.suffix if suffix.lower() in row.reads else suffix)
        if name in pairs:
            raise ValueError(
                f"source: expected files of different names, got {pairs[name]!r} and {path!r}, "
                f"which would both be written as {name!r}"
            )
        pairs[name] = path
        if _remote.parent(path) == results:
            raise ValueError(
                f"target: expected another folder than that of the files to read, got {target!r}"
            )
    return [(path, _remote.joined(target, name)) for name, path in pairs.items()]


def _split(path: str) -> tuple[str, str]:
    """The name of a file without its suffix, and that."""
    return os.path.splitext(os.path.basename(path.rstrip(os.sep)))


def _norms_of(paths: list[str], target: str, folder: str) -> dict[str, str]:
    """Where the norms of each part go: by its name, with the suffix only where that tells two
    apart."""
    if _remote.place(folder) in {_remote.place(target), *map(_remote.parent, paths)}:
        raise ValueError(
            f"norms: expected another folder than those of the parts and the results, got "
            f"{folder!r}"
        )
    if _remote.kind("norms", folder) == "file":
        raise ValueError(f"norms: expected a folder, for those of each part, got {folder!r}")
    stems = Counter(_split(path)[0] for path in paths)
    found = {}
    for path in paths:
        stem, suffix = _split(path)
        alone = suffix == ".npy" or stems[stem] == 1
        found[path] = _remote.joined(folder, f"{stem}{'' if alone else suffix}.npy")
    (name, count), *_ = Counter(found.values()).most_common(1)
    if count > 1:
        raise ValueError(f"norms: those of {count} parts would be written as {name!r}")
    return found


class _Lengths:
    """The length of the vectors of parts, by their heads: refused if that of one is another."""

    def __init__(self, axis: _contract.Axis, keywords: dict[str, dict[str, Any]]) -> None:
        self.axis, self.keywords = axis, keywords
        self.first: tuple[str, int] | None = None

    def look(self, here: str, path: str) -> None:
        """At a part, which messages call `path`."""
        own = self.keywords[path]
        asked = {name: own.get(name) for name in _formats.Selection._fields}
        selection, dims = _file_arguments.selection(**asked), own.get("dims")
        with contextlib.closing(_file_arguments.open_file(here, selection)) as opened:
            axes = _contract.normalize_axes(self.axis, len(opened.shape))
            along = [opened.shape[d] for d in axes]
        if 0 in opened.shape or None in along or axes != (len(opened.shape) - 1,):
            return
        length = along[0] if dims is None else min(along[0], dims)
        if self.first is None:
            self.first = (path, length)
        elif length != self.first[1]:
            raise ValueError(
                f"source: expected vectors of one length, got {path!r}, whose vectors have "
                f"{length} elements, where those of {self.first[0]!r} have {self.first[1]}"
            )


def digest(path: str) -> str:
    """The SHA-256 of a file; of a folder, that of the names and digests of what is in it."""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(os.listdir(path))
    lines = (f"{name}\0{digest(os.path.join(path, name))}\n" for name in names)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _digest_at(path: str) -> str:
    """The same, of a file that may be elsewhere."""
    with _remote.fetched("target", path) as here:
        return digest(here)


def _is_done(before: Any, now: dict[str, Any], target: str, norms: str | None) -> bool:
    """Whether the record of a part says of what is there that nothing is left to do."""
    try:
        return bool(
            all(before[name] == now[name] for name in ("asked", "source"))
            and before["target"] == _digest_at(target)
            and (norms is None or before["norms"] == _digest_at(norms))
        )
    except (KeyError, TypeError, OSError):
        return False


def _is_asked(name: str, value: Any) -> bool:
    """Whether a keyword says something. (NumPy finds float64 equal to None.)"""
    default = _DEFAULTS.get(name)
    return value is not default and (value is None or default is None or bool(value != default))


def _seen_from(folder: str, path: str) -> str:
    """The path of a part from the folder of results, which may move together."""
    if _remote.is_url(path) or _remote.is_url(folder):
        return path
    whole = os.path.join(_remote.parent(path)[1], os.path.basename(path.rstrip(os.sep)))
    try:
        return os.path.relpath(whole, os.path.realpath(folder))
    except ValueError:  # on another drive
        return whole


def _stale(record: dict[str, Any], pairs: list[tuple[str, str]], target: str) -> Iterator[Part]:
    """What was made of parts that are in none of the folders of these any more."""
    folders = {_remote.parent(path) for path, _ in pairs}
    now = {result for _, result in pairs}
    for name, entry in sorted(record.items()):
        path = entry.get("from") if isinstance(entry, dict) else None
        result = _remote.joined(target, name)
        if not isinstance(path, str) or result in now:
            continue
        if not (_remote.is_url(path) or _remote.is_url(target)):
            path = os.path.normpath(os.path.join(os.path.realpath(target), path))
        with contextlib.suppress(ImportError, OSError, ValueError):  # what cannot be asked now
            gone = _remote.parent(path) in folders and not _remote.kind("source", path)
            if gone and _remote.kind("target", result):
                yield Part(path, result, None, stale=True)


def _read_record(folder: str) -> dict[str, Any]:
    """What was done; nothing, if nothing can be read."""
    where = _remote.joined(folder, RECORD)
    with contextlib.suppress(OSError, ValueError):
        with _remote.fetched("target", where) as path, open(path, encoding="utf-8") as file:
            record = json.load(file)
        if isinstance(record, dict):
            return record
    return {}


def _write_record(folder: str, record: dict[str, Any]) -> None:
    with _remote.sent("target", _remote.joined(folder, RECORD)) as here:
        path = os.path.realpath(here)
        with replacing(path, path, durable=False) as temporary, open(temporary, "w") as file:
            json.dump(record, file, indent=1)
