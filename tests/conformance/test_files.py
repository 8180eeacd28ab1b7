"""Every format is held to one contract: the bits of the array in memory, at every magnitude."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi import _formats
from l2multi.files import check_file, normalize_file
from l2multi.folders import digest
from tests import cases
from tests.streamed import write as write_safetensors

NPY = [np.dtype(t) for t in ("f2", "f4", "f8", "g", "c8", "c16", "i1", "u8", "?", ">f4")]
TENSORS = [np.dtype(t) for t in ("f4", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "f8", "i8")]
# What kernels ship for; NumPy serves the others to the same bits, and no compiler is waited for.
SHIPPED = [np.dtype(t) for t in ("f2", "f4", "f8", "c8", "c16", ml_dtypes.bfloat16)]
SINGLE = [np.dtype("f4")]
COLUMNS = [np.dtype(t) for t in ("f2", "f4", "f8", "i2", "u8")]


class Kind(NamedTuple):
    """How tests write a file of a format, and read one, by something else than l2multi."""

    write: Callable[[str, Any], None]
    read: Callable[[str], Any]
    dtypes: list[np.dtype]
    needs: tuple[str, ...] = ()
    of_integers: dict[str, str] = {}  # noqa: RUF012  # suffixes that hold these alone


def _write_vecs(path, x):
    lengths = np.full((len(x), 1), x.shape[1], "<i4").view("u1")
    raw = x.view("u1").reshape(len(x), -1)
    Path(path).write_bytes(np.concatenate([lengths, raw], axis=1).tobytes())


def _read_vecs(path):
    raw = np.fromfile(path, "<i4")
    return raw.reshape(-1, raw[0] + 1)[:, 1:].view("<f4")


def _write_fbin(path, x):
    Path(path).write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())


def _read_fbin(path):
    count, length = np.fromfile(path, "<u4", 2)
    return np.fromfile(path, "<f4", offset=8).reshape(count, length)


def _write_safetensors(path, x):
    names = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}
    name = names.get(x.dtype.name, f"{x.dtype.kind.upper()}{8 * x.itemsize}")
    write_safetensors(path, ("a", "U8", np.arange(8, dtype="u1")), ("emb", name, x))


def _read_safetensors(path):
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])["emb"]
    by_name = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    dtype = by_name.get(entry["dtype"], f"{entry['dtype'][0].lower()}{entry['dtype'][1:]}")
    if entry["dtype"][0] in "FIU" and entry["dtype"] not in by_name:
        dtype = f"{entry['dtype'][0].lower()}{int(entry['dtype'][1:]) // 8}"
    begin, end = entry["data_offsets"]
    return np.frombuffer(raw[8 + size :][begin:end], dtype).reshape(entry["shape"])


def _write_npz(path, x):
    np.savez_compressed(path, emb=x, other=np.arange(3))


def _read_npz(path):
    with np.load(path) as file:
        assert file["other"].tolist() == [0, 1, 2]
        return file["emb"]


def _columns(x):
    import pyarrow as pa

    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"id": range(len(x)), "emb": rows})


def _matrix(table):
    column = table["emb"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _write_parquet(path, x):
    import pyarrow.parquet as pq

    pq.write_table(_columns(x), path, row_group_size=3)


def _read_parquet(path):
    import pyarrow.parquet as pq

    return _matrix(pq.read_table(path))


def _write_arrow(path, x):
    from pyarrow import feather

    feather.write_feather(_columns(x), path, chunksize=3)


def _read_arrow(path):
    from pyarrow import feather

    return _matrix(feather.read_table(path))


def _write_hdf5(path, x):
    import h5py

    with h5py.File(path, "w") as file:
        chunks = (3, max(1, x.shape[1] // 2))
        file.create_dataset("emb", data=x, chunks=chunks, maxshape=(None, x.shape[1]))
        file["other"] = np.arange(3)


def _read_hdf5(path):
    import h5py

    with h5py.File(path, "r") as file:
        assert file["other"][...].tolist() == [0, 1, 2]
        return file["emb"][...]


def _write_zarr(path, x):
    import zarr

    group = zarr.create_group(path)
    chunks = (3, max(1, x.shape[1] // 2))
    group.create_array("emb", shape=x.shape, dtype=x.dtype, chunks=chunks)[...] = x
    group.create_array("other", shape=(3,), dtype="i4")[...] = [0, 1, 2]


def _read_zarr(path):
    import zarr

    group = zarr.open_group(path, mode="r")
    assert group["other"][...].tolist() == [0, 1, 2]
    return group["emb"][...]


def _write_words(path, x):
    lines = [b"%d %d" % x.shape]
    for i, row in enumerate(x.tolist()):
        lines.append(b" ".join([b"w%d" % i, *(repr(n).encode() for n in row)]))
    Path(path).write_bytes(b"\n".join(lines) + b"\n")


def _read_words(path):
    lines = Path(path).read_bytes().splitlines()[1:]
    return np.array([[float(n) for n in line.split()[1:]] for line in lines]).astype("f4")


def _write_binary_words(path, x):
    records = (b"w%d " % i + row.tobytes() for i, row in enumerate(x))
    Path(path).write_bytes(b"%d %d\n" % x.shape + b"".join(records))


def _read_binary_words(path):
    head, rest = Path(path).read_bytes().split(b"\n", 1)
    count, length = map(int, head.split())
    rows = []
    for _ in range(count):
        rest = rest.split(b" ", 1)[1]
        rows.append(np.frombuffer(rest[: 4 * length], "f4"))
        rest = rest[4 * length :]
    return np.array(rows)


# By the suffix of the row; the tensor, member, dataset or column is "emb".
KINDS = {
    ".npy": Kind(np.save, np.load, NPY),
    ".npz": Kind(_write_npz, _read_npz, NPY),
    ".safetensors": Kind(_write_safetensors, _read_safetensors, TENSORS),
    ".fvecs": Kind(_write_vecs, _read_vecs, SINGLE, of_integers={".bvecs": "u1"}),
    ".fbin": Kind(_write_fbin, _read_fbin, SINGLE, of_integers={".u8bin": "u1", ".i8bin": "i1"}),
    ".parquet": Kind(_write_parquet, _read_parquet, COLUMNS, ("pyarrow",)),
    ".arrow": Kind(_write_arrow, _read_arrow, COLUMNS, ("pyarrow",)),
    ".h5": Kind(_write_hdf5, _read_hdf5, [*COLUMNS, np.dtype("c8")], ("h5py",)),
    ".zarr": Kind(_write_zarr, _read_zarr, [*COLUMNS, np.dtype("c16")], ("zarr",)),
    ".vec": Kind(_write_words, _read_words, SINGLE),
    ".bin": Kind(_write_binary_words, _read_binary_words, SINGLE),
}
NAMED = {"tensor": "emb", "column": "emb"}


@pytest.fixture(params=[row.suffix for row in _formats.ROWS])
def row(request, tmp_path, monkeypatch):
    """A format whose libraries are here, in small windows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_formats, "WINDOW", 256)
    for name in KINDS[request.param].needs:
        pytest.importorskip(name)
    return next(row for row in _formats.ROWS if row.suffix == request.param)


