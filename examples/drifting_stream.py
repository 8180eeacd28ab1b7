"""Normalize data that changes and data that grows.

    python examples/drifting_stream.py

Two streams of real numbers, as they come with scikit-learn.

Handwritten digits are read by a scanner whose lamp fades: from batch to batch the pixels get
weaker, down to a fifth (the fading is ours, the digits are real). A classifier has learned from the
first 597. A unit vector needs no statistics, so a weak digit has the unit vector of a strong one,
while a mean and a deviation learned at the beginning are soon out of date.

The 30 measurements of 569 samples of cell nuclei arrive in batches of any size. Scales of features
are statistics, and `L2Scaler.partial_fit` learns them as the data grow: whatever the batches, with
the bits of one fit.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l2multi.sklearn import L2Normalizer, L2Scaler

LEARNED, BATCH = 597, 100
LIGHT = np.linspace(1, 0.2, 12)
WAYS: dict[str, tuple[Any, ...]] = {
    "as measured": (),
    "standardized": (StandardScaler(),),
    "unit vectors": (L2Normalizer(),),
}


def fading() -> dict[str, list[float]]:
    """How often the 5 nearest of the first digits name a digit rightly, batch by batch."""
    pixels, labels = load_digits(return_X_y=True)
    found = {}
    for way, steps in WAYS.items():
        model = make_pipeline(*steps, KNeighborsClassifier(5))
        model.fit(pixels[:LEARNED], labels[:LEARNED])
        batches = [slice(start, start + BATCH) for start in range(LEARNED, len(labels), BATCH)]
        found[way] = [
            float(model.score(pixels[batch] * light, labels[batch]))
            for batch, light in zip(batches, LIGHT, strict=True)
        ]
    return found


def in_batches(scaler: Any, samples: Any, size: int) -> Any:
    """A scaler that has seen samples some at a time."""
    for start in range(0, len(samples), size):
        scaler.partial_fit(samples[start : start + size])
    return scaler


def splits(sizes: tuple[int, ...] = (1, 7, 32, 100)) -> dict[str, list[int]]:
    """How many of the 30 scales differ from those of one fit, for each size of batches."""
    samples = load_breast_cancer().data
    found: dict[str, list[int]] = {}
    for scaler, scales in ((L2Scaler, "norms_"), (StandardScaler, "scale_")):
        whole = getattr(scaler().fit(samples), scales)
        found[scaler.__name__] = [
            int(np.sum(getattr(in_batches(scaler(), samples, size), scales) != whole))
            for size in sizes
        ]
    return found


def growing(size: int = 32) -> tuple[list[int], Any]:
    """How many samples have been seen, and the features' scales (the root of the mean square) over
    those of all samples."""
    samples = load_breast_cancer().data
    scaler, seen, scales = L2Scaler(), [], []
    for start in range(0, len(samples), size):
        scaler.partial_fit(samples[start : start + size])
        seen.append(scaler.n_samples_seen_)
        scales.append(scaler.norms_ / np.sqrt(scaler.n_samples_seen_))
    return seen, np.array(scales) / scales[-1]


def draw(file: str) -> None:
    """Accuracy while the light fades, and scales while the data grow."""
    from drawing import figure, save

    shape, (left, right) = figure(2)
    for (way, shares), color in zip(fading().items(), ("0.6", "C1", "C0"), strict=True):
        left.plot(LIGHT, shares, "o-", color=color, label=way)
    left.invert_xaxis()
    left.set(xlabel="light left", ylabel="digits named rightly", ylim=(0, 1))
    left.legend(loc="lower left")
    seen, scales = growing()
    right.plot(seen, scales, color="C0", alpha=0.5, linewidth=1)
    right.set(xlabel="samples seen", ylabel="scale of a feature, over the last")
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    print("digits named rightly by the 5 nearest of the first 597: in full light, in a fifth of it")
    for way, shares in fading().items():
        print(f"  {way:<13}{shares[0]:.1%}  {shares[-1]:.1%}")
    print("scales of 30 features that differ from those of one fit, in batches of 1, 7, 32, 100")
    for scaler, counts in splits().items():
        print(f"  {scaler:<15}" + "".join(f"{count:4}" for count in counts))
    seen, scales = growing()
    for count, row in zip(seen, scales, strict=True):
        if count in (32, 128, 512):
            print(f"scales after {count} samples: within {abs(row - 1).max():.1%} of the last ones")
    if options.draw:
        draw(options.draw)


if __name__ == "__main__":
    main()
