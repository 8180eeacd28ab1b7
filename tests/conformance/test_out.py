"""`out=`: in place, overlapping, of any layout, refused before anything is written."""

import math
import re

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import l2multi as l2
from tests import cases
from tests.reference import same_bits

pytestmark = pytest.mark.only("holds_layouts")
direct = pytest.mark.only("direct")

REAL = [np.dtype(d) for d in ("f2", "f4", "f8", "c8")]


@pytest.mark.dtypes(*filter(cases.is_float, cases.FEW))
def test_in_place(backend, dtype):
    """``out=x`` gives the bits of a fresh result, and is what is returned."""
    for axis in (-1, 0, None):
        x = cases.vectors(dtype, 37)
        held = backend.hold(x)
        with backend.scope(dtype):
            expected = l2.normalize(x, axis, backend=backend.name)
            assert l2.normalize(held, axis, out=held, backend=backend.name) is held
        assert same_bits(x, expected)


@pytest.mark.dtypes(*(d for d in cases.FEW if cases.is_float(d) and d.itemsize > 1))
def test_in_place_in_the_other_byte_order(backend, dtype):
    """A byte-swapped array is normalized in place, and stays byte-swapped."""
    for axis in (-1, 0, None):
        x = cases.vectors(dtype, 37)
        swapped = x.astype(dtype.newbyteorder())
        held, source = backend.hold(swapped), backend.hold(x)
        with backend.scope(dtype):
            expected, lengths = l2.normalize(x, axis, return_norm=True, backend=backend.name)
            assert l2.normalize(held, axis, out=held, backend=backend.name) is held
            place = np.empty(lengths.shape, lengths.dtype.newbyteorder())
            out = backend.hold(place)
            assert l2.norm(source, axis, out=out, backend=backend.name) is out
        assert not swapped.dtype.isnative
        assert same_bits(swapped, expected)
        assert same_bits(place, lengths)


def is_refused(backend, out):
    """Whether an `out` is refused for overlapping itself; else it holds unit vectors."""
    x = np.broadcast_to(out.dtype.type(2), out.shape)
    try:
        with backend.scope(out.dtype):
            l2.normalize(x, None, out=out, backend=backend.name)
    except ValueError as error:
        return re.match("out: .*overlaps itself", str(error)) is not None
    np.testing.assert_allclose(out, 1 / math.sqrt(out.size), rtol=1e-6)
    return False


@pytest.mark.only("is_reference")
def test_self_overlap(backend):
    """An `out` overlaps itself where two elements share a byte, and nowhere else."""
    rng = np.random.default_rng(4)
    found = set()
    room = np.zeros(2048, np.uint8)
    for _ in range(2000):
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 5)))
        strides = tuple(int(s) for s in rng.integers(-20, 40, len(shape)))
        starts = np.sort(np.tensordot(strides, np.indices(shape), 1), axis=None)
        shared = bool((np.diff(starts) < 4).any())
        out = np.ndarray(shape, "f4", room.data, 1024, strides)
        assert is_refused(backend, out) is shared
        found.add((len(shape), shared))
    assert len(found) == 8
    # Elements between one another; and one for which the question takes too long.
    assert not is_refused(backend, as_strided(np.ones(9), (2, 2), (24, 16)))
    steps = [8 * math.isqrt(10**16 + 3**k) for k in range(40)]
    assert is_refused(backend, as_strided(np.ones(1), (2,) * 40, steps))


@pytest.mark.only("takes_usual")
def test_empty_out(backend):
    """An `out` without elements is one like any other; NumPy gives such a copy strides of 0."""
    for shape in ((0, 5), (5, 0), (2, 0, 3)):
        x = np.ones(shape, np.float32)
        for place in (x[::-1].copy(order="K"), as_strided(x, shape, (0,) * len(shape))):
            out = backend.hold(place)
            with backend.scope(x.dtype):
                assert l2.normalize(backend.hold(x), 0, out=out, backend=backend.name) is out


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
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.where(cases=lambda overlap, axis: axis != 0 or overlap != "one element")
def test_overlap(backend, dtype, overlap, axis):
    """Any overlap gives the result of no overlap, and writes nowhere else."""
    buffer = cases.sample(dtype, (41, 41))
    x, out = OVERLAPS[overlap](buffer)
    held, place = backend.hold(x), backend.hold(out)
    kept = buffer.copy()
    with backend.scope(dtype):
        expected, lengths = l2.normalize(x.copy(), axis, return_norm=True, backend=backend.name)
        y, norms = l2.normalize(held, axis, out=place, return_norm=True, backend=backend.name)
    assert y is place
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

    def into(function, a, shape, to, expected, **keywords):
        place = cases.LAYOUTS[layout](np.zeros(shape, to), None)
        out = backend.hold(place)
        assert function(backend.hold(a), out=out, backend=backend.name, **keywords) is out
        assert same_bits(place, expected)

    with backend.scope(dtype):
        for axis in (-1, 0):
            expected = l2.normalize(x, axis, backend=backend.name)
            into(l2.normalize, x, x.shape, dtype, expected, axis=axis)
        cube = x.reshape(6, 3, 6)
        lengths = np.asarray(l2.norm(cube, backend=backend.name))
        into(l2.norm, cube, (6, 3), lengths.dtype, lengths)
        lengths = np.asarray(l2.norm(x, backend=backend.name))[:, None]
        into(l2.norm, x, (6, 1), lengths.dtype, lengths, keepdims=True)


@pytest.mark.dtypes(np.dtype("i4"))
def test_dtype_with_out(backend, dtype):
    """`out` is of the result's dtype, which ``dtype=`` may have chosen."""
    x = cases.sample(dtype, (3, 4))
    with backend.scope(np.dtype("f8")):
        for asked in ("f8", "f4"):
            out = np.empty((3, 4), asked)
            expected = l2.normalize(x, dtype=asked, backend=backend.name)
            held, place = backend.hold(x), backend.hold(out)
            l2.normalize(held, dtype=asked, out=place, backend=backend.name)
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
    (np.ones((2, 3), "i4"), TypeError, "^out: expected dtype float32, got int32; try without out="),
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


@direct
@pytest.mark.only("takes_usual")
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


@direct
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


@direct
@pytest.mark.only("takes_usual")
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
