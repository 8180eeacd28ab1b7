"""The benchmarks run, at tiny size, over the full product of their parameters."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pytest

import benchmarks
import l2multi as l2
from benchmarks import (
    common,
    contenders,
    counts,
    differential,
    engines,
    evidence,
    fields,
    files,
    formulas,
    gate,
    hard,
    held,
    large_files,
    mutants,
    peers,
    race,
    soak,
)
from l2multi import _containers
from l2multi.files import check_file

BACKEND = "L2MULTI_BACKEND"
ROOT = Path(benchmarks.__path__[0]).parent
PREFIXES = ("time_", "track_", "peakmem_")
SUITE = [
    found
    for module in pkgutil.iter_modules(benchmarks.__path__)
    if module.name.startswith("bench_")
    for _, found in inspect.getmembers(
        importlib.import_module(f"benchmarks.{module.name}"), inspect.isclass
    )
    if found.__module__ == f"benchmarks.{module.name}" and not found.__name__.startswith("_")
]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few elements, timed once."""
    monkeypatch.setattr(common, "LARGEST", 5)
    monkeypatch.setattr(common, "ROUNDS", 1)
    monkeypatch.setattr(common, "BURST", 0.0)
    monkeypatch.setattr(common, "SETTLE", 0.0)


def products(suite: type) -> Iterator[tuple[str, ...]]:
    """Every combination of a class's parameters."""
    return itertools.product(*getattr(suite, "params", ()))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("suite", SUITE, ids=lambda suite: suite.__name__)
def test_every_combination_of_parameters_runs(suite: type) -> None:
    names = [name for name in dir(suite) if name.startswith(PREFIXES)]
    raw = [name for name in dir(suite) if name.startswith("timeraw_")]
    assert names or raw
    ran: dict[str, int] = {}
    for arguments in products(suite):
        if suite.__name__ == "FirstCall" and arguments[1:] != ("1x768",):  # a process each
            continue
        one = suite()
        try:
            getattr(one, "setup", lambda *_: None)(*arguments)
        except NotImplementedError:
            continue
        for name in names:
            value = getattr(one, name)(*arguments)
            assert not name.startswith("track_") or value >= 0
        getattr(one, "teardown", lambda *_: None)(*arguments)
        if arguments:
            ran[arguments[0]] = ran.get(arguments[0], 0) + 1
    for name in raw:
        for code in reversed(getattr(suite(), name)()):
            subprocess.run([sys.executable, "-c", code], check=True)
    usable = [name for name in common.BACKENDS if importlib.util.find_spec(name)]
    by_backend = names and getattr(suite, "param_names", ("",))[0] == "backend"
    asked = getattr(suite, "params", ((),))[0]
    assert not by_backend or {*usable} & {*asked} <= {*ran}, "a backend has been skipped throughout"
    assert common.AUTO not in asked or common.AUTO in ran


def test_backend_that_is_not_installed_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> NoReturn:
        raise ImportError("pip install none")

    monkeypatch.setattr(l2, "explain", missing)
    with pytest.raises(NotImplementedError, match="pip install none"):
        common.ours(common.Work(), common.array("2x3", "float32")[0], "none")


@pytest.mark.parametrize("layout", common.LAYOUTS)
@pytest.mark.parametrize("dtype", common.DTYPES)
def test_peers_and_we_agree_on_what_is_to_be_done(
    dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND, "numpy")  # which compiles nothing
    x, axis = common.array("9x24", dtype, layout)
    two = contenders.named("x / np.linalg.norm(x)", "np.einsum")
    for operation in ("new", "out", "norm", "return_norm"):
        found = contenders.contenders(common.Work(operation, axis), x, two)
        # Complex numbers as pairs of real ones are einsum's only where they lie along the axis.
        several = dtype != "complex64" or layout == "rows"
        assert set(found) == {peer.name for peer in two[: 1 + several]}


