"""SciPy's sparse arrays and matrices: every format, over any axes, with the bits of the dense
vectors of their stored entries."""

import copy
import importlib
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy
from scipy import sparse

import l2multi as l2
from l2multi import _backends

FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")
KINDS = [f"{name}_{kind}" for name in FORMATS for kind in ("array", "matrix")]
ARRAYS = [f"{name}_array" for name in FORMATS]
DTYPES = [*"fdgFD?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
VERSION = tuple(map(int, scipy.__version__.split(".")[:2]))

of_any_axes = pytest.mark.skipif(VERSION < (1, 15), reason="SciPy has them from 1.15 on")


@pytest.fixture(params=["numpy", "numba", "numba:parallel"])
def by(request):
    """Each backend of ragged arrays, by name."""
    name, _, how = request.param.partition(":")
    if not how:
        yield name
    else:
        with importlib.import_module("l2multi.backends.numba.threads").force(how):
            yield name


def dense(dtype, shape=(23, 37), seed=0, fill=0.3):
    """A dense array, mostly zeros; its third row and column are zero."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape) * 100
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    a[rng.random(shape) > fill] = 0
    a[2], a[..., 2] = 0, 0
    return (abs(a.real) if np.dtype(dtype).kind in "u" else a).astype(dtype)


def made(kind, a):
    """A sparse array or matrix of this kind."""
    return getattr(sparse, kind)(sparse.coo_array(a))


def vectors(a, axis):
    """The indices of each vector of a dense array, as those of flat elements in C order."""
    axes = tuple(range(a.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(d % a.ndim for d in axes)
    kept = [d for d in range(a.ndim) if d not in axes]
    batch = [a.shape[d] for d in kept]
    numbers = np.arange(a.size).reshape(a.shape)
    return batch, numbers.transpose(*kept, *axes).reshape(int(np.prod(batch)), -1)


def expected(a, stored, axis, by, **keywords):
    """Unit vectors and norms, each vector's from its stored entries alone."""
    batch, places = vectors(a, axis)
    y = np.zeros(a.size, keywords.get("dtype") or l2.normalize(a[:1, :1]).dtype)
    norms = []
    for vector in places:
        vector = vector[stored.ravel()[vector]]
        y[vector], norm = l2.normalize(a.ravel()[vector], return_norm=True, backend=by, **keywords)
        norms.append(norm)
    return y.reshape(a.shape), np.array(norms).reshape(batch)


def same(got, want):
    """Equal to the last bit, signs of zero included; all NaNs are one."""
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)
    for part in ("real", "imag") if got.dtype.kind == "c" else ("real",):
        a, b = getattr(got, part), getattr(want, part)
        np.testing.assert_array_equal(np.signbit(a[~np.isnan(a)]), np.signbit(b[~np.isnan(b)]))


def state(x):
    """All that a matrix holds."""
    return pickle.dumps(x)


@pytest.mark.parametrize("axis", [-1, 0, 1, None, (1, 0), ()], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_the_stored_entries(by, dtype, axis):
    """In every format, for arrays and matrices, into new ones and in place."""
    if by == "numba" and dtype == "g":
        by = "numpy"  # the contract has longdouble there only
    a = dense(dtype)
    want, lengths = expected(a, a != 0, axis, by)
    for kind in KINDS:
        x = made(kind, a)
        before = state(x)
        y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
        assert type(y) is type(x)
        assert y.dtype == want.dtype
        same(y.toarray(), want)
        same(norms, lengths)
        assert type(norms) is (np.ndarray if lengths.ndim else lengths.dtype.type)
        same(l2.norm(x, axis, backend=by), lengths)
        kept = l2.norm(a, axis, keepdims=True).shape
        assert l2.norm(x, axis, keepdims=True, backend=by).shape == kept
        assert state(x) == before
        if want.dtype == x.dtype:
            assert l2.normalize(x, axis, out=x, backend=by) is x
            same(x.toarray(), want)
        found = l2.is_normalized(y, axis, backend=by)
        same(found, np.asarray(l2.is_normalized(want, axis, backend=by)))


@of_any_axes
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2), (2, 1), (1, 3), (0, 1, 2), ()], ids=str)
def test_coo_of_any_axes(by, axis):
    """Any number of axes, and any of these."""
    a = dense("f", (4, 5, 6, 3))
    x = sparse.coo_array(a)
    want, lengths = expected(a, a != 0, axis, by)
    y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
    same(y.toarray(), want)
    same(norms, lengths)
    same(l2.norm(x, axis, backend=by, keepdims=True).ravel(), lengths.ravel())


