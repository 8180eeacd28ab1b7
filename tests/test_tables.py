"""Parquet and Arrow files: the bits of the column in memory, and everything else as it was."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import l2multi as l2
from l2multi import _formats, _tables
from l2multi.files import check_file, normalize_file
from tests.streamed import refused

N, D = 103, 7


@pytest.fixture(autouse=True)
def small_windows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_formats, "WINDOW", 2000)


def column(kind, dtype="f4", nulls=True):
    """Vectors, among them a zero one, an inf, a NaN, nulls and a null element."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((N, D)) * 100).astype(dtype)
    x[5] = 0
    if x.dtype.kind == "f":
        x[6, 1], x[7, 2] = np.inf, np.nan
    value = pa.from_numpy_dtype(x.dtype)
    if kind == "tensor":
        storage = pa.FixedSizeListArray.from_arrays(x.ravel(), D)
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(value, [D]), storage)
    rows = [row.tolist() for row in x]
    if nulls:
        rows[0] = rows[50] = rows[-1] = None
        rows[9][0] = None
    if kind == "ragged":
        rows[20], rows[21] = rows[20][:3], []
        return pa.array(rows, pa.list_(value))
    kinds = {
        "fixed": pa.list_(value, D), "list": pa.list_(value), "large": pa.large_list(value),
        "view": pa.list_view(value),
    }  # fmt: skip
    return pa.array(rows, kinds[kind])


def table(vectors):
    """With columns of many types beside it, and metadata of table and fields."""
    field = pa.field("emb", vectors.type, metadata={"model": "m"})
    others = pa.table(
        {
            "id": pa.array(range(N), pa.int32()),
            "text": pa.array([None if i % 9 == 0 else f"t{i % 4}" for i in range(N)]),
            "kind": pa.array([f"k{i % 3}" for i in range(N)]).dictionary_encode(),
            "time": pa.array(range(N), pa.timestamp("us", "UTC")),
            "nested": [{"a": i, "b": [{"c": None}] * (i % 3)} for i in range(N)],
            "words": [["x"] * (i % 4) for i in range(N)],
        }
    )
    return others.add_column(2, field, vectors).replace_schema_metadata({"k": "v"})


def write_stream(t, path):
    with pa.ipc.new_stream(path, t.schema) as writer:
        writer.write_table(t, max_chunksize=40)


WRITERS = {
    "x.parquet": lambda t, path: pq.write_table(t, path, row_group_size=40),
    "x.pq": lambda t, path: pq.write_table(t, path, compression="zstd", store_schema=True),
    "x.feather": lambda t, path: pa.feather.write_feather(t, path, chunksize=40),
    "x.arrow": write_stream,
    "x.ipc": lambda t, path: pa.feather.write_feather(t, path, compression="uncompressed"),
}


def read(path):
    if path.endswith(("parquet", "pq")):
        return pq.read_table(path)
    with open(path, "rb") as file:
        magic = file.read(6)
    with pa.memory_map(path) as source:
        opened = pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)
        return opened.read_all()


def written(name, vectors):
    """A file, what a reader sees in it, and the name of the result."""
    if "view" in str(vectors.type) and name.endswith(("parquet", "pq")):
        pytest.skip("the newest pyarrow alone writes views to Parquet")
    WRITERS[name](table(vectors), name)
    return read(name), f"y{os.path.splitext(name)[1]}"


def assert_like(got, want, vectors):
    """A table with these vectors, and all else as it was."""
    at = want.schema.get_field_index("emb")
    assert got.schema.metadata == want.schema.metadata
    assert got.schema.field(at).equals(
        want.schema.field(at).with_type(got.schema.field(at).type), check_metadata=True
    )
    assert got.drop_columns("emb").equals(want.drop_columns("emb"))
    assert got.drop_columns("emb").schema.equals(want.drop_columns("emb").schema, True)
    assert_same(got["emb"].combine_chunks(), vectors)


def assert_same(got, want):
    """To the bit, NaN and the sign of zero too."""
    assert got.is_null().equals(want.is_null())
    if isinstance(got, pa.ExtensionArray):
        got, want = got.storage, want.storage
    got, want = (
        one.flatten() if one.null_count == 0 else one.drop_null().flatten() for one in (got, want)
    )
    got, want = (one.to_numpy(zero_copy_only=False) for one in (got, want))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["fixed", "list", "large", "ragged", "tensor", "view"])
