"""Pandas: labels and nulls; values are those of each vector alone, as a NumPy array, to the bit."""

import importlib.util
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2

pd = pytest.importorskip("pandas")

RNG = np.random.default_rng(6)
FRAME = pd.DataFrame(
    {"a": [3.0, 0.0, 5e200], "b": [4, 0, 12], "name": [0.0, 0.0, 0.0]},
    pd.MultiIndex.from_tuples([("x", 1), ("x", 2), ("x", 1)], names=["k", "n"]),
)
FRAME.attrs = {"from": "a test"}


def alone(row, function=l2.normalize, **keywords):
    """One vector by itself; null where it is null or has a null element."""
    if row is None or any(item is None or item is pd.NA for item in row):
        return None
    return function(np.asarray(row), **keywords)


def plain(column):
    """A Series as a list, with None for null."""
    return [None if item is pd.NA or item is None else item for item in column]


@pytest.mark.parametrize("axis", [-1, 1, 0, None, (0, 1), ()])
def test_frame(axis):
    """Rows, columns or all, under their labels."""
    unit, norms = l2.normalize(FRAME, axis, return_norm=True)
    a = FRAME.to_numpy()
    want, lengths = l2.normalize(a, axis, return_norm=True)
    assert type(unit) is pd.DataFrame
    assert unit.index.identical(FRAME.index)
    assert unit.columns.identical(FRAME.columns)
    assert unit.attrs == FRAME.attrs
    assert unit.to_numpy().tobytes() == want.tobytes()
    for got, values in (
        (norms, lengths),
        (l2.norm(FRAME, axis), lengths),
        (l2.is_normalized(FRAME, axis), l2.is_normalized(a, axis)),
    ):
        assert np.asarray(got).tobytes() == values.tobytes()
        if values.ndim == 1:
            assert got.index.identical(FRAME.columns if axis == 0 else FRAME.index)
            assert got.attrs == FRAME.attrs
            assert got.name is None
        else:
            assert type(got) is (pd.DataFrame if axis == () else type(values))
    assert l2.explain(FRAME, axis).backend == l2.explain(a, axis).backend


def test_a_row_or_a_column_is_a_series():
    """And alone it is one vector."""
    for alone_, among in (
        (FRAME["a"], l2.normalize(FRAME, 0)["a"]),
        (FRAME.iloc[2], l2.normalize(FRAME).iloc[2]),
    ):
        unit, norm = l2.normalize(alone_, return_norm=True)
        pd.testing.assert_series_equal(unit, among, check_exact=True)
        assert unit.attrs == FRAME.attrs
        assert type(norm) is np.float64
        assert norm == l2.norm(alone_.to_numpy())
    assert l2.normalize(pd.Series([3, 4], name=7)).name == 7


def test_dtypes():
    """One for a DataFrame, by NumPy's promotion."""
    x = np.array([[3, 4], [5, 12]])
    for dtypes, result in (
        (("f4", "f4"), "f4"), (("f2", "f4"), "f4"), (("f4", "f8"), "f8"), (("i2", "f4"), "f4"),
        (("i4", "u8"), "f8"), (("?", "i1"), "f8"), (("c8", "f4"), "c8"), (("g", "f4"), "g"),
    ):  # fmt: skip
        columns = [x[:, i].astype(dtype) for i, dtype in enumerate(dtypes)]
        unit = l2.normalize(pd.DataFrame(dict(enumerate(columns))))
        assert set(unit.dtypes) == {np.dtype(result)}
        both = np.stack(columns, 1).astype(np.result_type(*columns))
        assert (unit.to_numpy() == l2.normalize(both)).all()
    assert set(l2.normalize(FRAME, dtype="float32").dtypes) == {np.dtype("f4")}
    narrow = pd.DataFrame(x.astype(ml_dtypes.bfloat16))
    assert set(l2.normalize(narrow).dtypes) == {np.dtype(ml_dtypes.bfloat16)}
    assert l2.norm(narrow).dtype == np.float32
    assert l2.normalize(pd.DataFrame(index=["a", "b"])).shape == (2, 0)
    assert l2.norm(pd.DataFrame(index=["a", "b"])).tolist() == [0.0, 0.0]


