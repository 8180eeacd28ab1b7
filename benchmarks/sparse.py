"""Sparse matrices beside scikit-learn and the way through CSR: ``python -m benchmarks.sparse``.

Prints least and median times of calls in turns in one process: rows of CSR beside
`sklearn.preprocessing.normalize`, and what a call needs beyond its input and result; columns of CSC
and rows of COO, sorted and in random order, beside their conversion to CSR and back. The matrices
are of 50 entries a row in 100,000 columns, in float32 and int32.
"""

import argparse
import functools
import statistics
import time
from typing import Any

import numpy as np

import l2multi as l2
from benchmarks import bench_memory, common
from benchmarks.common import Call

ENTRIES, WIDTH = 50, 100_000


def matrix(rows: int, dtype: str) -> Any:
    """In CSR; no two entries are for one place."""
    from scipy import sparse  # not above: asv imports every module

    random = np.random.default_rng(21)
    step = WIDTH // ENTRIES
    indices = np.arange(ENTRIES) * step + random.integers(0, step, (rows, ENTRIES))
    values = random.standard_normal(indices.size, dtype=np.float32).astype(dtype)
    ends = np.arange(0, indices.size + 1, ENTRIES, dtype=np.int32)
    return sparse.csr_array((values, indices.ravel().astype(np.int32), ends), shape=(rows, WIDTH))


def shuffled(x: Any) -> Any:
    """The entries of a matrix in COO, in random order."""
    from scipy import sparse

    order = np.random.default_rng(22).permutation(x.nnz)
    return sparse.coo_array((x.data[order], tuple(i[order] for i in x.coords)), shape=x.shape)


def times(call: Call) -> float:
    """Seconds that a call takes, without what its result takes to go."""
    time.sleep(common.SETTLE)
    start = time.perf_counter()
    result = call()
    taken = time.perf_counter() - start
    del result
    return taken


def line(name: str, own: Call, other: Call, turns: int) -> None:
    """Print what each takes, and the ratio."""
    taken = [(times(other), times(own)) for _ in range(turns + 1)][1:]
    theirs, ours = zip(*taken, strict=True)
    cells = [f"{min(t) * 1e3:.1f} ({statistics.median(t) * 1e3:.1f})" for t in (theirs, ours)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def extra(call: Call, result: int) -> float:
    """MiB that a call needs beyond its input and its result of so many bytes."""
    bench_memory.CLEAR.write_text("5")
    before = bench_memory.resident("VmRSS")
    kept = call()
    most = bench_memory.resident("VmHWM") - before - result / 2**20
    del kept
    return max(most, 0.0)  # memory that was there already is no need


def beside_scikit_learn(x: Any, turns: int) -> str:
    """Rows of CSR; what calls need beyond input and result."""
    from sklearn import preprocessing

    def in_place() -> Any:
        return l2.normalize(own, out=own)

    own, theirs = x.copy(), x.copy()
    line(
        "CSR in place, scikit-learn",
        in_place,
        lambda: preprocessing.normalize(theirs, copy=False),
        turns,
    )
    line("CSR, scikit-learn", lambda: l2.normalize(x), lambda: preprocessing.normalize(x), turns)
    size = x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
    new = extra(lambda: l2.normalize(x), size)
    return f"CSR needs {extra(in_place, 0):.1f} MiB in place, {new:.1f} beyond its result"


def beside_csr(x: Any, turns: int) -> None:
    """Other formats and the way through CSR."""
    csc, coo = x.tocsc(), x.tocoo()
    line(
        "columns of CSC, through CSR",
        lambda: l2.normalize(csc, 0),
        lambda: l2.normalize(csc.tocsr(), 0).tocsc(),
        turns,
    )
    for name, held in {"COO": coo, "COO in random order": shuffled(coo)}.items():
        line(
            f"{name}, through CSR",
            functools.partial(l2.normalize, held),
            lambda held=held: l2.normalize(held.tocsr()).tocoo(),
            turns,
        )


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of CSR; others have a fifth")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    chosen = parser.parse_args(arguments)
    print(f"milliseconds, least of {chosen.turns} (median); {chosen.dtype}; ratios of medians")
    print("| what | other | l2multi | ratio |")
    print("| --- | --- | --- | --- |")
    x = matrix(chosen.rows, chosen.dtype)
    needs = beside_scikit_learn(x, chosen.turns)
    beside_csr(x[: chosen.rows // 5], chosen.turns)
    print(needs)


if __name__ == "__main__":
    main()