@of_any_axes
@pytest.mark.parametrize("name", ["csr", "coo", "dok"])
def test_one_axis(by, name):
    """The norm is a scalar, as NumPy's."""
    x = getattr(sparse, f"{name}_array")(np.array([3.0, 0.0, 4.0]))
    for axis in (0, -1, None, (0,)):
        y, norm = l2.normalize(x, axis, return_norm=True, backend=by)
        assert type(y) is type(x)
        np.testing.assert_array_equal(y.toarray(), [0.6, 0, 0.8])
        assert type(norm) is np.float64
        assert norm == 5
    with pytest.raises(np.exceptions.AxisError):
        l2.norm(x, 1)


@pytest.mark.parametrize("name", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("axis", [-1, 0, None, ()], ids=str)
def test_unsorted_and_repeated(by, name, axis):
    """Entries in any order; those for one place are added first, and x stays as it is."""
    rng = np.random.default_rng(1)
    places = rng.integers(0, 8, (2, 60)).astype("i4")
    values = rng.standard_normal(60).astype("f")
    summed = sparse.coo_array((values, places), shape=(8, 8)).tocsr()
    lone = sparse.coo_array(summed)
    shuffled = rng.permutation(lone.nnz)
    unsorted = sparse.coo_array(
        (lone.data[shuffled], (lone.coords[0][shuffled], lone.coords[1][shuffled])), shape=(8, 8)
    )
    for coo, repeats in (
        (sparse.coo_array((values, places), shape=(8, 8)), True),
        (unsorted, False),
    ):
        x = _raw(name, coo)
        before = state(x)
        y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
        assert state(x) == before
        want, lengths = l2.normalize(summed, axis, return_norm=True, backend=by)
        np.testing.assert_allclose(y.toarray(), want.toarray(), 1e-6)
        np.testing.assert_allclose(norms, lengths, 1e-6)
        if not repeats:
            same(y.toarray(), want.toarray())
            assert y.nnz == x.nnz
            for attribute in ("indices", "indptr", "row", "col"):
                if hasattr(x, attribute):
                    same(getattr(y, attribute), getattr(x, attribute))
        z = copy.deepcopy(x)
        assert l2.normalize(z, axis, out=z, backend=by) is z
        same(z.toarray(), y.toarray())
        z.sum_duplicates()
        same(z.toarray(), y.toarray())


@pytest.mark.parametrize("dtype", [">f4", "f", "d", "F", "D", "?", "b", "H", "q"])
@pytest.mark.parametrize("width", [40, 100_000])
def test_coo_in_random_order(by, width, dtype):
    """The bits of the sorted one, at the places of the entries of x."""
    rng = np.random.default_rng(3)
    places = np.unravel_index(rng.choice(width * 20, 500, replace=False), (20, width))
    values = rng.integers(1, 100, 500).astype(dtype) / (1 if dtype in "?bHq" else 7)
    native = sparse.coo_array((values.astype(dtype.strip(">")), places), shape=(20, width))
    x = native.copy()
    x.data = x.data.astype(dtype)
    for axis in (-1, 0, None):
        y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
        for mine, theirs in zip(y.coords, x.coords, strict=True):
            same(mine, theirs)
        want, lengths = l2.normalize(native.tocsr(), axis, return_norm=True, backend=by)
        same(y.tocsr().toarray(), want.toarray())
        same(norms, lengths)


def _raw(name, coo):
    """The entries of a COO array in another format, in their order."""
    row, column = coo.coords
    if name == "coo":
        return coo
    outer, inner = (column, row) if name == "csc" else (row, column)
    order = np.argsort(outer, kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(outer, minlength=8)))
    data = coo.data[order]
    if name == "bsr":
        data = data[:, None, None]
    return getattr(sparse, f"{name}_array")((data, inner[order], ends), shape=(8, 8))