def test_peer_that_does_other_work_is_left_out() -> None:
    x, axis = common.array("4x8", "float32")

    def wrong(work: common.Work, x: common.Array) -> common.Call:
        return lambda: x / 2

    def other(work: common.Work, x: common.Array) -> common.Call:
        return lambda: x.astype("float64")

    def flat(work: common.Work, x: common.Array) -> common.Call:
        return lambda: x[:, 0]

    def none(work: common.Work, x: common.Array) -> common.Call:
        raise NotImplementedError

    def broken(work: common.Work, x: common.Array) -> common.Call:
        raise RuntimeError("out of order")

    lame = [contenders.Peer(f.__name__, (), f) for f in (wrong, other, flat, none, broken)]
    refused: dict[str, str] = {}
    assert not contenders.contenders(common.Work("new", axis), x, lame, refused)
    assert refused == {
        "wrong": "returns other values",
        "other": "returns float64",
        "flat": "returns the shape (4,)",
        "broken": "RuntimeError: out of order",
    }


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, for it sets what a process can set once; on the backend
    that compiles nothing."""
    environment = os.environ | {BACKEND: "numpy"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_race_writes_a_record_and_prints_tables(tmp_path: Path) -> None:
    only = ("--only", "float32/rows/1", "--only", "out/float32/rows/20x")
    done = run("benchmarks.race", str(tmp_path), "--quick", *only)
    assert done.returncode == 0, done.stderr
    facts, cells = race.read((tmp_path / "cpu.json").read_text())
    assert {"machine", "commit", "date", "versions", "left out"} <= set(facts)
    assert {cell.operation for cell in cells} >= {"new", "out", "inplace", "norm"}
    for cell in cells:
        assert {fields.OURS, "x / np.linalg.norm(x)", "np.einsum"} <= set(cell.times)
    assert "| out, float32, rows | " in done.stdout
    (head, *_) = re.findall(r"^\| rows x length \| (.*) \|$", done.stdout, re.MULTILINE)
    assert head.startswith("l2multi, us | x / np.linalg.norm(x), us | np.einsum, us | ")
    plots = {path.name for path in tmp_path.glob("*.png") if path.stat().st_size}
    assert plots == (
        {"cpu.png", "cpu-sizes.png"} if importlib.util.find_spec("matplotlib") else set()
    )
    again = run("benchmarks.race", "--draw", str(tmp_path / "cpu.json"))
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("race DIR --only TYPO", "LAYOUT: rows, sliced rows, columns"),
        ("race DIR --only inplace/int8 --quick", "nobody can do any of these 11 cells"),
        ("race DIR --budjet 1", "unrecognized arguments"),
        ("gate --only TYPO", "serial numpy new float32 rows 1x128"),
        ("gate --base TYPO", "--base TYPO: "),
        ("gate --turns 0", "--turns 0: at least one"),
        ("race DIR --field gpu --only TYPO", "SHAPE: 1MBx64, 1MBx128"),
        ("race DIR --field TYPO", "argument --field: invalid choice: 'TYPO'"),
        ("race --only new", "DIRECTORY: expected a place for the results"),
        ("race DIR --draw DIR/none.json", "none.json"),
        ("race DIR --draw DIR/race.md", "race.md: "),
        ("peers --write DIR/none.md", "none.md"),
        ("peers --write DIR/race.md", "race.md has no lines <!-- peers:begin -->"),
        ("hard --write DIR/race.md", "race.md has no lines <!-- peers:begin -->"),
        ("engines --write DIR/none.md", "none.md"),
    ],
)
def test_unknown_selections_are_refused_and_nothing_is_written(
    tmp_path: Path, arguments: str, message: str
) -> None:
    (tmp_path / "race.md").write_text("a record")
    name, *rest = arguments.replace("DIR", str(tmp_path)).split()
    done = run(f"benchmarks.{name}", *rest)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("race.md", "a record")]


def test_race_names_who_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "version", lambda name: None if name == "faiss-cpu" else "1")
    racing = contenders.named(*fields.FIELDS["cpu"].peers)
    assert "faiss" not in [peer.name for peer in contenders.installed(racing)]
    assert capsys.readouterr().err == "faiss is left out; try: pip install faiss-cpu\n"


def a_race() -> tuple[dict[str, Any], list[fields.Cell]]:
    """Cells with times of three digits; one contender can do the work in place only."""
    ours = fields.OURS
    cells = [
        fields.Cell("grid", "new", "float32", "rows", "1x8", {ours: 1e-6, "faiss": 8.1e-7}),
        fields.Cell("grid", "new", "float32", "two axes", "4x8", {ours: 1.5, "torch": 2.5}),
        fields.Cell("grid", "cast", "float32 to float16", "rows", "1x8", {ours: 2e-6}),
    ]
    for operation, names in (("out", ["torch"]), ("inplace", ["torch", "scikit-learn"])):
        for rows in (20, 41):
            times = {ours: rows * 1e-7} | dict.fromkeys(names, rows * 2e-7)
            times |= {"copy, one thread": rows * 3e-7, "copy, streaming": rows * 5e-8}
            shape = f"{rows}x768"
            cells.append(fields.Cell("sizes", operation, "float32", "rows", shape, times))
    host = {"cpu": "Chip (family, model: 1, 2)", "cores": 2, "system": "Linux", "load": 0.5}
    facts = {"field": "cpu", "commit": "abc", "date": "2026-01-02", "versions": {"a": "1"}}
    return facts | {"machine": host}, cells


def test_a_record_holds_the_race() -> None:
    facts, cells = a_race()
    read, again = race.read(race.dump(facts, cells))
    assert read == facts
    assert race.caption(facts) == "Chip (family, model: 1, 2), 2 cores; 2026-01-02, commit abc"
    for old, new in zip(cells, again, strict=True):
        assert new.name == old.name
        assert new.times == pytest.approx(old.times)
    with pytest.raises(ValueError, match="not a record"):
        race.read("{}")


def test_a_cell_is_compared_with_the_best_peer_and_the_fastest_copy() -> None:
    _, cells = a_race()
    assert [cell.best for cell in cells] == ["faiss", "torch", None, *["torch"] * 4]
    assert cells[0].speedup == pytest.approx(0.81)
    assert math.isnan(cells[0].share)
    assert cells[3].speedup == pytest.approx(2)
    assert cells[3].share == pytest.approx(0.5)
    assert cells[3].megabytes == pytest.approx(2 * 4 * 20 * 768 / 1e6)
    assert fields.Cell("grid", "cast", "float32 to float16", "rows", "2x5").megabytes == 6e-5


def test_bars_hold_for_large_cells_of_their_kind() -> None:
    bars = fields.FIELDS["gpu"].bars
    assert list(bars.values()) == [0.97, 0.9, 0.9]
    times = {fields.OURS: 1.0, "copy on the device": 0.95}
    cells = [
        fields.Cell("grid", operation, "float32", layout, shape, times)
        for operation, layout in (*bars, ("norm", "rows"))
        for shape in ("8MBx64", "64MBx64")
    ]
    assert race.judge(cells, bars) == [
        "grid/new/float32/rows/64MBx64: 0.950 of a copy's speed, below 0.97"
    ]
    del times["copy on the device"]
    assert len(race.judge(cells, bars)) == 3, "who is compared with no copy passes no bar"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/records").glob("*-*.json")), ids=str)
def test_records_can_be_read(path: Path) -> None:
    facts, cells = race.read(path.read_text(encoding="utf-8"))
    assert facts["machine"]["cores"] == 2
    known = {cell.name for cell in fields.FIELDS[facts["field"]].cells()}
    assert {cell.name for cell in cells} <= known
    assert len(cells) == {"cpu": 495, "jax": 27, "torch": 132}[facts["field"]]
    assert race.report(facts, cells)


def test_the_table_of_tensors_is_that_of_the_records() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    ranked = {}
    for machine in ("zen5", "xeon"):
        record = ROOT / f"benchmarks/records/torch-{machine}.json"
        _, cells = race.read(record.read_text(encoding="utf-8"))
        ranked[machine] = [cell for cell in cells if cell.best]
    rows = {"a new tensor": "new", "`out=`": "out", "in place": "inplace", "backwards": "gradient"}
    for said, operation in rows.items():
        means = (
            ", ".join(
                f"{race.mean([c.speedup for c in cells if (c.operation, c.kind) == what]):.2f}"
                for cells in ranked.values()
            )
            for what in ((operation, kind) for kind in ("float32", "float16", "bfloat16"))
        )
        assert f"| {said} | {' | '.join(means)} |" in text
    slower = [f"{c.speedup:.2f}" for cells in ranked.values() for c in cells if c.speedup < 1]
    assert text.count(" of its speed)") == len(slower)
    assert all(f"({speedup} of its speed)" in text for speedup in slower)


def test_every_line_is_in_the_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plt = pytest.importorskip("matplotlib.pyplot", reason="of the group `bench`")
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    race.plot(*a_race(), tmp_path)
    for figure in figures:
        monkeypatch.undo()
        plt.close(figure)
    panels = figures[-1].axes
    named = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert sorted(named) == sorted({line.get_label() for axes in panels for line in axes.lines})
    assert "scikit-learn" in named
    assert "Chip" in figures[-1].get_suptitle()
    assert "Chip" in figures[0].axes[0].get_title()


def test_hard_input_table_goes_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    done = run("benchmarks.peers", "--write", str(readme))
    assert done.returncode == 0, done.stderr
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    ours = next(line for line in text.splitlines() if "l2multi.normalize" in line)
    assert ours.split("|")[2:-1] == [" 0.6, 0.8 "] * 5 + [" 0, 0 "]


DOCS = ROOT / "docs"


def rows(page: str) -> dict[str, list[str]]:
    """The cells of a page's tables, by what the first one of a line has in code."""
    lines = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    found: dict[str, list[str]] = {}
    for title, *cells in lines:
        found.setdefault(title.strip(), []).extend(cell.strip() for cell in cells)
    return found


