"""Flush-to-zero and denormals-are-zero, set by another library: the same bits, the modes left."""

import itertools

import numpy as np
import pytest

import l2multi as l2
from tests import cases, modes
from tests.reference import same_bits

pytestmark = [
    pytest.mark.only("same_bits"),
    pytest.mark.skipif(not modes.FLUSH, reason="it is not known how modes are set here"),
]

# Each of the modes alone, and all of them.
MODES = sorted({*modes.FLUSH, sum(modes.FLUSH)})


def equal(backend, function, x, *arguments, **keywords):
    """A call gives the bits, under each of the modes, that it gives without."""
    expected = backend.run(function, x, *arguments, **keywords)
    for bits in MODES:
        with modes.changed(bits):
            got = backend.run(function, x, *arguments, **keywords)
        pairs = zip(got, expected, strict=True) if type(got) is tuple else [(got, expected)]
        for a, b in pairs:
            assert same_bits(a, b), (hex(bits), x.shape, arguments, keywords)


@pytest.mark.dtypes(*cases.FLOATS, every=True)
def test_magnitudes(backend, dtype):
    """Every magnitude crossed with every other, and vectors of moderate length."""
    for x in (*cases.grid(dtype), cases.vectors(dtype, 100), cases.vectors(dtype, 1)):
        equal(backend, l2.normalize, x, return_norm=True)
        equal(backend, l2.norm, x)


@pytest.mark.only("holds_layouts")
@pytest.mark.dtypes(*(d for d in cases.FEW if d.kind != "i"))
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(backend, dtype, layout, tmp_path):
    """Each layout along each axis, of vectors that hold subnormal numbers."""
    x = cases.LAYOUTS[layout](cases.vectors(dtype, 150), tmp_path / "x")
    for axis in (-1, 0, None):
        equal(backend, l2.normalize, x, axis, return_norm=True)


@pytest.mark.only("any_axis")
@pytest.mark.dtypes(*(d for d in cases.FEW if d.kind != "i"))
def test_keywords(backend, dtype):
    """A bound, and policies, which take no subnormal norm for zero."""
    x = cases.vectors(dtype, 37)
    tiny = np.repeat(x[2:3], 5, axis=0)
    for zero, eps in itertools.product(("keep", "nan"), (0.0, 1e-310, 1e-3)):
        equal(backend, l2.normalize, x, zero=zero, eps=eps)
    for axis in (-1, 0):
        equal(backend, l2.normalize, tiny, axis, zero="raise", nonfinite="raise")
        equal(backend, l2.norm, tiny, axis, keepdims=True)


@pytest.mark.only("holds_layouts")
@pytest.mark.dtypes(*(d for d in cases.FEW if d.kind != "i"))
def test_out(backend, dtype):
    """In place and into others, of other layouts."""
    x = cases.vectors(dtype, 37)
    for axis, bits in itertools.product((-1, 0), MODES):
        expected = backend.normalize(x, axis)
        place, apart, other = x.copy(), np.ones_like(x), np.ones_like(x, order="F")
        for source, out in ((place, place), (x, apart), (x, other)):
            held = (backend.hold(source), backend.hold(out))
            with backend.scope(dtype), modes.changed(bits):
                l2.normalize(held[0], axis, out=held[1], backend=backend.name)
            assert same_bits(out, expected)


@pytest.mark.dtypes(*dict.fromkeys(a for a, _ in cases.CONVERSIONS if a.kind != "i"))
def test_dtype_argument(backend, dtype):
    """Outputs wider and narrower than the input, of which elements and norms are subnormal."""
    x = cases.vectors(dtype, 100)
    for asked in (b for a, b in cases.CONVERSIONS if a == dtype and not backend.why_not(b)):
        equal(backend, l2.normalize, x, dtype=asked, return_norm=True)
        if asked.kind != "c":
            equal(backend, l2.norm, x, dtype=asked)


@pytest.mark.only("plain")
@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
@pytest.mark.parametrize(("shape", "axis"), [((600, 100), 1), ((100, 600), 0), ((2, 70_001), 1)])
def test_large(backend, dtype, shape, axis):
    """Enough work for several threads, one vector's own among it."""
    x = np.resize(cases.vectors(dtype, 100)[2:], shape)
    equal(backend, l2.normalize, x, axis, return_norm=True)
