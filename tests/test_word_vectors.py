"""Word vectors as text and binary: what a reader by hand finds, with pyarrow and without."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import l2multi as l2
from l2multi.files import check_file, normalize_file
from l2multi.formats import word_vectors
from tests.streamed import draw, numpy_backend, refused, small_windows

pytestmark = pytest.mark.usefixtures("small_windows", "numpy_backend")
__all__ = ["numpy_backend", "small_windows"]  # fixtures

WORDS = [b"the", b",", b". . .", b"", b"\xff\xfe", b"7", b"caf\xc3\xa9", b"a\xc2\xa0b", b"</s>"]


@pytest.fixture(params=["pyarrow", "plain"])
def reader(request, monkeypatch):
    """Numbers read and written by pyarrow, and without it."""
    if request.param == "plain":
        monkeypatch.setattr(word_vectors, "_arrow", lambda: None)
    return request.param


def words(count: int) -> list[bytes]:
    return [WORDS[i % len(WORDS)] + (b"" if i < len(WORDS) else b"%dx" % i) for i in range(count)]


def text(names, x, header=True, end=b"\n") -> bytes:
    """As gensim and the authors of GloVe write it."""
    lines = [b"%d %d" % x.shape] * header
    for word, row in zip(names, x.tolist(), strict=True):
        lines.append(b" ".join([word, *(repr(number).encode() for number in row)]))
    return b"".join(line + end for line in lines)


def binary(names, x, end=b"") -> bytes:
    """As gensim writes it, and with newlines as word2vec does."""
    records = (w + b" " + v.tobytes() + end for w, v in zip(names, x, strict=True))
    return b"%d %d\n" % x.shape + b"".join(records)


def read_text(data: bytes, length: int, header=True):
    """What is before the last numbers of each line, and these."""
    lines = data.splitlines(keepends=True)[header:]
    split = [
        re.fullmatch(rb"(.*?)((?:[ ]\S+){%d})(\s*)" % length, line, re.DOTALL) for line in lines
    ]
    numbers = [[float(n) for n in found[2].split()] for found in split]
    return [found[1] for found in split], np.array(numbers), [found[3] for found in split]


def read_binary(data: bytes):
    """As gensim does, word by word."""
    head, rest = data.split(b"\n", 1)
    count, length = map(int, head.split())
    names, vectors = [], []
    for _ in range(count):
        name, rest = rest.split(b" ", 1)
        names.append(name.lstrip(b"\n"))
        vectors.append(np.frombuffer(rest[: 4 * length], "<f4"))
        rest = rest[4 * length :]
    assert rest in (b"", b"\n")
    return names, np.array(vectors)


@pytest.mark.usefixtures("reader")
def test_the_reported_input():
    """The header, a word that is a comma, a zero vector; and GloVe, which has no header."""
    body = b"the 3 0 4\n, 0 0 0\n"
    for head in (b"2 3\n", b""):
        Path("in.txt").write_bytes(head + body)
        report = normalize_file("in.txt", "out.txt")
        assert Path("out.txt").read_bytes() == head + b"the 0.6 0 0.8\n, 0 0 0\n"
        assert (report.vectors, report.length, report.zero, report.zero_at) == (2, 3, 1, ((1,),))
        assert report.nbytes == 48


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("suffix", [".vec", ".w2v", ".glove", ".txt"])
@pytest.mark.parametrize("end", [b"\n", b" \n", b"\r\n"])
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_text(suffix, end, dtype):
    x = draw((40, 7), np.float32)
    x[7] = [np.nan, np.inf, -np.inf, 1, -0.0, 3e38, 1e-45]
    x[9] = [3e38, -3e38, 1e-45, -1e-40, 2**24 + 2, 1e16, 0.1]
    names, unit = words(40), l2.normalize(x, dtype=dtype)
    for header in (True, False):
        Path("in" + suffix).write_bytes(text(names, x, header, end))
        normalize_file("in" + suffix, "out" + suffix, dtype=dtype)
        data = Path("out" + suffix).read_bytes()
        found, numbers, ends = read_text(data, 7, header)
        assert (found, set(ends)) == (names, {end})
        np.testing.assert_array_equal(numbers.astype(unit.dtype).view("i4"), unit.view("i4"))
        assert header == data.startswith(b"40 7" + end)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_binary(end):
    x = draw((40, 7), np.float32)
    x[7, 0], x[9] = np.nan, 3e38
    names = [name.replace(b" ", b"_") for name in words(40)]
    Path("in.bin").write_bytes(binary(names, x, end))
    normalize_file("in.bin", "out.bin")
    unit = l2.normalize(x)
    assert Path("out.bin").read_bytes() == binary(names, unit, end)
    found, numbers = read_binary(Path("out.bin").read_bytes())
    assert found == names
    np.testing.assert_array_equal(numbers, unit)
    for dtype in ("float64", "float16"):
        refused(
            TypeError, f"dtype: {dtype} has no name in a .bin", "in.bin", "out.bin", dtype=dtype
        )


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("suffix", [".vec", ".bin"])
def test_zero_vectors_dropped_and_dimensions_cut(suffix):
    x = draw((40, 7), np.float32)
    x[[5, 6, 39]] = 0
    names, made = [b"w%d" % i for i in range(40)], text if suffix == ".vec" else binary
    Path("in" + suffix).write_bytes(made(names, x, end=b"\n"))
    report = normalize_file("in" + suffix, "out" + suffix, zero="drop", dims=3, norms="n.npy")
    kept = np.flatnonzero(l2.norm(x[:, :3]))
    unit = l2.normalize(x[kept, :3])
    data = Path("out" + suffix).read_bytes()
    found, numbers = read_text(data, 3)[:2] if suffix == ".vec" else read_binary(data)
    assert found == [names[i] for i in kept]
    assert data.startswith(b"%d 3\n" % len(kept))
    np.testing.assert_array_equal(np.float32(numbers), unit)
    assert (report.vectors, report.dropped) == (40, 40 - len(kept))
    np.testing.assert_array_equal(np.load("n.npy"), l2.norm(x[:, :3]))
    assert check_file("out" + suffix).unit == len(kept)


def test_what_is_not_a_number_stays_as_it_stands():
    """Several spaces, tabs, a header with zeros before it, no newline at the end."""
    Path("in.vec").write_bytes(b"02  3 \r\n  the\t 3  0\t4 \t\r\n\t1 0 0")
    normalize_file("in.vec", "out.vec")
    assert Path("out.vec").read_bytes() == b"02  3 \r\n  the\t 0.6 0 0.8 \t\r\n\t1 0 0"
    normalize_file("in.vec", "out.vec", dims=2)
    assert Path("out.vec").read_bytes() == b"02  2 \r\n  the\t 1 0 \t\r\n\t1 0"
    Path("in.glove").write_bytes(b"7 3 4\n")
    # The word of GloVe's first line is a number, or has spaces in it.
    refused(ValueError, "dims: expected 2 at least", "in.glove", "out.glove", dims=1)
    for line in (b"7 3 4\n", b". . . 3 4\n", b" 3 4\n"):
        Path("in.vec").write_bytes(line + b"x y 0 2\n")
        normalize_file("in.vec", "out.vec")
        assert Path("out.vec").read_bytes() == line.replace(b" 3 4", b" 0.6 0.8") + b"x y 0 1\n"


def test_with_and_without_pyarrow_the_same():
    """The nearest float32 is read, near the middle of two as well; the fewest digits written."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 30_000, np.uint32).view("f4")
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore", invalid="ignore"):  # of signalling NaN
            parts = [bits, 10.0 ** np.arange(-45, 39), rng.integers(0, 10**9, 999), rng.random(999)]
            parts.append([0, -0.0, 1e15, 123456789, 1e-6, 9.9e-7])
            rows = np.concatenate([np.asarray(part).astype(dtype) for part in parts])[None]
        assert word_vectors._written(rows) == word_vectors._plainly_written(rows)
    numbers = [float(n) for n in bits[:500] if np.isfinite(n)]
    middles = [(a + float(np.nextafter(np.float32(a), np.float32(np.inf)))) / 2 for a in numbers]
    tokens = [b"%.120e" % n for n in middles if np.isfinite(np.float32(n))]
    tokens += [t.replace(b"e", b"1e") for t in tokens] + [b"%.17g" % n for n in numbers]
    tokens += [b"1e400", b"-1e-400", b"+.5", b"5.", b"NaN", b"-inf", b"Infinity", b"1E+2"]
    joined = b" ".join(tokens)
    ends = np.cumsum([len(t) + 1 for t in tokens]) - 1
    found = word_vectors._parsed(joined, ends - [len(t) for t in tokens], ends)
    np.testing.assert_array_equal(found, word_vectors._plainly_parsed(tokens))
    for bad in (b"x", b"1_0", b"0x1", b"1,5", b"--1", b"1e", b"\xa01"):
        assert word_vectors._plainly_parsed([bad]) is None
        assert word_vectors._parsed(bad, np.array([0]), np.array([len(bad)])) is None


