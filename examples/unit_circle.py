"""What L2 normalization does to points: each goes to the unit circle, along its own direction.

    python examples/unit_circle.py

The petals of 150 irises, length and width in cm, as they come with scikit-learn. A petal's unit
vector keeps its shape, width over length, and loses its size.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_iris

import l2multi as l2


def petals() -> tuple[Any, Any, list[str]]:
    """Length and width, species by number, and their names."""
    data = load_iris()
    return data.data[:, 2:], data.target, list(data.target_names)


def draw(file: str) -> None:
    """The petals as measured, and their unit vectors."""
    from drawing import figure, save

    x, species, names = petals()
    shape, (left, right) = figure(2)
    for kind, name in enumerate(names):
        left.plot(*x[species == kind].T, "o", markersize=4, alpha=0.6, label=name)
        right.plot(*l2.normalize(x)[species == kind].T, "o", markersize=4, alpha=0.6)
    left.set(xlabel="length of the petal, cm", ylabel="width, cm", xlim=(0, None), ylim=(0, None))
    left.legend()
    turn = np.linspace(0, np.pi / 2)
    right.plot(np.cos(turn), np.sin(turn), color="0.6", linewidth=1, zorder=0)
    right.set(xlabel="length, of the unit vector", ylabel="width", aspect="equal")
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    x, species, names = petals()
    unit, sizes = l2.normalize(x, return_norm=True)
    angles = np.degrees(np.arctan2(unit[:, 1], unit[:, 0]))
    for kind, name in enumerate(names):
        size, angle = sizes[species == kind], angles[species == kind]
        print(
            f"{name:<11} sizes {size.min():.1f} to {size.max():.1f} cm, "
            f"directions {angle.min():.0f} to {angle.max():.0f} degrees"
        )
    if options.draw:
        draw(options.draw)


if __name__ == "__main__":
    main()
