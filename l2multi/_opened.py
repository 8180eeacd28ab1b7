"""What a container is opened as: an array that a backend computes on, and the way back.

`Opened` is that of an array which has nothing else to it; the modules in `containers` have
subclasses. `_containers` has the table of what is opened how.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from l2multi import _backends, _contract

T = TypeVar("T")


class Opened:
    """A value as backends take it, and the way back: here of an array that has nothing else to it.

    `array` tells shape, dtype and layout; `values` are what is computed on, of `library`.
    """

    has_fast_path = True  # whether a call is none but on `array`
    has_nulls = False  # whether it can hold a null in place of a vector
    judges_later = False  # whether policies are heeded by who computes, for there are no values yet

    def __init__(self, array: Any, library: str = "numpy") -> None:
        self.array, self.library = array, library

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        """The axes of `array` over which a vector extends, ascending."""
        if request.dim is not None:
            raise TypeError("dim: x has no dimensions with names, as those of xarray; use axis=")
        return _contract.normalize_axes(request.axis, self.array.ndim)

    def judged(self, norms: Any) -> Any:
        """The norms by which policies judge: 1 for vectors that none is for, such as nulls."""
        return norms

    def make_null(self, vectors: Any) -> None:
        """Make vectors null, before `close`, where `has_nulls`."""
        raise NotImplementedError

    def keep_fast_path(self, found: _backends.Backend, dtype: Any, result: np.dtype[Any]) -> None:
        """Have later calls like this one find the fast path of the backend that serves it."""
        if self.has_fast_path:
            _backends.keep_fast_path(found, self.array, dtype, result)

    def asked(self, dtype: Any) -> Any:
        """A ``dtype=`` as NumPy knows it."""
        return dtype

    def default_float(self) -> np.dtype[Any]:
        """What integers become."""
        if self.library in _backends.OF_NUMPY:
            return np.dtype(np.float64)
        return _backends.home(self.library).default_float()

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        """What a backend computes on, for vectors over these axes; for who will only `look`, an
        array like it."""
        return self.array

    def select(
        self, values: Any, axes: tuple[int, ...], result: np.dtype[Any], name: str | None,
        own: np.dtype[Any], look: bool,
    ) -> _backends.Selection:  # fmt: skip
        """The backend that serves these values."""
        return _backends.select(values, self.library, axes, result, name, own, look)

    def target(self, out: Any) -> Any:
        """An `out` as an array to write to."""
        raise TypeError(
            f"out: {self.library} arrays are immutable, so out= cannot be used; try without"
        )

    def target_norms(self, out: Any) -> Any:
        """The same for norms."""
        return self.target(out)

    def check_result(self, dtype: np.dtype[Any]) -> None:
        """Refuse unit vectors of a dtype that their owner cannot hold."""

    def writable(self, out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Refuse a target that cannot take the result, before anything is written; and whether a
        backend may write to it while it reads `x`."""
        _contract.check_out(out, shape, dtype)
        if out.dtype != dtype:  # of the other byte order
            return False
        x = getattr(x, "entries", x)  # those of a ragged array
        same = out is x or (
            out.shape == x.shape
            and out.strides == x.strides
            and out.dtype == x.dtype
            and out.ctypes.data == x.ctypes.data
        )
        return same or not np.may_share_memory(out, x)

    def back(self, y: Any) -> Any:
        """What was computed, as an array of the library that `array` is of."""
        return y

    def close(self, y: Any) -> Any:
        """The unit vectors, as their owner holds them."""
        return y

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        """What there is one of for each vector, likewise."""
        return norms

    def close_target(self, out: Any, axes: tuple[int, ...] | None, keepdims: bool = False) -> Any:
        """An `out` that has been written to; by norms, if `axes` are given."""
        return out

    def moved(self, name: str, library: str) -> "Opened":
        """The same for the backend of this name, and of another library."""
        return Moved(self, library)


def handed_to(attribute: str, *names: str) -> Callable[[type[T]], type[T]]:
    """Have these methods of a class be those of the opened value in an attribute."""

    def method(name: str) -> Callable[..., Any]:
        return lambda self, *args, **keywords: getattr(getattr(self, attribute), name)(
            *args, **keywords
        )

    def handed(kind: type[T]) -> type[T]:
        for name in names:
            setattr(kind, name, method(name))
        return kind

    return handed


@handed_to(
    "inner", "axes", "judged", "make_null", "asked", "default_float", "values", "select",
    "target", "target_norms", "check_result", "writable", "back", "close_target",
)  # fmt: skip
class Inside(Opened):
    """A value that holds another, which is opened in its place: what comes back is wrapped."""

    has_fast_path = False

    def __init__(self, inner: Opened) -> None:
        super().__init__(inner.array, inner.library)
        self.inner, self.has_nulls, self.judges_later = inner, inner.has_nulls, inner.judges_later

    def wrap(self, result: Any) -> Any:
        """Unit vectors or norms of the inner value, as the owner holds them."""
        raise NotImplementedError

    def moved(self, name: str, library: str) -> Opened:
        self.inner = self.inner.moved(name, library)
        self.library = self.inner.library
        return self

    def close(self, y: Any) -> Any:
        return self.wrap(self.inner.close(y))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return self.wrap(self.inner.close_norms(norms, axes, keepdims))


@handed_to(
    "owner", "axes", "judged", "make_null", "asked", "target", "target_norms", "check_result",
    "close_target",
)  # fmt: skip
class Moved(Opened):
    """A value that backends of another library serve, and by them back to its own."""

    has_fast_path = False

    def __init__(self, owner: Opened, library: str) -> None:
        super().__init__(owner.array, library)
        self.owner, self.has_nulls = owner, owner.has_nulls

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        x = on_host(self.owner.values(axes, look), self.owner.library, copy=False)
        _check_holds(self.library, x)
        return x if look else _from_host(x, self.library)

    def back(self, y: Any) -> Any:
        y = on_host(y, self.library, copy=True)
        _check_holds(self.owner.library, y)
        return _from_host(y, self.owner.library, self.array)

    def writable(self, out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        self.owner.writable(out, self.owner.array, shape, dtype)
        return False

    def close(self, y: Any) -> Any:
        return self.owner.close(self.back(y))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return self.owner.close_norms(self.back(norms), axes, keepdims)


def on_host(x: Any, library: str, copy: bool) -> Any:
    """An array of a library as a NumPy array."""
    if library in _backends.OF_NUMPY:
        return x
    return _backends.home(library).to_numpy(x, copy=copy)


def _from_host(x: Any, library: str, like: Any = None) -> Any:
    """A NumPy array as one of a library."""
    return x if library == "numpy" else _backends.home(library).from_numpy(x, like)


def _check_holds(library: str, x: Any) -> None:
    """Refuse a NumPy array that a library cannot hold."""
    why = None if library == "numpy" else _backends.home(library).unsupported(x, x.dtype)
    if why is not None:
        raise TypeError(f"x: {library} cannot hold {_contract.name(x.dtype)}: {why}")
