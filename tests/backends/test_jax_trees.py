"""`global_norm` and `clip_by_global_norm`: one vector that is spread over the leaves of a tree."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numpy as np
import optax
import pint
import pytest
from jax.experimental import sparse

import l2multi.jax as lj
from l2multi.backends.jax import powers, trees
from tests.reference import judge, same_bits

BF16 = np.dtype(ml_dtypes.bfloat16)
F2, F4, F8, C8 = map(np.dtype, ("f2", "f4", "f8", "c8"))


def parts(tree):
    """All numbers of a tree as one vector of float64, exactly."""
    found = [np.zeros(0)]
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        each = [leaf.real, leaf.imag] if leaf.dtype.kind == "c" else [leaf]
        found += [p.astype("f8").ravel() for p in each]
    return np.concatenate(found)


def error(tree, norm):
    """By how many ulp of its dtype a norm is off."""
    return judge(parts(tree)[None], None, np.asarray(norm)[None]).norm


def leaf(dtype, shape, scale=1.0, seed=0):
    """A leaf of random numbers."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape) * scale
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape) * scale
    return jnp.asarray(x.astype(dtype))


TREES = {
    "one": lambda: leaf("f4", (5,)),
    "shapes": lambda: {"w": leaf("f4", (7, 3)), "b": (leaf("f4", ()), leaf("f4", (0, 2)), None)},
    "dtypes": lambda: [leaf(t, (4, 5)) for t in (F2, BF16, F4, C8)],
    "integers": lambda: [jnp.arange(-3, 4), jnp.array([True, False]), leaf(BF16, (3,))],
    "halves": lambda: [leaf(F2, (300,), 6e3), leaf(ml_dtypes.float8_e4m3fn, (9,), 1e2)],
    "huge bfloat16": lambda: {"w": jnp.full((100, 100), 1e18, BF16), "b": jnp.array([1e-30])},
    "huge": lambda: [leaf("f4", (50,), 1e37), leaf(C8, (3,), 1e37), leaf(F2, (3,))],
    "tiny": lambda: [leaf("f4", (50,), 1e-36), leaf(BF16, (5,), 1e-36), jnp.zeros(3)],
    "far apart": lambda: [jnp.array([3e-30]), jnp.array([4e-30, 0]), jnp.zeros((), BF16)],
    "long": lambda: [leaf("f4", (40_000,), 1e-25), leaf("f4", (7,), 1e-25)],
    "NumPy": lambda: [np.ones(3, "f4"), 4.0, 2],
}


@pytest.mark.parametrize("kind", TREES)
def test_norm(kind):
    """Of leaves of any shapes, dtypes and magnitudes; also by three float32 sums, as on devices
    without float64."""
    tree = TREES[kind]()
    found = lj.global_norm(tree)
    assert found.dtype == np.float32
    assert found.shape == ()
    assert error(tree, found) <= 4
    leaves = tuple(map(jnp.asarray, jax.tree.leaves(tree)))
    three = jax.jit(functools.partial(trees._three_roots, width=F4))
    assert error(tree, powers.lengths(*three(*leaves))[0]) <= 4


def test_norm_is_that_of_one_leaf():
    """And of vectors that are beyond the dtype, inf."""
    x = leaf("f4", (17,), 1e30)
    assert abs(lj.global_norm({"x": x}) / lj.norm(x) - 1) < 3e-7
    assert lj.global_norm([jnp.full(10, 3e38)] * 2) == np.inf
    assert lj.global_norm([jnp.array([np.inf]), jnp.ones(3)]) == np.inf
    assert jnp.isnan(lj.global_norm([jnp.array([np.inf]), jnp.array([np.nan])]))


@pytest.mark.parametrize("scale", [1e-305, 1.0, 1e305])
def test_float64(scale):
    """With one leaf in float64 the norm is; leaves keep their dtypes."""
    with jax.enable_x64(True):
        tree = [leaf("f8", (40,), scale), leaf("c16", (3, 3), scale), leaf(BF16, (7,)), jnp.ones(2)]
        norm = lj.global_norm(tree)
        assert norm.dtype == np.float64
        assert error(tree, norm) <= 4
        long = [*tree, leaf("f8", (40_000,), scale)]
        assert error(long, lj.global_norm(long)) <= 4
        for limit in (1e-300, 1.0, 1e300):
            check_clipped(tree, limit)
        assert lj.global_norm([jnp.arange(3)]).dtype == np.float64
        assert lj.global_norm({}).dtype == np.float64


