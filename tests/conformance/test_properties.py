"""Properties that hold for any array that hypothesis can think of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import l2multi as l2
from tests import cases
from tests.conformance.test_accuracy import check
from tests.reference import same_bits

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


def arrays(backend, dtype):
    """Any matrices of `dtype`, of one shape where shapes are dear, without what is flushed."""
    elements = None
    if dtype.kind in "fc":
        # Within bounds, hypothesis need not throw away what a narrow dtype cannot hold.
        form = np.finfo(dtype)
        real = st.floats(
            -float(form.max), float(form.max), width=8 * form.dtype.itemsize,
            allow_subnormal=not backend.flushes(dtype),
        ) | st.sampled_from([np.inf, -np.inf, np.nan])  # fmt: skip
        elements = st.builds(complex, real, real) if dtype.kind == "c" else real
    return hnp.arrays(dtype, (3, 5) if backend.compiles_shapes else SHAPES, elements=elements)


@pytest.mark.dtypes(*(np.dtype(d) for d in ("f2", "f4", "f8", "c8", "i8", "?")))
def test_contract(backend, dtype):
    """Whatever the values, the contract's meaning and accuracy."""

    @given(arrays(backend, dtype), st.sampled_from([0.0, 1e-3]))
    def property_(x, eps):
        check(backend, x, eps=eps)

    property_()


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_powers_of_two(backend, dtype):
    """A vector and its multiple by a power of two have one unit vector, while both are normal."""
    sizes = st.floats(0.5, 2, width=8 * dtype.itemsize)
    signed = st.builds(np.copysign, sizes, st.sampled_from([-1.0, 1.0]))
    far = 100 if dtype == np.float32 else 1000

    @given(hnp.arrays(dtype, (3, 5), elements=signed), st.integers(-far, far))
    def property_(x, power):
        scaled = np.ldexp(x, power)
        y, norms = backend.normalize(x, return_norm=True)
        again, lengths = backend.normalize(scaled, return_norm=True)
        if backend.same_bits:
            assert same_bits(again, y)
            assert same_bits(np.ldexp(lengths, -power), norms)
        else:
            np.testing.assert_array_almost_equal_nulp(again, y, 8)

    property_()


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_batch_and_signs(backend, dtype):
    """Rows in another order give results in that order; signs go through; unit vectors are."""

    @given(arrays(backend, dtype), st.randoms(use_true_random=False))
    def property_(x, random):
        order = random.sample(range(len(x)), len(x))
        y, norms = backend.normalize(x, return_norm=True)
        again, lengths = backend.normalize(-x[order], return_norm=True)
        assert np.array_equal(-again, y[order], equal_nan=True)
        assert np.array_equal(lengths, norms[order], equal_nan=True)
        unit = backend.run(l2.is_normalized, y)
        plain = np.isfinite(x).all(axis=1) & (norms > 0)
        assert (unit[plain] | cases.has_subnormal(y[plain])).all() or plain.sum() == 0
        assert not unit[~plain].any()

    property_()
