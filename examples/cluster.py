"""Normalize a Zarr store on a cluster of processes whose memory is smaller, and kill one of them.

    python examples/cluster.py

416 MiB of float32 vectors, in chunks that cut rows and columns, are normalized by two worker
processes of 384 MiB each. When an eighth of the vectors is done one of them is killed: Dask starts
another, and what the killed one had not reported is done again. The result is compared with that of
one machine without a cluster: file by file, and with `l2multi.normalize` on the array in memory.
"""

import filecmp
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr
from distributed import Client, LocalCluster

import l2multi as l2
from l2multi.dask import normalize_zarr
from l2multi.files import normalize_file

WORKERS, LIMIT = 2, 384 * 2**20
SHAPE, CHUNKS = (106496, 1024), (4096, 300)


def write(path: Path) -> None:
    """A store of random vectors, with an array of labels beside them."""
    group = zarr.create_group(path, attributes={"model": "none"})
    group.create_array("labels", data=np.arange(SHAPE[0]), chunks=(4096,))
    options = {"shape": SHAPE, "chunks": CHUNKS, "dtype": "float32", "compressors": None}
    vectors = group.create_array("vectors", **options)
    part = np.random.default_rng(0).standard_normal((CHUNKS[0], SHAPE[1]), dtype=np.float32)
    part[0] = 0
    for start in range(0, SHAPE[0], CHUNKS[0]):
        vectors[start : start + CHUNKS[0]] = part = np.roll(part, 1, axis=1)


def on_cluster(source: Path, target: Path) -> tuple[set[int], int]:
    """Normalize a store; the processes that worked before and after, and how many were killed."""
    killed: list[int] = []
    with (
        LocalCluster(
            WORKERS,
            memory_limit=LIMIT,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        before = client.run(os.getpid)

        def kill(done: int, total: int) -> None:
            if done > total // 8 and not killed:
                killed.append(next(iter(before.values())))
                os.kill(killed[0], signal.SIGKILL)

        report = normalize_zarr(source, target, tensor="vectors", client=client, progress=kill)
        assert report.zero == SHAPE[0] // CHUNKS[0], report
    return set(before.values()), len(killed)


def files(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def main(folder: Path) -> None:
    """Run, and say what came."""
    source, target, alone = (folder / f"{name}.zarr" for name in ("vectors", "unit", "alone"))
    write(source)
    size = zarr.open_array(source / "vectors", mode="r").nbytes
    print(f"{WORKERS} workers of {LIMIT / 2**20:.0f} MiB, a store of {size / 2**20:.0f} MiB")
    workers, killed = on_cluster(source, target)
    print(f"{len(workers)} processes began, {killed} of them was killed")
    normalize_file(source, alone, tensor="vectors")
    same = files(target) == files(alone) == files(source)
    same = same and all(filecmp.cmp(target / f, alone / f, shallow=False) for f in files(target))
    print(f"files as by one machine: {same}")
    vectors = zarr.open_array(source / "vectors", mode="r")[:]
    unit = zarr.open_array(target / "vectors", mode="r")[:]
    print(f"bits as in memory: {unit.tobytes() == l2.normalize(vectors).tobytes()}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as folder:
        main(Path(folder))
