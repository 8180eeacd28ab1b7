"""Files: the same bytes as in memory, in bounded memory, and all or nothing."""

import errno
import io
import itertools
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.exceptions import AxisError

import l2multi as l2
from l2multi import _backends, _contract, _formats, _mapped, _replacing, _testing, files
from l2multi.files import normalize_file
from l2multi.formats.npy import NAMELESS
from tests import modes

# What a target holds before; a refusal must leave it so.
BEFORE = b"what the target held"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.npy"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out.npy"
    path.write_bytes(BEFORE)
    return path


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of so few vectors that small files have many."""
    monkeypatch.setattr(_formats, "WINDOW", 256)
    monkeypatch.setattr(_mapped, "NEIGHBOURS", 3)


def saved(array) -> bytes:
    """The bytes of the file that numpy.save makes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def draw(shape, dtype=np.float32, order="C"):
    """Random numbers, among them a zero vector, an inf and a NaN where there is room."""
    rng = np.random.default_rng(len(shape))
    x = (rng.standard_normal(shape) * 100).astype(dtype)
    if np.dtype(dtype).kind == "c":
        x += (1j * rng.standard_normal(shape)).astype(dtype)
    if x.ndim > 1 and min(x.shape) > 2:
        x[0] = 0
        if np.dtype(dtype).kind in "fc":
            x[1, 0] = np.inf
            x[2, 0] = np.nan
    return np.asarray(x, order=order)


def assert_unchanged(target: Path, before: list[str]) -> None:
    """The target holds what it held, and nothing was left beside it."""
    assert target.read_bytes() == BEFORE
    assert sorted(os.listdir(target.parent)) == before


AXES = {
    (): [None, ()],
    (7,): [-1, None, ()],
    (40, 33): [-1, 0, (1, 0), None, ()],
    (5, 6, 7): [0, 1, 2, (0, 1), (0, 2), (2, 1), None],
    (3, 4, 5, 6): [0, 1, 2, 3, (0, 2), (1, 3), (0, 3), (1, 2)],
    (1, 300): [0, 1],
    (300, 1): [0, 1],
}


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("shape", "axis"), [(s, a) for s, axes in AXES.items() for a in axes])
def test_same_file_as_in_memory(source, target, shape, axis, order):
    x = draw(shape, order=order)
    np.save(source, x)
    report = normalize_file(source, target, axis)
    unit, norms = l2.normalize(x, axis, return_norm=True)
    assert target.read_bytes() == saved(unit)
    finite = norms[np.isfinite(norms)]
    assert report.vectors == norms.size
    assert report.length == x.size // norms.size
    assert report.zero == np.count_nonzero(norms == 0)
    assert report.nonfinite == norms.size - finite.size
    assert report.smallest == (finite.min() if finite.size else None)
    assert report.largest == (finite.max() if finite.size else None)
    assert report.nbytes == 2 * x.nbytes
    assert (report.source, report.target) == (str(source), str(target))
    assert report.shape == x.shape


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "float32",
        "float64",
        "longdouble",
        "complex64",
        "clongdouble",
        "bool",
        "int8",
        "uint64",
        ">f4",
        ">c16",
        ">i2",
    ],
)
def test_dtypes(source, target, dtype):
    x = draw((50, 20), np.dtype(dtype).newbyteorder("=")).astype(dtype)
    np.save(source, x)
    report = normalize_file(source, target, backend="numpy")
    assert target.read_bytes() == saved(l2.normalize(x, backend="numpy"))
    assert (report.source_dtype, report.dtype) == (x.dtype, np.load(target).dtype)
    assert report.backend == "numpy"


def test_dtype_of_the_result(source, target):
    x = draw((50, 20))
    np.save(source, x)
    report = normalize_file(source, target, dtype="float16")
    assert target.read_bytes() == saved(l2.normalize(x, dtype="float16"))
    assert report.nbytes == x.nbytes * 3 // 2


@pytest.mark.parametrize(
    ("shape", "axis", "vectors", "norm"),
    [((0,), -1, 1, 0.0), ((0, 3), -1, 0, None), ((3, 0), -1, 3, 0.0), ((0, 0), None, 1, 0.0)],
)
def test_empty(source, target, shape, axis, vectors, norm):
    np.save(source, np.zeros(shape, np.float32))
    report = normalize_file(source, target, axis, zero="raise")
    assert target.read_bytes() == saved(np.zeros(shape, np.float32))
    assert (report.vectors, report.zero, report.smallest, report.largest) == (
        vectors, 0, norm, norm,
    )  # fmt: skip


