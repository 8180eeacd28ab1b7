"""``.parquet``: a column of vectors, row group by row group."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi import _formats
from l2multi._formats import Array, Block, Selection, Writer
from l2multi._tables import Gathered, Table, pa, size_of, writing
from l2multi._write_behind import WriteBehind

pq: Any = __import__("pyarrow.parquet").parquet

# Bytes of one decoded number, where the length of it is not in the schema.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}

# What a column without a dictionary may be written in besides PLAIN.
_ENCODINGS = ("BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY",
              "DELTA_BYTE_ARRAY")  # fmt: skip


class Parquet(Table):
    """A file, mapped: a row group may be larger than memory."""

    suffix = ".parquet"

    def __init__(self, path: str, column: str | None) -> None:
        self.path = path
        size = os.path.getsize(path)
        with self.refusing():
            self.space = pa.memory_map(path)
            try:
                self.file = self._opened("ns")
                self.head = self.file.metadata
                # Of some garbled heads, asking for a column's metadata ends the process, where
                # reading a row raises.
                for index in range(self.head.num_row_groups):
                    next(self.file.iter_batches(1, row_groups=[index], use_threads=False), None)
                groups = _groups(self.head)
                self.leaves = [self.head.schema.column(i) for i in range(self.head.num_columns)]
                self.chunks = [[g.column(i) for i in range(g.num_columns)] for g in groups]
                self.rows = [group.num_rows for group in groups]
                self._check(size)
                if self._are_beyond():
                    self.file = self._opened("us")
                schema = self.file.schema_arrow
            except BaseException:
                self.close()
                raise
        try:
            super().__init__(path, schema, self.head.num_rows, column)
        except BaseException:
            self.close()
            raise

    def _opened(self, unit: str) -> Any:
        """What reads the file; timestamps of the old kind in this unit."""
        return pq.ParquetFile(self.space, pre_buffer=False, coerce_int96_timestamp_unit=unit)

    def _are_beyond(self) -> bool:
        """Whether timestamps of 96 bits are before 1677 or after 2262, which are other ones in 64
        bits of nanoseconds, without a word. In microseconds they are not, unless they have parts of
        one."""
        beyond = parts = False
        for leaf in (leaf.path for leaf in self.leaves if leaf.physical_type == "INT96"):
            fine, rough = (
                self._opened(unit).iter_batches(_formats.WINDOW // 64, columns=[leaf])
                for unit in ("ns", "us")
            )
            for nanos, micros in zip(map(_int64, fine), map(_int64, rough), strict=True):
                parts = parts or bool((nanos - micros * 1000 != 0).any())  # these wrap, too
                beyond = beyond or bool((abs(micros) > np.iinfo(np.int64).max // 1000).any())
        if beyond and parts:
            raise pa.ArrowInvalid(
                "it has timestamps of 96 bits before 1677 or after 2262, and others with "
                "nanoseconds, which pyarrow cannot read both"
            )
        return beyond

    def _check(self, size: int) -> None:
        """Compare what the head claims with itself and with the length of the file."""
        if sum(self.rows) != self.head.num_rows or min(self.rows, default=0) < 0:
            raise pa.ArrowInvalid(
                f"its row groups have {sum(self.rows)} rows, and its head claims "
                f"{self.head.num_rows}"
            )
        for index, (rows, chunks) in enumerate(zip(self.rows, self.chunks, strict=True)):
            for chunk in chunks:
                start = chunk.data_page_offset
                outside = start >= size
                if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                    start = min(start, chunk.dictionary_page_offset)
                nbytes = chunk.total_compressed_size
                outside = outside or start < 0 or nbytes < 0 or start + nbytes > size
                if outside or chunk.num_values < rows:
                    raise pa.ArrowInvalid(
                        f"column {chunk.path_in_schema} of its row group {index} claims {nbytes} "
                        f"bytes from {start} and {chunk.num_values} values for {rows} rows, and "
                        f"the file has {size} bytes"
                    )

    def batches(self) -> Iterator[tuple[Any, bool]]:
        row = 1.0
        for index, rows in enumerate(self.rows):
            done = 0
            row = max(row, self._row(index))
            size = max(1, int(_formats.WINDOW / row))
            for batch in self.file.iter_batches(size, row_groups=[index], use_threads=False):
                if batch.num_rows:
                    batch.validate(full=True)  # what is garbled may be read all the same
                    done += batch.num_rows
                    # A dictionary's strings may be longer than those that were counted.
                    row = max(row, size_of(batch) / batch.num_rows)
                    yield batch, done == rows
            if done != rows:
                raise pa.ArrowInvalid(
                    f"its row group {index} has {done} rows, and its head claims {rows}"
                )
            if rows == 0:
                yield pa.RecordBatch.from_pylist([], self.schema), True

    def _row(self, index: int) -> float:
        """About how many bytes a row of a row group takes in memory."""
        nbytes = 0
        for leaf, chunk in zip(self.leaves, self.chunks[index], strict=True):
            width = _WIDTHS.get(chunk.physical_type, max(leaf.length or 0, 4))
            nbytes += max(chunk.total_uncompressed_size, chunk.num_values * width)
        return float(nbytes / max(1, self.rows[index]))

    def close(self) -> None:
        self.space.close()

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        schema = self.schema_of(dtype)
        with writing():
            return ParquetWriter(self, path, schema, self._settings(schema))

    def _settings(self, schema: Any) -> dict[str, Any]:
        """How a file like this one is written."""
        metadata = self.head.metadata or {}
        own: dict[str, Any] = {
            "store_schema": b"ARROW:schema" in metadata,
            "use_deprecated_int96_timestamps": any(
                leaf.physical_type == "INT96" for leaf in self.leaves
            ),
        }
        # "element", or what the schema calls it: whichever more of the columns are called by.
        own["use_compliant_nested_type"] = max(
            (False, True),
            key=lambda name: sum(
                new.path == old.path
                for new, old in zip(
                    _leaves(schema, {**own, "use_compliant_nested_type": name}),
                    self.leaves,
                    strict=True,
                )
            ),
        )
        # Some call their files version 1 and have types in them that came later.
        version = self.head.format_version
        if version not in ("1.0", "2.4") or not self._is_like(schema, version, own):
            version = "2.6"
        own["version"] = version
        leaves = _leaves(schema, own)
        compression, dictionary, statistics, encoding = {}, [], [], {}
        is_v2 = has_index = False
        blooms: dict[str, Any] = {}
        vectors = self._leaf(leaves)
        for i, leaf in enumerate(leaves):
            chunks = [chunks[i] for chunks in self.chunks]
            if not chunks:
                continue
            codec = chunks[0].compression
            compression[leaf.path] = "NONE" if codec == "UNCOMPRESSED" else codec
            used = {one for chunk in chunks for one in chunk.encodings}
            if used & {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}:
                if leaf.path != vectors or _is_smaller(chunks):
                    dictionary.append(leaf.path)
            else:
                for name in _ENCODINGS:
                    fits = name == "BYTE_STREAM_SPLIT" or leaf.path != vectors
                    if name in used and fits:
                        encoding[leaf.path] = name
            if any(chunk.is_stats_set for chunk in chunks):
                statistics.append(leaf.path)
            is_v2 = is_v2 or self._is_v2(chunks)
            has_index = has_index or any(chunk.has_column_index for chunk in chunks)
            if getattr(chunks[0], "bloom_filter_offset", None) is not None:
                blooms[leaf.path] = {"ndv": max(1, max(self.rows))}
        sorting = self.head.row_group(0).sorting_columns if self.chunks else ()
        own |= {
            "compression": compression or "NONE",
            "use_dictionary": dictionary or not self.chunks,
            "write_statistics": statistics or not self.chunks,
            "column_encoding": encoding or None,
            "data_page_version": "2.0" if is_v2 else "1.0",
            "write_page_index": has_index,
            "sorting_columns": sorting or None,
        }
        return {**own, "bloom_filter_options": blooms} if blooms else own

    def _leaf(self, leaves: list[Any]) -> str:
        """The path of the vectors' numbers."""
        names = [self.schema.field(self.place[0]).name]
        kind = self.schema.field(self.place[0]).type
        for index in self.place[1:]:
            names.append(kind.field(index).name)
            kind = kind.field(index).type
        prefix = ".".join(names) + ".list."
        return next((leaf.path for leaf in leaves if leaf.path.startswith(prefix)), "")

    def _is_like(self, schema: Any, version: str, own: dict[str, Any]) -> bool:
        """Whether columns written so have the types that they have, but for the vectors."""
        leaves = _leaves(schema, {**own, "version": version})
        vectors = self._leaf(leaves)
        return all(
            str(new.logical_type) == str(old.logical_type)
            and new.physical_type == old.physical_type
            for new, old in zip(leaves, self.leaves, strict=True)
            if new.path != vectors
        )

    def _is_v2(self, chunks: list[Any]) -> bool:
        """Whether the first data page is of the second kind. A page's head begins with its type."""
        for chunk in chunks[:1]:
            self.space.seek(chunk.data_page_offset)
            if self.space.read(2) == b"\x15\x06":
                return True
        return False