@pytest.fixture
def normalized(row):
    """A function that writes an array, normalizes the file, and reads the result."""
    kind = KINDS[row.suffix]
    count = iter(range(10**6))
    named = {name: value for name, value in NAMED.items() if name in row.takes}

    def run(x, suffix=row.suffix, **keywords):
        source, target = (f"{next(count)}{end}" for end in (suffix, row.suffix))
        kind.write(source, x)
        report = normalize_file(source, target, **named, **keywords)
        assert report.vectors == len(x)
        return kind.read(target), source, target

    run.kind, run.named = kind, named
    return run


def same(got, want):
    """To the bit, but that any NaN is one; not what pads a longdouble."""
    want = np.ascontiguousarray(want)
    got = np.ascontiguousarray(got).astype(want.dtype, copy=False)
    assert got.shape == want.shape
    if want.dtype.char == "g":
        np.testing.assert_array_equal(got, want)
        return
    nan = want != want
    assert ((got != got) == nan).all()
    width = f"V{want.itemsize}"
    assert (got.view(width)[~nan] == want.view(width)[~nan]).all()


def test_every_format_is_here():
    assert {row.suffix for row in _formats.ROWS} <= KINDS.keys()
    for row in _formats.ROWS:
        assert set(row.reads) == KINDS[row.suffix].of_integers.keys()