def test_every_element_is_in_one_window(monkeypatch):
    for window, neighbours in itertools.product((1, 64, 1000), (1, 4, 10**6)):
        monkeypatch.setattr(_formats, "WINDOW", window)
        monkeypatch.setattr(_mapped, "NEIGHBOURS", neighbours)
        for shape, axes in AXES.items():
            for axis, order in itertools.product(axes, "CF"):
                x = np.zeros(shape, np.int32, order=order)
                along = files._contract.normalize_axes(axis, x.ndim)
                vector = x.itemsize * math.prod(x.shape[d] for d in along)
                for cut in _mapped.windows_of(x, along):
                    x[cut] += 1
                    assert x[cut].nbytes <= max(window, vector * neighbours)
                assert (x == 1).all()


def test_windows_that_would_share_pages_are_one():
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (10**8, 768), (3072, 4))
    assert sum(1 for _ in itertools.islice(_mapped.windows_of(x, (1,)), 10_001)) == 10_001
    assert sum(1 for _ in itertools.islice(_mapped.windows_of(x.T, (1,)), 2)) == 1


def test_progress(source, target):
    np.save(source, np.ones((3 * _formats.WINDOW // 400, 100), np.float32))
    calls = []
    report = normalize_file(source, target, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, report.vectors)
    assert calls[-1] == (report.vectors, report.vectors)
    assert len(calls) >= 4
    assert calls == sorted(calls)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("eps", [1e-3, 50, 1e300])
def test_eps(source, target, eps):
    x = draw((30, 20, 3))
    np.save(source, x)
    normalize_file(source, target, eps=eps)
    assert target.read_bytes() == saved(l2.normalize(x, eps=eps))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_nonfinite(source, target, tmp_path, order, dtype):
    """A finite vector is none of them, though its norm be inf."""
    x = np.ones((30, 20, 3), dtype, order=order)
    x[29, 1] = np.finfo(dtype).max
    np.save(source, x)
    for zero in ("keep", "nan"):
        report = normalize_file(source, target, nonfinite="raise", zero=zero)
        assert report.nonfinite == np.isinf(l2.norm(x)).sum()
        assert target.read_bytes() == saved(l2.normalize(x))
    x[3, 4] = 0
    x[13, 2, 1] = np.nan
    x[12, 19, 0] = -np.inf
    x[29, 0] = np.inf
    np.save(source, x)
    target.write_bytes(BEFORE)
    before = sorted(os.listdir(tmp_path))
    for zero in ("keep", "nan", "raise"):
        with pytest.raises(l2.NonFiniteError, match=r"source: .* 3 of 600 .* \(12, 19\)"):
            normalize_file(source, target, nonfinite="raise", zero=zero)
        with pytest.raises(l2.NonFiniteError, match=r"3 of 600 .* position \(12, 19\)"):
            l2.normalize(x, nonfinite="raise", zero=zero)
    assert_unchanged(target, before)
    normalize_file(source, target, zero="nan")
    assert target.read_bytes() == saved(l2.normalize(x, zero="nan"))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("order", ["C", "F"])
def test_zero(source, target, tmp_path, order):
    x = np.ones((30, 20, 3), np.float32, order=order)
    x[12, 19] = x[13, 2] = x[29, 0] = 0
    np.save(source, x)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(l2.ZeroVectorError, match=r"source: .* 3 of 600 .* \(12, 19\)"):
        normalize_file(source, target, zero="raise")
    assert_unchanged(target, before)
    with pytest.raises(l2.ZeroVectorError, match=r"3 of 600 .* position \(12, 19\)"):
        l2.normalize(x, zero="raise")
    assert normalize_file(source, target, zero="nan").zero == 3
    assert target.read_bytes() == saved(l2.normalize(x, zero="nan"))
    assert normalize_file(source, target).zero == 3
    assert target.read_bytes() == saved(l2.normalize(x))


def header(text: str, data: bytes = bytes(48), version: int = 1) -> bytes:
    """A .npy file with this header and this data."""
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def fields(shape: str, descr: str = "'<f4'") -> str:
    """A header of this shape."""
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({shape}), }}"


class Bomb:
    """An object that must never be unpickled."""

    def __reduce__(self):
        return os._exit, (66,)


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.ones(3))
    return file.getvalue()


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    return file.getvalue()


