"""Polars Series of vectors, by Arrow: arrays of a fixed width, and lists."""

from typing import Any

import polars as pl

from l2multi import _contract
from l2multi._opened import Inside, Opened
from l2multi.containers import arrow

_NUMBERS = (
    pl.Float32, pl.Float64, pl.Float16, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64,
    pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
)  # fmt: skip


def inner(dtype: Any) -> Any:
    """The dtype of the numbers in a column of vectors, or a TypeError."""
    found = dtype.inner if isinstance(dtype, (pl.Array, pl.List)) else None
    if found not in _NUMBERS:
        raise TypeError(
            f"x: polars type {dtype} is not supported; accepted are Array and List columns, of one "
            "dimension, of Float16 to Float64, Boolean, and integers up to 64 bits"
            + ("; of numbers, which make one vector, try x.to_numpy()" if dtype in _NUMBERS else "")
        )
    return found


class Series(Inside):
    """A column, by its Arrow array; results have its name."""

    def __init__(self, inner: Opened, name: str) -> None:
        super().__init__(inner)
        self.name = name

    def wrap(self, result: Any) -> Any:
        if getattr(result.type, "list_size", 1) == 0:  # for which Polars' own way panics
            kind = pl.Series(result.values).dtype
            return pl.Series(self.name, result.to_pylist(), pl.Array(kind, 0))
        return pl.Series(self.name, result)


def open(x: Any, request: _contract.Request) -> Opened:
    """As an Arrow array of the same memory, in its chunks; the result is one."""
    inner(x.dtype)
    opened = arrow.open(arrow.pa.chunked_array(x), request)
    opened.chunks = None
    return Series(opened, x.name)
