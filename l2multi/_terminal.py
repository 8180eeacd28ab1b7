"""What the command shows: reports as text or JSON, tables, histograms; rich draws, if it must."""

import contextlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from l2multi import _formats
from l2multi.files import Check, Report
from l2multi.folders import Checked, Part

# Bars of a histogram.
_BARS = 16


def lines(pairs: dict[str, Any]) -> str:
    """Names and values as lines of text."""
    return "\n".join(f"{name:<13}  {value!s}" for name, value in pairs.items())


def taken(path: str, name: str | None) -> dict[str, Any]:
    """Which of the arrays or columns of a file was taken, called as the option for it."""
    option = "column" if "column" in _formats.find(path).takes else "tensor"
    return {} if not name else {option: name}


# What the functions call their arguments, and what the command does.
_FILES = {"source": "IN", "x": "IN", "target": "OUT", "norms": "--return-norms"}
_OPTIONS = "axis|tensor|column|dims|dtype_in|dtype|eps|zero|nonfinite|tol|plot"


def one_line(error: BaseException) -> str:
    """The message of an error in the words of the command, without an errno's number."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f": {error.filename!r}"
        message = f"{error.strerror}{named}"
    message = " ".join(message.split()) or type(error).__name__
    message = message.replace("axis=None", "axis=all")
    message = re.sub(rf"^({'|'.join(_FILES)})(?=: )", lambda found: _FILES[found[1]], message)
    return re.sub(
        rf"^({_OPTIONS})(?=: )|(?<= )({_OPTIONS})=",
        lambda found: "--" + found[0].replace("_", "-").replace("=", " "),
        message,
    )


def report(one: Report, dry_run: bool = False) -> str:
    """What was done to a file, or would be."""
    before, after = one.source_dtype, one.dtype
    shown: dict[str, Any] = {
        "files": f"{one.source} -> {one.target}" + ", not written" * dry_run,
        **taken(one.source, one.name),
        "shape": shape(one.shape),
        "vectors": one.vectors,
        "length": "of each its own" if one.length is None else one.length,
        "dtype": after if before == after else f"{before} -> {after}",
        "zero vectors": found(one.zero, one.zero_at),
        "not finite": found(one.nonfinite, one.nonfinite_at),
    }
    if one.null:
        shown["null"] = one.null
    if one.dropped:
        shown["left out"] = one.dropped
    shown |= {
        "smallest norm": number(one.smallest),
        "largest norm": number(one.largest),
        "backend": one.backend,
        "why this one": one.why,
        "time": f"{one.seconds:.3f} s",
        "throughput": _speed(one.nbytes, one.seconds, dry_run),
    }
    return lines(shown)


def _speed(nbytes: int, seconds: float, dry_run: bool) -> str:
    return f"{nbytes / seconds / 1e9:.2f} GB/s, read" + " and written" * (not dry_run)


def part(one: Part) -> str:
    """What was done to a file of a folder, in a line."""
    if one.stale:
        return f"{one.target}: stale, for {one.source} is not there any more"
    if one.report is None:
        return f"{one.target}: was done before"
    return f"{one.target}: {one.report.vectors} vectors{_amiss(one.report)}"


def checked(one: Checked) -> str:
    """What the vectors of a file of a folder are, in a line."""
    found = one.check
    other = f", {found.off} of other length" if found.off else ""
    told = f"{one.source}: {found.vectors} vectors, {found.unit} of unit length"
    return f"{told}{_amiss(found)}{other}"


def _amiss(one: Report | Check) -> str:
    """How many vectors have no unit length to be had."""
    kinds = (("zero", one.zero), ("not finite", one.nonfinite), ("null", one.null))
    return "".join(f", {count} {what}" for what, count in kinds if count)


def parts(
    all_: Sequence[Part], seconds: float, dry_run: bool = False, left: Sequence[str] = ()
) -> str:
    """What was done to a folder, or would be, and which of its files were left out."""
    reports = [one.report for one in all_ if one.report is not None]
    nbytes = sum(one.nbytes for one in reports)
    stale = sum(one.stale for one in all_)
    done = f"{len(reports)} written, {len(all_) - len(reports) - stale} done before"
    done += f", {stale} stale" * (stale > 0)
    return lines(
        {
            "files": f"{len(reports)} read, none written" if dry_run else done,
            **({"not taken": _some(left)} if left else {}),
            "vectors": sum(one.vectors for one in reports),
            "zero vectors": sum(one.zero for one in reports),
            "not finite": sum(one.nonfinite for one in reports),
            "time": f"{seconds:.3f} s",
            **({"throughput": _speed(nbytes, seconds, dry_run)} if reports else {}),
        }
    )


def _some(names: Sequence[str]) -> str:
    """A few names, and how to have such files taken."""
    shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return f"{shown} (name such files, or a pattern, if they hold vectors)"


def check(checked: Checked) -> str:
    """What a file's vectors are."""
    source, one = checked
    shown: dict[str, Any] = {
        "file": source,
        **taken(source, one.name),
        "shape": shape(one.shape),
        "vectors": one.vectors,
        "length": "of each its own" if one.length is None else one.length,
        "dtype": one.dtype,
        "unit length": one.unit,
        "zero vectors": found(one.zero, one.zero_at),
        "not finite": found(one.nonfinite, one.nonfinite_at),
    }
    if one.null:
        shown["null"] = one.null
    shown["other length"] = found(one.off, one.off_at)
    if one.worst is not None:
        shown["furthest off"] = f"{one.worst:.3g}"
    shown |= {"smallest norm": number(one.smallest), "largest norm": number(one.largest)}
    return lines(shown)


