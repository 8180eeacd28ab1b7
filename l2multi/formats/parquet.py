"""``.parquet``: row groups as they were, with the codec and statistics of each column.

As https://parquet.apache.org describes it; by pyarrow.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi._formats import Request, Writer
from l2multi._tables import Table, TableWriter, pa, refused

import pyarrow.parquet as pq  # isort: skip  # after the message of _tables

KIND = ".parquet"

# Encodings that a writer is told by column, where there is no dictionary.
_ENCODINGS = (
    "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY",
)  # fmt: skip


class Parquet(Table):
    """A file, of which a batch lies in one row group."""

    def __init__(self, file: Any, path: str, request: Request) -> None:
        self.file = file
        super().__init__(path, KIND, file.schema_arrow, request.column, file.metadata.num_rows)

    def batches(self) -> Iterator[tuple[Any, bool, Any]]:
        for i in range(self.file.num_row_groups):
            group = self.file.metadata.row_group(i)
            rows = group.num_rows
            step = self.rows_in(group.total_byte_size, rows)
            done = 0
            for batch in self.file.iter_batches(step, row_groups=[i]):
                done += len(batch)
                yield batch, done >= rows, None

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        schema = self.result_schema(dtype)
        return ParquetWriter(self, pq.ParquetWriter(path, schema, **self._options()), schema)

    def _options(self) -> dict[str, Any]:
        """What a writer is told, so that it writes as the source was written."""
        meta = self.file.metadata
        options: dict[str, Any] = {
            "version": meta.format_version if meta.format_version in ("1.0", "2.4") else "2.6",
            "store_schema": b"ARROW:schema" in (meta.metadata or {}),
        }
        if not meta.num_row_groups:
            return options
        group = meta.row_group(0)
        columns = [group.column(j) for j in range(group.num_columns)]
        own = self.schema.field(self.at).name
        # Unit vectors rarely repeat, and a dictionary of them is built for nothing.
        words = [
            one.path_in_schema
            for one in columns
            if one.has_dictionary_page and one.path_in_schema.partition(".")[0] != own
        ]
        encodings = {
            one.path_in_schema: encoding
            for one in columns
            for encoding in _ENCODINGS
            if encoding in one.encodings and one.path_in_schema not in words
        }
        names = {one.path_in_schema for one in columns}
        kinds = {one.physical_type for one in columns}
        options |= {
            "compression": {one.path_in_schema: _codec(one.compression) for one in columns},
            "use_dictionary": words or False,
            "write_statistics": [one.path_in_schema for one in columns if one.is_stats_set]
            or False,
            "write_page_index": any(getattr(one, "has_offset_index", False) for one in columns),
            "use_compliant_nested_type": not any(".list.item" in name for name in names),
            "use_deprecated_int96_timestamps": "INT96" in kinds,
        }
        if encodings:
            options["column_encoding"] = encodings
        if group.sorting_columns:
            options["sorting_columns"] = group.sorting_columns
        return options

    def close(self) -> None:
        self.file.close(force=True)


class ParquetWriter(TableWriter):
    """The same row groups, where they are not too long."""

    def __init__(self, opened: Parquet, file: Any, schema: Any) -> None:
        super().__init__(opened, schema, self._write)
        self.file = file

    def _write(self, batches: Any, known: Any) -> None:
        table = pa.Table.from_batches(batches, self.schema)
        self.file.write_table(table, row_group_size=max(1, len(table)))

    def close(self, complete: bool) -> None:
        self.file.close()


def _codec(name: str) -> str:
    return {"UNCOMPRESSED": "NONE"}.get(name, name)


def open(path: str, request: Request) -> Table:
    """The column that is named, or the only one of vectors."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
        return Parquet(file, path, request)
    except (pa.ArrowException, OSError) as error:
        raise refused(path, KIND, error) from None
