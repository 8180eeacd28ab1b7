"""safetensors: one tensor changes, all else is as it was; by Hugging Face's own parser."""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import l2multi as l2
from l2multi.cli import main
from l2multi.files import normalize_file
from l2multi.formats.safetensors import DTYPES
from tests.streamed import draw, refused, small_windows, write

pytestmark = pytest.mark.usefixtures("small_windows")
__all__ = ["small_windows"]  # a fixture


def dtype_of(name: str):
    """A dtype by NumPy's name or that of ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def tensors(path) -> dict:
    """Dtype, shape and bytes of each tensor."""
    read = safetensors.deserialize(Path(path).read_bytes())
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read}


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
    refused(ValueError, message + "none; name one", "in.safetensors", "out.safetensors")
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
