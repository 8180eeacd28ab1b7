"""Compiled functions: linked, or found on disk, or made; and made elsewhere for who cannot wait.

A unit is the name of a function in `entries` and the kinds it is for. Its object code, which
Numba makes, needs only llvmlite to be linked: 50 ms where Numba takes 300 to import and a second
to compile. It is kept on disk (see `cache`) for the processes to come.

`address` waits. `request` does not: a thread looks on disk and has the rest compiled in a process
of its own, for a compilation in this one would hold Python's lock for most of its time. That
process ends with this one, if it has not ended before.
"""

import atexit
import ctypes
import functools
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from l2multi import _registry, _summation
from l2multi.backends.numba import cache, launch, records

if TYPE_CHECKING:
    import subprocess

Unit = tuple[str, ...]

# Seconds after which the thread begins: its first imports would hold up the call that asked. And
# those that a long call may wait for it, which takes less alone than beside such a call.
_PAUSE, _PATIENCE = 0.01, 0.1

# Load-once caches: addresses of what is linked, and why the rest cannot be. LLVM owns the code.
_addresses: dict[Unit, int] = {}
_failed: dict[Unit, str] = {}
_engines: list[Any] = []

# Units the thread has yet to bring; guarded, as the process that it waits for, by `_queue`.
_wanted: list[Unit] = []
_queue = threading.RLock()
_thread: threading.Thread | None = None
_child: "subprocess.Popen[bytes] | None" = None
_over, _hurry, _begun = threading.Event(), threading.Event(), threading.Event()

# A fork waits for what holds these. Importing, compiling and linking are under `loading`.
_registry.hold_over_fork(_queue)
_CHILD = """
import gc, json, os, sys
gc.disable()  # a tenth of the time, for some megabytes
output = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # whatever else is printed is no object code
sys.path[:] = json.loads(sys.argv.pop(1))
sys.modules["scipy"] = sys.modules["yaml"] = None  # Numba would import them, for nothing here
try:
    from l2multi.backends.numba.build import main
    main(output)
except Exception as error:
    told = f"{type(error).__name__}: {error}".encode()
    output.write(b"-" + len(told).to_bytes(8, "little") + told)
    output.flush()
"""


def linked(*units: Unit) -> bool:
    """Whether all of these can be called at once."""
    return all(unit in _addresses for unit in units)


def busy() -> bool:
    """Whether the thread has anything left to bring."""
    return bool(_wanted)


def workers() -> list[Unit]:
    """The units linked by now that are for kinds, so not the launchers."""
    return [unit for unit in _addresses if len(unit) > 1]


def failure(*units: Unit) -> str | None:
    """Why one of these will never be there, or None."""
    return next((_failed[unit] for unit in units if unit in _failed), None)


def address(unit: Unit) -> int:
    """The address of a function, whatever it takes to get it; an ImportError where nothing does."""
    found = _addresses.get(unit)
    if found is None:
        with _registry.loading:
            try:
                found = _addresses.get(unit) or _from_disk(unit) or _compile(unit)
            except Exception as error:  # a broken library fails in whatever way it likes
                raise _registry.unusable("numba", error) from error
    return found


def cached(*units: Unit) -> bool:
    """Whether all of these can be called, once those that lie on disk are linked."""
    with _registry.loading:
        return all(unit in _addresses or _from_disk(unit) is not None for unit in units)


def check(unit: Unit) -> None:
    """Raise an ImportError if this cannot be called and never will be, as far as can be told
    without a compilation."""
    with _registry.loading:
        try:
            if unit in _addresses or _from_disk(unit) is not None:
                return
            importlib.import_module("numba")
        except Exception as error:  # a broken library fails in whatever way it likes
            raise _registry.unusable("numba", error) from error
    if (why := failure(unit)) is not None:
        raise _registry.unusable("numba", why)


def requested(*units: Unit) -> bool:
    """Whether the thread is to bring one of these."""
    return any(unit in _wanted for unit in units)


def request(*units: Unit) -> None:
    """Have these linked in good time, by the thread; not for who only asks."""
    global _thread
    if _registry.asking.get():
        return
    with _queue:
        new = [u for u in units if u not in _addresses and u not in _failed and u not in _wanted]
        _wanted.extend(new)
        if new and _thread is None and not _over.is_set():
            _begun.clear()
            _hurry.clear()
            _thread = threading.Thread(target=_bring, name="l2multi-compile", daemon=True)
            try:
                _thread.start()
            except RuntimeError:  # no more threads here, for now
                _thread = None
                _wanted.clear()


def hurry() -> None:
    """Give the thread time to begin, if it is about to."""
    _hurry.set()
    if _thread is not None and not _registry.asking.get():
        _begun.wait(_PATIENCE)


def _compile(unit: Unit) -> int:
    """Compile a unit in this process."""
    _same_sources()
    from l2multi.backends.numba.build import build

    content = build(unit)
    _keep(unit, content)
    return _link(unit, content)


def _from_disk(unit: Unit) -> int | None:
    if cache.empty():
        return None
    key = _key(unit)
    content = None if key is None or _stamp() != _STAMP else cache.read(key)
    if content is None:
        return None
    try:
        return _link(unit, content)
    except (LookupError, RuntimeError):  # made for a process that knew more symbols
        return None