@pytest.fixture(params=["numpy_nullable", "pyarrow"])
def family(request):
    """Which dtypes with nulls."""
    if request.param == "pyarrow":
        pytest.importorskip("pyarrow")
    return request.param


def nullable(rows, family, dtype="Float32"):
    """A DataFrame of such dtypes; its columns share one name."""
    frame = pd.DataFrame(rows, dtype=dtype, index=pd.date_range("2026-01-01", periods=len(rows)))
    frame = frame if family == "numpy_nullable" else frame.convert_dtypes(dtype_backend=family)
    return frame.set_axis(["same"] * frame.shape[1], axis=1)


ROWS = [[3, 4], [None, 4], [0, 0], [5, None], [1e30, 1e30], [None, None], [np.inf, 1]]


@pytest.mark.parametrize("dtype", ["Float32", "Float64"])
def test_na(family, dtype):
    """`pd.NA` makes its vector `pd.NA`, and nothing of that vector counts or raises."""
    x = nullable(ROWS, family, dtype)
    numpy = dtype.lower()
    unit, norms = l2.normalize(x, return_norm=True)
    assert unit.index.identical(x.index)
    assert unit.columns.identical(x.columns)
    assert list(unit.dtypes) == list(x.dtypes)
    want = [alone(row, dtype=numpy) for row in ROWS]
    for got, row in zip(unit.itertuples(index=False), want, strict=True):
        np.testing.assert_array_equal(
            [np.nan if item is pd.NA else item for item in got],
            np.full(2, np.nan) if row is None else row,
        )
        assert all(item is pd.NA for item in got) == (row is None)
    lengths = [alone(row, l2.norm) for row in ROWS]
    assert plain(norms) == [None if n is None else np.dtype(numpy).type(n) for n in lengths]
    assert norms.dtype == x.dtypes.iloc[0]
    assert plain(l2.is_normalized(unit)) == [
        None if row is None else bool(l2.is_normalized(row)) for row in want
    ]
    null = l2.normalize(x, zero="null")
    assert null.isna().all(axis=1).tolist() == [False, True, True, True, False, True, False]
    assert l2.normalize(x.iloc[:2], zero="raise", nonfinite="raise").shape == (2, 2)
    with pytest.raises(l2.ZeroVectorError, match="1 of 7 vectors, the first at position 2"):
        l2.normalize(x, zero="raise")
    with pytest.raises(l2.NonFiniteError, match="1 of 7 vectors, the first at position 6"):
        l2.normalize(x, nonfinite="raise")
    assert l2.normalize(x, 0).isna().all(axis=None)
    assert l2.norm(x, None) is pd.NA
    some = x.iloc[[0, 2, 4]]
    assert l2.norm(some, None) == l2.norm(some.to_numpy(numpy), None)
    assert (l2.normalize(some, 0).to_numpy(numpy) == l2.normalize(some.to_numpy(numpy), 0)).all()
    column = l2.normalize(some.iloc[:, 1], return_norm=True)
    assert column[0].index.identical(some.index)
    assert column[0].tolist() == l2.normalize(some.to_numpy(numpy)[:, 1]).tolist()
    assert l2.normalize(x.iloc[:, 1]).isna().all()
    assert l2.norm(x.iloc[:, 1]) is pd.NA


SLICES = (slice(None), slice(1, None), slice(1, 4), slice(None, None, -1), slice(0, None, 2))


