"""Arrow arrays of vectors: nulls, slices, chunks, types; values are those of NumPy to the bit."""

import numpy as np
import pytest

import l2multi as l2
from l2multi import _containers, _contract

pa = pytest.importorskip("pyarrow")

RNG = np.random.default_rng(5)


def lists(rows, value="float32", width=2):
    """A fixed-size list array of Python lists."""
    return pa.array(rows, pa.list_(pa.type_for_alias(value), width))


def test_a_slice_counts_its_own_rows():
    """As polars#28583 reports of others: rows shifted by the offset."""
    x = lists([[0, 0], [3, 4], [6, 8], None, [1, 0]], "float64")
    want = [[0.6, 0.8], [0.6, 0.8], None]
    assert l2.normalize(x.slice(1, 3)).to_pylist() == want
    both = pa.chunked_array([x.slice(1, 3), x.slice(4), x.slice(0, 0)])
    got = l2.normalize(both)
    assert [chunk.to_pylist() for chunk in got.chunks] == [want, [[1.0, 0.0]], []]
    assert l2.norm(both).to_pylist() == [5.0, 10.0, None, 1.0]
    assert l2.is_normalized(both).to_pylist() == [False, False, None, True]


def test_what_lies_under_a_null_never_counts():
    """As lance-spark#727: rows after a null row are shifted, or the slot is read."""
    child = pa.array([3, 4, np.nan, np.inf, 6, 8, 0, 0], pa.float32())
    mask = pa.array([False, True, False, True])
    x = pa.FixedSizeListArray.from_arrays(child, 2, mask=mask)
    for policies in ({}, {"nonfinite": "raise"}, {"zero": "raise"}):
        got, norms = l2.normalize(x, return_norm=True, **policies)
        want = l2.normalize(np.array([[3, 4], [6, 8]], "f4")).tolist()
        assert got.to_pylist() == [want[0], None, want[1], None]
        assert norms.to_pylist() == [5.0, None, 10.0, None]
        assert got.type == x.type
    for rows in ([None, [3, 4]], [None, None], []):
        got = l2.normalize(lists(rows))
        assert got.is_null().to_pylist() == [row is None for row in rows]


def test_a_null_element_makes_its_row_null():
    x = lists([[3, None], [3, 4], [None, None], None], "int8")
    got = l2.normalize(x)
    assert got.to_pylist() == [None, [0.6, 0.8], None, None]
    assert got.type == pa.list_(pa.field("item", pa.float64()), 2)
    assert l2.norm(x.slice(1)).to_pylist() == [5.0, None, None]


def test_zero_and_nonfinite():
    x = lists([[0, 0], [3, 4], [np.nan, 1], [0, -0.0]])
    assert l2.normalize(x, zero="null").is_null().to_pylist() == [True, False, False, True]
    got, norms = l2.normalize(x, zero="null", return_norm=True)
    assert norms.is_null().to_pylist() == [True, False, False, True]
    assert np.isnan(l2.normalize(x, zero="nan").values[:2].to_numpy()).all()
    assert np.isnan(got.values[4:6].to_numpy()).all()
    with pytest.raises(l2.ZeroVectorError, match="2 of 4 vectors, the first at position 0"):
        l2.normalize(x, zero="raise")
    with pytest.raises(l2.NonFiniteError, match="position 2"):
        l2.norm(x, nonfinite="raise")
    with pytest.raises(ValueError, match="zero: expected one of 'keep', 'nan', 'raise'"):
        l2.normalize(np.ones(2), zero="null")