def test_repeats_are_added_in_more_than_their_own_width(by):
    """int8 does not wrap, and NumPy's sum of bools is a bool."""
    for dtype, want in (("i1", [200.0, 3.0]), ("f", [200, 3]), ("?", [1.0, 1.0])):
        values = np.array([100, 3, 100]).astype(dtype)
        x = sparse.csr_array((values, np.array([0, 1, 0]), np.array([0, 3])), shape=(1, 2))
        y, norms = l2.normalize(x, return_norm=True, backend=by)
        want, length = l2.normalize(np.array([want]).astype(y.dtype), return_norm=True)
        same(y.toarray(), want)
        same(norms, length)
        assert (x.nnz, y.nnz) == (3, 2)
    x = sparse.coo_array(([3.0, 1.0], ([0, 0], [0, 0])), shape=(1, 2))
    np.testing.assert_array_equal(l2.normalize(x, backend=by).toarray(), [[1, 0]])


@pytest.mark.parametrize("index", ["i4", "i8"])
def test_index_dtypes_and_structure_stay(by, index):
    """Also where index arrays differ in width, an explicit zero and what underflows to one."""
    for name in ("csr", "csc"):
        x = getattr(sparse, f"{name}_array")(
            (np.array([1e38, 1e-10, 0.0], "f"), np.array([0, 1, 2]), np.array([0, 3, 3, 3])),
            shape=(3, 3),
        )
        x.indices, x.indptr = x.indices.astype("i4"), x.indptr.astype(index)
        for axis in (0, 1, None):
            y = l2.normalize(x, axis, backend=by)
            same(y.indices, x.indices)
            same(y.indptr, x.indptr)
            assert y.nnz == 3
            if (name, axis) in (("csr", 1), ("csc", 0), ("csr", None), ("csc", None)):
                same(y.data, np.array([1, 0, 0], "f"))
            if index == "i4":  # SciPy's function takes one dtype only
                y.eliminate_zeros()
            assert x.nnz == 3
            assert x.indptr[1] == 3


def test_results_share_nothing_with_x(by):
    """Whatever is done to the result."""
    for kind in KINDS:
        x = made(kind, dense("f"))
        y = l2.normalize(x, backend=by)
        for name in ("data", "indices", "indptr", "offsets", "row", "col", "rows"):
            for other in ("data", "indices", "indptr", "offsets", "row", "col", "rows"):
                if hasattr(x, name) and hasattr(y, other) and x.format != "dok":
                    assert not np.shares_memory(getattr(x, name), getattr(y, other)), kind


def test_entries_beyond_the_last_vector_do_not_count(by):
    """SciPy lets data be longer than what indptr tells of."""
    x = sparse.csr_array(np.array([[3.0, 4.0], [0.0, 0.0]]))
    x.data, x.indices = np.append(x.data, [7.0]), np.append(x.indices, [0]).astype(x.indices.dtype)
    for axis in (0, 1, None):
        same(l2.norm(x, axis, backend=by), l2.norm(np.array([[3.0, 4.0], [0.0, 0.0]]), axis))
    y = l2.normalize(x, backend=by)
    np.testing.assert_array_equal(y.toarray(), [[0.6, 0.8], [0, 0]])
    l2.normalize(x, out=x, backend=by)
    np.testing.assert_array_equal(x.data, [0.6, 0.8, 7.0])


