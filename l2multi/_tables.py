"""Files that are tables: one column changes, all others and what describes them are carried.

A library reads them batch by batch, ahead of the work. What is written as one, such as the rows of
a row group, waits in memory while it is small, and else in a file without a name.
"""

import contextlib
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from l2multi import _contract, _formats
from l2multi._api import normalize
from l2multi._formats import Array, Block, OpenFile

try:
    import pyarrow as pa
    import pyarrow.compute as pc

    from l2multi.containers import arrow
except ImportError as error:
    raise ImportError(
        f"source: tables need pyarrow 16 or newer ({error}); try: pip install 'pyarrow>=16' or, in "
        "a clone of l2multi, pip install '.[arrow]'"
    ) from error

__all__ = ["pa"]


class Table(OpenFile):
    """A table of which one column has vectors, one in each row.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of all columns.
    place : tuple of int
        Which column it is, and which field of it, if it is a struct.
    """

    has_nulls = True
    suffix: str

    def __init__(self, path: str, schema: Any, rows: int, column: str | None) -> None:
        self.path, self.schema, self.dims = path, schema, 0
        self.name, self.place = _find(schema, column, path)
        self.kind = _at(schema, self.place).type
        try:
            opened = arrow.open(nothing(self.kind), _NOTHING_ASKED)
        except (TypeError, ValueError) as error:
            told = str(error).removeprefix("x: ")
            raise type(error)(f"source: column {self.name!r} of {path!r}: {told}") from None
        self.dtype = opened.array.dtype
        inner = (None,) if isinstance(opened, arrow.Lists) else opened.array.shape[1:]
        self.shape = (rows, *inner)

    def batches(self) -> Iterator[tuple[Any, bool]]:
        """All rows, some at a time, and whether they are the last of those that are written as
        one."""
        raise NotImplementedError

    def holds(self, name: str) -> bool:
        return name in ("float16", "float32", "float64")

    def cut(self, dims: int) -> None:
        self.dims, self.shape = dims, (*self.shape[:-1], None if None in self.shape else dims)

    def check_axes(self, axes: tuple[int, ...]) -> _contract.Axis:
        own = tuple(range(1, len(self.shape)))
        if axes != own:
            one = -1 if own == (1,) else own
            raise ValueError(f"axis: expected {one}, for each row holds one vector, got {axes}")
        return axes

    def sample(self, axes: tuple[int, ...]) -> Any:
        return next((block.values for block in self.blocks(axes)), self._vectors(None))

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        first = 0
        for batch, last in _ahead(self.batches(), self.refusing):
            yield Block(self._vectors(batch), (first,), (batch, last))
            first += batch.num_rows

    def _vectors(self, batch: Any) -> Any:
        """The column of a batch, or one of no rows."""
        if batch is None:
            x = nothing(self.kind)
        else:
            x = batch.column(self.place[0])
            for index in self.place[1:]:
                x = pc.struct_field(x, [index])
        return _cut(x, self.dims) if self.dims else x

    def plain(self, norms: Any) -> tuple[Array, Array | None]:
        valid = np.asarray(norms.is_valid()) if norms.null_count else None
        return norms.to_numpy(zero_copy_only=False), valid

    def elements(self, block: Block) -> int:
        return len(getattr(block.values, "storage", block.values).flatten())

    def schema_of(self, dtype: np.dtype[Any]) -> Any:
        """That of the result."""
        unit = normalize(self._vectors(None), self.check_axes(tuple(range(1, len(self.shape)))),
                         dtype=dtype, backend="numpy")  # fmt: skip
        field = _with(_at(self.schema, self.place[:1]), self.place[1:], unit.type)
        return self.schema.set(self.place[0], field)

    def exchanged(self, block: Block, unit: Any, keep: Array | None, schema: Any) -> Any:
        """The rows of a block with their unit vectors, or those that `keep` tells."""
        batch, _ = block.where
        columns = list(batch.columns)
        at = self.place[0]
        columns[at] = _graft(columns[at], self.place[1:], unit, schema.field(at).type)
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        if unit.null_count and not _at(schema, self.place).nullable:
            raise ValueError(
                f"target: column {self.name!r} is declared to have no nulls, and a vector became "
                "null"
            )
        return batch if keep is None else batch.filter(pa.array(keep))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Have what the library refuses said in a line."""
        try:
            yield
        except (*_ERRORS, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            if isinstance(error, MemoryError):
                claimed = re.search(r"size (\d+)", f"{error}")
                # More than a file of this size could hold: it is not memory that is short.
                if not claimed or int(claimed[1]) < 2**16 * os.path.getsize(self.path):
                    raise
            raise ValueError(
                f"source: expected a complete {self.suffix} file, got {self.path!r} "
                f"({_line(error)})"
            ) from None


class Gathered:
    """Rows that are written as one. Those of many bytes wait in a file without a name, as the disk
    has room for them, and memory may not."""

    def __init__(self, schema: Any, folder: str) -> None:
        self.schema, self.folder = schema, folder
        self.batches: list[Any] = []
        self.nbytes = 0
        self.file: Any = None
        self.stream: Any = None

    def add(self, batch: Any) -> None:
        """Some more rows."""
        self.batches.append(batch)
        self.nbytes += size_of(batch)
        if self.nbytes > 2 * _formats.WINDOW:
            if self.file is None:
                self.file = _nameless(self.folder)
                self.stream = pa.ipc.new_stream(self.file, self.schema)
            for one in self.batches:
                self.stream.write_batch(one)
            self.batches = []

    def table(self) -> Any:
        """All rows; where they waited in a file, they are mapped."""
        if self.file is None:
            return pa.Table.from_batches(self.batches, self.schema)
        self.stream.close()
        space = _mapped(self.file)
        return pa.ipc.open_stream(pa.py_buffer(space)).read_all()

    def close(self) -> None:
        """Give the rows up that have not been asked for."""
        if self.file is not None:
            self.file.close()


class Joined:
    """Vectors that become one array. Many bytes of numbers wait in a file without a name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parts: list[Any] = []
        self.keep: list[Array] = []
        self.missing: list[Array] = []
        self.sizes: list[Array] = []
        self.nbytes = 0
        self.file: Any = None

    def add(self, part: Any, keep: Array | None) -> None:
        """Some more vectors, and which of them stay."""
        self.parts.append(part)
        if keep is not None:
            self.keep.append(keep)
        self.nbytes += size_of(part)
        if self.nbytes > 2 * _formats.WINDOW:
            if self.file is None:
                self.file = _nameless(self.folder)
            for one in self.parts:
                self._put(getattr(one, "storage", one))
            self.parts = [part.slice(0, 0)]

    def _put(self, part: Any) -> None:
        self.missing.append(np.asarray(part.is_null()))
        if pa.types.is_fixed_size_list(part.type):
            width = part.type.list_size
            values = part.values.slice(part.offset * width, len(part) * width)
        else:
            values = part.flatten()
            self.sizes.append(pc.fill_null(pc.list_value_length(part), 0).to_numpy())
        self.file.write(np.asarray(values).data.cast("B"))

    def array(self) -> tuple[Any, Array | None]:
        """All of them; where they waited in a file, their numbers are mapped."""
        keep = np.concatenate(self.keep) if self.keep else None
        if self.file is None:
            return pa.concat_arrays(self.parts), keep
        kind = self.parts[0].type
        storage = getattr(kind, "storage_type", kind)
        for one in self.parts[1:]:
            self._put(getattr(one, "storage", one))
        space = _mapped(self.file)
        bounds = None
        if self.sizes:
            bounds = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self.sizes]))
        values = np.frombuffer(space, storage.value_type.to_pandas_dtype())
        found = arrow.nested(storage, np.concatenate(self.missing), bounds, values)
        return found if storage is kind else pa.ExtensionArray.from_storage(kind, found), keep

    def close(self) -> None:
        """Give the vectors up that have not been asked for."""
        if self.file is not None:
            self.file.close()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Have what the library cannot write said in a line."""
    try:
        yield
    except MemoryError:
        raise
    except (*_ERRORS, OSError) as error:
        number = getattr(error, "errno", None)
        if number is not None:
            raise OSError(number, os.strerror(number)) from None  # without pyarrow's own words
        raise ValueError(f"target: cannot be written as its source is ({_line(error)})") from None


def _nameless(folder: str) -> Any:
    """A file that vanishes with its descriptor or map, however the process ends."""
    return tempfile.TemporaryFile(dir=folder)


def _mapped(file: Any) -> Any:
    """All bytes of a file, which is closed."""
    with file:
        file.flush()
        if not file.tell():  # which cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def size_of(rows: Any) -> int:
    """How many bytes they take; as their buffers do, where an older pyarrow cannot tell more."""
    try:
        return int(rows.nbytes)
    except pa.ArrowException:
        return int(rows.get_total_buffer_size())


def nothing(kind: Any) -> Any:
    """An array of no rows."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    return pa.array([], kind)


