"""The benchmarks run, at tiny size, over the full product of their parameters."""

import importlib
import importlib.util
import inspect
import itertools
import json
import operator
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import common, cpu_jax, gate, gpu, peers, race
from l2multi import _registry

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
    usable = [row.name for row in _registry.ROWS if importlib.util.find_spec(row.needs)]
    assert not names or set(usable) <= set(ran), "a backend has been skipped throughout"


def test_backend_that_is_not_installed_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    row = _registry.Row("none", "l2multi.backends.none", "numpy", "none", "pip install none")
    monkeypatch.setattr(_registry, "ROWS", (*_registry.ROWS, row))
    monkeypatch.setattr(_registry, "NAMES", (*_registry.NAMES, "none"))
    monkeypatch.setattr(_registry, "_failed", {})
    with pytest.raises(NotImplementedError, match="pip install none"):
        common.ours(common.Work(), common.array("2x3", "float32")[0], "none")


@pytest.mark.parametrize("layout", common.LAYOUTS)
@pytest.mark.parametrize("dtype", common.DTYPES)
def test_peers_and_we_agree_on_what_is_to_be_done(
    dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_registry.ENVIRONMENT, "numpy")  # which compiles nothing
    x, axis = common.array("9x24", dtype, layout)
    for operation in ("new", "out", "norm", "return_norm"):
        found = peers.contenders(common.Work(operation, axis), x, peers.PEERS[:2])
        # Complex numbers as pairs of real ones are einsum's only where they lie along the axis.
        several = dtype != "complex64" or layout == "rows"
        assert set(found) == {peer.name for peer in peers.PEERS[: 1 + several]}