def test_padding_of_dia_and_bsr_does_not_count(by):
    """Neither the numbers of diagonals outside the matrix nor the zeros that fill blocks."""
    x = sparse.dia_array((np.array([[9.0, 3.0, 4.0], [1.0, 2.0, 9.0]]), [1, -1]), shape=(3, 3))
    for axis in (0, 1, None):
        want = l2.normalize(x.tocsr(), axis, backend=by)
        same(l2.normalize(x, axis, backend=by).toarray(), want.toarray())
        same(l2.norm(x, axis, backend=by), l2.norm(x.tocsr(), axis, backend=by))
    a = dense("d", (24, 36))
    a[5, 6] = np.nan
    blocks = sparse.csr_array(a).tobsr((2, 3))
    y = l2.normalize(blocks, backend=by)
    assert y.blocksize == (2, 3)
    same(y.toarray(), l2.normalize(sparse.csr_array(a), backend=by).toarray())


@pytest.mark.parametrize("kind", ARRAYS)
def test_policies(by, kind):
    """As for dense arrays; what is not stored stays zero."""
    a = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, np.inf, 2.0], [np.nan, 0.0, 1.0]])
    x = made(kind, a)
    y, norms = l2.normalize(x, return_norm=True, backend=by)
    nan = np.nan
    same(y.toarray(), np.array([[0.6, 0.8, 0], [0, 0, 0], [0, nan, 0], [nan, 0, nan]]))
    same(norms, np.array([5, 0, np.inf, nan]))
    before = state(x)
    with pytest.raises(l2.NonFiniteError, match="in 2 of 4 vectors, the first at position 2 of"):
        l2.normalize(x, nonfinite="raise", out=x, backend=by)
    with pytest.raises(l2.NonFiniteError, match="in 2 of 4 vectors"):
        l2.norm(x, nonfinite="raise", backend=by)
    with pytest.raises(l2.ZeroVectorError, match="in 1 of 4 vectors, the first at position 1 of"):
        l2.normalize(x, zero="raise", out=x, backend=by)
    assert state(x) == before
    same(l2.normalize(x, zero="nan", backend=by).toarray(), y.toarray())
    same(
        l2.normalize(made(kind, a[:1]), eps=10.0, backend=by).toarray(),
        np.array([[0.3, 0.4, 0]]),
    )
    l2.normalize(made(kind, a[:1]), zero="raise", nonfinite="raise", backend=by)


def test_explicit_zeros(by):
    """They are stored entries: a row of them is a zero vector, and becomes NaN if asked to."""
    x = sparse.csr_array((np.array([0.0, -0.0]), [0, 1], [0, 2]), shape=(1, 3))
    same(l2.normalize(x, backend=by).data, np.array([0.0, -0.0]))
    same(l2.normalize(x, zero="nan", backend=by).data, np.array([np.nan] * 2))
    with pytest.raises(l2.ZeroVectorError, match=r"in the only vector|1 of 1"):
        l2.normalize(x, zero="raise", backend=by)


@pytest.mark.parametrize("kind", KINDS)
def test_no_vectors_and_empty_ones(by, kind):
    """An empty vector is not a zero vector; one without entries is."""
    for shape in ((0, 3), (3, 0), (0, 0)):
        x = getattr(sparse, kind)(shape)
        for axis in (0, 1, None):
            y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
            assert y.shape == shape
            same(norms, np.linalg.norm(np.zeros(shape), axis=axis))
    l2.normalize(getattr(sparse, kind)((3, 0)), zero="raise", backend=by)
    with pytest.raises(l2.ZeroVectorError, match="3 of 3"):
        l2.normalize(getattr(sparse, kind)((3, 2)), zero="raise", backend=by)
    with pytest.raises(l2.ZeroVectorError, match="2 of 2"):
        l2.normalize(getattr(sparse, kind)((3, 2)), 0, zero="raise", backend=by)


