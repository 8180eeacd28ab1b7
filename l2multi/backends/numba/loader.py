"""The loader links kernels: those that came with the package, else those in the user's cache, else
it has them compiled here and now, and keeps them in the cache.

To link object code takes llvmlite alone, and most of the 40 ms of that are its import. So a small
call need not wait: `link_soon` has a thread link what it needs. Nothing else is done at another
time, or in another process.
"""

import atexit
import ctypes
import functools
import importlib
import os
import sys
import threading
import time
from typing import Any

from l2multi import _fork, _usable
from l2multi.backends.numba import cache, descriptor, machine, shipped
from l2multi.backends.numba.shipped import Key

# Seconds before the thread begins, for its imports would hold up the call that asked; and seconds
# for which calls go elsewhere, before one waits for the thread: beside calls without a pause it
# gets the GIL once in 5 ms, and took 0.1 to more than 2 s.
_PAUSE, _PATIENCE = 0.01, 0.03

# Load-once caches: addresses of what is linked, and why the rest cannot be. LLVM owns the code.
_addresses: dict[Key, int] = {}
_failed: dict[Key, str] = {}
_engines: list[Any] = []

_thread: threading.Thread | None = None
_begun = 0.0
_over = threading.Event()


def room(count: int) -> int:
    """The address of so many slots of zeros, the start of a cache line. They are there for ever, as
    helpers and linked code are."""
    new = (ctypes.c_int64 * (count + 8))()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(new))
    address = ctypes.addressof(new)
    return address + -address % 64


def slots(address: int, count: int) -> Any:
    """So many slots at an address."""
    return (ctypes.c_int64 * count).from_address(address)


# Addresses of the table of kernels for XLA, and of what kernels know of this machine.
XLA_TABLE = room(descriptor.XLA_SIZE)
_MACHINE = room(descriptor.MACHINE_SIZE)


def linked(*keys: Key) -> bool:
    """Whether all of these can be called at once."""
    return all(key in _addresses for key in keys)


def started() -> bool:
    """Whether LLVM has been imported, so that linking takes a millisecond."""
    return bool(_engines)


def busy() -> bool:
    """Whether the thread is at work."""
    return _thread is not None and _thread.is_alive()


def workers() -> list[Key]:
    """The keys linked by now that are for kinds, so not what all kinds share."""
    return [key for key in _addresses if len(key) > 1]


def failure(*keys: Key) -> str | None:
    """Why one of these will never be there, or None."""
    return next((_failed[key] for key in keys if key in _failed), None)


def address(key: Key) -> int:
    """The address of a function, whatever it takes to get it; an ImportError where nothing does."""
    found = _addresses.get(key)
    if found is None:
        with _fork.loading:
            if (why := failure(key)) is not None:
                raise _usable.unusable("numba", why)
            if (why := machine.trouble()) is not None:
                raise _usable.unusable("numba", ValueError(why))
            try:
                found = _addresses.get(key) or _ready_made(key) or _compile(key)
            except Exception as error:  # a broken library fails in whatever way it likes
                told = _usable.unusable("numba", error)
                if not _usable.passes(error):
                    _failed[key] = f"{type(error).__name__}: {error}"
                raise told from error
    return found


def available(*keys: Key) -> bool:
    """Whether all of these can be called without a compilation; they are linked, then."""
    with _fork.loading:
        return all(key in _addresses or _ready_made(key) is not None for key in keys)


def check(key: Key) -> None:
    """Raise an ImportError if this cannot be called and never will be, as far as can be told
    without a compilation."""
    if available(key):
        return
    if (why := failure(key)) is not None:
        raise _usable.unusable("numba", why)
    with _fork.loading:
        try:
            machine.here()
            importlib.import_module("numba")
        except Exception as error:  # a broken library fails in whatever way it likes
            raise _usable.unusable("numba", error) from error


def link_soon(*keys: Key) -> bool:
    """Have keys that came with the package linked by a thread, once in a process: whether that is
    under way. What is linked later takes a millisecond each."""
    global _thread, _begun
    if not set(keys) <= set(shipped.KEYS):
        return False
    if busy() and time.monotonic() - _begun > _PATIENCE:
        assert _thread is not None
        _thread.join(1)
    if _thread is None and not _engines and shipped.present():
        new = threading.Thread(target=_link_all, args=(keys,), name="l2multi-link", daemon=True)
        try:
            new.start()
        except RuntimeError:  # no more threads here, for now
            return False
        _thread, _begun = new, time.monotonic()
    return busy()


def _link_all(keys: tuple[Key, ...]) -> None:
    _over.wait(_PAUSE)
    for key in keys:
        with _fork.loading:
            if not _over.is_set():
                _ready_made(key)


