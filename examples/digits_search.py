"""Search handwritten digits by cosine: a unit vector each, then one dot product per pair.

    python examples/digits_search.py

1797 digits of 8 x 8 pixels, as they come with scikit-learn. The nearest neighbour of each among
the others names its label. By plain inner product the digits with the most ink win whatever they
look like; between unit vectors the inner product is the cosine, and only the shape counts.
``--save`` writes the pixels to ``digits.npy``, the small real input of the command line.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import l2multi as l2

FILE = Path(__file__).with_name("digits.npy")


def accuracy(vectors: Any, labels: Any) -> float:
    """How often the most similar other vector, by inner product, has the same label."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return float(np.mean(labels[similarity.argmax(axis=1)] == labels))


def compare() -> tuple[float, float]:
    """The accuracy by inner product, and by cosine."""
    pixels, labels = load_digits(return_X_y=True)
    return accuracy(pixels, labels), accuracy(l2.normalize(pixels), labels)


def save(file: Path = FILE) -> None:
    """Write the pixels, whole numbers from 0 to 16, to a ``.npy`` file."""
    np.save(file, load_digits().data.astype(np.uint8))


if __name__ == "__main__":
    if "--save" in sys.argv[1:]:
        save()
        print(f"wrote {FILE}")
    else:
        before, after = compare()
        print("label of the nearest of 1796 other digits is right")
        print(f"  by inner product  {before:.1%}")
        print(f"  by cosine         {after:.1%}")