_NOTHING_ASKED = _contract.Request()
_ERRORS = (pa.ArrowException, UnicodeDecodeError, OverflowError, LookupError, struct.error)


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (f"{error}".strip().splitlines() or [type(error).__name__])[0]


def _ahead(items: Iterator[Any], around: Any) -> Iterator[Any]:
    """The same, each of them made in another thread while the one before it is used."""

    def following() -> Any:
        with around():
            return next(items, None)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(following)
        while (found := coming.result()) is not None:
            coming = pool.submit(following)
            yield found


def _find(schema: Any, column: str | None, path: str) -> tuple[str, tuple[int, ...]]:
    """The column of vectors: the one asked for, or the only one of floating numbers, or else the
    only one of numbers."""
    found = dict(_fields(schema, "", ()))
    vectors = {name: at for name, at in found.items() if _numbers(_at(schema, at).type) is not None}
    if column in found:
        return column, found[column]
    if column is None:
        for names in ([n for n in vectors if _is_floating(schema, vectors[n])], list(vectors)):
            if len(names) == 1:
                return names[0], vectors[names[0]]
    if not vectors:
        raise ValueError(
            f"source: expected a table with a column of lists of numbers, got {path!r}, whose "
            f"columns are {tuple(found)[:20]!r}; rows of numbers are vectors in a frame: "
            "l2multi.normalize(pandas.read_parquet(...))"
        )
    raise _formats.not_named("column", f"the vectors in {path!r}", list(vectors), column)


