"""Files of vectors larger than memory: from one to another like it, some vectors at a time.

`_formats` says what a file looks like, `_stream` what is done to its vectors. One vector has one
answer, so that the blocks leave no trace in the result.
"""

import errno
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np

from l2multi import _call, _contract, _file_arguments, _formats, _remote, _stream
from l2multi._contract import Axis, NonFinite
from l2multi._formats import Array, Block
from l2multi._replacing import replacing, told
from l2multi.formats import npy

Path = str | os.PathLike[str]
Positions = tuple[tuple[int, ...], ...]
Zero = Literal["keep", "nan", "raise", "drop", "null"]


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
        Bytes of the vectors that were read and of those that were written.
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
    name : str or None
        Of the tensor, array, dataset or column that was taken, where the file names them.
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
    name: str | None


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

    The suffix says the format; docs/details.md has the table of them, and what has another suffix
    is taken for ``.npy``. The target is `source` with ``normalize(x, axis)`` in place of its
    vectors x, and everything else as it was (a ``.npy`` has the bytes of ``numpy.save``, in Fortran
    order for Fortran order). It is never less: it is written beside its final place and renamed
    when it is complete (and, if it replaces another, on the disk). On any exception, an interrupt
    included, the target holds what it held before; so it does if the process is killed, and the
    next run in this folder removes what that one left.

    Parameters
    ----------
    source : path
        A file of vectors of shape (..., n), of a dtype that `normalize` takes. It is never loaded
        as a whole, and must not change meanwhile. Objects are never unpickled. A URL of fsspec,
        such as ``s3://bucket/x.npy``, is copied to a temporary file first.
    target : path
        The file to write or to replace, not `source`. A replaced file's permissions are kept, and
        a symbolic link is followed. A ``.zarr`` folder is replaced in one step where the system can
        do so (Linux), and else refused. To a URL, the complete file is sent. Of ``.bvecs``,
        ``.u8bin`` and ``.i8bin``, which hold integers alone, the result is an ``.fvecs`` or
        ``.fbin``.
    axis : int, tuple of ints or None, default -1
        As for `normalize`.
    tensor : str, optional
        The name of the tensor, array or dataset to normalize where a file has several. All others,
        and what describes them, are carried through.
    column : str, optional
        The name of the column to normalize where a table has several columns of vectors.
    dims : int, optional
        Only the first elements of each vector, so many, are read, normalized and written; `axis`
        has to be the last. (Matryoshka embeddings are cut so.)
    dtype : dtype, optional
        The floating dtype of the result, one that the format can hold: in a ``.npy`` not bfloat16
        or float8, in a ``.safetensors`` not longdouble or complex128, else float32 alone. Integers
        become float64 without, so that ``.bvecs``, ``.u8bin`` and ``.i8bin`` need
        ``dtype="float32"``.
    dtype_in : dtype, optional
        The dtype of ml_dtypes, such as "bfloat16", that the bytes of an array in a ``.npy``,
        ``.npz``, ``.zarr`` or HDF5 file are, where the file does not name it: ``numpy.save``
        writes ``V2``, ``V1`` or ``f1``. Integers of the same size are taken for such bytes too. Of
        int2 and int4 there is one in each byte, whose low bits count. The result of bfloat16 and
        float8 needs a `dtype`.
    eps : float, default 0.0
        As for `normalize`.
    zero : {"keep", "nan", "raise", "drop", "null"}, default "keep"
        As for `normalize`; "drop" leaves zero vectors out, where vectors are the rows of a file,
        and reads it twice; "null" is for columns.
    nonfinite : {"propagate", "raise"}, default "propagate"
        As for `normalize`.
    norms : path, optional
        A ``.npy`` for the norms of all vectors of `source`, NaN where one is null. It takes its
        place just before `target` does. (The command calls this ``--return-norms``, after the
        keyword of `l2multi.normalize`.)
    dry_run : bool, default False
        Whether nothing is to be written: all is read, and the report tells what was met.
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
    given = _file_arguments.path("source", source)
    wanted = _file_arguments.path("target", target)
    norms = None if norms is None else _file_arguments.path("norms", norms)
    with ExitStack() as stack:
        _remote.check_apart(given, wanted)
        source = stack.enter_context(_remote.fetched("source", given))
        target = stack.enter_context(_remote.sent("target", wanted))
        opened = _file_arguments.open_file(
            source, _file_arguments.selection(tensor, column, dtype_in)
        )
        stack.callback(opened.close)
        with told("target", target):
            path = _file_arguments.check_target(source, target, made=dry_run)
        axes, result = _file_arguments.prepare(opened, source, axis, dims, dtype, zero)
        policies: dict[str, Any] = {"eps": eps, "zero": zero, "nonfinite": nonfinite}

        def begin() -> _stream.Pass:
            return _stream.Pass(opened, source, axes, result, policies, backend)

        one = begin()
        if dry_run:
            one.run(progress=progress)
            return report_of(one, given, wanted, result, start, written=False)
        vectors = None
        if zero == "drop":  # how many vectors the result has, its head says
            one.run()
            vectors = one.vectors - one.zeros.count
            one = begin()
        temporary = stack.enter_context(replacing(path, target, folder=os.path.isdir(source)))
        keep_norms = None
        if norms is not None:
            keep_norms = norms_writer(stack, norms, (given, wanted), one)
        _write(one, temporary, target, vectors, keep_norms, progress)
    return report_of(one, given, wanted, result, start)


