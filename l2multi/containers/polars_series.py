"""Polars Series of vectors, by Arrow: fixed-width arrays of numbers."""

from typing import Any

import polars as pl
import pyarrow as pa

from l2multi import _contract
from l2multi._containers import Inside, Opened
from l2multi.containers import arrow


class Series(Inside):
    """A column, by its Arrow array; results have its name."""

    def __init__(self, inner: Opened, name: str) -> None:
        super().__init__(inner)
        self.name = name

    def wrap(self, result: Any) -> Any:
        if getattr(result.type, "list_size", 1) == 0:  # for which Polars' own way panics
            inner = pl.Series(pa.array([], result.type.value_type)).dtype
            return pl.Series(self.name, result.to_pylist(), pl.Array(inner, 0))
        return pl.Series(self.name, result)


def open(x: Any, request: _contract.Request) -> Opened:
    """As an Arrow array of the same memory."""
    return Series(arrow.open(x.to_arrow(), request), x.name)
