"""Recommend films: "who liked this also liked", where popularity decides, and where it does not.

    pip install --no-deps recbole
    python examples/recommendation.py

The package brings MovieLens 100k, the 100,000 ratings of 1,682 films by 943 people that GroupLens
collected (Harper and Konstan, ACM Trans. Interact. Intell. Syst. 5, 2015, doi:10.1145/2827872); it
is not imported, only read. A film is a sparse vector with a 1 for each person who gave it 4 or 5
stars. The inner product of two films counts the people who liked both, so a film that everyone
likes is close to every film. Between unit vectors it is the cosine, and what counts is which people
liked a film, not how many.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

import l2multi as l2

FEWEST = 5  # likes of a film that takes part
SHOWN = 10  # films that are recommended for each
TITLES = ("Ghost in the Shell", "Wrong Trousers", "Alien (")


class Films(NamedTuple):
    """Films that are liked often enough."""

    titles: list[str]
    genres: list[set[str]]
    likes: Any  # sparse, (films, people)


def folder() -> Path:
    """Where the package keeps the ratings."""
    return Path(find_spec("recbole").submodule_search_locations[0]) / "dataset_example/ml-100k"


def read(path: Path) -> Films:
    """The films, from the two files of ratings and titles."""
    ratings = np.loadtxt(path / "ml-100k.inter", skiprows=1, usecols=(0, 1, 2)).astype(int)
    people, films = (ratings[ratings[:, 2] >= 4][:, column] for column in (0, 1))
    count = np.bincount(films)
    kept = np.flatnonzero(count >= FEWEST)
    likes = sparse.csr_array((np.ones(len(films)), (films, people)))[kept]
    lines = (path / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1:]
    known = {int(key): rest for key, *rest in (line.split("\t") for line in lines)}
    return Films(
        [f"{known[film][0]} ({known[film][1]})" for film in kept],
        [set(known[film][2].split()) for film in kept],
        likes,
    )


def recommended(vectors: Any) -> Any:
    """For each film the others with the largest inner products, best first."""
    similarity = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :SHOWN]


def ways(films: Films) -> dict[str, Any]:
    """What is recommended for each film, by inner product and by cosine."""
    return {
        "inner product": recommended(films.likes),
        "cosine": recommended(l2.normalize(films.likes)),
    }


def popular(films: Films, most: int = 50) -> Any:
    """Which films are the best liked."""
    found = np.zeros(len(films.titles), bool)
    found[np.argsort(-films.likes.sum(1), kind="stable")[:most]] = True
    return found


def figures(films: Films, lists: Any) -> tuple[float, float, float]:
    """How many recommendations are one of the 50 best liked films, how many films are ever
    recommended, and how many genres a film shares with its recommendations (over either's)."""
    shared = []
    for film, row in enumerate(lists):
        for other in row:
            one, two = films.genres[film], films.genres[other]
            shared.append(len(one & two) / len(one | two))
    often = float(popular(films)[lists].mean())
    return often, len(np.unique(lists)) / len(lists), float(np.mean(shared))


def draw(file: str, films: Films) -> None:
    """How often a film is recommended, by how many like it."""
    from drawing import figure, save

    shape, both = figure(2, sharey=True)
    for axes, (way, lists), color in zip(both, ways(films).items(), ("C1", "C0"), strict=True):
        times = np.bincount(lists.ravel(), minlength=len(lists))
        axes.plot(films.likes.sum(1), times, ".", color=color, alpha=0.5, rasterized=True)
        axes.set(xlabel="people who like a film", title=way, xscale="log", yscale="symlog")
        axes.set_ylim(0, 2000)
    both[0].set_ylabel("times it is recommended")
    save(shape, file)


def main() -> None:
    """Print the figures, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", help="where to draw the plot")
    options = parser.parse_args()
    films = read(folder())
    print(
        f"{len(films.titles)} films with at least {FEWEST} likes, {SHOWN} recommendations for each"
    )
    for way, lists in ways(films).items():
        often, ever, shared = figures(films, lists)
        print(f"by {way}")
        print(f"  recommendations among the 50 best liked films {often:.1%}")
        print(f"  films that are ever recommended               {ever:.1%}")
        print(f"  genres in common                              {shared:.1%}")
        for title in TITLES:
            film = next(i for i, name in enumerate(films.titles) if name.startswith(title))
            first = "; ".join(films.titles[other] for other in lists[film][:3])
            print(f"  {films.titles[film]}: {first}")
    if options.draw:
        draw(options.draw, films)


if __name__ == "__main__":
    main()