@pytest.mark.parametrize("value", ["float16", "float32", "float64", "int16", "uint64", "bool"])
@pytest.mark.parametrize("width", [1, 3, 768])
def test_bits(value, width):
    """Those of NumPy, without a copy on the way in."""
    a = (RNG.standard_normal((70, width)) * 40).astype(value)
    child = pa.array(a.reshape(-1))
    x = pa.FixedSizeListArray.from_arrays(child, width)
    for start, n in ((0, 70), (3, 64), (69, 1)):
        part = x.slice(start, n)
        got, norms = l2.normalize(part, return_norm=True)
        want, lengths = l2.normalize(a[start : start + n], return_norm=True)
        assert np.asarray(got.values).tobytes() == want.tobytes()
        assert np.asarray(norms).tobytes() == lengths.tobytes()
        for backend in ("numpy", "numba"):
            assert l2.normalize(part, backend=backend).equals(got)
    chunks = pa.chunked_array([x.slice(0, 3), x.slice(3, 64), x.slice(67), x.slice(5, 0)])
    for backend in (None, "numpy", "numba"):
        got, norms = l2.normalize(chunks, return_norm=True, backend=backend)
        want, lengths = l2.normalize(a, return_norm=True)
        assert np.asarray(got.combine_chunks().values).tobytes() == want.tobytes()
        assert np.asarray(norms).tobytes() == lengths.tobytes()
    assert l2.explain(chunks)[:2] == l2.explain(a)[:2]
    assert l2.explain(x).backend == l2.explain(a).backend


def test_types_are_kept():
    """The child's name, whether it may be null, metadata; a dtype is asked for."""
    field = pa.field("element", pa.float32(), nullable=False, metadata={"k": "v"})
    x = pa.array([[3, 4], [0, 0]], pa.list_(field, 2))
    got = l2.normalize(x)
    assert got.type.value_field.equals(field, check_metadata=True)
    assert l2.normalize(x, dtype="float16").type.value_type == pa.float16()
    assert l2.norm(x, dtype=np.float64).type == pa.float64()
    with pytest.raises(TypeError, match="dtype: Arrow has no bfloat16"):
        l2.normalize(x, dtype="bfloat16")


def test_tensors():
    """Their axes are those that the type says, by permutation."""
    a = np.arange(1, 25, dtype="f4").reshape(4, 6)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(a.reshape(-1)), 6)
    for kind in (
        pa.fixed_shape_tensor(pa.float32(), [2, 3]),
        pa.fixed_shape_tensor(pa.float32(), [2, 3], ["a", "b"], [1, 0]),
    ):
        x = pa.ExtensionArray.from_storage(kind, storage).slice(1)
        logical = x.to_numpy_ndarray()
        for axis in (-1, 1, (1, 2)):
            got = l2.normalize(x, axis)
            assert got.type == kind
            assert (got.to_numpy_ndarray() == l2.normalize(logical, axis)).all()
        assert l2.norm(x, (1, 2)).to_pylist() == l2.norm(logical, (1, 2)).tolist()
        with pytest.raises(TypeError, match="to_numpy_ndarray"):
            l2.norm(x, -1)


@pytest.mark.parametrize("order", [None, [0, 1], [1, 0]])
def test_tensors_with_nulls(order):
    """As rows and as elements, at every position; sliced, and in chunks."""
    a = RNG.standard_normal((6, 6)).astype("f4")
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=order)

    def tensors(rows):
        return pa.ExtensionArray.from_storage(kind, pa.array(rows, kind.storage_type))

    logical = tensors(a.tolist()).to_numpy_ndarray()
    for at in range(6):
        row, element = a.tolist(), a.tolist()
        row[at], element[at][at] = None, None
        for x in map(tensors, (row, element)):
            held = pa.chunked_array([x.slice(1, at), x.slice(0, 0), x.slice(1)])
            for axis in (-1, 1, (1, 2)):
                want = l2.normalize(logical, axis)
                for part, rows in (
                    (x, slice(None)), (x.slice(at), slice(at, None)), (x.slice(0, 3), slice(3))
                ):  # fmt: skip
                    got = l2.normalize(part, axis)
                    null = np.array(got.is_null())
                    assert got.type == kind
                    assert null.tolist() == (np.arange(6) == at)[rows].tolist()
                    same = tensors(
                        [row or [0] * 6 for row in got.storage.to_pylist()]
                    ).to_numpy_ndarray()
                    assert (same[~null] == want[rows][~null]).all()
                both = [l2.normalize(chunk, axis) for chunk in held.chunks]
                assert l2.normalize(held, axis).equals(pa.chunked_array(both, kind))
            numbers = [*range(1, 1 + at), *range(1, 6)]
            lengths = l2.norm(logical, (1, 2)).tolist()
            assert l2.norm(held, (1, 2)).to_pylist() == [
                None if i == at else lengths[i] for i in numbers
            ]