def test_table_of_other_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and one that has not changed for long, do here what the page says."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    some = (*hard.TOOLS[:2], hard.TOOLS[-1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        patch.setattr(hard, "TOOLS", some)
        hard.main(["--write", str(page)])
    made, shown = rows(page.read_text()), rows((DOCS / "hard-inputs.md").read_text())
    assert "old" not in page.read_text()
    right = ["✓"] * len(hard.FINITE)
    assert made["**`l2multi.normalize`**"] == [*right, "0", "0", "nan", "nan, 0", "0.6, 0.8"]
    for title in (some[0].title, some[-1].title):
        assert made[title] == shown[title]
    assert {tool.title for tool in hard.TOOLS} <= set(shown)


def test_a_tool_that_raises_or_gives_nothing() -> None:
    def refuses(x: Any) -> Any:
        raise KeyError(x)

    cells = [
        hard.cell(hard.Tool("", "", normalize), np.array([3.0, 4.0]), (0.6, 0.8))
        for normalize in (refuses, lambda x: None, lambda x: x, lambda x: x * 0, lambda x: x / 5)
    ]
    assert cells == ["KeyError", "null", "3, 4", "0", "✓"]


def test_table_of_engines() -> None:
    """An exact engine is right where there is a right answer, and a plain one is not."""

    def exact(rows: Any, query: Any) -> Any:
        likeness = l2.normalize(rows.astype(float)) @ l2.normalize(query.astype(float))
        order = sorted(range(len(rows)), key=lambda at: -np.nan_to_num(likeness[at], nan=-2))
        return [(at, None if np.isnan(likeness[at]) else likeness[at]) for at in order]

    def plain(rows: Any, query: Any) -> Any:
        with np.errstate(all="ignore"):
            likeness = rows @ query / np.sqrt((rows * rows).sum(1) * (query @ query))
        return [(int(at), likeness[at]) for at in np.argsort(-likeness)]

    found = engines.cells(engines.Engine("exact", "", exact))
    assert found == ["✓", "✓", "0, place 3", "null, place 4", "✓", "✓", "0", "null"]
    found = engines.cells(engines.Engine("plain", "", plain))
    assert found[:4] == ["inf, place 1", "0, place 4", "nan, place 4", "nan, place 4"]
    with pytest.raises(AssertionError, match="ordinary"):
        engines.cells(engines.Engine("wrong", "", lambda rows, query: [(0, 1.0), (1, 0.5)]))
    text = (DOCS / "vector-databases.md").read_text()
    assert {engine.title for engine in engines.ENGINES} <= set(rows(text))


