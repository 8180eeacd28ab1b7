"""The fast call's function for Python, and a check of what its compiled code takes for granted.

`fast_call_entry` reads the fields of arrays, tuples and numbers where CPython and NumPy have them
in memory. It is the only code that does, and this the only place that says where they are: where a
known array does not look as expected, there is no fast call, and calls take the general path to the
same bits.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from l2multi.backends.numba import descriptor

FastCall = Callable[..., bool | type[int] | type[float] | None]

HEAD = 16  # bytes of a Python object before its own fields, of which its class is the last


# The slots of an array's own fields; those of `NDIM` and `FLAGS` are of 32 bits.
DATA, NDIM, SHAPE, STRIDES, DTYPE, FLAGS = 0, 1, 2, 3, 5, 6


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_METH_FASTCALL = 0x80
_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def function(address: int, pair: Any, owners: Any) -> FastCall:
    """The compiled function at an address, bound to the pair descriptor that it reads, which holds
    addresses in `owners`."""
    for slot, value in (
        (descriptor.TYPE_SINGLE, _SINGLE),
        (descriptor.TYPE_DOUBLE, _DOUBLE),
        (descriptor.NONE, None),
        (descriptor.TRUE, True),
        (descriptor.FALSE, False),
        (descriptor.INT, int),
        (descriptor.TUPLE, tuple),
        (descriptor.FLOAT, float),
    ):
        pair[slot] = id(value)
    definition = _MethodDef(b"fast_call", address, _METH_FASTCALL, None)
    # For ever: at exit Python may read the definition of a function after all that modules hold is
    # gone.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object((definition, pair, owners)))
    new: Any = ctypes.pythonapi["PyCFunction_NewEx"]
    new.restype = ctypes.py_object
    new.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    made: FastCall = new(ctypes.byref(definition), pair, None)
    return made


@functools.cache
def usable() -> bool:
    """Whether objects lie in memory as the compiled code reads them."""
    try:
        return (
            sys.implementation.name == "cpython"
            and sys.byteorder == "little"
            and object.__basicsize__ == HEAD
            and _as_expected(np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2])
            and all(_slot(id(v), -1) == id(type(v)) for v in (2.5, 3, (1, 2)))
            and ctypes.c_double.from_address(id(half := 0.5) + HEAD).value == half
        )
    except Exception:  # whatever else is not as expected
        return False


def _slot(address: int, index: int) -> int:
    """An int64 of an object, counted from where the fields of its own begin."""
    return ctypes.c_int64.from_address(address + HEAD + 8 * index).value


def _as_expected(a: np.ndarray[Any, Any]) -> bool:
    """Whether the fields of an array of two axes are where they should be."""
    at = id(a)
    # Sizes and strides lie in one block, and that is followed only if all else is right: an address
    # that is none would end the process.
    known = (
        _slot(at, -1) == id(type(a))
        and _slot(at, DATA) == a.__array_interface__["data"][0]
        and _slot(at, NDIM) & 0xFFFFFFFF == a.ndim
        and _slot(at, STRIDES) == _slot(at, SHAPE) + 8 * a.ndim
        and _slot(at, DTYPE) == id(a.dtype)
        and _slot(at, FLAGS) & 0xFFFFFFFF == a.flags.num
    )
    if not known:
        return False
    both = (ctypes.c_int64 * (2 * a.ndim)).from_address(_slot(at, SHAPE))
    return tuple(both) == (*a.shape, *a.strides)