def test_every_magnitude(by):
    """No sum overflows, none is lost."""
    for dtype, exponents in (("f", (-148, 126)), ("d", (-1073, 1022)), ("F", (-148, 126))):
        for exponent in exponents:
            values = np.ldexp(np.array([3.0, 4.0]), exponent - 1 if exponent > 0 else exponent)
            x = sparse.csr_array(values.astype(dtype)[None])
            y, norms = l2.normalize(x, return_norm=True, backend=by)
            want, lengths = l2.normalize(values.astype(dtype)[None], return_norm=True)
            same(y.toarray(), want)
            same(norms, lengths)


def test_integers_do_not_wrap(by):
    """Of SciPy's own norm int8 wraps, and so does int64."""
    x = sparse.csr_array(np.array([[-128, 0, 3], [0, 0, 0]], "i1"))
    np.testing.assert_allclose(l2.norm(x, backend=by), [128.0351514, 0])
    y = l2.normalize(x, backend=by)
    assert (x.dtype, y.dtype) == (np.int8, np.float64)
    large = sparse.csr_array(np.array([[2**40, 2**40]]))
    np.testing.assert_allclose(l2.norm(large, backend=by), [2**40.5])


def test_lengths(by):
    """Of every row up to 600, and long ones: the bits of dense vectors."""
    rng = np.random.default_rng(2)
    lengths = [*range(600), 2**15, 2**16 + 3, 2**17 + 5]
    ends = np.append(0, np.cumsum(lengths))
    for dtype in "fdF":
        data = rng.standard_normal(ends[-1]).astype(dtype)
        index = np.concatenate([np.arange(n) for n in lengths])
        x = sparse.csr_array((data, index, ends), shape=(len(lengths), max(lengths)))
        y, norms = l2.normalize(x, return_norm=True, backend=by)
        for i, row in enumerate(np.split(data, ends[1:-1])):
            unit, norm = l2.normalize(row, return_norm=True)
            same(y.data[ends[i] : ends[i + 1]], unit)
            assert norms[i] == norm


def test_dtype(by):
    """Another width; those that SciPy has not are refused, but for norms."""
    a = dense("f")
    x = sparse.csr_array(a)
    y, norms = l2.normalize(x, dtype="f8", return_norm=True, backend=by)
    want, lengths = expected(a, a != 0, -1, by, dtype=np.dtype("f8"))
    same(y.toarray(), want)
    same(norms, lengths)
    wide = sparse.csr_array(a.astype("d"))
    want, _ = expected(a.astype("d"), a != 0, -1, by, dtype=np.dtype("f4"))
    same(l2.normalize(wide, dtype="f4", backend=by).toarray(), want)
    assert l2.norm(x, dtype="f2", backend=by).dtype == np.float16
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(TypeError, match=rf"^dtype: SciPy's sparse arrays cannot hold {dtype}"):
            l2.normalize(x, dtype=dtype, backend=by)
        with pytest.raises(TypeError, match=r"^dtype: SciPy's sparse"):
            l2.explain(x, dtype=dtype, backend=by)


def test_float16_where_somebody_made_some(by):
    """SciPy makes none, but does not stop who sets the data."""
    x = sparse.csr_array(dense("f"))
    x.data = x.data.astype(np.float16)
    y, norms = l2.normalize(x, return_norm=True, backend=by)
    assert (y.dtype, norms.dtype) == (np.float16, np.float32)
    same(y.data, np.concatenate([l2.normalize(r) for r in np.split(x.data, x.indptr[1:-1])]))


