"""Ours and others' results where those are right: float64 (and torch's float32) of moderate sizes.

``python -m benchmarks.differential`` prints a line for each peer: how many numbers were compared,
and the largest difference, in units of the last place of the larger.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2

SHAPES = ((1, 3), (7, 1), (64, 33), (33, 768), (500, 100), (3, 4096))
ROUNDS = 20

Array = np.ndarray[Any, Any]


class Peer(NamedTuple):
    """Who is compared: what it is called, the library that it needs, the dtype, and what it gives
    and we give for a matrix."""

    name: str
    needs: str
    dtype: str
    theirs: Callable[[Any, Array], Any]
    ours: Callable[[Array], Any]


def _sparse(x: Array) -> Any:
    """With every third entry left out."""
    return importlib.import_module("scipy.sparse").csr_array(np.where(_third(x), 0, x))


def _third(x: Array) -> Array:
    found: Array = np.indices(x.shape).sum(axis=0) % 3 == 1
    return found


def _torch_unit(torch: Any, x: Array) -> Any:
    return torch.nn.functional.normalize(torch.from_numpy(x), dim=-1, eps=0.0).numpy()


def _ours_torch(x: Array) -> Any:
    return l2.normalize(importlib.import_module("torch").from_numpy(x)).numpy()


def _optax_norm(optax: Any, x: Array) -> Any:
    with importlib.import_module("jax").enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer names for it
        return np.asarray(optax.global_norm({"a": x[:, :1], "b": x[:, 1:]}))


def _ours_tree(x: Array) -> Any:
    with importlib.import_module("jax").enable_x64(True):
        jax = importlib.import_module("l2multi.jax")
        return np.asarray(jax.global_norm({"a": x[:, :1], "b": x[:, 1:]}))


PEERS = (
    Peer("numpy.linalg.norm", "numpy", "float64",
         lambda np, x: np.linalg.norm(x, axis=-1), l2.norm),
    Peer("numpy.linalg.norm of columns", "numpy", "float64",
         lambda np, x: np.linalg.norm(x, axis=0), lambda x: l2.norm(x, 0)),
    Peer("x / numpy.linalg.norm(x)", "numpy", "float64",
         lambda np, x: x / np.linalg.norm(x, axis=-1, keepdims=True), l2.normalize),
    Peer("sklearn.preprocessing.normalize", "sklearn.preprocessing", "float64",
         lambda sk, x: sk.normalize(x), l2.normalize),
    Peer("torch.nn.functional.normalize", "torch", "float64", _torch_unit, _ours_torch),
    Peer("torch.nn.functional.normalize, float32", "torch", "float32", _torch_unit, _ours_torch),
    Peer("torch.linalg.vector_norm", "torch", "float64",
         lambda torch, x: torch.linalg.vector_norm(torch.from_numpy(x), dim=-1).numpy(), l2.norm),
    Peer("jax.numpy.linalg.norm, float32", "jax", "float32",
         lambda jax, x: np.asarray(jax.numpy.linalg.norm(x, axis=-1)), l2.norm),
    Peer("optax.global_norm", "optax", "float64", _optax_norm, _ours_tree),
    Peer("scipy.sparse.linalg.norm", "scipy.sparse.linalg", "float64",
         lambda linalg, x: linalg.norm(_sparse(x), axis=1), lambda x: l2.norm(_sparse(x))),
    Peer("scipy.linalg.norm", "scipy.linalg", "float64",
         lambda linalg, x: linalg.norm(x.ravel()), lambda x: l2.norm(x, None)),
)  # fmt: skip


def difference(ours: Any, theirs: Any, dtype: str) -> tuple[int, float]:
    """How many numbers, and by how many units of the last place they differ at most."""
    a, b = (np.atleast_1d(np.asarray(y)) for y in (ours, theirs))
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.dtype == b.dtype == dtype, (a.dtype, b.dtype)
    gap = np.abs(a.astype("f8") - b) / np.spacing(np.maximum(np.abs(a), np.abs(b)))
    return a.size, float(gap.max())


def matrices(dtype: str, rounds: int, seed: int = 0) -> Iterator[Array]:
    """Of several shapes, and sizes from a thousandth to a thousand."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        for shape in SHAPES:
            size = 10.0 ** rng.uniform(-3, 3, (shape[0], 1))
            yield (rng.standard_normal(shape) * size).astype(dtype)


def compare(peer: Peer, rounds: int = ROUNDS) -> tuple[int, float]:
    """How many numbers were compared, and the largest difference; an ImportError without it."""
    library = importlib.import_module(peer.needs)
    found = [
        difference(peer.ours(x), peer.theirs(library, x), peer.dtype)
        for x in matrices(peer.dtype, rounds)
    ]
    return sum(n for n, _ in found), max(gap for _, gap in found)


def rows(rounds: int = ROUNDS) -> list[list[str]]:
    """A row for each peer that is installed."""
    found = []
    for peer in PEERS:
        try:
            count, gap = compare(peer, rounds)
        except ImportError:
            continue
        found.append([f"`{peer.name}`", f"{count:,}", f"{gap:.1f}"])
    return found


if __name__ == "__main__":
    for row in rows():
        print(*row, sep="\t")
