"""The table of backends: who computes, and which of them serves a call. Computes nothing.

A backend is one module with the names of `Backend`. It works on plain arrays of one library, which
are validated, and knows neither containers nor policies.
"""

import functools
import importlib
import os
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from l2multi import _contract, _fork, _usable

ENVIRONMENT = "L2MULTI_BACKEND"


class Row(NamedTuple):
    """A backend: its name, its module, the library of its arrays, and the module it needs."""

    name: str
    module: str
    library: str
    needs: str


# The order is that of preference among the backends of one library.
ROWS = (
    Row("numba", "l2multi.backends.numba", "numpy", "numba"),
    Row("numpy", "l2multi.backends.numpy", "numpy", "numpy"),
    Row("numba", "l2multi.backends.numba.ragged", "ragged", "numba"),
    Row("numpy", "l2multi.backends.numpy_ragged", "ragged", "numpy"),
    Row("numba", "l2multi.backends.numba.chunks", "chunks", "numba"),
    Row("numpy", "l2multi.backends.numpy_chunks", "chunks", "numpy"),
    Row("jax", "l2multi.backends.jax", "jax", "jax"),
    Row("jax", "l2multi.backends.jax.sparse_backend", "sparse JAX", "jax"),
    Row("torch", "l2multi.backends.torch", "torch", "torch"),
    Row("array_api", "l2multi.backends.array_api", "array_api", "array_api_compat"),
)
_FIRST = {row.name: row for row in reversed(ROWS)}
NAMES = tuple(dict.fromkeys(row.name for row in ROWS))

# The libraries whose elements are NumPy's, and follow its rules of dtypes.
OF_NUMPY = ("numpy", "ragged", "chunks")


class FastPath(Protocol):
    """A way past validation and selection for arrays of one dtype or class. Both functions return
    None where a call needs the general path; nothing is written then."""

    backend: str

    def normalize(
        self, x: Any, axis: Any, eps: Any, zero: Any, nonfinite: Any,
        out: Any, dtype: Any, return_norm: Any,
    ) -> Any:  # fmt: skip
        """As `l2multi.normalize`."""

    def norm(self, x: Any, axis: Any, keepdims: Any, nonfinite: Any, out: Any, dtype: Any) -> Any:
        """As `l2multi.norm`."""


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

    def fast_path(self, x: Any, dtype: Any, result: np.dtype[Any]) -> FastPath | None:
        """The fast path for arrays like `x`, if there is one by now, which then knows results of
        this dtype; `dtype` is what the caller asked for."""

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
        """Of a library other than NumPy: `x` as a NumPy array, a new one that its owner may write
        to, or a view of host memory (a TypeError that says why where there can be none)."""

    def from_numpy(self, x: np.ndarray[Any, Any], like: Any = None) -> Any:
        """`x` as an array of this library, on the device of `like`."""

    def default_float(self) -> np.dtype[Any]:
        """What integers become."""


# Load-once caches: a loaded module, or the reason why it does not load.
_loaded: dict[str, Backend] = {}
_failed: dict[str, str] = {}

chosen: ContextVar[str | None] = ContextVar("l2multi_backend", default=None)

# os.environ.get costs a microsecond (a KeyError and a decoding) where its dictionary costs 50 ns.
_environ: Any = getattr(os.environ, "_data", os.environ)
_encode: Any = getattr(os.environ, "encodekey", str)
_key: Any = _encode(ENVIRONMENT)
# Attributes of what is a module's take 20 ns.
_ndarray, _chosen = np.ndarray, chosen.get


def check_name(name: str) -> None:
    """Refuse a name that no backend has."""
    if name not in NAMES:
        known = ", ".join(map(repr, NAMES))
        raise ValueError(f"backend: unknown name {name!r}; known are {known}")


@functools.cache  # 1 us of each call
def rows(library: str | None = None, name: str | None = None) -> tuple[Row, ...]:
    """The rows of backends for arrays of a library, or of a name, or both."""
    return tuple(
        row for row in ROWS
        if library in (None, row.library) and name in (None, row.name)
    )  # fmt: skip


def first(name: str) -> Row:
    """The first row of a backend's name."""
    return _FIRST[name]


