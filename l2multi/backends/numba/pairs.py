"""What is known of an input and an output dtype: the kinds of kernels for them, the tables that
decode and encode one-byte floats, and the pair descriptor that the fast call reads.
"""

from typing import Any, NamedTuple

import numpy as np

from l2multi import _contract
from l2multi.backends.numba import descriptor, fast_call, loader, shipped, threads

Array = np.ndarray[Any, Any]

# Kernel keys.
FAST_CALL, LONG_ROWS = ("fast_call",), ("long_rows",)
TANGENTS_CALL, JVP_ROWS = ("tangents_call",), ("jvp_rows",)

_NO_TABLE = np.empty(0, np.uint8)


class Side(NamedTuple):
    """A dtype as the kernels see it."""

    kind: str
    size: int  # bytes of an element, or of a part of a complex one
    parts: int  # 2 for complex
    swap: bool
    decode: Array
    encode: Array


def side(dtype: np.dtype[Any]) -> Side:
    """A dtype as the kernels see it."""
    native = dtype.newbyteorder("=")
    swap, parts, real = native != dtype, 1, native
    decode = encode = _NO_TABLE
    if _contract.is_complex(native):
        parts, real = 2, native.type(0).real.dtype
    if real == np.bool_:
        kind = "bool"
    elif real in _contract.ml_dtypes_in(("bfloat16",)):
        kind = "bfloat16"
    elif real in _contract.ml_dtypes_in(_contract.ML_FLOATS):
        kind, decode, encode = "byte", _decode_table(real), _encode_table(real)
    elif real in _contract.ml_dtypes_in(_contract.ML_INTEGERS):
        kind, decode = "small", _decode_table(real)
    else:
        kind = f"{ {'i': 'int', 'u': 'uint', 'f': 'float'}[real.kind] }{8 * real.itemsize}"
    return Side(kind, real.itemsize, parts, swap, decode, encode)


def _decode_table(dtype: np.dtype[Any]) -> Array:
    """The float32 value of each byte, for a dtype of one byte."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


def _encode_table(dtype: np.dtype[Any]) -> Array:
    """The byte nearest to each float32 whose lower 16 bits are zero."""
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    with np.errstate(all="ignore"):
        return bits.view(np.float32).astype(dtype).view(np.uint8)


class Pair:
    """What is known of an input and an output dtype."""

    def __init__(self, x: np.dtype[Any], y: np.dtype[Any]) -> None:
        rule = _contract.rule(x)
        self.x, self.y = rule.native, _contract.rule(y).native
        self.source, self.target = side(x), side(y)
        self.norm = rule.norm
        self.descriptor = np.zeros(descriptor.PAIR_SIZE, np.int64)
        for slot, value in (
            (descriptor.TYPE_X, id(self.x)),
            (descriptor.TYPE_Y, id(self.y)),
            (descriptor.SIZE_X, self.x.itemsize),
            (descriptor.SIZE_Y, self.y.itemsize),
            (descriptor.PAIR_PARTS, self.source.parts),
            (descriptor.PAIR_TABLE_X, self.source.decode.ctypes.data),
            (descriptor.PAIR_TABLE_Y, self.target.encode.ctypes.data),
            (descriptor.PAIR_RESCALING, self.source.kind == "float64"),
            (descriptor.PAIR_POOL, threads.POOL),
        ):
            self.descriptor[slot] = value
        self._fast_call: fast_call.FastCall | None = None

    def key(self, name: str) -> shipped.Key:
        """The kernel key of the worker of this name, for these dtypes."""
        return (name, self.source.kind, self.target.kind)

    def worker(self, name: str) -> int:
        """The address of a worker, whatever it takes to get it; the fast path knows it from now."""
        found = loader.address(self.key(name))
        self.descriptor[descriptor.WORKERS.index(name)] = found
        return found

    def long_rows(self) -> tuple[int, int] | None:
        """The addresses of the workers for parts of long rows, or None where they cannot be had."""
        try:
            found = loader.address(LONG_ROWS)
            workers = self.worker("part_sum"), self.worker("part_scale")
        except ImportError:
            return None
        self.descriptor[descriptor.PAIR_LONG_ROWS] = found
        return workers

    def tangents_call(self) -> fast_call.FastCall:
        """See `fast_call_entry.tangents_call`. Links all that it calls."""
        for slot, value in (
            (descriptor.PAIR_JVP_ROWS, loader.address(JVP_ROWS)),
            (descriptor.PAIR_JVP, loader.address(self.key("jvp"))),
            (descriptor.PAIR_JVP_PART_SUM, loader.address(self.key("jvp_part_sum"))),
            (descriptor.PAIR_JVP_PART_SCALE, loader.address(self.key("jvp_part_scale"))),
        ):
            self.descriptor[slot] = value
        return fast_call.function(loader.address(TANGENTS_CALL), self.descriptor, self)

    @property
    def fast_call(self) -> fast_call.FastCall:
        """See `fast_call_entry.fast_call`. Links it.

        Not a `functools.cached_property`: until Python 3.12 that held a lock, which a fork would
        have left closed in the child.
        """
        if self._fast_call is None:
            self._fast_call = fast_call.function(loader.address(FAST_CALL), self.descriptor, self)
        return self._fast_call


# Load-once cache.
_pairs: dict[tuple[Any, Any], Pair] = {}


def pair(x: np.dtype[Any], y: np.dtype[Any]) -> Pair:
    """What is known of an input and an output dtype."""
    found = _pairs.get((x, y))
    if found is None:
        found = _pairs.setdefault((x, y), Pair(x, y))
    return found


def own(x: np.dtype[Any]) -> Pair:
    """An input dtype and that of its own result."""
    return pair(x, _contract.rule(x).result)
