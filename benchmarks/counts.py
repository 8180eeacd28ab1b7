"""Instructions, counted: ``python -m benchmarks.counts`` compares with a record, and no clock.

A call's instructions hardly vary from run to run, so a count sees what times on a shared machine do
not: 5 % more on the way of a small call. It exits with 1 where a call takes so many more than in
`RECORD`. Other versions of Python or of a library take others: then it prints both, and fails
nothing. ``--write`` replaces the record, and belongs into the commit that changes them on purpose.

Valgrind's Callgrind counts, in a process with one thread, kernels of x86-64-v3 (it knows no more)
and calls that have been made before; nothing else of the process is counted. It sees no memory that
is slow, no branch that is guessed wrong, and no second thread: for those there are clocks.
"""

import argparse
import ctypes
import functools
import gc
import json
import mmap
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parent / "records" / "counts.json"
ROOT = Path(__file__).resolve().parent.parent
LEVEL = "x86-64-v3"
LIMIT = 1.05  # times the recorded count, from where on it is a failure
CALLS = 100

# Of NumPy arrays: operation, dtype, layout, shape.
CASES = (
    ("new", "float32", "rows", "1x128"),
    ("new", "float32", "rows", "100x768"),
    ("new", "float64", "rows", "20x64"),
    ("new", "float16", "rows", "20x64"),
    ("new", "bfloat16", "rows", "20x64"),
    ("new", "int8", "rows", "20x64"),
    ("new", "complex64", "rows", "20x64"),
    ("new", "float32", "rows", "200x3"),
    ("new", "float32", "columns", "64x20"),
    ("new", "float32", "middle axis", "80x16"),
    ("out", "float32", "rows", "1x128"),
    ("inplace", "float32", "rows", "1x128"),
    ("return_norm", "float32", "rows", "1x128"),
    ("norm", "float32", "rows", "1x128"),
    ("norm", "float32", "rows", "100x768"),
    ("cast", "float32", "rows", "20x64"),
)
# Of what else people hold: the kinds of `benchmarks.held` whose calls do not go on in threads.
HELD = (
    "list or number", "masked array", "quantity", "DataArray", "Arrow array", "Arrow lists",
    "Polars Series", "pandas", "pandas, DataFrame", "PyTorch tensor", "SciPy sparse", "array API",
)  # fmt: skip
SHAPE = "20x64"
LIBRARIES = (
    "numpy", "numba", "llvmlite", "ml_dtypes", "scipy", "pyarrow", "polars", "pandas", "xarray",
    "pint", "torch", "array-api-compat", "array-api-strict",
)  # fmt: skip

# What counts depend on: of all calls, and of those whose name holds a word.
FOR_ALL = ("python", "libc", "numpy", "numba", "llvmlite")
FOR_SOME = {
    "bfloat16": ("ml_dtypes",), "quantity": ("pint",), "DataArray": ("xarray",),
    "Arrow": ("pyarrow",), "Polars": ("polars", "pyarrow"), "pandas": ("pandas", "pyarrow"),
    "PyTorch": ("torch",), "SciPy": ("scipy",),
    "array API": ("array-api-compat", "array-api-strict"),
}  # fmt: skip

# What Valgrind takes for a request to itself, and a CPU for nothing, in a function of one argument,
# the address of the request: see "The Client Request mechanism" in Valgrind's manual, and its
# header callgrind.h for the numbers of requests.
_FUNCTION = bytes.fromhex(
    "4889f8"  # mov %rdi, %rax
    "31d2"  # xor %edx, %edx
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol $3, %rdi; $13; $61; $51: 128 bits in all
    "4887db"  # xchg %rbx, %rbx
    "4889d0 c3"  # mov %rdx, %rax; ret
)
_TOOL = ord("C") << 24 | ord("T") << 16
_ZERO, _DUMP, _START, _STOP = (_TOOL + number for number in (1, 3, 4, 5))


