"""Files that are not on this machine: fetched to a temporary one, or sent from there, by fsspec.

Folders of files too, by the same functions as those of this machine.
"""

import contextlib
import errno
import glob
import itertools
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from l2multi._replacing import told


def is_url(path: str) -> bool:
    """Whether a path is that of another file system."""
    return "://" in path


# A file system, empty for that of this machine, and a path in it.
Place = tuple[Any, str]


def place(path: str) -> Place:
    """What all paths of one file or folder have in common: its system, and where it is there."""
    if not is_url(path):
        return "", os.path.realpath(path)
    return _place(*_system("source", path))


def is_within(path: str, other: str) -> bool:
    """Whether a path is another's, by whatever names, or that of something in it."""
    (system, inner), (others, outer) = place(path), place(other)
    return system == others and f"{inner}/".startswith(f"{outer.rstrip('/')}/")


def parent(path: str) -> Place:
    """The `place` of the folder that a file is in; a link is not followed."""
    if not is_url(path):
        return place(os.path.dirname(path.rstrip(os.sep)) or os.curdir)
    system, inner = _system("source", path)
    return _place(system, inner.rstrip("/").rpartition("/")[0])


def _place(system: Any, inner: str) -> Place:
    if type(system).__name__ == "LocalFileSystem":
        return "", os.path.realpath(inner)
    return system, inner.rstrip("/")  # systems of two hosts are not equal


def check_apart(source: str, target: str) -> None:
    """Refuse a target that is the source, by whatever names."""
    if (is_url(source) or is_url(target)) and place(source) == place(target):
        raise ValueError(f"target: expected another file than the one to read, got {target!r}")


def kind(argument: str, path: str) -> str:
    """What is at a path: a "folder", a "file" or another thing, or nothing (an empty string)."""
    if not is_url(path):
        return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else ""
    system, inner = _system(argument, path)
    with _errors(argument, path):
        # This first, for HTTP reads all of a file to tell whether it is a folder.
        if system.isfile(inner):
            return "file"
        return "folder" if system.isdir(inner) else ""


def listed(folder: str) -> list[str]:
    """The names in a folder, sorted."""
    with _errors("source", folder):
        if not is_url(folder):
            return sorted(os.listdir(folder))
        system, inner = _system("source", folder)
        found = system.ls(inner, detail=False)
        return sorted(os.path.basename(name.rstrip("/")) for name in found)


def matching(pattern: str) -> list[str]:
    """The paths that a pattern matches, sorted."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    system, inner = _system("source", pattern)
    # As the caller writes what stands before the path in the system.
    ends = zip(reversed(pattern), reversed(inner), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    head, base = pattern[: len(pattern) - same], inner[: len(inner) - same]
    with _errors("source", pattern):
        return sorted(head + name.removeprefix(base) for name in system.glob(inner))


def joined(folder: str, name: str) -> str:
    """The path of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def make(argument: str, folder: str) -> None:
    """Make a folder, if it is not there."""
    with _errors(argument, folder):
        if is_url(folder):
            system, inner = _system(argument, folder)
            system.makedirs(inner, exist_ok=True)
        else:
            os.makedirs(folder, exist_ok=True)


@contextlib.contextmanager
def fetched(argument: str, path: str) -> Iterator[str]:
    """The path of a file here: of a copy, if the file is elsewhere. Refusals of what is in it name
    it."""
    if not is_url(path):
        with naming(argument, path):
            yield path
        return
    system, inner = _system(argument, path)
    with tempfile.TemporaryDirectory(prefix="l2multi-") as folder:
        here = os.path.join(folder, os.path.basename(inner.rstrip("/")))
        with _errors(argument, path):
            if not system.exists(inner):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            system.get(inner, here, recursive=not system.isfile(inner))
        with _renamed(here, path), naming(argument, here):
            yield here


@contextlib.contextmanager
def naming(argument: str, path: str) -> Iterator[None]:
    """Have refusals of an argument say which file it is, where they do not."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error)
        if message.startswith(f"{argument}: ") and repr(path)[:-1] not in message:
            error.args = (f"{message}, in {path!r}",)
        raise


@contextlib.contextmanager
def sent(argument: str, path: str) -> Iterator[str]:
    """The path of a file to write here: it is sent to its place under another name, and renamed
    there when it is complete."""
    if not is_url(path):
        yield path
        return
    system, inner = _system(argument, path)
    with _errors(argument, path):
        if not system.isfile(inner) and system.isdir(inner):
            told_ = "a folder cannot be replaced as a whole at a URL; remove it first"
            raise FileExistsError(errno.EEXIST, told_)
    with tempfile.TemporaryDirectory(prefix="l2multi-") as folder:
        here = os.path.join(folder, os.path.basename(inner.rstrip("/")))
        with _renamed(here, path):
            yield here
        if not os.path.lexists(here):  # nothing was to be written
            return
        around, slash, _ = inner.rstrip("/").rpartition("/")
        temporary = f"{around}{slash}.l2multi-{secrets.token_hex(8)}.tmp"
        with _errors(argument, path):
            try:
                system.put(here, temporary, recursive=os.path.isdir(here))
                system.mv(temporary, inner, recursive=os.path.isdir(here))
            except BaseException:
                with contextlib.suppress(Exception):
                    system.rm(temporary, recursive=True)
                raise


@contextlib.contextmanager
def _renamed(here: str, path: str) -> Iterator[None]:
    """Have messages name the URL that the caller knows, and not the temporary file."""
    try:
        yield
    except Exception as error:
        error.args = tuple(
            one.replace(here, path) if isinstance(one, str) else one for one in error.args
        )
        if isinstance(error, OSError) and error.filename == here:
            error.filename = path
        raise


def _system(argument: str, path: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(
            f"{argument}: {path!r} needs fsspec ({error}); try: pip install fsspec"
        ) from None
    with _errors(argument, path):
        system, inner = url_to_fs(path)
    return system, inner


@contextlib.contextmanager
def _errors(argument: str, path: str) -> Iterator[None]:
    """Have whatever a file system raises name the argument and the URL."""
    try:
        with told(argument, path):
            yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{argument}: {type(error).__name__}: {error}", path) from error
