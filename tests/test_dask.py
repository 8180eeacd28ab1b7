"""Dask arrays: lazy, block by block, of whatever their blocks are."""

import textwrap

import numpy as np
import pytest

import l2multi as l2
from l2multi.backends.numba import threads
from l2multi.containers import dask_array
from tests.processes import run
from tests.reference import judge

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

A = np.random.default_rng(7).standard_normal((9, 10))
A[4] = 0
WHOLE, SPLIT = (4, 10), (4, 3)


@pytest.fixture(params=[WHOLE, SPLIT], ids=["whole", "split"])
def chunks(request):
    """Vectors that lie in one block, or in four."""
    return request.param


@pytest.fixture
def idle():
    """Within a test nothing is computed, but by a scheduler that is named."""

    def scheduler(*_, **__):
        pytest.fail("it was computed early")

    with dask.config.set(scheduler=scheduler):
        yield


def computed(*lazy):
    """Of one array or of several at once."""
    found = dask.compute(*lazy, scheduler="sync")
    return found if len(lazy) > 1 else found[0]


def close(y, want):
    """To the accuracy of the contract, as the latter is exact to that too."""
    np.testing.assert_allclose(np.asarray(y), np.asarray(want), rtol=1e-15)


@pytest.mark.parametrize("axis", [0, 1, (0, 1), None, ()])
def test_lazy(idle, chunks, axis):
    """Chunks, dtype and `meta` are known before anything is computed."""
    x = da.from_array(A.astype("f4"), chunks)
    unit, norms = l2.normalize(x, axis, return_norm=True)
    kept, unlike = l2.norm(x, axis, keepdims=True), l2.is_normalized(x, axis)
    wider = l2.normalize(x, axis, dtype="f8")
    assert unit.chunks == wider.chunks == x.chunks
    assert wider.dtype == "f8"
    want = l2.normalize(A.astype("f4"), axis, return_norm=True)
    batch = tuple(
        x.chunks[d] for d in range(2) if np.ndim(want[1]) == 2 or (axis in (0, 1) and d != axis)
    )
    assert norms.chunks == unlike.chunks == batch
    assert kept.shape == l2.norm(A, axis, keepdims=True).shape
    assert unlike.dtype == bool
    for y, z in zip((unit, norms), want, strict=True):
        assert (y.dtype, type(y._meta), y._meta.dtype, y._meta.ndim) == (
            z.dtype, np.ndarray, z.dtype, np.ndim(z),
        )  # fmt: skip
        np.testing.assert_array_equal(computed(y), z)
    np.testing.assert_array_equal(computed(kept).squeeze(), np.squeeze(want[1]))
    np.testing.assert_array_equal(computed(unlike), l2.is_normalized(A.astype("f4"), axis))
    close(computed(wider), l2.normalize(A.astype("f4"), axis, dtype="f8"))
    assert l2.explain(x, axis)[0] == l2.explain(A).backend


