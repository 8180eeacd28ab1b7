"""What to do with what is not supported, or means more than its numbers. Knows no library: what an
object offers decides."""

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Types of numbers, and of what holds nothing else.
NUMBERS = {bool, int, float, complex, np.ndarray}

# What arrays and tables of other libraries offer, and what to do then, from the best on.
_OFFERS = (
    ("to_dataarray", "{}.to_dataarray()"),
    ("__jax_array__", "jax.numpy.asarray({})"),
    ("to_numpy", "{}.to_numpy()"),
    ("toarray", "{}.toarray()"),
    ("todense", "{}.todense()"),
    ("as_py", "{}.as_py()"),
    ("get_group", "{}.obj"),
    ("__array__", "np.asarray({})"),
    ("__dlpack__", "np.from_dlpack({})"),
)


def type_name(x: Any) -> str:
    """The full name of the type of `x`."""
    return f"{type(x).__module__}.{type(x).__qualname__}"


def of(x: Any, name: str = "x") -> str | None:
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
    if hasattr(kind, "with_columns") and hasattr(kind, "collect"):
        return f"{name}.with_columns(pl.col(...).l2.normalize()), after import l2multi.polars"
    if hasattr(kind, "map_batches") and hasattr(kind, "over"):
        return f"{name}.l2.normalize(), after import l2multi.polars"
    for offer, how in _OFFERS:
        if hasattr(kind, offer):
            return how.format(name)
    if isinstance(x, (str, os.PathLike)):
        return f"l2multi.files.normalize_file({name}, ...), if it names a file"
    if isinstance(x, bytes):
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


def _get(x: Any, name: str) -> Any:
    try:
        return getattr(x, name, None)
    except Exception:  # a stranger's property does what it likes
        return None


def _has_unit(x: Any) -> bool:
    return _get(x, "unit") is not None or _get(x, "units") is not None


def means_more(x: Array) -> bool:
    """Whether a subclass of ndarray has a unit, or arithmetic of its own."""
    kind, plain = type(x), np.ma.MaskedArray if isinstance(x, np.ma.MaskedArray) else np.ndarray
    return (
        kind.__array_ufunc__ is not plain.__array_ufunc__
        or kind.__array_function__ is not plain.__array_function__
        or _has_unit(x)
    )


def is_number(item: Any) -> bool:
    """Whether an item of a list is a number, or an array."""
    return type(item) in NUMBERS or (
        isinstance(item, np.generic) and not isinstance(item, (str, bytes))
    )


def no_number(item: Any) -> str:
    """What to say about a list or an array that holds this item."""
    told = f"holds items of type {type_name(item)}, which are no numbers"
    if isinstance(item, (str, bytes)):
        return f"{told}: {reprlib.repr(item)}; of numbers in text, try np.asarray(x, float)"
    if item is None:
        return f"{told}; try np.nan in place of each None, or a numpy.ma.MaskedArray"
    how = of(item, "v")
    if how is None:
        return told
    if how == "float(v)":  # of another kind, such as Decimal
        told = f"holds items of type {type_name(item)}, which NumPy has no dtype for"
        return f"{told}; try {how} in place of each item v"
    if isinstance(item, np.ma.MaskedArray):
        how = "np.ma.stack(v) in place of each list v of them"
    elif hasattr(type(item), "tocsr") and how == "v.toarray()":
        how = "scipy.sparse.vstack(x)"
    elif how == "jax.numpy.asarray(v)":  # JAX makes an array of a list of these as well
        how = "jax.numpy.asarray(x)"
    else:
        how = f"{how} in place of each item v"
    return f"{told}; make one array of them first, by their own library, or try {how}"
