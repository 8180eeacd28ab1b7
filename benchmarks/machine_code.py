"""Prints a hash of each kernel's machine code: ``python -m benchmarks.machine_code [LEVEL ...]``.

A change that only moves or renames leaves all of them equal, which proves equal bits and equal
speed without a clock. The hash is over the object code's sections of instructions and constants,
where no name stands. What is built for a level is read, and else compiled. ``--write`` replaces the
hashes that a test compares with; it belongs into the commit that changes them.
"""

import argparse
import hashlib
import json
from importlib import metadata
from pathlib import Path

import llvmlite.binding as llvm

from l2multi.backends.numba import build, machine, shipped

RECORD = Path(__file__).parent.parent / "tests" / "backends" / "machine_code.json"
LEVELS = ("x86-64-v3", "x86-64-v4")  # of the record: those of the machines that this is tested on


def built(level: str, by: dict[str, str]) -> dict[str, str]:
    """A hash for each kernel that was built for a level of CPU features, by these versions; empty
    if none was."""
    there = shipped.file_for(level)
    if isinstance(there, str) or there.head.get("versions") != by:
        return {}
    codes = ((key, shipped.read(key, level)) for key in shipped.KEYS)
    return {" ".join(key): _hash(code) for key, code in codes if code is not None}


def hashes(level: str) -> dict[str, str]:
    """The same of what the versions here make."""
    found = built(level, versions())
    return found or {" ".join(key): _hash(code) for key, code in build.compiled(level).items()}


def _hash(code: shipped.Code) -> str:
    whole = hashlib.sha256(repr(code.needs).encode())
    for section in llvm.ObjectFileRef.from_data(code.code).sections():
        if (section.name() or b"").startswith((b".text", b".ltext", b".rodata", b".lrodata")):
            whole.update(section.data())
    return whole.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Those of who compiles here."""
    return {name: metadata.version(name) for name in ("numba", "llvmlite")}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.machine_code", description=__doc__)
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help="by default this machine's")
    parser.add_argument("--write", action="store_true", help=f"replace {RECORD.name}")
    arguments = parser.parse_args()
    if arguments.write:
        kernels = {level: hashes(level) for level in arguments.levels or LEVELS}
        RECORD.write_text(json.dumps({"versions": versions(), "kernels": kernels}, indent=0) + "\n")
        return
    for level in arguments.levels or [machine.here().name]:
        for key, digest in hashes(level).items():
            print(f"{digest}  {level}  {key}")


if __name__ == "__main__":
    llvm.initialize_all_targets()
    main()
