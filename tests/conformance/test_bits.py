"""One vector, one answer: to the last bit, in every backend that follows the specified sum."""

import math

import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.reference import same_bits

pytestmark = pytest.mark.only("same_bits")


def specified(x, narrow):
    """The norm and unit vector of float64 numbers as `l2multi._summation` has them, slowly.

    `narrow` says that input and output are narrower than float64.
    """

    def total(values):
        squares = [v * v for v in values] + [0.0] * (-len(values) % 16)
        rows = [squares[i : i + 16] for i in range(0, len(squares), 16)]
        while len(rows) > 1:
            pairs = zip(rows[::2], rows[1::2], strict=False)
            joined = [[a + b for a, b in zip(p, q, strict=True)] for p, q in pairs]
            rows = joined + rows[2 * len(joined) :]
        lanes = rows[0]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
        return lanes[0]

    up, down, s = 1.0, 1.0, total(x)
    if s < 2.0**-900:
        up = 2.0**600
        s = total([v * up for v in x])
    elif s == math.inf:
        down = 2.0**-600
        s = total([v * down for v in x])
    r = math.sqrt(s)
    unit = [v * (1 / r) for v in x] if narrow else [(v * up) / r * down for v in x]
    return r / up / down, unit


@pytest.mark.dtypes(np.dtype("f8"), np.dtype("f4"), np.dtype("c16"))
def test_specification(backend, dtype):
    """The bits are those of the written specification, followed number by number."""
    for n in cases.SHORT[1:]:
        x = cases.vectors(dtype, n)
        y, norms = backend.normalize(x, return_norm=True)
        one = cases.real(dtype)
        for i, row in enumerate(x.view(one).tolist()):
            norm, unit = specified(row, narrow=one == np.float32)
            with np.errstate(over="ignore"):
                assert same_bits(norms[i], np.array(norm).astype(one))
            assert same_bits(y[i].view(one), np.array(unit).astype(one))


@pytest.mark.only("any_axis")
@pytest.mark.dtypes(*cases.FEW)
@pytest.mark.parametrize("n", [1, 7, 16, 129, 1000])
def test_batch(backend, dtype, n):
    """Alone, anywhere in a batch of any size, along any axis, in place: the same bits."""
    x = np.concatenate([cases.vectors(dtype, n, seed) for seed in range(10)])
    y, norms = backend.normalize(x, return_norm=True)
    for i in (0, 1, 3, 17, 39):
        for alone in (x[i], x[i : i + 1], x[i, :, None], x[i, None, :, None]):
            axis = int(np.argmax(alone.shape)) if n > 1 else 0
            unit, norm = backend.normalize(alone, axis, return_norm=True)
            assert same_bits(unit.ravel(), y[i])
            assert same_bits(norm.ravel(), norms[i : i + 1])
    for some in (slice(3, 4), slice(1, 3), slice(5, 38), slice(None, None, -1)):
        assert same_bits(backend.normalize(x[some]), y[some])
    assert same_bits(backend.normalize(x.T, 0), y.T)
    middle = backend.normalize(x.reshape(4, 10, n).swapaxes(1, 2), 1)
    assert same_bits(middle.swapaxes(1, 2), y.reshape(4, 10, n))
    if n == 1000:
        assert same_bits(backend.normalize(x.reshape(40, 10, 100), (2, 1)).reshape(40, n), y)


@pytest.mark.only("keeps_layouts")
@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"), np.dtype("c8"))
def test_alignment(backend, dtype):
    """The bits do not depend on where in memory a vector begins."""
    x = cases.sample(dtype, (300,))
    expected = backend.normalize(x)
    for offset in range(0, 64, 4):
        raw = np.zeros(x.nbytes + 64, np.uint8)[offset : offset + x.nbytes]
        moved = raw.view(dtype)
        moved[...] = x
        assert same_bits(backend.normalize(moved), expected)