def test_peer_that_does_other_work_is_left_out() -> None:
    x, axis = common.array("4x8", "float32")

    def wrong(work: common.Work, x: peers.Array) -> common.Call:
        return lambda: x / 2

    def other(work: common.Work, x: peers.Array) -> common.Call:
        return lambda: x.astype("float64")

    def broken(work: common.Work, x: peers.Array) -> common.Call:
        raise RuntimeError("out of order")

    lame = [peers.Peer(f.__name__, (), f) for f in (wrong, other, broken)]
    refused: dict[str, str] = {}
    assert not peers.contenders(common.Work("new", axis), x, lame, refused)
    assert refused == {
        "wrong": "returns other values",
        "other": "returns float64 of shape (4, 8)",
        "broken": "RuntimeError: out of order",
    }


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, for it sets what a process can set once; on the backend
    that compiles nothing."""
    environment = os.environ | {_registry.ENVIRONMENT: "numpy"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_race_writes_table_and_json(tmp_path: Path) -> None:
    done = run("benchmarks.race", str(tmp_path), "--quick", "--only", "float32/rows/1")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "race.json").read_text())
    assert {"machine", "commit", "date", "versions", "cells"} <= set(facts)
    assert {cell["operation"] for cell in facts["cells"]} >= {"new", "out", "inplace", "norm"}
    for cell in facts["cells"]:
        assert {race.OURS, "x / np.linalg.norm(x)", "np.einsum"} <= set(cell["times"])
    text = (tmp_path / "race.md").read_text()
    assert "| out, float32, rows | " in text
    (head, *_) = re.findall(r"^\| rows x length \| (.*) \|$", text, re.MULTILINE)
    assert head.startswith("l2multi, us | x / np.linalg.norm(x), us | np.einsum, us | ")
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "race.png").stat().st_size
        assert (tmp_path / "throughput.png").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("race DIR --only TYPO", "LAYOUT: rows, sliced rows, columns"),
        ("race DIR --only inplace/int8 --quick", "nobody can do any of these 11 cells"),
        ("race DIR --budjet 1", "unrecognized arguments"),
        ("gate --only TYPO", "serial numpy new float32 rows 1x128"),
        ("gate --base TYPO", "--base TYPO: "),
        ("gate --turns 0", "--turns 0: at least one"),
        ("gpu DIR --megabytes 0", "--megabytes [0.0]: expected sizes above 0"),
        ("cpu_jax DIR --budjet 1", "unrecognized arguments"),
        ("peers --write DIR/none.md", "none.md"),
        ("peers --write DIR/race.md", "race.md has no lines <!-- peers:begin -->"),
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
    monkeypatch.setattr(peers, "version", lambda name: None if name == "faiss-cpu" else "1")
    assert "faiss" not in [peer.name for peer in peers.installed(race.RACING)]
    assert capsys.readouterr().err == "faiss is left out; try: pip install faiss-cpu\n"


def a_race() -> tuple[list[race.Cell], dict[str, Any]]:
    """Cells with times of three digits; one contender can do the work in place only."""
    cells = [
        race.Cell("new", "float32", "rows", "1x8", times={race.OURS: 1e-6, "faiss": 8.1e-7}),
        race.Cell("new", "float32", "two axes", "4x8", times={race.OURS: 1.5, "torch": 2.5}),
        race.Cell("cast", "float32", "rows", "1x8", times={race.OURS: 2e-6, "torch": 3e-6}),
    ]
    for cell in cells[:2]:
        cell.cast = ""
    for operation, names in (("out", ["torch"]), ("inplace", ["torch", "scikit-learn"])):
        for rows in (20, 41):
            times = {race.OURS: rows * 1e-7} | dict.fromkeys(names, rows * 2e-7)
            cell = race.Cell(operation, "float32", "rows", f"{rows}x768", True, "", times)
            cell.copies = {"copy, one thread": rows * 3e-7}
            cell.megabytes = 8 * rows * 768 / 1e6
            cells.append(cell)
    host = {"cpu": "Chip (family, model: 1, 2)", "cores": 2, "system": "Linux", "load": 0.5}
    return cells, {"machine": host, "commit": "abc", "date": "2026-01-02", "versions": {"a": "1"}}


def test_a_record_holds_what_the_plots_show() -> None:
    cells, facts = a_race()
    again, read = race.read(race.report(cells, facts))
    assert race.caption(read) == "Chip (family, model: 1, 2), 2 cores; 2026-01-02, commit abc"
    assert race.caption(read) == race.caption(facts)
    key = operator.attrgetter("name")
    for old, new in zip(sorted(cells, key=key), sorted(again, key=key), strict=True):
        assert new.name == old.name
        for of in ("times", "copies"):
            assert getattr(new, of) == pytest.approx(getattr(old, of))
        if old.sweep:
            assert new.megabytes == pytest.approx(old.megabytes)
    with pytest.raises(ValueError, match="not a report"):
        race.read("x")


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks/records").glob("race-*.md")), ids=str)
def test_records_can_be_read(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    cells, facts = race.read(text)
    assert len([cell for cell in cells if not cell.sweep and cell.best]) == sum(
        int(count) for count in re.findall(r"^\| \w+, [^|]* \| (\d+) \|", text, re.MULTILINE)
    )
    assert facts["machine"]["cores"] == "2"


def test_every_line_is_in_the_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plt = pytest.importorskip("matplotlib.pyplot", reason="of the group `bench`")
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    cells, facts = a_race()
    race.plot(cells, tmp_path, race.caption(facts))
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


GATE = ("benchmarks.gate", "--base", str(ROOT), "--only", "serial numpy norm float32 rows 1x128")


def test_gate_fails_where_a_slowdown_is_planted() -> None:
    done = run(*GATE, "--turns", "5", "--plant", "3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  slower than the base: serial numpy" in done.stdout


def test_gate_decides_by_most_of_its_looks() -> None:
    assert gate.judge(iter([1.3, 1.3, 1.3])) == (True, [1.3, 1.3, 1.3])
    assert gate.judge(iter([1.3, 1.0, 1.3, 1.0, 1.0])) == (False, [1.3, 1.0, 1.3, 1.0, 1.0])
    assert gate.judge(iter([1.0, 1.0, 1.0])) == (False, [1.0, 1.0, 1.0])


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
def test_gpu_benchmark_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROWS", (64, 128))
    assert gpu.main([str(tmp_path), "--megabytes", "0.01", "--budget", "0"]) == 0
    (record,) = tmp_path.glob("gpu-*.md")
    lines = record.read_text().splitlines()
    cells = [line.split("|")[1:-1] for line in lines if re.match(r"\| b?float\d+ \|", line)]
    assert len(cells) == len(gpu.DTYPES) * 2
    assert all(len(row) >= 6 for row in cells), "a contender failed"
    names = " | ".join(gpu.FORMULATIONS)
    assert any(f"{names} | jax.jit of the formula | copy" in line for line in lines)


def test_formulations_for_gpu() -> None:
    """All are right where the textbook formula is not; ours alone is one sum without a choice."""
    x = np.array([[3, 4], [3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    for function in gpu.FORMULATIONS.values():
        for rows in (x, x[:1]):
            want = [[0.6, 0.8]] * 3 + [[0, 0]]
            np.testing.assert_allclose(jax.jit(function)(rows), want[: len(rows)], rtol=1e-6)
    _, _, ours, three, rescued, naive = gpu.programs()
    assert ours == "| l2multi | 1 | 0 | 0 | yes |"
    assert naive == "| x / norm, not safe | 1 | 0 | 0 | no |"
    assert [int(cell) for cell in three.split("|")[2:5]] == [3, 4, 0]
    assert [int(cell) for cell in rescued.split("|")[2:5]] == [5, 4, 1]


def test_jax_on_a_cpu_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At tiny size: every shape has its line, and every contender its time."""
    monkeypatch.setattr(cpu_jax, "SHAPES", ("1x8", "20x30"))
    assert cpu_jax.main([str(tmp_path), "--budget", "0"]) == 0
    (record,) = tmp_path.glob("cpu-jax-*.md")
    cells = [line for line in record.read_text().splitlines() if line.startswith(("| 1x8", "| 20"))]
    assert len(cells) == 2
    assert all(line.count("|") == len(cpu_jax.VALUES | cpu_jax.GRADIENTS) + 5 for line in cells)
