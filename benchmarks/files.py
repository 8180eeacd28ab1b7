"""Files beside the obvious script: ``python -m benchmarks.files [--only parquet]``.

The obvious script loads all vectors by the library of the format, divides them by
`numpy.linalg.norm` and saves them. Both write a new file from one in the page cache, in turns. A
format whose library is not installed is left out.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import Array, settle
from l2multi.files import normalize_file

SHAPE = (65536, 800)  # 210 MB of float32
ROUNDS = 7
ROWS = 4096  # in a chunk or a group


class Format(NamedTuple):
    """How a script reads an array of a file, and writes one; and what names it in the file."""

    write: Callable[[str, Array], Any]
    read: Callable[[str], Array]
    named: dict[str, str] = {}  # noqa: RUF012  (nobody changes it)


def _library(name: str) -> Any:
    return importlib.import_module(name)


def _write_fvecs(path: str, x: Array) -> None:
    rows = np.empty((len(x), x.shape[1] + 1), np.float32)
    rows[:, 0] = np.array(x.shape[1], np.int32).view(np.float32)
    rows[:, 1:] = x
    rows.tofile(path)


def _read_fvecs(path: str) -> Array:
    numbers = np.fromfile(path, np.float32)
    length = int(numbers[:1].view(np.int32)[0])
    rows: Array = numbers.reshape(-1, length + 1)[:, 1:]
    return rows


def _write_parquet(path: str, x: Array) -> None:
    pa = _library("pyarrow")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    _library("pyarrow.parquet").write_table(pa.table({"e": rows}), path, row_group_size=ROWS)


def _read_parquet(path: str) -> Array:
    column = _library("pyarrow.parquet").read_table(path)["e"].combine_chunks()
    rows: Array = column.flatten().to_numpy().reshape(len(column), -1)
    return rows


def _write_zarr(path: str, x: Array) -> None:
    chunks = (min(ROWS, len(x)), x.shape[1])
    made = _library("zarr").create_array(path, shape=x.shape, chunks=chunks, dtype=x.dtype)
    made[:] = x


def _write_hdf5(path: str, x: Array) -> None:
    with _library("h5py").File(path, "w") as file:
        file.create_dataset("e", data=x, chunks=(min(ROWS, len(x)), x.shape[1]))


def _read_hdf5(path: str) -> Array:
    with _library("h5py").File(path, "r") as file:
        rows: Array = file["e"][:]
    return rows


def _write_words(path: str, x: Array) -> None:
    made = _library("gensim.models").KeyedVectors(x.shape[1])
    made.add_vectors([f"w{i}" for i in range(len(x))], x)
    made.save_word2vec_format(path, binary=False)


def _read_words(path: str) -> Array:
    made = _library("gensim.models").KeyedVectors.load_word2vec_format(path, binary=False)
    rows: Array = made.vectors
    return rows


FORMATS = {
    ".npy": Format(np.save, np.load),
    ".safetensors": Format(
        lambda path, x: _library("safetensors.numpy").save_file({"e": x}, path),
        lambda path: _library("safetensors.numpy").load_file(path)["e"],
        {"tensor": "e"},
    ),
    ".fvecs": Format(_write_fvecs, _read_fvecs),
    ".parquet": Format(_write_parquet, _read_parquet, {"column": "e"}),
    ".zarr": Format(_write_zarr, lambda path: _library("zarr").open_array(path)[:]),
    ".h5": Format(_write_hdf5, _read_hdf5, {"tensor": "e"}),
    ".vec": Format(_write_words, _read_words),
}


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def times(suffix: str, shape: tuple[int, int] = SHAPE, rounds: int = ROUNDS) -> tuple[float, float]:
    """The seconds that we take and that the obvious script takes: medians."""
    of = FORMATS[suffix]
    if suffix == ".vec":  # numbers in decimal: a tenth as many
        shape = (shape[0] // 10 or 1, shape[1])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (os.path.join(folder, f"{name}{suffix}") for name in "xy")
        of.write(source, x)

        def obvious() -> None:
            rows = of.read(source)
            of.write(target, rows / np.linalg.norm(rows, axis=1, keepdims=True))

        calls = (lambda: normalize_file(source, target, **of.named), obvious)
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):  # the first, which imports, does not count
            for call, taken in zip(calls, found, strict=True):
                _remove(target)
                settle()  # also for the system, which frees what the other has used
                start = time.perf_counter()
                call()
                if number:
                    taken.append(time.perf_counter() - start)
    ours, theirs = (float(np.median(taken)) for taken in found)
    return ours, theirs


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.files")
    parser.add_argument("--only", default="", help="suffixes that hold this")
    arguments = parser.parse_args()
    print("| format | ms | obvious script, ms | times as fast |")
    print("| --- | --- | --- | --- |")
    for suffix in FORMATS:
        if arguments.only in suffix:
            try:
                ours, theirs = times(suffix)
            except ImportError as error:
                print(f"{suffix} is left out: {error}", file=sys.stderr)
                continue
            print(
                f"| `{suffix}` | {1e3 * ours:.0f} | {1e3 * theirs:.0f} | {theirs / ours:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
