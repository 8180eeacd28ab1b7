"""On an accelerator: l2multi against what people write in JAX and torch, and the device's own copy.

``python -m benchmarks.gpu DIRECTORY`` writes ``gpu-CHIP-DATE.md`` there: what each formulation is
to the compiler, and a table of the bandwidth reached, in GB/s of bytes read and written, and as a
share of that of a copy from device to device. All contenders run in one process, in turns. torch
takes part where it is installed and sees a GPU (on a machine without one, torch and JAX are both
compared on the CPU, which is what the tests do).
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

DTYPES = ("float32", "bfloat16", "float16")
ROWS = tuple(2**k for k in range(6, 17))  # elements of a vector
MEGABYTES = (1, 8, 64, 512, 8192)
COPY = "copy"

Call = Callable[[], Any]


def naive(x: jax.Array) -> jax.Array:
    """What most people write."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def three_sums(x: jax.Array) -> jax.Array:
    """Safe in float32: squares of x, of x times a large power of two and over it, in one pass."""
    wide, up, down = x.astype(np.float32), 2.0**96, 2.0**-96
    plain, more, less = (
        jnp.square(wide * scale).sum(-1, keepdims=True) for scale in (1.0, up, down)
    )
    small, fits = plain < 2.0**-66, plain < jnp.inf
    root = jnp.sqrt(jnp.where(small, more, jnp.where(fits, plain, less)))
    scale = jnp.where(small, up, jnp.where(fits, 1.0, down))
    return (wide * scale / jnp.where(root == 0, 1.0, root)).astype(x.dtype)


def rescue(x: jax.Array) -> jax.Array:
    """Safe in float32: one sum, and `three_sums` where that has left the range in any row."""
    wide = x.astype(np.float32)
    plain = jnp.square(wide).sum(-1, keepdims=True)
    safe = ((plain >= 2.0**-66) & (plain < jnp.inf)).all()
    y: jax.Array = lax.cond(
        safe, lambda: (wide / jnp.sqrt(plain)).astype(x.dtype), lambda: three_sums(x)
    )
    return y


# Ways to be right for every vector; that of l2multi is one sum in float64, where there is float64.
FORMULATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l2multi": lambda x: l2.normalize(x),
    "three float32 sums": three_sums,
    "one, and three if needed": rescue,
}


def programs() -> Iterator[str]:
    """A table of what the formulations are lowered to for CUDA, which needs no GPU: XLA makes one
    kernel, that reads and writes memory once, of one sum and no choice between operands."""
    yield "| float32 rows, for CUDA | sums | selects | branches | float64 |"
    yield "| --- " * 5 + "|"
    x = jax.ShapeDtypeStruct((4096, 1024), np.float32)
    for name, function in {**FORMULATIONS, "x / norm, not safe": naive}.items():
        text = jax.jit(function).trace(x).lower(lowering_platforms=("cuda",)).as_text()
        counts = (text.count(f"stablehlo.{op}") for op in ("reduce(", "select", "case"))
        yield f"| {name} | {' | '.join(map(str, counts))} | {'yes' if 'f64>' in text else 'no'} |"


def ready(function: Callable[[Any], Any], x: jax.Array) -> Call:
    """A call that waits for its result."""
    return lambda: function(x).block_until_ready()


def torch_calls(x: np.ndarray[Any, Any], dtype: str) -> dict[str, Call]:
    """Torch, eager and compiled, on the same numbers; none where it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and jax.default_backend() != "cpu":
        return {}
    t = torch.from_numpy(x.astype(np.float32)).to(device, getattr(torch, dtype))

    def waited(function: Callable[[Any], Any]) -> Call:
        def call() -> None:
            function(t)
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    eager = torch.nn.functional.normalize
    calls = {"torch eager": waited(lambda t: eager(t, dim=-1))}
    if device == "cuda":  # on a CPU it asks for a C++ compiler
        calls["torch.compile"] = waited(torch.compile(lambda t: eager(t, dim=-1)))
    return calls


def cell(megabytes: float, n: int, dtype: str, budget: float) -> dict[str, float]:
    """GB/s of each contender on an array of this size with vectors of n elements."""
    kind = common.dtype_of(dtype)
    rows = max(1, int(megabytes * 1e6 / kind.itemsize / n))
    key = jax.random.key(0)
    x = jax.random.normal(key, (rows, n), kind).block_until_ready()
    calls = {
        **{name: ready(jax.jit(function), x) for name, function in FORMULATIONS.items()},
        "jax.jit of the formula": ready(jax.jit(naive), x),
        COPY: ready(jax.jit(jnp.copy), x),
        **torch_calls(np.asarray(x), dtype),
    }
    times = common.interleave(calls, budget)
    return {name: 2 * x.nbytes / float(np.median(t)) / 1e9 for name, t in times.items()}


def table(sizes: tuple[float, ...], budget: float) -> Iterator[str]:
    """The lines of the record."""
    chip = jax.devices()[0].device_kind
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield f"# {chip}, {today}"
    yield ""
    yield f"`python -m benchmarks.gpu`, commit {race.commit()}, jax {jax.__version__}."
    yield ""
    yield from programs()
    yield ""
    yield "GB/s read and written (medians), and in parentheses the share of the device copy's."
    names: list[str] = []
    for dtype in DTYPES:
        for megabytes in sizes:
            for n in ROWS:
                try:
                    found = cell(megabytes, n, dtype, budget)
                except Exception as error:  # mostly: no such memory
                    yield f"| {dtype} | {megabytes:g} | {n} | {type(error).__name__} |"
                    continue
                if list(found) != names:
                    names = list(found)
                    yield ""
                    yield f"| dtype | MB | row | {' | '.join(names)} |"
                    yield "| --- " * (len(names) + 3) + "|"
                shown = (f"{v:.3g} ({v / found[COPY]:.2f})" for v in found.values())
                yield f"| {dtype} | {megabytes:g} | {n} | {' | '.join(shown)} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--megabytes", type=float, nargs="+", default=MEGABYTES)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a cell [1]")
    options = parser.parse_args(arguments)
    if min(options.megabytes) <= 0:
        parser.error(f"--megabytes {options.megabytes}: expected sizes above 0")
    lines = list(table(tuple(options.megabytes), options.budget))
    name = "".join(c if c.isalnum() else "-" for c in lines[0].lower().strip("# "))
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / f"gpu-{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
