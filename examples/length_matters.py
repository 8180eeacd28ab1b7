"""Where the length of a vector means something, normalizing loses it.

    python examples/length_matters.py

569 samples of cell nuclei, as they come with scikit-learn: ten measurements of the largest nuclei
of each (radius, perimeter, area, concavity, ...), and whether the growth was malignant. Features
are scaled by their norm, so each counts. Then the length of a sample is how far beyond ordinary its
nuclei are, in all respects together, and that is what a doctor looks for. Unit vectors of samples
have lost it.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import l2multi as l2
from l2multi.sklearn import L2Normalizer, L2Scaler


def samples() -> tuple[Any, Any]:
    """The ten measurements, and which samples were benign."""
    data = load_breast_cancer()
    worst = [name.startswith("worst") for name in data.feature_names]
    return data.data[:, worst], data.target


def length(x: Any) -> Any:
    """The lengths alone."""
    return l2.norm(x, keepdims=True)


def both(x: Any) -> Any:
    """The unit vectors, and the lengths beside them."""
    return np.column_stack(l2.normalize(x, return_norm=True))


WAYS = {
    "samples as they are": (),
    "unit vectors": (L2Normalizer(),),
    "lengths alone": (FunctionTransformer(length),),
    "unit vectors and lengths": (L2Scaler(scale="block"), FunctionTransformer(both)),
}


def compare() -> dict[str, float]:
    """How often the 5 nearest samples tell malignant from benign, over 10 folds."""
    x, benign = samples()
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    return {
        way: float(
            cross_val_score(
                make_pipeline(L2Scaler(), *steps, KNeighborsClassifier(5)), x, benign, cv=folds
            ).mean()
        )
        for way, steps in WAYS.items()
    }


def draw(file: str) -> None:
    """The lengths of benign and malignant samples, and what each way gets wrong."""
    from drawing import figure, save

    x, benign = samples()
    lengths = l2.norm(make_pipeline(L2Scaler(), L2Scaler(scale="block")).fit_transform(x))
    shape, (left, right) = figure(2)
    edges = np.linspace(lengths.min(), lengths.max(), 40)
    left.hist(lengths[benign == 1], edges, color="C0", alpha=0.7, label="benign")
    left.hist(lengths[benign == 0], edges, color="C1", alpha=0.7, label="malignant")
    left.set(xlabel="length of a sample, over the mean", ylabel="samples")
    left.legend()
    wrong = {way: 100 * (1 - share) for way, share in compare().items()}
    bars = right.barh(list(wrong), list(wrong.values()), color=["C0", "C1", "0.6", "C0"])
    right.bar_label(bars, fmt="%.1f %%", padding=3)
    right.invert_yaxis()
    right.set(xlabel="samples named wrongly, in %", xlim=(0, 10))
    right.grid(False)
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    print("malignant or benign, rightly named by the 5 nearest samples, 10-fold cross-validation")
    for way, share in compare().items():
        print(f"  {way:<25}{share:.1%}")
    if options.draw:
        draw(options.draw)


if __name__ == "__main__":
    main()
