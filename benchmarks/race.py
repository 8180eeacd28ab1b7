"""The race: l2multi against what people use now, and against the fastest copy of as many bytes.

``python -m benchmarks.race DIRECTORY`` writes ``cpu.json`` and two plots there and prints tables;
``--field jax`` races on JAX arrays on a CPU, ``--field gpu`` on an accelerator. ``--draw
cpu.json`` prints the tables of a race that has been run, and draws its plots into a DIRECTORY.
It exits with 1 where a field has bars and one is missed.

Everything runs in one process, in turns. Every contender of a cell does the same work: one that
returns another dtype, shape or value is left out of it. Inputs lie where the contender wants them
(a torch tensor on the same memory, a JAX array on the device), so that conversions are not timed.

``pip install --group bench`` installs the field but for JAX, which is an extra of the library, and
torch, which is large: on Linux ``pip install torch`` brings CUDA, some gigabytes, and pytorch.org
says how to get the build for the CPU alone. Who is missing is named and left out.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from benchmarks import common, contenders
from benchmarks.fields import COPY, FIELDS, OURS, Cell, Field, device

ROOT = Path(__file__).resolve().parent.parent
COPIED = 1 << 20  # bytes from which on a cell is compared with copies too
BAR_FROM = 100  # megabytes read and written from which on a bar holds


def fits(cell: Cell) -> bool:
    """Whether five such arrays of float32 fit into this machine."""
    size = 5 * 4 * math.prod(common.sizes(cell.shape, cell.dtype))
    if not hasattr(os, "sysconf"):
        return size < 5 << 30
    return size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run(
    cell: Cell, field: Field, peers: Iterable[contenders.Peer], budget: float
) -> dict[str, str] | None:
    """Time a cell: who is left out of it and why; None where there is nothing to be done."""
    x, axis = common.array(cell.shape, cell.dtype, cell.layout)
    work = cell.work(axis)
    if cell.operation == "out":  # one for all, for it may be of GiB
        work = work._replace(out=common.target(work, x))
    x = field.put(x)
    try:
        calls = {OURS: field.ours(work, x)}
    except NotImplementedError:
        return None
    refused: dict[str, str] = {}
    calls |= contenders.contenders(work, x, peers, refused)
    written = 0
    if cell.operation != "norm":
        written = x.size * common.result_dtype(work, x.dtype).itemsize
    copied = x.nbytes + written >= COPIED and cell.operation not in ("norm", "gradient")
    if cell.group == "sizes" or copied:
        calls |= field.limit(work, x, written)
    for name, times in common.interleave(calls, budget, field.longer).items():
        cell.times[name] = float(np.median(times))
    return refused


def judge(cells: Iterable[Cell], bars: dict[tuple[str, str], float]) -> list[str]:
    """The cells below their bar: a line for each."""
    found = []
    for cell in cells:
        bar = bars.get((cell.operation, cell.layout), 0)
        if bar and cell.megabytes >= BAR_FROM and not cell.share >= bar:
            found.append(f"{cell.name}: {cell.share:.3f} of a copy's speed, below {bar}")
    return found


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
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def commit() -> str:
    """The commit of this tree, marked if the tree differs from it."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def about(name: str, field: Field) -> dict[str, Any]:
    """Machine, commit, versions and date."""
    peers = contenders.named(*field.peers)
    known = {"python": platform.python_version(), **contenders.versions((*peers, contenders.OURS))}
    if (numba := contenders.version("numba")) is not None:
        known["numba"] = numba
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    host = machine() | {"device": device(field)}
    about = {"field": name, "date": today, "commit": commit(), "machine": host, "versions": known}
    if name == "gpu":
        from benchmarks import formulas

        about["programs"] = formulas.programs()
    return about


