"""Files that are not on this machine: fetched to a temporary one, or sent from there, by fsspec."""

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from l2multi._replacing import told


def is_url(path: str) -> bool:
    """Whether a path is that of another file system."""
    return "://" in path


def check_apart(source: str, target: str) -> None:
    """Refuse a target that is the source, by whatever names."""
    if is_url(source) or is_url(target):
        (one, inner), (other, place) = _system("source", source), _system("target", target)
        if type(one) is type(other) and inner.rstrip("/") == place.rstrip("/"):
            raise ValueError(f"target: expected another file than the one to read, got {target!r}")


@contextlib.contextmanager
def fetched(argument: str, path: str) -> Iterator[str]:
    """The path of a file here: of a copy, if the file is elsewhere."""
    if not is_url(path):
        yield path
        return
    system, inner = _system(argument, path)
    with tempfile.TemporaryDirectory(prefix="l2multi-") as folder:
        here = os.path.join(folder, os.path.basename(inner.rstrip("/")))
        with _errors(argument, path):
            if not system.exists(inner):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            system.get(inner, here, recursive=system.isdir(inner))
        yield here


@contextlib.contextmanager
def sent(argument: str, path: str) -> Iterator[str]:
    """The path of a file to write here: it is sent to its place under another name, and renamed
    there when it is complete."""
    if not is_url(path):
        yield path
        return
    system, inner = _system(argument, path)
    with _errors(argument, path):
        if system.isdir(inner):
            raise FileExistsError(errno.EEXIST, "a folder cannot be replaced as a whole")
    with tempfile.TemporaryDirectory(prefix="l2multi-") as folder:
        here = os.path.join(folder, os.path.basename(inner.rstrip("/")))
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
