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
from numba import types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from l2multi import _registry
from l2multi.backends.numba import entries, simd

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
    compiled = make(*(simd.KINDS[kind] for kind in kinds))
    library = compiled._library
    text, needs = _alone(str(library._final_module), compiled)
    return llvm.parse_assembly(text), _machine(library._codegen), needs


def _machine(codegen: Any) -> Any:
    """Numba's target machine, but without conversions between half and double, which take 1.5
    times as long (on a Xeon) as the two steps of which LLVM would make one."""
    options: dict[str, Any] = {"opt": config.OPT}  # type: ignore[attr-defined]
    codegen._customize_tm_options(options)
    options["features"] = options["features"].replace("+avx512fp16", "-avx512fp16")
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)


def _alone(text: str, compiled: Any) -> tuple[str, list[str]]:
    """The module of a compiled function with a plain C function `_NAME` in place of Numba's, and
    the symbols that it needs. Numba's reports errors, which there are none, by way of its runtime;
    that would have to be there whenever the code is linked."""
    native = re.escape(compiled._wrapper_name.removeprefix("cfunc."))
    text = re.sub(r"^define [^\n]*@\"?cfunc\..*?^}\n", "", text, flags=re.M | re.S)
    found = re.search(rf'^define [^\n]*@("?){native}\1\(([^\n]*)\)', text, flags=re.M)
    assert found is not None
    name = f"@{found[1]}{compiled._wrapper_name.removeprefix('cfunc.')}{found[1]}"
    # Numba passes the address of the result, that of an error, and the arguments.
    kinds = ["double" if a == types.float64 else "i64" for a in compiled._sig.args]
    takes = ", ".join(f"{kind} %a{k}" for k, kind in enumerate(kinds))
    gives = "void" if compiled._sig.return_type == types.void else "i64"
    text += f"""
define {gives} @{_NAME}({takes}) {{
  %result = alloca i64
  %error = alloca ptr
  %status = call i32 {name}(ptr %result, ptr %error, {takes})
  %value = load i64, ptr %result
  ret {"void" if gives == "void" else "i64 %value"}
}}
"""
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("declare") and " = external " not in line
    ]
    used = set(re.findall(r'@"?([\w.$]+)', "\n".join(lines)))
    declared = re.findall(r'^declare [^\n]*@"?([\w.$]+)', text, flags=re.M)
    declared += re.findall(r'^@"?([\w.$]+)"? = external', text, flags=re.M)
    return text, sorted(n for n in declared if n in used and not n.startswith("llvm."))


def main(output: BinaryIO) -> None:
    """Serve a parent, and end with it: nobody else would read the output."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for unit in sys.argv[1:]:
        done = build(tuple(unit.split(",")))
        output.write(b"+" + struct.pack("<q", len(done)) + done)
        output.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
