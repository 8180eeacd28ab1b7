"""NumPy arrays of any layout and byte order; instances of subclasses as base arrays."""

from typing import Any

import numpy as np

from l2multi import _contract, _cures
from l2multi._opened import Opened

Array = np.ndarray[Any, Any]


class NumpyArray(Opened):
    """A base array."""

    def target(self, out: Any) -> Any:
        is_subclass = isinstance(out, np.ndarray) and type(out) is not np.ndarray
        return base("out", out) if is_subclass else out


def open(x: Array, request: _contract.Request) -> Opened:
    """As a base array."""
    x = x if type(x) is np.ndarray else base("x", x)
    check_dtype(x)
    return NumpyArray(x)


def check_dtype(x: Array) -> None:
    """Refuse an array of objects, and say what to do."""
    try:
        _contract.rule(x.dtype)
    except TypeError as error:
        if x.dtype.kind in "SUT":
            raise TypeError(f"{error}; of numbers in text, try np.asarray(x, float)") from None
        if x.dtype != np.object_:
            raise
        raise TypeError(f"{error}; {of_objects(x)}") from None


def base(name: str, x: Array) -> Array:
    """An instance of a subclass, called `name`, as a base array; a masked one as it is.

    A TypeError where something would be lost: a class with arithmetic of its own, or with a unit,
    means more than its numbers.
    """
    masked = isinstance(x, np.ma.MaskedArray)
    data: Any = x.data if masked else None
    how = None
    if _cures.means_more(x):
        how = _cures.of(x, name)
    elif masked and _cures.means_more(data):
        how = f"np.ma.MaskedArray({_cures.of(data, f'{name}.data')}, {name}.mask)"
    if how is not None:
        how = how if name == "x" else f"np.asarray({name})"
        raise TypeError(
            f"{name}: type {_cures.type_name(x)} means more than its numbers, and that would be "
            f"lost; try {how}"
        )
    return x if masked else np.asarray(x)


def of_objects(x: Any) -> str:
    """What to say about an array of objects."""
    masked = isinstance(x, np.ma.MaskedArray)
    kind = "float"
    for item in x.compressed() if masked else x.flat:
        if isinstance(item, (list, tuple, np.ndarray)):
            return "try x.tolist()"
        if not _cures.is_number(item):
            return f"it {_cures.no_number(item)}"
        if isinstance(item, (complex, np.complexfloating)):
            kind = "complex"
    return f"try x.astype({kind})" if masked else f"try np.asarray(x, {kind})"
