"""Kernels that come with the package: which they are, and the files they lie in.

Some modules are imported late, for the first small call does without them.

A file holds the object code of all of them for one level of CPU features: a line of JSON that says
what it was made from and where each kernel begins, then their code. Imports neither Numba nor LLVM.
"""

import functools
import os
from typing import Any, NamedTuple

from l2multi import _summation, _usable
from l2multi.backends.numba import descriptor

# A kernel key: the name of a compiled function and the kinds it is for, if any.
Key = tuple[str, ...]

FOLDER = os.path.join(os.path.dirname(__file__), "shipped")

# What people hold: each of these onto itself (complex numbers are pairs of floats), what embeddings
# are narrowed to, and what integers and bools become.
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = tuple(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u"))
PAIRS = (
    *((kind, kind) for kind in _FLOATS),
    *(("float32", narrow) for narrow in ("float16", "bfloat16")),
    *((kind, "float64") for kind in (*_INTEGERS, "bool")),
)
SHARED = (
    "fast_call", "parallel_for", "helper", "long_rows", "tangents_call", "jvp_rows", "xla_ffi",
)  # fmt: skip
DERIVATIVES = ("float32", "float16", "bfloat16")
INDICES = ("int32", "int64")

# In this order, for neighbours that are alike make a wheel smaller: 0.53 of what it takes by pairs.
KEYS: tuple[Key, ...] = (
    *((name,) for name in SHARED),
    *((name, *pair) for name in descriptor.WORKERS for pair in PAIRS),
    *(("ragged", kind, kind) for kind in _FLOATS),
    *((name, kind, kind) for name in descriptor.DERIVATIVES for kind in DERIVATIVES),
    *(("ascending", kind, kind) for kind in INDICES),
)

# The files of this folder that shape object code, all that `build` imports but the libraries.
SOURCES = (
    "arithmetic", "build", "cabi", "compiler", "descriptor", "dtypes", "fast_call",
    "fast_call_entry", "kernels/__init__", "kernels/ascending", "kernels/columns", "kernels/common",
    "kernels/gathered", "kernels/jvp", "kernels/long_rows", "kernels/narrow_columns",
    "kernels/ragged", "kernels/rows", "kernels/segmented", "kernels/short_rows", "kernels/tiles",
    "lanes", "machine", "memory", "plan", "shipped", "thread_pool", "threads", "xla_ffi",
)  # fmt: skip


def sources() -> list[str]:
    """The files that object code is made from."""
    here = os.path.dirname(__file__)
    return [*(os.path.join(here, f"{name}.py") for name in SOURCES), _summation.__file__]


def _stamp() -> list[tuple[int, int]] | None:
    try:
        return [(s.st_mtime_ns, s.st_size) for s in map(os.stat, sources())]
    except OSError:
        return None


_STAMP = _stamp()


def unchanged() -> bool:
    """Whether the sources on disk are those that have been, or will be, imported."""
    return _stamp() == _STAMP


@functools.cache
def digest() -> str | None:
    """One of all sources; None where they cannot be read, or are not those imported."""
    import hashlib

    if not unchanged():
        return None
    whole = hashlib.sha256()
    try:
        for name in sources():
            with open(name, "rb") as file:
                content = file.read()
            whole.update(b"%d\n" % len(content) + content)
    except OSError as error:
        if _usable.passes(error):  # not to be kept
            raise
        return None
    return whole.hexdigest()


class Code(NamedTuple):
    """Object code: the function in it, the symbols it needs, where another byte has its prefetches
    bring lines into the nearest cache and not the next, and the code."""

    name: str
    needs: tuple[str, ...]
    nearer: tuple[tuple[int, int], ...]
    code: bytes

    def fetching(self, near: int) -> bytes:
        """The code that brings lines into the nearest cache, or the next."""
        code = bytearray(self.code)
        for at, byte in self.nearer if near else ():
            code[at] = byte
        return bytes(code)

    def packed(self) -> bytes:
        """As bytes."""
        import json

        head = json.dumps([self.name, self.needs, self.nearer], separators=(",", ":"))
        return head.encode() + b"\n" + self.code


def unpacked(content: bytes) -> Code:
    """What `Code.packed` made."""
    import json

    head, _, code = content.partition(b"\n")
    name, needs, nearer = json.loads(head)
    return Code(name, tuple(needs), tuple(map(tuple, nearer)), code)


def write(path: str, level: str, made: dict[Key, Code], versions: dict[str, str]) -> None:
    """A file of all that was made for a level."""
    import json
    import zlib

    index: dict[str, Any] = {}
    contents = []
    at = 0
    for key, code in made.items():
        content = code.packed()
        index[",".join(key)] = at, len(content), zlib.crc32(content)
        contents.append(content)
        at += len(content)
    head = {"level": level, "sources": digest(), "versions": versions, "kernels": index}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"  # nobody reads half of it
    with open(temporary, "wb") as file:
        file.writelines([json.dumps(head).encode(), b"\n", *contents])
    os.replace(temporary, path)


class _File(NamedTuple):
    path: str
    start: int
    places: dict[Key, list[int]]
    head: dict[str, Any]


@functools.cache
def file_for(level: str) -> _File | str:
    """What came for a level, or why nothing of it serves; an OSError where that cannot be told for
    now."""
    import json

    path = os.path.join(FOLDER, level)
    try:
        with open(path, "rb") as file:
            head = json.loads(first := file.readline())
            index = {tuple(name.split(",")): place for name, place in head["kernels"].items()}
    except FileNotFoundError:
        return f"none were built for {level}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if _usable.passes(error):  # not to be kept
            raise
        return f"{path} cannot be read ({type(error).__name__}: {error})"
    if head.get("level") != level or head.get("sources") != digest():
        return f"those for {level} were built from other sources"
    return _File(path, len(first), index, head)


def read(key: Key, level: str) -> Code | None:
    """A kernel that came with the package, or None."""
    import zlib

    found = file_for(level)
    if isinstance(found, str) or key not in found.places:
        return None
    try:
        at, size, check = found.places[key]
        with open(found.path, "rb") as file:
            file.seek(found.start + at)
            content = file.read(size)
        return unpacked(content) if zlib.crc32(content) == check else None
    except (OSError, ValueError, TypeError):
        return None


def present() -> bool:
    """Whether any came, for who has not yet asked which this machine can run."""
    try:
        return any(not name.startswith(".") for name in os.listdir(FOLDER))
    except OSError:
        return False