def _write(
    one: _stream.Pass, path: str, target: str, vectors: int | None,
    keep_norms: Callable[[Block, Array], None] | None, progress: _stream.Progress | None,
) -> None:  # fmt: skip
    """Write the unit vectors to a file, which messages call `target`."""
    with told("target", target):
        writer = one.opened.create(path, one.dtype, vectors)
    complete = False
    try:
        one.run(writer, target, keep_norms, progress)
        complete = True
    finally:
        with told("target", target):
            writer.close(complete)


def report_of(
    one: _stream.Pass, source: str, target: str, dtype: np.dtype[Any], start: float, *,
    written: bool = True,
) -> Report:  # fmt: skip
    """What one way through a file was."""
    opened, used = one.opened, one.used
    reasons = used.values() if len(used) == 1 else (f"{name}: {why}" for name, why in used.items())
    dropped = one.zeros.count if one.policies["zero"] == "drop" else 0
    nbytes = one.elements * opened.dtype.itemsize
    if written:
        nbytes += (one.elements - dropped * (one.length or 0)) * dtype.itemsize
    return Report(
        one.vectors, one.length, one.zeros.count, one.unbound.count, one.smallest, one.largest,
        opened.dtype, dtype, ", then ".join(used), time.perf_counter() - start, nbytes, source,
        target, opened.shape, "; ".join(reasons), tuple(one.zeros.first), tuple(one.unbound.first),
        one.nulls.count, dropped, opened.name or None,
    )  # fmt: skip


def norms_writer(
    stack: ExitStack, wanted: str, others: tuple[str, str], one: _stream.Pass
) -> Callable[[Block, Array], None]:
    """What keeps the norms of blocks in a ``.npy`` of its own, which is complete with the stack."""
    if _formats.suffix(wanted) != ".npy" or os.path.isdir(wanted):
        raise ValueError(f"norms: expected the path of a .npy file, got {wanted!r}")
    for other in others:
        if _remote.is_within(wanted, other):
            raise ValueError(f"norms: expected another file than source and target, got {wanted!r}")
    path = stack.enter_context(_remote.sent("norms", wanted))
    place = os.path.realpath(path)
    if os.path.exists(place) and not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, "norms: it is write-protected", path)
    temporary = stack.enter_context(replacing(place, path, argument="norms"))
    dtype = one.norm_dtype if npy.NAMELESS.get(one.norm_dtype.name) is None else np.dtype("f4")
    shape = tuple(n for d, n in enumerate(one.opened.shape) if d not in one.axes)
    with told("norms", path):
        written: Any = npy.create(temporary, shape, dtype)

    def keep(block: Block, norms: Array) -> None:
        window = (slice(lo, lo + n) for lo, n in zip(block.starts, norms.shape, strict=True))
        written[(*window, ...)] = norms

    return keep