def test_out(by):
    """Unit vectors into x alone, norms into any array."""
    x = sparse.csr_array(dense("f"))
    norms = np.empty(x.shape[0], "f4")
    assert l2.norm(x, out=norms, backend=by) is norms
    same(norms, l2.norm(x, backend=by))
    kept = np.empty((x.shape[0], 1), ">f4")
    assert l2.norm(x, out=kept, keepdims=True, backend=by) is kept
    np.testing.assert_array_equal(kept[:, 0], norms)
    before = state(x)
    for out in (x.copy(), x.toarray(), x.data, norms):
        with pytest.raises(TypeError, match=r"^out: of a SciPy sparse array .* by out=x; got "):
            l2.normalize(x, out=out, backend=by)
    for out, error, told in (
        (np.empty(3, "f4"), ValueError, "^out: expected shape"),
        (np.empty(23, "f8"), TypeError, "^out: expected dtype float32"),
        (x, TypeError, "^out: expected a numpy.ndarray, got csr_array"),
    ):
        with pytest.raises(error, match=told):
            l2.norm(x, out=out, backend=by)
    with pytest.raises(TypeError, match=r"^out: expected dtype float64, got float32"):
        l2.normalize(x, out=x, dtype="f8", backend=by)
    integers = sparse.csr_array(dense("i1"))
    for kind in KINDS:
        of_integers = getattr(sparse, kind)(integers)
        with pytest.raises(TypeError, match=r"^out: expected dtype float64, got int8; try without"):
            l2.normalize(of_integers, out=of_integers, backend=by)
    assert state(x) == before


def test_out_that_cannot_be_written():
    """Read-only data, and data that overlaps itself."""
    for kind in ("csr_array", "csc_array", "coo_matrix", "bsr_array", "dia_array"):
        x = made(kind, dense("f"))
        x.data.flags.writeable = False
        for axis in (0, 1):
            l2.normalize(x, axis)
            with pytest.raises(ValueError, match=r"^out: expected a writable array"):
                l2.normalize(x, axis, out=x)
    x = sparse.csr_array(dense("f"))
    x.data = np.broadcast_to(np.float32(2), x.data.shape)
    x.data.flags.writeable = True
    np.testing.assert_allclose(l2.norm(x), 2 * np.sqrt(np.diff(x.indptr)), 1e-6)
    with pytest.raises(ValueError, match=r"^out: expected one memory location per element"):
        l2.normalize(x, out=x)


def test_read_only_strided_and_swapped_data(by):
    """Data and index arrays as they come."""
    x = sparse.csr_array(dense("d"))
    want = l2.normalize(x, backend=by)
    other = copy.copy(x)
    other.data = np.repeat(x.data, 2)[::2].astype(">f8")
    other.indices, other.indptr = (np.repeat(a, 2)[::2] for a in (x.indices, x.indptr))
    for array in (other.data, other.indices, other.indptr):
        array.flags.writeable = False
    y = l2.normalize(other, backend=by)
    assert y.data.dtype.isnative
    same(y.toarray(), want.toarray())
    other.data = np.repeat(x.data, 2)[::2]
    l2.normalize(other, out=other, backend=by)
    same(other.data, want.data)


def test_broken_index_arrays_are_refused():
    """None reads or writes beyond the arrays."""
    x = sparse.csr_array(dense("f"))
    for indptr in ([0, 5, 2], [1, 2, 3], [0, 2, 10**9]):
        broken = copy.copy(x)
        broken.indptr = np.concatenate([indptr, x.indptr[3:]]).astype("i4")
        broken.indptr[-1] = max(broken.indptr[-1], indptr[-1])
        for axis in (0, 1, None):
            with pytest.raises(ValueError, match=r"^x: indptr "):
                l2.norm(broken, axis)
    for index in (-1, 37, 10**9):
        broken = x.copy()
        broken.indices[3] = index
        for axis in (0, (), None):
            with pytest.raises(ValueError, match=r"^x: an index is out of range"):
                l2.normalize(broken, axis)
        coo = x.tocoo()
        rows = coo.row.astype(">i8")
        rows[3] = index
        coo.coords = rows, coo.col
        with pytest.raises(ValueError, match=r"^x: an index is out of range"):
            l2.normalize(coo)


