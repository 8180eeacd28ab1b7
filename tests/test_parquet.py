"""Tables in files: one column changes, all else is as it was; read by polars and pyarrow."""

import datetime
import itertools
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

import l2multi as l2
from l2multi import _formats, _tables
from l2multi.cli import main
from l2multi.files import check_file, normalize_file
from l2multi.folders import normalize_folder
from l2multi.formats import parquet
from tests.streamed import BEFORE, refused, small_windows

if int(pa.__version__.split(".")[0]) < 26:
    pytest.skip("older ones cannot read nulls in lists of one size", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("small_windows")
__all__ = ["small_windows"]  # a fixture
ROWS = 47
SUFFIXES = (".parquet", ".arrow")


def rows(value, ragged=False) -> list:
    """Vectors, with nulls at the ends and within, null elements, zeros, inf and NaN."""
    drawn = np.random.default_rng(0).standard_normal((ROWS, 6)) * 50
    if not pa.types.is_floating(value):
        drawn = np.abs(drawn).astype("i8")
    found = [row.astype(value.to_pandas_dtype()).tolist() for row in drawn]
    for i in (0, 9, 20, 21, ROWS - 1):
        found[i] = None
    found[3][2] = None
    found[5] = [value.to_pandas_dtype()(0)] * 6
    if pa.types.is_floating(value):
        found[7][1], found[8][0] = float("inf"), float("nan")
    if ragged:
        found = [None if v is None else v[: i % 7] for i, v in enumerate(found)]
    return found


KINDS = {
    "fixed": lambda value: pa.list_(pa.field("item", value), 6),
    "list": pa.list_,
    "large": pa.large_list,
    "view": pa.list_view,
    "large view": pa.large_list_view,
    "tensor": lambda value: pa.fixed_shape_tensor(value, (2, 3), dim_names=["a", "b"]),
    "flat tensor": lambda value: pa.fixed_shape_tensor(value, (6,)),
}


def column(kind, value=None, ragged=False):
    value = pa.float32() if value is None else value
    if "tensor" in kind:
        storage = pa.array(rows(value), pa.list_(value, 6))
        return pa.ExtensionArray.from_storage(KINDS[kind](value), storage)
    return pa.array(rows(value, ragged), KINDS[kind](value))


def table(vectors):
    """Columns of many types around those vectors."""
    index = range(ROWS)
    texts = pa.array([None if i % 5 == 0 else f"ü{i % 3}" * (i % 4) for i in index])
    nested = [None if i % 6 == 0 else {"x": [i] * (i % 3), "y": {"z": f"{i}"}} for i in index]
    return pa.table(
        {
            "id": pa.array(index, pa.uint32()),
            "text": texts,
            "kind": texts.dictionary_encode(),
            "v": vectors,
            "time": pa.array([1000 * i for i in index], pa.timestamp("ns", "Europe/Berlin")),
            "nested": pa.array(nested),
            "map": pa.array([[("a", i)] for i in index], pa.map_(pa.string(), pa.int8())),
            "price": pa.array(index, pa.decimal128(20, 3)),
            "raw": pa.array([bytes([i]) for i in index], pa.binary(1)),
            "none": pa.nulls(ROWS),
            "tokens": pa.array([[i] * (i % 3) for i in index], pa.large_list(pa.int32())),
            "box": pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.int16(), (1,)),
                pa.array([[i] for i in index], pa.list_(pa.int16(), 1)),
            ),
        }
    ).replace_schema_metadata({"a": "ß", "pandas": "{}"})


def write(path, data, size=10, **keywords):
    if Path(path).suffix == ".parquet":
        pq.write_table(data, path, row_group_size=size, **keywords)
    else:
        with pa.ipc.new_file(path, data.schema, **keywords) as file:
            for batch in data.combine_chunks().to_batches(size):
                file.write_batch(batch)


def read(path):
    if Path(path).suffix == ".parquet":
        return pq.read_table(path)
    return pa.ipc.open_file(path).read_all()


