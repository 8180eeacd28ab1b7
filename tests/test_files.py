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
from l2multi import _registry, files
from l2multi.files import normalize_npy

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
    monkeypatch.setattr(files, "WINDOW", 256)
    monkeypatch.setattr(files, "NEIGHBOURS", 3)


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
    report = normalize_npy(source, target, axis)
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
    report = normalize_npy(source, target, backend="numpy")
    assert target.read_bytes() == saved(l2.normalize(x, backend="numpy"))
    assert (report.source_dtype, report.dtype) == (x.dtype, np.load(target).dtype)
    assert report.backend == "numpy"


def test_dtype_of_the_result(source, target):
    x = draw((50, 20))
    np.save(source, x)
    report = normalize_npy(source, target, dtype="float16")
    assert target.read_bytes() == saved(l2.normalize(x, dtype="float16"))
    assert report.nbytes == x.nbytes * 3 // 2


@pytest.mark.parametrize(
    ("shape", "axis", "vectors", "norm"),
    [((0,), -1, 1, 0.0), ((0, 3), -1, 0, None), ((3, 0), -1, 3, 0.0), ((0, 0), None, 1, 0.0)],
)
def test_empty(source, target, shape, axis, vectors, norm):
    np.save(source, np.zeros(shape, np.float32))
    report = normalize_npy(source, target, axis, zero="raise")
    assert target.read_bytes() == saved(np.zeros(shape, np.float32))
    assert (report.vectors, report.zero, report.smallest, report.largest) == (
        vectors, 0, norm, norm,
    )  # fmt: skip


def test_every_element_is_in_one_window(monkeypatch):
    for window, neighbours in itertools.product((1, 64, 1000), (1, 4, 10**6)):
        monkeypatch.setattr(files, "WINDOW", window)
        monkeypatch.setattr(files, "NEIGHBOURS", neighbours)
        for shape, axes in AXES.items():
            for axis, order in itertools.product(axes, "CF"):
                x = np.zeros(shape, np.int32, order=order)
                along = files._contract.normalize_axes(axis, x.ndim)
                vector = x.itemsize * math.prod(x.shape[d] for d in along)
                for cut in files._windows(x, along):
                    x[cut] += 1
                    assert x[cut].nbytes <= max(window, vector * neighbours)
                assert (x == 1).all()


def test_windows_that_would_share_pages_are_one():
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (10**8, 768), (3072, 4))
    assert sum(1 for _ in itertools.islice(files._windows(x, (1,)), 10_001)) == 10_001
    assert sum(1 for _ in itertools.islice(files._windows(x.T, (1,)), 2)) == 1


