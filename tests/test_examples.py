"""The examples run as their headers say, and show what they claim."""

import importlib.util
import os
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
    assert shown == [f"{share:.1%}" for share in load(name).compare()]
    readme = (EXAMPLES / "README.md").read_text()
    assert all(share.replace("%", " %") in readme for share in shown)


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
