"""`out=`: in place, overlapping, of any layout, refused before anything is written."""

import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import l2multi as l2
from l2multi import _contract
from tests import cases
from tests.reference import same_bits

pytestmark = pytest.mark.only("direct")

REAL = [np.dtype(d) for d in ("f2", "f4", "f8", "c8")]


@pytest.mark.dtypes(*cases.FEW)
def test_in_place(backend, dtype):
    """``out=x`` gives the bits of a fresh result, and is what is returned."""
    if not cases.is_float(dtype):
        return
    for axis in (-1, 0, None):
        x = cases.vectors(dtype, 37)
        with backend.scope(dtype):
            expected = l2.normalize(x, axis, backend=backend.name)
            assert l2.normalize(x, axis, out=x, backend=backend.name) is x
        assert same_bits(x, expected)


@pytest.mark.dtypes(*(d for d in cases.FEW if cases.is_float(d) and d.itemsize > 1))
def test_in_place_in_the_other_byte_order(backend, dtype):
    """A byte-swapped array is normalized in place, and stays byte-swapped."""
    for axis in (-1, 0, None):
        x = cases.vectors(dtype, 37)
        swapped = x.astype(dtype.newbyteorder())
        with backend.scope(dtype):
            expected, lengths = l2.normalize(x, axis, return_norm=True, backend=backend.name)
            assert l2.normalize(swapped, axis, out=swapped, backend=backend.name) is swapped
            place = np.empty(lengths.shape, lengths.dtype.newbyteorder())
            assert l2.norm(x, axis, out=place, backend=backend.name) is place
        assert not swapped.dtype.isnative
        assert same_bits(swapped, expected)
        assert same_bits(place, lengths)


def test_self_overlap():
    """An array overlaps itself where two elements share a byte, and nowhere else."""
    rng = np.random.default_rng(4)
    found = set()
    for _ in range(2000):
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 5)))
        strides = tuple(int(s) for s in rng.integers(-20, 40, len(shape)))
        starts = np.sort(np.tensordot(strides, np.indices(shape), 1), axis=None)
        shared = bool((np.diff(starts) < 4).any())
        assert _contract.overlaps_itself(as_strided(np.ones(1, "f4"), shape, strides)) is shared
        found.add((len(shape), shared))
    assert len(found) == 8
    # Elements between one another; and one for which the question takes too long.
    assert not _contract.overlaps_itself(as_strided(np.ones(9), (2, 2), (24, 16)))
    many = as_strided(np.ones(1), (2,) * 40, [8 * math.isqrt(10**16 + 3**k) for k in range(40)])
    assert _contract.overlaps_itself(many)


def test_empty_out(backend):
    """An `out` without elements is one like any other; NumPy gives such a copy strides of 0."""
    for shape in ((0, 5), (5, 0), (2, 0, 3)):
        x = np.ones(shape, np.float32)
        out = x[::-1].copy(order="K")
        with backend.scope(x.dtype):
            assert l2.normalize(x, 0, out=out, backend=backend.name) is out
        zeros = as_strided(x, shape, (0,) * len(shape))
        with backend.scope(x.dtype):
            assert l2.normalize(x, 0, out=zeros, backend=backend.name) is zeros


# Pairs of views (x, out) of one square buffer, that overlap in different ways.
OVERLAPS = {
    "one row down": lambda b: (b[:-1], b[1:]),
    "one row up": lambda b: (b[1:], b[:-1]),
    "one column right": lambda b: (b[:, :-1], b[:, 1:]),
    "one column left": lambda b: (b[:, 1:], b[:, :-1]),
    "rows backwards": lambda b: (b, b[::-1]),
    "columns backwards": lambda b: (b, b[:, ::-1]),
    "transposed": lambda b: (b, b.T),
    "one element": lambda b: (b.reshape(-1)[:-1], b.reshape(-1)[1:]),
    "read backwards, in place": lambda b: (b[::-1], b[::-1]),
    "same place, another view": lambda b: (b[:], b[:]),
    "broadcast": lambda b: (np.broadcast_to(b[0], b.shape), b),
}


