"""``.arrow``, which is Feather too: a column of vectors, record batch by record batch.

The file format or, as its first bytes tell, the stream format. A record batch that is not
compressed is seen where it lies; one that is comes into memory as a whole.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi import _formats
from l2multi._formats import Array, Block, Selection, Writer
from l2multi._tables import Joined, Table, pa, size_of, writing

_MAGIC = b"ARROW1"
_CODECS = ("lz4", "zstd")


class ArrowFile(Table):
    """A file or stream of record batches, mapped."""

    suffix = ".arrow"

    def __init__(self, path: str, column: str | None) -> None:
        self.path = path
        with self.refusing():
            self.space = pa.memory_map(path)
            try:
                start = self.space.read(8)
                if start[:4] == b"FEA1":
                    raise pa.ArrowInvalid(
                        "it is Feather version 1, which pyarrow.feather reads, and "
                        "pyarrow.feather.write_feather writes as version 2"
                    )
                self.is_stream = start[:6] != _MAGIC
                reader = self._reader()
                self.metadata = None if self.is_stream else getattr(reader, "metadata", None)
                self.lengths, self.codec = self._heads(os.path.getsize(path))
                if not self.is_stream and len(self.lengths) != reader.num_record_batches:
                    raise pa.ArrowInvalid(
                        f"it has {len(self.lengths)} record batches, and its end claims "
                        f"{reader.num_record_batches}"
                    )
                super().__init__(path, reader.schema, sum(self.lengths), column)
            except BaseException:
                self.close()
                raise

    def _reader(self) -> Any:
        self.space.seek(0)
        return pa.ipc.open_stream(self.space) if self.is_stream else pa.ipc.open_file(self.space)

    def _heads(self, size: int) -> tuple[list[int], str | None]:
        """How many rows the record batches have, and how the first of them is compressed."""
        heads = list(self._of_stream(size) if self.is_stream else self._of_file(size))
        compression = heads[0].table(3) if heads else None
        codec = None if compression is None else _CODECS[compression.number(0, "<b")]
        return [head.number(0, "<q") for head in heads], codec

    def _of_file(self, size: int) -> Iterator["_Flat"]:
        """The heads of the record batches, which the end of the file tells."""
        self.space.seek(size - 10)
        (nbytes,) = struct.unpack("<i", self.space.read(4))
        self.space.seek(size - 10 - nbytes)
        footer = _Flat(self.space.read_buffer(nbytes))
        for offset, nbytes, _ in footer.structs(3, "<qi4xq"):
            self.space.seek(offset)
            message = self.space.read_buffer(nbytes)
            start = 8 if message[:4].to_pybytes() == b"\xff" * 4 else 4
            yield _header(message[start:])

    def _of_stream(self, size: int) -> Iterator["_Flat"]:
        """The heads of the record batches, found on the way to the end."""
        self.space.seek(0)
        messages = pa.ipc.MessageReader.open_stream(self.space)
        while True:
            try:
                message = messages.read_next_message()
            except StopIteration:
                break
            if message.type == "record batch":
                yield _header(message.metadata)
        end = self.space.tell()
        self.space.seek(max(0, size - 4))
        if end != size or self.space.read(4) != bytes(4):
            raise pa.ArrowInvalid(
                f"its record batches end at {end} of {size} bytes: it is truncated, or has more in "
                "it"
            )

    def _read(self) -> Iterator[tuple[Any, Any]]:
        """The record batches, and the metadata of each."""
        reader = self._reader()
        if not self.is_stream:
            for index in range(reader.num_record_batches):
                yield reader.get_batch_with_custom_metadata(index)
            return
        for _ in self.lengths:
            yield reader.read_next_batch_with_custom_metadata()

    def batches(self) -> Iterator[tuple[Any, Any]]:
        for rows, (batch, metadata) in zip(self.lengths, self._read(), strict=True):
            batch.validate(full=True)
            if batch.num_rows != rows:
                raise pa.ArrowInvalid(
                    f"a record batch has {batch.num_rows} rows, and claims {rows}"
                )
            size = max(1, int(_formats.WINDOW / max(1.0, size_of(batch) / max(1, rows))))
            for first in range(0, max(1, rows), size):
                last = first + size >= rows
                yield batch.slice(first, size), (batch, metadata) if last else None

    def close(self) -> None:
        self.space.close()

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        with writing():
            return ArrowWriter(self, path, self.schema_of(dtype))


class ArrowWriter(Writer):
    """A file or stream of record batches like it."""

    def __init__(self, opened: ArrowFile, path: str, schema: Any) -> None:
        self.opened, self.schema, self.folder = opened, schema, os.path.dirname(path)
        self.column = Joined(self.folder)
        self.sink = pa.OSFile(path, "wb")
        options = pa.ipc.IpcWriteOptions(compression=opened.codec)
        if opened.is_stream:
            self.file = pa.ipc.new_stream(self.sink, schema, options=options)
        elif opened.metadata:
            self.file = pa.ipc.new_file(self.sink, schema, options=options,
                                        metadata=opened.metadata)  # fmt: skip
        else:
            self.file = pa.ipc.new_file(self.sink, schema, options=options)

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        with writing():
            self.column.add(unit, keep)
            _, last = block.where
            if last is not None:
                batch, metadata = last
                unit, keep = self.column.array()
                whole = Block(None, (), (batch, True))
                batch = self.opened.exchanged(whole, unit, keep, self.schema)
                self.file.write_batch(batch, custom_metadata=metadata)
                self.column = Joined(self.folder)

    def close(self, complete: bool) -> None:
        try:
            if complete:
                with writing():
                    self.file.close()
        finally:
            self.column.close()
            self.sink.close()


class _Flat:
    """A table of the Flatbuffers format, whose fields are asked by their slots."""

    def __init__(self, buffer: Any, at: int | None = None) -> None:
        self.buffer = buffer
        self.at: int = struct.unpack_from("<I", buffer)[0] if at is None else at

    def _field(self, slot: int) -> int:
        """Where a field is, 0 where it is not there."""
        table = self.at - self._get("<i", self.at)
        entry = 4 + 2 * slot
        offset = self._get("<H", table + entry) if entry < self._get("<H", table) else 0
        return self.at + offset if offset else 0

    def _get(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, self.buffer, at)[0])

    def number(self, slot: int, kind: str) -> int:
        """A number, 0 where it is not there."""
        at = self._field(slot)
        return self._get(kind, at) if at else 0

    def table(self, slot: int) -> "_Flat | None":
        """A table, None where it is not there."""
        at = self._field(slot)
        return _Flat(self.buffer, at + self._get("<I", at)) if at else None

    def structs(self, slot: int, kind: str) -> list[tuple[int, ...]]:
        """The members of a vector of structs."""
        at = self._field(slot)
        if not at:
            return []
        at += self._get("<I", at)
        nbytes = self._get("<I", at) * struct.calcsize(kind)
        found = memoryview(self.buffer)[at + 4 : at + 4 + nbytes]
        return list(struct.iter_unpack(kind, found))


def _header(message: Any) -> _Flat:
    """The header of a message, its third field."""
    header = _Flat(message).table(2)
    if header is None:
        raise pa.ArrowInvalid("a message has no header")
    return header


def open(path: str, selection: Selection) -> ArrowFile:
    """By its first bytes."""
    return ArrowFile(path, selection.column)
