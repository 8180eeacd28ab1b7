"""The table of backends, and which of them serves a call. The only file that knows all names.

A backend is one module with these names, on arrays of its own library (see `Backend`):
`normalize`, `norm`, `finite`, `traced`, `unsupported`, `unready`, `short`, `check`, `report` and
`kernel`.
One of a library other than NumPy has `to_numpy`, `from_numpy` and `default_float` too: by these
its arrays reach the NumPy backends, and NumPy arrays reach it.
"""

import contextlib
import errno
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from l2multi import _contract, _fork

ENVIRONMENT = "L2MULTI_BACKEND"


class Row(NamedTuple):
    """One backend: its name, its module, the array library it works on and what installs it."""

    name: str
    module: str
    library: str
    needs: str
    install: str


_JAX = "pip install 'jax>=0.8' or, in a clone of l2multi, pip install '.[jax]'"

# The order is that of preference among the backends of one library.
ROWS = (
    Row("numba", "l2multi.backends.numba", "numpy", "numba", "pip install numba"),
    Row("numpy", "l2multi.backends.numpy", "numpy", "numpy", "pip install numpy"),
    Row("jax", "l2multi.backends.jax", "jax", "jax", _JAX),
)
NAMES = tuple(row.name for row in ROWS)

# The class whose instances belong to a library, by its name in the library's module.
ARRAYS = {"jax": "Array"}
ACCEPTED_ARRAYS = ", ".join(
    ["numpy.ndarray", *(f"{k}.{v}" for k, v in ARRAYS.items()), "BCOO and BCSR"]
)


# ``(x, y, norms, eps, axis, ordered, nan)``: unit vectors into `y`, NaN for zero vectors if `nan`,
# and norms into `norms`, either of which may be None; whether that is done. If not, nothing is
# written: the call is not one for the short way, or, where None comes back and `ordered` asks for
# it, `y` is not ordered in memory as `x` is.
Short = Callable[[Any, Any, Any, Any, Any, bool, bool], bool | None]
# Functions of an array, or None, by what is asked for besides; see `learn`.
Table = dict[tuple[Any, ...], Callable[[Any], Any] | None]


class Backend(Protocol):
    """What a backend's module offers. Inputs are validated; axes ascend and are not negative."""

    def normalize(
        self,
        x: Any,
        axes: tuple[int, ...],
        *,
        eps: float,
        zero_nan: bool,
        out: Any,
        dtype: np.dtype[Any],
        norm_dtype: np.dtype[Any] | None,
    ) -> tuple[Any, Any]:
        """The unit vectors of `dtype` (in `out` if given) and, where `norm_dtype` is given,
        the norms before `eps`, axes removed; else None."""

    def norm(
        self, x: Any, axes: tuple[int, ...], *, keepdims: bool, out: Any, dtype: np.dtype[Any]
    ) -> Any:
        """The norms of `dtype`."""

    def finite(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Whether each vector is free of inf and NaN."""

    def unsupported(self, x: Any, result: np.dtype[Any]) -> str | None:
        """Why this backend cannot turn `x` into `result`, or None if it can."""

    def unready(
        self, x: Any, axes: tuple[int, ...], result: np.dtype[Any], look: bool
    ) -> str | None:
        """Why a call for which no backend is named should go to the next one, this time; nothing is
        made ready for who will only `look`."""

    def short(self, dtype: np.dtype[Any], result: np.dtype[Any]) -> Short | None:
        """For `usual`: the short way in for native arrays of `dtype` with results of `result`, if
        there is one by now."""

    def check(self) -> None:
        """For `show_versions`: an ImportError if the backend is not usable after all."""

    def report(self) -> dict[str, str]:
        """For `show_versions`: what else there is to say."""

    def traced(self, x: Any) -> bool:
        """Whether `x` stands for values not known yet."""

    def kernel(
        self, x: Any, axes: tuple[int, ...], result: np.dtype[Any], out: Any
    ) -> tuple[str, int]:
        """For `explain`: the name of the kernel a call would use, and its number of threads. `x`
        may be a NumPy array that a call would move."""

    def to_numpy(self, x: Any, *, copy: bool) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array: a new one that its owner may write to, or a view of host memory
        (a TypeError that says why where there can be none)."""

    def from_numpy(self, x: np.ndarray[Any, Any], like: Any = None) -> Any:
        """`x` as an array of this library, on the device of `like`."""

    def default_float(self) -> np.dtype[Any]:
        """What integers become."""


# Load-once caches: a loaded module, or the reason why it does not load.
_loaded: dict[str, Backend] = {}
_failed: dict[str, str] = {}

chosen: ContextVar[str | None] = ContextVar("l2multi_backend", default=None)
# Whether the call at work only asks: it starts nothing, no compilation and no thread.
asking: ContextVar[bool] = ContextVar("l2multi_asking", default=False)

# os.environ.get costs a microsecond (a KeyError and a decoding) where its dictionary costs 50 ns.
_environ: Any = getattr(os.environ, "_data", None)
_encode: Any = getattr(os.environ, "encodekey", None)
_key: Any = None if _encode is None else _encode(ENVIRONMENT)


def row(name: str) -> Row:
    """The row of a known name."""
    for one in ROWS:
        if one.name == name:
            return one
    raise ValueError(f"backend: unknown name {name!r}; known are {', '.join(map(repr, NAMES))}")


def load(name: str) -> Backend:
    """The backend of this name, or an ImportError that says what to install."""
    found = _loaded.get(name)
    if found is not None:
        return found
    one = row(name)
    if name not in _failed:
        try:
            with _fork.loading:
                module = importlib.import_module(one.module)
        except Exception as error:  # a broken library fails in whatever way it likes
            if passes(error):
                raise unusable(name, error) from error
            _failed[name] = _told(error)
        else:
            return _loaded.setdefault(name, cast(Backend, module))
    raise unusable(name, _failed[name])


_PASSING = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EINTR}