@pytest.mark.parametrize("place", range(5))
def test_null_at_every_position(place):
    """Of sliced columns, compared with each row alone."""
    rng = np.random.default_rng(place)
    a = rng.standard_normal((5, 3))
    rows = [list(row) if i % 2 else row for i, row in enumerate(a)]
    rows[place] = None
    element = a.astype(object)
    element[place, place % 3] = None
    both = [pd.Series(rows), pd.Series(list(element))]
    frames = [pd.DataFrame(element, dtype="Float64")]
    if importlib.util.find_spec("pyarrow"):
        import pyarrow

        kind = pyarrow.list_(pyarrow.float64(), 3)
        arrow = [pyarrow.array(given, kind) for given in (rows, [list(row) for row in element])]
        both += [pd.Series(pd.arrays.ArrowExtensionArray(array)) for array in arrow]
        frames.append(frames[0].convert_dtypes(dtype_backend="pyarrow"))
    want = [alone(None if i == place else row) for i, row in enumerate(a)]
    lengths = [alone(None if i == place else row, l2.norm) for i, row in enumerate(a)]
    for x in both + frames:
        for where in SLICES:
            unit, norms = l2.normalize(x.iloc[where], return_norm=True)
            assert unit.index.equals(x.index[where])
            found = unit.tolist() if unit.ndim == 1 else unit.to_numpy(object)
            for got, row in zip(found, want[where], strict=True):
                if row is None:
                    assert pd.isna(got).all() if unit.ndim == 2 else got is None or got is pd.NA
                else:
                    assert np.asarray(got, "f8").tobytes() == row.tobytes()
            assert plain(norms) == lengths[where]
            assert l2.normalize(x.iloc[where], zero="raise", nonfinite="raise").shape == unit.shape


def test_large_integers(family):
    """They are read as they are beside nulls too."""
    large = 2**62 + 1
    x = nullable([[large, 1], [None, 1], [large, large]], family, "Int64")
    a = np.array([[large, 1], [large, large]])
    assert l2.normalize(x).iloc[[0, 2]].to_numpy("f8").tobytes() == l2.normalize(a).tobytes()
    assert (l2.norm(x).iloc[[0, 2]].to_numpy("f8") == l2.norm(a)).all()


def test_nan_is_not_na(family):
    """It is a number as any other, in a column that may hold both."""
    if family == "pyarrow":
        import pyarrow

        values = pyarrow.array(np.array([np.nan, 1, 2]), mask=np.array([False, False, True]))
        column = pd.arrays.ArrowExtensionArray(values)
    else:
        column = pd.arrays.FloatingArray(np.array([np.nan, 1, 2]), np.array([False, False, True]))
    x = pd.DataFrame({"a": column, "b": [1.0, 0, 0]})
    unit = l2.normalize(x)
    assert unit.isna().to_numpy().tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert np.isnan(unit["b"].iloc[0])
    assert set(unit.dtypes) == {column.dtype}
    assert np.isnan(l2.norm(x).iloc[0])
    nan = l2.normalize(x * 0 if family == "numpy_nullable" else x, zero="nan")
    assert nan["a"].isna().tolist()[1] is False


def test_integers_and_mixtures(family):
    """They become float64 of the same family, as columns of NumPy beside such do."""
    x = nullable([[3, 4], [None, 1], [0, 2]], family, "Int16")
    unit = l2.normalize(x, return_norm=True)
    assert unit[0].to_numpy("f8", na_value=-1).tolist() == [[0.6, 0.8], [-1, -1], [0, 1]]
    assert plain(unit[1]) == [5.0, None, 2.0]
    flag = nullable([[True, None], [True, False]], family, "boolean")
    assert plain(l2.norm(flag)) == [None, 1.0]
    mixed = x.set_axis(["a", "b"], axis=1).assign(c=np.zeros(3, "f4"))
    unit = l2.normalize(mixed)
    assert len(set(unit.dtypes)) == 1
    assert unit["c"].isna().tolist() == [False, True, False]
    empty = x.iloc[:0]
    assert l2.normalize(empty).shape == (0, 2)
    assert l2.norm(empty.iloc[:, 0]) == 0
    asked = "float16" if family == "numpy_nullable" else "bfloat16"
    for call in (l2.normalize, l2.norm):
        with pytest.raises(TypeError, match=rf"dtype: .* has no .*{asked}"):
            call(x, dtype=asked)