class Check(NamedTuple):
    """What `check_file` met.

    Attributes
    ----------
    vectors, length : int
        How many vectors, of how many elements; a length of None where they differ.
    unit : int
        How many have unit length.
    zero, nonfinite, null : int
        How many vectors are zero, have a norm of inf or NaN, or are null.
    off : int
        How many others have not unit length.
    worst : float or None
        How far the norm of these is from 1 at most.
    smallest, largest : float or None
        Of the finite norms.
    zero_at, nonfinite_at, off_at : tuple of tuples of int
        Where the first ten of these vectors are in the batch.
    dtype : numpy.dtype
        Of the elements.
    shape : tuple of int
        Of the array.
    counts : dict of {float: int}
        How many norms lie in each of the intervals that begin with these numbers; they are so
        narrow that each is less than 1 % wide.
    name : str or None
        Of the tensor, array, dataset or column that was taken, where the file names them.
    """

    vectors: int
    length: int | None
    unit: int
    zero: int
    nonfinite: int
    null: int
    off: int
    worst: float | None
    smallest: Any
    largest: Any
    zero_at: Positions
    nonfinite_at: Positions
    off_at: Positions
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    counts: dict[float, int]
    name: str | None


def check_file(
    source: Path,
    axis: Axis = -1,
    *,
    tensor: str | None = None,
    column: str | None = None,
    dims: int | None = None,
    dtype_in: Any = None,
    tol: float | None = None,
    backend: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Tell how many vectors of a file have unit length, and what the others are.

    Parameters
    ----------
    source, axis, tensor, column, dims, dtype_in, backend, progress
        As for `normalize_file`.
    tol : float, optional
        As for `l2multi.is_normalized`.

    Returns
    -------
    Check
        Counts, positions and norms.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        As for `normalize_file`; ValueError for a negative `tol`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from l2multi.files import check_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = os.path.join(folder, "x.npy")
    ...     np.save(source, [[0.6, 0.8], [0.0, 0.0], [3.0, 4.0]])
    ...     check = check_file(source)
    >>> check.unit, check.zero, check.off, check.worst, check.off_at
    (1, 1, 1, 4.0, ((2,),))
    """
    with ExitStack() as stack:
        source = stack.enter_context(
            _remote.fetched("source", _file_arguments.path("source", source))
        )
        opened = _file_arguments.open_file(
            source, _file_arguments.selection(tensor, column, dtype_in)
        )
        stack.callback(opened.close)
        axes = _contract.normalize_axes(axis, len(opened.shape))
        if dims is not None:
            _file_arguments.cut(opened, axes, dims)
        if tol is None:
            tol = float(_contract.default_tol(_contract.rule(opened.dtype).native))
        tol = _call.size("tol", tol)
        policies = {"eps": 0.0, "zero": "keep", "nonfinite": "propagate"}
        own = _contract.rule(opened.dtype).result
        double = np.dtype(np.complex128 if _contract.is_complex(own) else np.float64)
        wide = max(own, double, key=lambda dtype: dtype.itemsize)
        one = _stream.Pass(opened, source, axes, wide, policies, backend, _contract.rule(wide).norm)
        off, worst = _stream.Met(), 0.0
        histogram = _stream.Histogram()

        def look(block: Block, norms: Array) -> None:
            nonlocal worst
            known = norms[np.isfinite(norms)]
            histogram.add(known)
            away = np.abs(norms - 1.0)
            others = (away > tol) & np.isfinite(norms) & (norms != 0.0)
            if others.any():
                off.add(others, block.starts)
                worst = max(worst, float(away[others].max()))

        one.run(keep_norms=look, progress=progress)
    zero, bad, null = one.zeros, one.unbound, one.nulls
    if one.length == 0:  # empty vectors have no unit length
        off.count, worst = one.vectors, 1.0
    unit = one.vectors - zero.count - bad.count - null.count - off.count
    return Check(
        one.vectors, one.length, unit, zero.count, bad.count, null.count, off.count,
        worst if off.count else None, one.smallest, one.largest,
        tuple(zero.first), tuple(bad.first), tuple(off.first), opened.dtype, opened.shape,
        histogram.counts(), opened.name or None,
    )  # fmt: skip