WHOLE = saved(np.ones((6, 2), np.float32))

BAD_SOURCES = {
    "empty": (b"", ValueError, "source: .*does not begin as one"),
    "text": (b"1,2,3\n", ValueError, "source: .*does not begin as one"),
    "archive": (archive(), ValueError, r"source: .*\.npz"),
    "objects": (objects(), ValueError, "source: .*Python objects"),
    "truncated": (WHOLE[:-1], ValueError, "source: .*complete.* 48 bytes, .* but 47 .*truncated"),
    "trailing": (WHOLE + b"\0", ValueError, "source: .* 48 bytes, .* but 49 follow; of several"),
    "two arrays": (WHOLE + WHOLE, ValueError, "source: .* but 224 follow; of several arrays"),
    "truncated header": (WHOLE[:50], ValueError, "source: .*118 bytes long, and 40 are there"),
    "version": (WHOLE[:6] + b"\x09" + WHOLE[7:], ValueError, "source: .*format version 9.0"),
    "long header": (header(" " * 20_000), ValueError, "source: .*to be 20000 bytes long"),
    "no header": (header("x"), ValueError, "source: .*its header is not one of an array: x"),
    "a key too many": (header(fields("12,")[:-1] + "'x': 1}"), ValueError, "source: .*not one of"),
    "negative": (header(fields("-3, -4")), ValueError, "source: .*its header is not one"),
    "no integer": (header(fields("1 << 40,")), ValueError, "source: .*its header is not one"),
    "deep": (header(fields("12,", "(" * 3000)), ValueError, "source: .*its header is not one"),
    "dims": (header(fields("1, " * 65)), ValueError, "source: .*its header is not one"),
    "a dtype of none": (header(fields("12,", "'<f32'")), ValueError, "source: .*'<f32'"),
    "subarrays": (header(fields("6,", "('<f4', (2,))")), TypeError, "source: dtype .* not suppo"),
    # More than memory; products of 2**32, 2**64 and 2**65 elements; and those of no elements.
    "large": (header(fields(f"{2**42},")), ValueError, f"source: .* {2**44} bytes.* but 48 follow"),
    "2**64": (header(fields("4294967296, 4294967296")), ValueError, f"source: .* {2**66} bytes"),
    "2**65": (header(fields(f"{2**62}, 8")), ValueError, f"source: .* {2**67} bytes"),
    "2**80": (header(fields(f"{2**40}, {2**40}")), ValueError, f"source: .* {2**82} bytes"),
    "2**80 and 0": (header(fields(f"{2**40}, {2**40}, 0"), b""), ValueError, "source: .*too big"),
    "0 and 2**63": (header(fields(f"0, {2**63}"), b""), ValueError, "source: .*header is not one"),
    "void": (saved(np.zeros(3, "V2")), TypeError, "source: .*V2' .* bfloat16: .*dtype_in=bfloat16"),
    "void of 3": (saved(np.zeros(3, "V3")), TypeError, "source: dtype .*V3 is not supported"),
    "structured": (saved(np.zeros(3, "f4,f4")), TypeError, "source: dtype"),
    "text array": (saved(np.array(["a"])), TypeError, "dtype <U1 is not supported"),
    "dates": (
        saved(np.zeros(3, "M8[s]")),
        TypeError,
        "source: dtype datetime64.* is not supported",
    ),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_source(source, target, tmp_path, name):
    content, error, message = BAD_SOURCES[name]
    source.write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message):
        normalize_file(source, target)
    assert_unchanged(target, before)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header(source, target, version):
    x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    source.write_bytes(header(fields("3, 4"), x.tobytes(), version))
    np.testing.assert_array_equal(np.load(source), x)
    normalize_file(source, target)
    assert target.read_bytes() == saved(l2.normalize(x))


@pytest.mark.parametrize("shape", ["3L, 4L", "12L,"])
def test_header_by_python_2(source, target, shape):
    """NumPy reads it, with a warning; here there is nothing to warn of."""
    x = np.arange(1, 13, dtype=np.float32)
    source.write_bytes(header(fields(shape), x.tobytes()))
    normalize_file(source, target)
    x = x.reshape([int(n.rstrip("L,")) for n in shape.split(", ")])
    assert target.read_bytes() == saved(l2.normalize(x))


