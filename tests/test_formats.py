"""Formats but .npy: the same bits as in memory, by independent readers, and all else as it was."""

import inspect
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import l2multi as l2
from l2multi import _formats, _maps, files
from l2multi.cli import main
from l2multi.files import normalize_file
from l2multi.formats.safetensors import DTYPES

BEFORE = b"what the target held"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """Windows of so few vectors that small files have many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "WINDOW", 256)
    monkeypatch.setattr(files, "NEIGHBOURS", 3)


def draw(shape, dtype):
    """Numbers of every dtype, with a zero vector."""
    x = (np.random.default_rng(0).standard_normal(shape) * 100).astype(np.float32)
    x[0] = 0
    return np.abs(x).astype(dtype) if np.dtype(dtype).kind == "u" else x.astype(dtype)


def dtype_of(name: str):
    """A dtype by NumPy's name or that of ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def refused(error, match, source, target, **keywords):
    """A refusal that leaves the target as it was, and nothing beside it."""
    Path(target).write_bytes(BEFORE)
    before = sorted(os.listdir())
    with pytest.raises(error, match=match) as caught:
        normalize_file(source, target, **keywords)
    assert Path(target).read_bytes() == BEFORE
    assert sorted(os.listdir()) == before
    assert "\n" not in str(caught.value)


# safetensors, read by Hugging Face's own parser.


def tensors(path) -> dict:
    """Dtype, shape and bytes of each tensor."""
    read = safetensors.deserialize(Path(path).read_bytes())
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read}


