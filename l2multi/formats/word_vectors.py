"""Word vectors: word2vec's text and binary files, and GloVe's text.

A text has a line for each word: the word, and its numbers in decimal. That of word2vec begins with
a line of how many there are and how long, as its binary does, where each word and a space are
followed by float32. Words are bytes, which nobody decodes. A word may have spaces in it (GloVe's
``. . .``), and numbers after them, for its line ends with as many numbers as the others. Refused is
what may be something else: a word that ends with a number after a space, whose vector may be longer
than the others, and one with as many numbers in a row as a vector has, which may be two lines.
"""

import builtins
import importlib
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np

from l2multi import _formats
from l2multi._formats import Array, Block, OpenFile, Selection, Writer, suffix
from l2multi._sliced import COPIES

# The longest line of a text, and the longest word of a binary: so much is read to find its end.
LINE = 2**22
WORD = 2**16

_HEADER = re.compile(rb"(\d{1,18})([ \t]+)(\d{1,18})([ \t\r]*\n?)")

# What the models of fastText begin with, which .bin is the suffix of too.
_FASTTEXT = (793712314).to_bytes(4, "little")

# What separates numbers.
_SPACES = bytes(range(33))

F32 = np.dtype("<f4")


class WordVectors(OpenFile):
    """The vectors of words, which are read from the first to the last."""

    dtype = F32
    head: bytes

    def __init__(self, path: str, head: bytes, shape: tuple[int, int]) -> None:
        self.path, self.head, self.shape = path, head, shape
        self.whole = shape  # of the file, whatever is cut

    def cut(self, dims: int) -> None:
        if dims == 1 and not self.head:
            raise ValueError("dims: expected 2 at least for a text without a header, got 1")
        self.shape = (self.shape[0], dims)

    def sample(self, axes: tuple[int, ...]) -> Array:
        vectors, length = self.shape
        return np.empty((min(vectors, 1 + _formats.WINDOW // (COPIES * 4 * length)), length), F32)

    def create(self, path: str, dtype: np.dtype[Any], vectors: int | None = None) -> Writer:
        if vectors == 0 and not self.head:
            raise ValueError(
                "zero: drop would leave no vector, and a text without a header that has none says "
                "nothing of their length"
            )
        return WordWriter(self, path, self.shape[0] if vectors is None else vectors)

    def blocks(self, axes: tuple[int, ...]) -> Iterator[Block]:
        done = 0
        with builtins.open(self.path, "rb") as file:
            file.seek(len(self.head))
            for values, words in self.read(file):
                yield Block(values[:, : self.shape[1]], (done,), words)
                done += len(values)
            if done != self.shape[0]:  # which was checked when it was opened
                raise ValueError(f"source: {self.path!r} has changed while it was read")

    def read(self, file: BinaryIO) -> Iterator[tuple[Array, Any]]:
        """Vectors, and what `join` has to know of their words."""
        raise NotImplementedError

    def join(self, words: Any, unit: Array, keep: Array | None) -> bytes:
        """What a file has for these vectors: all, or those that `keep` tells to."""
        raise NotImplementedError

    def wrong(self, why: str) -> ValueError:
        """What to raise of a file that is none of its kind."""
        kind = "word2vec or GloVe text" if isinstance(self, Text) else "word2vec binary"
        return ValueError(f"source: expected a complete {kind} file, got {self.path!r} ({why})")


class WordWriter(Writer):
    """A file of words and vectors, written from its first byte to its last."""

    def __init__(self, opened: WordVectors, path: str, vectors: int) -> None:
        self.opened = opened
        self.file = builtins.open(path, "r+b")  # noqa: SIM115
        header = _HEADER.fullmatch(opened.head)
        if header:
            shape = (vectors, opened.shape[1])
            # As it stands where nothing else is true.
            count, length = (
                old if int(old) == new else b"%d" % new
                for old, new in zip(header.group(1, 3), shape, strict=True)
            )
            self.file.write(count + header[2] + length + header[4])

    def put(self, block: Block, unit: Any, keep: Array | None) -> None:
        self.file.write(self.opened.join(block.where, unit, keep))

    def close(self, complete: bool) -> None:
        self.file.close()


# Text.


class Text(WordVectors):
    """Lines of a word and its numbers. All but the numbers stays as it stands."""

    instead = "float32 (or float64)"

    def holds(self, name: str) -> bool:
        return name in ("float32", "float64")

    def read(self, file: BinaryIO) -> Iterator[tuple[Array, Any]]:
        first = 1 + (self.head != b"")
        # Where each of the numbers begins and ends takes several times what it does itself.
        while text := file.read(_formats.WINDOW // (4 * COPIES)):
            if not text.endswith(b"\n"):
                text += (rest := file.readline(LINE))
                if len(rest) == LINE and not rest.endswith(b"\n"):
                    raise self.too_long(first + text.count(b"\n"))
            starts, ends, lines = self._numbers(text, first)
            flat = _parsed(text, starts, ends)
            if flat is None:
                raise self._no_number(text, starts, ends, first)
            yield flat.reshape(-1, self.whole[1]), (text, *lines)
            first += len(lines[0])

    def _numbers(self, text: bytes, first: int) -> tuple[Array, Array, tuple[list[int], ...]]:
        """Where the numbers begin and end, and for each line where it, its first number, what
        follows its last and the next line begin; `first` is the first line's number."""
        length = self.whole[1]
        data = np.frombuffer(text, np.uint8)
        gaps = np.flatnonzero(data <= 32)  # spaces and what else separates
        newlines = gaps[data[gaps] == 10]
        end = [] if text.endswith(b"\n") else [len(text)]
        newlines = np.concatenate((newlines, end)).astype(np.intp)
        gaps = np.concatenate(([-1], gaps, end)).astype(np.intp)
        tokens = np.flatnonzero(np.diff(gaps) > 1)
        starts, ends = gaps[tokens] + 1, gaps[tokens + 1]
        last = np.searchsorted(ends, newlines, "right")
        found = np.diff(last, prepend=0)
        begins = np.concatenate(([0], newlines[:-1] + 1))
        # A line that begins with a space has an empty word.
        numbers = found - (data[begins] > 32)
        if (short := np.flatnonzero(numbers < length)).size:
            at = int(short[0])
            raise self.wrong(
                f"line {first + at} has no word and {length} numbers: "
                f"{_shown(text[begins[at] : newlines[at]])}"
            )
        for at in np.flatnonzero(numbers > length).tolist():
            spaced = range(last[at] - numbers[at], last[at] - length)
            are = bytes(_are_numbers([text[starts[k] : ends[k]]]) for k in spaced)
            if are[-1] or b"\1" * length in are:
                raise self.wrong(
                    f"line {first + at} has more than {length} numbers: "
                    f"{_shown(text[begins[at] : newlines[at]])}"
                )
        wanted = last[:, None] + np.arange(-length, 0)
        starts, ends = starts[wanted], ends[wanted]
        nexts = np.minimum(newlines + 1, len(text))
        lines = tuple(a.tolist() for a in (begins, starts[:, 0], ends[:, -1], nexts))
        return starts.ravel(), ends.ravel(), lines

    def too_long(self, line: int) -> ValueError:
        """What to raise of a line that is none to be expected."""
        return self.wrong(f"line {line} is longer than {LINE} bytes")

    def _no_number(self, text: bytes, starts: Array, ends: Array, first: int) -> ValueError:
        """What to raise where something stands for a number that is none."""
        for at, (lo, hi) in enumerate(zip(starts, ends, strict=True)):
            if not _are_numbers([text[lo:hi]]):
                line = first + at // self.whole[1]
                return self.wrong(f"line {line} has {_shown(text[lo:hi])} for a number")
        raise AssertionError(text)

    def join(self, words: Any, unit: Array, keep: Array | None) -> bytes:
        text, *lines = words
        if keep is not None:
            unit = unit[keep]
            lines = [[n for n, stays in zip(a, keep, strict=True) if stays] for a in lines]
        parts = []
        for begin, start, end, following, row in zip(*lines, _written(unit), strict=True):
            parts += [text[begin:start], row, text[end:following]]
        return b"".join(parts)


def _shown(text: bytes) -> str:
    """A line for a message, or the most of it."""
    return repr(text[:60].decode("utf-8", "replace")) + ("..." if len(text) > 60 else "")


# Decimal numbers are read and written by pyarrow where it is installed: 50 ns for a number to read
# and 145 to write, where NumPy takes 370 and 760 (two cores of an AMD EPYC, load 9). Both read the
# float32 that is nearest and write the fewest digits that it is read from.


def _arrow() -> Any:
    """pyarrow, or None."""
    try:
        importlib.import_module("pyarrow.compute")
    except ImportError:
        return None
    return importlib.import_module("pyarrow")


def _are_numbers(tokens: list[bytes]) -> bool:
    return _plainly_parsed(tokens) is not None


def _parsed(text: bytes, starts: Array, ends: Array) -> Array | None:
    """The numbers that stand there, as float32, or None if one is none."""
    pa = _arrow()
    if pa is None:
        return _plainly_parsed([text[lo:hi] for lo, hi in zip(starts, ends, strict=True)])
    # All of the text, as numbers and what is between them, which is null, so that nothing is moved.
    count = 2 * len(starts)
    offsets = np.empty(count + 1, np.int32)
    offsets[:-1:2], offsets[1::2], offsets[-1] = starts, ends, len(text)
    numbers = np.full(-(-count // 8), 0x55, np.uint8)
    parts = [pa.py_buffer(numbers), pa.py_buffer(offsets), pa.py_buffer(text)]
    strings = pa.StringArray.from_buffers(count, *parts[1:], parts[0])
    try:
        found = strings.cast(pa.float32())
    except pa.ArrowInvalid:
        return None
    return np.frombuffer(found.buffers()[1], F32, count, found.offset * 4)[::2].copy()


def _plainly_parsed(tokens: list[bytes]) -> Array | None:
    """The same without pyarrow."""
    try:
        wide = np.array([float(token) for token in tokens], np.float64)
    except ValueError:
        return None
    if any(b"_" in token for token in tokens):
        return None
    with np.errstate(over="ignore"):
        found = wide.astype(F32)
        # What was rounded to the middle between two may have been on one side of it.
        other = np.nextafter(found, np.where(wide > found, np.inf, -np.inf).astype(F32))
        middle = (found.astype(np.float64) + other) / 2
    for at in np.flatnonzero((middle == wide) & (found != wide)):
        exact = Decimal(tokens[at].decode())
        if exact != (half := Decimal(float(wide[at]))):
            pair = sorted((found[at], other[at]))
            found[at] = pair[exact > half]
    return found


def _written(unit: Array) -> list[bytes]:
    """The numbers of each row, in decimal, with spaces between."""
    pa = _arrow()
    if pa is None:
        return _plainly_written(unit)
    rows, length = unit.shape
    flat = pa.array(np.ascontiguousarray(unit).ravel()).cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * length, pa.int32()), flat)
    joined = importlib.import_module("pyarrow.compute").binary_join(lists, " ")
    return joined.cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]


def _plainly_written(unit: Array) -> list[bytes]:
    """The same without pyarrow."""
    return [b" ".join(map(_digits, row)) for row in unit.astype("S32").tolist()]


def _digits(number: bytes) -> bytes:
    """NumPy's decimal of a number as pyarrow writes it: 1 for 1.0, 0.00001 for 1e-05."""
    if b"e" not in number and not number.endswith(b".0") and number.find(b".") <= 10:
        return number
    exact = Decimal(number.decode()).normalize()
    sign, digits, _ = exact.as_tuple()
    text, point = "".join(map(str, digits)), exact.adjusted() + 1
    if not -6 < point <= 10:
        rest = "." + text[1:] if len(text) > 1 else ""
        text = f"{text[0]}{rest}e{point - 1:+d}"
    elif point <= 0:
        text = "0." + "0" * -point + text
    else:
        text = text.ljust(point, "0")
        text = text[:point] + ("." + text[point:] if text[point:] else "")
    return ("-" * sign + text).encode()


# Binary.


class Binary(WordVectors):
    """Words, each before the float32 of its vector. A newline after them is that of word2vec, where
    gensim has none, and stays."""

    def read(self, file: BinaryIO) -> Iterator[tuple[Array, Any]]:
        vectors, length = self.whole
        nbytes, done, data, at = 4 * length, 0, b"", 0
        while done < vectors:
            more = file.read(max(_formats.WINDOW // COPIES, WORD + nbytes))
            data, at, words, rows = data[at:] + more, 0, [], []
            while done < vectors:
                space = data.find(b" ", at, at + WORD)
                end = space + 1 + nbytes
                if space < 0 or end + (more != b"") > len(data):
                    break
                words.append((data[at : space + 1], data[end : end + 1] == b"\n"))
                rows.append(data[space + 1 : end])
                at = end + words[-1][1]
                done += 1
            if rows:
                yield np.frombuffer(b"".join(rows), F32).reshape(-1, length), words
            elif not more or len(data) - at > WORD + nbytes:
                why = "is cut off" if not more else f"is longer than {WORD} bytes"
                raise self.wrong(f"it claims {vectors} words of {length} numbers, of which number "
                                 f"{done + 1} {why}")  # fmt: skip
        if data[at:] or file.read(1):
            raise self.wrong(f"more follows the {vectors} words of {length} numbers that it claims")

    def join(self, words: Any, unit: Array, keep: Array | None) -> bytes:
        parts = []
        for at in range(len(words)) if keep is None else np.flatnonzero(keep).tolist():
            word, newline = words[at]
            parts += [word, unit[at].tobytes(), b"\n" * newline]
        return b"".join(parts)


def open(path: str, selection: Selection) -> OpenFile:
    """All words. Lines are counted, and a text without a header has as many as that."""
    kind = Binary if suffix(path) == ".bin" else Text
    with builtins.open(path, "rb") as file:
        line = file.readline(LINE)
        header = _HEADER.fullmatch(line)
        if header:
            opened = kind(path, line, (int(header[1]), int(header[3])))
        else:
            opened = kind(path, b"", (0, 0))
            if kind is Binary:
                fasttext = "it is a model of fastText; save its vectors as text, a .vec"
                other = (
                    f"it does not begin with two numbers: {_shown(line[:20])}; numbers alone "
                    "become a .npy by np.fromfile and np.save"
                )
                raise opened.wrong(fasttext if line.startswith(_FASTTEXT) else other)
            if isinstance(opened, Text) and len(line) == LINE and not line.endswith(b"\n"):
                raise opened.too_long(1)
            file.seek(0)
        found = os.fstat(file.fileno()).st_size - file.tell()
        vectors, length = opened.shape
        if kind is Text:
            lines, end = 0, b"\n"
            while data := file.read(2**20):
                lines, end = lines + data.count(b"\n"), data[-1:]
            lines += end != b"\n"
            if not header:
                vectors, length = lines, _length(line)
            elif lines != vectors:
                raise opened.wrong(f"it claims {vectors} words, and {lines} lines follow")
    # Without a header, a word that is a number and the one number after it would look like one.
    if length < (1 if header else 2):
        told = "a word and numbers" if header else "a word and two numbers at least"
        raise opened.wrong(f"no line has {told}: {_shown(line)}")
    # A space and a digit for each number, or a space and its bytes.
    least = vectors * (2 * length if kind is Text else 1 + 4 * length)
    if found < least:
        raise opened.wrong(
            f"it claims {vectors} words of {length} numbers, in {least} bytes at least, and "
            f"{found} follow"
        )
    opened.shape = opened.whole = (vectors, length)
    return opened


def _length(line: bytes) -> int:
    """How many numbers end a line, whose first token is a word, be it as it may."""
    tokens = [token for token in re.split(rb"[\0- ]+", line.rstrip(_SPACES)) if token]
    word = not line[:1] <= b" "
    for at in range(len(tokens), int(word), -1):
        if not _are_numbers(tokens[at - 1 : at]):
            return len(tokens) - at
    return len(tokens) - word
