"""Arrow arrays of vectors: nulls, slices, chunks, types; values are those of NumPy to the bit."""

import numpy as np
import pytest

import l2multi as l2

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
