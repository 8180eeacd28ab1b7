"""``.arrow``: record batches as they were, of the file format or of the stream format; Feather.

As https://arrow.apache.org/docs/format/Columnar.html describes them; by pyarrow.
"""

import builtins
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi._formats import Request, Writer
from l2multi._tables import Table, TableWriter, pa, refused

KIND = ".arrow"

# What a compressed buffer begins with, after its length.
_CODECS = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}


class Ipc(Table):
    """A file of record batches, mapped."""

    def __init__(self, path: str, request: Request, stream: bool) -> None:
        self.stream = stream
        self.source = pa.memory_map(path)
        reader = self._reader()
        self.footer = getattr(reader, "metadata", None)
        rows = sum(len(batch) for batch, _ in self._whole())
        super().__init__(path, KIND, reader.schema, request.column, rows)

    def _reader(self) -> Any:
        self.source.seek(0)
        return (pa.ipc.open_stream if self.stream else pa.ipc.open_file)(self.source)

    def _whole(self) -> Iterator[tuple[Any, Any]]:
        """The batches of the file, and what else is said of each."""
        reader = self._reader()
        if self.stream:
            while True:
                try:
                    yield reader.read_next_batch_with_custom_metadata()
                except StopIteration:
                    return
        for i in range(reader.num_record_batches):
            yield reader.get_batch_with_custom_metadata(i)

    def batches(self) -> Iterator[tuple[Any, bool, Any]]:
        for batch, known in self._whole():
            step = self.rows_in(batch.nbytes, len(batch))
            for lo in range(0, max(1, len(batch)), step):
                yield batch.slice(lo, step), lo + step >= len(batch), known

    def codec(self) -> str | None:
        """How the first batch is compressed."""
        self.source.seek(0 if self.stream else 8)  # after the magic
        for message in pa.ipc.MessageReader.open_stream(self.source):
            if message.type == "record batch" and message.body is not None:
                body = message.body[: 2**20].to_pybytes()
                for at in range(8, len(body) - 3, 8):
                    if body[at : at + 4] in _CODECS:
                        return _CODECS[body[at : at + 4]]
                return None
        return None

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        schema = self.result_schema(dtype)
        options = pa.ipc.IpcWriteOptions(compression=self.codec(), emit_dictionary_deltas=True)
        if self.stream:
            return IpcWriter(self, pa.ipc.new_stream(path, schema, options=options), schema)
        more = {"metadata": self.footer} if self.footer else {}
        return IpcWriter(self, pa.ipc.new_file(path, schema, options=options, **more), schema)

    def close(self) -> None:
        self.source.close()


class IpcWriter(TableWriter):
    """The same batches, where they are not too long."""

    def __init__(self, opened: Ipc, file: Any, schema: Any) -> None:
        super().__init__(opened, schema, self._write)
        self.file = file

    def _write(self, batches: Any, known: Any) -> None:
        table = pa.Table.from_batches(batches, self.schema).combine_chunks()
        for batch in table.to_batches() or [pa.RecordBatch.from_pylist([], self.schema)]:
            self.file.write_batch(batch, custom_metadata=known)

    def close(self, complete: bool) -> None:
        self.file.close()


def open(path: str, request: Request) -> Table:
    """The column that is named, or the only one of vectors."""
    with builtins.open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"FEA1"):
        raise ValueError(
            f"source: expected a {KIND} file, got {path!r}, which is Feather of version 1; read it "
            "and write it again with pyarrow.feather"
        )
    try:
        return Ipc(path, request, stream=magic != b"ARROW1")
    except (pa.ArrowException, OSError) as error:
        raise refused(path, KIND, error) from None
