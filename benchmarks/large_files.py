"""Large files in little memory, against a copy: ``python -m benchmarks.large_files FOLDER``.

A ``.npy`` and a column of Parquet are normalized by a process that is held to 512 MiB of private
writable memory, and copied through a reader and a writer, in turns. (On Linux, where RLIMIT_DATA
counts all such memory.) `files` has small ones, against the obvious script.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import Array

LIMIT, ROUNDS = 2**29, 3
PART = (20_000, 768)  # of which files are made, and each row group
PLAIN = {"compression": "none", "use_dictionary": False}

HELD = """
import resource, sys
from l2multi.files import normalize_file
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
normalize_file(*sys.argv[2:])
"""


def write_npy(target: str, part: Array, number: int) -> None:
    """So many times this part."""
    shape = (len(part) * number, *part.shape[1:])
    whole = np.lib.format.open_memmap(target, "w+", part.dtype, shape)
    for i in range(number):
        whole[i * len(part) : (i + 1) * len(part)] = part


def write_parquet(target: str, part: Array, number: int) -> None:
    """As a column, with a row group for each part."""
    rows = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
    table = pa.table({"v": rows})
    with pq.ParquetWriter(target, table.schema, **PLAIN) as writer:
        for _ in range(number):
            writer.write_table(table, len(part))


def copy_npy(source: str, target: str) -> None:
    """In windows of 16 MiB, as they are normalized."""
    with open(source, "rb") as old, open(target, "wb") as new:
        shutil.copyfileobj(old, new, 2**24)


def copy_parquet(source: str, target: str) -> None:
    """Row group by row group."""
    with (
        pq.ParquetFile(source, memory_map=True) as old,
        pq.ParquetWriter(target, old.schema_arrow, **PLAIN) as new,
    ):
        for i in range(old.num_row_groups):
            group = old.read_row_group(i, use_threads=False)
            new.write_table(group, len(group))


def normalize(source: str, target: str) -> None:
    """By a process of its own, whose start counts."""
    subprocess.run([sys.executable, "-c", HELD, f"{LIMIT}", source, target], check=True)


def lines(folder: str, gigabytes: float) -> Iterator[str]:
    """What was measured, format by format."""
    part = np.random.default_rng(0).standard_normal(PART, np.float32)
    number = max(1, round(gigabytes * 1e9 / part.nbytes))
    for kind, write, copy in (
        (".npy", write_npy, copy_npy),
        (".parquet", write_parquet, copy_parquet),
    ):
        source, target = (os.path.join(folder, f"{name}{kind}") for name in "xy")
        write(source, part, number)
        pairs = []
        for _ in range(ROUNDS):
            times = []
            for run in (copy, normalize):
                Path(target).unlink(missing_ok=True)
                start = time.perf_counter()
                run(source, target)
                times.append(time.perf_counter() - start)
            pairs.append(times)
        copied, own = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        size = os.path.getsize(source) / 1e9
        yield (
            f"{kind} of {size:.2f} GB: {own:.1f} s in {LIMIT >> 20} MiB, copied in {copied:.1f} s: "
            f"{ratio:.2f}"
        )
        os.unlink(source)
        os.unlink(target)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where files may lie, with room for two")
    parser.add_argument("--gigabytes", type=float, default=6.0)
    asked = parser.parse_args()
    for line in lines(asked.folder, asked.gigabytes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
