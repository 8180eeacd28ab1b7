"""Make compiled functions: the only file, with those it imports, that needs Numba to compile.

``python -m l2multi.backends.numba.build [LEVEL ...]`` makes the files of `shipped`: for the levels
named, for all, or for that of this machine if none is named. ``build_kernels.py`` calls it.
"""

import os
import re
import sys
from collections.abc import Iterable
from concurrent import futures
from importlib import metadata
from typing import Any

import llvmlite.binding as llvm
from numba.core.compiler_lock import global_compiler_lock

from l2multi import _fork
from l2multi.backends.numba import (
    compiler,
    dtypes,
    fast_call_entry,
    kernels,
    machine,
    shipped,
    thread_pool,
    xla_ffi,
)
from l2multi.backends.numba.kernels.jvp import jvp_rows
from l2multi.backends.numba.kernels.long_rows import long_rows

_NAME = "l2multi"

# Where prefetches say how near to bring a line. They are instructions, so that no code can choose
# (a branch took 1.04 to 1.07 times as long, rows of float16 on Zen 5): what loads it does.
_NEARER = re.compile(r"(@llvm\.prefetch\.p0\(.*, i32 0, i32 )1(?=, i32 1\))")

# What is compiled once, by name.
SHARED = {
    "fast_call": fast_call_entry.fast_call,
    "parallel_for": thread_pool.parallel_for,
    "helper": thread_pool.helper,
    "long_rows": long_rows,
    "tangents_call": fast_call_entry.tangents_call,
    "jvp_rows": jvp_rows,
    "xla_ffi": xla_ffi.handler,
}

# A compilation in another thread holds what would stay closed in a forked child.
_fork.hold(global_compiler_lock)


def build(key: shipped.Key) -> shipped.Code:
    """The object code of a key."""
    with global_compiler_lock:
        module, needs = _module(key)
        target, text = machine.aimed().target_machine(), str(module)
        code, nearer = (
            target.emit_object(llvm.parse_assembly(one))
            for one in (text, _NEARER.sub(r"\g<1>3", text))
        )
    # What LLVM calls where the machine has no instruction for a half float is in no module's text.
    needs = [*needs, *sorted({m.decode() for m in re.findall(rb"__(?:extend|trunc)\w+f2", code)})]
    changes = ((at, b) for at, (a, b) in enumerate(zip(code, nearer, strict=True)) if a != b)
    return shipped.Code(_NAME, tuple(needs), tuple(changes), code)


def assembly(key: shipped.Key) -> str:
    """The machine code of a key, to be read."""
    with global_compiler_lock:
        return str(machine.aimed().target_machine().emit_assembly(_module(key)[0]))


def _module(key: shipped.Key) -> tuple[Any, list[str]]:
    """A key's module, and the symbols it needs."""
    name, *kinds = key
    make = SHARED.get(name) or kernels.WORKERS[name]
    module = compiler.compiled(make(*(dtypes.KINDS[kind] for kind in kinds)), _NAME)
    symbols = (*module.functions, *module.global_variables)
    needs = [s.name for s in symbols if s.is_declaration and not s.name.startswith("llvm.")]
    return module, sorted(needs)


def compiled(level: str) -> dict[shipped.Key, shipped.Code]:
    """All that ships, for a level; by processes, each of which compiles for one level only."""
    with futures.ProcessPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        initializer=machine.aim,
        initargs=(level,),
    ) as pool:
        return dict(zip(shipped.KEYS, pool.map(build, shipped.KEYS), strict=True))


def make(names: Iterable[str]) -> None:
    """The files of all that ships, for levels of these names, and of no other."""
    versions = {name: metadata.version(name) for name in ("numba", "llvmlite")}
    wanted = [name for name in names if name != machine.NATIVE]
    for other in os.listdir(shipped.FOLDER) if os.path.isdir(shipped.FOLDER) else ():
        if other not in wanted:
            os.unlink(os.path.join(shipped.FOLDER, other))
    for name in wanted:
        there = shipped.file_for(name)
        if not isinstance(there, str) and there.head["versions"] == versions:
            continue
        made = compiled(name)
        shipped.write(os.path.join(shipped.FOLDER, name), name, made, versions)
        print(f"l2multi: {len(made)} kernels for {name}", flush=True)


if __name__ == "__main__":
    levels = sys.argv[1:] or [machine.here().name]
    make({*machine.LEVELS, machine.here().name} if levels == ["all"] else levels)
