"""The README's code runs, and what it and the page of details say is so."""

import re
import shlex
from pathlib import Path

import numpy as np

import l2multi as l2
from l2multi import _containers, _formats

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DETAILS = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")


def fenced(language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_runs():
    """The lines of use do what their comments say."""
    (code,) = fenced("python")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert l2.is_normalized(names["unit"]).all()
    assert names["norms"].shape == (1000,)
    assert names["columns"] is names["x"]
    assert l2.is_normalized(names["x"], axis=0).all()


def test_commands_name_what_is_there():
    """The main job's input exists, and the test command is one line that runs pytest."""
    _, job, test = fenced("sh")
    assert "examples/digits.npy" in shlex.split(job)
    assert np.load(Path(__file__).parents[1] / "examples/digits.npy").shape == (1797, 64)
    assert test.count("\n") == 1
    assert "-m pytest" in test


def test_quick_selection(pytestconfig):
    """The mark that the README selects by is one of the suite's."""
    (mark,) = re.findall(r"`-m (\w+)`", README)
    assert mark in [line.partition(":")[0] for line in pytestconfig.getini("markers")]


def test_table_of_peers():
    """The last row is what l2multi returns."""
    row = re.search(r"^\| \*\*`l2multi.normalize`\*\* \|(.*)\|$", README, re.MULTILINE)
    cells = [cell.strip() for cell in row[1].split("|")]
    inputs = [("f8", 1e200), ("f8", 1e-200), ("f4", 1e30), ("f4", 1e-30), ("f2", 100), ("f2", 0)]
    for cell, (dtype, size) in zip(cells, inputs, strict=True):
        unit = l2.normalize(np.array([3 * size, 4 * size], dtype))
        assert cell == ", ".join(f"{value:.3g}" for value in unit.tolist())


def test_table_of_containers():
    """It is the one that the table of containers makes: ``_containers.table()``."""
    assert _containers.table() in DETAILS


def test_the_table_of_files_is_the_code():
    """``_formats.table()``."""
    assert _formats.table() in DETAILS