def test_no_leaves():
    """The norm of nothing is 0, and None is no leaf."""
    for tree in ({}, None, [None, ()], [jnp.zeros((0, 3))]):
        norm = lj.global_norm(tree)
        assert (norm, norm.dtype, norm.shape) == (0, np.float32, ())
        clipped, norm = lj.clip_by_global_norm(tree, 0.0, return_norm=True)
        assert jax.tree.structure(clipped) == jax.tree.structure(tree)
        assert norm == 0


def test_zero_tree():
    """Where all leaves are zero, so are the first and second derivatives."""
    tree = {"a": jnp.zeros(3), "b": [jnp.zeros((), BF16), jnp.zeros((2, 2), C8)]}
    assert lj.global_norm(tree) == 0
    for function in (lj.global_norm, lambda t: lj.clip_by_global_norm(t, 1.0, return_norm=True)[1]):
        gradient = jax.grad(function)(tree)
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, tree)
        assert not parts(gradient).any()
    real = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    assert not parts(jax.jit(jax.hessian(lj.global_norm))(real)).any()


@pytest.mark.parametrize("scale", [3e-35, 1e-20, 1.0, 1e37])
def test_gradient(scale):
    """It is the unit vector, each leaf in its dtype, at any magnitude; integers have none."""
    tree = [leaf(t, (3, 4), scale) for t in (F4, BF16, C8)]
    tree[1] = tree[1].at[0].set(0)
    unit = jax.grad(lj.global_norm)(tree)
    assert [u.dtype for u in unit] == [x.dtype for x in tree]
    x = parts([tree[0], tree[1], tree[2].conj()])
    np.testing.assert_allclose(parts(unit), x / np.linalg.norm(x), rtol=5e-3, atol=1e-9)
    float32 = parts([unit[0], unit[2]]), parts([tree[0], tree[2].conj()]) / np.linalg.norm(x)
    np.testing.assert_allclose(*float32, rtol=2e-6, atol=1e-9)
    (moved,) = jax.jvp(lj.global_norm, (tree,), (tree,))[1:]
    np.testing.assert_allclose(moved / scale, np.linalg.norm(x / scale), rtol=1e-5)
    mixed = [jnp.array([3.0]), jnp.array([4])]
    assert jax.grad(lj.global_norm, allow_int=True)(mixed)[0] == np.float32(0.6)


def test_second_derivatives():
    """Those of one vector, also where a leaf of a tree that is not zero is."""
    tree = [jnp.array([3.0, 4.0]), jnp.zeros(2), jnp.array(1e-3)]
    x = jnp.concatenate([jnp.ravel(v) for v in tree])

    def flat(function):
        return lambda x: function([x[:2], x[2:4], x[4]])

    with jax.enable_x64(True):
        u = np.asarray(x, "f8") / np.linalg.norm(np.asarray(x, "f8"))
        want = (np.eye(5) - np.outer(u, u)) / np.linalg.norm(np.asarray(x, "f8"))
    np.testing.assert_allclose(
        jax.jit(jax.hessian(flat(lj.global_norm)))(x), want, rtol=1e-5, atol=1e-7
    )

    def clipped(x):
        return jnp.concatenate(
            [jnp.ravel(v) for v in flat(lambda t: lj.clip_by_global_norm(t, 2))(x)]
        )

    np.testing.assert_allclose(jax.jit(jax.jacrev(clipped))(x), 2 * want, rtol=1e-5, atol=1e-7)
    weights = jnp.arange(5.0)

    def clipped_far(x):
        return jnp.dot(weights, clipped(x * 1e18)) / 2

    def unit(x):
        return jnp.dot(weights, lj.normalize(x))

    hessians = (jax.jit(jax.hessian(f))(x) for f in (clipped_far, unit))
    np.testing.assert_allclose(*hessians, rtol=1e-4, atol=1e-5)