def test_fixed_size_lists_are_not_copied_on_the_way_in():
    """Nor is the result, which is one buffer."""
    x = lists([[3, 4], None, [0, 0], [6, 8], [1, 2]], "float64")
    array = _containers.open(x.slice(1, 3), _contract.Request()).values((1,), look=False)
    assert array.ctypes.data == x.values.buffers()[1].address + 16
    y = np.arange(10.0).reshape(5, 2)
    made = _containers.open(x, _contract.Request()).close(y)
    assert made.values.buffers()[1].address == y.ctypes.data


def test_refusals():
    x = lists([[3, 4]])
    with pytest.raises(ValueError, match="axis: each row of an Arrow array is a vector"):
        l2.normalize(x, 0)
    with pytest.raises(TypeError, match="out: Arrow arrays are immutable"):
        l2.normalize(x, out=x)
    for other in (pa.array([1.0]), pa.chunked_array([[1.0]]), lists([["a", "b"]], "string")):
        with pytest.raises(TypeError, match="x: "):
            l2.normalize(other)
    empty = pa.array([[], []], pa.list_(pa.float32(), 0))
    assert l2.normalize(empty).to_pylist() == [[], []]
    assert l2.norm(empty).to_pylist() == [0.0, 0.0]
    for zero in ("null", "raise"):  # an empty vector is not a zero vector
        assert l2.normalize(empty, zero=zero).to_pylist() == [[], []]


# Kinds of lists, with what makes their types.
LISTS = {
    "fixed": lambda field: pa.list_(field, 3),
    "list": pa.list_,
    "large_list": pa.large_list,
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}
ROWS = [
    [3, 4, 0], [0, 0, 0], [np.nan, 1, 2], [1e-40, 0, 1e-41], [], [3e38, -3e38, 3e38], [2], [-0.0],
    [5, 12, 0], [1, 2, 2], [], [np.inf, 1, 2], [0.1, 0.2, 0.3], [7, 0, 24],
]  # fmt: skip


def column(how, rows=ROWS, value="float32"):
    """An Arrow array of lists; in those that are fixed, rows of another length are not."""
    kept = [row for row in rows if how != "fixed" or len(row) == 3]
    field = pa.field("element", pa.type_for_alias(value), metadata={"k": "v"})
    return pa.array(kept, LISTS[how](field))


def with_nulls(x, rows):
    """The same with nulls at these rows, and under them what was there."""
    valid = np.packbits(~np.isin(np.arange(len(x)), rows), bitorder="little")
    buffers = [pa.py_buffer(valid), *x.buffers()[1 : x.type.num_buffers]]
    return pa.Array.from_buffers(x.type, len(x), buffers, children=[x.values])


def with_null_element(x, at):
    """The same with a null in place of one element."""
    valid = np.packbits(np.arange(len(x.values)) != at, bitorder="little")
    data = x.values.buffers()[1]
    child = pa.Array.from_buffers(x.type.value_type, len(x.values), [pa.py_buffer(valid), data])
    return pa.Array.from_buffers(
        x.type, len(x), x.buffers()[: x.type.num_buffers], children=[child]
    )