def test_round_trip(name, kind):
    want, target = written(name, column(kind))
    x = want["emb"].combine_chunks()
    report = normalize_file(name, target, norms="n.npy")
    assert_like(read(target), want, l2.normalize(x))
    norms = l2.norm(x)
    known = norms.to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(np.load("n.npy"), known)
    assert (report.vectors, report.zero, report.null) == (
        N,
        1 + (kind == "ragged"),
        norms.null_count,
    )
    assert report.zero_at[0] == (5,)
    assert report.nonfinite_at == ((6,), (7,))
    assert report.length == (None if kind in ("list", "large", "ragged", "view") else D)


@pytest.mark.parametrize("name", ["x.parquet", "x.feather"])
@pytest.mark.parametrize("dtype", ["f2", "f8", "i4", "u1", "i8"])
def test_dtypes(name, dtype):
    want, target = written(name, column("fixed", dtype))
    x = want["emb"].combine_chunks()
    for result in (None, "float16", "float32"):
        report = normalize_file(name, target, dtype=result, backend="numpy")
        assert report.dtype == np.dtype(result or ("f8" if dtype[0] in "iu" else dtype))
        assert_like(read(target), want, l2.normalize(x, dtype=result, backend="numpy"))
    refused(TypeError, "dtype: bfloat16 has no name in a", name, target, dtype="bfloat16")


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
@pytest.mark.parametrize("kind", ["fixed", "ragged"])
def test_policies(name, kind):
    want, target = written(name, column(kind))
    x = want["emb"].combine_chunks()
    for zero in ("nan", "null"):
        assert normalize_file(name, target, zero=zero).zero >= 1
        assert_like(read(target), want, l2.normalize(x, zero=zero))
    report = normalize_file(name, target, zero="drop")
    keep = pa.compute.invert(pa.compute.equal(l2.norm(x), 0)).fill_null(True)
    assert report.dropped == report.zero == N - pa.compute.sum(keep).as_py()
    assert_like(read(target), want.filter(keep), l2.normalize(x).filter(keep))
    refused(l2.ZeroVectorError, "source: zero norm .* position 5 of", name, target, zero="raise")
    refused(l2.NonFiniteError, "source: inf or NaN in 2 ", name, target, nonfinite="raise")
    refused(ValueError, "axis: expected -1", name, target, axis=0)
    report = normalize_file(name, target, dims=3)
    assert report.shape == (N, 3 if kind == "fixed" else None)
    first = [None if row is None else row[:3] for row in x.to_pylist()]
    cut = l2.normalize(pa.array(first, pa.list_(pa.float32())))
    assert_same(read(target)["emb"].combine_chunks().cast(cut.type), cut)
    assert check_file(name).null == sum(row is None or None in row for row in x.to_pylist())


def test_not_nullable_column():
    x = column("fixed", nulls=False)
    t = table(x)
    t = t.cast(t.schema.set(2, t.schema.field(2).with_nullable(False)))
    pq.write_table(t, "x.parquet")
    refused(ValueError, "zero: null is for columns", "x.parquet", "y.parquet", zero="null")
    normalize_file("x.parquet", "y.parquet")
    assert not pq.read_schema("y.parquet").field("emb").nullable


def test_parquet_is_written_as_it_was():
    """Row groups, codecs, dictionaries, encodings, statistics; Polars reads the same."""
    t = table(column("fixed"))
    names = [c for c in t.column_names if c != "emb"]
    pq.write_table(
        t, "x.parquet", row_group_size=30, use_dictionary=["text"], write_statistics=["id"],
        compression={"id": "gzip", "emb.list.element": "zstd", "text": "none", "words": "snappy"},
        column_encoding={"emb": "BYTE_STREAM_SPLIT", "id": "DELTA_BINARY_PACKED"},
        write_page_index=True, sorting_columns=[pq.SortingColumn(0)],
    )  # fmt: skip
    normalize_file("x.parquet", "y.parquet")
    old, new = (pq.read_metadata(f"{name}.parquet") for name in "xy")
    assert new.num_row_groups == old.num_row_groups == 4
    for i in range(4):
        a, b = old.row_group(i), new.row_group(i)
        assert (a.num_rows, a.sorting_columns) == (b.num_rows, b.sorting_columns)
        for j in range(a.num_columns):
            for what in ("path_in_schema", "compression", "encodings", "is_stats_set",
                         "has_dictionary_page", "has_offset_index"):  # fmt: skip
                assert getattr(a.column(j), what) == getattr(b.column(j), what)
    assert pl.read_parquet("y.parquet", columns=names).equals(
        pl.read_parquet("x.parquet", columns=names)
    )