def test_refusals():
    """They say what to do."""
    x = sparse.csr_array(dense("f"))
    if "jax" in sys.modules or "jax" in _backends.NAMES:
        try:
            _backends.load(_backends.first("jax"))
        except ImportError:
            pass
        else:
            with pytest.raises(TypeError, match=r"backend 'jax' cannot .* or x\.toarray\(\)"):
                l2.normalize(x, backend="jax")
    with pytest.raises(np.exceptions.AxisError):
        l2.normalize(x, 2)
    with pytest.raises(TypeError, match=r"list holds items of type scipy.*scipy\.sparse\.vstack"):
        l2.normalize([x, x])


def test_work_in_proportion_to_the_stored_entries(by):
    """Nothing as large as the shape, but norms where they are asked for."""
    places = np.sort(np.random.default_rng(3).choice(2**28, 1000, replace=False))
    row = sparse.coo_array((np.ones(1000), (np.zeros(1000, int), places)), shape=(1, 2**28))
    column = sparse.coo_array((np.ones(1000), (places, np.zeros(1000, int))), shape=(2**28, 1))
    some = (row, row.tocsr(), column, column.tocsc(), row.todok())
    l2.normalize(row, backend=by)
    tracemalloc.start()
    for x in some:
        for axis in (0, 1, None, ()):
            l2.normalize(x, axis, backend=by)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    huge = sparse.coo_array(([3.0, 4.0], ([0, 2**40], [2**41, 7])), shape=(2**42, 2**42))
    assert l2.norm(huge, None, backend=by) == 5
    np.testing.assert_array_equal(l2.normalize(huge, backend=by).data, [1, 1])


def test_explain(by):
    """Says who serves, and touches nothing."""
    for kind in KINDS:
        x = made(kind, dense("f"))
        before = state(x)
        for axis in (0, 1, None):
            said = l2.explain(x, axis, out=x, backend=by)
            assert said.backend == by
            assert said.threads >= 1
        assert state(x) == before


def test_subclasses_come_back(by):
    """As themselves, with what they hold."""

    class Mine(sparse.csr_array):
        pass

    x = Mine(dense("f"))
    x.note = "mine"
    y = l2.normalize(x, backend=by)
    assert type(y) is Mine
    assert y.note == "mine"


def test_scipy_is_not_imported():
    """By nobody but who holds its arrays."""
    code = "import sys, l2multi as l2; l2.norm([3.0]); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@of_any_axes
def test_more_places_than_an_int64_counts():
    """Vectors are told apart by all of their indices, the first of which would be beyond 2**64."""
    rng = np.random.default_rng(5)
    far = np.array([0, 1, 7, 2**30, 2**32 - 1])
    coords = (*rng.choice(far, (3, 300)), rng.integers(3, size=300))
    values = rng.standard_normal(300)
    x = sparse.coo_array((values, coords), shape=(2**32, 2**32, 2**32, 3))
    x.sum_duplicates()
    y = l2.normalize(x, 3)
    assert all(map(np.array_equal, y.coords, x.coords))
    for place in set(zip(*x.coords[:3], strict=True)):
        of = np.all([c == p for c, p in zip(x.coords, place, strict=False)], axis=0)
        unit = x.data[of] / np.linalg.norm(x.data[of])
        np.testing.assert_array_almost_equal_nulp(y.data[of], unit, 4)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
def test_rows_of_one_length(dtype):
    """The bits of dense ones, by whichever kernel, fresh and in place."""
    for n in (3, 16, 17, 50, 511, 512):
        x = np.random.default_rng(n).standard_normal((90, n)).astype(dtype)
        want, lengths = l2.normalize(x, return_norm=True, backend="numpy")
        held = sparse.csr_array(x)
        got, norms = l2.normalize(held, return_norm=True, backend="numba")
        assert np.array_equal(got.toarray(), want)
        assert np.array_equal(norms, lengths)
        l2.normalize(held, out=held, backend="numba")
        assert np.array_equal(held.toarray(), want)


