"""``.npz``: a zip archive of ``.npy`` files, as numpy.savez and numpy.savez_compressed write it.

What is stored plain is mapped; what is compressed is read from its begin to its end. All other
members are copied as they stand in the archive, never unpacked.
"""

import builtins
import contextlib
import copy
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from l2multi import _formats
from l2multi._contract import Axis
from l2multi._formats import Array, Block, OpenFile, Selection, Writer
from l2multi._mapped import Mapped, MappedWriter, reserve, unload, windows
from l2multi._sliced import COPIES
from l2multi.formats import npy

# Deflate makes 1032 bytes of one at most.
_DEFLATED = 1032

# Bytes of other members between two looks at an interrupt.
_COPIED = 2**24

# A compressed vector is held in memory as a whole.
VECTOR = 2**26


class Member:
    """An array of an archive, and how one like it takes its place.

    Attributes
    ----------
    info : zipfile.ZipInfo
        The directory's entry.
    path : str
        The archive.
    head_size : int
        How long the header of the ``.npy`` is.
    fortran : bool
        Whether the array is in Fortran order.
    """

    instead = npy.Npy.instead

    def __init__(self, path: str, info: zipfile.ZipInfo, head: int, fortran: bool) -> None:
        self.path, self.info, self.head_size, self.fortran = path, info, head, fortran
        self.name = info.filename.removesuffix(".npy")

    def holds(self, name: str) -> bool:
        return name not in npy.NAMELESS

    def can_drop(self, axes: tuple[int, ...]) -> bool:
        return False  # what else is in the file may go by the vectors' positions


class Plain(Member, Mapped):
    """A member that is stored plain."""

    def __init__(self, member: Array, array: Array, *args: Any) -> None:
        Mapped.__init__(self, array)
        Member.__init__(self, *args)
        self.member = member

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        if _crc(self.member) != self.info.CRC:
            raise _wrong(self.path, f"member {self.info.filename!r} is damaged: its CRC-32 differs")
        yield from super().blocks(axes)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        return PlainWriter(self, path, dtype)


