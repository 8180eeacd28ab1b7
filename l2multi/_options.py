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


def flag(*names: str, help: str, **keywords: Any) -> Any:
    """An option without a value; its help says no type, as typer's would."""
    return typer.Option(*names, help=help, metavar="", **keywords)


Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", parser=path, show_default=False, help="The file to read, or its URL."
    ),
]
Axis = Annotated[
    Any,
    typer.Option(
        parser=axis,
        metavar="AXIS",
        help="The axis or axes over which a vector extends: -1 (the last), 0, 0,1 or all.",
    ),
]
Tensor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The name of the tensor, array or dataset to take, where a file (.npz, .safetensors, "
        ".zarr, HDF5) has several.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The name of the column to take, where a table (Parquet, Arrow) has several columns "
        "of vectors.",
    ),
]
Dims = Annotated[
    int | None,
    typer.Option(metavar="K", help="Take the first K elements of each vector, and no others."),
]
DtypeIn = Annotated[
    str | None,
    choice(
        tuple(NAMELESS),
        "What the bytes in a .npy, .npz, .zarr or HDF5 file are where it does not say: bfloat16, "
        "float8_e5m2, int4 (one in each byte) and others, which numpy.save calls V2, V1 or f1.",
        metavar="DTYPE",
    ),
]
Backend = Annotated[
    str | None,
    choice(
        _backends.NAMES,
        "Which library computes; by default $L2MULTI_BACKEND, or the best that is installed.",
    ),
]
Json = Annotated[bool, flag("--json", help="Print JSON, one object on a line.")]
Quiet = Annotated[bool, flag("--quiet", "-q", help="Print nothing but errors.")]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Save a plot as PNG, PDF or SVG.")]
