"""Prints a hash of each kernel's machine code: ``python -m benchmarks.machine_code [LEVEL ...]``.

A change that only moves or renames leaves all of them equal, which proves equal bits and equal
speed without a clock. The hash is over the object code's sections of instructions and constants,
where no name stands. ``--write`` replaces the hashes that a test compares with; it belongs into the
commit that changes them.
"""

import argparse
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from l2multi.backends.numba import build, machine, shipped

RECORD = Path(__file__).parent.parent / "tests" / "backends" / "machine_code.json"


def hashes(level: str) -> dict[str, str]:
    """A hash for each kernel that ships, for a level of CPU features."""
    return {" ".join(key): _hash(code) for key, code in build.compiled(level).items()}


def _hash(code: shipped.Code) -> str:
    whole = hashlib.sha256(repr(code.needs).encode())
    for section in llvm.ObjectFileRef.from_data(code.code).sections():
        if (section.name() or b"").startswith((b".text", b".ltext", b".rodata", b".lrodata")):
            whole.update(section.data())
    return whole.hexdigest()[:16]


def record(level: str) -> dict[str, Any]:
    """What `RECORD` holds: the level, who compiled, and the hashes."""
    versions = {name: metadata.version(name) for name in ("numba", "llvmlite")}
    return {"level": level, "versions": versions, "kernels": hashes(level)}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.machine_code", description=__doc__)
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help="by default this machine's")
    parser.add_argument("--write", action="store_true", help=f"replace {RECORD.name}")
    arguments = parser.parse_args()
    if arguments.write:
        (level,) = arguments.levels or ["x86-64-v3"]
        RECORD.write_text(json.dumps(record(level), indent=0) + "\n")
        return
    for level in arguments.levels or [machine.here().name]:
        for key, digest in hashes(level).items():
            print(f"{digest}  {level}  {key}")


if __name__ == "__main__":
    llvm.initialize_all_targets()
    main()