def groups(path) -> list[int]:
    if Path(path).suffix == ".parquet":
        head = pq.read_metadata(path)
        return [head.row_group(i).num_rows for i in range(head.num_row_groups)]
    file = pa.ipc.open_file(path)
    return [file.get_batch(i).num_rows for i in range(file.num_record_batches)]


def bits(x) -> list:
    """Nulls, lengths and the bits of what is not null."""
    x = x.combine_chunks() if isinstance(x, pa.ChunkedArray) else x
    storage = getattr(x, "storage", x)
    valid = np.asarray(storage.is_valid())
    flat = storage.filter(pa.array(valid)).flatten()
    sizes = [None if row is None else len(row) for row in storage.to_pylist()]
    return [str(x.type), valid.tolist(), sizes, np.asarray(flat).tobytes()]


def assert_result(source, target, axis=-1, **keywords):
    """As in memory, bit for bit, in a table that else is the same by two readers."""
    report = normalize_file(source, target, axis, column="v", **keywords)
    before, after = read(source), read(target)
    after.validate(full=True)
    unit = l2.normalize(before["v"].combine_chunks(), axis, **keywords)
    assert bits(after["v"]) == bits(unit)
    assert after.drop_columns("v").equals(before.drop_columns("v"))
    fields = zip(after.schema, before.schema, strict=True)
    assert all(a.equals(b, check_metadata=True) for a, b in fields if a.name != "v")
    assert after.schema.metadata == before.schema.metadata
    assert groups(target) == groups(source)
    return report


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_kinds_of_columns(suffix, kind, dtype):
    axis = (1, 2) if kind == "tensor" else -1
    ragged = "list" in kind or "view" in kind or kind == "large"
    write("in" + suffix, table(column(kind, ragged=ragged)), 11)
    report = assert_result("in" + suffix, "out" + suffix, axis, dtype=dtype)
    nulls = 5 if ragged and 3 % 7 == 0 else 6
    assert (report.vectors, report.null) == (ROWS, nulls)
    assert report.shape == {"tensor": (ROWS, 2, 3)}.get(kind, (ROWS, None if ragged else 6))
    if kind != "tensor":
        norms = l2.norm(read("in" + suffix)["v"].combine_chunks())
        normalize_file("in" + suffix, "out" + suffix, column="v", norms="norms.npy")
        want = norms.to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(np.load("norms.npy"), want)
        assert report.zero == np.sum(want == 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", ["float16", "float32", "float64", "int8", "uint64", "bool"])
@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_types_of_numbers(suffix, value, kind):
    value = {"bool": pa.bool_()}.get(value) or getattr(pa, value)()
    write("in" + suffix, table(column(kind, value)), 11)
    report = assert_result("in" + suffix, "out" + suffix)
    own = np.dtype(value.to_pandas_dtype())
    assert (report.source_dtype, report.dtype) == (own, own if own.kind == "f" else np.float64)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize(("size", "window"), [(1, 256), (10, 2**24), (10, 300), (100, 300)])
def test_parquet_compressions(compression, size, window):
    _formats.WINDOW = window  # put back by the fixture
    data = table(column("fixed"))
    codecs = dict.fromkeys(data.column_names, "zstd")
    path = "v.list.element"
    write("in.parquet", data, size, compression={**codecs, path: compression})
    assert_result("in.parquet", "out.parquet")
    for before, after in zip(*map(heads, ("in.parquet", "out.parquet")), strict=True):
        assert (after.compression, after.path_in_schema) == (
            before.compression,
            before.path_in_schema,
        )


def heads(path) -> list:
    head = pq.read_metadata(path)
    each = (head.row_group(i) for i in range(head.num_row_groups))
    return [group.column(i) for group in each for i in range(head.num_columns)]


SETTINGS = {
    "plain": {"use_dictionary": False},
    "pages of version 2": {"data_page_version": "2.0"},
    "no statistics": {"write_statistics": False},
    "some statistics": {"write_statistics": ["id", "v.list.element"]},
    "some dictionaries": {"use_dictionary": ["text"]},
    "encodings": {
        "use_dictionary": False,
        "column_encoding": {
            "id": "DELTA_BINARY_PACKED",
            "text": "DELTA_BYTE_ARRAY",
            "v.list.element": "BYTE_STREAM_SPLIT",
        },
    },
    "page index": {"write_page_index": True},
    "sorted": {"sorting_columns": [pq.SortingColumn(0)]},
    "no Arrow schema": {"store_schema": False},
    "version 1": {"version": "1.0", "store_schema": False},
    "other names": {"use_compliant_nested_type": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_parquet_settings_are_carried(name):
    data = table(column("list" if "1" in name or "no A" in name else "fixed"))
    write("in.parquet", data, 20, **SETTINGS[name])
    assert_result("in.parquet", "out.parquet")
    before, after = pq.read_metadata("in.parquet"), pq.read_metadata("out.parquet")
    assert after.schema.equals(before.schema)
    assert after.format_version == before.format_version
    assert sorted(after.metadata or ()) == sorted(before.metadata or ())
    groups = zip(*(map(f.row_group, range(3)) for f in (after, before)), strict=True)
    assert all(a.sorting_columns == b.sorting_columns for a, b in groups)
    for a, b in zip(heads("out.parquet"), heads("in.parquet"), strict=True):
        assert (a.is_stats_set, a.has_column_index) == (b.is_stats_set, b.has_column_index)
        if a.path_in_schema.startswith("v.") and b.has_dictionary_page:  # of as many as there are
            assert not a.has_dictionary_page
            continue
        assert set(a.encodings) == set(b.encodings)
        assert a.has_dictionary_page == b.has_dictionary_page
        if not a.path_in_schema.startswith("v."):
            assert a.statistics == b.statistics
    kinds = [Path(p).read_bytes()[heads(p)[0].data_page_offset + 1] for p in ("in.parquet",
             "out.parquet")]  # fmt: skip
    assert kinds[0] == kinds[1] == (6 if "2" in name else 0)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_dictionary_that_saves_is_kept(dtype):
    """That of vectors of few numbers; of numbers that are all different none is tried again."""
    few = np.tile(np.eye(8, dtype=dtype), (ROWS, 1))
    many = np.random.default_rng(0).standard_normal(few.shape).astype(dtype)
    for x, kept in ((few, True), (many, False)):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
        pq.write_table(pa.table({"v": rows}), "in.parquet", row_group_size=50)
        assert all(head.has_dictionary_page for head in heads("in.parquet"))
        normalize_file("in.parquet", "out.parquet")
        assert all(head.has_dictionary_page == kept for head in heads("out.parquet"))
        assert kept or os.path.getsize("out.parquet") < os.path.getsize("in.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_by_polars(suffix):
    """Written and read by another library."""
    x = np.random.default_rng(0).standard_normal((ROWS, 4)).astype("f4")
    frame = pl.DataFrame(
        {
            "text": [f"{i}" for i in range(ROWS)],
            "v": pl.Series(x, dtype=pl.Array(pl.Float32, 4)),
            "c": pl.Series(["a", "b", None] * 16, dtype=pl.Categorical)[:ROWS],
        }
    )
    scan = {".parquet": pl.read_parquet, ".arrow": pl.read_ipc}[suffix]
    how = {".parquet": frame.write_parquet, ".arrow": frame.write_ipc}[suffix]
    for compression in ("uncompressed", "zstd", "lz4"):
        how("in" + suffix, compression=compression)
        normalize_file("in" + suffix, "out" + suffix)
        got = scan("out" + suffix)
        assert got.drop("v").equals(frame.drop("v"))
        assert got.schema == frame.schema
        assert got["v"].to_numpy().tobytes() == l2.normalize(x).tobytes()


@pytest.mark.parametrize("nested", [False, True])
def test_old_timestamps(nested):
    """Those of 96 bits, as Spark and Impala wrote them, also of years that nanoseconds cannot say;
    compared as microseconds."""
    at = datetime.datetime
    days = [at(1500, 1, 1, 1, 2, 3, 4), at(2020, 1, 1), None, at(2500, 6, 1), at(9999, 12, 31)]
    v = pa.array([[3.0, 4.0]] * 5)

    def build(stamps):
        other = pa.array([{"l": [one]} for one in stamps.to_pylist()], pa.struct(
            [("l", pa.list_(stamps.type))])) if nested else stamps  # fmt: skip
        options = {"use_deprecated_int96_timestamps": True, "compression": "none"}
        pq.write_table(pa.table({"t": other, "v": v}), "in.parquet", **options)

    build(pa.array(days, pa.timestamp("us")))
    normalize_file("in.parquet", "out.parquet")
    old, new = (
        pq.ParquetFile(name, coerce_int96_timestamp_unit="us").read()
        for name in ("in.parquet", "out.parquet")
    )
    assert new["t"].equals(old["t"])
    assert new["v"][0].as_py() == [0.6, 0.8]
    schemas = [pq.ParquetFile(name).schema for name in ("in.parquet", "out.parquet")]
    assert schemas[0].equals(schemas[1])
    build(pa.array([1, 2, None, 3, -(2**62)], pa.timestamp("ns")))  # within, and not of whole ones
    normalize_file("in.parquet", "out.parquet")
    assert read("out.parquet")["t"].equals(read("in.parquet")["t"])
    whole = pa.array([0, 1, None, 10**15, 253402214400 * 10**6], pa.timestamp("us"))
    build(whole)
    data = bytearray(Path("in.parquet").read_bytes())
    day = (2440588).to_bytes(4, "little")  # 1970
    at_one = data.index((1000).to_bytes(8, "little") + day)
    data[at_one : at_one + 8] = (1001).to_bytes(8, "little")
    Path("in.parquet").write_bytes(data)
    both = "source: .*others with nanoseconds, which pyarrow cannot read both"
    refused(ValueError, both, "in.parquet", "out.parquet")
    for order in ("beyond", "fine"), ("fine", "beyond"):
        columns = {
            "beyond": pa.array([at(1019, 1, 1)], pa.timestamp("us")),
            "fine": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        }
        table = pa.table({name: columns[name] for name in order} | {"v": v[:1]})
        pq.write_table(table, "in.parquet", use_deprecated_int96_timestamps=True)
        refused(ValueError, both, "in.parquet", "out.parquet")


def test_by_pandas():
    """A column of arrays, an index, and what pandas says of itself."""
    pd = pytest.importorskip("pandas")
    x = np.random.default_rng(0).standard_normal((5, 4))
    frame = pd.DataFrame({"v": list(x), "n": range(5)}, index=list("abcde"))
    frame.to_parquet("in.parquet")
    normalize_file("in.parquet", "out.parquet")
    got = pd.read_parquet("out.parquet")
    pd.testing.assert_frame_equal(got.drop(columns="v"), frame.drop(columns="v"))
    assert np.stack(got["v"].tolist()).tobytes() == l2.normalize(x).tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("window", [100, 2**24])
def test_policies(suffix, window):
    _formats.WINDOW = window  # put back by the fixture
    source, target = "in" + suffix, "out" + suffix
    vectors = column("fixed")
    data = table(vectors)
    write(source, data, 20)
    want = l2.normalize(vectors, zero="null")
    report = normalize_file(source, target, column="v", zero="null")
    assert bits(read(target)["v"])[1:] == bits(want)[1:]
    assert (report.zero, report.null, report.dropped) == (1, 6, 0)
    assert report.zero_at == ((5,),)
    report = normalize_file(source, target, column="v", zero="drop", norms="norms.npy")
    keep = np.arange(ROWS) != 5
    rest = data.filter(pa.array(keep))
    got = read(target)
    assert bits(got["v"])[1:] == bits(l2.normalize(vectors.filter(pa.array(keep))))[1:]
    assert got.drop_columns("v").equals(rest.drop_columns("v"))
    assert groups(target) == [19, 20, 7]
    assert (report.dropped, len(np.load("norms.npy"))) == (1, ROWS)
    refused(l2.ZeroVectorError, r"1 of 47 vectors.* position 5 ", source, target, column="v",
            zero="raise")  # fmt: skip
    refused(l2.NonFiniteError, r"2 of 47 vectors.* position 7 ", source, target, column="v",
            nonfinite="raise")  # fmt: skip
    assert check_file(source, column="v").null == 6


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tensor"])
def test_cut(suffix, kind):
    vectors = column(kind, ragged="tensor" not in kind and kind != "fixed")
    write("in" + suffix, table(vectors), 20)
    report = normalize_file("in" + suffix, "out" + suffix, column="v", dims=4)
    storage = getattr(vectors, "storage", vectors)
    short = [None if row is None else row[:4] for row in storage.to_pylist()]
    value = pa.float32()
    like = pa.list_(value, 4) if "tensor" in kind or kind == "fixed" else KINDS[kind](value)
    got = read("out" + suffix)["v"]
    assert bits(got)[1:] == bits(l2.normalize(pa.array(short, like)))[1:]
    assert got.type.id == vectors.type.id
    assert report.length == (None if "list" in str(got.type)[:10] else 4) or kind == "fixed"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_few(suffix):
    """No rows, no row groups, row groups of no rows, nulls alone."""
    source, target = "in" + suffix, "out" + suffix
    data = table(column("fixed"))
    write(source, data.slice(0, 0))
    report = assert_result(source, target)
    assert (report.vectors, report.length, report.smallest) == (0, 6, None)
    if suffix == ".parquet":
        pq.ParquetWriter(source, data.schema).close()
        with pq.ParquetWriter("empty.parquet", data.schema) as file:
            for part in (data.slice(0, 0), data.slice(0, 5), data.slice(0, 0)):
                file.write_table(part)
        assert_result("empty.parquet", target)
        assert groups(target) == [0, 5, 0]
    else:
        pa.ipc.new_file(source, data.schema).close()
    assert_result(source, target)
    write(source, data.set_column(3, "v", pa.nulls(ROWS, pa.list_(pa.float32(), 3))))
    report = assert_result(source, target)
    assert (report.null, report.zero, report.largest) == (ROWS, 0, None)
    long = pa.table({"v": pa.array([None] * 2000, pa.list_(pa.float32()))})
    write(source, long, 2000)
    assert normalize_file(source, target).null == 2000
    assert read(target).equals(read(source))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_which_column(suffix, capsys):
    source, target = "in" + suffix, "out" + suffix
    x = column("fixed").slice(1, 8)
    ids, ints = pa.array(range(8)), pa.array([[3, 4]] * 8)
    write(source, pa.table({"i": ids, "tokens": ints, "v": x}))
    assert normalize_file(source, target).name == "v"  # the only one of floating numbers
    assert main(["info", source]) == 0
    assert "\ncolumn         v\n" in capsys.readouterr().out
    assert bits(read(target)["v"])[1:] == bits(l2.normalize(x))[1:]
    normalize_file(source, target, column="tokens")
    assert read(target)["tokens"][0].as_py() == [0.6, 0.8]
    write(source, pa.table({"i": ids, "tokens": ints}))
    normalize_file(source, target)
    assert read(target)["tokens"][0].as_py() == [0.6, 0.8]
    write(source, pa.table({"i": ids, "a": x, "b": x}))
    message = "column: expected one of the vectors in .*'a', 'b'.*, got "
    refused(ValueError, message + "none", source, target)
    refused(ValueError, message + "'c'", source, target, column="c")
    command = ["normalize", source, target, "--quiet"]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("l2multi: error: --column: expected one of the vect")
    assert main([*command, "--column", "b"]) == 0
    write(source, pa.table({"i": ids}))
    refused(ValueError, "source: expected a table with a column of lists", source, target)
    write(source, pa.table({"i": ids, "a": pa.array([[b"ab"]] * 8, pa.list_(pa.binary(2)))}))
    refused(TypeError, "source: column 'a' of .*Arrow lists of .*float16 without their logical",
            source, target, column="a")  # fmt: skip
    refused(TypeError, "source: column 'i' of .*: Arrow type int64", source, target, column="i")
    write(source, pa.table({"v": x}))
    refused(ValueError, "axis: expected -1", source, target, axis=0)
    refused(TypeError, "dtype: longdouble", source, target, dtype="longdouble")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_in_structs(suffix):
    vectors = column("fixed").slice(1, 40)
    other = pa.array(range(40))
    missing = pa.array([i % 9 == 4 for i in range(40)])
    inner = pa.StructArray.from_arrays([other, vectors], ["n", "v"], mask=missing)
    outer = pa.StructArray.from_arrays([inner, other], ["e", "n"])
    write("in" + suffix, pa.table({"a": outer, "a.n": other}), 15)
    before = read("in" + suffix)["a"].to_pylist()
    report = normalize_file("in" + suffix, "out" + suffix, column="a.e.v", dtype="float64")
    after = read("out" + suffix)["a"].to_pylist()
    unit = l2.normalize(vectors, dtype="float64").to_pylist()
    for i, row in enumerate(before):
        if i % 9 != 4:
            row["e"]["v"] = unit[i]
    np.testing.assert_equal(after, before)
    assert report.null == sum(u is None or i % 9 == 4 for i, u in enumerate(unit))


def test_no_nulls_where_none_may_be():
    kind = pa.list_(pa.float32(), 2)
    schema = pa.schema([pa.field("v", kind, nullable=False)])
    write("in.parquet", pa.table([pa.array([[3, 4], [0, 0]], kind)], schema))
    normalize_file("in.parquet", "out.parquet")
    assert read("out.parquet").schema == read("in.parquet").schema
    refused(ValueError, "target: column 'v' is declared to have no nulls", "in.parquet",
            "out.parquet", zero="null")  # fmt: skip


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("window", [100, 2**24])
def test_arrow_batches(compression, form, window):
    """Boundaries, metadata of each batch and of the file, dictionaries, compression."""
    _formats.WINDOW = window  # put back by the fixture
    data = table(column("list", ragged=True)).combine_chunks()
    (whole,) = data.to_batches()
    cuts = [0, 1, 1, 30, ROWS]
    parts = [whole.slice(lo, hi - lo) for lo, hi in itertools.pairwise(cuts)]
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[form]
    with new("in.feather", data.schema, options=options) as file:
        for i, part in enumerate(parts):
            file.write_batch(part, custom_metadata={"i": str(i)})
    normalize_file("in.feather", "out.feather", column="v")
    if form == "file":
        file = pa.ipc.open_file("out.feather")
        found = [file.get_batch_with_custom_metadata(i) for i in range(file.num_record_batches)]
        assert feather.read_table("out.feather").num_rows == ROWS
    else:
        with pa.OSFile("out.feather") as space, pa.ipc.open_stream(space) as file:
            found = list(file.iter_batches_with_custom_metadata())
    assert [len(batch) for batch, _ in found] == list(map(len, parts))
    assert [dict(m) for _, m in found] == [{b"i": b"%d" % i} for i in range(4)]
    got = pa.Table.from_batches([batch for batch, _ in found])
    assert got.schema.equals(data.schema, check_metadata=True)
    assert got.drop_columns("v").equals(data.drop_columns("v"))
    assert bits(got["v"]) == bits(l2.normalize(data["v"].combine_chunks()))
    if compression:
        raw = Path("out.feather").read_bytes()
        assert {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}[compression] in raw


def test_arrow_of_no_width():
    data = pa.table({"v": pa.array([[], []], pa.list_(pa.float32(), 0))})
    write("in.arrow", data)
    assert normalize_file("in.arrow", "out.arrow").shape == (2, 0)
    assert read("out.arrow").equals(data)


def test_feather_of_version_1():
    Path("in.feather").write_bytes(b"FEA1" + bytes(40) + b"FEA1")
    refused(ValueError, "source: .*Feather version 1.*write_feather", "in.feather", "out.feather")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_anywhere(suffix):
    write("whole" + suffix, table(column("fixed")))
    whole = Path("whole" + suffix).read_bytes()
    for size in {0, 1, 4, 7, 8, 11, 12, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
        Path("in" + suffix).write_bytes(whole[:size])
        refused(ValueError, "^source: expected a complete ", "in" + suffix, "out" + suffix)
    Path("in" + suffix).write_bytes(b"x" * 4096)
    refused(ValueError, "^source: expected a complete ", "in" + suffix, "out" + suffix)


def test_truncated_stream():
    data = table(column("fixed"))
    with pa.ipc.new_stream("whole.arrow", data.schema) as file:
        file.write_table(data, 10)
    whole = Path("whole.arrow").read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 8, len(whole) - 1):
        Path("in.arrow").write_bytes(whole[:size])
        refused(ValueError, "^source: expected a complete ", "in.arrow", "out.arrow", column="v")
    Path("in.arrow").write_bytes(whole + b"more")
    refused(ValueError, "^source: .*more in it", "in.arrow", "out.arrow", column="v")


def test_row_group_of_other_columns_than_the_schema():
    """Refused before it is asked for its columns: of some that are not there, pyarrow ends the
    process. No such file is kept here."""

    class Head:
        """What pyarrow says of one."""

        num_columns, num_row_groups = 1, 1

        def row_group(self, index):
            return types.SimpleNamespace(num_columns=2)

    with pytest.raises(pa.ArrowInvalid, match="its row group 0 has 2 columns, and its schema has"):
        parquet._groups(Head())


def test_encoding_that_a_column_cannot_have():
    """As a head may claim that lies; pyarrow says so by an OSError without a number."""
    table = pa.table({"v": [1.5]})
    settings = {"use_dictionary": False, "column_encoding": {"v": "DELTA_BINARY_PACKED"}}
    told = r"^target: cannot be written as its source is \(DELTA_BINARY"
    with pytest.raises(ValueError, match=told), _tables.writing():
        pq.write_table(table, "y.parquet", **settings)


def test_folder_of_parts():
    os.mkdir("parts")
    for i, n in enumerate((5, 0, 7)):
        write(f"parts/{i}.parquet", table(column("fixed")).slice(0, n))
    normalize_folder("parts", "unit", column="v")
    got = [read(f"unit/{i}.parquet") for i in range(3)]
    assert [len(part) for part in got] == [5, 0, 7]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_pyarrow(suffix):
    write("in" + suffix, pa.table({"v": column("fixed")}))
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from l2multi.files import normalize_file\n"
        f"try: normalize_file('in{suffix}', 'out{suffix}')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.stdout.startswith("source: tables need pyarrow 16 or newer")
    assert "pip install" in done.stdout


# As in test_files.py: private writable memory is capped, and the cap bites. One row group and one
# record batch have all rows.
BOUNDED = """
import resource, sys
import numpy as np
import pyarrow as pa
from l2multi import _formats
from l2multi.files import normalize_file

small, large, target = sys.argv[1:]
_formats.WINDOW = 2**22
normalize_file(small, target)
with open("/proc/self/status") as status:
    data = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 100 * 2**20,) * 2)
report = normalize_file(large, target)
assert report.nbytes == 320_000_000, report
try:
    np.fromfile(large, "u1")
except MemoryError:
    print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux only")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_bounded(suffix):
    for name, n in (("small", 10_000), ("large", 160_000)):
        x = np.random.default_rng(0).random((n, 250), np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(x.ravel(), 250)
        keywords = {"compression": "none"} if suffix == ".parquet" else {}
        write(name + suffix, pa.table({"i": np.arange(n), "v": vectors}), n, **keywords)
    environment = {**os.environ, "L2MULTI_BACKEND": "numpy", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-c", BOUNDED, *(n + suffix for n in ("small", "large", "out"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bounded\n", "")
    assert groups("out" + suffix) == [160_000]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_failure_midway(suffix, failure):
    source, target = "in" + suffix, "out" + suffix
    write(source, table(column("fixed")))
    Path(target).write_bytes(BEFORE)

    def fail(done, total):
        if total // 2 < done < total:
            raise failure

    with pytest.raises(failure):
        normalize_file(source, target, column="v", progress=fail)
    assert Path(target).read_bytes() == BEFORE
    assert sorted(os.listdir()) == [source, target]