def by_rows(x, zero="keep"):
    """What comes of each row, and its norm, by a call for it alone; without Arrow."""
    units, norms = [], []
    dtype = str(x.type.value_type).replace("float", "f4").replace("double", "f8")
    for row in x.to_pylist():
        unit = norm = None
        if row is not None and None not in row:
            unit, norm = l2.normalize(
                np.array(row, dtype), zero=zero.replace("null", "keep"), return_norm=True,
                backend="numpy",
            )  # fmt: skip
            if zero == "null" and row and norm == 0:
                unit = norm = None
        units.append(None if unit is None else unit.tolist())
        norms.append(None if norm is None else float(norm))
    return units, norms


def check(x, zero="keep"):
    """A call on a column against its rows, one by one."""
    got, norms = l2.normalize(x, zero=zero, return_norm=True)
    units, lengths = by_rows(x, zero)
    assert repr(got.to_pylist()) == repr(units)
    assert repr(norms.to_pylist()) == repr(lengths)
    assert got.type.equals(x.type, check_metadata=True)
    assert type(got) is type(x)
    for result in (got, norms):
        result.validate(full=True)
    if isinstance(x, pa.ChunkedArray):
        assert [*map(len, got.chunks)] == [*map(len, norms.chunks)] == [*map(len, x.chunks)]
    else:
        known = [None if n is None else abs(n - 1) < 5e-7 for n in lengths]
        if zero != "null":
            assert l2.is_normalized(x).to_pylist() == known
    return got


