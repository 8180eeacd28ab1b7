"""What other ways to normalize return on hard input: the table at the top of the README.

``python -m benchmarks.peers --write README.md`` replaces it; a file is not changed before all is
done. A peer that is not installed keeps out of it (and is named on stderr): the whole table wants
``pip install scikit-learn jax torch keras faiss-cpu onnx onnxruntime``.
"""

import argparse
import os
import warnings
from pathlib import Path

import numpy as np

from benchmarks.common import Work
from benchmarks.contenders import OURS, Peer, installed, named, versions

# The rows of the table have one column for each of these, and one right answer: 0.6, 0.8.
HARD: dict[str, tuple[str, list[float]]] = {
    "float64 [3e200, 4e200]": ("float64", [3e200, 4e200]),
    "float64 [3e-200, 4e-200]": ("float64", [3e-200, 4e-200]),
    "float32 [3e30, 4e30]": ("float32", [3e30, 4e30]),
    "float32 [3e-30, 4e-30]": ("float32", [3e-30, 4e-30]),
    "float16 [300, 400]": ("float16", [300, 400]),
    "float16 [0, 0]": ("float16", [0, 0]),
}
TITLES = {
    "jax.jit": "`x / jnp.linalg.norm(x)` in JAX",
    "scikit-learn": "`sklearn.preprocessing.normalize`",
    "torch": "`torch.nn.functional.normalize`",
    "keras": "`keras.ops.normalize`",
    "faiss": "`faiss.normalize_L2`",
    "ONNX Runtime": "ONNX Runtime `LpNormalization`",
    "x / np.linalg.norm(x)": "`x / numpy.linalg.norm(x)`",
    "l2multi": "**`l2multi.normalize`**",
}


def cell(peer: Peer, dtype: str, values: list[float]) -> str:
    """What a peer makes of a vector, in a few characters."""
    x = np.array([values], dtype)
    try:
        y = peer.host(peer.build(Work(), x)())
    except ImportError:
        raise
    except Exception as error:  # what a peer raises is what the table is to show
        return type(error).__name__
    a, b = y.ravel().tolist()
    text = f"{a:.3g}" if np.isnan([a, b]).all() or a == b != 0 else f"{a:.3g}, {b:.3g}"
    return text if y.dtype == x.dtype else f"{text} ({y.dtype})"


def table() -> str:
    """The table in Markdown."""
    found = [*installed(named(*TITLES)), OURS]
    lines = ["| way | " + " | ".join(HARD) + " |", "| --- |" + " --- |" * len(HARD)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for peer in found:
            cells = [cell(peer, dtype, values) for dtype, values in HARD.values()]
            lines.append(f"| {TITLES[peer.name]} | " + " | ".join(cells) + " |")
    known = ", ".join(f"{name} {version}" for name, version in versions(found).items())
    return "\n".join([*lines, "", f"Made by `python -m benchmarks.peers` with {known}."])


BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def around(path: Path) -> tuple[str, str]:
    """What a file has before the table and after it; a ValueError where it has no place for one."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}")
    return before + begin, end + after


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or put it into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="README.md", help="the file to put it into")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when jax is imported, which is later
    if not options.write:
        print(table())
        return
    try:
        before, after = around(options.write)
    except (OSError, ValueError) as error:
        parser.error(f"--write: {error}")
    options.write.write_text(f"{before}\n{table()}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
