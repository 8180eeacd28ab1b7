"""Formats but .npy: the same bits as in memory by independent readers, refusals, damage, memory."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import l2multi as l2
from l2multi import _formats, _mapped
from l2multi.cli import main
from l2multi.files import check_file, normalize_file
from tests import fuzz_files
from tests.streamed import BEFORE, draw, refused, small_windows, write

pytestmark = pytest.mark.usefixtures("small_windows")
__all__ = ["small_windows"]  # a fixture
ROOT = Path(__file__).parent.parent


# Vectors after their lengths, read as faiss.contrib.vecs_io and the sites of the data sets do.


def vecs(x, lengths=None) -> bytes:
    lengths = [x.shape[1]] * len(x) if lengths is None else lengths
    rows = zip(lengths, x, strict=True)
    return b"".join(int(n).to_bytes(4, "little", signed=True) + v.tobytes() for n, v in rows)


def read_fvecs(path):
    a = np.fromfile(path, dtype="int32")
    return a.reshape(-1, a[0] + 1)[:, 1:].copy().view("float32")


def bins(x, shape=None) -> bytes:
    return np.array(x.shape if shape is None else shape, "<u4").tobytes() + x.tobytes()


def read_fbin(path):
    with open(path, "rb") as f:
        n, d = np.fromfile(f, count=2, dtype=np.int32)
        return np.fromfile(f, dtype=np.float32).reshape(n, d)


KINDS = {
    ".fvecs": ("f4", vecs, read_fvecs, ".fvecs"),
    ".bvecs": ("u1", vecs, read_fvecs, ".fvecs"),
    ".fbin": ("f4", bins, read_fbin, ".fbin"),
    ".u8bin": ("u1", bins, read_fbin, ".fbin"),
    ".i8bin": ("i1", bins, read_fbin, ".fbin"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("length", [33, 1])
def test_vectors(kind, axis, length):
    dtype, made, read, out = KINDS[kind]
    x = draw((40, length), dtype)
    Path("in" + kind).write_bytes(made(x))
    report = normalize_file("in" + kind, "out" + out, axis, dtype="float32")
    unit, norms = l2.normalize(x, axis, dtype="float32", return_norm=True)
    assert Path("out" + out).read_bytes() == made(unit)
    np.testing.assert_array_equal(read("out" + out), unit)
    assert (report.shape, report.zero) == (x.shape, np.count_nonzero(norms == 0))
    assert report.nbytes == x.nbytes + unit.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_refusals(kind):
    dtype, made, _, out = KINDS[kind]
    x = draw((6, 5), dtype)
    whole, source = made(x), "in" + kind
    for size in range(1, len(whole)):
        if made is vecs and size % (len(whole) // 6) == 0:
            continue  # nothing tells that vectors are missing
        Path(source).write_bytes(whole[:size])
        refused(ValueError, "source: ", source, "out" + out, dtype="float32")
    for more in (b"\0", whole):
        if made is bins or more == b"\0":
            Path(source).write_bytes(whole + more)
            refused(ValueError, "source: expected a comp", source, "out" + out, dtype="float32")
    Path(source).write_bytes(whole)
    for name in ("out.npy", "out", "out.safetensors", *{"out.fvecs", "out.fbin"} - {"out" + out}):
        refused(
            ValueError, rf"target: .* ends in {out}, .* got 'out", source, name, dtype="float32"
        )
    for dtype in ("float16", "bfloat16", "float64"):
        refused(TypeError, f"dtype: {dtype} has no name in a {out} file.* such as dtype=float32$",
                source, "out" + out, dtype=dtype)  # fmt: skip
    if kind not in (".fvecs", ".fbin"):
        refused(TypeError, "dtype: float64 has no name", source, "out" + out)
        refused(ValueError, f"target: .* ends in {out}", source, "out" + kind, dtype="float32")
    for keyword in ("tensor", "dtype_in"):
        refused(ValueError, f"{keyword}: expected none, got ", source, "out" + out,
                **{keyword: "int4"})  # fmt: skip


@pytest.mark.parametrize("length", [0, -1, 2**31 - 1, -(2**31), 11])
def test_vectors_of_an_impossible_length(length):
    x = np.ones((6, 5), np.float32)
    for lengths in ([length, *[5] * 5], [length] * 6)[: 1 if length == 11 else 2]:
        Path("in.fvecs").write_bytes(vecs(x, lengths))
        wanted = f"source: .*claims {length} elements, and its 144 bytes are no"
        if length == 11:  # as long as two of them
            wanted = (
                "source: expected vectors of one length, got 'in.fvecs', where the first has 11"
            )
        refused(ValueError, wanted, "in.fvecs", "out.fvecs")


@pytest.mark.parametrize("at", [1, 38, 39])
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_vectors_of_several_lengths(at, axis, monkeypatch):
    from l2multi.formats import vecs as module

    monkeypatch.setattr(module, "_LENGTHS", 7)
    x = draw((40, 5), np.float32)
    Path("in.fvecs").write_bytes(vecs(x, [*[5] * at, 6, *[5] * (39 - at)]))
    refused(ValueError, f"source: .* the first has 5 elements and that at position {at} 6",
            "in.fvecs", "out.fvecs", axis=axis)  # fmt: skip


@pytest.mark.parametrize("shape", [(7, 5), (2**32 - 1, 2**32 - 1), (5, 6), (0, 5), (2**31, 1)])
def test_bins_that_claim_another_shape(shape):
    x = np.ones((6, 5), np.float32)
    Path("in.fbin").write_bytes(bins(x, shape))
    claimed = 8 + 4 * shape[0] * shape[1]
    if claimed == 128:
        normalize_file("in.fbin", "out.fbin")
        assert read_fbin("out.fbin").shape == shape
    else:
        refused(ValueError, f"source: .* {shape[0]} vectors of {shape[1]}, in {claimed} bytes, "
                "and has 128", "in.fbin", "out.fbin")  # fmt: skip


def test_no_vectors():
    Path("in.fvecs").write_bytes(b"")
    assert normalize_file("in.fvecs", "out.fvecs").shape == (0, 0)
    assert Path("out.fvecs").read_bytes() == b""
    for shape in ((0, 5), (5, 0), (2**32 - 1, 0)):
        Path("in.fbin").write_bytes(bins(np.empty(0, "f4"), shape))
        assert normalize_file("in.fbin", "out.fbin").shape == shape
        assert Path("out.fbin").read_bytes() == Path("in.fbin").read_bytes()


def test_suffixes_in_capitals():
    x = draw((6, 5), np.float32)
    Path("in.FVECS").write_bytes(vecs(x))
    normalize_file("in.FVECS", "out.FVecs")
    assert Path("out.FVecs").read_bytes() == vecs(l2.normalize(x))
    assert main(["normalize", "in.FVECS", "out.bin"]) == 1


# All of them.


def archive(x) -> bytes:
    file = io.BytesIO()
    np.savez(file, emb=x, ids=np.arange(3, dtype="u1"))
    return file.getvalue()


def tensors(x) -> bytes:
    return safetensors.numpy.save({"emb": x, "ids": np.arange(3, dtype="u1")}, {"a": "b"})


def text(x) -> bytes:
    rows = (" ".join(map(str, ["word", *row])) for row in x.tolist())
    return "\n".join([f"{len(x)} {x.shape[1]}", *rows, ""]).encode()


def words(x) -> bytes:
    return b"%d %d\n" % x.shape + b"".join(b"word " + row.tobytes() for row in x)


# A small file of each format that is read here, and not by another library.
EXAMPLES = {
    ".npz": archive, ".safetensors": tensors, ".fvecs": vecs, ".fbin": bins, ".vec": text,
    ".bin": words,
}  # fmt: skip
# Those that another library reads, whose tests have files of their own; and .npy.
ELSEWHERE = {".zarr", ".h5", ".parquet", ".arrow"}
READ_HERE = [row for row in _formats.ROWS if row.suffix in EXAMPLES]


def example(suffix: str) -> bytes:
    """A small file."""
    return EXAMPLES[suffix](np.random.default_rng(0).standard_normal((6, 5)).astype("f4"))


def named(row) -> str | None:
    """What the vectors are called in an example."""
    return "emb" if "tensor" in row.takes else None


def test_every_format_has_an_example():
    suffixes = {row.suffix for row in _formats.ROWS} - ELSEWHERE
    missing = suffixes - {".npy", *EXAMPLES}
    assert not missing, f"enter {missing} in EXAMPLES (or ELSEWHERE) of tests/test_formats.py"
    missing = suffixes - set(fuzz_files.SUFFIXES)
    assert not missing, f"enter {missing} in _SEEDS of tests/fuzz_files.py"


@pytest.mark.parametrize("row", READ_HERE, ids=lambda row: row.suffix)
def test_damage_is_refused_or_read_as_it_stands(row):
    """Any byte of any value: a refusal in one line, or a file of the same size."""
    rng = random.Random(0)
    whole = example(row.suffix)
    source, target = "in" + row.suffix, "out" + row.suffix
    messages, unchanged = [], []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(min(len(whole), 160))] = rng.randrange(256)
        Path(source).write_bytes(damaged)
        Path(target).write_bytes(BEFORE)
        try:
            normalize_file(source, target, tensor=named(row), backend="numpy", dtype="float32")
        except (ValueError, TypeError) as error:
            messages.append(str(error))
            unchanged.append(Path(target).read_bytes() == BEFORE)
    assert all(m.startswith(("source: ", "tensor: ")) and "\n" not in m for m in messages)
    assert all(unchanged)
    assert 10 < len(messages) < 150
    assert sorted(os.listdir()) == sorted([source, target])


@pytest.mark.parametrize("row", READ_HERE, ids=lambda row: row.suffix)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_failure_midway(row, failure):
    source, target = "in" + row.suffix, "out" + row.suffix
    Path(source).write_bytes(example(row.suffix))
    Path(target).write_bytes(BEFORE)
    _formats.WINDOW = 20  # put back by the fixture

    def fail(done, total):
        if 0 < done < total:
            assert any(name.endswith(".tmp") for name in os.listdir())
            raise failure

    with pytest.raises(failure):
        normalize_file(source, target, tensor=named(row), progress=fail)
    assert Path(target).read_bytes() == BEFORE
    assert sorted(os.listdir()) == [source, target]


@pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14),
    reason="the system has no such advice",
)
@pytest.mark.parametrize("head", [0, 8, 100, 4096, 5000])
def test_pages_of_a_window(head):
    """They are in the process after the one call, and not after the other."""
    Path("x").write_bytes(bytes(head + 2**20))
    x = np.asarray(np.memmap("x", "u1", "r+", head, (1024, 1024)))

    def resident() -> int:
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                lo, hi = (int(end, 16) for end in line.split()[0].split("-"))
                inside = lo <= x.ctypes.data < hi
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no such map")

    for advice in (_mapped.READ, _mapped.WRITE):
        for window in (x[:1], x[300:400], x[1000:], x, x[:, 1:2]):
            lo, hi = np.lib.array_utils.byte_bounds(window)
            _mapped.unload(x)
            assert resident() == 0
            _mapped.populate(window, advice, hi - lo - 1)
            assert resident() == 0
            _mapped.populate(window, advice, hi - lo)
            assert resident() >= hi - lo  # the system may map what is around, too


# As in test_files.py: private writable memory is capped, and the cap bites.
BOUNDED = """
import resource, sys
import numpy as np
from l2multi.files import check_file, normalize_file

