"""Make compiled functions: the only file, with those it imports, that needs Numba to compile.

`main` serves a parent that does not want to wait: it writes the object code of each unit named by
an argument, ``NAME,KIND,KIND``, as it is done.
"""

import json
import os
import re
import struct
import sys
import threading
from typing import Any, BinaryIO

import llvmlite.binding as llvm
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from l2multi import _registry
from l2multi.backends.numba import entries, frontend, simd

_NAME = "l2multi"

# A compilation in another thread holds what would stay closed in a forked child.
_registry.hold_over_fork(global_compiler_lock)


def build(unit: tuple[str, ...]) -> bytes:
    """The object code of a unit: a line of JSON that says what it needs, then the code."""
    with global_compiler_lock:
        module, machine, needs = _module(unit)
        code: bytes = machine.emit_object(module)
    # What LLVM calls where the machine has no instruction for a half float is in no module's text.
    needs = [*needs, *sorted({m.decode() for m in re.findall(rb"__(?:extend|trunc)\w+f2", code)})]
    return json.dumps({"name": _NAME, "needs": needs}).encode() + b"\n" + code


def assembly(unit: tuple[str, ...]) -> str:
    """The machine code of a unit, to be read."""
    with global_compiler_lock:
        module, machine, _ = _module(unit)
        return str(machine.emit_assembly(module))


def _module(unit: tuple[str, ...]) -> tuple[Any, Any, list[str]]:
    """A unit's module, the machine it is for, and the symbols it needs."""
    name, *kinds = unit
    make = entries.LAUNCHERS.get(name) or entries.WORKERS[name]
    module = frontend.compiled(make(*(simd.KINDS[kind] for kind in kinds)), _NAME)
    symbols = (*module.functions, *module.global_variables)
    needs = [s.name for s in symbols if s.is_declaration and not s.name.startswith("llvm.")]
    return module, _machine(frontend.target()), sorted(needs)


def _machine(codegen: Any) -> Any:
    """Numba's target machine, but without conversions between half and double, which take 1.5
    times as long (on a Xeon) as the two steps of which LLVM would make one."""
    options: dict[str, Any] = {"opt": config.OPT}  # type: ignore[attr-defined]
    codegen._customize_tm_options(options)
    options["features"] = options["features"].replace("+avx512fp16", "-avx512fp16")
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)


def main(output: BinaryIO) -> None:
    """Serve a parent, and end with it: nobody else would read the output."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for unit in sys.argv[1:]:
        if unit == "short" and hasattr(os, "nice"):
            os.nice(10)  # it comes last: large calls have all they need by now, but for this core
        done = build(tuple(unit.split(",")))
        output.write(b"+" + struct.pack("<q", len(done)) + done)
        output.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
