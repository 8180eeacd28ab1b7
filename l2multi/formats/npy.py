"""``.npy``: one array, as numpy.lib.format describes it."""

import ast
import builtins
import io
import math
import os
import re
from typing import Any, BinaryIO

import numpy as np

from l2multi import _contract
from l2multi._formats import Array, Selection, is_known, known
from l2multi._mapped import Mapped

# What numpy.save writes as nameless bytes: the dtypes of ml_dtypes, and their size.
NAMELESS = {
    name: 2 if name == "bfloat16" else 1 for name in _contract.ML_FLOATS + _contract.ML_INTEGERS
}


class Npy(Mapped):
    """The file of one array, in C or Fortran order."""

    instead = "float32 (or float16, float64, longdouble)"

    def __init__(self, array: Array) -> None:
        super().__init__(array)
        self.fortran = array.flags.f_contiguous and not array.flags.c_contiguous

    def holds(self, name: str) -> bool:
        return name not in NAMELESS

    def head(self, dtype: np.dtype[Any]) -> bytes:
        return header(self.shape, dtype, self.fortran)

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        return space.view(dtype).reshape(self.shape, order="F" if self.fortran else "C")


def header(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> bytes:
    """What stands before the numbers of an array."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def open(path: str, selection: Selection) -> Mapped:
    """The one array of the file, whose bytes are taken for ``dtype_in`` if that was given."""
    with builtins.open(path, "rb") as file:
        return _read(file, path, selection.dtype_in)


def create(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array of any numbers, mapped."""
    blank = Npy(np.broadcast_to(np.empty((), dtype), shape))
    blank.fortran = False
    writer: Any = blank.create(path, dtype)
    array: Array = writer.array
    return array


def _read(file: BinaryIO, path: str, dtype_in: np.dtype[Any] | None) -> Mapped:
    """The array of an open file, whose path is for messages."""
    magic = file.read(6)
    if magic.startswith(b"PK"):
        raise ValueError(
            f"source: expected a .npy file, got {path!r}, which is an archive; call it .npz"
        )
    if magic != np.lib.format.MAGIC_PREFIX:
        why = ""
        if not is_known(path):
            why = f" (a suffix that is none of {known()} is taken for it; a table of text becomes "
            why += "one by np.loadtxt and np.save)"
        raise ValueError(
            f"source: expected a .npy file, got {path!r}, which does not begin as one{why}"
        )
    try:
        descr, fortran, shape = read_header(file)
        dtype = dtype_of(descr, dtype_in)
        claimed = math.prod(shape) * dtype.itemsize
        found = os.fstat(file.fileno()).st_size - file.tell()
        if claimed != found:
            lost = "; of several arrays in one file, save each in its own"
            raise ValueError(
                f"its header claims {claimed} bytes, shape {shape} of {dtype}, but {found} follow"
                f"{': it is truncated' if found < claimed else lost}"
            )
        if not claimed:
            return Npy(np.empty(shape, dtype))
        order: Any = "F" if fortran else "C"
        return Npy(np.asarray(np.memmap(file, dtype, "r", file.tell(), shape, order)))
    except ValueError as error:
        raise ValueError(
            f"source: expected a complete .npy file of numbers, got {path!r} ({error})"
        ) from None


def read_header(file: BinaryIO) -> tuple[Any, bool, tuple[int, ...]]:
    """The fields of a ``.npy`` header: the dtype's description, Fortran order, and the shape.

    As numpy.lib.format describes it. NumPy's own readers refuse ``<f1``, which numpy.save writes
    for a float8, and warn of headers by Python 2, whose integers may end with an L.
    """
    version = tuple(file.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it has format version {'.'.join(map(str, version))}, not 1.0 to 3.0")
    width = 2 if version == (1, 0) else 4
    size = int.from_bytes(file.read(width), "little")
    if size > 10_000:  # NumPy's limit too
        raise ValueError(f"its header claims to be {size} bytes long")
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"its header claims to be {size} bytes long, and {len(data)} are there")
    text = data.decode("utf-8" if version == (3, 0) else "latin-1", "replace")
    try:
        fields = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        good = len(fields) == 3 and type(fortran) is bool and type(shape) is tuple
        good = good and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    except Exception:  # a damaged header fails in whatever way it likes
        good = False
    if not good or len(shape) > 64:
        raise ValueError(f"its header is not one of an array: {' '.join(text.split())[:80]}")
    return descr, fortran, shape


def dtype_of(descr: Any, dtype_in: np.dtype[Any] | None) -> np.dtype[Any]:
    """The dtype that a header describes, or `dtype_in` if it may be meant."""
    plain = re.fullmatch(r"([<>|=]?)([a-zA-Z])(\d+)", descr) if isinstance(descr, str) else None
    order, kind, size = plain.groups() if plain else ("", "", "")
    if dtype_in is not None:
        if size != f"{dtype_in.itemsize}" or not (kind in ("V", "i", "u") or kind + size == "f1"):
            raise TypeError(
                f"dtype_in: expected one that fits the file, whose header names {descr!r}; "
                f"{dtype_in.name} may be nameless bytes or integers of size {dtype_in.itemsize}"
            )
        return dtype_in.newbyteorder(">") if order == ">" and size == "2" else dtype_in
    fitting = [name for name, one in NAMELESS.items() if kind in ("V", "f") and size == f"{one}"]
    if fitting and kind + size != "f2":
        one = "bfloat16" if size == "2" else "float8_e4m3fn"
        raise TypeError(
            f"source: dtype {descr!r} has no meaning of its own; numpy.save writes it for "
            f"{', '.join(fitting)}: say which it is, such as dtype_in={one}"
        )
    try:
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(descr)
    except Exception:
        raise ValueError(f"its header names a dtype that NumPy has not: {descr!r}") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    try:
        _contract.rule(dtype)
    except TypeError:
        raise TypeError(
            f"source: dtype {dtype} is not supported; accepted are {_contract.ACCEPTED_DTYPES}"
        ) from None
    return dtype