small, large, target, tensor = sys.argv[1:]
for axis in (-1, 0):
    normalize_file(small, target, axis, tensor=tensor or None)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 48 * 2**20,) * 2)
for axis in (-1, 0):
    report = normalize_file(large, target, axis, tensor=tensor or None)
    assert report.nbytes == 200_000_000, report
try:
    np.fromfile(large, "u1")
except MemoryError:
    print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
@pytest.mark.parametrize("suffix", [".safetensors", ".fvecs"])
def test_memory_is_bounded(suffix):
    for name, n in (("small", 1000), ("large", 100_000)):
        x = np.ones((n, 250), np.float32)
        if suffix == ".safetensors":
            write(name + suffix, ("other", "U8", np.ones(n * 1000, "u1")), ("emb", "F32", x))
        else:
            rows = np.hstack([np.full((n, 1), 250, "i4"), x.view("i4")])
            Path(name + suffix).write_bytes(rows.tobytes())
    tensor = "emb" if suffix == ".safetensors" else ""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *(n + suffix for n in ("small", "large", "out")), tensor],
        capture_output=True, text=True, check=False, env={**os.environ, "L2MULTI_BACKEND": "numpy"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("bounded\n", "")


def test_every_suffix_is_documented(capsys):
    assert main(["normalize", "--help"]) == 0
    details = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")
    for text in (capsys.readouterr().out, details):
        for suffix in _formats.known().split(", "):
            assert suffix in text


def test_lists_of_no_elements(tmp_path):
    """Empty vectors are no zero vectors, as in memory and in a .npy."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.list_(pa.float32(), 0)
    lists = pa.Array.from_buffers(kind, 3, [None], children=[pa.array([], pa.float32())])
    batch = pa.RecordBatch.from_arrays([lists], ["e"])
    with pa.OSFile(f"{tmp_path}/x.arrow", "wb") as file, pa.ipc.new_file(file, batch.schema) as w:
        w.write_batch(batch)
    np.save(tmp_path / "x.npy", np.zeros((3, 0), np.float32))
    for suffix in ("arrow", "npy"):
        source, target = tmp_path / f"x.{suffix}", tmp_path / f"y.{suffix}"
        report, check = normalize_file(source, target, zero="raise"), check_file(source)
        assert (report.vectors, report.length, report.zero) == (3, 0, 0)
        assert (check.unit, check.zero, check.off) == (0, 0, 3)


def test_list_size_below_zero(tmp_path):
    """As a damaged file says: one clear line."""
    pa = pytest.importorskip("pyarrow")
    schema = pa.schema([("e", pa.list_(pa.float32(), 12345))])
    sink = pa.BufferOutputStream()
    pa.ipc.new_file(sink, schema).close()
    size = [n.to_bytes(4, "little", signed=True) for n in (12345, -12345)]
    (tmp_path / "x.arrow").write_bytes(sink.getvalue().to_pybytes().replace(*size))
    with pytest.raises(ValueError, match=r"^source: column 'e' of .*: expected lists of a size"):
        normalize_file(tmp_path / "x.arrow", tmp_path / "y.arrow")