BAD = {
    "empty": (b"", "no line has a word and two numbers at least: ''"),
    "a word": (b"the\n", "no line has a word and two numbers at least: 'the"),
    "header alone": (b"2 3\n", "it claims 2 words, and 0 lines follow"),
    "too few": (b"2 3\nthe 3 0 4\n", "it claims 2 words, and 1 lines follow"),
    "too many": (b"1 3\nthe 3 0 4\na 1 2 3\n", "it claims 1 words, and 2 lines follow"),
    "no vectors so long": (b"2 0\nthe\na\n", "no line has a word and numbers: '2 0"),
    "terabytes": (b"99999999999 300\nthe 1\n", "it claims 99999999999 words, and 1 lines"),
    "long": (b"1 99999999999999\nthe 1\n", "words of 99999999999999 numbers, in 199999999999998 b"),
    "shorter line": (b"2 3\nthe 3 0 4\na 1 2\n", "line 3 has no word and 3 numbers: 'a 1 2'"),
    "longer line": (b"2 3\nthe 3 0 4\na 1 2 3 4\n", "line 3 has more than 3 numbers: 'a 1 2 3 4'"),
    "no word": (b"the 3 0 4\n1 2 3\n", "line 2 has no word and 3 numbers: '1 2 3'"),
    "empty line": (b"the 3 0 4\n\na 1 2 3\n", "line 2 has no word and 3 numbers: ''"),
    "a word with a number, or a longer line": (
        b"2 3\nthe 3 0 4\narea 51 1 2 3\n",
        "line 3 has more than 3 numbers: 'area 51 1 2 3'",
    ),
    "a number before all": (b"the 3 0 4\n 7 1 2 3\n", "line 2 has more than 3 numbers: ' 7 1 2 3'"),
    "two in a line": (b"the 3 0 4\na 1 2 3 b 1 2 3\n", "line 2 has more than 3 numbers"),
    "comma": (b"the 3 0 4\na 1 2,5 3\n", "line 2 has '2,5' for a number"),
    "underscore": (b"the 3 0 4\na 1 2_5 3\n", "line 2 has '2_5' for a number"),
    "byte order mark": (b"\xef\xbb\xbf2 3\nthe 3 0 4\na 1 2 3\n", "no line has a word and two"),
    "like a header": (b"0 .2\n1 .3\n", "no line has a word and two numbers at least: '0 .2"),
    "zeros": (bytes(300), "no line has a word and two numbers at least"),
}


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", BAD)
def test_bad_text(name):
    data, told = BAD[name]
    Path("in.txt").write_bytes(data)
    wanted = "source: expected a complete word2vec or GloVe text file, got 'in.txt' ("
    refused(ValueError, re.escape(wanted) + ".*" + re.escape(told), "in.txt", "out.txt")