def passes(error: BaseException) -> bool:
    """Whether a failure was for want of what may be there the next time: files, threads, memory.
    A loader of libraries tells of it in words only."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in _PASSING)
        or any(os.strerror(number) in str(error) for number in _PASSING)
        or (error.__cause__ is not None and passes(error.__cause__))
    )


def _told(error: object) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)


def unusable(name: str, why: object) -> ImportError:
    """The error that says that a backend is not usable, why, and what to install."""
    cure = "" if isinstance(why, ValueError) else f"; try: {row(name).install}"
    return ImportError(f"backend {name!r} cannot be loaded ({_told(why)}){cure}")


def named_in_environment() -> str | None:
    """The value of ``L2MULTI_BACKEND``; empty counts as unset."""
    if _environ is not None and _key not in _environ:
        return None
    return os.environ.get(ENVIRONMENT) or None


def named(argument: str | None) -> str | None:
    """The backend asked for by argument, context manager or environment, in this order."""
    name = argument
    if name is None:
        name = chosen.get()
        if name is None:
            name = named_in_environment()
            if name is None:
                return None
            try:
                row(name)
            except ValueError as error:
                raise ValueError(f"{error}; it came from ${ENVIRONMENT}") from None
    row(name)
    return name


# Load-once cache of the shortest ways of the usual calls, each with the name of its backend at the
# end. For NumPy arrays by their dtype, or by that and the one asked for (see `key`): the short way
# into the backend that auto selects, and the dtypes of result and norm. For arrays of other
# libraries by their class: two tables; see `learn`.
_usual: dict[Any, Any] = {}


def key(dtype: np.dtype[Any], asked: Any) -> Any:
    """What `_usual` knows an input dtype and a ``dtype=`` by; None if it does not."""
    return (dtype, asked) if isinstance(asked, (type, np.dtype, str)) else None


def usual(key: Any, argument: str | None) -> Any:
    """What `_usual` has for this dtype or class, if no other backend is named. Takes 0.1 us where
    `select` and the dtype table take 2."""
    found = _usual.get(key)
    if found is not None:
        name = argument if argument is not None else chosen.get()
        if name is None and _environ is not None and _key in _environ:
            name = named_in_environment()
        if name is not None and name != found[-1]:
            return None
    return found


def learn(cls: type, normalize: Table, norm: Table, name: str) -> None:
    """From a backend: the shortest ways for instances of a class, all of whom have values. They are
    functions of x, or None for calls that are not usual: for `normalize` by dtype, axis, whether
    the unit vectors are all, and eps; for `norm` by dtype, axis and whether it is dropped."""
    _usual[cls] = normalize, norm, name


# The blocks of `no_short_way` that have been entered, by any threads, and what the last one brings
# back.
_blocks: list[None] = []
_blocks_of_threads = threading.Lock()
_kept = _usual


@contextlib.contextmanager
def no_short_way() -> Iterator[None]:
    """Within this block, calls of all threads go the long way. For tests and benchmarks."""
    global _usual, _kept
    with _blocks_of_threads:
        if not _blocks:
            _kept, _usual = _usual, _Nothing()
        _blocks.append(None)
    try:
        yield
    finally:
        with _blocks_of_threads:
            _blocks.pop()
            if not _blocks:
                _usual = _kept


class _Nothing(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""


def library_of(x: Any) -> str | None:
    """The library that owns `x`. A library nobody has imported cannot own anything."""
    for library, array in ARRAYS.items():
        cls = getattr(sys.modules.get(library), array, None)
        if cls is not None and isinstance(x, cls):
            return library
    return None


def traced(value: Any) -> bool:
    """Whether `value`, a keyword's perhaps, is not known yet."""
    library = library_of(value)
    return library is not None and home(library).traced(value)