def write(path, *parts, metadata=None, pad=b""):
    """A file of (name, dtype, array) in this order, by hand."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, dtype, array in parts:
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    raw = json.dumps(header).encode() + pad
    Path(path).write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def several(array, dtype):
    """A tensor among others, one of them of elements of half a byte."""
    return [
        ("ids", "I64", np.arange(5)),
        ("none", "F32", np.empty((0, 3), np.float32)),
        ("emb", dtype, array),
        ("half", "F4", np.frombuffer(b"\x12\x34\x56", "V3")),
        ("ü\n", "BOOL", np.array([True, False, True])),
    ]


@pytest.mark.parametrize("name", DTYPES)
def test_safetensors_dtypes(name):
    x = draw((40, 33), dtype_of(DTYPES[name]))
    write("in.safetensors", ("emb", name, x), metadata={"model": "x"})
    report = normalize_file("in.safetensors", "out.safetensors")
    unit = l2.normalize(x)
    got = {"float64": "F64"}.get(unit.dtype.name, name)
    assert tensors("out.safetensors") == {"emb": (got, x.shape, unit.tobytes())}
    assert (report.source_dtype, report.dtype, report.vectors) == (x.dtype, unit.dtype, 40)
    assert (report.zero, report.shape) == (np.sum(l2.norm(x) == 0), x.shape)
    if got == name:  # the header as it stood
        size = Path("in.safetensors").stat().st_size - x.nbytes
        heads = (Path(p).read_bytes()[:size] for p in ("in.safetensors", "out.safetensors"))
        assert len(set(heads)) == 1


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_are_those_of_the_library(name):
    """What its writer calls each."""
    if not name.endswith("FNUZ"):  # which it reads, and does not write from NumPy
        array = np.zeros(8, dtype_of(DTYPES[name]))
        raw = safetensors.numpy.save({"x": array})
        size = int.from_bytes(raw[:8], "little")
        assert json.loads(raw[8 : 8 + size])["x"]["dtype"] == name


@pytest.mark.parametrize("axis", [-1, 0, (0, 1), None, 1])
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float64"])
def test_safetensors_carries_all_else(axis, dtype):
    """Whether the tensor grows or shrinks, and no tensor lies across its alignment after that."""
    x = draw((7, 5, 6), ml_dtypes.bfloat16)
    parts, metadata = several(x, "BF16"), {"model": "ß", "empty": ""}
    parts[3:4] = []  # the library cannot list it
    write("in.safetensors", *parts, metadata=metadata, pad=b"  ")
    normalize_file("in.safetensors", "out.safetensors", axis, tensor="emb", dtype=dtype)
    before, after = tensors("in.safetensors"), tensors("out.safetensors")
    unit = l2.normalize(x, axis, dtype=dtype)
    name = {"float16": "F16", "float64": "F64"}.get(dtype, "BF16")
    assert after == {**before, "emb": (name, x.shape, unit.tobytes())}
    with safetensors.safe_open("out.safetensors", "np") as file:
        assert file.metadata() == metadata
    if name == "F64":
        raw = Path("out.safetensors").read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        assert list(header) == ["__metadata__", *(part[0] for part in parts)]
        assert size % 8 == 0
        assert header["emb"]["data_offsets"][0] % 8 == header["ids"]["data_offsets"][0] % 8 == 0


def test_safetensors_of_what_has_no_meaning_here():
    """Elements of half a byte are carried, not read; a tensor that lies unaligned is read."""
    x = draw((9, 4), np.float32)
    parts = [("odd", "U8", np.arange(3, dtype="u1")), *several(x, "F32")]
    parts[4] = ("half", "F4", np.frombuffer(b"\x12\x34\x56", "u1").repeat(2).view("V1"))
    write("in.safetensors", *parts)
    raw = Path("in.safetensors").read_bytes()
    fixed = raw.replace(b'"F4", "shape": [6]', b'"F4", "shape": [12]')
    size = int.from_bytes(raw[:8], "little") + len(fixed) - len(raw)
    Path("in.safetensors").write_bytes(size.to_bytes(8, "little") + fixed[8:])
    normalize_file("in.safetensors", "out.safetensors", tensor="emb")
    got = Path("out.safetensors").read_bytes()
    assert got == Path("in.safetensors").read_bytes().replace(
        x.tobytes(), l2.normalize(x).tobytes()
    )
    refused(TypeError, "source: dtype F4 of tensor 'half' is not supported; accepted are F64",
            "in.safetensors", "out.safetensors", tensor="half")  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), ()])
def test_safetensors_of_few(shape):
    x = np.ones(shape, np.float32)
    safetensors.numpy.save_file({"a": x, "b": np.arange(3.0)}, "in.safetensors")
    axis = None if shape == () else -1
    normalize_file("in.safetensors", "out.safetensors", axis, tensor="a", dtype="float64")
    got = safetensors.numpy.load_file("out.safetensors")
    np.testing.assert_array_equal(got["b"], np.arange(3.0))
    np.testing.assert_array_equal(got["a"], x)
    assert got["a"].dtype == np.float64
    safetensors.numpy.save_file({"a": x}, "in.safetensors")
    normalize_file("in.safetensors", "out.safetensors", axis)
    assert Path("out.safetensors").read_bytes() == Path("in.safetensors").read_bytes()


def entry(dtype="F32", shape=(3, 4), offsets=(0, 48)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header, data=bytes(48), size=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


NOT_ONE = "source: .*its header is not one of tensors"
BAD = {
    "empty": (b"", "source: expected a complete .*it is 0 bytes long"),
    "short": (b"1234567", "source: .*it is 7 bytes long"),
    "terabytes of header": (raw(b"{}", size=2**62), f"claims to be {2**62} bytes long, and 50 are"),
    "a large header": (raw(b"{}", size=51), "claims to be 51 bytes long, and 50 are there"),
    "no JSON": (raw(b"{'a': 1}"), NOT_ONE),
    "no text": (raw(b"{\xff}"), NOT_ONE),
    "deep": (raw(b'{"a":' + b"[" * 100_000), NOT_ONE),
    "a list": (raw([entry()]), NOT_ONE),
    "twice": (raw(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2)), NOT_ONE),
    "no entry": (raw({"a": 3}), NOT_ONE),
    "no dtype": (raw({"a": {**entry(), "dtype": 3}}), NOT_ONE),
    "no shape": (raw({"a": {**entry(), "shape": "34"}}), NOT_ONE),
    "bool": (raw({"a": entry(shape=(True, 12))}), NOT_ONE),
    "negative": (raw({"a": entry(shape=(-3, -4))}), NOT_ONE),
    "float": (raw({"a": entry(shape=(3.0, 4))}), NOT_ONE),
    "dims": (raw({"a": entry(shape=(1,) * 65)}), NOT_ONE),
    "2**63": (raw({"a": entry(shape=(0, 2**63), offsets=(0, 0))}, b""), NOT_ONE),
    "digits": (raw(b'{"a": ' + b"9" * 5000 + b"}"), NOT_ONE),
    "metadata": (raw({"__metadata__": {"a": 1}, "a": entry()}), NOT_ONE),
    "no tensor": (raw({"__metadata__": {}}, b""), "source: .*it has no tensor"),
    "wrong size": (raw({"a": entry(shape=(3, 5))}), "'a' takes 60 bytes from 0, .* from 0 to 48"),
    "terabytes": (raw({"a": entry(shape=(2**40,), offsets=(0, 2**42))}), f"claims {2**42} bytes"),
    "2**80": (raw({"a": entry(shape=(2**40, 2**40))}), f"'a' takes {2**82} bytes"),
    "2**3968": (raw({"a": entry(shape=(2**62,) * 64)}), f"'a' takes {2**3970} bytes"),
    "too many": (raw({"a": entry(shape=(2**40, 2**40, 0), offsets=(0, 0))}, b""), "cannot be"),
    "backwards": (raw({"a": entry(offsets=(48, 0))}), "and its header claims those from 48 to 0"),
    "gap": (raw({"a": entry(offsets=(1, 49))}, bytes(49)), "'a' takes 48 bytes from 0, .* 1 to 49"),
    "overlap": (raw({"a": entry(), "b": entry(offsets=(8, 56))}, bytes(56)), "'b' takes 48 b"),
    "the same": (raw({"a": entry(), "b": entry()}), "'b' takes 48 bytes from 48"),
    "part of a byte": (raw({"a": entry("F4", (3,), (0, 1))}, b"1"), "'a' does not end with a byte"),
    "truncated": (raw({"a": entry()}, bytes(47)), "claims 48 bytes of t.* but 47 follow: it is tr"),
    "trailing": (raw({"a": entry()}, bytes(49)), r"claims 48 bytes of tensors, but 49 follow\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_safetensors(name):
    content, message = BAD[name]
    Path("in.safetensors").write_bytes(content)
    refused(ValueError, message, "in.safetensors", "out.safetensors")


def test_safetensors_keywords(monkeypatch, capsys):
    x = draw((3, 4), ml_dtypes.bfloat16)
    write("in.safetensors", *several(x, "BF16")[:3], ("e8", "F8_E8M0", np.zeros(3, "u1")))
    message = r"tensor: expected one of those in .* \('ids', 'none', 'emb', 'e8'\), got "
    refused(ValueError, message + "None", "in.safetensors", "out.safetensors")
    refused(ValueError, message + "'x'", "in.safetensors", "out.safetensors", tensor="x")
    refused(ValueError, message, "in.safetensors", "out.safetensors", tensor="__metadata__")
    refused(TypeError, "F8_E8M0 of tensor 'e8'", "in.safetensors", "out.safetensors", tensor="e8")
    for dtype in ("longdouble", "float8_e3m4"):
        refused(TypeError, r"dtype: .* has no name in a \.safetensors file.*dtype=float32",
                "in.safetensors", "out.safetensors", tensor="emb", dtype=dtype)  # fmt: skip
    refused(ValueError, "dtype_in: expected none, got .*a .safetensors file has no use for it",
            "in.safetensors", "out.safetensors", dtype_in="int4")  # fmt: skip
    command = ["normalize", "in.safetensors", "out.safetensors", "--quiet"]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("l2multi: error: --tensor: expected one of those in")
    assert main([*command, "--tensor", "emb"]) == 0
    assert tensors_by_hand("out.safetensors", "emb") == l2.normalize(x).tobytes()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    refused(ImportError, "source: bfloat16 needs ml_dtypes", "in.safetensors", "out.safetensors",
            tensor="emb")  # fmt: skip


def tensors_by_hand(path, name) -> bytes:
    data = Path(path).read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:size])[name]["data_offsets"]
    return data[size + begin : size + end]


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


def example(suffix: str) -> bytes:
    """A small file."""
    x = np.random.default_rng(0).standard_normal((6, 5)).astype("f4")
    if suffix == ".safetensors":
        return safetensors.numpy.save({"emb": x, "ids": np.arange(3, dtype="u1")}, {"a": "b"})
    return {".fvecs": vecs, ".fbin": bins}[suffix](x)


@pytest.mark.parametrize("row", _formats.ROWS[1:], ids=lambda row: row.suffix)
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
            normalize_file(source, target, tensor="emb" if row.takes else None, backend="numpy",
                           dtype="float32")  # fmt: skip
        except (ValueError, TypeError) as error:
            messages.append(str(error))
            unchanged.append(Path(target).read_bytes() == BEFORE)
    assert all(m.startswith(("source: ", "tensor: ")) and "\n" not in m for m in messages)
    assert all(unchanged)
    assert 15 < len(messages) < 150
    assert sorted(os.listdir()) == sorted([source, target])


@pytest.mark.parametrize("row", _formats.ROWS[1:], ids=lambda row: row.suffix)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_failure_midway(row, failure):
    source, target = "in" + row.suffix, "out" + row.suffix
    Path(source).write_bytes(example(row.suffix))
    Path(target).write_bytes(BEFORE)
    files.WINDOW = 20  # put back by the fixture

    def fail(done, total):
        if 0 < done < total:
            assert any(name.endswith(".tmp") for name in os.listdir())
            raise failure

    with pytest.raises(failure):
        normalize_file(source, target, tensor="emb" if row.takes else None, progress=fail)
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

    for advice in (_maps.READ, _maps.WRITE):
        for window in (x[:1], x[300:400], x[1000:], x, x[:, 1:2]):
            lo, hi = np.lib.array_utils.byte_bounds(window)
            _maps.unload(x)
            assert resident() == 0
            _maps.populate(window, advice, hi - lo - 1)
            assert resident() == 0
            _maps.populate(window, advice, hi - lo)
            assert resident() >= hi - lo  # the system may map what is around, too


# As in test_files.py: private writable memory is capped, and the cap bites.
BOUNDED = """
import resource, sys
import numpy as np
from l2multi.files import normalize_file

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
    with pytest.raises(SystemExit):
        main(["normalize", "--help"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in (capsys.readouterr().out, readme, inspect.getdoc(normalize_file)):
        for suffix in _formats.known().split(", "):
            assert suffix in text