@pytest.mark.parametrize("head", [b"", b"1 99\n"])
def test_long_lines(head, monkeypatch):
    monkeypatch.setattr(word_vectors, "LINE", 40)
    Path("in.vec").write_bytes(head + b"w" + b" 1" * 99)
    told = f"line {1 + bool(head)} is longer than 40 bytes"
    refused(ValueError, told, "in.vec", "out.vec")


def test_bad_binary():
    x = np.arange(1, 13, dtype="f4").reshape(4, 3)
    whole = binary([b"a", b"b", b"c", b"d"], x)
    for size in range(len(whole)):
        Path("in.bin").write_bytes(whole[:size])
        refused(ValueError, "source: expected a complete word2vec binary", "in.bin", "out.bin")
    for data, told in (
        (b"5" + whole[1:], "4 words|5 words of 3 numbers, in 65 bytes at least, and 56"),
        (b"3" + whole[1:], "more follows the 3 words of 3 numbers"),
        (b"4 2" + whole[3:], "more follows the 4 words"),
        (b"4 99999999999999999" + whole[3:], "numbers, in 1599999999999999988 bytes at least"),
        (whole + b"\n\n", "more follows"),
        (whole + b"x", "more follows"),
        ((793712314).to_bytes(4, "little") + whole, "a model of fastText; save its vectors as te"),
        (b"\x80\x04cos\nsystem", "it does not begin with two numbers"),
        (b"1 3\n" + b"a" * 2**17 + b" " * 13, "number 1 is longer than 65536 bytes"),
    ):
        Path("in.bin").write_bytes(data)
        refused(ValueError, told, "in.bin", "out.bin")


