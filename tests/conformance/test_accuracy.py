"""The contract's table of errors, at every magnitude and over every length that matters."""

import numpy as np
import pytest

from tests import cases
from tests.reference import judge


def check(backend, x, sample=200, **keywords):
    """Unit vectors and norms of the rows of `x` are what the contract says, to its bounds."""
    y, norms = backend.normalize(x, return_norm=True, **keywords)
    assert y.shape == x.shape
    assert norms.shape == x.shape[:-1]
    assert y.dtype == backend.unit_dtype(x.dtype)
    assert norms.dtype == backend.norm_dtype(x.dtype)
    keywords = {k: v for k, v in keywords.items() if k in ("eps", "zero")}
    verdict = judge(x, y, norms, sample=sample, flush=backend.flushes(x.dtype), **keywords)
    assert verdict.element <= backend.bound(y.dtype, "element"), verdict
    assert verdict.norm <= backend.bound(norms.dtype, "norm"), verdict


@pytest.mark.dtypes(*cases.DTYPES)
def test_lengths(backend, dtype):
    """Random, huge, tiny and mixed vectors of every length across the lanes and blocks."""
    lengths = cases.FEW_LENGTHS if backend.compiles_shapes else cases.SHORT
    for n in (n for n in lengths if backend.holds((4, n), -1)):
        check(backend, cases.vectors(dtype, n, subnormal=not backend.flushes(dtype)), sample=20)


@pytest.mark.only("plain")
@pytest.mark.dtypes(*cases.FEW, cases.HALVES[5], np.dtype("i8"))
@pytest.mark.parametrize("n", cases.LONG)
def test_long_vectors(backend, dtype, n):
    """Random, huge, tiny and mixed vectors around the parts of the NumPy backend, and 10**6."""
    check(backend, cases.vectors(dtype, n, subnormal=not backend.flushes(dtype)))


@pytest.mark.dtypes(*cases.FLOATS, every=True)
def test_grid(backend, dtype):
    """Every magnitude crossed with every other: zeros, subnormals, 1, the largest, inf, NaN."""
    for x in cases.grid(dtype):
        check(backend, x[~cases.has_subnormal(x)] if backend.flushes(dtype) else x)


@pytest.mark.only("plain")
@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_equal_values(backend, dtype):
    """A long row of equal values, the worst case of a sum in order, at the ends of the range."""
    top, least = np.finfo(dtype).max, np.finfo(dtype).tiny
    rows = np.array([[1], [0.1], [top], [least]], dtype)
    check(backend, np.repeat(rows, 100_003, axis=1), sample=3)