class ParquetWriter(Writer):
    """A file like it. Row groups are encoded in another thread."""

    def __init__(self, opened: Parquet, path: str, schema: Any, settings: dict[str, Any]) -> None:
        self.opened, self.schema, self.folder = opened, schema, os.path.dirname(path)
        self.group = Gathered(schema, self.folder)
        self.sink = pa.OSFile(path, "wb")
        self.file = pq.ParquetWriter(self.sink, schema, **settings)
        self.behind = WriteBehind()

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        with writing():
            self.group.add(self.opened.exchanged(block, unit, keep, self.schema))
            _, last = block.where
            if last:
                group, self.group = self.group, Gathered(self.schema, self.folder)
                self.behind.begin(self._write, group)

    def _write(self, group: Gathered) -> None:
        table = group.table()
        self.file.write_table(table, max(1, table.num_rows))

    def close(self, complete: bool) -> None:
        try:
            if complete:
                with writing():
                    self.behind.wait()
                    self.file.close()
        finally:
            self.behind.close()
            self.group.close()
            with contextlib.suppress(Exception):
                self.file.close()
            self.sink.close()


def _is_smaller(chunks: list[Any]) -> bool:
    """Whether a dictionary has saved anything. Of numbers that are all different it does not, and
    pyarrow takes half as long again to find that out."""
    plain = sum(chunk.num_values * _WIDTHS.get(chunk.physical_type, 2) for chunk in chunks)
    return bool(sum(chunk.total_uncompressed_size for chunk in chunks) < plain)


def _groups(head: Any) -> list[Any]:
    """The heads of the row groups. Of a column that the schema has not, asking for its metadata
    ends the process."""
    groups = [head.row_group(i) for i in range(head.num_row_groups)]
    for index, group in enumerate(groups):
        if group.num_columns != head.num_columns:
            raise pa.ArrowInvalid(
                f"its row group {index} has {group.num_columns} columns, and its schema has "
                f"{head.num_columns}"
            )
    return groups


def _int64(batch: Any) -> Array:
    """The timestamps of a batch of one column, wherever they are in it."""
    (found,) = batch.columns
    while not pa.types.is_timestamp(found.type):
        found = found.flatten()
        found = found[0] if isinstance(found, list) else found
    plain: Array = found.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return plain


def _leaves(schema: Any, settings: dict[str, Any]) -> list[Any]:
    """The columns that a schema leads to."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema, **settings).close()
    found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(i) for i in range(len(found))]


def open(path: str, selection: Selection) -> Parquet:
    """By its head, which stands at the end."""
    return Parquet(path, selection.column)