@pytest.mark.parametrize("name", NAMELESS)
def test_nameless_dtypes(source, target, tmp_path, name):
    """What numpy.save writes of an array of ml_dtypes is read with `dtype_in` alone."""
    dtype = np.dtype(getattr(ml_dtypes, name))
    assert NAMELESS[name] == dtype.itemsize
    x = draw((20, 30), dtype) if name in _contract.ML_FLOATS else np.eye(5, 6).astype(dtype)
    np.save(source, x)
    with pytest.raises(TypeError, match=f"source: .*{name}.*: say which it is.*dtype_in="):
        normalize_file(source, target)
    assert_unchanged(target, ["in.npy", "out.npy"])
    for given in (name, dtype, dtype.type):
        report = normalize_file(source, target, dtype_in=given, dtype="float32")
        assert (report.source_dtype, report.dtype) == (dtype, np.float32)
        assert target.read_bytes() == saved(l2.normalize(x, dtype="float32"))
    # Kept as integers, and, where there is one, in another order of bytes.
    for other in {x.view(f"u{x.itemsize}").dtype, np.dtype(f">i{x.itemsize}")}:
        np.save(source, x.view(f"u{x.itemsize}").astype(other))
        normalize_file(source, target, dtype_in=name, dtype="float32")
        assert target.read_bytes() == saved(l2.normalize(x, dtype="float32"))
    target.write_bytes(BEFORE)
    if name in _contract.ML_FLOATS:  # and none is written
        with pytest.raises(TypeError, match=rf"dtype: {name} has no name .* dtype=float32"):
            normalize_file(source, target, dtype_in=name)
        assert_unchanged(target, ["in.npy", "out.npy"])


