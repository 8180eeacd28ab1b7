"""Files of vectors larger than memory: from one ``.npy`` to another, some vectors at a time.

Both files are mapped, and the library works from map to map. It reads and writes a vector longer
than any window in parts, so its scratch is the only memory that counts. One vector has one
answer, so the windows leave no trace in the result.
"""

import contextlib
import errno
import itertools
import math
import mmap
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from l2multi import _contract, _registry
from l2multi._api import explain, normalize
from l2multi._contract import Axis, Zero, ZeroVectorError

Array = np.ndarray[Any, Any]
Path = str | os.PathLike[str]

# Bytes of input between two calls of `progress`: 20 ms of work.
WINDOW = 2**24

# Where vectors lie across the file, neighbours share pages, and a window of a few vectors would
# read every page for each few. This many neighbours fill whole pages, and their norms are small.
NEIGHBOURS = 2**16


class Report(NamedTuple):
    """What `normalize_npy` met and did.

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
        The backend that served; two, where one took over from another.
    seconds : float
        From the call to the renamed file, compilation included, and the wait for the disk if a
        file was replaced.
    nbytes : int
        Array bytes read plus array bytes written.
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


def normalize_npy(
    source: Path,
    target: Path,
    axis: Axis = -1,
    *,
    dtype: Any = None,
    zero: Zero = "keep",
    backend: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Scale the vectors of a ``.npy`` file to unit Euclidean length, into another ``.npy`` file.

    The target has the bytes that ``numpy.save(target, normalize(numpy.load(source), axis))``
    would give it, and never less: it is written beside its final place, with its space reserved
    first, and renamed when it is complete (and, if it replaces another, on the disk). On any
    exception, an interrupt included, the target holds what it held before.

    Parameters
    ----------
    source : path
        A ``.npy`` file of shape (..., n), of a dtype that `normalize` takes, in C or Fortran
        order. It is mapped, not loaded, and must not change meanwhile. Object arrays are never
        unpickled.
    target : path
        The ``.npy`` file to write or to replace, not `source`. A replaced file's permissions are
        kept, and a symbolic link is followed.
    axis : int, tuple of ints or None, default -1
        As for `normalize`.
    dtype : dtype, optional
        The floating dtype of the result, one that a ``.npy`` can name: not bfloat16 or float8.
    zero : {"keep", "nan", "raise"}, default "keep"
        As for `normalize`.
    backend : str, optional
        As for `normalize`. Memory stays bounded on NumPy and Numba; JAX copies a window at a time
        to its device, and this holds at least one vector, or as many as share the pages of one.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of vectors.

    Returns
    -------
    Report
        Counts, smallest and largest norm, backend, time.

    Raises
    ------
    OSError
        `source` cannot be read; the directory of `target` does not exist or cannot be written to;
        the disk is full.
    ValueError
        `source` is not a complete ``.npy`` of numbers; `target` is `source`, or not a file;
        ``zero="raise"`` met a zero vector (ZeroVectorError, with its position in the whole
        batch); an unknown choice or backend; an axis out of range (numpy.exceptions.AxisError).
    TypeError
        A dtype that is not supported, or that a ``.npy`` cannot name.
    ImportError
        The backend named is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from l2multi.files import normalize_npy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, target = os.path.join(folder, "x.npy"), os.path.join(folder, "y.npy")
    ...     np.save(source, [[3.0, 4.0], [0.0, 0.0]])
    ...     report = normalize_npy(source, target)
    ...     np.load(target)
    array([[0.6, 0.8],
           [0. , 0. ]])
    >>> report.vectors, report.length, report.zero, float(report.largest)
    (2, 2, 1, 5.0)
    """
    start = time.perf_counter()
    source = os.fsdecode(source)
    x = _open(source)
    path = _check_target(source, os.fsdecode(target))
    _contract.check_choice("zero", zero, _contract.ZERO)
    axes = _contract.normalize_axes(axis, x.ndim)
    result = _result(x.dtype, dtype)
    # One window speaks for all: under JAX even an explanation copies its input to the device.
    sample = x[next(_windows(x, axes))] if x.size else x
    used = {explain(sample, axes, dtype=result, zero=zero, backend=backend).backend: None}
    # Where none is named, another may take over when its kernel is there.
    may_change = None if _registry.named(backend) else used
    with _replacing(path) as file:
        # The map must not outlive the call: on Windows a mapped file cannot be renamed.
        counts = _scale(x, _create(file, x, result), axes, zero, backend, may_change, progress)
    seconds = time.perf_counter() - start
    nbytes = x.nbytes + x.size * result.itemsize
    return Report(*counts, x.dtype, result, ", then ".join(used), seconds, nbytes)


