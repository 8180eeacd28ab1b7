"""BCOO and BCSR matrices: rows, with the stored entries kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import l2multi as l2

KINDS = {"BCOO": sparse.BCOO, "BCSR": sparse.BCSR}


def matrix():
    """Rows of every size; the third is empty, and the first has a zero."""
    a = np.random.default_rng(0).standard_normal((6, 9)).astype("f4")
    a[np.abs(a) < 0.5] = 0
    a *= np.float32(2.0) ** np.array([0, 70, 0, -70, 120, -110], "f4")[:, None]
    a[2] = 0
    return a


def unit(a):
    a = np.asarray(a, "f8")
    return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-200)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_values(kind, jit):
    """Rows of any magnitude; class, places and dtype stay."""
    a = matrix()
    function = jax.jit(l2.normalize, static_argnames="return_norm") if jit else l2.normalize
    for dtype in ("f4", "bfloat16"):
        x = kind.fromdense(jnp.asarray(a, dtype))
        y, n = function(x, return_norm=True)
        assert (type(y), y.dtype, y.nse, n.dtype) == (kind, dtype, x.nse, np.float32)
        np.testing.assert_array_equal(y.indices, x.indices)
        tolerance = 2e-6 if dtype == "f4" else 4e-3
        np.testing.assert_allclose(y.todense().astype("f4"), unit(x.todense()), tolerance, 0)
        want = np.linalg.norm(np.asarray(x.todense(), "f8"), axis=1)
        np.testing.assert_allclose(n, want, 1e-6)
        np.testing.assert_allclose(l2.norm(x, 1, keepdims=True), want[:, None], 1e-6)
    y = l2.normalize(kind.fromdense(jnp.asarray(a)), eps=1.0)
    want = a / np.maximum(np.linalg.norm(a.astype("f8"), axis=1, keepdims=True), 1)
    np.testing.assert_allclose(y.todense(), want, 2e-6, 1e-37)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients(kind):
    """Those of the dense matrix, at the stored entries, under jit; 0 in a stored zero row."""
    a = matrix()[:3]
    x = kind.fromdense(jnp.asarray(a), nse=int((a != 0).sum()) + 2)
    w = jnp.asarray(np.random.default_rng(1).standard_normal(a.shape), jnp.float32)

    def of_sparse(data):
        moved = kind((data, *x.tree_flatten()[0][1:]), shape=x.shape)
        return (l2.normalize(moved).todense() * w).sum() + l2.norm(moved).sum()

    def of_dense(a):
        return (l2.normalize(a) * w).sum() + l2.norm(a).sum()

    dense = jax.grad(of_dense)(jnp.asarray(a))
    got = jax.jit(jax.grad(of_sparse))(x.data)
    np.testing.assert_allclose(got[:-2], np.asarray(dense)[a != 0], 1e-4, 1e-6)
    zero = sparse.BCOO((jnp.zeros(2), jnp.array([[0, 0], [0, 1]])), shape=(1, 2))
    gradient = jax.grad(
        lambda d: l2.normalize(sparse.BCOO((d, zero.indices), shape=(1, 2))).data.sum()
    )
    np.testing.assert_array_equal(gradient(zero.data), [0, 0])


def test_entries_for_one_place_are_added():
    """As `todense` does it, also under jit."""
    x = sparse.BCOO((jnp.array([1.0, 4, 2]), jnp.array([[0, 0], [0, 1], [0, 0]])), shape=(1, 2))
    for function in (l2.normalize, jax.jit(l2.normalize)):
        np.testing.assert_allclose(function(x).todense(), [[0.6, 0.8]], 1e-6)
    assert l2.norm(x).tolist() == [5]


def test_refusals():
    """What sparse arrays cannot have is refused by name."""
    x = sparse.BCOO.fromdense(jnp.ones((2, 3)))
    for keywords in ({"zero": "nan"}, {"nonfinite": "raise"}, {"out": np.ones((2, 3))}):
        with pytest.raises(TypeError, match=next(iter(keywords))):
            l2.normalize(x, **keywords)
    with pytest.raises(TypeError, match="numpy"):
        l2.norm(x, backend="numpy")
    with pytest.raises(ValueError, match="axis"):
        l2.norm(x, 0)
    with pytest.raises(TypeError, match="complex"):
        l2.norm(sparse.BCOO.fromdense(jnp.ones((2, 3), "c8")))
    with pytest.raises(TypeError, match="n_batch"):
        l2.norm(sparse.BCOO.fromdense(jnp.ones((2, 3)), n_batch=1))