@pytest.mark.parametrize(
    ("x", "dtype_in"),
    [
        (np.ones(6, np.float32), "bfloat16"),
        (np.ones(6, np.float16), "bfloat16"),
        (np.ones(6, np.uint16), "float8_e5m2"),
        (np.ones(6, np.uint8), "bfloat16"),
        (np.ones(6, ml_dtypes.bfloat16), "float8_e5m2"),
        (np.ones(6, ml_dtypes.float8_e5m2), "bfloat16"),
        (np.ones(6, "f4,f4"), "bfloat16"),
        (np.ones(6), "float32"),
        (np.ones(6), "float8_e8m0fnu"),
        (np.ones(6), 7),
    ],
)
def test_dtype_in_that_does_not_fit(source, target, x, dtype_in):
    np.save(source, x)
    with pytest.raises(TypeError, match="dtype_in: expected one "):
        normalize_file(source, target, dtype_in=dtype_in, dtype="float32")
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_dtype_in_without_ml_dtypes(source, target, monkeypatch):
    np.save(source, np.ones(6, ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"dtype_in: bfloat16 needs ml_dtypes.*pip install"):
        normalize_file(source, target, dtype_in="bfloat16", dtype="float32")
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_truncated_anywhere(source, target, tmp_path):
    for size in range(len(WHOLE)):
        source.write_bytes(WHOLE[:size])
        with pytest.raises(ValueError, match="source: "):
            normalize_file(source, target)
    assert_unchanged(target, ["in.npy", "out.npy"])


BAD_ARGUMENTS = {
    "axis": ({"axis": 2}, AxisError, "axis"),
    "axis twice": ({"axis": (0, 0)}, ValueError, "axis"),
    "axis type": ({"axis": 0.5}, TypeError, "axis"),
    "zero": ({"zero": "lose"}, ValueError, "zero: .*'keep'"),
    "nonfinite": ({"nonfinite": "drop"}, ValueError, "nonfinite: .*'propagate'"),
    "negative eps": ({"eps": -1}, ValueError, "eps: .*non-negative"),
    "eps": ({"eps": "0"}, TypeError, "eps: .*non-negative"),
    "backend": ({"backend": "cuda9"}, ValueError, "backend: .*'numpy'"),
    "dtype": ({"dtype": "int8"}, TypeError, "dtype"),
    "no dtype": ({"dtype": "floaty"}, TypeError, "dtype"),
    "complex": ({"dtype": "complex64"}, TypeError, "dtype"),
    "bfloat16": ({"dtype": "bfloat16"}, TypeError, "dtype: bfloat16 has no name"),
    "float8": ({"dtype": "float8_e5m2"}, TypeError, "dtype: float8_e5m2 has no name"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_argument(source, target, tmp_path, name):
    keywords, error, message = BAD_ARGUMENTS[name]
    source.write_bytes(WHOLE)
    with pytest.raises(error, match=message):
        normalize_file(source, target, **keywords)
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_ml_dtypes_have_no_name_in_a_file(source, target):
    source.write_bytes(WHOLE)
    for name in ("bfloat16", "float8_e5m2"):
        with pytest.raises(TypeError, match=f"dtype: .*{name}.* has no name"):
            normalize_file(source, target, dtype=getattr(ml_dtypes, name))
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_backend_that_is_not_installed(source, target, monkeypatch):
    source.write_bytes(WHOLE)
    monkeypatch.delitem(_backends._loaded, _backends.first("jax").module, raising=False)
    monkeypatch.setitem(_backends._failed, _backends.first("jax").module, "ModuleNotFoundError: no")
    with pytest.raises(ImportError, match=r"pip install '.*\[jax\]'"):
        normalize_file(source, target, backend="jax")
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_source_is_not_a_file(tmp_path, target):
    with pytest.raises(FileNotFoundError, match=r"source: No such file.*none.npy"):
        normalize_file(tmp_path / "none.npy", target)
    with pytest.raises(ValueError, match=r"source: .*not a file"):
        normalize_file(tmp_path, target)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match=r"source: .*not a file"):
        normalize_file(fifo, target)
    assert_unchanged(target, ["fifo", "out.npy"])


def test_target_is_the_source(source, tmp_path):
    source.write_bytes(WHOLE)
    (tmp_path / "symbolic.npy").symlink_to(source)
    (tmp_path / "hard.npy").hardlink_to(source)
    for name in ("in.npy", "symbolic.npy", "hard.npy", "../" + tmp_path.name + "/in.npy"):
        with pytest.raises(ValueError, match="target: expected another file than the one to read"):
            normalize_file(source, tmp_path / name)
    assert source.read_bytes() == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["hard.npy", "in.npy", "symbolic.npy"]


def test_target_that_cannot_be_replaced(source, target, tmp_path, monkeypatch):
    source.write_bytes(WHOLE)
    with pytest.raises(FileNotFoundError, match="target: its directory does not exist"):
        normalize_file(source, tmp_path / "none" / "out.npy")
    with pytest.raises(ValueError, match="target: expected a file"):
        normalize_file(source, tmp_path)
    with pytest.raises(ValueError, match="target: expected a file"):
        normalize_file(source, "/dev/null")
    for name in ("", "new/"):
        with pytest.raises(ValueError, match=f"target: expected the path of a file, got '{name}'"):
            normalize_file(source, name)
    with pytest.raises(NotADirectoryError, match=r"target: .*in.npy/out.npy"):
        normalize_file(source, source / "out.npy")
    # The user who runs the tests may be root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="target: it is write-protected"):
        normalize_file(source, target)
    assert_unchanged(target, ["in.npy", "out.npy"])


@pytest.mark.parametrize("step", ["open", "replace"])
def test_folder_that_cannot_be_written_to(source, target, monkeypatch, step):
    """What is said names the caller's path, not the temporary one."""

    opens = os.open

    def denied(path, *arguments, **keywords):
        if ".tmp" not in str(path):
            return opens(path, *arguments, **keywords)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    source.write_bytes(WHOLE)
    if step == "open":
        monkeypatch.setattr(os, "open", denied)
    else:
        monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError, match=r"target: .*Permission denied: .*out.npy'") as caught:
        normalize_file(source, target)
    assert caught.value.filename == str(target)
    assert ".tmp" not in str(caught.value)
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_target_without_a_name(source, tmp_path):
    """As /dev/stdout may be: a pipe, or a file that somebody has removed."""
    source.write_bytes(WHOLE)
    reading, writing = os.pipe()
    with (
        open(reading, "rb") as end,
        open(writing, "wb") as pipe,
        open(tmp_path / "x", "wb") as file,
    ):
        os.unlink(tmp_path / "x")
        for fd in (pipe.fileno(), file.fileno()):
            (tmp_path / "link").symlink_to(f"/dev/fd/{fd}")
            for name in (f"/dev/fd/{fd}", tmp_path / "link"):
                with pytest.raises(ValueError, match=f"target: expected a file, got '{name}'"):
                    normalize_file(source, name)
            os.unlink(tmp_path / "link")
        pipe.close()
        assert end.read() == b""
    assert os.listdir(tmp_path) == ["in.npy"]


def test_permissions(source, tmp_path):
    source.write_bytes(WHOLE)
    mask = os.umask(0o027)
    try:
        normalize_file(source, tmp_path / "new.npy")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o640
    (tmp_path / "new.npy").chmod(0o604)
    normalize_file(source, tmp_path / "new.npy")
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o604


def test_a_symbolic_link_is_followed(source, target, tmp_path):
    source.write_bytes(WHOLE)
    (tmp_path / "link.npy").symlink_to(target)
    normalize_file(source, tmp_path / "link.npy")
    assert (tmp_path / "link.npy").is_symlink()
    assert target.read_bytes() == saved(l2.normalize(np.ones((6, 2), np.float32)))


def test_relative_and_bytes_paths(source, tmp_path, monkeypatch):
    source.write_bytes(WHOLE)
    monkeypatch.chdir(tmp_path)
    normalize_file("in.npy", "out.npy")
    normalize_file(b"in.npy", b"out2.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "out2.npy").read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(source, target, monkeypatch, code):
    def full(fd, offset, nbytes):
        os.write(fd, bytes(10))
        raise OSError(code, os.strerror(code))

    source.write_bytes(WHOLE)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="target: no room for its 48 bytes") as caught:
        normalize_file(source, target)
    assert caught.value.errno == code
    assert_unchanged(target, ["in.npy", "out.npy"])


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.EOPNOTSUPP])
def test_space_is_reserved_where_the_system_has_no_call_for_it(
    source, target, small_windows, monkeypatch, code
):
    def unsupported(fd, offset, nbytes):
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    x = draw((100, 33))
    np.save(source, x)
    with open(target.with_name("reserved"), "x+b") as file:
        _mapped.reserve(file, 0, x.nbytes)
        assert os.fstat(file.fileno()).st_blocks * 512 >= x.nbytes
    normalize_file(source, target)
    assert target.read_bytes() == saved(l2.normalize(x))