def request() -> Callable[..., None]:
    """What asks Callgrind for something."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_FUNCTION)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)

    def ask(what: int, argument: bytes = b"") -> None:
        held = ctypes.create_string_buffer(argument)
        block = (ctypes.c_int64 * 6)(what, ctypes.addressof(held))
        assert not page.closed  # which the function lies in
        function(ctypes.addressof(block))

    return ask


def calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """All calls and their names, but those whose library is not installed."""
    import l2multi as l2
    from benchmarks import common, held

    for operation, dtype, layout, shape in CASES:
        x, axis = common.array(shape, dtype, layout)
        name = f"{operation} {dtype} {layout} {shape}"
        try:
            yield name, common.ours(common.Work(operation, axis), x, common.AUTO)
        except NotImplementedError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    for kind in HELD:
        x, _ = common.array(SHAPE, "float32")
        try:
            thing = (held.HELD | held.MORE)[kind](x)
        except ImportError as error:
            print(f"{kind} is left out: {error}", file=sys.stderr)
        else:
            yield f"normalize, {kind} {SHAPE}", functools.partial(l2.normalize, thing)


def serve() -> None:
    """Make all calls in this process, and count them if Callgrind is there."""
    from benchmarks import common

    ask = request()
    made = {"nothing": lambda: None, **dict(calls())}
    for call in made.values():
        for _ in range(3):
            call()
    while common.busy():
        time.sleep(0.01)
    gc.collect()
    gc.disable()
    for name, call in made.items():
        # Now by the kernel, if the first calls were not; and what Python has specialized for other
        # types of arguments becomes general, or is specialized for these.
        for _ in range(CALLS):
            call()
        ask(_START)
        ask(_ZERO)
        for _ in range(CALLS):
            call()
        ask(_DUMP, name.encode())
        ask(_STOP)


def environment(cache: str) -> dict[str, str]:
    """What makes counts the same in each run."""
    own = {
        "L2MULTI_CPU_LEVEL": LEVEL, "L2MULTI_CACHE_DIR": cache, "NUMBA_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name != "L2MULTI_BACKEND"}
    return kept | own


def count() -> dict[str, int]:
    """The instructions of each call."""
    with tempfile.TemporaryDirectory() as folder:
        known = environment(folder)
        child = [sys.executable, "-m", "benchmarks.counts", "--serve"]
        # First without Valgrind, under which a compilation takes a minute: kernels of this level
        # may not have come with the package, and are in the cache then.
        subprocess.run(child, cwd=ROOT, env=known, check=True)
        out = Path(folder, "out")
        valgrind = [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={out}",
        ]  # fmt: skip
        subprocess.run([*valgrind, *child], cwd=ROOT, env=known, check=True)
        found = dict(map(_read, Path(folder).glob("out.*")))
    nothing = found.pop("nothing")
    return {name: round((total - nothing) / CALLS) for name, total in found.items()}


def _read(path: Path) -> tuple[str, int]:
    """The name of a dump, and the instructions in it."""
    text = path.read_text()
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.M)
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.M)
    assert name is not None
    assert total is not None
    return name[1], int(total[1])


def versions() -> dict[str, str]:
    """Of what counts depend on."""
    found = {"python": f"{platform.python_version()} by {platform.python_compiler()}"}
    found["libc"] = " ".join(platform.libc_ver())
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def compared(name: str, old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether all that a call's count depends on has the version of the record."""
    some = (names for word, names in FOR_SOME.items() if word in name)
    return all(old.get(one) == new.get(one) for one in sum(some, FOR_ALL))


def slower(old: dict[str, int], new: dict[str, int]) -> list[str]:
    """The calls that take more instructions than they may."""
    return [name for name in new if name in old and new[name] > LIMIT * old[name]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.counts")
    parser.add_argument("--write", action="store_true", help=f"replace {RECORD.name}")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return 0
    found, here = count(), versions()
    if options.write:
        whole = {"versions": here, "instructions": dict(sorted(found.items()))}
        RECORD.write_text(json.dumps(whole, indent=0) + "\n")
        return 0
    record = json.loads(RECORD.read_text())
    old = record["instructions"]
    print("| call | instructions | recorded | ratio |\n| --- | --- | --- | --- |")
    for name, number in found.items():
        before = old.get(name)
        told = f"{before:,} | {number / before:.3f}" if before else "not recorded | "
        print(f"| {name} | {number:,} | {told} |")
    for name in old.keys() - found.keys():
        print(f"| {name} | not made | {old[name]:,} | |")
    others = [name for name in found if not compared(name, record["versions"], here)]
    if others:
        print(f"NOT compared, for the record is of other versions: {', '.join(others)}")
    bad = [name for name in slower(old, found) if name not in others]
    for name in bad:
        print(f"MORE INSTRUCTIONS: {name}: {found[name]:,} for {old[name]:,}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
