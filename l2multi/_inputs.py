"""What is no array yet, or more than one: lists, subclasses of ndarray, and what to do about the
rest. Knows no library: what an object offers decides."""

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# What is an array to NumPy or JAX has one of these.
_ARRAYS = ("__array__", "__jax_array__")
_NUMBERS = {bool, int, float, complex, np.ndarray}

# NumPy has no arrays of more axes.
_MOST_AXES = 64

# What arrays and tables of other libraries offer, and what to do then, from the best on.
_OFFERS = (
    ("__jax_array__", "jax.numpy.asarray({})"),
    ("to_numpy", "{}.to_numpy()"),
    ("toarray", "{}.toarray()"),
    ("todense", "{}.todense()"),
    ("__array__", "np.asarray({})"),
    ("__dlpack__", "np.from_dlpack({})"),
)


def type_name(x: Any) -> str:
    """The full name of the type of `x`."""
    return f"{type(x).__module__}.{type(x).__qualname__}"


def cure(x: Any, name: str = "x") -> str | None:
    """How to make something that is supported of `x`, which is called `name`; None if unknown."""
    kind = type(x)
    if hasattr(kind, "unmasked"):
        return f"np.ma.MaskedArray({name}.unmasked, {name}.mask)"
    if _has_unit(x):
        for number in ("magnitude", "value"):
            if hasattr(kind, number):
                return f"{name}.{number}"
    if hasattr(kind, "resolve_conj"):
        return _of_tensor(x, name)
    if hasattr(kind, "numpy"):
        return f"{name}.numpy()"
    for offer, how in _OFFERS:
        if hasattr(kind, offer):
            return how.format(name)
    if isinstance(x, (str, bytes)):
        return None
    if isinstance(x, Mapping):
        return f"list({name}.values())"
    if isinstance(x, Sequence):
        return f"np.asarray({name})"
    if isinstance(x, Iterable):
        return f"list({name})"
    return f"float({name})" if hasattr(kind, "__float__") else None


def _of_tensor(x: Any, name: str) -> str | None:
    """`cure` for a tensor that says of itself what keeps it from being a NumPy array."""
    layout, dtype = str(_get(x, "layout")), str(_get(x, "dtype")).rpartition(".")[2]
    if _get(x, "is_meta") or _get(x, "is_nested"):  # it has no values, or no shape
        return None
    dense = "" if "strided" in layout else ".to_dense()"
    if hasattr(np, dtype):
        known = ""
    elif "complex" in dtype:
        known = ".cfloat()"
    else:
        known = ".dequantize()" if _get(x, "is_quantized") else ".float()"
    # By force: also where it needs a gradient, lies on a device or is conjugate.
    return f"{name}{dense}{known}.numpy(force=True)"


def base(name: str, x: Array) -> Array:
    """An instance of a subclass, called `name`, as a base array; a masked one as it is.

    A TypeError where something would be lost: a class with arithmetic of its own, or with a unit,
    means more than its numbers.
    """
    masked = isinstance(x, np.ma.MaskedArray)
    data: Any = x.data if masked else None
    how = None
    if _means_more(x):
        how = cure(x, name)
    elif masked and _means_more(data):
        how = f"np.ma.MaskedArray({cure(data, f'{name}.data')}, {name}.mask)"
    if how is not None:
        how = how if name == "x" else f"np.asarray({name})"
        raise TypeError(
            f"{name}: type {type_name(x)} means more than its numbers, and that would be lost; "
            f"try {how}"
        )
    return x if masked else np.asarray(x)


def _get(x: Any, name: str) -> Any:
    try:
        return getattr(x, name, None)
    except Exception:  # a stranger's property does what it likes
        return None


def _has_unit(x: Any) -> bool:
    return _get(x, "unit") is not None or _get(x, "units") is not None


def _means_more(x: Array) -> bool:
    kind, plain = type(x), np.ma.MaskedArray if isinstance(x, np.ma.MaskedArray) else np.ndarray
    return (
        kind.__array_ufunc__ is not plain.__array_ufunc__
        or kind.__array_function__ is not plain.__array_function__
        or _has_unit(x)
    )


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
            if not _is_number(item):
                raise TypeError(f"x: this {type(x).__name__} {_no_number(item)}")
    return found  # integers beyond 64 bits are objects to NumPy, and refused as such


def of_objects(x: Any) -> str:
    """What to say about an array of objects."""
    masked = isinstance(x, np.ma.MaskedArray)
    kind = "float"
    for item in x.compressed() if masked else x.flat:
        if isinstance(item, (list, tuple, np.ndarray)):
            return "try x.tolist()"
        if not _is_number(item):
            return f"it {_no_number(item)}"
        if isinstance(item, (complex, np.complexfloating)):
            kind = "complex"
    return f"try x.astype({kind})" if masked else f"try np.asarray(x, {kind})"


def _is_number(item: Any) -> bool:
    return type(item) in _NUMBERS or (
        isinstance(item, np.generic) and not isinstance(item, (str, bytes))
    )


def _check_items(x: Sequence[Any], items: Sequence[Any], own: Any, depth: int) -> bool:
    """Refuse what `numpy.asarray` would strip of a mask or a unit, or fetch from a device. Given
    `own`, whether there are instances of it, and all else that is no number is refused."""
    found = False
    for kind in set(map(type, items)) - _NUMBERS:
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
            if not isinstance(item, np.ndarray) or masked or _means_more(item):
                raise TypeError(f"x: this {type(x).__name__} {_no_number(item)}")
    return found


def _no_number(item: Any) -> str:
    """What to say about a list or an array that holds this item."""
    told = f"holds items of type {type_name(item)}, which are no numbers"
    if isinstance(item, (str, bytes)):
        return f"{told}: {reprlib.repr(item)}"
    how = cure(item, "v")
    if how is None:
        return told
    if isinstance(item, np.ma.MaskedArray):
        how = "np.ma.stack(v) in place of each list v of them"
    elif how == "jax.numpy.asarray(v)":  # JAX makes an array of a list of these as well
        how = "jax.numpy.asarray(x)"
    else:
        how = f"{how} in place of each item v"
    return f"{told}; make one array of them first, by their own library, or try {how}"


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
                return f"is ragged: row {odd} {_told(row)}, row {start} {_told(rows[0])}"
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
