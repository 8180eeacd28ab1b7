"""Lists, tuples and numbers, by `numpy.asarray`; what it would strip of a mask or a unit, or fetch
from a device, is refused."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from l2multi import _contract, _cures
from l2multi._opened import Opened
from l2multi.containers import numpy_array

# What is an array to NumPy or JAX has one of these.
_ARRAYS = ("__array__", "__jax_array__")

# NumPy has no arrays of more axes.
_MOST_AXES = 64


def open(x: Any, request: _contract.Request) -> Opened:
    """As an array, which is what comes back."""
    return numpy_array.open(stacked(x) if isinstance(x, (list, tuple)) else np.asarray(x), request)


def stacked(x: Sequence[Any], own: Any = (), make: Callable[[Any], Any] = np.asarray) -> Any:
    """A list or tuple of numbers, NumPy arrays and others like it, as an array. Where it holds
    instances of `own`, by `make`."""
    make = make if _check_items(x, x, own, _MOST_AXES) else np.asarray
    try:
        found = make(x)
    except (TypeError, ValueError) as error:
        told = _ragged(x)
        kind = TypeError if told is None and isinstance(error, TypeError) else ValueError
        told = told or f"is not an array ({error})"
        raise kind(f"x: this {type(x).__name__} {told}") from None
    if found.dtype.kind in "OSU":
        for item in np.asarray(x, object).flat:
            if not _cures.is_number(item):
                raise TypeError(f"x: this {type(x).__name__} {_cures.no_number(item)}")
    return found  # integers beyond 64 bits are objects to NumPy, and refused as such


def _check_items(x: Sequence[Any], items: Sequence[Any], own: Any, depth: int) -> bool:
    """Refuse what `numpy.asarray` would strip of a mask or a unit, or fetch from a device. Given
    `own`, whether there are instances of it, and all else that is no number is refused."""
    found = False
    for kind in set(map(type, items)) - _cures.NUMBERS:
        if issubclass(kind, (list, tuple)):
            for item in items if depth else ():
                if type(item) is kind and _check_items(x, item, own, depth - 1):
                    found = True
        elif not issubclass(kind, np.generic) and (own or any(hasattr(kind, n) for n in _ARRAYS)):
            item = next(item for item in items if type(item) is kind)
            if isinstance(item, own):
                found = True
                continue
            masked = isinstance(item, np.ma.MaskedArray)
            if not isinstance(item, np.ndarray) or masked or _cures.means_more(item):
                raise TypeError(f"x: this {type(x).__name__} {_cures.no_number(item)}")
    return found


def _ragged(x: Sequence[Any]) -> str | None:
    """Which row, at whatever depth, is the first of another length than the first one."""
    lengths: list[int] = []
    rows: list[Any] = [x]
    while rows and len(lengths) <= _MOST_AXES:
        first = _length(rows[0])
        for k, row in enumerate(rows):
            if _length(row) != first:
                place = map(int, np.unravel_index(k, lengths))
                odd = "x" + "".join(f"[{i}]" for i in place)
                start = "x" + "[0]" * len(lengths)
                told = f"is ragged: row {odd} {_told(row)}, row {start} {_told(rows[0])}"
                return f"{told}; for vectors that differ in length, try pyarrow.array(x)"
        if first is None:
            break
        lengths.append(first)
        rows = [item for row in rows for item in row]
    return None


def _length(row: Any) -> int | None:
    return len(row) if isinstance(row, (list, tuple)) or getattr(row, "ndim", False) else None


def _told(row: Any) -> str:
    length = _length(row)
    return f"is of type {type(row).__name__}" if length is None else f"has length {length}"
