"""Compiled functions: linked, or found on disk, or made; and made elsewhere for who cannot wait.

A unit is the name of a function in `entries` and the kinds it is for. Its object code, which
Numba makes, needs only llvmlite to be linked: 50 ms where Numba takes 300 to import and a second
to compile. It is kept on disk (see `cache`) for the processes to come.

`address` waits. `request` does not: a thread looks on disk and has the rest compiled in a process
of its own, for a compilation in this one would hold Python's lock for most of its time. That
process ends with this one, if it has not ended before.
"""

import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from l2multi import _registry
from l2multi.backends.numba import cache, launch

if TYPE_CHECKING:
    import subprocess

Unit = tuple[str, ...]

# Seconds after which the thread begins: its first imports would hold up the call that asked.
_PAUSE = 0.01

# Load-once caches: addresses of what is linked, and why the rest cannot be. LLVM owns the code.
_addresses: dict[Unit, int] = {}
_failed: dict[Unit, str] = {}
_engines: list[Any] = []

# Units the thread has yet to bring; guarded, as the process that it waits for, by `_queue`.
_wanted: list[Unit] = []
_queue = threading.RLock()
_thread: threading.Thread | None = None
_child: "subprocess.Popen[bytes] | None" = None
_over = False

# A fork waits for what holds these. Importing, compiling and linking are under `loading`.
_registry.hold_over_fork(_queue)
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from l2multi.backends.numba.build import main; main()"
)


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
        _registry.before_heavy_imports()
        with _registry.loading:
            try:
                found = _addresses.get(unit) or _from_disk(unit) or _compile(unit)
            except Exception as error:  # a broken library fails in whatever way it likes
                raise _registry.unusable("numba", error) from error
    return found


def cached(*units: Unit) -> bool:
    """Whether all of these can be called, once those that lie on disk are linked."""
    _registry.before_heavy_imports()
    with _registry.loading:
        return all(unit in _addresses or _from_disk(unit) is not None for unit in units)


def request(*units: Unit) -> None:
    """Have these linked in good time, by the thread."""
    global _thread
    with _queue:
        new = [u for u in units if u not in _addresses and u not in _failed and u not in _wanted]
        _wanted.extend(new)
        if new and _thread is None and not _over:
            _thread = threading.Thread(target=_bring, name="l2multi-compile", daemon=True)
            _thread.start()


def _compile(unit: Unit) -> int:
    """Compile a unit in this process."""
    from l2multi.backends.numba.build import build

    content = build(unit)
    cache.write(_key(unit), content)
    return _link(unit, content)


def _from_disk(unit: Unit) -> int | None:
    content = cache.read(_key(unit))
    if content is None:
        return None
    try:
        return _link(unit, content)
    except (LookupError, RuntimeError):  # made for a process that knew more symbols
        return None


def _link(unit: Unit, content: bytes) -> int:
    """Make object code callable."""
    import json

    import llvmlite.binding as llvm

    head, _, code = content.partition(b"\n")
    told = json.loads(head)
    if unit[0] in launch.THREADED:
        launch.start()
    if not _engines:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    # LLVM ends the process where it misses a symbol.
    missing = [name for name in told["needs"] if not llvm.address_of_symbol(name)]
    if missing:
        raise LookupError(f"no symbol {', '.join(missing)}")
    machine = llvm.Target.from_default_triple().create_target_machine()
    module = llvm.parse_assembly("")
    module.triple = machine.triple
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = int(engine.get_function_address(told["name"]))
    if not found:
        raise LookupError(f"no function {told['name']}")
    _engines.append(engine)
    _addresses[unit] = found
    return found


@functools.cache
def _surroundings() -> bytes:
    """All that object code depends on beside its unit."""
    import hashlib
    import platform
    from importlib import metadata
    from pathlib import Path

    import llvmlite.binding as llvm

    here = Path(__file__).parent
    sources = sorted([*here.glob("*.py"), here.parent.parent / "_summation.py"])
    versions = [metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_"))
    machine = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    told = (sys.version, object.__basicsize__, platform.platform(), versions, settings, machine)
    return repr((told, [hashlib.sha256(one.read_bytes()).hexdigest() for one in sources])).encode()


def _key(unit: Unit) -> bytes:
    return ",".join(unit).encode() + b"\n" + _surroundings()


def _bring() -> None:
    """The thread: bring what is wanted until nothing is."""
    global _thread
    time.sleep(_PAUSE)
    _registry.before_heavy_imports()
    while True:
        with _queue:
            if not _wanted or _over:
                _thread = None
                return
            units = list(_wanted)
        try:
            with _registry.loading:
                left = [u for u in units if not cached(u)]
            for unit in _from_child(tuple(left)):
                left.remove(unit)
            for unit in left:
                if not _over:
                    address(unit)
        except Exception as error:
            _failed.update((unit, str(error)) for unit in units if unit not in _addresses)
        with _queue:
            _wanted[:] = [u for u in _wanted if u not in units]


def _from_child(units: tuple[Unit, ...]) -> Iterator[Unit]:
    """Have units compiled in another process, and link each as it comes; those that came."""
    global _child
    with _registry.loading:  # or a forked child might find these half imported
        import json
        import struct
        import subprocess

    if not units or "python" not in os.path.basename(sys.executable or ""):
        return
    command = [sys.executable, "-S", "-c", _CHILD, json.dumps(sys.path), *map(",".join, units)]
    with _queue:
        if _over:
            return
        _child = process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )
    assert process.stdout is not None
    with process.stdout as output:
        for unit in units:
            size = output.read(8)
            content = output.read(*struct.unpack("<q", size)) if len(size) == 8 else b""
            if not size or len(content) != struct.unpack("<q", size)[0]:
                break
            with _registry.loading:
                cache.write(_key(unit), content)
                _link(unit, content)
            yield unit
    process.wait()
    with _queue:
        _child = None


@atexit.register
def _end() -> None:
    """Nobody waits for a compilation at the end."""
    global _over
    with _queue:
        _over = True
        if _child is not None:
            _child.kill()
            _child.wait()
    with _registry.loading:  # LLVM must not be at work when its library is unloaded
        pass


def _in_child() -> None:
    """A forked child has neither the thread nor, to speak of, the process."""
    global _thread, _child
    if _child is not None:
        _child.returncode = 0  # not this process's to wait for
    _thread = _child = None
    _wanted.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