def dump(facts: dict[str, Any], cells: Iterable[Cell]) -> str:
    """A record in JSON: a line for each operation and dtype, with the names of contenders and, by
    shape and layout, their times in microseconds."""
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        lines.setdefault(f"{cell.group}/{cell.operation}/{cell.kind}", []).append(cell)
    found = []
    for name, members in lines.items():
        columns = list(dict.fromkeys(column for cell in members for column in cell.times))
        times = {title(c): [rounded(c.times.get(one)) for one in columns] for c in members}
        found.append(f"{json.dumps(name)}: {json.dumps([columns, times], separators=(',', ':'))}")
    return f'{json.dumps(facts)[:-1]}, "cells": {{\n' + ",\n".join(found) + "\n}}\n"


def rounded(seconds: float | None) -> float | None:
    """Four digits, in microseconds."""
    micro = float(f"{(seconds or 0) * 1e6:.4g}")
    return (int(micro) if micro.is_integer() else micro) or None


def shown(seconds: float | None) -> str:
    """The same, to be read."""
    return f"{rounded(seconds):,}" if seconds else ""


def read(text: str) -> tuple[dict[str, Any], list[Cell]]:
    """What `dump` wrote."""
    facts = json.loads(text)
    if not isinstance(facts, dict) or facts.get("field") not in FIELDS:
        raise ValueError("not a record of the race")
    cells = []
    for name, (columns, shapes) in facts.pop("cells").items():
        for shape, values in shapes.items():
            pairs = zip(columns, values, strict=True)
            times = {column: time / 1e6 for column, time in pairs if time}
            shape, _, layout = shape.partition(" ")
            cells.append(Cell(*name.split("/"), layout or "rows", shape, times))
    return facts, cells