def _link(unit: Unit, content: bytes) -> int:
    """Make object code callable, once: who has its address may keep it for ever."""
    if unit in _addresses:
        return _addresses[unit]
    import json

    import llvmlite.binding as llvm

    head, _, code = content.partition(b"\n")
    told = json.loads(head)
    if not _engines:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    module = llvm.parse_assembly("")
    module.triple = machine.triple
    engine = llvm.create_mcjit_compiler(module, machine)  # the first finds the process's symbols
    llvm.add_symbol(records.FOREIGN, launch.foreign_table())
    # LLVM ends the process where it misses a symbol.
    missing = [name for name in told["needs"] if not llvm.address_of_symbol(name)]
    if missing:
        raise LookupError(f"no symbol {', '.join(missing)}")
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = int(engine.get_function_address(told["name"]))
    if not found:
        raise LookupError(f"no function {told['name']}")
    _engines.append(engine)
    # For ever: helpers may be at work when Python, at its end, lets go of what modules hold.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    _addresses[unit] = found
    return found


def _sources() -> list[str]:
    here = os.path.dirname(__file__)
    names = sorted(name for name in os.listdir(here) if name.endswith(".py"))
    return [os.path.join(here, name) for name in names] + [_summation.__file__]


def _stamp() -> list[tuple[int, int]] | None:
    """When the sources were written, and their sizes; None where they are no files."""
    try:
        return [(s.st_mtime_ns, s.st_size) for s in map(os.stat, _sources())]
    except OSError:
        return None


_STAMP = _stamp()


@functools.cache
def _surroundings() -> bytes | None:
    """All that object code depends on beside its unit; None where that cannot be told."""
    import hashlib
    import platform
    from importlib import metadata
    from pathlib import Path

    import llvmlite.binding as llvm

    try:
        digests = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in _sources()]
        versions = [metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    except (OSError, metadata.PackageNotFoundError):
        return None
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_"))
    machine = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    told = (sys.version, object.__basicsize__, platform.platform(), versions, settings, machine)
    return repr((told, digests)).encode()


def _key(unit: Unit) -> bytes | None:
    around = _surroundings()
    return None if around is None else ",".join(unit).encode() + b"\n" + around


def _keep(unit: Unit, content: bytes) -> None:
    key = _key(unit)
    if key is not None:
        cache.write(key, content)


def _same_sources() -> None:
    """Refuse to mix what has been imported with what lies on disk since an update."""
    if _stamp() != _STAMP:
        raise ImportError("the files of l2multi have changed since it was imported: start anew")


def _bring() -> None:
    """The thread: bring what is wanted until nothing is."""
    global _thread
    _hurry.wait(_PAUSE)
    while True:
        with _queue:
            if not _wanted or _over.is_set():
                _thread = None
                return
            units = sorted(_wanted, key=lambda unit: unit == ("short",))  # see `build.main`
        why = ""
        for _ in range(2):  # a process may die of what passes
            try:
                with _registry.loading:
                    _same_sources()
                    left = tuple(u for u in units if not _over.is_set() and not cached(u))
                why = _from_child(left) if left else ""
            except Exception as error:  # a broken library fails in whatever way it likes
                why = f"{type(error).__name__}: {error}"
            if not why:
                break
        _begun.set()
        with _queue:
            _failed.update((u, why) for u in units if why and u not in _addresses)
            _wanted[:] = [u for u in _wanted if u not in units]


def _from_child(units: tuple[Unit, ...]) -> str:
    """Have units compiled in another process, link each as it comes; why not all came, or ""."""
    global _child
    with _registry.loading:  # or a forked child might find these half imported
        import json
        import subprocess

    if "python" not in os.path.basename(sys.executable or "") or hasattr(sys, "frozen"):
        return f"{sys.executable!r} does not run Python; only backend='numba' by name compiles here"
    # No folder comes before the parent's own path, where a module of any name may lie.
    command = [sys.executable, "-P", "-S", "-c", _CHILD, json.dumps(sys.path)]
    with _queue:
        if _over.is_set():
            return "the process ends"
        _child = process = subprocess.Popen(
            [*command, *map(",".join, units)],
            stdin=subprocess.PIPE,  # closed when this process ends, however it ends
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # NumPy's start takes half the time
            # Ctrl-C is for the parent, which ends it. Not a session of its own: Linux would share
            # the cores between the two whatever their priorities.
            process_group=0,
        )
    _begun.set()
    assert process.stdout is not None
    assert process.stdin is not None
    why = ""
    try:
        with process.stdout as output, process.stdin:
            with _registry.loading:  # what linking needs takes as long as the process to begin
                _key(units[0])
            for unit in units:
                head = output.read(9)
                size = int.from_bytes(head[1:], "little")
                content = output.read(size) if len(head) == 9 else b""
                if head[:1] != b"+" or len(content) != size:
                    why = content.decode(errors="replace") or "the process that compiles was lost"
                    break
                with _registry.loading:
                    if _over.is_set():
                        break
                    try:
                        _link(unit, content)
                    except LookupError as error:
                        why = str(error)
                    else:
                        _keep(unit, content)
    finally:
        process.kill()
        process.wait()
        with _queue:
            _child = None
    return why


@atexit.register
def _end() -> None:
    """Nobody waits for a compilation at the end."""
    with _queue:
        _over.set()
        if _child is not None:
            _child.kill()
            _child.wait()
    with _registry.loading:  # LLVM must not be at work when its library is unloaded
        pass


def _in_child() -> None:
    """A forked child has neither the thread nor, to speak of, the process."""
    global _thread, _child, _hurry, _begun
    if _child is not None:
        _child.returncode = 0  # not this process's to wait for
    _thread = _child = None
    _hurry, _begun = threading.Event(), threading.Event()  # whose locks another thread may have had
    _wanted.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
