"""Object code on disk: what is there is right or is not used.

A file is written whole beside its place and moved there, so that nobody reads half of one; what
it holds follows a digest over itself and over all that it depends on (sources, versions, machine,
settings), so that a truncated, changed, exchanged or outdated file is the same as none. Code is
run, so the directory must be the user's own and closed to writing by others. An error of any
kind means that there is no cache.
"""

import contextlib
import os
import stat
import sys
import threading

DIRECTORY = "L2MULTI_CACHE_DIR"

# Bytes of all files, from which those not used for longest are removed until half is left.
MOST = 2**26


def directory() -> str | None:
    """Where the files are, or None if there shall be none (``L2MULTI_CACHE_DIR`` is empty)."""
    named = os.environ.get(DIRECTORY)
    if named is not None:
        return named or None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "l2multi") if base and os.path.isabs(base) else None


def _hash(content: bytes) -> bytes:
    import hashlib  # milliseconds that the first small call need not take

    return hashlib.sha256(content).digest()


def _digest(key: bytes, content: bytes) -> bytes:
    return _hash(_hash(key) + content)


def _path(place: str, key: bytes) -> str:
    return os.path.join(place, f"{_hash(key).hex()}.o")


def _ours(place: str) -> bool:
    """Whether nobody else can put code there."""
    if not hasattr(os, "geteuid"):
        return True
    about = os.stat(place)
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def files(unfinished: bool = False) -> list[str]:
    """The paths of all files; and of those too that a process has begun to write."""
    place = directory()
    try:
        names = os.listdir(place) if place is not None else []
    except OSError:
        return []
    ours = [name for name in names if name.endswith(".o") or (unfinished and ".o." in name)]
    return [os.path.join(place or "", name) for name in ours]


def empty() -> bool:
    """Whether there is nothing to read; keys take longer."""
    return not files()


def trouble() -> str:
    """What keeps files from being used or written, for `show_versions`."""
    named = directory()
    if named is None:
        return ""
    place = named = os.path.abspath(named)
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    try:
        if place == named and not _ours(place):
            return f"; not used, for others than this user may write to {place}"
    except OSError as error:
        return f"; not used: {error}"
    return "" if os.access(place, os.W_OK) else f"; none are added, for {place} is not writable"


def read(key: bytes) -> bytes | None:
    """What was written under this key, to the last bit, or None."""
    place = directory()
    with contextlib.suppress(OSError):
        if place is not None and _ours(place):
            path = _path(place, key)
            with open(path, "rb") as file:
                whole = file.read()
            if whole[:32] == _digest(key, whole[32:]):
                with contextlib.suppress(OSError):
                    os.utime(path)
                return whole[32:]
    return None


def write(key: bytes, content: bytes) -> None:
    """Keep this, if that is possible."""
    place = directory()
    if place is None:
        return
    with contextlib.suppress(OSError):
        os.makedirs(place, mode=0o700, exist_ok=True)
        if not _ours(place):
            return
        path = _path(place, key)
        temporary = f"{path}.{os.getpid()}-{threading.get_ident()}"
        try:
            with open(temporary, "wb") as file:
                file.write(_digest(key, content) + content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _evict()


def _evict() -> None:
    """Remove the files not used for longest, where all take too much room."""
    known = []
    for path in files(unfinished=True):
        with contextlib.suppress(OSError):  # another process was faster
            about = os.stat(path)
            known.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in known)
    if total <= MOST:
        return
    for _, size, path in sorted(known):
        if total <= MOST // 2:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