def _fields(fields: Any, prefix: str, at: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names of all fields, those in structs after a dot, the outer ones last."""
    for index, field in enumerate(fields):
        if pa.types.is_struct(field.type):
            inner = [field.type.field(i) for i in range(field.type.num_fields)]
            yield from _fields(inner, f"{prefix}{field.name}.", (*at, index))
    for index, field in enumerate(fields):
        yield prefix + field.name, (*at, index)


def _at(schema: Any, place: tuple[int, ...]) -> Any:
    """The field at a place."""
    field = schema.field(place[0])
    for index in place[1:]:
        field = field.type.field(index)
    return field


def _numbers(kind: Any) -> Any:
    """The type of the numbers of vectors; None where it has none."""
    kind = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    lists = (pa.FixedSizeListType, pa.ListType, pa.LargeListType, pa.ListViewType)
    if not isinstance(kind, (*lists, pa.LargeListViewType)):
        return None
    value = kind.value_type
    known = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return value if any(is_one(value) for is_one in known) else None


def _is_floating(schema: Any, place: tuple[int, ...]) -> bool:
    return bool(pa.types.is_floating(_numbers(_at(schema, place).type)))


def _with(field: Any, place: tuple[int, ...], kind: Any) -> Any:
    """A field with another type, at a place in its structs."""
    if not place:
        return field.with_type(kind)
    inner = [field.type.field(i) for i in range(field.type.num_fields)]
    inner[place[0]] = _with(inner[place[0]], place[1:], kind)
    return field.with_type(pa.struct(inner))


def _graft(array: Any, place: tuple[int, ...], unit: Any, kind: Any) -> Any:
    """An array with other vectors, at a place in its structs."""
    if not place:
        return unit
    fields = [kind.field(i) for i in range(kind.num_fields)]
    inner = [array.field(i) for i in range(kind.num_fields)]
    inner[place[0]] = _graft(inner[place[0]], place[1:], unit, fields[place[0]].type)
    missing = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(inner, fields=fields, mask=missing)


def _cut(x: Any, dims: int) -> Any:
    """The first elements of each vector."""
    if not isinstance(x.type, pa.FixedShapeTensorType):
        return pc.list_slice(x, 0, dims)
    storage = pc.list_slice(x.storage, 0, dims)
    kind = pa.fixed_shape_tensor(x.type.value_type, (dims,), x.type.dim_names)
    return pa.ExtensionArray.from_storage(kind, storage)