def test_bits_of_whole_vectors(idle):
    """Those of the NumPy array, also where the width of the result is chosen."""
    x = da.from_array(A, (2, 10))
    for keywords in ({}, {"eps": 3.0}, {"dtype": "f4"}, {"zero": "nan"}, {"backend": "numpy"}):
        want = l2.normalize(A, return_norm=True, **keywords)
        got = computed(*l2.normalize(x, return_norm=True, **keywords))
        assert [y.tobytes() for y in got] == [y.tobytes() for y in want]


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "i8"])
@pytest.mark.parametrize("cuts", [1, 2, 7, 300])
def test_the_sum_does_not_depend_on_chunks(dtype, cuts):
    """To the bounds of NumPy arrays, at every magnitude within a vector and between its blocks."""
    rng = np.random.default_rng(cuts)
    x = rng.uniform(-1, 1, (6, 300))
    if dtype == "i8":
        x = (x * 2.0**62).astype(dtype)
    else:
        x = (x + 1j * rng.standard_normal(x.shape) if dtype == "c16" else x).astype(dtype)
        top = np.finfo(dtype).maxexp - 3
        x[1] *= 2.0**top
        x[2] *= 2.0**-top
        x[3, ::2] *= 2.0**top
        x[4] *= 2.0 ** (-top - (20 if dtype == "f4" else 45))  # subnormal
        x[5, :100] = 0
        if dtype != "c16":
            x[1] = np.finfo(dtype).max  # whose norm is beyond the dtype, the unit vectors are not
    size = -(-x.shape[1] // cuts)
    unit, norms = computed(*l2.normalize(da.from_array(x, (4, size)), return_norm=True))
    verdict = judge(x, unit, norms, sample=x.size)
    wide = dtype != "f4"
    assert verdict.element <= (4 if wide else 0.51), verdict
    assert verdict.norm <= (2.5 if wide else 0.51), verdict


@pytest.mark.parametrize("keywords", [{"eps": 1e-3}, {"eps": 1e3}, {"dtype": "f4"}])
def test_keywords_of_split_vectors(keywords):
    for scale in (1.0, 2.0**1000, 2.0**-1000):
        got = computed(l2.normalize(da.from_array(A * scale, SPLIT), **keywords))
        close(got, l2.normalize(A * scale, **keywords))


def test_split_vectors_that_are_not_finite():
    """As whole ones, to the bits of NaN and the signs of zero."""
    x = np.full((4, 6), -2.0)
    x[0, 1], x[1, 5], x[2, 3:] = np.nan, -np.inf, 0
    x[3, 0] = -0.0
    for dtype in ("f4", "f8", "c8", "c16"):
        got = computed(*l2.normalize(da.from_array(x.astype(dtype), 2), return_norm=True))
        want = l2.normalize(x.astype(dtype), return_norm=True)
        for y, z in zip(got, want, strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-15)
            assert y[:2].tobytes() == z[:2].tobytes()
            np.testing.assert_array_equal(np.signbit(y.real), np.signbit(z.real))


def test_policies_that_raise(idle, chunks):
    """When the array is computed, by name of the block."""
    x = da.from_array(A, chunks)
    lazy = l2.normalize(x, zero="raise")
    with pytest.raises(
        l2.ZeroVectorError, match=r"1 of 4 vectors, .* position 0 .* block \(1, \d\)"
    ):
        computed(lazy)
    close(computed(lazy[:4]), l2.normalize(A[:4]))
    bad = A.copy()
    bad[8, 9] = np.inf
    for function in (l2.normalize, l2.norm):
        lazy = function(da.from_array(bad, chunks), nonfinite="raise")
        with pytest.raises(
            l2.NonFiniteError, match=r"inf or NaN in the only|1 of 1 vec.*block \(2"
        ):
            computed(lazy)
        huge = function(da.from_array(np.full((2, 10), 1.7e308), chunks), nonfinite="raise")
        close(computed(huge), function(np.full((2, 10), 1.7e308)))
    empty = l2.normalize(da.zeros((3, 0)), zero="raise")
    assert computed(empty).shape == (3, 0)


def test_unknown_chunks_and_empty_blocks(idle, chunks):
    """As a filter leaves them; one that leaves nothing too."""
    for least in (0.0, 0.9, 1e9):
        keep = A[:, 0] > least
        x = da.from_array(A, chunks)
        x = x[x[:, 0] > least]
        unit, norms = l2.normalize(x, return_norm=True)
        assert np.isnan(unit.shape[0])
        close(computed(unit), l2.normalize(A[keep]))
        close(computed(norms), l2.norm(A[keep]))
        close(computed(l2.norm(x, 0)), l2.norm(A[keep], 0))
        close(computed(l2.normalize(x, 0, zero="raise" if keep.any() else "nan")),
              l2.normalize(A[keep], 0))  # fmt: skip
        assert "blocks" in l2.explain(x).kernel


def test_masked_blocks(idle, chunks):
    """Masked entries do not count, in whatever block they are; nor where all of a vector are."""
    x = np.ma.masked_greater(A, 0.5)
    x[2] = np.ma.masked
    x[3, :6] = np.ma.masked
    unit, norms = l2.normalize(da.from_array(x, chunks), return_norm=True, zero="nan")
    want, lengths = l2.normalize(x, return_norm=True, zero="nan")
    for y, z in ((unit, want), (norms, lengths)):
        assert type(y._meta) is np.ma.MaskedArray
        y = computed(y)
        np.testing.assert_array_equal(y.mask, z.mask)
        close(y.filled(7), z.filled(7))
    assert norms.chunks == (unit.chunks[0],)


def test_sparse_blocks(chunks):
    """Of SciPy, whose class is kept."""
    sparse = pytest.importorskip("scipy.sparse")
    x = da.from_array(A, chunks).map_blocks(sparse.csr_array)
    for axis in (0, 1):
        unit, norms = l2.normalize(x, axis, return_norm=True)
        assert unit.chunks == x.chunks
        assert isinstance(unit._meta, sparse.csr_array)
        unit, norms = computed(unit, norms)
        assert isinstance(unit, sparse.csr_array)
        close(unit.toarray(), l2.normalize(A, axis))
        close(norms, l2.norm(A, axis))
    assert l2.explain(x).backend in ("numba", "numpy")


def test_blocks_of_the_array_api(chunks):
    """Of a library that has a file of no container: pydata's sparse."""
    sparse = pytest.importorskip("sparse")
    x = da.from_array(A, chunks).map_blocks(sparse.COO.from_numpy)
    unit, norms = l2.normalize(x, return_norm=True)
    assert isinstance(unit._meta, sparse.COO)
    assert l2.explain(x).backend == "array_api"
    unit, norms = computed(unit, norms)
    np.testing.assert_allclose(unit.todense(), l2.normalize(A), rtol=1e-15)
    np.testing.assert_allclose(norms.todense(), l2.norm(A), rtol=1e-15)


def test_one_thread_for_each_task(monkeypatch, chunks):
    """The scheduler has given it one core."""
    seen = []

    def norm(*arguments, **keywords):
        seen.append(threads.threads(2**24, False))
        return l2.norm(*arguments, **keywords)

    monkeypatch.setattr(dask_array, "l2", type("", (), {"norm": norm}))
    lazy = l2.norm(da.from_array(A, chunks))
    seen.clear()
    threads.pretend(4)
    try:
        before = threads.threads(2**24, False)  # fewer, if Numba is loaded, which knows two cores
        assert before > 1
        computed(lazy)
        assert threads.threads(2**24, False) == before
    finally:
        threads.pretend(0)
    assert set(seen) == {1}
    assert l2.explain(da.zeros((4000, 4000))).threads == 1


def test_schedulers(chunks):
    """Of threads and of processes: the same bits."""
    lazy = l2.normalize(da.from_array(A, chunks))
    want = computed(lazy).tobytes()
    for scheduler in ("threads", "processes"):
        assert lazy.compute(scheduler=scheduler, num_workers=2).tobytes() == want


def test_the_backend_is_named(idle, monkeypatch):
    """By whoever asked for the array, not by who computes it."""
    x = da.from_array(A.astype("f4"), WHOLE)
    with l2.backend("numpy"):
        lazy = l2.normalize(x)
        assert l2.explain(x)[:2] == ("numpy", "vectorized NumPy in parts in each of 3 blocks")
    monkeypatch.setenv("L2MULTI_BACKEND", "jax")
    assert computed(lazy).tobytes() == l2.normalize(A.astype("f4"), backend="numpy").tobytes()


def test_another_library_computes():
    """NumPy's blocks by JAX."""
    pytest.importorskip("jax")
    x = da.from_array(A.astype("f4"), WHOLE)
    y = l2.normalize(x, backend="jax")
    assert type(y._meta) is np.ndarray
    np.testing.assert_allclose(computed(y), l2.normalize(A.astype("f4")), rtol=1e-6)
    assert l2.explain(x, backend="jax").backend == "jax"
    with pytest.raises(TypeError, match="float64 needs x64"):
        l2.normalize(da.from_array(A, WHOLE), backend="jax")


def test_refusals(idle):
    x = da.from_array(A, WHOLE)
    for wrong, error, told in (
        ({"out": A}, TypeError, r"Dask arrays are lazy.*\.store\(out\)"),
        ({"zero": "null"}, ValueError, "'keep', 'nan', 'raise'"),
        ({"axis": 2}, np.exceptions.AxisError, "axis 2 is out of bounds"),
        ({"dtype": "i4"}, TypeError, "a real floating dtype"),
        ({"dim": "row"}, TypeError, "no dimensions with names"),
    ):
        with pytest.raises(error, match=told):
            l2.normalize(x, **wrong)
    with pytest.raises(TypeError, match="dtype object is not supported"):
        l2.norm(x.astype(object))
    with pytest.raises(TypeError, match="make one array of them first"):
        l2.norm([x[0], x[1]])


def test_one_vector(idle):
    """And numbers: there are no blocks to speak of then."""
    for size in (10, 3):
        lazy = l2.norm(da.from_array(A[0], size))
        assert (lazy.shape, lazy.chunks) == ((), ())
        close(computed(lazy), l2.norm(A[0]))
        assert computed(l2.norm(da.from_array(A[0], size), keepdims=True)).shape == (1,)
    close(computed(l2.norm(da.from_array(A[0], 3).sum(), None)), abs(A[0].sum()))


QUERY_PLANNING = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da
import numpy as np
import l2multi as l2
assert "_array_expr" in da.Array.__module__
x = np.random.default_rng(0).standard_normal((9, 10)) * 1e200
for chunks in ((4, 10), (4, 3)):
    held = da.from_array(x, chunks)
    for axis in (0, 1, None):
        y, n = l2.normalize(held, axis, return_norm=True)
        assert type(y) is da.Array and y.chunks == held.chunks and n.dtype == "f8"
        want = l2.normalize(x, axis, return_norm=True)
        for got, right in zip(dask.compute(y, n), want):
            np.testing.assert_allclose(got, right, rtol=1e-15)
        assert l2.norm(held, axis, keepdims=True).compute().ndim == 2
        assert not l2.is_normalized(held, axis).compute().any()
    assert "12 blocks" in l2.explain(held).kernel or chunks == (4, 10)
    try:
        l2.normalize(held * 0, zero="raise").compute()
    except l2.ZeroVectorError as error:
        print(error)
"""


def test_query_planning():
    """Dask's other arrays, which are asked for before Dask is imported."""
    if "query-planning" not in str(dask.config.global_config.get("array", {})):
        pytest.skip("this Dask has no such arrays")
    told = run(textwrap.dedent(QUERY_PLANNING)).splitlines()
    assert len(told) == 2
    assert all("zero norm" in one and "of block (" in one for one in told)
