"""Tables of Arrow in files: one column of vectors changes, and all else is carried through.

Imports pyarrow; `formats.parquet` and `formats.arrow_ipc` read and write.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from l2multi import _api, _formats
from l2multi._formats import Array, Block, Opened, Writer

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise ImportError(
        f"source: tables need pyarrow 16 or newer ({error}); try: pip install 'pyarrow>=16'"
    ) from error

__all__ = ["Table", "TableWriter", "pa", "refused"]

# Bytes of a batch or row group that is written as one; a longer one is written in several.
GROUP = 2**26


def refused(path: str, kind: str, error: Exception) -> ValueError:
    """What pyarrow found wrong with a file."""
    told = " ".join(str(error).split())
    return ValueError(f"source: expected a complete {kind} file, got {path!r} ({told})")


class Table(Opened):
    """A file of which one column changes.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of the file.
    at : int
        Which column.
    """

    instead = "float32 (or float16, float64)"

    def __init__(self, path: str, kind: str, schema: Any, column: str | None, rows: int) -> None:
        self.path, self.kind, self.schema = path, kind, schema
        self.at = _find(path, schema, column)
        field = schema.field(self.at)
        self.has_nulls = field.nullable
        storage = _storage(field.type)
        self.width = getattr(storage, "list_size", None)
        self.dims: int | None = None
        self.shape = (rows, self.width)
        self.dtype = np.dtype(_value(field.type).to_pandas_dtype())

    def batches(self) -> Iterator[tuple[Any, bool, Any]]:
        """Record batches of about `_formats.WINDOW` bytes, whether each is the last of what is to
        be written as one, and what else is known of it."""
        raise NotImplementedError

    def holds(self, name: str) -> bool:
        return name in ("float16", "float32", "float64")

    def cut(self, dims: int) -> None:
        self.dims = dims
        self.shape = (self.shape[0], None if self.width is None else dims)

    def rows_in(self, nbytes: int, rows: int) -> int:
        """How many rows of so many that have so many bytes make a batch."""
        return max(1, min(rows, _formats.WINDOW * rows // max(nbytes, 1)))

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        start = 0
        with ThreadPoolExecutor(1) as ahead:  # the next batch is decoded while this one is used
            found = self.batches()
            coming = ahead.submit(next, found, None)
            try:
                while True:
                    try:
                        one = coming.result()
                    except (pa.ArrowException, OSError) as error:
                        raise refused(self.path, self.kind, error) from None
                    if one is None:
                        return
                    coming = ahead.submit(next, found, None)
                    yield Block(self._vectors(one[0].column(self.at)), (start,), one)
                    start += len(one[0])
            finally:
                coming.cancel()

    def _vectors(self, column: Any) -> Any:
        if self.dims is None:
            return column
        fixed = self.width is not None
        return pc.list_slice(column, 0, self.dims, return_fixed_size_list=fixed)

    def sample(self, axes: tuple[int, ...]) -> Any:
        return pa.nulls(1, self._vectors(pa.array([], self.schema.field(self.at).type)).type)

    def elements(self, block: Block) -> int:
        if self.shape[1] is not None:
            return len(block.values) * int(self.shape[1])
        return int(pc.sum(pc.list_value_length(block.values)).as_py() or 0)

    def plain(self, norms: Any) -> tuple[Array, Array | None]:
        known = norms.to_numpy(zero_copy_only=False)
        return known, norms.is_valid().to_numpy(zero_copy_only=False) if norms.null_count else None

    def result_schema(self, dtype: np.dtype[Any]) -> Any:
        """The schema of a file like this one, with unit vectors of this dtype."""
        field = self.schema.field(self.at)
        like = _api.normalize(self._vectors(pa.array([], field.type)), dtype=dtype)
        return self.schema.set(self.at, field.with_type(_named_as(like.type, field.type)))


class TableWriter(Writer):
    """A file like it: batches are gathered to what was one in the source, if that is not too long.

    `write` is called with a list of batches and what was known of the last.
    """

    def __init__(self, opened: Table, schema: Any, write: Callable[[Any, Any], None]) -> None:
        self.at, self.schema, self.write = opened.at, schema, write
        self.gathered: list[Any] = []
        self.nbytes = 0

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        batch, last, known = block.where
        kind = self.schema.field(self.at).type
        columns = batch.columns
        columns[self.at] = unit if unit.type == kind else unit.cast(kind)
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        if keep is not None:
            batch = batch.filter(pa.array(keep))
        self.gathered.append(batch)
        self.nbytes += batch.nbytes
        if last or self.nbytes >= GROUP:
            self.write(self.gathered, known)
            self.gathered, self.nbytes = [], 0


def _storage(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _value(kind: Any) -> Any:
    """The type of the elements of vectors; None for what has none."""
    storage = _storage(kind)
    if not isinstance(storage, _LISTS) or len(getattr(kind, "shape", (1,))) > 1:
        return None
    value = storage.value_type
    number = pa.types.is_floating(value) or pa.types.is_integer(value) or pa.types.is_boolean(value)
    return value if number else None


_LISTS = (
    pa.FixedSizeListType, pa.ListType, pa.LargeListType, pa.ListViewType, pa.LargeListViewType,
)  # fmt: skip


def _find(path: str, schema: Any, column: str | None) -> int:
    """Which column is meant: the one named, or the only one that has vectors."""
    some = [i for i, field in enumerate(schema) if _value(field.type) is not None]
    if column is None and len(some) == 1:
        return some[0]
    named = [i for i, field in enumerate(schema) if field.name == column]
    if len(named) == 1 and named[0] in some:
        return named[0]
    names = [schema.field(i).name for i in some]
    shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    if len(named) == 1:
        kind = schema.field(named[0]).type
        raise TypeError(
            f"column: {column!r} of {path!r} has no vectors but {kind}; others: {shown}"
        )
    if len(named) > 1:
        raise ValueError(f"column: {path!r} has {len(named)} columns of the name {column!r}")
    raise ValueError(f"column: expected one of those in {path!r} ({shown}), got {column!r}")


def _named_as(kind: Any, like: Any) -> Any:
    """A type of lists with the field of the elements called as in another, nullability and
    metadata too."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    field = _storage(like).value_field.with_type(kind.value_type)
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(field, kind.list_size)
    made = {
        pa.ListType: pa.list_, pa.LargeListType: pa.large_list,
        pa.ListViewType: pa.list_view, pa.LargeListViewType: pa.large_list_view,
    }  # fmt: skip
    return made[type(kind)](field)
