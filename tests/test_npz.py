"""Archives of arrays: the bytes that numpy.savez makes of unit vectors; damage and lies."""

import os
import random
import re
import struct
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi.files import normalize_file
from l2multi.formats import npz
from tests.streamed import bounded, draw, numpy_backend, refused, small_windows

pytestmark = pytest.mark.usefixtures("small_windows", "numpy_backend")
__all__ = ["numpy_backend", "small_windows"]  # fixtures

SAVE = {"plain": np.savez, "packed": np.savez_compressed}
COMPLETE = "source: expected a complete .npz file, got 'in.npz' "


def save(kind, path, emb, **more):
    SAVE[kind](path, first=np.arange(5), emb=emb, last=np.arange(100), **more)


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [-1, 0, None, (0, 1)])
@pytest.mark.parametrize("dtype", [None, "float16", "float64"])
def test_the_bytes_of_numpy(kind, order, axis, dtype):
    x = np.asarray(draw((40, 33), np.float32), order=order)
    save(kind, "in.npz", x)
    if kind == "packed" and axis == (0 if order == "C" else -1):
        refused(ValueError, "axis: expected one along which vectors lie one after the other",
                "in.npz", "out.npz", axis=axis, tensor="emb")  # fmt: skip
        return
    report = normalize_file("in.npz", "out.npz", axis, tensor="emb", dtype=dtype)
    unit, norms = l2.normalize(x, axis, dtype=dtype, return_norm=True)
    save(kind, "want.npz", np.asarray(unit, order=order))
    assert Path("out.npz").read_bytes() == Path("want.npz").read_bytes()
    assert zipfile.ZipFile("out.npz").testzip() is None
    assert (report.shape, report.zero) == (x.shape, np.count_nonzero(norms == 0))
    assert report.nbytes == x.nbytes + unit.nbytes


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5,), (4, 3, 2), ()])
@pytest.mark.parametrize("dtype", ["float32", ">f8", "int16", "complex64"])
def test_shapes_and_dtypes(kind, shape, dtype):
    x = np.ones(shape, dtype)
    axis = -1 if shape else None
    SAVE[kind]("in.npz", x)
    normalize_file("in.npz", "out.npz", axis)
    SAVE[kind]("want.npz", l2.normalize(x, axis))
    assert Path("out.npz").read_bytes() == Path("want.npz").read_bytes()


@pytest.mark.parametrize("kind", SAVE)
def test_keywords(kind):
    x = draw((40, 33), ml_dtypes.bfloat16)
    save(kind, "in.npz", x)
    files = ("in.npz", "out.npz")
    refused(ValueError, r"tensor: expected one of those in 'in.npz' \('first', 'emb', 'last'\), go",
            *files)  # fmt: skip
    refused(TypeError, "source: dtype '[|<]V2' has no meaning of its own", *files, tensor="emb")
    asked = {"tensor": "emb", "dtype_in": "bfloat16", "norms": "n.npy"}
    refused(TypeError, "dtype: bfloat16 has no name in a .npz file", *files, **asked)
    normalize_file(*files, dtype="float32", dims=5, **asked)
    with np.load("out.npz") as found:
        unit, norms = l2.normalize(x[:, :5], dtype="float32", return_norm=True)
        np.testing.assert_array_equal(found["emb"], unit)
    np.testing.assert_array_equal(np.load("n.npy"), norms)
    asked["dtype"] = "float32"
    refused(ValueError, "zero: drop is for vectors in the rows", *files, zero="drop", **asked)
    refused(l2.ZeroVectorError, "source: zero norm .* at pos", *files, zero="raise", **asked)
    refused(ValueError, "target: expected a name that ends in .npz", "in.npz", "out.npy", **asked)


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_all_else_is_carried_through(method, limit, monkeypatch):
    """Members of any kind in any order, dates, comments; offsets of 64 bits."""
    if limit:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    x = draw((40, 33), np.float32)
    member = npz.npy.header(x.shape, x.dtype, False) + x.tobytes()
    with zipfile.ZipFile("in.npz", "w") as archive:
        archive.comment = b"what it is"
        for i, how in enumerate((8, 0, 12, 14)):
            info = zipfile.ZipInfo(f"caf\xe9{i}.txt", (1999 + i, 1, 2, 3, 4, 6))
            info.compress_type, info.comment, info.extra = how, b"note", b"ab\2\0cd"
            archive.writestr(info, b"text" * 99)
            if i == 1:
                info = zipfile.ZipInfo("emb.npy", (2005, 1, 2, 3, 4, 6))
                info.compress_type, info.external_attr = method, 0o640 << 16
                archive.writestr(info, member)
    normalize_file("in.npz", "out.npz")
    with zipfile.ZipFile("in.npz") as old, zipfile.ZipFile("out.npz") as new:
        assert new.testzip() is None
        assert new.comment == old.comment
        assert new.namelist() == old.namelist()
        names = ("date_time", "compress_type", "comment", "external_attr", "create_system")
        for one, other in zip(old.infolist(), new.infolist(), strict=True):
            assert all(getattr(one, name) == getattr(other, name) for name in names)
            if one.filename != "emb.npy":
                assert (one.CRC, one.compress_size) == (other.CRC, other.compress_size)
                assert old.read(one) == new.read(other)
    with np.load("out.npz") as found:
        np.testing.assert_array_equal(found["emb"], l2.normalize(x))


