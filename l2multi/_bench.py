"""How fast this machine is: the backends side by side with what people write without them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import l2multi
from l2multi import _backends

SHAPES = ((1, 128), (1000, 768), (100_000, 768))
QUICK = SHAPES[:2]

# Between two contenders, for teams of threads spin that long after their work.
REST = 0.015


class Cell(NamedTuple):
    """One contender in one place: the median time of a call, and how many vectors a second."""

    shape: tuple[int, int]
    dtype: str
    contender: str
    seconds: float
    vectors_per_second: float
    against_formula: float


def formula(x: Any) -> Any:
    """What people write."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def contenders(x: Any) -> dict[str, Callable[[Any], Any]]:
    """The formula, and each backend that is installed here and takes such arrays."""
    found: dict[str, Callable[[Any], Any]] = {"x / numpy.linalg.norm(x)": formula}
    for name in _backends.NAMES:
        call = _by(name)
        try:
            call(x[:1])
        except (ImportError, TypeError, ValueError):  # not installed, or not for such arrays
            continue
        found[f"l2multi, {name}"] = call
    return found


def _by(name: str) -> Callable[[Any], Any]:
    return lambda x: l2multi.normalize(x, backend=name)


def run(quick: bool, seconds: float = 1.0) -> Iterator[Cell]:
    """Each cell when it was measured; the contenders of one take turns for about so long each."""
    rng = np.random.default_rng(0)
    for shape in QUICK if quick else SHAPES:
        for dtype in ("float32", "float64"):
            x = rng.standard_normal(shape).astype(dtype)
            yield from _side_by_side(x, 0.2 if quick else seconds)


def _side_by_side(x: Any, seconds: float) -> Iterator[Cell]:
    times: dict[str, list[float]] = {}
    calls = contenders(x)
    for call in calls.values():
        call(x)
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            time.sleep(REST)
            number = max(1, 20_000 // x.size)
            start = time.perf_counter()
            for _ in range(number):
                call(x)
            times.setdefault(name, []).append((time.perf_counter() - start) / number)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        yield Cell(x.shape, x.dtype.name, name, median, len(x) / median, first / median)
