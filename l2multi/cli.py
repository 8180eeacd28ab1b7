"""The command line: ``l2multi normalize IN OUT``, also as ``python -m l2multi``."""

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

import numpy as np

import l2multi
from l2multi import _backends, _contract, _formats
from l2multi.__main__ import interrupted
from l2multi.files import Report, normalize_file
from l2multi.formats.npy import NAMELESS


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"l2multi: error: {message} (try: {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code: 0, 1 for a refusal or a failure (one line on stderr says which), 130 for
        an interrupt. Unusable arguments exit with 2, SIGTERM with 143, SIGHUP with 129.

    Examples
    --------
    >>> from l2multi.cli import main
    >>> main(["normalize", "missing.npy", "unit.npy"])
    1
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(_join_axis(sys.argv[1:] if argv is None else argv))
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with _terminable():
            code = int(arguments.run(arguments) or 0)
            print(end="", flush=True)
            return code
    except KeyboardInterrupt:
        return interrupted()
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        _forget_output()
        print(f"l2multi: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _forget_output() -> None:
    """Drop what cannot be printed: Python would try again at its end, and exit with 120."""
    try:
        print(end="", flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="l2multi", description=l2multi.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"l2multi {l2multi.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    about = "scale the vectors of a file to unit Euclidean length"
    normalize = commands.add_parser(
        "normalize",
        help=about,
        description=f"{about[0].upper()}{about[1:]}, in bounded memory, and print what was met. "
        "OUT is replaced only when the result is complete. Files are known by their suffix: "
        f"{_formats.known()}; what has another is taken for .npy. OUT has the format of IN; of "
        ".bvecs it is .fvecs, and of .u8bin and .i8bin .fbin, with --dtype float32.",
        allow_abbrev=False,
    )
    normalize.add_argument("source", metavar="IN", type=_path)
    normalize.add_argument("target", metavar="OUT", type=_path)
    normalize.add_argument(
        "--axis",
        type=_axis,
        default=-1,
        help="the axis or axes over which a vector extends: -1 (default), 0, 0,1 or all",
    )
    normalize.add_argument(
        "--tensor",
        metavar="NAME",
        help="which one of a .safetensors with several; the others are carried through",
    )
    normalize.add_argument(
        "--dtype", help="of the result, such as float32; by default that of IN if floating"
    )
    normalize.add_argument(
        "--dtype-in",
        choices=tuple(NAMELESS),
        metavar="DTYPE",
        help="what the bytes of a .npy are, such as bfloat16, float8_e5m2 or int4 (one in each "
        "byte): numpy.save calls them V2, V1 or f1",
    )
    normalize.add_argument(
        "--eps", type=float, default=0.0, help="the least number that vectors are divided by: 0"
    )
    normalize.add_argument(
        "--zero",
        choices=_contract.ZERO,
        default="keep",
        help="zero vectors stay (default), become NaN, or stop the command",
    )
    normalize.add_argument(
        "--nonfinite",
        choices=_contract.NONFINITE,
        default="propagate",
        help="vectors with inf or NaN have NaN in the result (default), or stop the command",
    )
    normalize.add_argument(
        "--backend", choices=_backends.NAMES, help="by default $L2MULTI_BACKEND, or the best"
    )
    normalize.add_argument("--quiet", action="store_true", help="print nothing but errors")
    normalize.set_defaults(run=_normalize, parser=normalize)

    about = "compile and keep the kernels that did not come with the package"
    warm = commands.add_parser(
        "warm",
        help=about,
        description=f"{about[0].upper()}{about[1:]}, so that no call has to.",
        allow_abbrev=False,
    )
    warm.add_argument(
        "--dtype",
        action="append",
        metavar="DTYPE",
        help="of the input, such as float8_e4m3fn; may be given again; by default all",
    )
    warm.add_argument("--to", metavar="DTYPE", help="of the result; by default that of the input")
    warm.set_defaults(run=_warm, parser=warm)

    versions = commands.add_parser("versions", help="print what is installed and usable")
    versions.set_defaults(run=lambda arguments: l2multi.show_versions(), parser=versions)
    return parser


def _path(text: str) -> str:
    """The value of ``IN`` and ``OUT``."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "expected the path of a file, which is memory-mapped: standard input and output cannot "
            "be; a file called - is ./-"
        )
    return text


def _axis(text: str) -> int | tuple[int, ...] | None:
    """The value of ``--axis``."""
    if text in ("all", "none"):
        return None
    try:
        axes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected an int, ints with commas, or all, got {text!r}"
        ) from None
    return axes[0] if len(axes) == 1 else axes


def _join_axis(argv: Sequence[str]) -> list[str]:
    """``--axis -2,-1`` as ``--axis=-2,-1``: argparse takes the former for an unknown option. And
    ``--axis 0 1`` as ``--axis=0 1``, which is refused: argparse takes the 1 for a file."""
    joined = list(argv)
    if "--axis" in joined[:-1]:
        at = joined.index("--axis")
        end = at + 2
        while end < len(joined) and re.fullmatch(r"-?\d[\d,]*", joined[end]):
            end += 1
        joined[at:end] = [f"--axis={' '.join(joined[at + 1 : end])}"]
    return joined


# Complex numbers are pairs of floats to a kernel.
_NUMPY_DTYPES = ("float16", "float32", "float64", "bool", *(f"int{b}" for b in (8, 16, 32, 64)))
_NUMPY_DTYPES += tuple(f"uint{b}" for b in (8, 16, 32, 64))


def _dtype(name: str) -> np.dtype[Any]:
    """A dtype by its name."""
    if name in NAMELESS:
        return _formats.ml_dtype("dtype", name)
    try:
        rule = _contract.rule(np.dtype(name))
        if rule.wide != np.float64:
            raise TypeError
        return rule.native
    except TypeError:
        known = ", ".join((*_NUMPY_DTYPES, *NAMELESS))
        raise TypeError(f"dtype: {name} is not supported; accepted are {known}") from None


def _warm(arguments: argparse.Namespace) -> None:
    """``l2multi warm``."""
    numba: Any = _backends.load(_backends.first("numba"))
    every = (*_NUMPY_DTYPES, *(NAMELESS if importlib.util.find_spec("ml_dtypes") else ()))
    dtypes = [_dtype(name) for name in arguments.dtype or every]
    result = None if arguments.to is None else _contract.floating(arguments.to, complex_=False)
    kernels, compiled, lost = numba.warm(dtypes, result)
    print(f"{kernels} kernels are ready, {compiled} of which were compiled now")
    if lost:
        told = numba.report()["kernels cached"]
        raise OSError(f"{lost} kernels could not be kept for later processes; in the cache: {told}")


def _normalize(arguments: argparse.Namespace) -> None:
    """``l2multi normalize``."""
    with _bar(sys.stderr, sys.stderr.isatty() and not arguments.quiet) as progress:
        report = normalize_file(
            arguments.source,
            arguments.target,
            arguments.axis,
            tensor=arguments.tensor,
            dtype=arguments.dtype,
            dtype_in=arguments.dtype_in,
            eps=arguments.eps,
            zero=arguments.zero,
            nonfinite=arguments.nonfinite,
            backend=arguments.backend,
            progress=progress,
        )
    if not arguments.quiet:
        try:
            print(_describe(report), flush=True)
        except OSError as error:
            told = f"OUT is complete, but not the report: {error.strerror}"
            raise OSError(error.errno, told) from None


def _describe(report: Report) -> str:
    """A report as lines of text."""
    before, after = report.source_dtype, report.dtype
    speed = report.nbytes / report.seconds / 1e9
    lines = {
        "files": f"{report.source} -> {report.target}",
        "shape": report.shape,
        "vectors": report.vectors,
        "length": report.length,
        "dtype": after if before == after else f"{before} -> {after}",
        "zero vectors": report.zero,
        "not finite": report.nonfinite,
        "smallest norm": "-" if report.smallest is None else report.smallest,
        "largest norm": "-" if report.largest is None else report.largest,
        "backend": report.backend,
        "why this one": report.why,
        "time": f"{report.seconds:.3f} s",
        "throughput": f"{speed:.2f} GB/s, read and written",
    }
    return "\n".join(f"{name:<13}  {value!s}" for name, value in lines.items())


@contextlib.contextmanager
def _bar(stream: TextIO, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What draws a progress bar, wiped out at the end; None where nobody would see it."""

    def draw(done: int, total: int) -> None:
        stream.write(f"\r[{'#' * (40 * done // total):<40}] {done / total:4.0%}")
        stream.flush()

    try:
        yield draw if wanted else None
    finally:
        if wanted:
            stream.write("\r\x1b[K")
            stream.flush()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let what ends a process raise, so that the temporary file is removed as after an interrupt;
    not a hang-up that ``nohup`` has it ignore."""

    def leave(signum: int, frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    previous: dict[int, Any] = {}
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, leave)
    except ValueError:  # not in the main thread, which is the only one that signals reach
        pass
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# What the functions call their arguments, and what the command does.
_FILES = {"source": "IN", "x": "IN", "target": "OUT"}
_OPTIONS = "axis|tensor|dtype_in|dtype|eps|zero|nonfinite"


def _one_line(error: BaseException) -> str:
    """The message of an error in the words of the command, without an errno's number."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f": {error.filename!r}"
        message = f"{error.strerror}{named}"
    message = " ".join(message.split()) or type(error).__name__
    message = message.replace("axis=None", "axis=all")
    message = re.sub(rf"^({'|'.join(_FILES)})(?=: )", lambda found: _FILES[found[1]], message)
    return re.sub(
        rf"^({_OPTIONS})(?=: )|(?<= )({_OPTIONS})=",
        lambda found: "--" + found[0].replace("_", "-").replace("=", " "),
        message,
    )