# Null at every position, beside a null element, empty rows, integers and floats.
OBJECTS = [None, [3, 4], [0.5, None], [], [3.0, 4], None, [0, 0, 0], [3e200, 4e200], [1, 2, 2]]


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
@pytest.mark.parametrize("rows", [OBJECTS, [[3, 4.0], [6.0, 8]], [None, None], []])
def test_objects(kind, rows):
    """Rows of any length, each as it came."""
    held = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        held[i] = row if row is None else kind(row)
    x = pd.Series(held, index=range(10, 10 + len(rows)), name="v")
    unit, norms = l2.normalize(x, return_norm=True)
    want = [alone(row, dtype="f8") for row in rows]
    for got, row, old in zip(unit, want, held, strict=True):
        assert got is None if row is None else type(got) is type(old)
        assert row is None or np.asarray(got, "f8").tobytes() == row.tobytes()
    null = [row is None for row in want]
    for got, function in (
        (norms, l2.norm), (l2.norm(x), l2.norm), (l2.is_normalized(x), l2.is_normalized)
    ):  # fmt: skip
        assert plain(got) == [alone(row, function) for row in rows]
        assert got.dtype == ("boolean" if function is l2.is_normalized else "Float64")
    for y in (unit, norms, l2.is_normalized(x)):
        assert y.index.identical(x.index)
        assert y.name == "v"
        assert y.isna().tolist() == null
    zero = [row is not None and len(row) > 0 and not np.any(row) for row in rows]
    kept = l2.normalize(x, zero="null").isna().tolist()
    assert kept == [a or b for a, b in zip(null, zero, strict=True)]
    for name in ("numba", "numpy"):
        pd.testing.assert_series_equal(l2.norm(x, backend=name), norms, check_exact=True)
    assert l2.explain(x).backend in ("numba", "numpy")
    pd.testing.assert_series_equal(x, pd.Series(held, index=x.index, name="v"))


def test_dtypes_of_objects():
    """One for all rows; what has none of its own, an empty list, has no say."""
    single = np.array([3, 4], "f4")
    x = pd.Series([single, [], single, np.nan, np.array([3, None], object)])
    unit, norms = l2.normalize(x, return_norm=True)
    assert (unit[0].dtype, norms.dtype) == (np.float32, "Float32")
    assert np.isnan(unit[3])
    assert unit[4] is None
    assert l2.normalize(x, dtype="f8")[0].dtype == np.float64
    assert l2.norm(x, dtype="f8").dtype == "Float64"
    assert l2.normalize(pd.Series([single, np.array([3, 4])]))[0].dtype == np.float64
    for dtype in (np.float16, ml_dtypes.bfloat16):
        unit, norms = l2.normalize(pd.Series([single.astype(dtype)] * 2), return_norm=True)
        assert unit[1].tobytes() == l2.normalize(single.astype(dtype)).tobytes()
        assert norms.dtype == "Float32"
    unit = l2.normalize(pd.Series([single.view(np.recarray), single.astype(">f4")[::-1]]))
    assert type(unit[0]) is np.ndarray
    assert unit[1].tobytes() == l2.normalize(single[::-1]).tobytes()
    unit[0][0] = 7
    assert single[0] == 3