@pytest.mark.parametrize("how", ["serial", "parallel"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_whether_indices_ascend(dtype, how):
    """As SciPy finds it, wherever one does not, at the ends of vectors too; and of no others."""
    ragged = pytest.importorskip("l2multi.backends.numba.ragged")
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 70, 3000)
    lengths[:40] = [0, 0, *range(38)]
    ends = np.append(0, np.cumsum(lengths)).astype(dtype)
    good = np.concatenate([np.sort(rng.choice(2**30, n, replace=False)) for n in lengths])
    good = np.append(good, [5, 5]).astype(dtype)  # that belong to none
    if dtype == "int64":
        good += np.int64(2**33)

    def scipys(indices):
        x = sparse.csr_array((len(lengths), 2**40))
        x.data, x.indices, x.indptr = np.ones(len(indices)), indices, ends
        return x.has_canonical_format

    with importlib.import_module("l2multi.backends.numba.threads").force(how):
        assert ragged.ascending(good, ends) is scipys(good) is True
        for wrong in (good.astype(good.dtype.newbyteorder()), good[::-1], good.astype("u4")):
            assert ragged.ascending(wrong, ends) is None
        starts = np.flatnonzero(lengths > 1)
        for i in (*starts[:40], *starts[-40:]):
            for at in {ends[i] + 1, (ends[i] + ends[i + 1] + 1) // 2, ends[i + 1] - 1}:
                for less in (0, 1):
                    bad = good.copy()
                    bad[at] = bad[at - 1] - less
                    assert ragged.ascending(bad, ends) is scipys(bad) is False, (i, at, less)


@pytest.mark.parametrize("how", ["serial", "parallel"])
@pytest.mark.parametrize("dtype", ["int32", "int64", ">i4"])
def test_copies_of_indices(dtype, how, monkeypatch):
    """Equal and apart, wherever they begin, of any length; nothing beyond them is written."""
    ragged = pytest.importorskip("l2multi.backends.numba.ragged")
    monkeypatch.setattr(ragged, "COPY_FROM", 0)
    every = np.random.default_rng(3).integers(0, 2**31, 70_000).astype(dtype)
    with importlib.import_module("l2multi.backends.numba.threads").force(how):
        for size in (*range(70), 2**15, 2**15 + 1, 70_000 - 17):
            for first in (0, 1, 5, 16):
                indices = every[first : first + size]
                new = ragged.copied(indices)
                assert new.dtype == indices.dtype
                assert np.array_equal(new, indices)
                assert not np.may_share_memory(new, indices)
        assert np.array_equal(ragged.copied(every[::-3]), every[::-3])


def test_large_unsorted_and_repeated():
    """Found by our own look, beside what SciPy has not kept: same values, and nothing kept on x."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((900, 60))
    x = sparse.csr_array(a)
    for change in ((10, 11), (11, 10), (7, 7)):  # as it is, unsorted, repeated
        indices = x.indices.copy()
        indices[60 * 800 + 10 : 60 * 800 + 12] = change
        y = sparse.csr_array((x.data.copy(), indices, x.indptr), shape=x.shape)
        want = y.toarray()
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        got = l2.normalize(y)
        assert "_has_canonical_format" not in vars(y)
        np.testing.assert_allclose(got.toarray(), want, rtol=1e-14)
        l2.normalize(y, out=y)
        np.testing.assert_allclose(y.toarray(), want, rtol=1e-14)


def test_coo_in_place_says_whether_it_is_canonical():
    """Of entries for one place, which become one, but not of some in another order alone."""
    for rows, canonical in (([0, 1, 0], True), ([1, 0, 2], False)):
        x = sparse.coo_array((np.array([1.0, 2, 3]), (np.array(rows), np.array([2, 0, 2]))), (3, 4))
        want = l2.normalize(x.toarray())
        assert l2.normalize(x, out=x) is x
        assert x.has_canonical_format == canonical
        assert x.nnz == 2 + (not canonical)
        np.testing.assert_array_equal(x.toarray(), want)
