"""Files of vectors larger than memory: from one to another like it, some vectors at a time.

`formats` says what a file looks like. Both files are mapped, and the library works from map to map.
It reads and writes a vector longer than any window in parts, so its scratch is the only memory that
counts. One vector has one answer, so the windows leave no trace in the result.
"""

import contextlib
import errno
import itertools
import math
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from l2multi import _backends, _contract, _formats, _maps
from l2multi._api import explain, norm, normalize
from l2multi._contract import Axis, NonFinite, NonFiniteError, Zero, ZeroVectorError
from l2multi._formats import Array

Path = str | os.PathLike[str]

# Bytes of input between two calls of `progress`: 20 ms of work.
WINDOW = 2**24

# Where vectors lie across the file, neighbours share pages, and a window of a few vectors would
# read every page for each few. This many neighbours fill whole pages, and their norms are small.
NEIGHBOURS = 2**16


class Report(NamedTuple):
    """What `normalize_file` met and did.

    Attributes
    ----------
    vectors, length : int
        How many vectors, of how many elements.
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
    """

    vectors: int
    length: int
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
    shape: tuple[int, ...]
    why: str


def normalize_file(
    source: Path,
    target: Path,
    axis: Axis = -1,
    *,
    tensor: str | None = None,
    dtype: Any = None,
    dtype_in: Any = None,
    eps: float = 0.0,
    zero: Zero = "keep",
    nonfinite: NonFinite = "propagate",
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
    dtype_in = None if dtype_in is None else _formats.ml_dtype("dtype_in", dtype_in)
    with _told("source", source):
        opened = _open(source, _formats.Request(tensor, dtype_in))
    with _told("target", target):
        path = _check_target(source, target)
    x = opened.array
    axes = _contract.normalize_axes(axis, x.ndim)
    result = _result(opened, source, dtype)
    policies: dict[str, Any] = {"eps": eps, "zero": zero, "nonfinite": nonfinite}
    told = explain(x, axes, dtype=result, backend=backend, **policies)
    used = {told.backend: told.why}
    named = _backends.named(backend) is not None
    with _replacing(path, target) as file:
        # No map of it must outlive the call: on Windows a mapped file cannot be renamed.
        y = _create(file, opened, result, target)
        counts = _scale(opened, y, axes, policies, used, named, progress)
        del y, opened
    seconds = time.perf_counter() - start
    nbytes = x.nbytes + x.size * result.itemsize
    reasons = used.values() if len(used) == 1 else (f"{name}: {why}" for name, why in used.items())
    return Report(
        *counts, x.dtype, result, ", then ".join(used), seconds, nbytes,
        source, target, x.shape, "; ".join(reasons),
    )  # fmt: skip


@contextlib.contextmanager
def _told(what: str, path: str) -> Iterator[None]:
    """Have what the system refuses name the argument and the path that the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}", path) from None


def _open(path: str, request: _formats.Request) -> _formats.Opened:
    """What a file holds, opened by the row of its suffix."""
    row = _formats.find(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: a pipe would wait for data
        raise ValueError(
            f"source: expected a {row.suffix} file, got {path!r}, which is not a file (what "
            "comes through a pipe has to be saved to one first, for files are memory-mapped)"
        )
    with open(path, "rb") as file:
        return row.open(file, path, request)


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
    # What /dev/stdout leads to may be a pipe, or have no name any more.
    if not (stat.S_ISREG(status.st_mode) and os.path.exists(path)):
        raise ValueError(
            f"target: expected a file, got {target!r}, which is not one; files are memory-mapped"
        )
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", target)
    return path


def _result(opened: _formats.Opened, path: str, dtype: Any) -> np.dtype[Any]:
    """The dtype of the result; refused if the format cannot name it."""
    own = _contract.rule(opened.array.dtype).result
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


@contextlib.contextmanager
def _replacing(path: str, target: str) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place if all goes well and else vanishes."""
    temporary = os.path.join(os.path.dirname(path), f".l2multi-{secrets.token_hex(8)}.tmp")
    try:
        with _told("target: its directory takes no new file", target):
            file = open(temporary, "x+b")  # noqa: SIM115
        with file:
            yield file
            with _told("target", target):
                if os.path.exists(path):
                    shutil.copymode(path, temporary)
                    # The new name may reach the disk before the new bytes do, and a crash between
                    # the two would cost the old ones. Where there are none, nobody has to wait: the
                    # disk takes ten times as long as the arithmetic.
                    os.fsync(file.fileno())
        with _told("target", target):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _create(file: BinaryIO, opened: _formats.Opened, dtype: np.dtype[Any], target: str) -> Array:
    """The vectors of a file like the one opened, mapped: its head is written, its space reserved,
    and all but the vectors is there."""
    head, nbytes = opened.head(dtype), opened.size(dtype)
    with _told("target", target):
        file.write(head)
        file.flush()
    if nbytes == 0:
        return opened.lay(np.empty(0, np.uint8), dtype)
    try:
        _reserve(file, len(head), nbytes)
    except OSError as error:
        message = f"target: no room for its {nbytes} bytes ({error.strerror}); nothing has changed"
        raise OSError(error.errno, message, target) from None
    with _told("target", target):
        space = np.memmap(file, np.uint8, "r+", len(head), (nbytes,))
    return opened.lay(np.asarray(space), dtype)


def _reserve(file: BinaryIO, offset: int, nbytes: int) -> None:
    """Take the space now: a disk found full while writing to a map would end the process."""
    try:
        os.posix_fallocate(file.fileno(), offset, nbytes)
    except AttributeError:  # macOS, Windows
        pass
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    else:
        return
    for lo in range(0, nbytes, WINDOW):
        file.write(bytes(min(WINDOW, nbytes - lo)))
    file.flush()


def _windows(x: Array, axes: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Indices that cut `x` between its vectors, in the order of the file."""
    order = sorted(range(x.ndim), key=lambda d: -x.strides[d])
    kept = [d for d in order if d not in axes]
    vector = x.itemsize * math.prod(x.shape[d] for d in axes)
    # The vectors that lie between the elements of one another, not one after the other.
    outer = min((order.index(d) for d in axes), default=x.ndim)
    woven = math.prod(x.shape[d] for d in order[outer:] if d not in axes)
    most = max(1, WINDOW // vector, min(woven, NEIGHBOURS))
    steps = {}
    for d in reversed(kept):
        steps[d] = min(x.shape[d], most)
        most //= steps[d]
    for starts in itertools.product(*(range(0, x.shape[d], steps[d]) for d in kept)):
        cut = {d: slice(lo, lo + steps[d]) for d, lo in zip(kept, starts, strict=True)}
        # The Ellipsis keeps an array an array where there are no axes.
        yield (*(cut.get(d, slice(None)) for d in range(x.ndim)), ...)


class _Met:
    """Vectors that a policy is about: how many, and where the first is in the whole batch."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[int, ...] = ()

    def add(self, bad: Array, starts: tuple[int, ...]) -> None:
        """Those of a window, whose first vector is at `starts`."""
        if bad.any():
            local = np.unravel_index(int(np.argmax(bad)), bad.shape)
            here = tuple(start + int(i) for start, i in zip(starts, local, strict=True))
            self.first = min(self.first, here) if self.count else here
            self.count += int(np.count_nonzero(bad))

    def refuse(self, error: type[ValueError], what: str, vectors: int) -> None:
        """Raise if there are any."""
        if self.count:
            raise error(_contract.met(f"source: {what}", self.count, vectors, self.first))


def _scale(
    opened: _formats.Opened,
    y: Array,
    axes: tuple[int, ...],
    policies: dict[str, Any],
    used: dict[str, str],
    named: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int, int, int, Any, Any]:
    """Normalize what was opened into `y` by the backend in `used`, and return what a `Report`
    begins with. Where it has no kernel, NumPy goes on and is added, unless the backend was `named`.
    """
    x = opened.array
    batch = [d for d in range(x.ndim) if d not in axes]
    length = math.prod(x.shape[d] for d in axes)
    vectors = math.prod(x.shape[d] for d in batch)
    if x.size == 0:  # empty vectors have norm 0
        return vectors, length, 0, 0, *((0.0, 0.0) if vectors else (None, None))
    eps, zero, nonfinite = policies.values()
    done = beyond = 0
    zeros, bad = _Met(), _Met()
    smallest: Any = np.inf
    largest: Any = -np.inf
    progress = progress or (lambda done, total: None)

    def serve(window: tuple[slice, ...], backend: str) -> Array:
        _, norms = normalize(
            x[window],
            axes,
            out=y[window],
            eps=eps,
            dtype=y.dtype,
            zero="nan" if zero == "nan" else "keep",
            return_norm=True,
            backend=backend,
        )
        return np.asarray(norms)

    progress(0, vectors)
    for window in _windows(x, axes):
        _maps.populate(x[window], _maps.READ, 4 * WINDOW)
        _maps.populate(y[window], _maps.WRITE, 4 * WINDOW)
        opened.carry(window)
        try:
            norms = serve(window, list(used)[-1])
        except ImportError as error:
            if named:
                raise
            used["numpy"] = str(error)
            norms = serve(window, "numpy")
        starts = tuple(window[d].start for d in batch)
        zeros.add(_contract.are_zero(norms), starts)
        finite = np.isfinite(norms)
        if nonfinite == "raise" and not finite.all():
            # A norm of inf may be that of a finite vector, whose unit vector has no NaN.
            bad.add(~finite & np.isnan(norm(y[window], axes, backend=list(used)[-1])), starts)
        known = norms[finite]
        beyond += norms.size - known.size
        smallest, largest = known.min(initial=smallest), known.max(initial=largest)
        done += norms.size
        progress(done, vectors)
        _maps.unload(x)
        _maps.unload(y)
    bad.refuse(NonFiniteError, "inf or NaN", vectors)
    if zero == "raise":
        zeros.refuse(ZeroVectorError, "zero norm", vectors)
    ends = (smallest, largest) if beyond < vectors else (None, None)
    return vectors, length, zeros.count, beyond, *ends
