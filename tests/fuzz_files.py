"""Garbled files: each is normalized or refused in a line that names it, and nothing else happens.

``python -m tests.fuzz_files SECONDS [SUFFIX]`` looks for long by atheris, which is guided by
what code was reached (``pip install atheris``); the suite has a few thousand by chance. Garbled are
only the formats that are read here, not those of other libraries.
"""

import contextlib
import json
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np

from l2multi.files import check_file, normalize_file

NUMBERS = np.array([[3, 4, 0], [0, 0, 0], [1, 2, 2]], np.float32)

# What a refusal may be, and how it begins.
REFUSALS = (ValueError, TypeError, OSError)
BEGINS = re.compile(r"(\[Errno \d+\] )?(source|dtype|axis|tensor|target|x): ")


def seeds(suffix: str) -> list[bytes]:
    """A few files of a format that are as they should be."""
    return list(_SEEDS[suffix]())


def _npy() -> Iterator[bytes]:
    for array in (NUMBERS, NUMBERS.astype("f2").T, NUMBERS.astype(">i4"), NUMBERS[:0]):
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, array)
            file.seek(0)
            yield file.read()


def _safetensors() -> Iterator[bytes]:
    for dtype, array in (("F32", NUMBERS), ("BF16", NUMBERS.astype("i2")), ("U8", NUMBERS[:0])):
        begin = 0 if dtype == "U8" else 4
        end = begin + array.nbytes
        header = {"e": {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}}
        if begin:
            header["__metadata__"] = {"a": "b"}
            header["i"] = {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}
        raw = json.dumps(header).encode()
        yield len(raw).to_bytes(8, "little") + raw + bytes(begin) + array.tobytes()


def _vecs() -> Iterator[bytes]:
    yield b"".join(b"\3\0\0\0" + row.tobytes() for row in NUMBERS)
    yield b""


def _fbin() -> Iterator[bytes]:
    yield b"\3\0\0\0\3\0\0\0" + NUMBERS.tobytes()


def _npz() -> Iterator[bytes]:
    for save in (np.savez, np.savez_compressed):
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            save(file, e=NUMBERS, i=np.arange(3))
            file.seek(0)
            yield file.read()


def _text() -> Iterator[bytes]:
    yield b"3 3\nthe 3 4 0\n, 0 0 0\n. . . 1e0 2.0 2 \r\n"
    yield b"the 3 4 0\n, 0 0 0\n. . . 1e0 2.0 2"


def _binary() -> Iterator[bytes]:
    for end in (b"", b"\n"):
        yield b"3 3\n" + b"".join(b"word " + row.tobytes() + end for row in NUMBERS)


_SEEDS = {
    ".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".fvecs": _vecs, ".fbin": _fbin,
    ".vec": _text, ".bin": _binary,
}  # fmt: skip
SUFFIXES = tuple(_SEEDS)


def tried(data: bytes, suffix: str, folder: str) -> bool:
    """Whether these bytes are a file that can be normalized; anything else but a refusal raises."""
    source, target = os.path.join(folder, f"x{suffix}"), os.path.join(folder, f"y{suffix}")
    with open(source, "wb") as file:
        file.write(data)
    keywords = {"tensor": "e"} if suffix in (".npz", ".safetensors") else {}
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            report = normalize_file(source, target, backend="numpy", **keywords)
        except REFUSALS as error:
            message = str(error)
            assert BEGINS.match(message), message
            assert "\n" not in message
            assert sorted(os.listdir(folder)) == [f"x{suffix}"]
            return False
        check = check_file(target, backend="numpy", **keywords)
    assert check.vectors == report.vectors
    assert check.zero + check.nonfinite >= report.zero
    os.unlink(target)
    return True


def garbled(rng: random.Random, seed: bytes) -> bytes:
    """A file with a few mistakes."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 4, 30))]
        elif kind == 3:  # a number that is far too large, or below 0
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"9999"))
        elif kind == 4 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif data:
            data[at % len(data)] = rng.choice(b"0123456789-.,:'\"()[]{} \n\0")
    return bytes(data)


def main(seconds: str, suffix: str = SUFFIXES[0]) -> None:
    """Look for so long."""
    import atheris

    folder = tempfile.mkdtemp()
    corpus = tempfile.mkdtemp()
    for i, seed in enumerate(seeds(suffix)):
        with open(os.path.join(corpus, f"{i}"), "wb") as file:
            file.write(seed)
    atheris.instrument_all()
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", "-max_len=2000", "-verbosity=1", corpus],
        lambda data: tried(data, suffix, folder),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