@pytest.mark.dtypes(*REAL)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_overlap(backend, dtype, overlap):
    """Any overlap gives the result of no overlap, and writes nowhere else."""
    for axis in (-1, 0):
        buffer = cases.sample(dtype, (41, 41))
        x, out = OVERLAPS[overlap](buffer)
        if axis == 0 and x.ndim == 1:
            continue
        kept = buffer.copy()
        with backend.scope(dtype):
            expected, lengths = l2.normalize(x.copy(), axis, return_norm=True, backend=backend.name)
            y, norms = l2.normalize(x, axis, out=out, return_norm=True, backend=backend.name)
        assert y is out
        assert same_bits(out, expected)
        assert same_bits(norms, lengths)
        OVERLAPS[overlap](kept)[1][...] = expected
        assert same_bits(buffer, kept)


NOT_WRITABLE = {"read-only", "memory map"}


@pytest.mark.dtypes(*REAL)
@pytest.mark.parametrize("layout", sorted({*cases.LAYOUTS} - NOT_WRITABLE))
def test_layouts_of_out(backend, dtype, layout):
    """`out` in each layout that can be written to, for unit vectors and norms."""
    x = cases.sample(dtype, (6, 18))
    out = cases.LAYOUTS[layout](np.zeros((6, 18), dtype), None)
    with backend.scope(dtype):
        for axis in (-1, 0):
            expected = l2.normalize(x, axis, backend=backend.name)
            assert l2.normalize(x, axis, out=out, backend=backend.name) is out
            assert same_bits(out, expected)
        lengths = np.asarray(l2.norm(x.reshape(6, 3, 6), backend=backend.name))
        place = cases.LAYOUTS[layout](np.zeros((6, 3), lengths.dtype), None)
        assert l2.norm(x.reshape(6, 3, 6), out=place, backend=backend.name) is place
        assert same_bits(place, lengths)
        kept = np.zeros((6, 1), lengths.dtype)
        assert l2.norm(x, keepdims=True, out=kept, backend=backend.name) is kept
        assert same_bits(kept[:, 0], l2.norm(x, backend=backend.name))


@pytest.mark.dtypes(np.dtype("i4"))
def test_dtype_with_out(backend, dtype):
    """`out` is of the result's dtype, which ``dtype=`` may have chosen."""
    x = cases.sample(dtype, (3, 4))
    with backend.scope(np.dtype("f8")):
        for asked in ("f8", "f4"):
            out = np.empty((3, 4), asked)
            expected = l2.normalize(x, dtype=asked, backend=backend.name)
            l2.normalize(x, dtype=asked, out=out, backend=backend.name)
            assert same_bits(out, expected)


def _read_only(shape):
    out = np.ones(shape, "f4")
    out.flags.writeable = False
    return out


UNFIT = [
    (np.ones((2, 4), "f4"), ValueError, r"^out: expected shape \(2, 3\), got \(2, 4\)"),
    (np.ones(6, "f4"), ValueError, "^out: expected shape"),
    (np.ones((1, 2, 3), "f4"), ValueError, "^out: expected shape"),
    (np.ones((2, 3), "f8"), TypeError, "^out: expected dtype float32, got float64"),
    (np.ones((2, 3), "i4"), TypeError, "^out: expected dtype"),
    (np.ones((2, 3), np.dtype("f8").newbyteorder()), TypeError, "^out: expected dtype"),
    (_read_only((2, 3)), ValueError, "^out: .*read-only"),
    ([[0.0] * 3] * 2, TypeError, "^out: .*list"),
    (np.ma.ones((2, 3), "f4"), TypeError, "^out: .*MaskedArray"),
    (as_strided(np.ones(3, "f4"), (2, 3), (0, 4)), ValueError, "^out: .*overlaps itself"),
    (as_strided(np.ones(4, "f4"), (2, 3), (4, 4)), ValueError, "^out: .*overlaps itself"),
    (as_strided(np.ones(4, "f4"), (2, 3), (2, 4)), ValueError, "^out: .*overlaps itself"),
    (sliding_window_view(np.ones(4, "f4"), 3, writeable=True), ValueError, "^out: .*overlaps it"),
    (sliding_window_view(np.ones(4, "f4"), 2, writeable=True).T, ValueError, "^out: .*overlaps it"),
]