def groups(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells by what is done, to what, how it lies."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        layout = "rows" if cell.layout == "rows" else "other layouts"
        sizes = ", sizes" if cell.group == "sizes" else ""
        found.setdefault(f"{cell.operation}, {cell.kind}, {layout}{sizes}", []).append(cell)
    return found


def title(cell: Cell) -> str:
    """Its shape and how it lies."""
    return cell.shape if cell.layout == "rows" else f"{cell.shape} {cell.layout}"


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a table in Markdown; a number has two decimals, and NaN is left out."""
    heads = list(heads)
    lines = ["", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        texts = (f"{one:.2f}" if isinstance(one, float) else str(one) for one in row)
        lines.append(f"| {' | '.join(texts)} |".replace(" nan ", "  "))
    return lines


def report(facts: dict[str, Any], cells: list[Cell]) -> str:
    """Markdown: a line per group, then a table per group."""
    known = [f"{name} {one}" for name, one in facts["versions"].items()]
    known += [f"{name} {one}" for name, one in facts["machine"].items() if "load" in name]
    lines = [
        f"# The race, {facts['field']}, {facts['date']}",
        "",
        f"{caption(facts)}; {', '.join(known)}. Medians of interleaved rounds in one process, in"
        " microseconds; made by `python -m benchmarks.race`.",
        "",
        "Speedup: the fastest peer's time over ours, its geometric mean over the cells and the"
        " least. Of a copy: the time of the fastest copy of as many bytes over ours, where"
        f" {COPIED >> 20} MiB or more are moved.",
    ]
    if "programs" in facts:
        heads = ["float32 rows, for CUDA", *next(iter(facts["programs"].values()))]
        lines += table(heads, ([name, *of.values()] for name, of in facts["programs"].items()))
    rows = []
    for name, members in groups(cells).items():
        ranked = [cell for cell in members if cell.best]
        least = min(ranked, key=lambda cell: cell.speedup, default=None)
        rows.append(
            [
                name,
                len(members),
                mean(cell.speedup for cell in ranked),
                least.speedup if least else math.nan,
                f"{title(least)}, {least.best}" if least else "",
                mean(cell.share for cell in members),
                min((cell.share for cell in members if cell.copies), default=math.nan),
            ]
        )
    heads = ["work", "cells", "speedup, mean", "speedup, least", "where, against"]
    lines += table([*heads, "of a copy, mean", "of a copy, least"], rows)
    for name, members in groups(cells).items():
        found = dict.fromkeys(one for cell in members for one in cell.times)
        columns = sorted(found, key=lambda one: one.startswith(COPY))
        heads = ["rows x length", *(f"{one}, us" for one in columns), "speedup", "of a copy"]
        rows = []
        for cell in members:
            times = (shown(cell.times.get(one)) for one in columns)
            rows.append([title(cell), *times, cell.speedup, cell.share])
        lines += ["", f"## {name}", *table(heads, rows)]
    below = judge(cells, FIELDS[facts["field"]].bars)
    return "\n".join([*lines, "", *(f"BELOW THE BAR: {line}" for line in below)]) + "\n"


def caption(facts: dict[str, Any]) -> str:
    """Where, when and of what."""
    host = facts["machine"]
    on = f", {host['device']}" if host.get("device") else ""
    return f"{host['cpu']}, {host['cores']} cores{on}; {facts['date']}, commit {facts['commit']}"


SHOWN = {
    "speedup": "Time of the fastest other way / time of l2multi",
    "share": "Time of the device's own copy / time of l2multi",
}


def plot(facts: dict[str, Any], cells: list[Cell], directory: Path) -> None:
    """A heat map, and throughput against size with the copies drawn in."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    field = FIELDS[facts["field"]]
    drawn = {
        ((c.operation, c.kind), title(c)): getattr(c, field.shown)
        for c in cells
        if c.group == "grid" and not math.isnan(getattr(c, field.shown))
    }
    rows, columns = (list(dict.fromkeys(key[i] for key in drawn)) for i in (0, 1))
    if drawn:
        values = np.array([[drawn.get((row, one), np.nan) for one in columns] for row in rows])
        size = (2.5 + 0.55 * len(columns), 2 + 0.3 * len(rows))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        picture = axes.imshow(np.log2(values), cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
        digits = 1 if field.shown == "speedup" else 2
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if abs(np.log2(value)) > 2 else "black"
                text = f"{value:.{digits}f}" if value < 99.5 else f"{value:.0f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)
        axes.set_xticks(range(len(columns)), columns, rotation=50, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), [", ".join(row) for row in rows], fontsize=8)
        axes.set_title(f"{SHOWN[field.shown]}\n{caption(facts)}", fontsize=9)
        bar = figure.colorbar(picture, ax=axes, ticks=range(-3, 4), label="times as fast")
        bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        save(figure, directory / f"{facts['field']}.png")

    sizes = sorted((c for c in cells if c.group == "sizes"), key=lambda cell: cell.megabytes)
    known = [OURS, *field.peers]
    titles = {"out": "into a warm output", "inplace": "in place"}
    if sizes:
        figure, panels = plt.subplots(
            1, len(titles), figsize=(11, 4.5), sharey=True, layout="constrained"
        )
        for axes, (operation, what) in zip(panels, titles.items(), strict=True):
            members = [cell for cell in sizes if cell.operation == operation]
            names = dict.fromkeys(name for cell in members for name in cell.times)
            for name in [name for name in names if not name.startswith(COPY)]:
                some = [cell for cell in members if name in cell.times]
                speeds = [cell.megabytes / cell.times[name] / 1e3 for cell in some]
                style = {"label": name, "color": f"C{known.index(name)}", "marker": "."}
                width = 2.5 if name == OURS else 1
                axes.plot([c.megabytes for c in some], speeds, lw=width, **style)
            limits = [cell.megabytes / min(cell.copies) / 1e3 for cell in members]
            moved = [cell.megabytes for cell in members]
            axes.plot(moved, limits, "k--", lw=1.5, label="the fastest copy")
            axes.set(xscale="log", title=f"float32, n x 768, {what}", xlabel="MB read and written")
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("GB/s")
        named: dict[str, Any] = {}  # one may be in the last panel only
        for axes in panels:
            named |= {line.get_label(): line for line in axes.get_lines()}
        panels[0].legend(named.values(), named.keys(), fontsize=8)
        figure.suptitle(caption(facts), fontsize=9)
        save(figure, directory / f"{facts['field']}-sizes.png")


def save(figure: Any, path: Path) -> None:
    """A PNG of few colours, a third as large as one of all."""
    from matplotlib import pyplot
    from PIL import Image

    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def unknown(parser: argparse.ArgumentParser, field: Field, only: list[str]) -> NoReturn:
    """Refuse a selection that holds no cell, with what there is."""
    parts = zip(*(cell.name.split("/") for cell in field.cells()), strict=True)
    names = "GROUP", "OPERATION", "DTYPE", "LAYOUT", "SHAPE"
    known = (f"{name}: {', '.join(dict.fromkeys(s))}" for name, s in zip(names, parts, strict=True))
    parser.error(
        f"--only {' '.join(only)}: no cell that fits into this machine has such a name; names are "
        f"{'/'.join(names)}\n  " + "\n  ".join(known)
    )


def finish(facts: dict[str, Any], cells: list[Cell], directory: Path | None) -> None:
    """Print the tables; draw the plots, if there is a place for them."""
    print(report(facts, cells), end="")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            plot(facts, cells, directory)
        except ImportError as error:
            print(f"no plots: {error}; try: pip install matplotlib", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a race, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", help="where the results go")
    parser.add_argument("--field", choices=FIELDS, default="cpu", help="[cpu]")
    parser.add_argument(
        "--only", action="append", help="cells whose name holds this, as out/float32; or another"
    )
    parser.add_argument("--budget", type=float, help="seconds per cell [1; jax: 3]")
    parser.add_argument("--quick", action="store_true", help="tiny arrays, one round: a test")
    parser.add_argument("--draw", type=Path, metavar="RECORD.json", help="print and plot this only")
    options = parser.parse_args(arguments)
    if options.draw:
        try:
            found = read(options.draw.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"--draw {options.draw}: {error}")
        finish(*found, options.directory)
        return 0
    if options.directory is None:
        parser.error("DIRECTORY: expected a place for the results")
    field, only = FIELDS[options.field], options.only or [""]
    wanted = [c for c in field.cells() if any(part in c.name for part in only) and fits(c)]
    if not wanted:
        unknown(parser, field, only)
    field.prepare()
    if options.quick:
        common.LARGEST, common.ROUNDS, common.BURST, common.SETTLE = 8, 1, 0.0, 0.0
    budget = field.budget if options.budget is None else options.budget
    facts, peers = about(options.field, field), contenders.installed(contenders.named(*field.peers))
    facts["left out"] = left_out = {}  # how often, by contender and reason
    cells: list[Cell] = []
    record = options.directory / f"{options.field}.json"
    start = time.perf_counter()
    for number, cell in enumerate((dataclasses.replace(wanted[0], times={}), *wanted)):
        try:
            refused = run(cell, field, peers, budget)
        except RuntimeError as error:  # of a device, mostly for want of memory
            refused = {OURS: f"{type(error).__name__}: {error}".splitlines()[0][:100]}
            print(f"{cell.name}: {refused[OURS]}", file=sys.stderr)
        if number == 0:  # the first seconds of a process are slower
            continue
        for name, why in (refused or {}).items():
            reasons = left_out.setdefault(name, {})
            reasons[why] = reasons.get(why, 0) + 1
        if cell.times:
            cells.append(cell)
            options.directory.mkdir(parents=True, exist_ok=True)
            facts["machine"]["load at the end"] = machine()["load"]
            record.write_text(dump(facts, cells), encoding="utf-8")  # there if this is ended
            print(
                f"{number}/{len(wanted)} {time.perf_counter() - start:.0f} s {cell.name}: "
                f"{shown(cell.times[OURS])} us, {cell.speedup:.2f} x {cell.best}",
                file=sys.stderr,
            )
    if not cells:
        parser.error(f"--only {' '.join(only)}: nobody can do any of these {len(wanted)} cells")
    finish(*read(record.read_text(encoding="utf-8")), options.directory)
    return 1 if OURS in left_out or judge(cells, field.bars) else 0


if __name__ == "__main__":
    raise SystemExit(main())