def _open(path: str) -> Array:
    """The array of a ``.npy`` file, mapped."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"source: expected a .npy file, got {path!r}, which is not a file")
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PK"):
        raise ValueError(
            f"source: expected a .npy file, got {path!r}, which is an archive (.npz); save one "
            "of its arrays with numpy.save"
        )
    if magic != np.lib.format.MAGIC_PREFIX:
        raise ValueError(f"source: expected a .npy file, got {path!r}, which does not begin as one")
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # a damaged header fails in whatever way it likes
        raise ValueError(
            f"source: expected a complete .npy file of numbers, got {path!r} ({error})"
        ) from None


def _check_target(source: str, target: str) -> str:
    """Where `target` leads; refused if it cannot be replaced."""
    path = os.path.realpath(target)
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(errno.ENOENT, "target: its directory does not exist", target)
    if os.path.exists(path):
        if os.path.samefile(source, path):
            raise ValueError(f"target: expected another file than source, got {target!r}")
        if not os.path.isfile(path):
            raise ValueError(f"target: expected a file, got {target!r}, which is not one")
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "target: it is write-protected", target)
    return path


def _result(source: np.dtype[Any], dtype: Any) -> np.dtype[Any]:
    """The dtype of the result; refused if a ``.npy`` cannot name it."""
    if source.kind == "V":
        raise TypeError(
            f"source: dtype {source} is not supported; accepted are {_contract.ACCEPTED_DTYPES}. "
            "A .npy does not name bfloat16 and float8 but calls them void (V): save such arrays "
            "as float32, which holds them exactly"
        )
    own = _contract.rule(source).result
    if dtype is None:
        return own
    # By name too: the names mean nothing to NumPy before somebody imports ml_dtypes.
    if not (isinstance(dtype, str) and dtype in _contract.ML_FLOATS):
        asked = _contract.floating(dtype, complex_=_contract.is_complex(own))
        if asked not in _contract.ml_dtypes_in(_contract.ML_FLOATS):
            return asked
    raise TypeError(
        f"dtype: {dtype} has no name in a .npy file, so that the result could not be read back; "
        "accepted are float16, float32, float64, longdouble and their complex kin"
    )


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place if all goes well and else vanishes."""
    temporary = os.path.join(os.path.dirname(path), f".l2multi-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            if os.path.exists(path):
                shutil.copymode(path, temporary)
                # The new name may reach the disk before the new bytes do, and a crash between
                # the two would cost the old ones. Where there are none, nobody has to wait: the
                # disk takes ten times as long as the arithmetic.
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _create(file: BinaryIO, x: Array, dtype: np.dtype[Any]) -> Array:
    """An array like `x`, mapped to the file: its header is written and its space is reserved."""
    fortran = x.flags.f_contiguous and not x.flags.c_contiguous
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": fortran, "shape": x.shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    offset, nbytes = file.tell(), x.size * dtype.itemsize
    if nbytes == 0:
        return np.empty(x.shape, dtype)
    try:
        _reserve(file, offset, nbytes)
    except OSError as error:  # which names the temporary file, and that would tell nobody anything
        message = f"target: no room for its {nbytes} bytes ({error.strerror}); nothing has changed"
        raise OSError(error.errno, message) from None
    mapped: Array = np.memmap(file, dtype, "r+", offset, x.shape, "F" if fortran else "C")
    return np.asarray(mapped)


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
    order = list(range(x.ndim))
    if not x.flags.c_contiguous:
        order.reverse()
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


def _unload(array: Array) -> None:
    """Take a map's pages out of the process. The kernel still has them, as a cache."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _scale(
    x: Array,
    y: Array,
    axes: tuple[int, ...],
    zero: Zero,
    backend: str | None,
    used: dict[str, None] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int, int, int, Any, Any]:
    """Normalize `x` into `y`, add to the backends `used`, return what a `Report` begins with."""
    batch = [d for d in range(x.ndim) if d not in axes]
    length = math.prod(x.shape[d] for d in axes)
    vectors = math.prod(x.shape[d] for d in batch)
    if x.size == 0:  # empty vectors have norm 0
        return vectors, length, 0, 0, *((0.0, 0.0) if vectors else (None, None))
    done = zeros = nonfinite = 0
    smallest: Any = np.inf
    largest: Any = -np.inf
    first: tuple[int, ...] | None = None
    progress = progress or (lambda done, total: None)
    progress(0, vectors)
    for window in _windows(x, axes):
        if used is not None:
            used[explain(x[window], axes, dtype=y.dtype, zero=zero).backend] = None
        _, norms = normalize(
            x[window],
            axes,
            out=y[window],
            dtype=y.dtype,
            zero="nan" if zero == "nan" else "keep",
            return_norm=True,
            backend=backend,
        )
        norms = np.asarray(norms)
        none = norms == 0
        if none.any():
            zeros += int(np.count_nonzero(none))
            local = np.unravel_index(int(np.argmax(none)), none.shape)
            here = tuple(window[d].start + int(i) for d, i in zip(batch, local, strict=True))
            first = here if first is None else min(first, here)
        finite = norms[np.isfinite(norms)]
        nonfinite += norms.size - finite.size
        smallest, largest = finite.min(initial=smallest), finite.max(initial=largest)
        done += norms.size
        progress(done, vectors)
        _unload(x)
        _unload(y)
    if zero == "raise" and first is not None:
        raise ZeroVectorError(
            f"source: zero norm in {zeros} of {vectors} vectors, the first at position "
            f"{first[0] if len(first) == 1 else first} of the batch"
        )
    known = (smallest, largest) if nonfinite < vectors else (None, None)
    return vectors, length, zeros, nonfinite, *known