@pytest.mark.parametrize(("out", "error", "match"), UNFIT, ids=[m for _, _, m in UNFIT])
def test_unfit(backend, out, error, match):
    """An `out` of the wrong kind, dtype or shape, or read-only, is refused by name."""
    x = np.full((2, 3), 2, "f4")
    held = np.copy(out)
    with pytest.raises(error, match=match):
        l2.normalize(x, out=out, backend=backend.name)
    assert (x == 2).all()
    assert np.array_equal(out, held)
    with pytest.raises((ValueError, TypeError), match=r"^out: "):
        l2.norm(x, out=out, backend=backend.name)
    assert np.array_equal(out, held)


CALLS = [
    {"zero": "raise"},
    {"nonfinite": "raise"},
    {"zero": "raise", "nonfinite": "raise", "axis": 0},
    {"zero": "bad"},
    {"eps": -1.0},
    {"axis": 7},
    {"dtype": "c8"},
    {"dtype": "f8"},
    {"backend": "bad"},
]


@pytest.mark.parametrize("keywords", CALLS, ids=str)
def test_nothing_is_written_before_an_error(backend, keywords):
    """On any exception `x` and `out` hold what they held, in place or apart, masked or not."""
    x = np.ones((5, 4), "f4")
    x[2], x[:, 1], x[3, 3] = 0, 0, np.inf
    keywords = {"backend": backend.name, **keywords}
    held, out = x.copy(), np.full((5, 4), 7, "f4")
    for target in (out, x, x[::-1], out[:, ::-1]):
        with backend.scope(), pytest.raises((ValueError, TypeError)):
            l2.normalize(x, out=target, **keywords)
        assert same_bits(x, held)
        assert (out == 7).all()
    masked = np.ma.MaskedArray(x, np.arange(20).reshape(5, 4) == 2)
    target = np.ma.MaskedArray(out, np.zeros((5, 4), bool))
    with backend.scope(), pytest.raises((ValueError, TypeError)):
        l2.normalize(masked, out=target, **keywords)
    assert (target == 7).all()
    assert not target.mask.any()
    assert same_bits(x, held)


def test_masked_out(backend):
    """A masked array goes into a masked `out`, mask and all; in place too."""
    data, mask = np.array([[3, 9, 4], [9, 9, 9]], "f4"), np.array([[0, 1, 0], [1, 1, 1]], bool)
    x = np.ma.MaskedArray(data, mask)
    for out in (np.ma.ones((2, 3), "f4"), x):
        y, norms = l2.normalize(x, out=out, return_norm=True, backend=backend.name)
        assert y is out
        np.testing.assert_allclose(y.compressed(), [0.6, 0.8], rtol=1e-6)
        assert np.array_equal(y.mask, mask)
        assert norms.mask.tolist() == [False, True]
    place = np.ma.zeros(2, "f4")
    assert l2.norm(x, out=place, backend=backend.name) is place
    assert place.mask.tolist() == [False, True]
    with pytest.raises(TypeError, match=r"^out: expected a numpy.ma.MaskedArray, got ndarray"):
        l2.normalize(x, out=np.ones((2, 3), "f4"), backend=backend.name)


@pytest.mark.only("immutable")
def test_immutable(backend):
    """`out` of or for an immutable array is a TypeError."""
    x = backend.array(np.ones((2, 3), "f4"))
    for out in (x, np.ones((2, 3), "f4")):
        with pytest.raises(TypeError, match=r"^out: .*immutable"):
            l2.normalize(x, out=out)
    with pytest.raises(TypeError, match=r"^out: "):
        l2.normalize(np.ones((2, 3), "f4"), out=x)
