"""The page of evidence: ``python -m benchmarks.evidence`` writes docs/evidence.md, in some minutes.

What takes hours (fuzzing, a soak) or another machine is read from records/runs.json, where who ran
it wrote down the figure, the date and the command.
"""

import collections
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import l2multi as l2
from benchmarks import bench_start, differential, race
from l2multi import _backends
from tests import cases
from tests.reference import judge

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
RECORDS = Path(__file__).parent / "records"

BACKENDS = ("numpy", "numba")
LENGTHS = (*range(1, 41), 127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025)
SHOWN = ("numpy", "numba", "jax", "torch", "scipy", "scikit-learn", "pyarrow", "polars", "pandas")


def table(heads: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(one) for one in line)} |" for line in lines)


def counted() -> str:
    """How many cases the shared suite has for each subject."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/conformance"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: collections.Counter[str] = collections.Counter()
    for line in done.stdout.splitlines():
        case = re.search(rf"\[({'|'.join(_backends.NAMES)})(:[^-\]]*)?[-\]]", line)
        if "test_files" in line:
            found["files"] += 1
        elif case:
            found[f"{case[1]}{case[2] or ''}"] += 1
    return table(["subject", "cases"], [[f"`{name}`", n] for name, n in sorted(found.items())])


def worst() -> str:
    """How far the worst result is from the exact value."""
    rows = []
    for dtype in cases.FLOATS:
        if dtype in cases.LONGS:
            continue
        errors = {}
        for backend in BACKENDS:
            element = norm = 0.0
            vectors = [cases.vectors(dtype, n) for n in LENGTHS]
            grids = (x[:: max(1, len(x) // 400)] for x in cases.grid(dtype))
            for x in (*vectors, *grids):
                y, norms = l2.normalize(x, return_norm=True, backend=backend)
                verdict = judge(x, y, norms)
                element, norm = max(element, verdict.element), max(norm, verdict.norm)
            errors[backend] = f"{element:.2f}, {norm:.2f}"
        rows.append([dtype.name, *errors.values()])
    return table(["dtype", *BACKENDS], rows)


def compared() -> str:
    """How many elements of two backends were compared, and how many differ in a bit."""
    rng = np.random.default_rng(0)
    count = different = 0
    for dtype in (np.float16, np.float32, np.float64):
        for _ in range(60):
            shape = tuple(rng.integers(1, 200, rng.integers(1, 4)).tolist())
            spread = rng.uniform(0, {np.float16: 1, np.float32: 12, np.float64: 100}[dtype])
            x = (rng.standard_normal(shape) * np.exp(spread * rng.standard_normal(shape))).astype(
                dtype
            )
            axis = int(rng.integers(len(shape)))
            one, two = (l2.normalize(x, axis, backend=name) for name in BACKENDS)
            width = f"u{x.itemsize}"
            count += x.size
            different += int((one.view(width) != two.view(width)).sum())
    return f"{count:,} elements of random shapes, axes and magnitudes: {different} differ."


def differed(rounds: int = differential.ROUNDS) -> str:
    """The largest difference from each peer."""
    return table(["peer", "numbers", "largest difference, ulp"], differential.rows(rounds))


def started() -> str:
    """Medians of nine fresh processes without a cache."""
    rows = []
    for name, shape in (("auto", "1x768"), ("auto", "100000x768"), ("numpy", "100000x768")):
        with tempfile.TemporaryDirectory() as home:
            times = [bench_start.fresh(bench_start.FIRST, name, shape, home=home) for _ in range(9)]
        rows.append([name, shape, f"{1e3 * float(np.median(times)):.1f} ms"])
    return table(["backend", "shape", "first call"], rows)


def raced() -> str:
    """The records of the race: the geometric mean of the fastest peer's time over ours."""
    rows = []
    for path in sorted(RECORDS.glob("*-*.json")):
        facts, cells = race.read(path.read_text())
        ranked = [cell for cell in cells if cell.best]
        speedups = [cell.speedup for cell in ranked]
        rows.append(
            [facts["field"], facts["machine"]["cpu"], facts["date"], len(ranked),
             f"{race.mean(speedups):.2f}", f"{min(speedups):.2f}",
             sum(speedup < 1 for speedup in speedups)]
        )  # fmt: skip
    return table(
        ["field", "CPU", "date", "cells", "geometric mean", "least", "slower than the fastest"],
        rows,
    )


def ran() -> str:
    """What was run by hand."""
    runs = json.loads((RECORDS / "runs.json").read_text())
    rows = [[run["what"], run["figure"], run["date"], f"`{run['command']}`"] for run in runs]
    return table(["what", "figure", "date", "command"], rows)


def versions() -> str:
    """The lowest that CI tests, and those of this page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    every = [*project["project"]["dependencies"], *(one for extra in extras for one in extra)]
    lowest = dict(one.split(">=") for one in every if ">=" in one)
    rows = []
    for name in SHOWN:
        try:
            rows.append([name, lowest.get(name, "-"), metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, lowest.get(name, "-"), "-"])
    return table(["library", "lowest tested", "newest tested"], rows)


SECTIONS = (
    ("Cases of the shared suite", counted, "python -m pytest tests/conformance",
     "Every backend and every kind of array runs every file of it."),
    ("The worst error", worst, "python -m benchmarks.evidence",
     "In ulp, of an element and of a norm, against exact integers: vectors of 50 lengths, random, "
     "huge, tiny and mixed, and magnitudes crossed with one another."),
    ("Bits compared", compared, "python -m benchmarks.evidence",
     "The NumPy backend and the compiled kernels."),
    ("Peers, where they are right", differed, "python -m benchmarks.differential",
     "Ours and theirs on vectors of moderate size: in float64 where nothing else is said, which "
     "both round on the way. What remains is the order of their sums, and of ours."),
    ("Cold start", started, "python -m benchmarks.evidence",
     "The first call of a process that finds no cache, after the import."),
    ("The race", raced, "python -m benchmarks.race",
     "The fastest peer's time over ours in each cell: of NumPy arrays (cpu), JAX arrays and torch "
     "tensors on a CPU."),
    ("Long runs", ran, "see each", "Runs that no page can wait for."),
    ("Versions", versions, ".ci/lowest",
     "CI passes the suite with both; with the lowest, each test by one in twelve of its cases."),
)  # fmt: skip


def main() -> None:
    """Write the page."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(": ")[1] for line in file if line.startswith("model name")), "")
    lines = [
        "# Evidence",
        "",
        f"Made by `python -m benchmarks.evidence` on {datetime.date.today()}, commit "
        f"{race.commit()}, {model.strip()}, Python {platform.python_version()}.",
    ]
    for title, make, command, about in SECTIONS:
        print(title, file=sys.stderr, flush=True)
        lines += ["", f"## {title}", "", f"{about} Command: `{command}`.", "", make()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