def test_limit_of_file_size(source, target):
    """The kernel, not a stand-in, refuses the space."""
    np.save(source, np.ones((1000, 100), np.float32))
    script = (
        "import resource, sys; from l2multi.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "normalize", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("l2multi: error: OUT: no room for its 400000 bytes")
    assert done.stderr.count("\n") == 1
    assert_unchanged(target, ["in.npy", "out.npy"])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, SystemExit])
def test_failure_midway(source, target, small_windows, failure):
    np.save(source, draw((100, 33)))

    def fail(done, total):
        if done:
            assert any(name.endswith(".tmp") for name in os.listdir(target.parent))
            raise failure

    with pytest.raises(failure):
        normalize_file(source, target, progress=fail)
    assert_unchanged(target, ["in.npy", "out.npy"])


# Private writable memory is capped at 48 MiB more than a run on a small file has left behind;
# that the cap bites is shown by loading the large file, 200 MB, in the end.
BOUNDED = """
import resource, sys
import numpy as np
from l2multi.files import normalize_file
from l2multi.formats.npy import NAMELESS

small, large, target, order = sys.argv[1:]
axes = {"C": (-1, 0, None), "F": (-1, 0)}[order]
for axis in axes:
    normalize_file(small, target, axis)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 48 * 2**20,) * 2)
for axis in axes:
    report = normalize_file(large, target, axis)
    assert report.nbytes == 400_000_000, report
try:
    np.load(large)
except MemoryError:
    print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_bounded(tmp_path, order):
    block = np.random.default_rng(0).standard_normal((1000, 250), np.float32)
    for name, repeat in (("small", 1), ("large", 200)):
        shape = (1000 * repeat, 250)
        x = np.lib.format.open_memmap(
            tmp_path / name, "w+", np.float32, shape, fortran_order=order == "F"
        )
        x[...] = np.broadcast_to(block, (repeat, 1000, 250)).reshape(shape)
        del x
    command = [sys.executable, "-c", BOUNDED, *(tmp_path / n for n in ("small", "large", "out"))]
    environment = {**os.environ, "L2MULTI_BACKEND": "numpy"}
    done = subprocess.run(
        [*command, order], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.stdout, done.stderr) == ("bounded\n", "")


def test_report_names_who_served(source: Path, target: Path, small_windows, monkeypatch) -> None:
    """NumPy goes on where Numba has no kernel, unless that was named."""
    x = np.random.default_rng(0).standard_normal((1000, 3))
    np.save(source, x)
    want = saved(l2.normalize(x, backend="numpy"))
    monkeypatch.delenv(_backends.ENVIRONMENT, raising=False)
    numba = _backends.load(_backends.first("numba"))
    sound, calls = numba.normalize, itertools.count()

    def missing(*arguments, **keywords):
        if next(calls) == 2:
            raise ImportError("no kernel")
        return sound(*arguments, **keywords)

    monkeypatch.setattr(numba, "normalize", missing)
    with _testing.general_path():
        report = normalize_file(source, target)
        assert target.read_bytes() == want
        assert report.backend == "numba, then numpy"
        assert report.why.endswith("numpy: no kernel")
        calls = itertools.count()
        with pytest.raises(ImportError, match="no kernel"):
            normalize_file(source, target, backend="numba")
    for name in ("numpy", "numba"):
        calls = itertools.count(3)
        report = normalize_file(source, target, backend=name)
        assert (report.backend, report.why) == (name, "asked for by name")
        assert target.read_bytes() == want


@pytest.mark.skipif(not modes.FLUSH, reason="unknown modes")
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_zeros_where_subnormal_numbers_equal_zero(tmp_path, name):
    """A subnormal norm is none, also where another library has had the thread take it for zero."""
    source, target = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, [[3e-310, 4e-310], [0.0, 0.0]])
    with modes.changed(sum(modes.FLUSH)):
        report = normalize_file(source, target, backend=name)
    assert report.zero == 1
    np.testing.assert_array_equal(np.load(target), l2.normalize(np.load(source)))


def test_what_a_killed_run_left_is_removed(source, target):
    """And not what another run is writing."""
    source.write_bytes(WHOLE)
    folder = target.parent
    left = folder / f".l2multi-{'0' * 16}.tmp"
    left.write_bytes(b"half")
    (folder / f".l2multi-{'1' * 16}.tmp").mkdir()
    (folder / ".l2multi-mine.tmp").write_bytes(b"another name")
    with _replacing.replacing(str(folder / "other"), "other") as held:
        Path(held).write_bytes(b"in the midst")
        normalize_file(source, target)
        assert Path(held).read_bytes() == b"in the midst"
    assert sorted(os.listdir(folder)) == [".l2multi-mine.tmp", "in.npy", "other", "out.npy"]


def test_urls(tmp_path):
    """A file of another file system, from there and to there, whole or untouched."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    x = draw((40, 33))
    memory.pipe("/bucket/in.npy", saved(x))
    memory.pipe("/bucket/out.npy", BEFORE)
    report = normalize_file("memory://bucket/in.npy", "memory://bucket/out.npy")
    assert (report.source, report.vectors) == ("memory://bucket/in.npy", 40)
    assert memory.cat("/bucket/out.npy") == saved(l2.normalize(x))
    with pytest.raises(l2.ZeroVectorError, match="source: zero norm"):
        normalize_file("memory://bucket/in.npy", "memory://bucket/new.npy", zero="raise")
    assert sorted(memory.ls("/bucket", detail=False)) == ["/bucket/in.npy", "/bucket/out.npy"]
    normalize_file("memory://bucket/in.npy", tmp_path / "here.npy")
    assert (tmp_path / "here.npy").read_bytes() == saved(l2.normalize(x))
    normalize_file(tmp_path / "here.npy", "memory://top.npy")
    assert memory.exists("/top.npy")
    assert files.check_file("memory://top.npy").unit == 37
    with pytest.raises(FileNotFoundError, match=r"source: .*memory://none.npy"):
        normalize_file("memory://none.npy", tmp_path / "x.npy")
    with pytest.raises((ValueError, OSError), match=r"source: .*nosuch"):
        normalize_file("nosuch://x.npy", tmp_path / "x.npy")