def test_what_polars_and_pandas_write():
    """Lists from the one, half floats too; objects with an index from the other. Reports of
    polars#25572 and cudf#19497."""
    rows = [[3.0, 4.0], [300.0, 400.0], None]
    for kind in (pl.Float32, pl.Float16):
        pl.DataFrame({"e": pl.Series(rows, dtype=pl.List(kind)), "i": [1, 2, 3]}).write_parquet(
            "x.pq"
        )
        normalize_file("x.pq", "y.pq")
        got = pl.read_parquet("y.pq")
        assert got.schema == pl.read_parquet("x.pq").schema
        want = np.array([0.6, 0.8], "f2" if kind == pl.Float16 else "f4").tolist()
        assert got["e"].to_list() == [want, want, None]
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"e": [np.array(row or [0, 0], "f4") for row in rows]}, index=["x", "y", "z"]
    )
    frame.to_parquet("x.parquet")
    normalize_file("x.parquet", "y.parquet")
    got = pd.read_parquet("y.parquet")
    assert list(got.index) == ["x", "y", "z"]
    np.testing.assert_array_equal(np.stack(got["e"]), l2.normalize(np.stack(frame["e"])))


@pytest.mark.parametrize("name", WRITERS)
def test_no_rows(name):
    for t in (table(column("fixed")).slice(0, 0), table(column("list")).slice(0, 0)):
        WRITERS[name](t, name)
        target = f"y{os.path.splitext(name)[1]}"
        assert normalize_file(name, target).vectors == 0
        assert read(target).equals(read(name))
        assert read(target).schema.equals(read(name).schema, True)


def test_which_column():
    t = table(column("fixed")).append_column("two", column("list"))
    pq.write_table(t, "x.parquet")
    for asked in (None, "none"):
        told = rf"column: expected one of those in 'x.parquet' \('emb', 'two'\), got {asked!r}"
        refused(ValueError, told, "x.parquet", "y.parquet", column=asked)
    refused(TypeError, "column: 'text' of", "x.parquet", "y.parquet", column="text")
    refused(ValueError, "tensor: expected none", "x.parquet", "y.parquet", tensor="emb")
    normalize_file("x.parquet", "y.parquet", column="two")
    got = pq.read_table("y.parquet")
    assert_same(got["emb"].combine_chunks(), pq.read_table("x.parquet")["emb"].combine_chunks())
    assert_same(got["two"].combine_chunks(), l2.normalize(column("list")))
    pq.write_table(t.select(["id"]), "x.parquet")
    refused(
        ValueError, r"column: expected one of those in 'x.parquet' \(\)", "x.parquet", "y.parquet"
    )


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.arrow"])
def test_damaged(name):
    """What is cut or garbled is refused in a line, whatever was cut."""
    _, target = written(name, column("fixed"))
    whole = Path(name).read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 9):
        Path(name).write_bytes(whole[:size])
        refused(ValueError, f"source: expected a complete .*, got '{name}'", name, target)
    if name == "x.feather":
        Path(name).write_bytes(b"FEA1" + whole[4:])
        refused(ValueError, "source: expected a .*, which is Feather of version 1", name, target)


def test_long_row_groups_are_written_in_several(monkeypatch):
    monkeypatch.setattr(_tables, "GROUP", 2000)
    want, _ = written("x.pq", column("fixed"))
    normalize_file("x.pq", "y.pq")
    assert pq.read_metadata("x.pq").num_row_groups == 1
    assert pq.read_metadata("y.pq").num_row_groups > 2
    assert_like(pq.read_table("y.pq"), want, l2.normalize(want["emb"].combine_chunks()))


BOUNDED = """
import resource, sys
import numpy as np
from l2multi.files import normalize_file

small, large, target = sys.argv[1:]
normalize_file(small, target)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 300 * 2**20,) * 2)
assert normalize_file(large, target).vectors == 400_000
try:
    np.fromfile(large, "u1")
except MemoryError:
    print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
def test_memory_is_bounded():
    """In one row group of 400 MB."""
    for name, n in (("small", 1000), ("large", 400_000)):
        x = np.ones(n * 250, np.float32)
        t = pa.table({"v": pa.FixedSizeListArray.from_arrays(x, 250)})
        pq.write_table(t, f"{name}.parquet", use_dictionary=False, compression="none")
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *(f"{n}.parquet" for n in ("small", "large", "out"))],
        capture_output=True, text=True, check=False, env={**os.environ, "L2MULTI_BACKEND": "numpy"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("bounded\n", "")
