"""Files of vectors larger than memory: from one to another like it, some vectors at a time.

`_formats` says what a file looks like, `_stream` what is done to its vectors. One vector has one
answer, so that the blocks leave no trace in the result.
"""

import errno
import operator
import os
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np

from l2multi import _containers, _contract, _formats, _stream
from l2multi._contract import Axis, NonFinite
from l2multi._formats import Array, Block, Opened
from l2multi._replacing import replacing, told
from l2multi.formats import npy

Path = str | os.PathLike[str]
Positions = tuple[tuple[int, ...], ...]
Zero = Literal["keep", "nan", "raise", "drop", "null"]

ZERO = (*_contract.ZERO, "drop", "null")


class Report(NamedTuple):
    """What `normalize_file` met and did.

    Attributes
    ----------
    vectors, length : int
        How many vectors were read, of how many elements; a length of None where they differ.
    zero, nonfinite : int
        How many vectors are zero, and how many have a norm of inf or NaN.
    smallest, largest : floating scalar or None
        Of the finite norms, in the unit of the input; None if there are none.
    source_dtype, dtype : numpy.dtype
        What was read and what was written.
    backend : str
        The backend that served; two, where NumPy took over for want of a kernel.
    seconds : float
        From the call to the renamed file, compilation included, and the wait for the disk if a
        file was replaced.
    nbytes : int
        Array bytes read plus array bytes written.
    source, target : str
        The paths, as they were given.
    shape : tuple of int
        Of the array.
    why : str
        Why this backend served.
    zero_at, nonfinite_at : tuple of tuples of int
        Where the first ten of these vectors are in the batch.
    null, dropped : int
        How many vectors were null, and how many zero vectors were left out.
    """

    vectors: int
    length: int | None
    zero: int
    nonfinite: int
    smallest: Any
    largest: Any
    source_dtype: np.dtype[Any]
    dtype: np.dtype[Any]
    backend: str
    seconds: float
    nbytes: int
    source: str
    target: str
    shape: tuple[int | None, ...]
    why: str
    zero_at: Positions
    nonfinite_at: Positions
    null: int
    dropped: int


