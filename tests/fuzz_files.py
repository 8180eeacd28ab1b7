"""Garbled files: each is normalized or refused in a line that names it, and nothing else happens.

``python -m tests.fuzz_files SECONDS [SUFFIX]`` looks for long by atheris, which is guided by
what code was reached (``pip install atheris``); the suite has a few thousand by chance. Of the
formats that other libraries read, what is looked for is what l2multi makes of their answers.
"""

import importlib
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

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


def _written(suffix: str, write: Callable[[str], None]) -> bytes:
    """What is in a file that somebody else writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"x{suffix}")
        write(path)
        with open(path, "rb") as file:
            return file.read()


def _table() -> Any:
    """Vectors with a null, beside a column of strings."""
    pa = importlib.import_module("pyarrow")
    lists = pa.array([*NUMBERS.tolist(), None], pa.list_(pa.float32()))
    return pa.table({"i": ["a", "b", "b", ""], "e": lists})


def _parquet() -> Iterator[bytes]:
    pq = importlib.import_module("pyarrow.parquet")
    for settings in ({"compression": "none"}, {"use_dictionary": False, "row_group_size": 2}):
        yield _written(".parquet", lambda path, own=settings: pq.write_table(_table(), path, **own))


def _arrow() -> Iterator[bytes]:
    pa = importlib.import_module("pyarrow")
    table = _table()
    for new, codec in (
        (pa.ipc.new_file, None),
        (pa.ipc.new_file, "lz4"),
        (pa.ipc.new_stream, None),
    ):
        sink = pa.BufferOutputStream()
        with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table, 2)
        yield sink.getvalue().to_pybytes()


def _hdf5() -> Iterator[bytes]:
    h5py = importlib.import_module("h5py")

    def write(path: str, **settings: Any) -> None:
        with h5py.File(path, "w", libver="latest") as file:
            file.create_dataset("e", data=NUMBERS, **settings).attrs["a"] = 1
            file["i"] = np.arange(3)

    for settings in ({}, {"chunks": (2, 3), "compression": "gzip"}):
        yield _written(".h5", lambda path, own=settings: write(path, **own))


# The files of a store, as one that is garbled: one after the other, with this between.
_STORE = ("zarr.json", "c/0/0", ".zarray", ".zattrs", "0.0")
_BETWEEN = b"\n--\n"


def _zarr() -> Iterator[bytes]:
    zarr = importlib.import_module("zarr")
    # Chunks are larger than the array: of one whose shape claims much, there are not so many that
    # zarr takes minutes.
    for version, more in ((2, {}), (3, {}), (3, {"shards": (64, 128)})):
        with tempfile.TemporaryDirectory() as folder:
            store = zarr.create_array(
                folder, shape=(3, 3), dtype="f4", zarr_format=version, chunks=(64, 64), **more
            )
            store[:] = NUMBERS
            files = [pathlib.Path(folder, name) for name in _STORE]
            yield _BETWEEN.join(file.read_bytes() if file.exists() else b"" for file in files)


def _text() -> Iterator[bytes]:
    yield b"3 3\nthe 3 4 0\n, 0 0 0\n. . . 1e0 2.0 2 \r\n"
    yield b"the 3 4 0\n, 0 0 0\n. . . 1e0 2.0 2"


def _binary() -> Iterator[bytes]:
    for end in (b"", b"\n"):
        yield b"3 3\n" + b"".join(b"word " + row.tobytes() + end for row in NUMBERS)


# Of what is read here, and of what other libraries read.
_OWN = {
    ".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".fvecs": _vecs, ".fbin": _fbin,
    ".vec": _text, ".bin": _binary,
}  # fmt: skip
_SEEDS = {**_OWN, ".parquet": _parquet, ".arrow": _arrow, ".h5": _hdf5, ".zarr": _zarr}
OWN, SUFFIXES = tuple(_OWN), tuple(_SEEDS)


def _write(data: bytes, source: str) -> None:
    """A file of these bytes, or a store."""
    if not source.endswith(".zarr"):
        pathlib.Path(source).write_bytes(data)
        return
    shutil.rmtree(source, ignore_errors=True)
    os.mkdir(source)
    for name, own in zip(_STORE, data.split(_BETWEEN), strict=False):
        if own:
            file = pathlib.Path(source, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(own)


def tried(data: bytes, suffix: str, folder: str) -> bool:
    """Whether these bytes are a file that can be normalized; anything else but a refusal raises."""
    source, target = os.path.join(folder, f"x{suffix}"), os.path.join(folder, f"y{suffix}")
    _write(data, source)
    keywords = {"tensor": "e"} if suffix in (".npz", ".safetensors", ".h5") else {}
    _remove(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            report = normalize_file(source, target, backend="numpy", **keywords)
        except REFUSALS as error:
            message = str(error)
            assert BEGINS.match(message), message
            assert "\n" not in message
            assert not message.startswith("source: ") or source in message, message
            assert sorted(os.listdir(folder)) == [f"x{suffix}"]
            return False
        check = check_file(target, backend="numpy", **keywords)
    assert check.vectors == report.vectors
    assert check.zero + check.nonfinite >= report.zero
    _remove(target)
    return True


def _remove(path: str) -> None:
    """Remove a file or a store, if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


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
    whole = seeds(suffix)
    for i, seed in enumerate(whole):
        tried(seed, suffix, folder)  # only what is imported before is guided by
        pathlib.Path(corpus, f"{i}").write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={2 * max(map(len, whole))}",
            "-verbosity=1",
            corpus,
        ],
        lambda data: tried(data, suffix, folder),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