class Packed(Member, OpenFile):
    """A member that is compressed."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *args: Any) -> None:
        super().__init__(*args)
        self.shape, self.dtype, self.whole = shape, dtype, shape

    @property
    def order(self) -> list[int]:
        """The axes, from that whose neighbours lie furthest apart."""
        axes = list(range(len(self.shape)))
        return axes[::-1] if self.fortran else axes

    def cut(self, dims: int) -> None:
        self.shape = (*self.shape[:-1], dims)

    def check_axes(self, axes: tuple[int, ...]) -> Axis:
        inner = self.order[len(self.shape) - len(axes) :]
        vector = self.dtype.itemsize * math.prod(self.whole[d] for d in axes)
        if sorted(inner) != list(axes) or vector > VECTOR:
            raise ValueError(
                f"axis: expected one along which vectors lie one after the other, each of at most "
                f"{VECTOR} bytes, got {axes}: {self.info.filename!r} of shape {self.whole} is "
                "compressed, and read from its begin to its end; numpy.savez stores it plain"
            )
        return axes

    def cuts(self, axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        order = self.order
        for window in windows(self.whole, COPIES * self.dtype.itemsize, axes, order):
            yield tuple(slice(*window[d].indices(self.whole[d])) for d in range(len(order)))

    def sample(self, axes: tuple[int, ...]) -> Array:
        window = next(self.cuts(axes), None)
        lengths = self.whole if window is None else [part.stop - part.start for part in window]
        return self._cut(np.empty(tuple(lengths), self.dtype))

    def _cut(self, values: Array) -> Array:
        return values[..., : self.shape[-1]] if self.shape else values

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.info) as file:
            try:
                file.read(self.head_size)
                for window in self.cuts(axes):
                    lengths = [window[d].stop - window[d].start for d in self.order]
                    data = file.read(self.dtype.itemsize * math.prod(lengths))
                    values = np.frombuffer(data, self.dtype).reshape(lengths)
                    values = values.transpose(np.argsort(self.order))
                    starts = tuple(p.start for d, p in enumerate(window) if d not in axes)
                    yield Block(self._cut(values), starts)
                file.read(1)  # at the end, the CRC-32 is compared
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
                told = f"member {self.info.filename!r} is damaged: {error}"
                raise _wrong(self.path, told) from None

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        return PackedWriter(self, path, dtype)


class Archive:
    """An archive like that of a member, in which that will be another."""

    def __init__(self, opened: Any, path: str, dtype: np.dtype[Any]) -> None:
        with zipfile.ZipFile(opened.path) as archive:
            self.infos, self.end, comment = archive.infolist(), archive.start_dir, archive.comment
        self.others = sorted(self.infos, key=lambda info: info.header_offset)
        self.done: dict[str, zipfile.ZipInfo] = {}
        self.head = npy.header(opened.shape, dtype, opened.fortran)
        old = opened.info
        new = self.info = zipfile.ZipInfo(old.filename, old.date_time)
        new.compress_type, new.comment, new.CRC = old.compress_type, old.comment, 0
        new.create_system, new.external_attr = old.create_system, old.external_attr
        self.file = builtins.open(path, "r+b")  # noqa: SIM115
        self.source = builtins.open(opened.path, "rb")  # noqa: SIM115
        self.archive = zipfile.ZipFile(self.file, "w")
        self.archive.comment = comment
        try:
            while self.others[0].filename != old.filename:
                self._copy()
        except BaseException:
            self.close()
            raise

    def _copy(self) -> None:
        """The next of the other members, and what is between it and the one after it."""
        info, *self.others = self.others
        new = self.done[info.filename] = copy.copy(info)
        new.header_offset = self.file.tell()
        end = self.others[0].header_offset if self.others else self.end
        self.source.seek(info.header_offset)
        for lo in range(info.header_offset, end, _COPIED):
            self.file.write(self.source.read(min(_COPIED, end - lo)))
        self.archive.start_dir = self.file.tell()  # where what comes next is written

    def finish(self) -> None:
        """Copy what comes after the member, and write the directory."""
        self.done[self.info.filename] = self.info
        del self.others[0]
        while self.others:
            self._copy()
        self.archive.filelist = [self.done[info.filename] for info in self.infos]
        self.archive.start_dir = self.file.tell()
        self.archive.close()

    def close(self) -> None:
        """Close all files, whatever is in them."""
        with contextlib.suppress(Exception):
            self.archive.close()
        self.source.close()
        self.file.close()


class PlainWriter(MappedWriter):
    """A member that is mapped, too, and whose CRC-32 is found when it is complete."""

    def __init__(self, opened: Plain, path: str, dtype: np.dtype[Any]) -> None:
        archive = self.archive = Archive(opened, path, dtype)
        file, info, head = archive.file, archive.info, archive.head
        nbytes = math.prod(opened.shape) * dtype.itemsize
        try:
            info.header_offset = file.tell()
            info.file_size = info.compress_size = len(head) + nbytes
            file.write(info.FileHeader(True))  # with sizes of 64 bits, as NumPy does
            at = file.tell()
            file.write(head)
            file.flush()
            reserve(file, at + len(head), nbytes)
            self.member: Any = np.asarray(np.memmap(file, np.uint8, "r+", at, (info.file_size,)))
            file.seek(at + info.file_size)
        except BaseException:
            archive.close()
            raise
        space = self.member[len(head) :].view(dtype)
        self.begin(opened, space.reshape(opened.shape, order="F" if opened.fortran else "C"))

    def close(self, complete: bool) -> None:
        archive = self.archive
        try:
            if complete:
                self.behind.wait()
                archive.info.CRC = _crc(self.member)
                end = archive.file.tell()
                archive.file.seek(archive.info.header_offset)
                archive.file.write(archive.info.FileHeader(True))
                archive.file.seek(end)
                archive.finish()
        finally:
            super().close(complete)
            self.member = None
            archive.close()


class PackedWriter(Writer):
    """A member that is compressed as it comes."""

    def __init__(self, opened: Packed, path: str, dtype: np.dtype[Any]) -> None:
        self.order = opened.order
        self.archive = Archive(opened, path, dtype)
        self.member = self.archive.archive.open(self.archive.info, "w", force_zip64=True)
        self.member.write(self.archive.head)

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        self.member.write(unit.transpose(self.order).tobytes())

    def close(self, complete: bool) -> None:
        try:
            if complete:
                self.member.close()
                self.archive.finish()
        finally:
            with contextlib.suppress(Exception):
                self.member.close()
            self.archive.close()


def _crc(member: Any) -> int:
    """The CRC-32 of a member that is mapped."""
    crc = 0
    for lo in range(0, len(member), _formats.WINDOW):
        crc = zlib.crc32(member[lo : lo + _formats.WINDOW], crc)
        unload(member)
    return crc


def _wrong(path: str, why: str) -> ValueError:
    return ValueError(f"source: expected a complete .npz file, got {path!r} ({why})")


def open(path: str, selection: Selection) -> OpenFile:
    """The array that is named, or the only one."""
    with builtins.open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # a damaged directory fails in whatever way it likes
            raise _wrong(path, f"{error}") from None
        with archive:
            infos = archive.infolist()
            try:
                _check(file, infos, archive.start_dir)
            except Exception as error:  # a place before the file's begin, and the like
                raise _wrong(path, f"{error}") from None
            names = [info.filename[:-4] for info in infos if info.filename.endswith(".npy")]
            if not names:
                raise _wrong(path, "it has no array")
            info = archive.getinfo(_formats.chosen(names, selection.tensor, path) + ".npy")
            try:
                return _read(file, archive, info, path, selection.dtype_in)
            except TypeError:
                raise
            except Exception as error:
                raise _wrong(path, f"member {info.filename!r}: {error}") from None


def _check(file: BinaryIO, infos: list[zipfile.ZipInfo], end: int) -> None:
    """Refuse an archive whose members are not one after the other, each under its own name."""
    if len({info.filename for info in infos}) < len(infos):
        raise ValueError("two members have one name")
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        if not (info.filename.isascii() or info.flag_bits & 0x800):
            raise ValueError(f"the name of member {info.filename!r} is in no known encoding")
        if _begin(file, info) + info.compress_size > end:
            raise ValueError(f"member {info.filename!r} does not end before the next begins")
        end = info.header_offset


def _begin(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin."""
    file.seek(info.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\3\4":
        raise ValueError(f"member {info.filename!r} is not where the directory claims it to be")
    return (
        info.header_offset + 30 + sum(int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
    )


def _read(
    file: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str,
    dtype_in: np.dtype[Any] | None,
) -> OpenFile:  # fmt: skip
    """One array of an archive."""
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    with archive.open(info) as member:
        if member.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it does not begin as a .npy file")
        descr, fortran, shape = npy.read_header(member)  # type: ignore[arg-type]
        head = member.tell()
    dtype = npy.dtype_of(descr, dtype_in)
    claimed, found = head + math.prod(shape) * dtype.itemsize, info.file_size
    if claimed != found:
        raise ValueError(
            f"its header claims shape {shape} of {dtype}, in {claimed} bytes, but it has {found}"
        )
    packed = info.compress_size
    if info.compress_type != zipfile.ZIP_STORED:
        if info.compress_type == zipfile.ZIP_DEFLATED and found > _DEFLATED * (packed + 64):
            raise ValueError(f"no {packed} bytes can be unpacked to the {found} that it claims")
        return Packed(shape, dtype, path, info, head, fortran)
    if packed != found:
        raise ValueError(f"it claims {packed} and {found} bytes for itself")
    data = np.asarray(np.memmap(file, np.uint8, "r", _begin(file, info), (found,)))
    array = data[head:].view(dtype).reshape(shape, order="F" if fortran else "C")
    return Plain(data, array, path, info, head, fortran)