WITHOUT = [
    [], (1, 2), [0.5, True], np.array([]), np.array([], complex), np.array([1, 2], object),
    [np.nan, 1e-300, 2],
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("other", WITHOUT, ids=repr)
def test_neighbours_without_a_dtype(dtype, other):
    """Empty rows and Python's numbers do not change what an array beside them becomes."""
    row = np.array([3, 4]).astype(dtype)
    want, lengths = l2.normalize(pd.Series([row]), return_norm=True)
    for rows in ([row, other], [other, row], [np.array([], "f8"), other, row]):
        unit, norms = l2.normalize(pd.Series(rows), return_norm=True)
        at = len(rows) - 1 if rows[-1] is row else 0
        assert unit[at].dtype == want[0].dtype
        assert unit[at].tobytes() == want[0].tobytes()
        assert norms.dtype == lengths.dtype


def test_neighbours_with_a_say():
    """Arrays that are not empty, numbers of NumPy, what is complex; and what does not fit."""
    row = np.array([3, 4], "f4")
    for other, dtype in (
        (np.array([1.0]), "f8"), ([np.float64(1)], "f8"), (np.array([1]), "f8"), ([1j], "c8")
    ):  # fmt: skip
        assert l2.normalize(pd.Series([row, other]))[0].dtype == dtype
    for dtype in ("f4", "c16", ml_dtypes.bfloat16):
        assert l2.normalize(pd.Series([[3, 4], np.array([], dtype)]))[0] == [0.6, 0.8]
    assert l2.normalize(pd.Series([np.array([], "f4")]))[0].dtype == "f4"
    for beyond in ([3e200, 4e200], [3e-200, 4e-200], (1, -(10.0**39)), [1e-44, 3e-45]):
        x = pd.Series([row, beyond])
        for call in (l2.normalize, l2.norm, l2.explain):
            with pytest.raises(ValueError, match="position 1 holds numbers beyond float32"):
                call(x)
        unit = l2.normalize(pd.Series([row, np.asarray(beyond)]))
        assert l2.is_normalized(unit).all()


class Frame(pd.DataFrame):
    """As pandas documents subclasses."""

    _metadata = ("source",)

    @property
    def _constructor(self):
        return Frame

    @property
    def _constructor_sliced(self):
        return Column


class Column(pd.Series):
    """The same."""

    _metadata = (*pd.Series._metadata, "source")

    @property
    def _constructor(self):
        return Column

    @property
    def _constructor_expanddim(self):
        return Frame


def subclassed(x):
    """An instance of the subclass, with all that one can say of itself."""
    made = (Frame if isinstance(x, pd.DataFrame) else Column)(x, index=["a", "b"])
    made.source, made.attrs = "a sensor", {"nested": [1]}
    return made.set_flags(allows_duplicate_labels=False)


def test_what_x_says_of_itself():
    """Class, metadata, flags; attrs are of the result's own, however nested."""
    values = {"u": [3.0, 0.0], "v": [4.0, 1.0]}
    frame = subclassed(pd.DataFrame(values, ["a", "b"]))
    nulls = subclassed(pd.DataFrame(values, ["a", "b"], dtype="Float64"))
    rows = subclassed(pd.Series([[3.0, 4.0], [1.0]], ["a", "b"], name="v"))
    numbers = subclassed(pd.Series([3.0, 4.0], ["a", "b"], name="v"))
    given = [frame, nulls, rows, numbers]
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa

        kind = pd.ArrowDtype(pa.list_(pa.float64()))
        given.append(subclassed(rows.astype(kind)))
    for x in given:
        results = [l2.normalize(x)]
        if x is not numbers:
            results += [l2.norm(x), l2.is_normalized(x)]
        if x.ndim == 2:
            results.append(l2.norm(x, 0))
        for i, y in enumerate(results):
            assert type(y) is (type(x) if i == 0 else Column)
            assert y.source == "a sensor"
            assert y.flags.allows_duplicate_labels is False
            assert y.attrs == x.attrs
            y.attrs["nested"].append(2)
            assert x.attrs == {"nested": [1]}
            assert getattr(y, "name", None) == (x.name if x.ndim == 1 else None)


def test_explain_copies_nothing(monkeypatch):
    """Columns of several dtypes are put together only to be computed on."""
    mixed = pd.DataFrame({"a": [3.0, 1.0], "b": np.array([4, 0], "f4")})
    given = [mixed, mixed.astype("Float32"), mixed.assign(c=pd.array([1, None], "Int64"))]
    told = [l2.explain(x.to_numpy("f8", na_value=1.0)).backend for x in given]
    for name in ("to_numpy", "iloc", "values", "__array__"):
        monkeypatch.setattr(pd.DataFrame, name, None)
    for x, backend in zip(given, told, strict=True):
        assert l2.explain(x).backend == backend
        with pytest.raises(TypeError):
            l2.norm(x)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "?"])