def test_every_length(normalized):
    """Random, huge, tiny and mixed vectors, and what `eps`, `zero` and `norms` make of them."""
    for dtype in normalized.kind.dtypes:
        into = np.dtype("f4") if dtype.kind in "iub" else None
        with_numpy = {} if dtype in SHIPPED else {"backend": "numpy"}
        for n in (1, 3, 17, 129):
            x = cases.vectors(dtype.newbyteorder("="), n).astype(dtype)
            x[0] = 0
            got, _, _ = normalized(x, dtype=into, norms=f"n{dtype.name}{n}.npy", **with_numpy)
            want, norms = l2.normalize(x, dtype=into, return_norm=True, **with_numpy)
            same(got, want)
            stored = np.load(f"n{dtype.name}{n}.npy")
            same(stored, norms if stored.dtype == norms.dtype else norms.astype("f4"))
        for policy in ({"eps": 1.5}, {"zero": "nan"}):
            policy |= with_numpy
            same(normalized(x, dtype=into, **policy)[0], l2.normalize(x, dtype=into, **policy))
        cut = normalized(x, dtype=into, dims=5, **with_numpy)[0]
        same(cut, l2.normalize(np.ascontiguousarray(x[:, :5]), dtype=into, **with_numpy))


def test_grid(normalized):
    """Every magnitude crossed with every other: zeros, subnormals, 1, the largest, inf, NaN."""
    dtype = next(t for t in normalized.kind.dtypes if t == np.float32)
    for x in cases.grid(dtype):
        some = x[:: max(1, len(x) // 200)]
        same(normalized(some)[0], l2.normalize(some))


def test_raise(row, normalized):
    x = np.ones((9, 4), np.float32)
    x[6] = 0
    with pytest.raises(l2.ZeroVectorError, match=r"source: zero norm in 1 of 9 .* position 6 of"):
        normalized(x, zero="raise")
    x[4, 1] = np.nan
    with pytest.raises(l2.NonFiniteError, match=r"source: inf or NaN in 1 of 9 .* position 4 of"):
        normalized(x, nonfinite="raise")
    assert not [path for path in Path().iterdir() if path.name.startswith((".l2multi", "1."))]


def test_check(row, normalized):
    x = np.random.default_rng(0).standard_normal((20, 6)).astype("f4")
    _, source, target = normalized(x)
    assert check_file(target, **normalized.named).unit == 20
    assert check_file(source, **normalized.named).off == 20


def test_twice_and_no_vectors(row, normalized):
    """A second run over the result, and a file of none."""
    x = np.random.default_rng(0).standard_normal((20, 6)).astype("f4")
    first, *_ = normalized(x)
    same(normalized(first)[0], l2.normalize(first))
    if row.suffix in (".npy", ".npz", ".safetensors", ".fbin", ".parquet", ".arrow", ".h5"):
        assert normalized(x[:0])[0].size == 0


def test_integers(row, normalized):
    """Of the suffixes that hold them alone; the result is of the floating one."""
    for suffix, dtype in normalized.kind.of_integers.items():
        x = cases.vectors(np.dtype(dtype), 9)
        got, *_ = normalized(x, suffix, dtype="float32", backend="numpy")
        same(got, l2.normalize(x, dtype="f4", backend="numpy"))
        with pytest.raises(TypeError, match="dtype: float64 has no name"):
            normalized(x, suffix)


KILLED = """
import sys
from l2multi import _formats
from l2multi.files import normalize_file

source, warm, target, named = sys.argv[1:]
_formats.WINDOW = 1024
named = {} if named == "-" else {named: "emb"}
normalize_file(source, warm, **named)
print("ready", flush=True)
while True:
    normalize_file(source, target, **named)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kill -9, and folders that change places")
def test_kill_at_any_moment(row, normalized):
    """The target is the old one or the new one, whole, and the next run removes what was left."""
    x = np.random.default_rng(0).standard_normal((600, 20)).astype("f4")
    _, source, new = normalized(x)
    _, _, old = normalized(x, eps=1e3)
    target, warm = f"target{row.suffix}", f"warm{row.suffix}"
    name = next(iter(normalized.named), "-")
    command = [sys.executable, "-c", KILLED, source, warm, target, name]
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("L2MULTI_KILLS", "2"))):
        if row.folder:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(old, target)
        else:
            shutil.copyfile(old, target)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        assert digest(target) in (digest(old), digest(new))
    normalize_file(source, target, **normalized.named)
    assert digest(target) == digest(new) != digest(old)
    assert not [name for name in os.listdir() if name.endswith(".tmp")]