def _ready_made(key: Key) -> int | None:
    """The address of what need not be compiled, or None."""
    try:
        code = shipped.read(key, machine.here().name)
        if code is not None:
            return _link(key, code)
        if cache.empty():
            return None
        cache_key = _cache_key(key)
        content = None if cache_key is None else cache.read(cache_key)
        return None if content is None else _link(key, shipped.unpacked(content))
    except Exception:  # LLVM, or a file, is not what it should be: there is another way
        return None


def _compile(key: Key) -> int:
    """Compile a key, here and now."""
    if not shipped.unchanged():
        raise ImportError("the files of l2multi have changed since it was imported: start anew")
    cache_key, there = _cache_key(key), "numba.core.config" in sys.modules
    from l2multi.backends.numba.build import build

    if not there:  # what the environment and the file have made of it, which are in the cache_key
        _USUAL.update((name, getattr(sys.modules["numba.core.config"], name)) for name in _USUAL)
    code = build(key)
    if cache_key is not None:
        cache.write(cache_key, code.packed())
    return _link(key, code)


def _link(key: Key, code: shipped.Code) -> int:
    """Make object code callable, once: who has its address may keep it for ever."""
    if key in _addresses:
        return _addresses[key]
    import llvmlite.binding as llvm

    if not _engines:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine()
    module = llvm.parse_assembly("")
    module.triple = target.triple
    engine = llvm.create_mcjit_compiler(module, target)  # the first finds the process's symbols
    habits = machine.habits()
    slots(_MACHINE, descriptor.MACHINE_SIZE)[:] = habits.once, habits.once_from, habits.stream
    llvm.add_symbol(descriptor.XLA_TABLE, XLA_TABLE)
    llvm.add_symbol(descriptor.MACHINE, _MACHINE)
    # LLVM ends the process where it misses a symbol.
    missing = [name for name in code.needs if not llvm.address_of_symbol(name)]
    if missing:
        raise LookupError(f"no symbol {', '.join(missing)}")
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.fetching(habits.near)))
    engine.finalize_object()
    found = int(engine.get_function_address(code.name))
    if not found:
        raise LookupError(f"no function {code.name}")
    _engines.append(engine)
    # For ever: helpers may be at work when Python, at its end, drops what modules hold.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    _addresses[key] = found
    return found


# Of `numba.config`, what might shape code, and what it is unless a program changes it.
_USUAL: dict[str, Any] = {"OPT": 3, "DEBUGINFO_DEFAULT": 0, "BOUNDSCHECK": None}
# Of the environment, what shapes none.
_NO_CODE = ("NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_THREADING_LAYER")


def _settings() -> list[str]:
    """How Numba is set up, beside its defaults: by the environment, a file and the program."""
    told = sorted(
        f"{k}={v}"
        for k, v in os.environ.items()
        if k.startswith("NUMBA_") and not k.startswith(_NO_CODE)
    )
    try:
        with open(".numba_config.yaml", encoding="utf-8", errors="replace") as file:
            told.append(file.read())
    except OSError:
        pass
    config = sys.modules.get("numba.core.config")
    now = {name: getattr(config, name, usual) for name, usual in _USUAL.items()}
    return told + [f"{name}={v}" for name, v in now.items() if v != _USUAL[name]]


@functools.cache
def _versions() -> list[str] | None:
    from importlib import metadata

    try:
        return [metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    except metadata.PackageNotFoundError:
        return None


def _cache_key(key: Key) -> bytes | None:
    """All that object code depends on, its key first; None where that cannot be told."""
    versions, digest = _versions(), shipped.digest()
    if versions is None or digest is None:
        return None
    told = (machine.here(), sys.platform, sys.version, versions, _settings(), digest)
    return ",".join(key).encode() + b"\n" + repr(told).encode()


def kept(key: Key) -> bool:
    """Whether a later process will not have to compile this."""
    if shipped.read(key, machine.here().name) is not None:
        return True
    cache_key = _cache_key(key)
    return cache_key is not None and cache.read(cache_key) is not None


def report() -> dict[str, str]:
    """For `show_versions`: what came with the package, and where the rest is kept."""
    level = machine.here().name
    try:
        found = shipped.file_for(level)
    except OSError as error:
        found = f"cannot be told for now: {error.strerror}"
    place, files = cache.directory(), cache.files()
    if isinstance(found, str):
        came = found
    else:
        by = ", ".join(f"{name} {version}" for name, version in found.head["versions"].items())
        came = f"{len(found.places)} for {level}, built with {by}"
    kept = f"{len(files)} in {place}" if place else f"none (${cache.DIRECTORY} is empty)"
    return {"kernels shipped": came, "kernels cached": kept + cache.trouble()}


@atexit.register
def _end() -> None:
    """LLVM must not be at work when its library is unloaded; nobody waits for an import, though,
    that some other thread may never finish."""
    _over.set()
    if _thread is not None:
        _thread.join(10)


def _in_child() -> None:
    """A forked child does not have the thread."""
    global _thread, _over
    _thread, _over = None, threading.Event()  # whose lock another thread may have had


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
