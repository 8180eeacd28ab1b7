"""The command line: ``l2multi normalize IN OUT``, also as ``python -m l2multi``."""

import contextlib
import functools
import importlib.util
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import typer

import l2multi
from l2multi import (
    _backends,
    _bench,
    _contract,
    _file_arguments,
    _formats,
    _options,
    _remote,
    _signals,
    _terminal,
    _versions,
)
from l2multi.__main__ import interrupted
from l2multi.files import normalize_file
from l2multi.folders import Checked, Part, check_folder, is_many, left_out, normalize_folder
from l2multi.formats.npy import NAMELESS

# What typer's parser raises, whichever parser it brings with it.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Interrupted(BaseException):
    """An interrupt in a command, of which the parser would print an empty line."""


app = typer.Typer(
    name="l2multi",
    cls=_options.Group,
    help=l2multi.__doc__,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        an interrupt. ``check`` has 1 for vectors that have not unit length, and 2 for a failure.
        Unusable arguments have 2. SIGTERM exits with 143, SIGHUP with 129.

    Examples
    --------
    >>> from l2multi.cli import main
    >>> main(["normalize", "missing.npy", "unit.npy"])
    1
    """
    try:
        with _signals.terminable():
            arguments = sys.argv[1:] if argv is None else list(argv)
            code = app(arguments, prog_name="l2multi", standalone_mode=False)
            print(end="", flush=True)
            return int(code or 0)
    except (KeyboardInterrupt, _Interrupted, typer.Abort):
        return interrupted()
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "l2multi"
        message = " ".join(error.format_message().split()).rstrip(".")
        print(f"l2multi: error: {message} (try: {command} --help)", file=sys.stderr)
        return 2
    except _FAILURES as error:
        return _failed(error)
    except SystemExit as left:
        if left.code != 1:  # of a signal
            raise
        _unheard()  # the parser or rich met a reader that has gone, such as `head`, and gave up
        return 0


_FAILURES = (OSError, ValueError, TypeError, ImportError, MemoryError)


def _failed(error: BaseException, code: int = 1) -> int:
    """Say why in one line, and return the exit code."""
    # Python would try again at its end to print what cannot be printed, and exit with 120.
    try:
        print(end="", flush=True)
    except OSError:
        _unheard()
    print(f"l2multi: error: {_terminal.one_line(error)}", file=sys.stderr)
    return code


def _say(text: str) -> None:
    """Print it, to whoever still reads: one who has gone has heard enough, and ends no work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _unheard()


def _unheard() -> None:
    """From now on what is printed goes nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_FORMATS = f"Known suffixes: {_formats.known()}. What has another is taken for .npy."


def _command(run: Callable[..., int | None]) -> Callable[..., int | None]:
    """A function as a command of its name, whose exit code it returns."""

    @functools.wraps(run)
    def guarded(**arguments: Any) -> int | None:
        try:
            return run(**arguments)
        except KeyboardInterrupt:
            raise _Interrupted from None

    guarded.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    about = _FORMATS if "file" in (run.__doc__ or "") else None
    app.command(run.__name__, cls=_options.Command, epilog=about)(guarded)
    return guarded


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"l2multi {l2multi.__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    pass


@_command
def normalize(
    paths: _options.Paths,
    axis: _options.Axis = "-1",
    tensor: _options.Tensor = None,
    column: _options.Column = None,
    dims: _options.Dims = None,
    dtype: _options.Dtype = None,
    dtype_in: _options.DtypeIn = None,
    eps: _options.Eps = 0.0,
    zero: _options.Zero = "keep",
    nonfinite: _options.NonFinite = "propagate",
    return_norms: _options.ReturnNorms = None,
    dry_run: _options.DryRun = False,
    backend: _options.Backend = None,
    dask: _options.Dask = None,
    json_: _options.Json = False,
    quiet: _options.Quiet = False,
) -> int | None:
    """Scale the vectors of files to unit Euclidean length, in bounded memory.

    OUT is like IN, with unit vectors, and is replaced only when it is complete; the folder that it
    is in has to be there. Of several files, a folder or a pattern, OUT is a folder, which is made;
    a second run skips what was done. Files are known by their suffix; what else is in them is
    carried through.
    """
    if len(paths) < 2:
        raise typer.BadParameter("expected IN and OUT", param_hint="IN... OUT")
    *sources, target = paths
    keywords: dict[str, Any] = {
        "tensor": tensor, "column": column, "dims": dims, "dtype": dtype, "dtype_in": dtype_in,
        "eps": eps, "zero": zero, "nonfinite": nonfinite, "backend": backend,
        "norms": return_norms, "dry_run": dry_run,
    }  # fmt: skip
    start = time.perf_counter()
    many = len(sources) > 1 or is_many(sources[0])
    if dask is not None and (many or column):
        raise typer.BadParameter("it is for one .zarr, which has no columns", param_hint="--dask")
    with _terminal.progress(not quiet) as drawn:
        progress = _signals.heeding(drawn)
        if dask is not None:
            from l2multi.dask import normalize_zarr  # which needs more to be installed

            del keywords["column"]
            report = normalize_zarr(
                sources[0], target, _options.axes_of(axis), client=dask, progress=progress,
                **keywords,
            )  # fmt: skip
        elif many:
            told = _print_json if json_ else _print_part
            parts = normalize_folder(
                sources if len(sources) > 1 else sources[0], target, _options.axes_of(axis),
                progress=progress, done=None if quiet else told, **keywords,
            )  # fmt: skip
        else:
            report = normalize_file(
                sources[0], target, _options.axes_of(axis), progress=progress, **keywords
            )
    if quiet or (many and json_):
        return None
    if many:
        seconds = time.perf_counter() - start
        left = left_out(sources[0]) if len(sources) == 1 else []
        text = _terminal.parts(parts, seconds, dry_run, left)
    else:
        text = _terminal.as_json(report) if json_ else _terminal.report(report, dry_run)
    _report(text)
    return None


def _report(text: str) -> None:
    """Say what was done, of which OUT is complete whether or not this can be printed."""
    try:
        _say(text)
    except OSError as error:
        told = f"OUT is complete, but not the report: {error.strerror}"
        raise OSError(error.errno, told) from None


def _print_part(part: Part) -> None:
    _say(_terminal.part(part))


def _print_json(part: Part) -> None:
    if part.report is None:
        what = "stale" if part.stale else "done before"
        _say(json.dumps({"source": part.source, "target": part.target, what: True}))
    else:
        _say(_terminal.as_json(part.report))


@_command
def check(
    paths: _options.Sources,
    axis: _options.Axis = "-1",
    tensor: _options.Tensor = None,
    column: _options.Column = None,
    dims: _options.Dims = None,
    dtype_in: _options.DtypeIn = None,
    tol: _options.Tol = None,
    backend: _options.Backend = None,
    plot: _options.Plot = None,
    json_: _options.Json = False,
    quiet: _options.Quiet = False,
) -> int:
    """Tell whether the vectors of files have unit length: 0 if all have, 1 if not, 2 if that
    cannot be told.

    Of several files, a folder or a pattern, there is a line for each, and the sums. On a terminal,
    a histogram of the norms is shown; --plot saves it.
    """
    source = paths if len(paths) > 1 else paths[0]
    try:
        many = len(paths) > 1 or is_many(paths[0])
        told = _print_check_json if json_ else _print_check if many else None
        with _terminal.progress(not quiet) as progress:
            found = check_folder(
                source, _options.axes_of(axis), tensor=tensor, column=column, dims=dims,
                dtype_in=dtype_in, tol=tol, backend=backend, progress=_signals.heeding(progress),
                done=None if quiet else told,
            )  # fmt: skip
        counts = _terminal.counts(found)
        if not (json_ or quiet):
            text = _terminal.checks(found, left_out(source)) if many else _terminal.check(found[0])
            _say(text)
            if counts and (plot or sys.stdout.isatty()):
                _terminal.histogram(counts)
        if plot and counts:
            _terminal.plot_histogram(counts, ", ".join(paths), plot)
    except _FAILURES as error:
        return _failed(error, 2)
    return int(any(one.check.unit < one.check.vectors for one in found))


def _print_check(one: Checked) -> None:
    _say(_terminal.checked(one))


def _print_check_json(one: Checked) -> None:
    _say(_terminal.as_json(one.check, source=one.source))


@_command
def info(
    source: _options.Source,
    axis: _options.Axis = "-1",
    tensor: _options.Tensor = None,
    column: _options.Column = None,
    dims: _options.Dims = None,
    dtype_in: _options.DtypeIn = None,
    json_: _options.Json = False,
) -> None:
    """Tell what a file of vectors holds, by its head, and who would normalize it.

    Where it holds many arrays or columns, and none is named, they are listed.
    """
    known = _file_arguments.selection(tensor, column, dtype_in)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(_remote.fetched("source", source))
        try:
            opened = _file_arguments.open_file(here, known)
        except _formats.NotNamedError as error:
            _print_names(here, source, known, error, json_)
            return
        stack.callback(opened.close)
        axes = _contract.normalize_axes(_options.axes_of(axis), len(opened.shape))
        if dims is not None:
            _file_arguments.cut(opened, axes, dims)
        told = l2multi.explain(opened.sample(axes), opened.check_axes(axes))
        vectors = 1
        for d, n in enumerate(opened.shape):
            vectors *= 1 if d in axes else n
        shown = {
            "file": source,
            "format": _formats.find(source).suffix,
            **_terminal.taken(source, opened.name),
            "shape": _terminal.shape(opened.shape),
            "vectors": vectors,
            "dtype": opened.dtype.name,
            "unit dtype": _contract.rule(opened.dtype).result.name,
            "backend": told.backend,
            "why this one": told.why,
        }
        if json_:
            _say(json.dumps(shown | {"shape": opened.shape}))
        else:
            _say(_terminal.lines(shown))


def _print_names(
    here: str,
    source: str,
    known: _formats.Selection,
    which: _formats.NotNamedError,
    json_: bool,
) -> None:
    """Tell what a file holds of which one is to be named."""
    shown: dict[str, Any] = {}
    for name in which.names:
        named: dict[str, Any] = {which.option: name}
        try:
            opened = _file_arguments.open_file(here, known._replace(**named))
        except (TypeError, ValueError) as error:
            shown[name] = {"error": _terminal.one_line(error)}
        else:
            shown[name] = {"shape": opened.shape, "dtype": opened.dtype.name}
            opened.close()
    if json_:
        _say(json.dumps({"file": source, f"{which.option}s": shown}))
        return
    _say(_terminal.lines({"file": source, "format": _formats.find(source).suffix}))
    for name, one in shown.items():
        told = one.get("error") or f"{_terminal.shape(one['shape'])} {one['dtype']}"
        _say(_terminal.lines({f"--{which.option}": f"{name}: {told}"}))


@_command
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Take a few seconds: fewer shapes, less time each.")
    ] = False,
    plot: _options.Plot = None,
    json_: _options.Json = False,
) -> None:
    """Measure this machine: the backends side by side with the obvious formula."""
    cells = []
    for cell in _bench.run(quick):
        cells.append(cell)
        if json_:
            _say(_terminal.as_json(cell))
    if not json_:
        _terminal.table_of(cells)
    if plot:
        _terminal.plot_cells(cells, plot)


@_command
def warm(
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DTYPE",
            help="Of the input, such as float8_e4m3fn; may be given several times; by default all.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Of the result; by default that of the input."),
    ] = None,
) -> None:
    """Compile and keep the kernels that did not come with the package, so that no call has to."""
    numba: Any = _backends.load(_backends.first("numba"))
    every = (*_NUMPY_DTYPES, *(NAMELESS if importlib.util.find_spec("ml_dtypes") else ()))
    dtypes = [_dtype(name) for name in dtype or every]
    result = None if to is None else _contract.floating(to, complex_=False)
    kernels, compiled, lost = numba.warm(dtypes, result)
    print(f"{kernels} kernels are ready, {compiled} of which were compiled now")
    if lost:
        told = numba.report()["kernels cached"]
        raise OSError(f"{lost} kernels could not be kept for later processes; in the cache: {told}")


@_command
def versions(json_: _options.Json = False) -> None:
    """Print what is installed and usable."""
    if json_:
        _say(json.dumps(_versions.versions()))
    else:
        l2multi.show_versions()


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