def checks(all_: Sequence[Checked], left: Sequence[str] = ()) -> str:
    """What the vectors of a folder are, and which of its files were left out."""
    every = [one.check for one in all_]
    whole = sum(one.unit == one.vectors for one in every)
    shown: dict[str, Any] = {"files": f"{len(every)} read, {whole} all of unit length"}
    if left:
        shown["not taken"] = _some(left)
    shown |= {
        "vectors": sum(one.vectors for one in every),
        "unit length": sum(one.unit for one in every),
        "zero vectors": sum(one.zero for one in every),
        "not finite": sum(one.nonfinite for one in every),
    }
    if null := sum(one.null for one in every):
        shown["null"] = null
    shown["other length"] = sum(one.off for one in every)
    if away := [one.worst for one in every if one.worst is not None]:
        shown["furthest off"] = f"{max(away):.3g}"
    smallest = (one.smallest for one in every if one.smallest is not None)
    largest = (one.largest for one in every if one.largest is not None)
    shown["smallest norm"] = number(min(smallest, default=None))
    shown["largest norm"] = number(max(largest, default=None))
    return lines(shown)


def counts(all_: Sequence[Checked]) -> dict[float, int]:
    """The counts of all files of a folder together."""
    found: Counter[float] = Counter()
    for one in all_:
        found.update(one.check.counts)
    return dict(sorted(found.items()))


def found(count: int, positions: Sequence[tuple[int, ...]]) -> str:
    """A count, and where the first are."""
    if not positions or positions == ((),):
        return f"{count}"
    told = ", ".join(str(at[0] if len(at) == 1 else at) for at in positions)
    return f"{count}, at {told}" + (", ..." if count > len(positions) else "")


def shape(one: Sequence[int | None]) -> str:
    """A shape, of which a number may vary."""
    inner = ", ".join("varies" if n is None else str(n) for n in one)
    return f"({inner},)" if len(one) == 1 else f"({inner})"


def number(one: Any) -> str:
    """A norm, or nothing."""
    return "-" if one is None else str(one)


def as_json(one: NamedTuple, **more: Any) -> str:
    """A named tuple as JSON, on one line: dtypes by name, what is not finite as null."""
    return json.dumps(_plain(more | one._asdict()))


def _plain(one: Any) -> Any:
    if isinstance(one, dict):
        return {str(name): _plain(value) for name, value in one.items()}
    if isinstance(one, tuple | list):
        return [_plain(value) for value in one]
    if isinstance(one, np.dtype):
        return one.name
    if isinstance(one, np.generic | float):
        value = one.item() if isinstance(one, np.generic) else one
        value = float(value) if isinstance(value, np.generic) else value  # longdouble
        return value if isinstance(value, int) or math.isfinite(value) else None
    return one


