"""The race: l2multi against what people use now, and against the copies the machine can do.

``python -m benchmarks.race DIRECTORY`` writes ``race.md``, ``race.json`` and two plots there;
``--draw RECORD.md`` draws the plots of a race that has been run.
Everything runs in one process, in turns. Every contender of a cell does the same work: one that
returns another dtype, shape or value is left out of it. Inputs lie where the contender wants them
(a torch tensor on the same memory, a JAX array on the device), so that conversions are not timed.

``pip install --group bench`` installs the field but for JAX, which is an extra of the library, and
torch, which is large: on Linux ``pip install torch`` brings CUDA, some gigabytes, and pytorch.org
says how to get the build for the CPU alone. Who is missing is named and left out. JAX is asked for
64-bit types, for else it has no float64.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from benchmarks import common, peers
from benchmarks.common import DTYPES, LAYOUTS, OPERATIONS, Work

ROOT = Path(__file__).resolve().parent.parent
RACING = tuple(peer for peer in peers.PEERS if peer.name not in ("keras", "ONNX Runtime"))
OURS = "l2multi"

SHAPES = (
    "1x8", "1x128", "1x768", "100x768", "1000x128", "1000x768", "10000x768", "1000000x2",
    "100000x3", "16x100000", "1x1000000",
)  # fmt: skip
COPIED = 1 << 20  # bytes from which on a cell is compared with copies too
UNIT = ", us"  # of the times in a report


@dataclasses.dataclass
class Cell:
    """One thing to do, and the times of those who can."""

    operation: str
    dtype: str
    layout: str
    shape: str
    sweep: bool = False  # part of the throughput plot, not of the grid
    cast: str = "float16"
    times: dict[str, float] = dataclasses.field(default_factory=dict)  # medians, in seconds
    quartiles: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    copies: dict[str, float] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    megabytes: float = 0.0  # read and written

    @property
    def kind(self) -> str:
        """The dtypes in and out."""
        return f"{self.dtype} to {self.cast}" if self.operation == "cast" else self.dtype

    @property
    def name(self) -> str:
        """What ``--only`` looks at."""
        group = "sweep" if self.sweep else "grid"
        return f"{group}/{self.operation}/{self.kind}/{self.layout}/{self.shape}"

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        others = [name for name in self.times if name != OURS]
        return min(others, key=self.times.__getitem__) if others else None

    @property
    def speedup(self) -> float:
        """The fastest peer's time over ours; above 1 we are faster."""
        return self.times[self.best] / self.times[OURS] if self.best else math.nan

    @property
    def copy(self) -> float:
        """Our time over that of the fastest copy."""
        return self.times[OURS] / min(self.copies.values()) if self.copies else math.nan


def grid() -> Iterator[Cell]:
    """All cells: shapes of rows by dtype and operation, other layouts, and sizes up to 2 GiB."""
    for operation in OPERATIONS:
        for dtype in ("float32",) if operation == "cast" else DTYPES:
            for shape in SHAPES:
                for cast in ("float16", "bfloat16") if operation == "cast" else ("",):
                    yield Cell(operation, dtype, "rows", shape, cast=cast)
    for operation in ("new", "out", "inplace", "norm"):
        for dtype in ("float32", "float64", "float16"):
            for layout in LAYOUTS:
                if layout != "rows":
                    yield from (Cell(operation, dtype, layout, s) for s in ("100x768", "4000x768"))
    for operation in ("out", "inplace"):
        for power in range(-4, 12):
            yield Cell(operation, "float32", "rows", f"{round(2**power * 1e6 / 3072)}x768", True)
        yield Cell(operation, "float32", "rows", "200000x768", True)


