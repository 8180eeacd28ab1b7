"""``.safetensors``: a header in JSON that names tensors, and the bytes of one after the other.

As https://github.com/huggingface/safetensors describes it, and as strict as its reader. By hand,
for that reader copies what it gives, and needs another library for BF16.
"""

import builtins
import json
import math
import os
import re
from typing import Any, BinaryIO

import numpy as np

from l2multi import _contract, _formats
from l2multi._formats import Array, Selection
from l2multi._mapped import Mapped

# The names of dtypes, and what NumPy and ml_dtypes call them; the format has more.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_NAMES = {ours: theirs for theirs, ours in DTYPES.items()}

# The longest header that the library takes.
LIMIT = 100_000_000

# Bytes of other tensors between two looks at an interrupt.
_COPIED = 2**26

Header = dict[str, Any]


class Safetensors(Mapped):
    """A file of which one tensor changes."""

    instead = "float32 (or float16, bfloat16, float64)"

    def __init__(self, raw: bytes, header: Header, data: Array, name: str, array: Array) -> None:
        super().__init__(array)
        self.raw, self.header, self.data, self.name = raw, header, data, name

    def holds(self, name: str) -> bool:
        return name in _NAMES

    def can_drop(self, axes: tuple[int, ...]) -> bool:
        return False  # what else is in the file may go by the vectors' positions

    def _changed(self, dtype: np.dtype[Any]) -> Header:
        """The header if the tensor has this dtype and our shape: widest elements first, so that
        none comes to lie across its alignment, without which other readers cannot map it."""
        entry = {"dtype": _NAMES[dtype.name], "shape": list(self.shape)}
        if entry.items() <= self.header[self.name].items():
            return self.header
        changed = {**self.header, self.name: {**self.header[self.name], **entry}}
        end = 0
        for name in sorted(_in_order(changed), key=lambda name: -_bits(changed[name])):
            begin, end = end, end + _bits(changed[name]) * math.prod(changed[name]["shape"]) // 8
            changed[name] = {**changed[name], "data_offsets": [begin, end]}
        return changed

    def head(self, dtype: np.dtype[Any]) -> bytes:
        changed = self._changed(dtype)
        raw = self.raw
        if changed is not self.header:
            raw = json.dumps(changed, separators=(",", ":")).encode()
            raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw

    def size(self, dtype: np.dtype[Any]) -> int:
        return max(end for _, end in _offsets(self._changed(dtype)))

    def lay(self, space: Array, dtype: np.dtype[Any]) -> Array:
        changed = self._changed(dtype)
        for name in changed.keys() - {"__metadata__", self.name}:
            begin, end = self.header[name]["data_offsets"]
            shift = changed[name]["data_offsets"][0] - begin
            for lo in range(begin, end, _COPIED):
                hi = min(end, lo + _COPIED)
                space[lo + shift : hi + shift] = self.data[lo:hi]
        return _tensor(space, changed[self.name], dtype.newbyteorder("<"))


def open(path: str, selection: Selection) -> Mapped:
    """The tensor that is named, or the only one."""
    with builtins.open(path, "rb") as file:
        return _read(file, path, selection.tensor)


def _read(file: BinaryIO, path: str, name: str | None) -> Mapped:
    """The tensor of this name in an open file, whose path is for messages."""
    try:
        raw, header = _read_header(file)
        claimed = max((end for _, end in _offsets(header)), default=0)
        found = os.fstat(file.fileno()).st_size - file.tell()
        if claimed != found:
            raise ValueError(
                f"its header claims {claimed} bytes of tensors, but {found} follow"
                f"{': it is truncated' if found < claimed else ''}"
            )
    except ValueError as error:
        raise ValueError(
            f"source: expected a complete .safetensors file, got {path!r} ({error})"
        ) from None
    names = _in_order(header)
    name = _formats.chosen(names, name, path)
    entry = header[name]
    known = DTYPES.get(entry["dtype"])
    if known is None:
        raise TypeError(
            f"source: dtype {entry['dtype']} of tensor {name!r} is not supported; accepted are "
            f"{', '.join(DTYPES)}"
        )
    ml = known in _contract.ML_FLOATS
    dtype = _formats.ml_dtype("source", known) if ml else np.dtype(known)
    data = np.empty(0, np.uint8)
    if found:
        data = np.asarray(np.memmap(file, np.uint8, "r", file.tell(), (found,)))
    try:
        array = _tensor(data, entry, dtype.newbyteorder("<"))
    except ValueError as error:  # a shape of no elements that is too long for NumPy
        raise ValueError(f"source: tensor {name!r} of {path!r} cannot be held: {error}") from None
    return Safetensors(raw, header, data, name, array)


def _tensor(data: Array, entry: Header, dtype: np.dtype[Any]) -> Array:
    """The array of an entry of the header."""
    begin, end = entry["data_offsets"]
    return data[begin:end].view(dtype).reshape(entry["shape"])


def _in_order(header: Header) -> list[str]:
    """The names of the tensors, as they lie in the file."""
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: header[name]["data_offsets"])


def _offsets(header: Header) -> list[tuple[int, int]]:
    """Where each tensor begins and ends."""
    return [tuple(header[name]["data_offsets"]) for name in _in_order(header)]


def _bits(entry: Header) -> int:
    """Of an element: all names tell, as BF16, F8_E4M3 and F4 do, but BOOL."""
    digits = re.search(r"\d+", entry["dtype"])
    return int(digits[0]) if digits else 8


def _read_header(file: BinaryIO) -> tuple[bytes, Header]:
    """The header as it stands, and its fields, which describe tensors without gap or overlap."""
    length = os.fstat(file.fileno()).st_size
    if length < 8:
        raise ValueError(f"it is {length} bytes long")
    size = int.from_bytes(file.read(8), "little")
    if size > min(LIMIT, length - 8):
        raise ValueError(f"its header claims to be {size} bytes long, and {length - 8} are there")
    raw = file.read(size)
    try:
        header: Header = json.loads(raw.decode(), object_pairs_hook=_unique)
        good = raw.startswith(b"{") and all(_is_entry(*item) for item in header.items())
    except Exception:  # a damaged header fails in whatever way it likes
        good = False
    if not good:
        told = " ".join(raw[:80].decode("utf-8", "replace").split())
        raise ValueError(f"its header is not one of tensors: {told}")
    if not header.keys() - {"__metadata__"}:
        raise ValueError("it has no tensor")
    at = 0
    for name in _in_order(header):
        begin, end = header[name]["data_offsets"]
        nbytes, rest = divmod(_bits(header[name]) * math.prod(header[name]["shape"]), 8)
        if rest:
            raise ValueError(f"tensor {name!r} does not end with a byte")
        if begin != at or end - begin != nbytes:
            raise ValueError(
                f"tensor {name!r} takes {nbytes} bytes from {at}, and its header claims those from "
                f"{begin} to {end}"
            )
        at = end
    return raw, header


def _unique(pairs: list[tuple[str, Any]]) -> Header:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _is_entry(name: str, entry: Any) -> bool:
    """Whether the header says this of a tensor, or of the file as a whole."""
    if name == "__metadata__":
        return all(type(value) is str for value in entry.values())
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets]
    good = type(entry["dtype"]) is str and len(shape) <= 64 and len(offsets) == 2
    return good and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