def test_truncated_text():
    """What is cut within the last line has a shorter number there, which nothing can tell."""
    whole = text([b"a", b"bc", b"d"], np.full((3, 2), 12.5, "f4"))
    for size in range(len(whole)):
        Path("in.vec").write_bytes(whole[:size])
        if whole[:size].count(b" ") == 7 and not whole[:size].endswith(b" "):
            normalize_file("in.vec", "out.vec")
        else:
            refused(ValueError, "source: expected a complete word2vec", "in.vec", "out.vec")


@pytest.mark.parametrize("suffix", [".vec", ".bin"])
def test_policies(suffix):
    x = draw((40, 7), np.float32)
    x[0], x[30], x[35, 3] = 1, 0, np.inf
    Path("in" + suffix).write_bytes((text if suffix == ".vec" else binary)([b"w"] * 40, x))
    files = ("in" + suffix, "out" + suffix)
    refused(l2.ZeroVectorError, "source: zero norm .* at position 30", *files, zero="raise")
    refused(l2.NonFiniteError, "source: inf .* at position 35", *files, nonfinite="raise")
    refused(ValueError, "axis: expected -1", *files, axis=0)
    refused(ValueError, "zero: null is for columns", *files, zero="null")
    refused(ValueError, "tensor: expected none", *files, tensor="w")
    refused(ValueError, "target: expected a name that ends in", "in" + suffix, "out.npy")


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("head", [b"", b"5 3\n"])
def test_numbers_in_words(head):
    """They are part of a word where its line can be nothing else."""
    words = [b"the", b"area 51 base", b"50 cent", b"7", b"1 2 x 3 4 y"]
    Path("in.txt").write_bytes(head + b"".join(word + b" 3 0 4\n" for word in words))
    normalize_file("in.txt", "out.txt")
    want = head + b"".join(word + b" 0.6 0 0.8\n" for word in words)
    assert Path("out.txt").read_bytes() == want


def test_all_are_dropped():
    """What a text without a header has no way to say is refused."""
    Path("in.glove").write_bytes(b"the 0 0\na 0 0\n")
    refused(ValueError, "zero: drop would leave no vector", "in.glove", "out.glove", zero="drop")
    Path("in.vec").write_bytes(b"2 2\nthe 0 0\na 0 0\n")
    assert normalize_file("in.vec", "out.vec", zero="drop").dropped == 2
    assert Path("out.vec").read_bytes() == b"0 2\n"
    assert normalize_file("out.vec", "in.vec").shape == (0, 2)


def test_no_words():
    for name in ("in.vec", "in.bin"):
        Path(name).write_bytes(b"0 300\n")
        assert normalize_file(name, "out" + name[2:]).shape == (0, 300)
        assert Path("out" + name[2:]).read_bytes() == b"0 300\n"
    assert sorted(os.listdir()) == ["in.bin", "in.vec", "out.bin", "out.vec"]
