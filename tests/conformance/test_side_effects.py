"""Nothing global changes, no warning is given, and any number of threads may call."""

import threading
import warnings

import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.reference import same_bits


@pytest.mark.only("direct")
@pytest.mark.dtypes(*(np.dtype(d) for d in ("f2", "f4", "f8", "c8", "c16", "g")))
def test_errors_and_warnings(backend, dtype):
    """NumPy's error state and the filters are left alone; what is defined gives no warning."""
    x = cases.grid(dtype)[0]
    expected = backend.normalize(x, return_norm=True)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        state, filters = np.geterr(), list(warnings.filters)
        with backend.scope(dtype):  # on the NumPy array itself: JAX's checks have states too
            for eps in (0.0, 1e-300):
                y, norms = l2.normalize(x, return_norm=True, eps=eps, backend=backend.name)
                l2.norm(x, backend=backend.name)
                l2.is_normalized(x, backend=backend.name)
        assert np.geterr() == state
        assert list(warnings.filters) == filters
    assert y.shape == expected[0].shape
    assert norms.shape == expected[1].shape


@pytest.mark.dtypes(np.dtype("f4"))
def test_threads(backend, dtype):
    """Calls from several threads at a time give what they give alone."""
    arrays = [cases.sample(dtype, (50, 130), seed) for seed in range(8)]
    expected = [backend.normalize(x) for x in arrays]
    wrong = []

    def work(i):
        for _ in range(5):
            if not same_bits(backend.normalize(arrays[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.only("immutable")
def test_jax_config(backend):
    """No value of JAX's configuration changes."""
    before = dict(backend.jax.config.values)
    for dtype in (np.dtype("f4"), np.dtype("f2"), np.dtype("i4")):
        backend.normalize(cases.sample(dtype, (3, 4)), return_norm=True)
    assert dict(backend.jax.config.values) == before