@pytest.mark.only("any_axis")
def test_order_of_axes(backend):
    """A tuple of axes in any order is the same call."""
    x = cases.sample(np.dtype("f4"), (5, 6, 7))
    for axes in ((0, 1, 2), (2, 0, 1), (-1, 1, 0)):
        assert same_bits(backend.normalize(x, axes), backend.normalize(x, None))


def equal(backend, x, axis=-1, **keywords):
    """Unit vectors and norms have the bits of the reference backend."""
    got = backend.normalize(x, axis, return_norm=True, **keywords)
    expected = backend.expected(x, axis, **keywords)
    for a, b in zip(got, expected, strict=True):
        assert same_bits(a, b), (x.shape, x.strides, axis, keywords)


@pytest.mark.only("compared")
class TestReference:
    """The other backends against the readable one."""

    @pytest.mark.only("plain")
    @pytest.mark.dtypes(*cases.DTYPES, every=True)
    def test_rows(self, backend, dtype):
        """Every length across lanes, blocks and parts; every magnitude crossed with every other."""
        for n in cases.SHORT + (cases.LONG if dtype in cases.FEW else cases.LONG[1:3]):
            equal(backend, cases.vectors(dtype, n))
        for x in cases.grid(dtype) if cases.is_float(dtype) else []:
            equal(backend, x)

    @pytest.mark.only("any_axis")
    @pytest.mark.dtypes(*cases.FLOATS)
    def test_policies(self, backend, dtype):
        """Every magnitude crossed with every other, under every policy, and in columns."""
        for x in cases.grid(dtype):
            equal(backend, x, zero="nan")
            equal(backend, x, eps=1e-4)
            equal(backend, np.ascontiguousarray(x.T), 0)

    @pytest.mark.only("any_axis")
    @pytest.mark.dtypes(*cases.DTYPES)
    def test_batches_and_axes(self, backend, dtype):
        """Batch sizes around every unrolling, vectors along every axis."""
        for m in (1, 2, 3, 5, 8, 17, 100):
            for n in (1, 3, 16, 100, 130):
                x = cases.sample(dtype, (m, n), seed=m)
                equal(backend, x)
                equal(backend, x, 0)
        for shape, axis in filter(lambda case: backend.holds(*case), cases.AXES):
            equal(backend, cases.sample(dtype, shape), axis)

    @pytest.mark.only("keeps_layouts")
    @pytest.mark.dtypes(*cases.FEW)
    def test_layouts(self, backend, dtype, tmp_path):
        """Every layout, along every axis, of moderate and of extreme values."""
        for x in (cases.sample(dtype, (33, 65)), cases.vectors(dtype, 150)):
            for i, layout in enumerate(cases.LAYOUTS.values()):
                view = layout(x, tmp_path / str(i))
                for axis in (-1, 0, None):
                    equal(backend, view, axis)
        x = cases.sample(dtype, (4, 5, 6, 7))
        for order in ((1, 3, 0, 2), (3, 2, 1, 0)):
            for axis in (1, (1, 2), (0, 3), None):
                equal(backend, x.transpose(order), axis)

    @pytest.mark.dtypes(*dict.fromkeys(a for a, _ in cases.CONVERSIONS))
    def test_dtype_argument(self, backend, dtype):
        """Outputs wider and narrower than the input, norms that overflow among them."""
        x = cases.vectors(dtype, 100)
        for asked in (b for a, b in cases.CONVERSIONS if a == dtype and not backend.why_not(b)):
            equal(backend, x, dtype=asked)
            if asked.kind != "c":
                got = backend.norm(x, dtype=asked)
                assert same_bits(got, l2.norm(x, dtype=asked, backend=backend.reference))

    @pytest.mark.only("plain")
    @pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
    def test_large_batches(self, backend, dtype):
        """Enough work for several threads."""
        for shape in ((20_000, 33), (3, 200_000), (1000, 1000)):
            x = cases.sample(dtype, shape)
            equal(backend, x)
            equal(backend, x, 0)