MANY = """
import sys
import numpy as np
from l2multi.files import normalize_file

for _ in range(60):
    normalize_file("x.npy", sys.argv[1])
"""


def test_several_writers_in_one_folder(tmp_path):
    """None takes what another is about to rename for left."""
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, f"y{i}.npy"], cwd=tmp_path, stderr=subprocess.PIPE
        )
        for i in range(3)
    ]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y0.npy", "y1.npy", "y2.npy"]


def test_what_is_no_temporary_file_is_left(source, target):
    """A pipe of such a name is not waited for."""
    source.write_bytes(WHOLE)
    pipe = target.parent / f".l2multi-{'2' * 16}.tmp"
    os.mkfifo(pipe)
    normalize_file(source, target)
    assert pipe.exists()


def test_private_target(source, target, monkeypatch):
    """What replaces it is nobody else's to read while it is written either."""
    source.write_bytes(WHOLE)
    target.chmod(0o600)
    seen = []

    def look(done, total):
        (path,) = target.parent.glob(".l2multi-*.tmp")
        seen.append(stat.S_IMODE(path.stat().st_mode))

    normalize_file(source, target, progress=look)
    assert set(seen) == {0o600}
    target.chmod(0o640)
    normalize_file(source, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".fbin"])
def test_all_are_dropped(tmp_path, suffix):
    x = np.zeros((3, 2), "<f4")
    parts = {
        ".npy": saved(x),
        ".fvecs": b"".join(b"\2\0\0\0" + row.tobytes() for row in x),
        ".fbin": b"\3\0\0\0\2\0\0\0" + x.tobytes(),
    }
    source, target = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    source.write_bytes(parts[suffix])
    assert normalize_file(source, target, zero="drop").dropped == 3
    assert files.check_file(target).vectors == 0