@contextlib.contextmanager
def progress(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What draws a progress bar on stderr, wiped out at the end; None where nobody would see it."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("")

        def draw(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield draw


class Bins(NamedTuple):
    """A histogram: the edges of its bars, the counts, and whether the edges grow by a factor."""

    edges: list[float]
    counts: list[int]
    logarithmic: bool


def bins(counts: dict[float, int]) -> Bins:
    """A few bars for the fine intervals of a check."""
    sizes = np.array(list(counts), float)
    weights = np.array(list(counts.values()), np.int64)
    lo, hi = float(sizes.min()), min(float(sizes.max()) * 1.01, np.finfo(float).max) or 1.0
    positive = sizes[sizes > 0]
    logarithmic = bool(positive.size) and math.log(hi) - math.log(positive.min()) > math.log(100)
    if logarithmic:
        edges = np.geomspace(positive.min(), hi, _BARS + 1)
        edges[0] = min(lo, edges[0])
    else:
        edges = np.linspace(lo, hi, _BARS + 1)
    inside = np.clip(np.searchsorted(edges, sizes, "right") - 1, 0, _BARS - 1)
    return Bins(
        edges.tolist(), np.bincount(inside, weights, _BARS).astype(int).tolist(), logarithmic
    )


def histogram(counts: dict[float, int]) -> None:
    """Print a histogram of norms."""
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

    found = bins(counts)
    most = max(found.counts)
    table = Table("norm from", "vectors", "", box=None)
    for edge, count in zip(found.edges, found.counts, strict=False):
        table.add_row(f"{edge:.4g}", f"{count}", Bar(most, 0, count, width=40))
    Console().print(table)


def plot_histogram(counts: dict[float, int], title: str, path: str) -> None:
    """Save a histogram of norms as an image."""
    figure, axes = figure_of(path)
    found = bins(counts)
    axes.stairs(found.counts, found.edges, fill=True)
    axes.set_xscale("log" if found.logarithmic and found.edges[0] > 0 else "linear")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("norm")
    axes.set_ylabel("vectors")
    axes.set_title(title)
    figure.savefig(path)


def figure_of(path: str) -> tuple[Any, Any]:
    """A figure to be saved at `path`, and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plot: {path!r} needs matplotlib ({error}); try: pip install matplotlib"
        ) from None
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    return figure, figure.subplots()


def table_of(cells: Sequence[Any]) -> None:
    """Print what was measured."""
    from rich.console import Console
    from rich.table import Table

    table = Table("shape", "dtype", "who", "a call", "vectors/s", "formula / this")
    for one in cells:
        table.add_row(
            shape(one.shape), one.dtype, one.contender, duration(one.seconds),
            f"{one.vectors_per_second:.3g}", f"{one.against_formula:.2f}",
        )  # fmt: skip
    Console().print(table)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    unit, factor = next(
        (u, f) for u, f in (("s", 1), ("ms", 1e3), ("us", 1e6)) if seconds * f >= 1 or u == "us"
    )
    return f"{seconds * factor:.3g} {unit}"


def plot_cells(cells: Sequence[Any], path: str) -> None:
    """Save what was measured as an image."""
    figure, axes = figure_of(path)
    places = list(dict.fromkeys((one.shape, one.dtype) for one in cells))
    names = list(dict.fromkeys(one.contender for one in cells))
    for i, name in enumerate(names):
        own = [one for one in cells if one.contender == name]
        at = [places.index((one.shape, one.dtype)) + 0.8 * i / len(names) for one in own]
        axes.bar(
            at, [one.against_formula for one in own], 0.8 / len(names), label=name, align="edge"
        )
    axes.set_xticks(
        [i + 0.4 for i in range(len(places))], [f"{shape(s)}\n{d}" for s, d in places], fontsize=7
    )
    axes.set_ylabel("times as fast as the formula")
    axes.legend(fontsize=7)
    figure.savefig(path)
