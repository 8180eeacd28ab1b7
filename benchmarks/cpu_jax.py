"""On a CPU in JAX: l2multi, eager and under jit, against what people write, and gradients of both.

``python -m benchmarks.cpu_jax DIRECTORY`` writes ``cpu-jax-DATE.md`` there: medians in microseconds
of turns in one process, and how many times faster l2multi is than the faster of two formulas.
"""

import argparse
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import l2multi as l2
from benchmarks import common, race
from l2multi import _registry

SHAPES = (
    "1x128", "1x768", "100x128", "100x768", "1000x128", "1000x768", "10000x128", "10000x768",
    "100000x768",
)  # fmt: skip


def divided(x: jax.Array) -> jax.Array:
    """What most people write."""
    y: jax.Array = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return y


def multiplied(x: jax.Array) -> jax.Array:
    """What some write for speed."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def gradient(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Of a weighted sum of all elements."""
    found: Callable[..., jax.Array] = jax.jit(jax.grad(lambda x, w: (function(x) * w).sum()))
    return found


VALUES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l2multi": l2.normalize,
    "l2multi under jit": jax.jit(lambda x: l2.normalize(x)),
    "x / norm": jax.jit(divided),
    "x * rsqrt": jax.jit(multiplied),
}
GRADIENTS = {
    "gradient of l2multi": gradient(l2.normalize),
    "gradient of x / norm": gradient(divided),
}


def cell(shape: str, budget: float) -> dict[str, float]:
    """Microseconds of each contender."""
    rng, size = np.random.default_rng(0), tuple(map(int, shape.split("x")))
    x, w = (jnp.asarray(rng.standard_normal(size).astype(np.float32)) for _ in range(2))
    calls: dict[str, Any] = {
        name: lambda f=function: f(x).block_until_ready() for name, function in VALUES.items()
    }
    for name, function in GRADIENTS.items():
        calls[name] = lambda f=function: f(x, w).block_until_ready()
    # After a pause, calls of 10 us take longer for more than 1 ms.
    times = common.interleave(calls, budget, longer=4)
    return {name: float(np.median(t)) * 1e6 for name, t in times.items()}


def table(budget: float) -> Iterator[str]:
    """The lines of the record."""
    yield f"# JAX on a CPU, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
    yield ""
    yield (
        f"float32 on {race.machine()['cpu']}, {common.cores()} cores; commit {race.commit()},"
        f" jax {jax.__version__}; made by `python -m benchmarks.cpu_jax`,"
        " with memory kept by malloc."
    )
    yield ""
    names = [*VALUES, *GRADIENTS]
    heads = [f"{name}, us" for name in names]
    heads += ["eager, times as fast", "jit, times as fast", "gradient, our time / the formula's"]
    yield f"| rows x length | {' | '.join(heads)} |"
    yield "| --- " * (len(names) + 4) + "|"
    cell(SHAPES[0], budget)  # the first seconds of a process are slower, for all twofold
    ratios = []
    for shape in SHAPES:
        times = cell(shape, budget)
        ours, traced, first, second, turned, other = times.values()
        best = min(first, second)
        ratios.append((best / ours, best / traced, turned / other))
        shown = [f"{t:.3g}" if t < 1000 else f"{t:.0f}" for t in times.values()]
        shown += [f"{ratio:.2f}" for ratio in ratios[-1]]
        yield f"| {shape} | {' | '.join(shown)} |"
    means = np.exp(np.log(ratios).mean(0))
    yield f"| geometric mean {'| ' * len(names)}| {' | '.join(f'{m:.2f}' for m in means)} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds a shape [3]")
    options = parser.parse_args(arguments)
    for work in ("rows", "turn"):  # nothing here shall wait for a compiler, nor do without
        _registry.load("numba").for_xla(np.dtype("f4"), np.dtype("f4"), work)
    common.keep_memory()
    lines = list(table(options.budget))
    options.directory.mkdir(parents=True, exist_ok=True)
    name = f"cpu-jax-{lines[0].rsplit(maxsplit=1)[-1]}.md"
    (options.directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