def test_where_norms_go(source, target):
    pytest.importorskip("fsspec")
    source.write_bytes(WHOLE)
    norms = target.parent / "n.npy"
    norms.mkdir()
    before = sorted(os.listdir(target.parent))
    for path, error, message in (
        ("none/n.npy", FileNotFoundError, "norms: its directory takes no new file"),
        (norms, ValueError, "norms: expected the path of a .npy file"),
        (f"file://{source}", ValueError, "norms: expected another file"),
        (source, ValueError, "norms: expected another file"),
    ):
        with pytest.raises(error, match=message):
            normalize_file(source, target, norms=path)
        assert_unchanged(target, before)


def test_urls_of_one_file(source, tmp_path):
    pytest.importorskip("fsspec")
    source.write_bytes(WHOLE)
    for one, other in ((source, f"file://{source}"), (f"file://{source}", f"local://{source}")):
        with pytest.raises(ValueError, match="target: expected another file"):
            normalize_file(one, other)
    assert source.read_bytes() == WHOLE
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileExistsError, match="target: a folder cannot be replaced"):
        normalize_file(source, f"file://{tmp_path}/folder.npy")


def test_a_source_that_is_replaced_is_read_as_it_was_opened(tmp_path):
    """By another of its name, while it is read: never one's numbers under the other's head."""
    x = np.random.default_rng(0).standard_normal((50, 8)).astype("f4")
    source, other = tmp_path / "x.npy", tmp_path / "other.npy"
    np.save(source, x)
    np.save(other, np.arange(400, dtype=">f4").reshape(50, 8))

    def replace(done, total):
        if other.exists():
            other.replace(source)

    normalize_file(source, tmp_path / "y.npy", progress=replace)
    assert not other.exists()
    assert np.array_equal(np.load(tmp_path / "y.npy"), l2.normalize(x))


def test_norms_within_source_or_target_by_url(tmp_path):
    """Are refused as by a path."""
    pytest.importorskip("fsspec")
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="norms: expected another file"):
        normalize_file(tmp_path / "x.npy", tmp_path / "y.npy", norms=(tmp_path / "y.npy").as_uri())


def test_bytes_of_a_report(tmp_path):
    """Of what was read, and of what was written."""
    source, target = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, np.float32([[3, 4], [0, 0], [5, 12]]))
    assert normalize_file(source, target).nbytes == 2 * 24
    assert normalize_file(source, target, dry_run=True).nbytes == 24
    assert normalize_file(source, target, zero="drop").nbytes == 24 + 16
    assert normalize_file(source, target, dtype="float64").nbytes == 24 + 48