def load(row: Row) -> Backend:
    """A backend, or an ImportError that says what to install."""
    found = _loaded.get(row.module)
    if found is not None:
        return found
    if row.module not in _failed:
        try:
            with _fork.loading:
                module = importlib.import_module(row.module)
        except Exception as error:  # a broken library fails in whatever way it likes
            if _usable.passes(error):
                raise _usable.unusable(row.name, error) from error
            _failed[row.module] = _usable.told(error)
        else:
            return _loaded.setdefault(row.module, cast(Backend, module))
    raise _usable.unusable(row.name, _failed[row.module])


def home(library: str) -> Backend:
    """The backend that speaks for a library other than NumPy."""
    return load(rows(library)[0])


def named_in_environment() -> str | None:
    """The value of ``L2MULTI_BACKEND``; empty counts as unset."""
    if _key not in _environ:
        return None
    return os.environ.get(ENVIRONMENT) or None


def named(argument: str | None) -> str | None:
    """The backend asked for by argument, context manager or environment, in this order."""
    name = argument if argument is not None else chosen.get()
    if name is None:
        name = named_in_environment()
        if name is None:
            return None
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{error}; it came from ${ENVIRONMENT}") from None
    check_name(name)
    return name


# Load-once cache: fast paths, for NumPy arrays by their dtype, for others by their class.
fast_paths: dict[Any, FastPath] = {}


def fast_path(x: Any, argument: str | None) -> FastPath | None:
    """The fast path for an array, if no other backend is named. Takes 0.1 us where `select` and the
    dtype table take 2."""
    found = fast_paths.get(x.dtype if type(x) is _ndarray else type(x))
    if found is None or (argument is None and _key not in _environ and _chosen() is None):
        return found
    name = named(None) if argument is None else argument
    return found if name is None or name == found.backend else None


def _traced_fast_path(x: Any, argument: str | None) -> Any:
    """What torch.compile, which traces Python, traces in place of `fast_path`."""
    from l2multi.containers import torch_traced

    return torch_traced.fast_path(x, argument)


def trace_as(function: Any, traced: Any) -> None:
    """Have torch.compile trace another function in place of this one: by the attribute by which
    torch finds what to trace of its own compiled functions."""
    function.__dict__["_torchdynamo_inline"] = traced


trace_as(fast_path, _traced_fast_path)


def keep_fast_path(found: Backend, x: Any, dtype: Any, result: np.dtype[Any]) -> None:
    """Have later calls with arrays like `x` find the fast path of the backend that serves it."""
    # Integers of a library whose default float is another lie in NumPy arrays as NumPy's do.
    if dtype is None and type(x) is np.ndarray and result != _contract.rule(x.dtype).result:
        return
    made = found.fast_path(x, dtype, result)
    if made is not None:
        fast_paths[x.dtype if type(x) is np.ndarray else type(x)] = made


class Selection(NamedTuple):
    """A backend, and why it serves."""

    row: Row
    backend: Backend
    why: str


def select(
    x: Any,
    library: str,
    axes: tuple[int, ...],
    result: np.dtype[Any],
    name: str | None,
    own: np.dtype[Any],
    look: bool = False,
) -> Selection:
    """The backend for `x`, an array of this library: the one named, or the first that can. `own` is
    what the result would be without ``dtype=``. For who will only `look`, the one that a call would
    get."""
    passed: list[str] = []
    loaded = []
    for row in rows(library, name):
        try:
            found = load(row)
        except ImportError:
            if name is not None:
                raise
            why: str | None = f"it cannot be loaded: {_failed.get(row.module, 'for now')}"
        else:
            loaded.append(found)
            why = found.unsupported(x, result)
            if name is not None and why is None:
                return Selection(row, found, "asked for by name")
            if why is None:
                why = found.unready(x, axes, result, look)
        if why is None:
            reason = f"first of the backends for {library} arrays that can serve it"
            return Selection(row, found, "; ".join([reason, *passed]))
        passed.append(f"not {row.name}: {why}" if name is None else why)
    who = "no backend can" if name is None else f"backend {name!r} cannot"
    about = f"x: {who} serve this input: "
    # NumPy holds float64 for equal to None, so that is no way to say that there is none.
    if own != result and any(one.unsupported(x, own) is None for one in loaded):
        about = f"dtype: {who} give {_contract.name(result)}: "
    raise TypeError(about + "; ".join(passed))