def check_clipped(tree, limit):
    """Each element is ``x * min(1, limit / norm)``, to some ulp of its dtype."""
    clipped, norm = lj.clip_by_global_norm(tree, limit, return_norm=True)
    assert norm == lj.global_norm(tree)
    assert jax.tree.structure(clipped) == jax.tree.structure(tree)
    with mpmath.workprec(200):
        length = mpmath.sqrt(mpmath.fsum(mpmath.mpf(float(v)) ** 2 for v in parts(tree)))
        limit = mpmath.mpf(float(np.asarray(limit, norm.dtype)))
        factor = min(mpmath.mpf(1), limit / length)
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(clipped), strict=True)
        for x, y in pairs:
            assert y.dtype == x.dtype
            assert y.shape == x.shape
            form = ml_dtypes.finfo(np.asarray(x).real.dtype)
            for a, b in zip(parts(x)[:100].tolist(), parts(y)[:100].tolist(), strict=True):
                want = mpmath.mpf(a) * factor
                room = 4 * float(form.eps) * abs(want) + float(form.tiny)
                assert abs(mpmath.mpf(b) - want) <= room, (a, b, want)


@pytest.mark.parametrize("limit", [0.0, 1e-30, 0.7, 1e30])
@pytest.mark.parametrize("kind", [kind for kind in TREES if kind not in ("integers", "NumPy")])
def test_clip(kind, limit):
    """At any magnitudes of tree and limit; leaves keep their dtypes."""
    if kind == "long":
        limit *= 1e-22
    tree = TREES[kind]()
    if kind == "halves":
        tree = tree[:1]  # whose subnormal numbers are within the room
    check_clipped(tree, limit)


def test_within_the_limit():
    """A tree that is not longer than the limit keeps its bits."""
    tree = {"a": jnp.array([3.0, -0.0]), "b": jnp.array([4.0, 1e-40]), "c": leaf(BF16, (3,), 1e-9)}
    for limit in (lj.global_norm(tree), 6, np.inf):
        clipped = lj.clip_by_global_norm(tree, limit)
        for key, x in tree.items():
            assert same_bits(clipped[key], x)


INF, NAN = np.inf, np.nan
traced_clip = jax.jit(lj.clip_by_global_norm)
HARD = {
    "zero, limit 0": ([[0.0, -0.0], [0.0]], 0.0, [[0.0, -0.0], [0.0]]),
    "limit 0": ([[3.0, -0.0], [-4.0]], 0.0, [[0.0, -0.0], [-0.0]]),
    "at the limit": ([[3.0, 0.0], [-4.0]], 5.0, [[3.0, 0.0], [-4.0]]),
    "inf": ([[INF, 1.0], [-1.0]], 1.0, [[NAN, 0.0], [-0.0]]),
    "inf, limit 0": ([[INF, 1.0], [-1.0]], 0.0, [[NAN, 0.0], [-0.0]]),
    "inf, no limit": ([[INF, 1.0], [-1.0]], INF, [[INF, 1.0], [-1.0]]),
    "NaN": ([[NAN, 1.0], [-1.0]], 1.0, [[NAN, NAN], [NAN]]),
    "NaN, no limit": ([[NAN, 1.0], [-1.0]], INF, [[NAN, NAN], [NAN]]),
    "NaN and inf": ([[NAN, INF], [-1.0]], 1.0, [[NAN, NAN], [NAN]]),
    "beyond float32": ([[3e38] * 8, [-3e38]], 3.0, [[1.0] * 8, [-1.0]]),
    "beyond float32, no limit": ([[3e38] * 8, [-3e38]], INF, [[3e38] * 8, [-3e38]]),
    "small beside large": ([[1e38], [2.0**-20]], 5e37, [[5e37], [2.0**-21]]),
    "tiny": ([[3e-37], [4e-37]], 1e-37, [[6e-38], [8e-38]]),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("tree", "limit", "want"), HARD.values(), ids=HARD)
def test_hard_cases(tree, limit, want, traced):
    """With a limit that is known, and with one that is not."""
    clipped = (traced_clip if traced else lj.clip_by_global_norm)(
        [jnp.array(v) for v in tree], limit
    )
    for got, expected in zip(clipped, want, strict=True):
        np.testing.assert_allclose(got, np.array(expected, "f4"), rtol=1e-6)
        nan = np.isnan(expected)
        assert np.array_equal(np.signbit(got)[~nan], np.signbit(expected)[~nan])