GATE = ("benchmarks.gate", "--base", str(ROOT), "--only", "serial numpy norm float32 rows 1x128")


def test_gate_fails_where_a_slowdown_is_planted() -> None:
    done = run(*GATE, "--turns", "5", "--plant", "3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  slower than the base: serial numpy" in done.stdout


def test_gate_decides_by_most_of_its_looks() -> None:
    assert gate.judge(iter([1.3, 1.3, 1.3])) == (True, [1.3, 1.3, 1.3])
    assert gate.judge(iter([1.3, 1.0, 1.3, 1.0, 1.0])) == (False, [1.3, 1.0, 1.3, 1.0, 1.0])
    assert gate.judge(iter([1.0, 1.0, 1.0])) == (False, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("ratios", "wrong"),
    [((1.0,), []), ((1.3, 1.0), []), ((1.3, 1.3), ["slower than the base: serial a: 1.300"])],
)
def test_gate_looks_twice_before_it_starts_processes(
    ratios: tuple[float, ...], wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, looked = list(ratios), []

    class Measured:
        def sides(self, on: str) -> contextlib.AbstractContextManager[tuple[None, None]]:
            return contextlib.nullcontext((None, None))

        def ratios(self, sides: Any, case: gate.Case) -> tuple[float, float]:
            return 1.0, left.pop(0)

        def look(self, case: gate.Case) -> float:
            looked.append(case)
            return 1.3

    monkeypatch.setattr(gate, "ask", lambda side, **order: {"code": {}})
    found = gate.compare(Measured(), [("serial", "a")])  # type: ignore[arg-type]
    assert [line.partition(",")[0] for line in found] == wrong
    assert not left
    assert len(looked) == 3 * len(wrong)


def test_gate_is_not_moved_by_drift_or_by_a_neighbour() -> None:
    drift = [1.0 + 0.1 * turn for turn in range(20)]
    assert gate.estimates([1.25 * t for t in drift], drift) == (1.25, 1.25)
    disturbed = [1.0, *[3.0] * 19]
    assert min(gate.estimates(disturbed, [1.0] * 20)) == 1.0


def test_gate_tells_wide_code_from_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    pattern = gate.registers()
    code = {"wide": "fmul\tv0.2d, v1.2d, v2.2d", "narrow": "fmul\td0, d1, d2"}
    assert gate.narrow(code, pattern) == ["narrow"]
    monkeypatch.undo()
    pattern = r"\bv?(?:add|mul|div)pd\b.*%[yz]mm"
    code = {
        "wide": "vmulpd\t%zmm1, %zmm0, %zmm0",
        "half": "vmulpd\t%xmm1, %xmm0, %xmm0",
        "narrow": "vmulsd\t%xmm1, %xmm0, %xmm0",
    }
    assert gate.narrow(code, pattern) == ["half", "narrow"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("field", "count"), [("jax", 3), ("gpu", 9)])
def test_race_on_jax_arrays(
    field: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At tiny size, on a CPU that stands in for other devices."""
    monkeypatch.setattr(common, "LARGEST", 70)
    monkeypatch.setattr(race, "COPIED", 0)
    only = {"jax": "/1x768", "gpu": "/1MBx64"}[field]
    given = [str(tmp_path), "--field", field, "--budget", "0", "--only", only]
    assert race.main(given) == 0
    facts, cells = race.read((tmp_path / f"{field}.json").read_text())
    assert len(cells) == count
    assert facts["machine"]["device"] == jax.devices()[0].device_kind
    assert not facts["left out"]
    for cell in cells:
        assert {fields.OURS, "jax.jit"} <= set(cell.times)
        assert bool(cell.copies) == (cell.operation != "gradient")
        if field == "gpu" and (cell.operation, cell.layout) == ("new", "rows"):
            assert {"three float32 sums", "one, and three if needed"} <= set(cell.times)
    assert ("programs" in facts) == (field == "gpu")


@pytest.mark.usefixtures("tiny")
def test_race_on_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what asks for a C++ compiler."""
    pytest.importorskip("torch", reason="of the extra `torch`")
    few = fields.FIELDS["torch"]._replace(peers=("F.normalize", "largest first"))
    monkeypatch.setitem(fields.FIELDS, "torch", few)
    given = [str(tmp_path), "--field", "torch", "--budget", "0", "--only", "/rows/1x128"]
    assert race.main(given) == 0
    facts, cells = race.read((tmp_path / "torch.json").read_text())
    assert not facts["left out"]
    assert {(cell.operation, cell.dtype) for cell in cells} == {
        (operation, dtype)
        for operation in ("new", "out", "inplace", "gradient")
        for dtype in ("float32", "bfloat16", "float16")
    }
    for cell in cells:
        written = cell.operation in ("out", "inplace")
        assert set(cell.times) == {fields.OURS, "F.normalize"} | (
            set() if written else {"largest first"}
        )


@pytest.mark.usefixtures("tiny")
def test_a_compiled_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for what asks for a C++ compiler."""
    torch = pytest.importorskip("torch", reason="of the extra `torch`")
    from benchmarks import compiled

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(compiled, "MODELS", ((3, 4, 6, 5),))
    monkeypatch.setattr(compiled, "BUDGET", 0.0)
    compiled.main()
    (*_, row) = capsys.readouterr().out.splitlines()
    name, *figures = row.strip("| ").split(" | ")
    assert name == "3, 4, 6, 5"
    assert all(0 < float(figure) < math.inf for figure in figures)


@pytest.mark.usefixtures("tiny")
def test_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    """Five lines of figures, and what is needed."""
    pytest.importorskip("scipy", reason="of the extra `scipy`")
    pytest.importorskip("sklearn", reason="of the group `bench`")
    from benchmarks import sparse

    sparse.main(["--rows", "50", "--turns", "2"])
    *_, memory = rows = capsys.readouterr().out.splitlines()[3:]
    for row in rows[:-1]:
        *_, ratio = row.strip("| ").split(" | ")
        assert 0 < float(ratio) < math.inf
    assert len(rows) == 6
    assert "MiB" in memory


def test_gradients_of_other_functions_are_left_out() -> None:
    x = jax.device_put(common.array("9x24", "float32")[0])
    work = common.Work("gradient")
    peer = contenders.Peer(
        "half", (), lambda work, x: lambda: contenders.ours_compiled(work, x)() / 2
    )
    refused: dict[str, str] = {}
    found = contenders.contenders(
        work, x, (peer, *contenders.named("jax.jit", "x * rsqrt")), refused
    )
    assert list(found) == ["jax.jit", "x * rsqrt"]
    assert refused == {"half": "returns other values"}


def test_formulas_for_gpu() -> None:
    """The safe ones are right where the textbook's is not; ours is one sum without a choice."""
    x = np.array([[3, 4], [3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    for function in formulas.SAFE.values():
        for rows in (x, x[:1]):
            want = [[0.6, 0.8]] * 3 + [[0, 0]]
            np.testing.assert_allclose(jax.jit(function)(rows), want[: len(rows)], rtol=1e-6)
    assert [list(counts.values()) for counts in formulas.programs().values()] == [
        [1, 0, 0, 1], [3, 4, 0, 0], [5, 4, 1, 0], [1, 0, 0, 0],
    ]  # fmt: skip


def test_every_container_is_tracked() -> None:
    differ = set(held.HELD) ^ {row.name for row in _containers.ROWS}
    assert not differ, f"HELD of benchmarks/held.py and _containers.ROWS differ in {differ}"


@pytest.mark.parametrize("name", held.HELD | held.MORE)
def test_what_a_container_costs(name: str) -> None:
    try:
        found = held.ratios(name, "3x5", 0)
    except ImportError as error:
        pytest.skip(str(error))
    assert {"us", "NumPy"} <= set(found)
    assert all(0 < one < math.inf for one in found.values())


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
def test_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones here: both are made, and no file is left."""
    monkeypatch.setattr(large_files, "PART", (50, 8))
    monkeypatch.setattr(large_files, "ROUNDS", 1)
    npy, parquet = large_files.lines(str(tmp_path), 0)
    told = r" of 0\.00 GB: [\d.]+ s in 512 MiB, copied in [\d.]+ s: [\d.]+"
    assert re.fullmatch(r"\.npy" + told, npy)
    assert re.fullmatch(r"\.parquet" + told, parquet)
    assert not list(tmp_path.iterdir())
    x = np.ones((3, 4), np.float32)
    for kind in ("npy", "parquet"):
        source, target = (str(tmp_path / f"{name}.{kind}") for name in "xy")
        getattr(large_files, f"write_{kind}")(source, x, 2)
        getattr(large_files, f"copy_{kind}")(source, target)
        assert check_file(target).vectors == 6


def test_page_of_evidence():
    """What can be told at once; each part is a table or a sentence."""
    assert re.search(r"^[\d,]+ elements of .*: 0 differ\.$", evidence.compared())
    for part in (
        evidence.raced(), evidence.versions(), evidence.ran(), evidence.differed(rounds=1)
    ):  # fmt: skip
        assert len({line.count("|") for line in part.splitlines()}) == 1
    assert len(evidence.versions().splitlines()) == len(evidence.SHOWN) + 2


def test_counts_are_compared_where_versions_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """5 % more instructions fail; of other versions they are shown."""
    record = tmp_path / "counts.json"
    monkeypatch.setattr(counts, "RECORD", record)
    found = {"a": 1000, "b": 1000}
    monkeypatch.setattr(counts, "count", lambda: found)
    assert counts.main(["--write"]) == 0
    assert counts.main([]) == 0
    found |= {"a": 1040, "b": 1060, "c": 5}
    assert counts.main([]) == 1
    told = capsys.readouterr().out
    assert "MORE INSTRUCTIONS: b" in told
    assert "MORE INSTRUCTIONS: a" not in told
    here = counts.versions()
    monkeypatch.setattr(counts, "versions", lambda: here | {"pint": "1.0"})
    assert counts.main([]) == 1
    assert "NOT compared" not in capsys.readouterr().out
    monkeypatch.setattr(counts, "versions", lambda: here | {"numpy": "1.0"})
    assert counts.main([]) == 0
    assert "NOT compared" in capsys.readouterr().out
    assert not counts.compared("normalize, quantity 2x2", here, here | {"pint": "1.0"})


def test_the_record_of_counts_is_of_the_calls_that_are_counted() -> None:
    """Each of them, under its name; and each can be made."""
    made = dict(counts.calls())
    recorded = json.loads(counts.RECORD.read_text())["instructions"]
    assert made.keys() <= recorded.keys()
    for call in made.values():
        call()


def test_a_dump_of_callgrind_is_read(tmp_path: Path) -> None:
    """Its name, and what was counted."""
    dump = tmp_path / "out.1"
    dump.write_text("version: 1\ndesc: Trigger: Client Request: new float32\n\nsummary: 2160\n")
    assert counts._read(dump) == ("new float32", 2160)


def test_peers_give_what_we_give() -> None:
    """To some units of the last place; and what does not agree is seen."""
    found = differential.rows(rounds=1)
    assert len(found) >= 6
    for name, count, gap in found:
        assert int(count.replace(",", "")) > 0
        assert 0 <= float(gap) < 20, name
    wrong = differential.PEERS[0]._replace(ours=lambda x: l2.norm(x) * 1.0001)
    assert differential.compare(wrong, rounds=1)[1] > 1e9
    with pytest.raises(AssertionError):
        differential.difference(np.ones(3, "f4"), np.ones(3), "float64")


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # by JAX, which no fork uses
def test_soak() -> None:
    """A second of it; what is wrong is counted, in forks too, and what grows is told."""
    told: list[soak.Sample] = []
    run, samples = soak.soak(0.01, "numpy", tell=told.append)
    assert told == samples
    assert run.faults == []
    assert samples[-1].calls >= 4 * 20
    assert samples[-1].forks >= 1
    assert sum(run.by_subject.values()) == samples[-1].calls
    first = soak.Sample(0, 1, 1, 100.0, 5, 3)
    assert soak.grown([first, first, first]) == []
    more = first._replace(megabytes=140.0, descriptors=6, threads=4)
    assert len(soak.grown([first, first, more])) == 3


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # by JAX, which no fork uses
def test_soak_finds_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong answer in this process, and one in its fork."""
    monkeypatch.setattr(l2, "norm", lambda x, axis=-1, **_: np.zeros(()))
    monkeypatch.setattr(l2, "normalize", lambda x, axis=-1, **_: np.zeros(()))
    run, _ = soak.soak(0.001, "numpy", tell=lambda _: None)
    assert any("AssertionError" in fault for fault in run.faults)
    assert any("a fork ended with 256" in fault for fault in run.faults)


def test_mutants_differ_and_can_be_told() -> None:
    """Each kind of change, in a file that has one of each; none in what only says something."""
    source = """
def f(a: int = 1, *, b: bool = True) -> int:
    if a < 2 and not b:
        raise ValueError
    print(a)
    return a


ROWS = (1, 2)
"""
    made = [mutants.mutant("f.py", source, place) for place in mutants.places(source)]
    assert len({one.source for one in made}) == len(made)
    assert {one.change for one in made} == {
        *("1 -> 2", "2 -> 3", "True -> False", "not b -> b"),
        *("a < 2 -> a <= 2", "a < 2 and (not b) -> a < 2 or not b"),
        *("raise ValueError -> pass", "print(a) -> pass", "return a -> return None"),
        "if a < 2 and (not b): -> if not (a < 2 and (not b)):",
    }
    for tests, subjects in mutants.TESTS.values():
        assert all((ROOT / test).exists() for test in tests)
        assert subjects
    assert all((ROOT / "l2multi" / file).exists() for file in mutants.TESTS)


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_files_beside_the_obvious_script(suffix: str) -> None:
    """At tiny size."""
    try:
        assert min(files.times(suffix, (30, 4), 1)) > 0
    except ImportError as error:
        pytest.skip(str(error))