def normalize_file(
    source: Path,
    target: Path,
    axis: Axis = -1,
    *,
    tensor: str | None = None,
    column: str | None = None,
    dims: int | None = None,
    dtype: Any = None,
    dtype_in: Any = None,
    eps: float = 0.0,
    zero: Zero = "keep",
    nonfinite: NonFinite = "propagate",
    norms: Path | None = None,
    dry_run: bool = False,
    backend: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Scale the vectors of a file to unit Euclidean length, into another file of the same format.

    The suffix says the format: ``.npy``, ``.safetensors``, ``.fvecs`` and ``.bvecs``, ``.fbin``,
    ``.u8bin`` and ``.i8bin``; what has another is taken for ``.npy``. The target is `source` with
    ``normalize(x, axis)`` in place of its vectors x, and everything else as it was (a ``.npy`` has
    the bytes of ``numpy.save``, in Fortran order for Fortran order). It is never less: it is
    written beside its final place, with its space reserved first, and renamed when it is complete
    (and, if it replaces another, on the disk). On any exception, an interrupt included, the target
    holds what it held before.

    Parameters
    ----------
    source : path
        A file of vectors of shape (..., n), of a dtype that `normalize` takes. It is mapped, not
        loaded, and must not change meanwhile. Objects are never unpickled.
    target : path
        The file to write or to replace, not `source`. A replaced file's permissions are kept, and
        a symbolic link is followed. Of ``.bvecs``, ``.u8bin`` and ``.i8bin``, which hold integers
        alone, the result is an ``.fvecs`` or ``.fbin``.
    axis : int, tuple of ints or None, default -1
        As for `normalize`.
    tensor : str, optional
        The name of the tensor to normalize where a ``.safetensors`` has several. All others, and
        the metadata, are carried through byte for byte; so is the header where the dtype stays.
    dtype : dtype, optional
        The floating dtype of the result, one that the format can hold: in a ``.npy`` not bfloat16
        or float8, in a ``.safetensors`` not longdouble or complex128, else float32 alone. Integers
        become float64 without, so that ``.bvecs``, ``.u8bin`` and ``.i8bin`` need
        ``dtype="float32"``.
    dtype_in : dtype, optional
        The dtype of ml_dtypes, such as "bfloat16", that the bytes of a ``.npy`` are. ``numpy.save``
        does not name those (it writes ``V2``, ``V1`` or ``f1``); integers of the same size are
        taken for their bytes too. Of int2 and int4 there is one in each byte, whose low bits count.
        The result of bfloat16 and float8 needs a `dtype`.
    eps : float, default 0.0
        As for `normalize`.
    zero : {"keep", "nan", "raise"}, default "keep"
        As for `normalize`.
    nonfinite : {"propagate", "raise"}, default "propagate"
        As for `normalize`.
    backend : str, optional
        As for `normalize`. Memory stays bounded on NumPy and Numba; JAX copies a window at a time
        to its device, and this holds at least one vector, or as many as share the pages of one.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of vectors.

    Returns
    -------
    Report
        Paths, shape, counts, smallest and largest norm, backend, time.

    Raises
    ------
    OSError
        `source` cannot be read; the directory of `target` does not exist or cannot be written to;
        the disk is full.
    ValueError
        `source` is not a complete file of vectors, or has more in it than its header says; `target`
        is `source`, not a file, or called as one of another format; `tensor` is not in the file, or
        has to be given; ``zero="raise"`` met a zero vector (ZeroVectorError) or
        ``nonfinite="raise"`` an inf or a NaN (NonFiniteError), with the first position in the
        whole batch; an unknown choice or backend; a negative `eps`; an axis out of range
        (numpy.exceptions.AxisError).
    TypeError
        A dtype that is not supported, that the format cannot hold, or that does not fit the bytes.
    ImportError
        The backend named is not installed, or a dtype of ml_dtypes is met without ml_dtypes.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from l2multi.files import normalize_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, target = os.path.join(folder, "x.npy"), os.path.join(folder, "y.npy")
    ...     np.save(source, [[3.0, 4.0], [0.0, 0.0]])
    ...     report = normalize_file(source, target)
    ...     np.load(target)
    array([[0.6, 0.8],
           [0. , 0. ]])
    >>> report.vectors, report.length, report.zero, float(report.largest)
    (2, 2, 1, 5.0)
    """
    start = time.perf_counter()
    source, target = os.fsdecode(source), os.fsdecode(target)
    with ExitStack() as stack:
        opened = _open(source, _request(tensor, column, dtype_in))
        stack.callback(opened.close)
        with told("target", target):
            path = _check_target(source, target)
        axes = _contract.normalize_axes(axis, len(opened.shape))
        if dims is not None:
            _cut(opened, axes, dims)
        result = _result(opened, source, dtype)
        _check_zero(opened, axes, zero, source)
        policies: dict[str, Any] = {"eps": eps, "zero": zero, "nonfinite": nonfinite}

        def begin() -> _stream.Pass:
            return _stream.Pass(opened, source, axes, result, policies, backend)

        one = begin()
        if dry_run:
            one.run(progress=progress)
            return _report(one, source, target, result, start)
        vectors = None
        if zero == "drop":  # how many vectors the result has, its head says
            one.run()
            vectors = one.vectors - one.zeros.count
            one = begin()
        temporary = stack.enter_context(
            replacing(path, target, folder=_formats.find(source).folder)
        )
        keep_norms = None
        if norms is not None:
            keep_norms = _norms_writer(stack, os.fsdecode(norms), source, path, one)
        with told("target", target):
            writer = opened.create(temporary, result, vectors)
        complete = False
        try:
            one.run(writer, target, keep_norms, progress)
            complete = True
        finally:
            with told("target", target):
                writer.close(complete)
    return _report(one, source, target, result, start)


def _report(
    one: _stream.Pass, source: str, target: str, dtype: np.dtype[Any], start: float
) -> Report:
    """What one way through a file was."""
    opened, used = one.opened, one.used
    reasons = used.values() if len(used) == 1 else (f"{name}: {why}" for name, why in used.items())
    nbytes = one.elements * (opened.dtype.itemsize + dtype.itemsize)
    return Report(
        one.vectors, one.length, one.zeros.count, one.unbound.count, one.smallest, one.largest,
        opened.dtype, dtype, ", then ".join(used), time.perf_counter() - start, nbytes, source,
        target, opened.shape, "; ".join(reasons), tuple(one.zeros.first), tuple(one.unbound.first),
        one.nulls.count, one.zeros.count if one.policies["zero"] == "drop" else 0,
    )  # fmt: skip


def _request(tensor: str | None, column: str | None, dtype_in: Any) -> _formats.Request:
    """The keywords that say what is meant in a file."""
    known = None if dtype_in is None else _formats.ml_dtype("dtype_in", dtype_in)
    return _formats.Request(tensor, column, known)


def _open(path: str, request: _formats.Request) -> Opened:
    """What a file holds, opened by the row of its suffix."""
    row = _formats.find(path)
    with told("source", path):
        mode = os.stat(path).st_mode  # before it is opened: a pipe would wait for data
        if not (stat.S_ISDIR(mode) if row.folder else stat.S_ISREG(mode)):
            what = "folder" if row.folder else "file"
            raise ValueError(
                f"source: expected a {row.suffix} {what}, got {path!r}, which is not a {what} "
                "(what comes through a pipe has to be saved to one first)"
            )
        return row.open(path, request)


def _check_target(source: str, target: str) -> str:
    """Where `target` leads; refused if it cannot be replaced, or says another format."""
    _formats.check_target(source, target)
    path = os.path.realpath(target)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if not os.path.basename(target):
            raise ValueError(f"target: expected the path of a file, got {target!r}") from None
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(errno.ENOENT, "its directory does not exist", target) from None
        return path
    if os.path.samestat(status, os.stat(source)):
        raise ValueError(f"target: expected another file than the one to read, got {target!r}")
    if _formats.find(source).folder:
        raise FileExistsError(errno.EEXIST, "a folder cannot be replaced as a whole", target)
    # What /dev/stdout leads to may be a pipe, or have no name any more.
    if not (stat.S_ISREG(status.st_mode) and os.path.exists(path)):
        raise ValueError(f"target: expected a file, got {target!r}, which is not one")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", target)
    return path


def _cut(opened: Opened, axes: tuple[int, ...], dims: Any) -> None:
    """Have the first elements of each vector count alone."""
    wanted = _containers.known("dims", dims, operator.index)
    if axes != (len(opened.shape) - 1,):
        raise ValueError(f"dims: expected none where axis is not the last, got {wanted}")
    length = opened.shape[-1]
    if wanted < 1 or (length is not None and wanted > length):
        raise ValueError(
            f"dims: expected from 1 to {length}, the length of the vectors, got {wanted}"
        )
    opened.cut(wanted)


def _check_zero(opened: Opened, axes: tuple[int, ...], zero: Any, path: str) -> None:
    """Refuse what cannot be done with zero vectors here."""
    _contract.check_choice("zero", zero, ZERO)
    kind = _formats.find(path).suffix
    if zero == "null" and not opened.has_nulls:
        raise ValueError(f"zero: null is for columns, which can hold nulls; a {kind} file cannot")
    if zero == "drop" and not opened.can_drop(axes):
        raise ValueError(
            f"zero: drop is for vectors in the rows of a file, got axis {axes} of shape "
            f"{opened.shape} in a {kind} file"
        )


def _result(opened: Opened, path: str, dtype: Any) -> np.dtype[Any]:
    """The dtype of the result; refused if the format cannot name it."""
    own = _contract.rule(opened.dtype).result
    asked = own.name if dtype is None else dtype
    # By name too: the names mean nothing to NumPy before somebody imports ml_dtypes.
    by_name = isinstance(asked, str) and asked in _contract.ML_FLOATS + _contract.ML_INTEGERS
    if not by_name or opened.holds(asked):
        complex_ = _contract.is_complex(own)
        found = own if dtype is None else _contract.floating(dtype, complex_=complex_)
        if opened.holds(found.name):
            return found
    raise TypeError(
        f"dtype: {asked} has no name in a {_formats.find(path).suffix} file, so that the result "
        f"could not be read back; give another, such as dtype={opened.instead}"
    )


def _norms_writer(
    stack: ExitStack, path: str, source: str, target: str, one: _stream.Pass
) -> Callable[[Block, Array], None]:
    """What keeps the norms of blocks in a ``.npy`` of its own, which is complete with the stack."""
    with told("norms", path):
        place = os.path.realpath(path)
        if _formats.suffix(path) != ".npy":
            raise ValueError(f"norms: expected a name that ends in .npy, got {path!r}")
        if place in (target, os.path.realpath(source)):
            raise ValueError(f"norms: expected another file than source and target, got {path!r}")
    temporary = stack.enter_context(replacing(place, path))
    dtype = one.norm_dtype if npy.NAMELESS.get(one.norm_dtype.name) is None else np.dtype("f4")
    shape = tuple(n for d, n in enumerate(one.opened.shape) if d not in one.axes)
    with told("norms", path):
        written: Any = npy.create(temporary, shape, dtype)

    def keep(block: Block, norms: Array) -> None:
        window = (slice(lo, lo + n) for lo, n in zip(block.starts, norms.shape, strict=True))
        written[(*window, ...)] = norms

    return keep