@pytest.mark.parametrize("how", LISTS)
def test_each_row_is_as_alone(how):
    """Sliced, chunked, and null at every position."""
    x = column(how)
    for i in range(len(x)):
        hidden = with_nulls(x, [i])
        for zero in ("keep", "nan", "null"):
            check(hidden, zero)
        check(hidden.slice(i))
        check(hidden.slice(i // 2, i), "null")
        check(with_nulls(x, [*range(i, len(x), 2)]).slice(1))
        check(pa.chunked_array([hidden.slice(i), x.slice(0, 0), x, hidden.slice(1, 3)]), "null")
    for i in range(len(x.values)):
        check(with_null_element(x, i))
        check(with_nulls(with_null_element(x, i), [2]).slice(1))
    for other in (with_nulls(x, range(len(x))), x.slice(0, 0), x.slice(3, 0)):
        check(other, "null")
        check(pa.chunked_array([other, other]), "null")
    check(pa.chunked_array([], x.type))


@pytest.mark.parametrize("how", LISTS)
def test_policies_pass_over_what_is_null_or_empty(how):
    x = column(how, [[1, 2, 2], [0, 0, 0], [], [np.nan, 0, 0], [2, 1, 2]])
    nulls = [i for i, row in enumerate(x.to_pylist()) if row and not row[0] > 0]
    hidden = with_nulls(x, nulls)
    for policies in ({"zero": "raise"}, {"nonfinite": "raise"}):
        got = l2.normalize(hidden, **policies)
        assert got.to_pylist() == by_rows(hidden)[0]
    for part in (x, x.slice(1)):
        position = len(x) - len(part)
        with pytest.raises(l2.ZeroVectorError, match=f"position {1 - position} "):
            l2.normalize(part, zero="raise")
    with pytest.raises(l2.NonFiniteError, match=f"position {len(x) - 2} "):
        l2.norm(x, nonfinite="raise")


@pytest.mark.parametrize("how", LISTS)
@pytest.mark.parametrize("value", ["float16", "float64", "uint8", "int64", "bool"])
def test_dtypes_of_lists(how, value):
    """Bits and dtypes are those of NumPy; the field's name and metadata stay."""
    a = (RNG.standard_normal((11, 3)) * 9).astype(value)
    x = column(how, list(map(list, a)), value).slice(2)
    got, norms = l2.normalize(x, return_norm=True)
    want, lengths = l2.normalize(a[2:], return_norm=True)
    assert np.asarray(got.flatten()).tobytes() == want.tobytes()
    assert np.asarray(norms).tobytes() == lengths.tobytes()
    field = x.type.value_field.with_type(pa.from_numpy_dtype(want.dtype))
    assert got.type.equals(LISTS[how](field), check_metadata=True)
    for backend in ("numpy", "numba"):
        assert l2.normalize(x, backend=backend).equals(got)
    assert l2.explain(x)[:2] == l2.explain(a[2:])[:2]  # for rows of one length the dense kernel
    got, want = (l2.normalize(z, dtype="float32", backend="numpy") for z in (x, a[2:]))
    assert got.type.value_type == pa.float32()
    assert np.asarray(got.flatten()).tobytes() == want.tobytes()


def test_views_in_any_order():
    """Views may overlap, leave gaps and come in any order; the result is a view of its own rows."""
    child = pa.array([9, 3, 4, 0, 0, np.nan], pa.float32())
    starts, sizes = [1, 3, 1, 0, 4, 5, 2], [2, 2, 3, 6, 0, 1, 1]
    for of, index in ((pa.ListViewArray, pa.int32()), (pa.LargeListViewArray, pa.int64())):
        x = of.from_arrays(pa.array(starts, index), pa.array(sizes, index), child)
        for i in range(len(x)):
            check(x.slice(i))
            check(with_nulls(x, [i]).slice(1), "null")
        check(pa.chunked_array([x, x.slice(2, 3)]))
    many = np.zeros(2**16, "i4"), np.full(2**16, 2**16, "i4")
    x = pa.ListViewArray.from_arrays(*map(pa.array, many), pa.array(np.ones(2**16, "f4")))
    with pytest.raises(ValueError, match="4294967296 entries together") as error:
        l2.normalize(x)
    x = pa.array([[9], [3, 4], None, [0], [1, 2]], pa.list_view(pa.float32())).slice(1)
    way_out = eval(
        str(error.value).partition("; for such a chunk try ")[2], {"pyarrow": pa, "x": x}
    )
    assert way_out.type == pa.large_list_view(pa.float32())
    assert way_out.to_pylist() == x.to_pylist()


@pytest.mark.parametrize("how", [*LISTS][1:])
def test_lists_are_not_copied_on_the_way_in(how):
    x = pa.array([[1.0] * 7, [], None, [2.0] * 5, [3.0]], LISTS[how](pa.float64()))
    opened = _containers.open(x.slice(1), _contract.Request())
    entries = opened.values((1,), look=False).entries
    assert entries.tolist() == [2.0] * 5 + [3.0]
    assert entries.ctypes.data == x.values.buffers()[1].address + 7 * 8
    assert l2.explain(x).kernel == "compiled ragged"
    with pytest.raises(TypeError, match="backend 'jax' cannot serve this input: lists of any"):
        l2.normalize(x, backend="jax")


def test_chunks_are_served_where_they_are():
    """Each by the kernels, to one result; other libraries get one array of them."""
    x = lists([[3, 4], None, [0, 0], [6, 8], [1, 2]])
    chunks = pa.chunked_array([x.slice(1, 2), x.slice(3)])
    opened = _containers.open(chunks, _contract.Request())
    for i, part in enumerate(opened.values((1,), look=False).parts):
        assert part.ctypes.data == x.values.buffers()[1].address + (8, 24)[i]
    made = [chunk.values.buffers()[1] for chunk in l2.normalize(chunks).chunks]
    assert made[0].address + made[0].size == made[1].address
    pytest.importorskip("jax")
    for zero in ("keep", "null"):
        got, want = (l2.normalize(chunks, zero=zero, backend=b) for b in ("jax", "numpy"))
        assert got.is_null().equals(want.is_null())
        flat = (np.concatenate([c.flatten() for c in y.chunks]) for y in (got, want))
        np.testing.assert_allclose(*flat, rtol=1e-6)
    assert l2.explain(chunks, backend="jax").backend == "jax"


class Offers:
    """What offers an array, or a stream with `times` to get it, and nothing else."""

    def __init__(self, x, times=1):
        self.x, self.times = x, times


class OffersArray(Offers):
    def __arrow_c_array__(self, requested_schema=None):
        return self.x.__arrow_c_array__(requested_schema)


class OffersStream(Offers):
    def __arrow_c_stream__(self, requested_schema=None):
        self.times -= 1
        assert self.times >= 0
        return self.x.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("how", [*LISTS][1:])
def test_offsets_beyond_the_entries(how):
    """They are refused, in place of what lies in memory there."""
    x = pa.array([[3, 4], [1], [5, 12]], LISTS[how](pa.float32()))
    _, *index, _, _ = x.buffers()
    for i in (1, 2):
        for wrong in (100, -1):
            ends = np.frombuffer(index[0], "i8" if "large" in how else "i4").copy()
            ends[i] = wrong
            buffers = [None, pa.py_buffer(ends), *index[1:]]
            bad = pa.Array.from_buffers(x.type, len(x), buffers, children=[x.values])
            for function in (l2.normalize, l2.norm, l2.explain):
                with pytest.raises(ValueError, match=r"(?i)offset|list"):
                    function(pa.chunked_array([x, bad]))


def test_a_stream_that_has_been_read():
    """The second import says so."""

    class Once:
        def __init__(self, x):
            self.capsule = x.__arrow_c_stream__()

        def __arrow_c_stream__(self, requested_schema=None):
            return self.capsule

    held = Once(pa.chunked_array([pa.array([[3.0, 4.0]])]))
    assert l2.norm(held).to_pylist() == [5]
    for function in (l2.norm, l2.normalize, l2.explain):
        with pytest.raises(pa.ArrowInvalid, match="released"):
            function(held)


@pytest.mark.parametrize("how", LISTS)
def test_capsules(how):
    """Columns of any library: Arrow arrays come back, chunked from a stream, which is read once."""
    na = pytest.importorskip("nanoarrow")
    x = with_nulls(column(how), [2]).slice(1)
    chunked = pa.chunked_array([x, x.slice(3)])
    for held, same in (
        (OffersArray(x), x),
        (OffersStream(chunked), chunked),
        (na.Array(x), pa.chunked_array([x])),
        (na.Array(chunked), chunked),
    ):
        got = l2.normalize(held)
        held.times = 1
        for one, other in ((got, l2.normalize(same)), (l2.norm(held), l2.norm(same))):
            assert (type(one), one.type, str(one)) == (type(other), other.type, str(other))
    for one in ("keep", "null"):
        got = l2.normalize(na.ArrayStream(chunked), zero=one)
        assert str(got) == str(l2.normalize(chunked, zero=one))


def test_float16_in_disguise():
    """As Parquet files hold it that know no float16: the error says what to do."""
    a = np.array([[3, 4], [300, 400]], "f2")
    x = pa.FixedSizeListArray.from_arrays(pa.array(a.reshape(-1)), 2)
    kind = pa.list_(pa.binary(2), 2)
    with pytest.raises(TypeError, match=r"x.view\(kind\).*pyarrow.float16"):
        l2.normalize(x.view(kind))
    got = l2.normalize(x.view(kind).view(x.type))
    assert got.to_pylist() == l2.normalize(a).tolist()


def test_tables_are_refused_unread():
    table = pa.table({"v": lists([[3, 4]])})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    batch = table.to_batches()[0]
    told = r"is a table.*pyarrow.table\(x\)\[name\].*to_pandas\(\)$"
    for x in (table, batch, reader, OffersStream(table), OffersArray(batch)):
        with pytest.raises(TypeError, match=told):
            l2.norm(x)
    assert reader.read_all().equals(table)
    assert l2.norm(table["v"]).to_pylist() == [5.0]

    def broken():
        raise OSError("lost")
        yield

    reader = pa.RecordBatchReader.from_batches(table.schema, broken())
    with pytest.raises(TypeError, match="is a table"):
        l2.norm(reader)
    with pytest.raises(TypeError, match="Arrow type int64 is not supported"):
        l2.norm(OffersStream(pa.chunked_array([[1]])))
