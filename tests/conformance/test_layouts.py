"""NumPy arrays of any memory layout, in a class of their own or not: the same bits, and never
modified."""

import time

import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.reference import same_bits

pytestmark = pytest.mark.only("holds_layouts")

FEW = [*cases.FEW, np.dtype("G")]


def both(backend, x, axis=-1):
    """Unit vectors and norms of a NumPy array, by this backend."""
    with backend.scope(x.dtype, None if x.dtype.kind in "fc" else np.dtype("f8")):
        x = backend.hold(x)
        return map(np.asarray, l2.normalize(x, axis, return_norm=True, backend=backend.name))


def agree(backend, view, axis, contiguous):
    """The results of `view` are those of its contiguous copy; neither is modified."""
    kept = contiguous.copy()
    for got, expected in zip(
        both(backend, view, axis), both(backend, contiguous, axis), strict=True
    ):
        assert got.dtype.isnative
        assert same_bits(got, expected)
    assert same_bits(view, kept)
    assert same_bits(contiguous, kept)


@pytest.mark.dtypes(*FEW)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.where(
    cases=lambda dtype, layout: layout != "byte-swapped" or dtype.newbyteorder("S") != dtype
)
def test_layouts(backend, dtype, layout, tmp_path):
    """A matrix in each layout, along each axis."""
    x = cases.sample(dtype, (5, 37))
    view = cases.LAYOUTS[layout](x, tmp_path / "x")
    for axis in (-1, 0, None):
        agree(backend, view, axis, x)


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("c16"))
def test_zero_strides(backend, dtype):
    """Broadcast arrays: of one row, of one column, of one number."""
    x = cases.sample(dtype, (5, 37))
    for one in (x[:1], x[:, :1], x[:1, :1]):
        view = np.broadcast_to(one, x.shape)
        for axis in (-1, 0):
            agree(backend, view, axis, view.copy())


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"), np.dtype("c8"))
def test_transposed(backend, dtype):
    """Middle axes and tuples of a transposed array, which are the specified order of another."""
    x = cases.sample(dtype, (3, 5, 7, 2))
    for order in ((1, 3, 0, 2), (3, 2, 1, 0), (0, 2, 1, 3)):
        view = x.transpose(order)
        for axis in (1, (1, 2), (0, 3), None):
            agree(backend, view, axis, view.copy())


@pytest.mark.only("same_bits")
@pytest.mark.dtypes(np.dtype("f4"), np.dtype("i4"))
def test_order_in_memory(backend, dtype):
    """The result's axes lie in memory in the order of those of `x`, without gaps."""
    x = cases.sample(dtype, (3, 5, 7))
    for view in (x, np.asfortranarray(x), x.transpose(1, 0, 2), x[::-1, ::2], x.T[:, :, ::-1]):
        for axis in (-1, 0, None):
            with backend.scope(dtype):
                y = l2.normalize(backend.hold(view), axis, backend=backend.name)
            assert y.strides == np.empty_like(view, y.dtype).strides


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_long_strided(backend, dtype):
    """A vector longer than a part, whose elements are not neighbours."""
    x = cases.sample(dtype, (2, 70_001))
    agree(backend, np.asfortranarray(x), -1, x)
    agree(backend, x[:, ::-1], -1, x[:, ::-1].copy())
    view = x[:, :70_000].reshape(2, 7, -1)[:, :, :9_999].swapaxes(0, 1)
    agree(backend, view, (0, 2), view.copy())
    agree(backend, view, None, view.copy())


@pytest.mark.only("direct")
@pytest.mark.only("takes_usual")
def test_long_strided_in_proportion(backend):
    """A long vector takes time in proportion to its length, wherever its elements lie."""
    x = np.ones((3000, 3000), np.float32)
    y = np.empty_like(x).T

    def seconds(z, out):
        start = time.perf_counter()
        l2.normalize(z, axis=None, out=out, backend=backend.name)
        return time.perf_counter() - start

    straight = min(seconds(x, None) for _ in range(3))
    # Up to 45 times, for the caches; 340 where each part is looked for from the first element.
    for z in (x, x.T):
        assert min(seconds(z, y) for _ in range(2)) < 150 * straight
    assert same_bits(np.ascontiguousarray(y), l2.normalize(x, axis=None, backend=backend.name))
