"""The options that commands share, and what parses them. Imports typer."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from l2multi import _backends
from l2multi.formats.npy import NAMELESS


def path(text: str) -> str:
    """The path of a file."""
    if text == "-":
        raise typer.BadParameter(
            "expected the path of a file: standard input and output cannot be read and written in "
            "parts; a file called - is ./-"
        )
    return text


def axis(text: str) -> Any:
    """The value of ``--axis``."""
    if text in ("all", "none"):
        return ()
    try:
        axes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected an int, ints with commas, or all, got {text!r}"
        ) from None
    return axes


def axes_of(axis: Any) -> Any:
    """What ``--axis`` means: the parser cannot give None."""
    return None if axis == () else axis[0] if len(axis) == 1 else axis


def choice(choices: Sequence[str], help: str, *names: str, metavar: str | None = None) -> Any:
    """An option that is one of these words, which a shell can complete."""

    def parse(text: str) -> str:
        if text not in choices:
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {text!r}")
        return text

    return typer.Option(
        *names, help=help, parser=parse, metavar=metavar or "|".join(choices),
        autocompletion=lambda incomplete: [word for word in choices if word.startswith(incomplete)],
    )  # fmt: skip


Source = Annotated[str, typer.Argument(metavar="IN", parser=path, show_default=False)]
Axis = Annotated[
    Any,
    typer.Option(
        parser=axis,
        metavar="AXIS",
        help="The axis or axes over which a vector extends: -1, 0, 0,1 or all.",
    ),
]
Tensor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which tensor, array or dataset of a file with several; the others are carried "
        "through.",
    ),
]
Column = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which column of a table with several.")
]
Dims = Annotated[
    int | None,
    typer.Option(metavar="K", help="Take the first K elements of each vector, and no others."),
]
DtypeIn = Annotated[
    str | None,
    choice(
        tuple(NAMELESS),
        "What the bytes of a .npy are, such as bfloat16, float8_e5m2 or int4 (one in each byte): "
        "numpy.save calls them V2, V1 or f1.",
        metavar="DTYPE",
    ),
]
Backend = Annotated[
    str | None,
    choice(_backends.NAMES, "Who computes; by default $L2MULTI_BACKEND, or the best."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object on a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Save a plot as PNG, PDF or SVG.")]