def test_transforms():
    """Under vmap each example is a tree; the limit may differ as well."""
    tree = {"a": leaf("f4", (3, 2), 1e25), "b": leaf(BF16, (3, 2, 2), 1e25)}
    limits = jnp.array([0.5, 0.0, 1e30])
    norms = jax.vmap(lj.global_norm)(tree)
    clipped = jax.vmap(lj.clip_by_global_norm)(tree, limits)
    gradients = jax.vmap(jax.grad(lj.global_norm))(tree)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], tree)
        np.testing.assert_allclose(norms[i], lj.global_norm(one), rtol=1e-6)
        for got, want in (
            (clipped, lj.clip_by_global_norm(one, limits[i])),
            (gradients, jax.grad(lj.global_norm)(one)),
        ):
            got = jax.tree.map(lambda x, i=i: x[i], got)
            np.testing.assert_allclose(parts(got), parts(want), rtol=1e-2)


def test_gradient_through_the_limit():
    """It passes through the factor, and of the limit it is ``<unit, cotangent>``."""
    tree = [jnp.array([3.0]), jnp.array([4.0])]

    def total(tree, limit):
        return jnp.stack(lj.clip_by_global_norm(tree, limit)).sum()

    over, of_limit = jax.jit(jax.grad(total, (0, 1)))(tree, 1.0)
    np.testing.assert_allclose(parts(over), [0.2 * 0.16, -0.2 * 0.12], rtol=1e-5)
    np.testing.assert_allclose(of_limit, 1.4, rtol=1e-6)
    within, of_limit = jax.grad(total, (0, 1))(tree, 10.0)
    assert (parts(within) == 1).all()
    assert of_limit == 0


def test_as_optax():
    """On moderate float32 trees; and on those where a sum of squares in the leaves' own dtype is
    inf or 0 the norm is still right."""
    tree = {"w": leaf("f4", (30, 40)), "b": leaf("f4", (40,))}
    np.testing.assert_allclose(lj.global_norm(tree), optax.tree.norm(tree), rtol=1e-6)
    for limit in (1e-3, 1.0, 1e3):
        want, _ = optax.clip_by_global_norm(limit).update(tree, optax.EmptyState())
        got = lj.clip_by_global_norm(tree, limit)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6), got, want)


@pytest.mark.parametrize(
    ("bad", "where", "told"),
    [
        ({"a": [jax.random.key(0)]}, "['a'][0]", "dtype key"),
        ({"a": np.zeros(2, jax.dtypes.float0)}, "['a']", "float0"),
        ({"a": np.ones(2)}, "['a']", "float64 needs x64"),
        ("text", "itself", "type builtins.str is not supported"),
        ([1.0, np.ma.ones(3, "f4")], "[1]", "numpy.ma.MaskedArray is more than"),
        ((pint.UnitRegistry().Quantity(1.0, "m"),), "[0]", "pint.Quantity is more than"),
        (
            [sparse.BCOO.fromdense(jnp.eye(2))],
            "[0]",
            "no leaf; try l2multi.norm of it instead",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refused(bad, where, told):
    """The message names the leaf. (The indices of a sparse matrix would count as numbers.)"""
    for function in (lj.global_norm, lambda tree: lj.clip_by_global_norm(tree, 1.0)):
        with pytest.raises(TypeError, match=rf"^tree: leaf {re.escape(where)}: x: .*{told}"):
            function(bad)


def test_refused_by_clip():
    """Integers could not keep their dtype; a limit is a number that is not negative."""
    tree = {"w": jnp.ones(3), "steps": jnp.array(3)}
    assert lj.global_norm(tree) == np.float32(12**0.5)
    with pytest.raises(TypeError, match=r"^tree: leaf \['steps'\] is of dtype int32, which"):
        lj.clip_by_global_norm(tree, 1.0)
    for limit, kind in ((-1.0, ValueError), (NAN, ValueError), ("1", TypeError), (1j, TypeError)):
        with pytest.raises(kind, match=r"^max_norm: expected a non-negative number"):
            lj.clip_by_global_norm(jnp.ones(3), limit)
    with pytest.raises(TypeError, match=r"^max_norm: expected a real number, got dtype complex64"):
        jax.jit(lj.clip_by_global_norm)(jnp.ones(3), 1j)
    assert lj.clip_by_global_norm(jnp.ones(3), 1e300).tolist() == [1, 1, 1]  # without a warning
    with pytest.raises(ValueError, match=r"^max_norm: expected a number, got shape \(3,\)"):
        jax.jit(lj.clip_by_global_norm)(jnp.ones(3), jnp.ones(3))
