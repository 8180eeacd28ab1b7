"""The options of the commands, and what parses them. Imports typer."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from l2multi import _backends, _contract, _file_arguments
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


def _untyped(params: list[Any]) -> list[Any]:
    """Parameters whose help names no type of Python's, as typer's does where nothing else is said:
    of flags, its own too, and of arguments."""
    for one in params:
        if one.param_type_name == "argument":
            one.display_type_rich = lambda ctx: None
        elif one.metavar is None:
            one.metavar = ""
    return params


class Command(TyperCommand):
    """A command with such help."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _untyped(super().get_params(ctx))


class Group(TyperGroup):
    """All commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _untyped(super().get_params(ctx))


Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", parser=path, show_default=False, help="The file to read, or its URL."
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IN",
        parser=path,
        help="The file to read; or several, a folder or a pattern. All may be URLs.",
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object on a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Save a plot as PNG, PDF or SVG.")]
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="IN... OUT",
        parser=path,
        help="The file to read and the file to write; or several, a folder or a pattern to "
        "read, and the folder to write to. All may be URLs.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="Of the result, such as float32; by default that of IN, and float64 where IN has "
        "integers.",
    ),
]
Eps = Annotated[
    float,
    typer.Option(
        metavar="NUMBER",
        help="Vectors are divided by their norms, but by this where a norm is less.",
    ),
]
Zero = Annotated[
    str,
    choice(
        _file_arguments.ZERO,
        "Zero vectors stay, become NaN, stop the command, are left out, or become null.",
    ),
]
NonFinite = Annotated[
    str,
    choice(
        _contract.NONFINITE,
        "Vectors with inf or NaN have NaN in the result, or stop the command.",
    ),
]
ReturnNorms = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Save the norms of the vectors of IN too, as .npy; of several files, into this "
        "folder. (In Python, norms=.)",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read, check and report, and write nothing.")
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Have a cluster of Dask compute, where IN is a .zarr: the one whose scheduler has "
        "this address; local starts one on this machine.",
    ),
]
Tol = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="How far a norm may be from 1; by default four units in the last place of the dtype.",
    ),
]