def archive(*members, **changed) -> bytes:
    """An archive of members of which the directory or the headers claim something else."""
    with zipfile.ZipFile("made.zip", "w") as made:
        for name, data in members:
            made.writestr(zipfile.ZipInfo(name), data)
        for name, value in changed.items():
            setattr(made.infolist()[0], name, value)
    return Path("made.zip").read_bytes()


def array(shape=(3, 4), nbytes=48) -> bytes:
    return npz.npy.header(shape, np.dtype("f4"), False) + bytes(nbytes)


def test_lies():
    objects = npz.npy.header((1,), np.dtype("O"), False) + b"\x80\4cos\nsystem"
    few = archive(("e.npy", array()))
    packed = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile("bomb.zip", "w") as made:
        made.writestr("e.npy", array((2**40, 4), 1000), packed)
        made.infolist()[0].file_size = 2**44 + 128
    two = archive(("e.npy", array()), ("f.npy", array()))
    at = two.index(b"PK\1\2", two.index(b"PK\1\2") + 1) + 42  # the second's offset
    cases = [
        (b"", "not a zip file"),
        (b"PK\5\6" + bytes(18), "it has no array"),
        (archive(("a.txt", b"text")), "it has no array"),
        (archive(("e.npy", objects)), "Python objects, which are never unpickled"),
        (archive(("e.npy", b"")), "it does not begin as a .npy file"),
        (archive(("e.npy", array()[:9])), "member 'e.npy': its header claims to be"),
        (archive(("e.npy", array(nbytes=47))), r"claims shape \(3, 4\) of float32, in 176 bytes, "),
        (archive(("e.npy", array((2**40, 4)))), "its header claims shape"),
        (archive(("e.npy", array((2**40, 4))), file_size=2**44 + 128), "and .* bytes for itself"),
        (archive(("e.npy", array()), compress_size=2**40), "does not end before the next begins"),
        (archive(("e.npy", array()), header_offset=5), "not where the directory claims it to be"),
        (archive(("e.npy", array()), flag_bits=1), "encrypted"),
        (archive(("e.npy", array()), CRC=7), "its CRC-32 differs|Bad CRC-32"),
        (archive(("e.npy", array()), compress_type=99), "compression method is not supported"),
        (Path("bomb.zip").read_bytes(), "can be unpacked to the 17592186044544 that it claims"),
        (two[:at] + bytes(4) + two[at + 4 :], "does not end before the next begins"),
        (two.replace(b"f.npy", b"e.npy"), "two members have one name"),
        (few.replace(b"e.npy", b"\xe9.npy"), "is in no known encoding|it has no array"),
    ]  # fmt: skip
    for data, told in cases:
        Path("in.npz").write_bytes(data)
        refused(ValueError, re.escape(COMPLETE) + r"\(.*" + f"({told})", "in.npz", "out.npz")
    Path("in.npz").write_bytes(
        few[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 2**31, 9, 0)
    )
    refused(ValueError, re.escape(COMPLETE), "in.npz", "out.npz")
    os.unlink("made.zip")


@pytest.mark.parametrize("kind", SAVE)
def test_damage(kind):
    """Cut anywhere it is refused; where any byte differs, it is refused or no number is another."""
    rng = random.Random(0)
    x = draw((6, 5), np.float32)
    SAVE[kind]("in.npz", emb=x, ids=np.arange(3))
    whole, unit = Path("in.npz").read_bytes(), l2.normalize(x)
    for size in rng.sample(range(len(whole)), 100):
        Path("in.npz").write_bytes(whole[:size])
        refused(ValueError, re.escape(COMPLETE), "in.npz", "out.npz", tensor="emb")
    kept, messages, left = 0, [], []
    for at in rng.sample(range(len(whole)), 250):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        Path("in.npz").write_bytes(damaged)
        Path("out.npz").unlink()
        try:
            normalize_file("in.npz", "out.npz", tensor="emb", backend="numpy")
        except (ValueError, TypeError) as error:
            messages.append(str(error))
            left.append(sorted(os.listdir()))
            Path("out.npz").write_bytes(b"")
        else:
            kept += 1
            with np.load("out.npz") as found:
                np.testing.assert_array_equal(found["emb"], unit)
    assert all(re.match("(source|tensor): ", message) for message in messages)
    assert all(names == ["in.npz"] for names in left)
    assert 0 < kept < 250


def test_a_vector_longer_than_memory(monkeypatch):
    monkeypatch.setattr(npz, "VECTOR", 1000)
    np.savez_compressed("in.npz", np.ones((2, 251), "f4"))
    refused(ValueError, "axis: .* each of at most 1000 bytes", "in.npz", "out.npz")
    np.savez("in.npz", np.ones((2, 251), "f4"))
    normalize_file("in.npz", "out.npz")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
@pytest.mark.parametrize("kind", SAVE)
def test_memory_is_bounded(kind):
    for name, n in (("small", 1000), ("large", 100_000)):
        SAVE[kind](name + ".npz", emb=np.ones((n, 250), np.float32), ids=np.ones(n * 500, "u1"))
    bounded("small.npz", "large.npz", "out.npz", tensor="emb")
