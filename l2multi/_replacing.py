"""A file or folder beside another, which takes its place when it is complete and else vanishes.

Who writes to a temporary file holds a lock on it, which ends with the process, however that ends.
So the next run tells what a killed one left from what another is writing, and removes it.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import Any

try:
    fcntl: Any = importlib.import_module("fcntl")
except ImportError:  # Windows, where nothing can tell them apart, and all is left
    fcntl = None

_NAME = re.compile(r"\.l2multi-[0-9a-f]{16}\.tmp")


@contextlib.contextmanager
def told(what: str, path: str) -> Iterator[None]:
    """Have what the system refuses name the argument and the path that the caller knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{what}: {error.strerror}", path) from None


@contextlib.contextmanager
def replacing(
    path: str, target: str, *, argument: str = "target", folder: bool = False, durable: bool = True
) -> Iterator[str]:
    """The path of a new file or folder beside `path`, which takes its place if all goes well.

    Messages name `target`, which is what the caller calls `path`, and the `argument`. What replaces
    another is on the disk before, unless it need not be `durable`. A folder changes places with the
    one that it replaces, which is removed then: so there is one at each moment.
    """
    around = os.path.dirname(path) or os.curdir
    _sweep(around)
    temporary, held = "", -1
    try:
        while held < 0:
            # Known before it is made, for an interrupt may come between.
            temporary = os.path.join(around, f".l2multi-{secrets.token_hex(8)}.tmp")
            with told(f"{argument}: its directory takes no new file", target):
                held = _create(temporary, folder, private=os.path.exists(path))
        if folder and os.path.exists(path):
            with told(argument, target):
                _check_exchange(temporary)
        yield temporary
        with told(argument, target):
            replaced = os.path.exists(path)
            if replaced:
                _copy_modes(path, temporary)
                # The new name may reach the disk before the new bytes do, and a crash between the
                # two would cost the old ones. Where there are none, nobody has to wait, as with cp:
                # it would take more than twice the time (docs/details.md).
                if durable:
                    _sync(temporary, held)
            if fcntl is None:  # on Windows, what is open cannot be renamed
                held = _close(held)
            if replaced and folder:
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
            if replaced and durable:
                _sync_folder(around)
            if replaced and folder:
                _remove(temporary)
        # Not before, for the lock keeps a sweep away. An interrupt may come after it was closed.
        closing, held = held, -1
        _close(closing)
    except BaseException:
        _close(held)
        _remove(temporary)
        raise


def _close(held: int) -> int:
    """Close a descriptor, if it is one, and return one that is none."""
    if held >= 0:
        os.close(held)
    return -1


def _create(path: str, folder: bool, private: bool) -> int:
    """A new temporary file or folder: the descriptor that holds its lock; -1 if it is lost again
    to a sweep, which takes what is not locked yet for left. Nobody else may read it while it is
    `private`: the file that it will replace may be so."""
    if folder:
        os.mkdir(path, 0o700 if private else 0o777)
        try:
            held = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return -1
    else:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    if _lock(held) and os.path.exists(path):
        return held
    os.close(held)
    return -1


def _lock(held: int) -> bool:
    """Whether nobody else has the lock, which is taken."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sweep(around: str) -> None:
    """Remove what runs have left that were killed."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for name in filter(_NAME.fullmatch, os.listdir(around)):
            path = os.path.join(around, name)
            with contextlib.suppress(OSError):
                if stat.S_IFMT(os.lstat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                    continue
                held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
                finally:
                    os.close(held)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _copy_modes(path: str, new: str) -> None:
    """Have a file, or a folder and all in it, the modes of what has these names in the old one."""
    shutil.copymode(path, new)
    for folder, inner, files in os.walk(new):
        for name in (*inner, *files):
            made = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                shutil.copymode(os.path.join(path, os.path.relpath(made, new)), made)


def _exchange(one: str, other: str) -> None:
    """Have two folders change their names in one step, by renameat2(2) of Linux."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system
        code = errno.ENOSYS
    else:
        here, flags = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if rename(here, os.fsencode(one), here, os.fsencode(other), flags) == 0:
            return
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV):
        why = "a folder cannot be replaced in one step on this system; remove it first"
        raise FileExistsError(errno.EEXIST, why)
    raise OSError(code, os.strerror(code))


def _check_exchange(folder: str) -> None:
    """Refuse now, by two folders within an empty one, what could not be replaced in the end."""
    pair = [os.path.join(folder, name) for name in ("1", "2")]
    for one in pair:
        os.mkdir(one)
    _exchange(*pair)
    for one in pair:
        os.rmdir(one)


def _sync(path: str, held: int) -> None:
    """Have an open file on the disk, or a folder and all in it."""
    os.fsync(held)
    for folder, _, files in os.walk(path):
        for name in files:
            _sync_one(os.path.join(folder, name))
        _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Have the names in a folder on the disk, where the system can open one."""
    with contextlib.suppress(OSError):
        _sync_one(folder)


def _sync_one(path: str) -> None:
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