def test_progress(source, target):
    np.save(source, np.ones((3 * files.WINDOW // 400, 100), np.float32))
    calls = []
    report = normalize_npy(source, target, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, report.vectors)
    assert calls[-1] == (report.vectors, report.vectors)
    assert len(calls) >= 4
    assert calls == sorted(calls)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("order", ["C", "F"])
def test_zero(source, target, tmp_path, order):
    x = np.ones((30, 20, 3), np.float32, order=order)
    x[12, 19] = x[13, 2] = x[29, 0] = 0
    np.save(source, x)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(l2.ZeroVectorError, match=r"source: .* 3 of 600 .* \(12, 19\)"):
        normalize_npy(source, target, zero="raise")
    assert_unchanged(target, before)
    with pytest.raises(l2.ZeroVectorError, match=r"3 of 600 .* position \(12, 19\)"):
        l2.normalize(x, zero="raise")
    assert normalize_npy(source, target, zero="nan").zero == 3
    assert target.read_bytes() == saved(l2.normalize(x, zero="nan"))
    assert normalize_npy(source, target).zero == 3
    assert target.read_bytes() == saved(l2.normalize(x))


def header(text: str) -> bytes:
    """A .npy file with this header and 48 bytes of data."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(48)


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
    "truncated": (WHOLE[:-1], ValueError, "source: .*complete"),
    "truncated header": (WHOLE[:50], ValueError, "source: .*complete"),
    "version": (WHOLE[:6] + b"\x09" + WHOLE[7:], ValueError, "source: .*complete"),
    "no header": (header("x"), ValueError, "source: .*complete"),
    "negative": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4), }"),
        ValueError,
        "source: .*complete",
    ),
    "huge": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40, 1 << 40), }"),
        ValueError,
        "source: .*complete",
    ),
    "huge too": (
        header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40}, {2**40}), }}"),
        ValueError,
        "source: .*complete",
    ),
    "void": (saved(np.zeros(3, "V2")), TypeError, "source: dtype .*bfloat16"),
    "structured": (saved(np.zeros(3, "f4,f4")), TypeError, "source: dtype"),
    "text array": (saved(np.array(["a"])), TypeError, "dtype <U1 is not supported"),
    "dates": (saved(np.zeros(3, "M8[s]")), TypeError, "dtype datetime64.* is not supported"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_source(source, target, tmp_path, name):
    content, error, message = BAD_SOURCES[name]
    source.write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message):
        normalize_npy(source, target)
    assert_unchanged(target, before)


def test_truncated_anywhere(source, target, tmp_path):
    for size in range(len(WHOLE)):
        source.write_bytes(WHOLE[:size])
        with pytest.raises(ValueError, match="source: "):
            normalize_npy(source, target)
    assert_unchanged(target, ["in.npy", "out.npy"])


BAD_ARGUMENTS = {
    "axis": ({"axis": 2}, AxisError, "axis"),
    "axis twice": ({"axis": (0, 0)}, ValueError, "axis"),
    "axis type": ({"axis": 0.5}, TypeError, "axis"),
    "zero": ({"zero": "drop"}, ValueError, "zero: .*'keep'"),
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
        normalize_npy(source, target, **keywords)
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_ml_dtypes_have_no_name_in_a_file(source, target):
    source.write_bytes(WHOLE)
    for name in ("bfloat16", "float8_e5m2"):
        with pytest.raises(TypeError, match=f"dtype: .*{name}.* has no name"):
            normalize_npy(source, target, dtype=getattr(ml_dtypes, name))
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_backend_that_is_not_installed(source, target, monkeypatch):
    source.write_bytes(WHOLE)
    monkeypatch.delitem(_registry._loaded, "jax", raising=False)
    monkeypatch.setitem(_registry._failed, "jax", "ModuleNotFoundError: no")
    with pytest.raises(ImportError, match=r"pip install '.*\[jax\]'"):
        normalize_npy(source, target, backend="jax")
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_source_is_not_a_file(tmp_path, target):
    with pytest.raises(FileNotFoundError):
        normalize_npy(tmp_path / "none.npy", target)
    with pytest.raises(ValueError, match=r"source: .*not a file"):
        normalize_npy(tmp_path, target)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match=r"source: .*not a file"):
        normalize_npy(fifo, target)
    assert_unchanged(target, ["fifo", "out.npy"])


def test_target_is_the_source(source, tmp_path):
    source.write_bytes(WHOLE)
    (tmp_path / "symbolic.npy").symlink_to(source)
    (tmp_path / "hard.npy").hardlink_to(source)
    for name in ("in.npy", "symbolic.npy", "hard.npy", "../" + tmp_path.name + "/in.npy"):
        with pytest.raises(ValueError, match="target: expected another file than source"):
            normalize_npy(source, tmp_path / name)
    assert source.read_bytes() == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["hard.npy", "in.npy", "symbolic.npy"]


def test_target_that_cannot_be_replaced(source, target, tmp_path, monkeypatch):
    source.write_bytes(WHOLE)
    with pytest.raises(FileNotFoundError, match="target: its directory does not exist"):
        normalize_npy(source, tmp_path / "none" / "out.npy")
    with pytest.raises(ValueError, match="target: expected a file"):
        normalize_npy(source, tmp_path)
    with pytest.raises(ValueError, match="target: expected a file"):
        normalize_npy(source, "/dev/null")
    # The user who runs the tests may be root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="target: it is write-protected"):
        normalize_npy(source, target)
    assert_unchanged(target, ["in.npy", "out.npy"])


def test_permissions(source, tmp_path):
    source.write_bytes(WHOLE)
    mask = os.umask(0o027)
    try:
        normalize_npy(source, tmp_path / "new.npy")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o640
    (tmp_path / "new.npy").chmod(0o604)
    normalize_npy(source, tmp_path / "new.npy")
    assert stat.S_IMODE((tmp_path / "new.npy").stat().st_mode) == 0o604


def test_a_symbolic_link_is_followed(source, target, tmp_path):
    source.write_bytes(WHOLE)
    (tmp_path / "link.npy").symlink_to(target)
    normalize_npy(source, tmp_path / "link.npy")
    assert (tmp_path / "link.npy").is_symlink()
    assert target.read_bytes() == saved(l2.normalize(np.ones((6, 2), np.float32)))


def test_relative_and_bytes_paths(source, tmp_path, monkeypatch):
    source.write_bytes(WHOLE)
    monkeypatch.chdir(tmp_path)
    normalize_npy("in.npy", "out.npy")
    normalize_npy(b"in.npy", b"out2.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "out2.npy").read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(source, target, monkeypatch, code):
    def full(fd, offset, nbytes):
        os.write(fd, bytes(10))
        raise OSError(code, os.strerror(code))

    source.write_bytes(WHOLE)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="target: no room for its 48 bytes") as caught:
        normalize_npy(source, target)
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
        files._reserve(file, 0, x.nbytes)
        assert os.fstat(file.fileno()).st_blocks * 512 >= x.nbytes
    normalize_npy(source, target)
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
    assert done.stderr.startswith("l2multi: error: target: no room for its 400000 bytes")
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
        normalize_npy(source, target, progress=fail)
    assert_unchanged(target, ["in.npy", "out.npy"])


# Private writable memory is capped at 48 MiB more than a run on a small file has left behind;
# that the cap bites is shown by loading the large file, 200 MB, in the end.
BOUNDED = """
import resource, sys
import numpy as np
from l2multi.files import normalize_npy

small, large, target, order = sys.argv[1:]
axes = {"C": (-1, 0, None), "F": (-1, 0)}[order]
for axis in axes:
    normalize_npy(small, target, axis)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 48 * 2**20,) * 2)
for axis in axes:
    report = normalize_npy(large, target, axis)
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


def test_report_names_who_took_over(source: Path, target: Path, small_windows, monkeypatch) -> None:
    """Where no backend is named, the report has all that served, in their order."""
    np.save(source, np.ones((1000, 3)))
    real, names = files.explain, itertools.chain(["numpy"] * 2, itertools.repeat("numba"))
    monkeypatch.delenv(_registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(
        files, "explain", lambda *a, **k: real(*a, **k)._replace(backend=next(names))
    )
    assert normalize_npy(source, target).backend == "numpy, then numba"
    monkeypatch.setattr(files, "explain", real)
    assert normalize_npy(source, target, backend="numpy").backend == "numpy"