def sparse(x: Any) -> Any:
    """The module that serves `x` if it is a sparse JAX array, whose library somebody imported."""
    found = sys.modules.get("jax.experimental.sparse")
    kinds = getattr(found, "BCOO", None), getattr(found, "BCSR", None)
    if None not in kinds and isinstance(x, cast(Any, kinds)):
        return importlib.import_module("l2multi.backends.jax.sparse")
    return None


def home(library: str) -> Backend:
    """The backend that speaks for a library other than NumPy."""
    return load(next(one.name for one in ROWS if one.library == library))


def carry(x: Any, source: str, target: str, *, back_to: Any = None, look: bool = False) -> Any:
    """An argument `x` of one library as an array of another; or a result, back to where the
    argument `back_to` came from. For who will only `look` at it, what is refused is, but a NumPy
    array stays one."""
    host = x if source == "numpy" else home(source).to_numpy(x, copy=back_to is not None)
    if target == "numpy":
        return host
    if (why := home(target).unsupported(host, host.dtype)) is not None:
        raise TypeError(f"x: {target} cannot hold {_contract.name(host.dtype)}: {why}")
    return host if look else home(target).from_numpy(host, back_to)


def select(
    x: Any,
    library: str,
    axes: tuple[int, ...],
    result: np.dtype[Any],
    name: str | None,
    own: np.dtype[Any] | None = None,
    look: bool = False,
) -> tuple[Row, Backend, str]:
    """The backend for `x`, and why: the one named, or the first that can. `own` is what the result
    would be without ``dtype=``. For who will only `look`, the one that a call would get."""
    if name is not None:
        found = load(name)
        why = found.unsupported(x, result)
        if why is not None:
            raise TypeError(_unserved(f"backend {name!r} cannot", [found], x, result, own) + why)
        return row(name), found, "asked for by name"
    passed: list[str] = []
    loaded = []
    for one in ROWS:
        if one.library == library:
            try:
                found = load(one.name)
            except ImportError:
                why = f"it cannot be loaded: {_failed.get(one.name, 'for now')}"
            else:
                loaded.append(found)
                why = found.unsupported(x, result)
                if why is None:
                    why = found.unready(x, axes, result, look)
            if why is None:
                reason = f"first of the {library} backends that can serve it"
                return one, found, "; ".join([reason, *passed])
            passed.append(f"not {one.name}: {why}")
    raise TypeError(_unserved("no backend can", loaded, x, result, own) + "; ".join(passed))


def _unserved(
    who: str, loaded: list[Backend], x: Any, result: np.dtype[Any], own: np.dtype[Any] | None
) -> str:
    """How a refusal begins: by the argument that it is about."""
    # NumPy holds float64 for equal to None.
    other = own is not None and own != result
    if other and any(one.unsupported(x, cast(Any, own)) is None for one in loaded):
        return f"dtype: {who} give {_contract.name(result)}: "
    return f"x: {who} serve this input: "


def find_short(
    one: Row, found: Backend, dtype: np.dtype[Any], asked: Any, result: np.dtype[Any]
) -> None:
    """Keep for `usual` the short way of calls that this backend is to serve."""
    at = dtype if asked is None else key(dtype, asked)
    if one is not ROWS[0] or at is None or at in _usual:
        return
    if (way := found.short(dtype, result)) is not None:
        _usual[at] = way, result, _contract.rule(dtype).norm, one.name