@pytest.mark.parametrize("kind", [list, np.asarray, lambda row: np.array(row, object)])
def test_explain_copies_no_rows(kind, dtype):
    """Of a Series of objects; it says what the call will do all the same."""
    a = (RNG.standard_normal((60, 4000)) * 9).astype(dtype)
    held = np.empty(60, object)
    held[:] = [kind(row if kind is np.asarray else row.tolist()) for row in a]
    x = pd.Series(held)
    l2.explain(x)
    tracemalloc.start()
    told = l2.explain(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 4000 / 2  # bytes: less than two rows of float64
    unit = l2.normalize(x)
    assert told[:2] == l2.explain(np.stack(unit.map(np.asarray)))[:2]
    want = a if kind is np.asarray else np.array(a.tolist())
    assert np.stack(unit.map(np.asarray)).tobytes() == l2.normalize(want).tobytes()


def test_integers_of_python():
    """Up to 64 bits, as NumPy has them; beyond, what it says."""
    for row in ([2**62 + 1, -(2**63)], [2**64 - 1, 1], [True, 3], [2**63, 1.5], [2**70 / 3, 1]):
        unit = l2.normalize(pd.Series([row, None]))
        assert unit[0] == l2.normalize(np.asarray(row)).tolist()
    for row in ([10**30, 1], [10**30, 1.5], [np.nan, 10**30], [-(10**30), 1.5]):
        for call in (l2.normalize, l2.explain):
            with pytest.raises(TypeError, match="object is not supported"):
                call(pd.Series([row]))


@pytest.mark.parametrize("chunks", [1, 3])
def test_arrow_lists(chunks):
    """By the rows of Arrow; the index, and chunks, are kept."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.list_(pa.field("item", pa.float32(), metadata={"a": "b"}), 2)
    rows = [[3, 4], None, [0, 0], [1, None], [5, 12], [np.nan, 1]]
    held = pa.chunked_array([pa.array(rows, kind)] * chunks).slice(1)
    x = pd.Series(pd.arrays.ArrowExtensionArray(held), name="v")
    x.index = x.index[::-1]
    unit, norms = l2.normalize(x, return_norm=True, zero="null")
    arrow = l2.normalize(held, return_norm=True, zero="null")
    for got, want in zip(
        (unit, norms, l2.is_normalized(x)), (*arrow, l2.is_normalized(held)), strict=True
    ):
        assert got.index.identical(x.index)
        assert got.name == "v"
        assert got.dtype == pd.ArrowDtype(want.type)
        found = got.array.__arrow_array__()
        assert found.num_chunks == chunks
        assert repr(found.to_pylist()) == repr(want.to_pylist())
    assert unit.dtype == x.dtype
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [1, 2]), pa.array([[3, 4], None], kind)
    )
    y = l2.normalize(pd.Series(pd.arrays.ArrowExtensionArray(tensors)), (1, 2))
    assert y.dtype == pd.ArrowDtype(tensors.type)
    for other in (pa.array([{"a": 1.0}]), pa.array([["a"] * 2], pa.list_(pa.string(), 2))):
        with pytest.raises(TypeError, match="x: Arrow "):
            l2.normalize(pd.Series(pd.arrays.ArrowExtensionArray(other)))
    for other in (pa.array(["a"]), pa.array([1], pa.decimal128(3)), pa.array([1], pa.date32())):
        with pytest.raises(
            TypeError, match=r"x: dtype (string|decimal.*|date.*)\[pyarrow\] is not"
        ):
            l2.normalize(pd.Series(pd.arrays.ArrowExtensionArray(other)))
    with pytest.raises(TypeError, match=r"for vectors, one column of them: x\[name\]"):
        l2.normalize(x.to_frame())
    with pytest.raises(ValueError, match="axis: each row of an Arrow array is a vector"):
        l2.normalize(x, 0)
    with pytest.raises(TypeError, match="out: "):
        l2.normalize(x, out=np.zeros((5, 2)))


@pytest.mark.parametrize("kind", ["list_", "large_list", "list_view", "fixed"])
@pytest.mark.parametrize("name", [None, "numpy", "jax"])
def test_what_arrow_takes(kind, name):
    """A Series takes the same, with the same results, and no more."""
    pa = pytest.importorskip("pyarrow")
    rows = [[3, 4], None, [0, 0], [1, None], [5, 12]]
    if kind == "fixed":
        held = pa.array(rows, pa.list_(pa.float32(), 2))
    else:
        held = pa.array([*rows, [], [1, 2, 2]], getattr(pa, kind)(pa.float32()))
    for array in (held.slice(1), pa.chunked_array([held, held.slice(2)])):
        x = pd.Series(pd.arrays.ArrowExtensionArray(array), name="v")
        for function in (l2.normalize, l2.norm, l2.is_normalized):
            try:
                want = function(array, backend=name)
            except (TypeError, ImportError) as error:
                with pytest.raises(type(error), match=r"^x: |^backend"):
                    function(x, backend=name)
                continue
            got = function(x, backend=name)
            assert got.name == "v"
            assert got.array.__arrow_array__().to_pylist() == want.to_pylist()


def test_refusals():
    """Labels are never lost in silence, and the way out is named."""
    for index, cure in (
        (FRAME.index, "x.to_numpy()"), (FRAME.columns, "x.to_numpy()"), (pd.Index([3.0]), "x.to_n")
    ):  # fmt: skip
        with pytest.raises(TypeError, match="Index is not supported") as caught:
            l2.normalize(index)
        assert cure in str(caught.value)
    for x in (FRAME, FRAME["a"], pd.Series([[3.0, 4.0]])):
        for out in (x, np.empty(x.shape)):
            for function in (l2.normalize, l2.norm):
                with pytest.raises(TypeError, match="out: a Series or DataFrame may share"):
                    function(x, out=out)
        with pytest.raises(TypeError, match="keepdims: "):
            l2.norm(x, keepdims=True)
        with pytest.raises(TypeError, match="dim: x has no dimensions"):
            l2.normalize(x, dim="a")
    for x in (FRAME, pd.Series([3.0])):
        with pytest.raises(ValueError, match="zero: expected one of 'keep', 'nan', 'raise', got"):
            l2.normalize(x, zero="null")
    rows = pd.Series([[3.0, 4.0]])
    with pytest.raises(ValueError, match="axis: each row of a Series of arrays is a vector"):
        l2.normalize(rows, 0)
    with pytest.raises(ValueError, match="axis: each row"):
        l2.normalize(rows, None)


BAD = {
    "strings": (["a"], "str.* is not supported|holds items of type builtins.str"),
    "days": (np.array([1], "M8[s]"), r"dtype datetime64\[s\] is not supported"),
    "category": (pd.Categorical([1]), "dtype category is not supported"),
    "sparse": (pd.arrays.SparseArray([1.0]), r"dtype Sparse.* is not supported"),
    "numbers as objects": (np.array([1, None]), r"number at position 0; .*x.convert_dtypes\(\)"),
    "words in lists": ([[1, "a"]], "holds items of type builtins.str, which are no numbers: 'a'"),
    "nested": ([[[1, 2], [3, 4]]], "row at position 0 has 2 axes"),
    "nested, ragged": ([[[1, 2], [3]]], "is ragged"),
    "matrices": ([np.zeros(2), np.zeros((2, 2))], "row at position 1 has 2 axes"),
    "no axes": ([np.array(3.0)], "number|row at position 0 has 0 axes"),
    "masked": ([np.ma.MaskedArray([1.0, 2.0], [True, False])], "MaskedArray.*np.ma"),
    "series": ([pd.Series([1.0])], r"Series.* v.to_numpy\(\)"),
    "dictionaries": ([{"a": 1.0}], r"list\(v.values\(\)\)"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_no_vectors(values, message):
    held = values
    if isinstance(values, list):
        held = np.empty(len(values), object)
        for i, row in enumerate(values):
            held[i] = row
    with pytest.raises((TypeError, ValueError), match=message):
        l2.normalize(pd.Series(held))
    frame = pd.DataFrame({"a": [1.0] * len(values), "v": pd.Series(held)})
    with pytest.raises(
        TypeError, match=r"x: dtype .* is not supported.*x\.(select|convert|sparse)"
    ):
        l2.normalize(frame)


def test_what_a_keyword_is_not():
    """A Series as a keyword is no reason to speak of x."""
    for wrong in (pd.Series(["a", "b"]), pd.Series([[1.0], [2.0]]), FRAME):
        with pytest.raises(TypeError, match="eps: "):
            l2.normalize([3.0, 4.0], eps=wrong)


def test_pyarrow_is_optional():
    """Where it is not there, nor asked for."""
    code = """
import sys; sys.modules["pyarrow"] = None
import numpy as np, pandas as pd, l2multi as l2
frame = pd.DataFrame({"a": pd.array([3, None], "Int64"), "b": [4.0, 1.0]})
assert l2.norm(frame).isna().tolist() == [False, True]
assert l2.norm(pd.Series([[3.0, 4.0], [1.0]])).tolist() == [5.0, 1.0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
