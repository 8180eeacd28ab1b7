"""Columns of any library that exchanges them by Arrow's PyCapsule interface, as Arrow arrays.

An object that has a stream is taken as one, of chunks. Of a table nothing is read: it is refused by
the type of its stream, which the C stream interface tells first.
"""

import ctypes
from typing import Any

from l2multi import _contract, _cures
from l2multi._opened import Opened
from l2multi.containers import arrow
from l2multi.containers.arrow import pa


class _Stream:
    """What gives a stream that has been got already."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.capsule


def open(x: Any, request: _contract.Request) -> Opened:
    """As an Arrow array of the same memory."""
    if hasattr(type(x), "__arrow_c_stream__"):
        stream = _Stream(x.__arrow_c_stream__())
        table = _is_table(stream.capsule)
        column = None if table else pa.chunked_array(stream)
    else:
        column = pa.array(x)
        table = pa.types.is_struct(column.type)
    if table:
        whole = next((f"x.{m}()" for m in ("to_numpy", "to_pandas") if hasattr(type(x), m)), None)
        raise TypeError(
            f"x: {_cures.type_name(x)} is a table, and vectors are in a column of it; try "
            "pyarrow.table(x)[name], or x[name] of a DataFrame; of columns of numbers, "
            f"{whole or 'pyarrow.table(x).to_pandas()'}"
        )
    return arrow.open(column, request)


def _is_table(capsule: Any) -> bool:
    """Whether a stream is of structs: its first function is ``get_schema``, and a schema starts
    with its ``format`` and ends with its ``release`` and one more pointer."""
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    stream = pointer(capsule, b"arrow_array_stream")
    if not ctypes.c_void_p.from_address(stream + 3 * ctypes.sizeof(ctypes.c_void_p)).value:
        return False  # without `release` it has been read: the import says so
    schema = (ctypes.c_void_p * 9)()
    at = ctypes.addressof(schema)
    get_schema = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if get_schema.from_address(stream)(stream, at):
        return False  # the import meets the same error, and tells it
    found = ctypes.c_char_p.from_address(at).value == b"+s"
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    release.from_address(at + 7 * ctypes.sizeof(ctypes.c_void_p))(at)
    return found