def fits(cell: Cell) -> bool:
    """Whether five such arrays of float32 fit into this machine."""
    m, n = map(int, cell.shape.split("x"))
    if not hasattr(os, "sysconf"):
        return m * n < 1 << 28
    return 5 * 4 * m * n < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run(cell: Cell, field: Iterable[peers.Peer], budget: float) -> bool:
    """Time a cell; False where there is nothing to be done."""
    x, axis = common.array(cell.shape, cell.dtype, cell.layout)
    work = Work(cell.operation, axis, cell.cast)
    if cell.operation == "out":  # one for all, for it may be of GiB
        work = work._replace(out=common.target(work, x))
    try:
        call = common.ours(work, x)
    except NotImplementedError:
        return False
    calls = {OURS: call} | peers.contenders(work, x, field, cell.refused)
    names = set(calls)
    written = (
        0 if cell.operation == "norm" else x.size * common.result_dtype(work, x.dtype).itemsize
    )
    size = x.nbytes + written
    cell.megabytes = size / 1e6
    if cell.sweep or (size >= COPIED and cell.operation != "norm"):
        source = x if x.flags.forc else x.copy()
        calls |= common.copies(
            source, np.full(written, 1, np.int8) if work.out is None else work.out
        )
    for name, times in common.interleave(calls, budget).items():
        low, middle, high = (float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        if name in names:
            cell.times[name], cell.quartiles[name] = middle, (low, high)
        else:
            cell.copies[name] = middle
    return True


def mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(value) for value in values if not math.isnan(value)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        rows = dict(row.split(":", 1) for row in info.read_text().splitlines() if ":" in row)
        rows = {key.strip(): value.strip() for key, value in rows.items()}
        numbers = (rows.get(key) for key in ("cpu family", "model"))
        model = f"{rows.get('model name', model)} (family, model: {', '.join(map(str, numbers))})"
    return {
        "cpu": model,
        "cores": common.cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def commit() -> str:
    """The commit of this tree, marked if the tree differs from it."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def about() -> dict[str, Any]:
    """Machine, commit, versions and date."""
    known = {"python": platform.python_version(), **peers.versions((*RACING, peers.OURS))}
    if (numba := peers.version("numba")) is not None:
        known["numba"] = numba
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": machine(), "commit": commit(), "date": today, "versions": known}


def groups(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells by what is done, to what, how it lies."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.sweep:
            layout = "rows" if cell.layout == "rows" else "other layouts"
            found.setdefault(f"{cell.operation}, {cell.kind}, {layout}", []).append(cell)
    return found


def duration(seconds: float) -> str:
    """Three digits, in microseconds."""
    return f"{seconds * 1e6:,.3g}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def report(cells: list[Cell], facts: dict[str, Any]) -> str:
    """Markdown: a line per group, then a table per group."""
    host = facts["machine"]
    lines = [
        f"# The race, {facts['date']}",
        "",
        f"{host['cpu']}, {host['cores']} cores, {host['system']}, load {host['load']} at the"
        f" start; commit {facts['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + ". Medians of interleaved rounds in one process, in microseconds; made by"
        " `python -m benchmarks.race`.",
        "",
        "Speedup: the fastest peer's time over ours, its geometric mean over the cells and the"
        " least. Copies: our time over that of the fastest copy of as many bytes, from"
        f" {COPIED >> 20} MiB on.",
        "",
        "| work | cells | speedup, mean | speedup, least | where, against | copies, mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    grouped = groups(cells)
    for name, members in grouped.items():
        ranked = [cell for cell in members if cell.best]
        if not ranked:
            continue
        least = min(ranked, key=lambda cell: cell.speedup)
        where = f"{least.shape}{'' if least.layout == 'rows' else ' ' + least.layout}"
        copies = mean(cell.copy for cell in members)
        lines.append(
            f"| {name} | {len(ranked)} | {mean(cell.speedup for cell in ranked):.2f}"
            f" | {least.speedup:.2f} | {where}, {least.best}"
            f" | {'' if math.isnan(copies) else f'{copies:.2f}'} |"
        )
    sweep = [cell for cell in cells if cell.sweep]
    for name, members in {**grouped, "sizes": sweep}.items():
        if not members:
            continue
        columns = [OURS] + [p.name for p in RACING if any(p.name in c.times for c in members)]
        columns += dict.fromkeys(copy for cell in members for copy in cell.copies)
        heads = ["rows x length", *(f"{one}{UNIT}" for one in columns), "speedup", "copies"]
        lines += ["", f"## {name}", "", f"| {' | '.join(heads)} |"]
        lines.append("| --- |" + " --- |" * (len(columns) + 2))
        for cell in members:
            title = cell.shape if cell.layout == "rows" else f"{cell.shape} {cell.layout}"
            title = f"{cell.operation} {title}" if cell.sweep else title
            times = cell.times | cell.copies
            row = [title, *(duration(times[c]) if c in times else "" for c in columns)]
            row += ["" if math.isnan(v) else f"{v:.2f}" for v in (cell.speedup, cell.copy)]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def read(text: str) -> tuple[list[Cell], dict[str, Any]]:
    """The cells of a report, as far as the plots show them, and on what they were measured."""
    facts = re.search(
        r"^# The race, (\S+)\n\n(.+?), (\d+) cores, .*?; commit ([^;]+);", text, re.MULTILINE
    )
    if facts is None:
        raise ValueError("not a report of the race")
    date, cpu, cores, commit = facts.groups()
    cells = []
    for part in text.split("\n## ")[1:]:
        name, _, heads, _, *rows = part.strip().splitlines()
        columns = [head.strip().removesuffix(UNIT) for head in heads.split("|")[2:-3]]
        for row in rows:
            title, *times = (one.strip() for one in row.split("|")[1:-3])
            work = f"{title.split()[0]}, float32, rows" if name == "sizes" else name
            operation, kind = work.split(", ")[:2]
            shape, _, layout = title.removeprefix(f"{operation} ").partition(" ")
            dtype, _, cast = kind.partition(" to ")
            cell = Cell(operation, dtype, layout or "rows", shape, name == "sizes", cast)
            m, n = map(int, shape.split("x"))
            cell.megabytes = 2 * 4 * m * n / 1e6 if cell.sweep else math.nan
            for column, time_ in zip(columns, times, strict=True):
                if time_:
                    of = cell.copies if column.startswith("copy") else cell.times
                    of[column] = float(time_.replace(",", "")) / 1e6
            cells.append(cell)
    return cells, {"machine": {"cpu": cpu, "cores": cores}, "date": date, "commit": commit}


def caption(facts: dict[str, Any]) -> str:
    """Where, when and of what."""
    host = facts["machine"]
    return f"{host['cpu']}, {host['cores']} cores; {facts['date']}, commit {facts['commit']}"


def plot(cells: list[Cell], directory: Path, caption: str) -> None:
    """A heat map of the speedups, and throughput against size with the copies drawn in."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    ranked = [cell for cell in cells if cell.best and not cell.sweep]
    rows = list(dict.fromkeys((c.operation, c.kind) for c in ranked))
    columns = list(dict.fromkeys((c.shape, c.layout) for c in ranked))
    if ranked:
        values = np.full((len(rows), len(columns)), np.nan)
        for c in ranked:
            values[rows.index((c.operation, c.kind)), columns.index((c.shape, c.layout))] = (
                c.speedup
            )
        size = (2.5 + 0.55 * len(columns), 2 + 0.3 * len(rows))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        picture = axes.imshow(np.log2(values), cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if abs(np.log2(value)) > 2 else "black"
                text = f"{value:.1f}" if value < 99.5 else f"{value:.0f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)
        names = [shape if layout == "rows" else f"{shape} {layout}" for shape, layout in columns]
        axes.set_xticks(range(len(columns)), names, rotation=50, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), [", ".join(row) for row in rows], fontsize=8)
        axes.set_title(f"Time of the fastest other way / time of l2multi\n{caption}", fontsize=9)
        bar = figure.colorbar(picture, ax=axes, ticks=range(-3, 4), label="times as fast")
        bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        figure.savefig(directory / "race.png", dpi=130)
        plt.close(figure)

    sweep = sorted((cell for cell in cells if cell.sweep), key=lambda cell: cell.megabytes)
    known = [OURS, *(peer.name for peer in RACING)]
    titles = {"out": "into a warm output", "inplace": "in place"}
    if sweep:
        figure, panels = plt.subplots(
            1, len(titles), figsize=(11, 4.5), sharey=True, layout="constrained"
        )
        for axes, (operation, title) in zip(panels, titles.items(), strict=True):
            members = [cell for cell in sweep if cell.operation == operation]
            for name in dict.fromkeys(name for cell in members for name in cell.times):
                some = [cell for cell in members if name in cell.times]
                speeds = [cell.megabytes / cell.times[name] / 1e3 for cell in some]
                style = {"label": name, "color": f"C{known.index(name)}", "marker": "."}
                width = 2.5 if name == OURS else 1
                axes.plot([c.megabytes for c in some], speeds, lw=width, **style)
            limits = [cell.megabytes / min(cell.copies.values()) / 1e3 for cell in members]
            sizes = [cell.megabytes for cell in members]
            axes.plot(sizes, limits, "k--", lw=1.5, label="the fastest copy")
            axes.set(xscale="log", title=f"float32, n x 768, {title}", xlabel="MB read and written")
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("GB/s")
        named: dict[str, Any] = {}  # one may be in the last panel only
        for axes in panels:
            named |= {line.get_label(): line for line in axes.get_lines()}
        panels[0].legend(named.values(), named.keys(), fontsize=8)
        figure.suptitle(caption, fontsize=9)
        figure.savefig(directory / "throughput.png", dpi=130)
        plt.close(figure)


def unknown(parser: argparse.ArgumentParser, only: str) -> NoReturn:
    """Refuse a selection that holds no cell, with what there is."""
    parts = zip(*(cell.name.split("/") for cell in grid()), strict=True)
    names = "GROUP", "OPERATION", "DTYPE", "LAYOUT", "SHAPE"
    known = (f"{name}: {', '.join(dict.fromkeys(s))}" for name, s in zip(names, parts, strict=True))
    parser.error(
        f"--only {only}: no cell that fits into this machine has such a name; names are "
        f"{'/'.join(names)}\n  " + "\n  ".join(known)
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the race and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the results go")
    parser.add_argument("--only", default="", help="cells whose name holds this, as out/float32")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per cell [1]")
    parser.add_argument("--quick", action="store_true", help="tiny arrays, one round: a test")
    parser.add_argument("--draw", type=Path, metavar="RECORD.md", help="plot this, and run nothing")
    options = parser.parse_args(arguments)
    if options.draw:
        cells, facts = read(options.draw.read_text(encoding="utf-8"))
        options.directory.mkdir(parents=True, exist_ok=True)
        plot(cells, options.directory, caption(facts))
        return
    wanted = [cell for cell in grid() if options.only in cell.name and fits(cell)]
    if not wanted:
        unknown(parser, options.only)
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when jax is imported, which is later
    if options.quick:
        common.LARGEST, common.ROUNDS, common.BURST, common.SETTLE = 8, 1, 0.0, 0.0
    facts, field = about(), peers.installed(RACING)
    cells = []
    start = time.perf_counter()
    for number, cell in enumerate(wanted, 1):
        if run(cell, field, options.budget):
            cells.append(cell)
            taken = time.perf_counter() - start
            print(
                f"{number}/{len(wanted)} {taken:.0f} s {cell.name}: "
                f"{duration(cell.times[OURS])} us, {cell.speedup:.2f} x {cell.best}",
                file=sys.stderr,
            )
    if not cells:
        parser.error(f"--only {options.only}: nobody can do any of these {len(wanted)} cells")
    options.directory.mkdir(parents=True, exist_ok=True)
    facts["machine"]["load at the end"] = machine()["load"]
    body = ",\n".join(json.dumps(dataclasses.asdict(cell)) for cell in cells)
    text = f'{json.dumps(facts)[:-1]}, "cells": [\n{body}\n]}}\n'
    (options.directory / "race.json").write_text(text, encoding="utf-8")
    (options.directory / "race.md").write_text(report(cells, facts), encoding="utf-8")
    try:
        plot(cells, options.directory, caption(facts))
    except ImportError as error:
        print(f"no plots: {error}; try: pip install matplotlib", file=sys.stderr)


if __name__ == "__main__":
    main()
