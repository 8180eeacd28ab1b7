"""Scale each feature by its L2 norm before measuring distances between wines.

    python examples/wine_scaling.py

178 wines of three growers, 13 measurements each, as they come with scikit-learn. Proline counts in
hundreds and nonflavanoid phenols in tenths, so that the Euclidean distance is a difference of
proline and little else. Divided by its norm over the training wines, each feature counts. The
norms never see the wines that are tested. Standardizing, for comparison, takes the mean away too.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import l2multi as l2
from l2multi.sklearn import L2Scaler


def accuracy(*steps: Any) -> float:
    """How often the 5 nearest wines name the grower rightly, over 10 folds."""
    wines, growers = load_wine(return_X_y=True)
    scores = []
    for train, test in StratifiedKFold(10, shuffle=True, random_state=0).split(wines, growers):
        model = make_pipeline(*steps, KNeighborsClassifier(5)).fit(wines[train], growers[train])
        scores.append(model.score(wines[test], growers[test]))
    return float(np.mean(scores))


def compare() -> tuple[float, float]:
    """The accuracy before and after scaling."""
    return accuracy(), accuracy(L2Scaler())


def shares(wines: Any) -> Any:
    """What each feature contributes to the squared distances between wines, of 1."""
    return wines.var(axis=0) / wines.var(axis=0).sum()


def draw(file: str) -> None:
    """The contributions of the features, and the accuracies."""
    from drawing import figure, save

    data = load_wine()
    names = [name.partition("/")[0].replace("_", " ") for name in data.feature_names]
    shape, (left, right) = figure(2, 3.8, gridspec_kw={"width_ratios": [1.6, 1]})
    place = np.arange(len(names))
    left.barh(place - 0.2, 100 * shares(data.data), 0.4, color="C1", label="as measured")
    after = shares(l2.normalize(data.data, axis=0))
    left.barh(place + 0.2, 100 * after, 0.4, color="C0", label="divided by their norms")
    left.set_yticks(place, names)
    left.invert_yaxis()
    left.set(xlabel="share of the squared distance between wines, in %")
    left.legend()
    found = dict(zip(("as measured", "divided\nby norms"), compare(), strict=True))
    found["standardized"] = accuracy(StandardScaler())
    bars = right.bar(
        list(found), [100 * share for share in found.values()], color=["C1", "C0", "0.6"]
    )
    right.bar_label(bars, fmt="%.1f %%")
    right.set(ylabel="growers named rightly, in %", ylim=(0, 105))
    right.grid(False)
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    data = load_wine()
    sizes = l2.norm(data.data, axis=0)
    before, after = compare()
    print(f"norms of the 13 features, from {sizes.min():.3g} to {sizes.max():.3g}")
    print("share of the largest feature in the squared distances between wines")
    print(f"  features as measured           {shares(data.data).max():.1%}")
    print(f"  features divided by their norm {shares(data.data / sizes).max():.1%}")
    print("grower named right by the 5 nearest wines, 10-fold cross-validation")
    print(f"  features as measured           {before:.1%}")
    print(f"  features divided by their norm {after:.1%}")
    print(f"  features standardized          {accuracy(StandardScaler()):.1%}")
    if options.draw:
        draw(options.draw)


if __name__ == "__main__":
    main()
