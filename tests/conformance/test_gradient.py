"""Gradients, on the backends that have any: right where there is one, 0 at the zero vector."""

import numpy as np
import pytest

import l2multi as l2

pytestmark = pytest.mark.only("differentiable")


def of_norm(x):
    """The analytic gradient of the norm."""
    x = np.asarray(x, "f8")
    return x / np.sqrt(np.sum((x / np.abs(x).max()) ** 2)) / np.abs(x).max()


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_zero_vector(backend, dtype):
    """With ``eps=0`` the derivatives at the zero vector are 0; with `eps`, ``1 / eps``, but where
    it becomes NaN whatever `eps` is."""
    x = np.array([[0, 0], [3, 4]], dtype)
    norm = backend.gradient(lambda a: l2.norm(a, backend=backend.name).sum(), x)
    np.testing.assert_allclose(norm, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    first = backend.gradient(lambda a: l2.normalize(a, backend=backend.name)[:, 0].sum(), x)
    np.testing.assert_allclose(first, [[0, 0], [0.128, -0.096]], rtol=1e-5)
    first = backend.gradient(
        lambda a: l2.normalize(a, eps=0.5, backend=backend.name)[:, 0].sum(), x
    )
    np.testing.assert_allclose(first, [[2, 0], [0.128, -0.096]], rtol=1e-5)
    first = backend.gradient(
        lambda a: l2.normalize(a, eps=0.5, zero="nan", backend=backend.name)[:, 0].sum(), x
    )
    np.testing.assert_allclose(first, [[0, 0], [0.128, -0.096]], rtol=1e-5)


@pytest.mark.dtypes(np.dtype("f4"), np.dtype("f8"))
def test_sizes(backend, dtype):
    """Huge and tiny vectors have the analytic gradient."""
    form = np.finfo(dtype)
    for scale in (1, np.sqrt(form.max) * 8, form.max / 16, np.sqrt(form.tiny) / 8, form.tiny * 8):
        x = np.array([[3, -4], [1, 1]], dtype) * dtype.type(scale)
        got = backend.gradient(lambda a: l2.norm(a, backend=backend.name).sum(), x)
        np.testing.assert_allclose(got, [of_norm(row) for row in x], rtol=1e-5)
