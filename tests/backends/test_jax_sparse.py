"""BCOO and BCSR matrices: rows, with the stored entries kept."""

import math

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


def made(kind, a):
    """`a` as a sparse matrix. JAX's own way compiles a dozen programs."""
    a = np.asarray(a)
    row, column = (at.astype("i4") for at in np.nonzero(a))
    places = [np.stack([row, column], 1)]
    if kind is sparse.BCSR:
        places = [column, np.searchsorted(row, np.arange(len(a) + 1)).astype("i4")]
    arrays = [jnp.asarray(part) for part in (a[row, column], *places)]
    return kind(arrays, shape=a.shape, indices_sorted=True, unique_indices=True)


def dense(x):
    """What `made` was given."""
    a = np.zeros(x.shape, x.dtype)
    if isinstance(x, sparse.BCSR):
        a[np.repeat(np.arange(len(a)), np.diff(x.indptr)), x.indices] = x.data
    else:
        a[tuple(np.asarray(x.indices).T)] = x.data
    return a


def unit(a):
    a = np.asarray(a, "f8")
    return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-200)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_values(kind):
    """Rows of any magnitude; class, places and dtype stay."""
    a = matrix()
    for dtype in ("f4", "bfloat16"):
        x = made(kind, a.astype(dtype))
        want = np.linalg.norm(dense(x).astype("f8"), axis=1)
        for function in (l2.normalize, jax.jit(l2.normalize, static_argnames="return_norm")):
            y, n = function(x, return_norm=True)
            assert (type(y), y.dtype, y.nse, n.dtype) == (kind, dtype, x.nse, np.float32)
            np.testing.assert_array_equal(y.indices, x.indices)
            tolerance = 2e-6 if dtype == "f4" else 4e-3
            np.testing.assert_allclose(dense(y).astype("f4"), unit(dense(x)), tolerance, 0)
            np.testing.assert_allclose(n, want, 1e-6)
        np.testing.assert_allclose(l2.norm(x, 1, keepdims=True), want[:, None], 1e-6)
    y = l2.normalize(made(kind, a), eps=1.0)
    want = a / np.maximum(np.linalg.norm(a.astype("f8"), axis=1, keepdims=True), 1)
    np.testing.assert_allclose(dense(y), want, 2e-6, 1e-37)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients(kind):
    """Those of the dense matrix, at the stored entries, under jit; 0 in a stored zero row."""
    a = matrix()[:3]
    x = kind.fromdense(jnp.asarray(a), nse=int((a != 0).sum()) + 2)
    w = jnp.asarray(np.random.default_rng(1).standard_normal(a.shape), jnp.float32)

    def of_sparse(data):
        y = kind((data, *x.tree_flatten()[0][1:]), shape=x.shape)
        return (l2.normalize(y).todense() * w).sum() + l2.norm(y).sum()

    def of_dense(a):
        return (l2.normalize(a) * w).sum() + l2.norm(a).sum()

    dense = jax.jit(jax.grad(of_dense))(jnp.asarray(a))
    got = jax.jit(jax.grad(of_sparse))(x.data)
    np.testing.assert_allclose(got[:-2], np.asarray(dense)[a != 0], 1e-4, 1e-6)
    zero = sparse.BCOO((jnp.zeros(2), jnp.array([[0, 0], [0, 1]])), shape=(1, 2))
    gradient = jax.jit(
        jax.grad(lambda d: l2.normalize(sparse.BCOO((d, zero.indices), shape=(1, 2))).data.sum())
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
    x = made(sparse.BCOO, np.ones((2, 3), "f4"))
    for keywords in ({"zero": "nan"}, {"nonfinite": "raise"}, {"out": np.ones((2, 3))}):
        with pytest.raises(TypeError, match=next(iter(keywords))):
            l2.normalize(x, **keywords)
    for function in (l2.norm, l2.explain, l2.is_normalized):
        with pytest.raises(TypeError, match="numpy"):
            function(x, backend="numpy")
    with pytest.raises(ValueError, match="axis"):
        l2.norm(x, 0)
    for function in (l2.normalize, l2.norm, l2.explain):
        with pytest.raises(TypeError, match="float64 needs x64"):
            function(x, dtype="float64")
    with pytest.raises(TypeError, match="n_batch"):
        l2.norm(sparse.BCOO.fromdense(jnp.ones((2, 3)), n_batch=1))


def flat(data, rows=1, unique=True):
    """A matrix of this many full rows."""
    n = len(data) // rows
    at = np.stack(np.divmod(np.arange(rows * n), max(n, 1)), 1).astype("i4")
    return sparse.BCOO((data, jnp.asarray(at)), shape=(rows, n), unique_indices=unique)


def ulp(got, want):
    """The largest error in units of the last place of what is right."""
    got = np.asarray(got)
    form = jnp.finfo(got.dtype)
    exponent = np.frexp(np.maximum(np.abs(np.asarray(want, "g")), float(form.smallest_normal)))[1]
    last = np.ldexp(np.longdouble(1), exponent - 1 - form.nmant)
    return float((abs(got.astype("g") - want) / last).max())


DTYPES = ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn"]


# What is narrower is computed in float32.
LONG = [(d, n) for d in DTYPES for n in (777, 100_000, 1_000_000)[: 3 if d in DTYPES[:2] else 2]]


@pytest.mark.parametrize(("dtype", "n"), LONG)
def test_long_rows(dtype, n):
    """Values, gradients and tangents of equal and of random entries are those of the contract's
    table: no entry is added in its own width, one by one."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(n)
        wide = "f8" if dtype == "float64" else "f4"
        w = jnp.asarray(rng.standard_normal(n), wide)
        places = sparse.BCOO(
            (w, jnp.stack([jnp.zeros(n, "i4"), jnp.asarray(rng.permutation(n), "i4")], 1)),
            shape=(1, n), unique_indices=True,
        )  # fmt: skip

        def made_of(data):
            return sparse.BCOO((data, places.indices), shape=places.shape, unique_indices=True)

        @jax.jit
        def all_of(d):
            y, norms = l2.normalize(made_of(d), return_norm=True)
            loss = lambda d: (l2.normalize(made_of(d)).data.astype(wide) * w).sum()  # noqa: E731
            length = jax.grad(lambda d: l2.norm(made_of(d)).sum())(d)
            forward = jax.jvp(lambda d: l2.normalize(made_of(d)).data, (d,), (w.astype(dtype),))[1]
            return y.data, norms, jax.grad(loss)(d), length, forward

        entries = [np.full(n, 0.1)] if n > 777 else [np.full(n, 0.1), rng.standard_normal(n)]
        for a in entries:
            d = jnp.asarray(a, dtype)
            y, norms, gradient, length, forward = all_of(d)
            x = np.asarray(d).astype("g")
            norm = np.sqrt((x * x).sum())
            assert ulp(y, x / norm) <= (4 if dtype in DTYPES[:2] else 0.51)
            assert ulp(norms, norm) <= 4
            assert ulp(length, x / norm) <= 4
            for got, tangent in ((gradient, w), (forward, w.astype(dtype))):
                v = np.asarray(tangent).astype("g")
                want = (v - x / norm * (x / norm * v).sum()) / norm
                step = float(jnp.finfo(dtype).eps)
                assert abs(np.asarray(got).astype("g") - want).max() <= 4 * step * abs(want).max()


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_norms_are_rounded_once(dtype, narrow, unique):
    """Norms that float32 cannot tell from the middle of two narrow numbers: of ``[middle, small]``
    with a square of the second too small for float32."""
    low = np.random.default_rng(2).uniform(0.01, 0.9, 2000).astype(narrow)
    high = (low.view("u2") + np.uint16(1)).view(narrow)
    middle = (low.astype("f4") + high.astype("f4")) / 2
    even = low.view("u2") % 2 == 0
    for small, want in ((1e-4, high), (0, np.where(even, low, high))):
        x = np.stack([middle, middle * np.float32(small)], -1).astype(dtype)
        norms = l2.norm(flat(jnp.asarray(x.ravel()), len(x), unique), dtype=narrow)
        assert norms.dtype == narrow
        assert (np.asarray(norms) == want).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_summands(dtype):
    """Entries for one place are added in more than their own width, and their gradients too."""
    with jax.enable_x64(dtype == "float64"):
        n = 100_000
        d = jnp.full(n, 0.1, dtype)
        at = jnp.zeros((n, 2), "i4").at[-1, 1].set(1)
        first, last = (n - 1) * np.longdouble(float(d[0])), np.longdouble(float(d[0]))

        @jax.jit
        def all_of(d):
            x = sparse.BCOO((d, at), shape=(1, 2))
            gradient = jax.grad(lambda d: l2.norm(sparse.BCOO((d, at), shape=(1, 2))).sum())(d)
            return l2.norm(x), l2.normalize(x).data, gradient

        norm, y, gradient = all_of(d)
        assert ulp(norm, np.hypot(first, last)) <= 4
        assert ulp(y[:2], np.array([first, last]) / np.hypot(first, last)) <= 4
        assert ulp(gradient[0], first / np.hypot(first, last)) <= 4


def test_summands_beyond_their_dtype():
    """Integers are added in 64 bits."""
    small = jnp.array([100, 100, 100, 1], "int8")
    at = jnp.array([[0, 0], [0, 0], [0, 0], [0, 1]])
    np.testing.assert_allclose(l2.norm(sparse.BCOO((small, at), shape=(1, 2))), [90001**0.5], 1e-6)


def test_transposes():
    """What `vjp` sums over a row is right as well: a cotangent of equal numbers."""
    n = 1_000_000
    d = jnp.arange(n, dtype=jnp.float32) % 7 - 3
    x = np.asarray(d, "f8")
    norm = np.linalg.norm(x)
    u = x / norm
    pull = jax.vjp(lambda d: l2.normalize(flat(d)).data, d)[1]
    for ct in (np.full(n, 0.1, "f4"), np.asarray(u * 3, "f4")):
        (got,) = pull(jnp.asarray(ct))
        want = (ct - u * (u @ ct.astype("f8"))) / norm
        assert abs(got - want).max() <= 4 * 2.0**-23 * abs(ct).max() / norm
    second = jax.jit(
        lambda d, v: jax.jvp(jax.grad(lambda d: l2.norm(flat(d)).sum()), (d,), (v,))[1]
    )
    v = np.full(n, 0.1, "f4")
    want = (v - u * (u @ v.astype("f8"))) / norm
    assert abs(second(d, jnp.asarray(v)) - want).max() <= 4 * 2.0**-23 * abs(v).max() / norm


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("jit", [False, True])
def test_one_entry(dtype, jit):
    """One number a matrix, whatever XLA makes of its square."""
    with jax.enable_x64(dtype == "float64"):
        function = jax.jit(l2.normalize, static_argnames="return_norm") if jit else l2.normalize
        form = np.finfo(dtype)

        def of(unique):
            def norm(d):
                return l2.norm(flat(d, unique=unique)).sum()

            both = lambda d: (jax.grad(norm)(d), jax.hessian(norm)(d))  # noqa: E731
            return jax.jit(both) if jit else both

        derivatives = {True: of(True), False: of(False)}
        sizes = (0, 1, -float(form.max), float(form.tiny), 4e-30, float(form.max) ** 0.6)
        for v in sizes if jit else sizes[1:3]:
            for unique in (True, False):
                d = jnp.asarray([v], dtype)
                y, n = function(flat(d, unique=unique), return_norm=True)
                assert y.data.tolist() == [np.sign(v)]
                assert ulp(n, abs(np.asarray(d))) <= 1
                g, second = derivatives[unique](d)
                assert g.tolist() == [np.sign(v)]
                assert second.tolist() == [[0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_at_every_size(dtype):
    """Huge and tiny rows, to second order."""
    with jax.enable_x64(dtype == "float64"):
        a = jnp.asarray([3.0, -4.0, 12.0], dtype)
        w = jnp.asarray([1.0, 2.0, -1.0], dtype)
        u = np.asarray(a, "f8") / 13
        tangent = np.asarray(w) - u * (u @ np.asarray(w))

        @jax.jit
        def all_of(x, v):
            of_norm = jax.grad(lambda d: l2.norm(flat(d)).sum())
            gradient = jax.grad(lambda d: (l2.normalize(flat(d)).data * w).sum())(x)
            return gradient, *jax.jvp(of_norm, (x,), (v,))

        for power in (-30, 30) if dtype == "float32" else (-200, 200):
            scale = float(np.dtype(dtype).type(10.0**power))
            x = a * np.dtype(dtype).type(scale)
            gradient, length, bent = all_of(x, w * scale)
            np.testing.assert_allclose(gradient, tangent / 13 / scale, 2e-6)
            np.testing.assert_allclose(length, u, 1e-6)
            np.testing.assert_allclose(bent, tangent / 13, 2e-6)
        zero = jax.hessian(
            lambda d: (l2.normalize(flat(d)).data * w).sum() + l2.norm(flat(d)).sum()
        )
        assert not jax.jit(zero)(jnp.zeros(3, dtype)).any()


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_entries_out_of_range_do_not_count(kind, unique):
    """Neither in a row nor in a column, in values and gradients; where none had to be added they
    stay as they are."""
    d = jnp.array([3.0, 7, 4, 5, 8])
    if kind is sparse.BCOO:
        places = (jnp.array([[0, 0], [0, 5], [0, 1], [1, 2], [4, 0]]),)
    else:
        places = (jnp.array([0, 9, 1, 2, 0]), jnp.array([0, 3, 4]))

    def made(d):
        return kind((d, *places), shape=(2, 3), unique_indices=unique)

    y, norms = l2.normalize(made(d), return_norm=True)
    assert norms.tolist() == [5, 5]
    np.testing.assert_allclose(y.todense(), [[0.6, 0.8, 0], [0, 0, 1]], 1e-6)
    if unique:
        np.testing.assert_allclose(y.data, [0.6, 7, 0.8, 1, 8], 1e-6)
        np.testing.assert_array_equal(y.indices, places[0])
    weight = jnp.array([[1.0, 2, 3], [4, 5, 6]])
    g = jax.grad(
        lambda d: (l2.normalize(made(d)).todense() * weight).sum() + l2.norm(made(d)).sum()
    )
    dense = jax.grad(lambda a: (l2.normalize(a) * weight).sum() + l2.norm(a).sum())(
        jnp.array([[3.0, 4, 0], [0, 0, 5]])
    )
    want = [dense[0, 0], 0, dense[0, 1], dense[1, 2], 0]
    np.testing.assert_allclose(jax.jit(g)(d), want, 1e-5, 1e-6)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "float16", "complex64"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_dtypes(kind, dtype):
    """The dtypes of the dense matrix, without a warning."""
    a = np.array([[3, 0, 4], [1, 1, 0]])
    a = np.asarray(a * (1 + 1j) if dtype == "complex64" else a).astype(dtype)
    y, norms = l2.normalize(made(kind, a), return_norm=True)
    want, want_norms = l2.normalize(jnp.asarray(a), return_norm=True)
    assert (y.dtype, norms.dtype) == (want.dtype, want_norms.dtype)
    np.testing.assert_allclose(dense(y), want, 1e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(norms, want_norms, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eps_and_nonfinite_rows(dtype):
    """As in the dense matrix, also where `eps` is beyond the range of the dtype."""
    with jax.enable_x64(dtype == "float64"):
        form = np.finfo(dtype)
        a = np.array([[3, 4, -0.0], [0, 0, 0], [1e30, 2e30, 0], [1, np.inf, -2], [np.nan, 1, 0]])
        a = np.concatenate([a, [[float(form.max)] * 3]]).astype(dtype)
        sizes = 0.0, 1e-300, 1e-20, 5.0, 1e36, 1e39, 1e300, math.inf

        @jax.jit
        def each(x):
            return [l2.normalize(x, eps=eps, return_norm=True) for eps in sizes]

        dense, ours = each(jnp.asarray(a)), each(flat(jnp.asarray(a.ravel()), len(a)))
        for eps, (want, norms), (y, n) in zip(sizes, dense, ours, strict=True):
            got = np.asarray(y.data).reshape(a.shape)
            tiny = float(form.tiny)
            np.testing.assert_allclose(got, want, 4 * form.eps, tiny, err_msg=str(eps))
            np.testing.assert_allclose(n, norms, 4 * form.eps)
            sign = ~np.isnan(got)
            np.testing.assert_array_equal(np.signbit(got)[sign], np.signbit(want)[sign])


def test_asking():
    """`explain` runs nothing, `is_normalized` measures; both take what `normalize` takes."""
    for kind in KINDS.values():
        x = made(kind, np.float32([[3, 4, 0], [0, 0, 1]]))
        told = l2.explain(x, dtype="bfloat16")
        assert (told.backend, told.threads) == ("jax", 1)
        assert "XLA" in told.kernel
        assert l2.is_normalized(x).tolist() == [False, True]
        assert l2.is_normalized(l2.normalize(x)).all()
        abstract = kind.tree_unflatten(
            x.tree_flatten()[1], [jax.eval_shape(lambda a: a, c) for c in x.tree_flatten()[0]]
        )
        assert l2.explain(abstract).backend == "jax"
        assert jax.jit(l2.is_normalized)(x).tolist() == [False, True]


def test_transforms():
    """`vmap` over data and places, both modes, export, and programs switched off."""
    at = jnp.array([[0, 0], [0, 1], [1, 2], [0, 0]])
    d = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4)), jnp.float32)
    for unique in (True, False):
        places = at.at[3, 1].set(2) if unique else at

        def unit(d, at=places, unique=unique):
            return l2.normalize(sparse.BCOO((d, at), shape=(2, 3), unique_indices=unique)).data

        want = np.stack([unit(one) for one in d])
        np.testing.assert_array_equal(jax.vmap(unit)(d), want)
        np.testing.assert_array_equal(jax.vmap(unit)(d, jnp.stack([places] * 5)), want)
        forward, back = (jax.jit(jax.vmap(j(unit)))(d) for j in (jax.jacfwd, jax.jacrev))
        np.testing.assert_allclose(forward, back, 1e-5, 1e-5)
        exported = jax.export.export(jax.jit(unit))(d[0])
        np.testing.assert_array_equal(exported.call(d[0]), want[0])
        with jax.disable_jit():
            np.testing.assert_allclose(unit(d[0]), want[0], 1e-6)


@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_derivatives_by_tiny_tangents(mode):
    """Of tiny rows: what is normal is not lost on the way, forwards or backwards."""
    rows = 16
    at = jnp.stack([jnp.repeat(jnp.arange(rows), 2), jnp.tile(jnp.arange(2), rows)], 1)
    length = 4e-38 * np.linspace(1, 2, rows)[:, None]
    d = (np.array([0.6, 0.8]) * length).astype("f4")
    t = np.tile(np.float32([1.3e-38, -1.3e-38]), (rows, 1))

    def unit(d):
        return l2.normalize(sparse.BCOO((d, at), shape=(rows, 2), unique_indices=True)).data

    pair = d.reshape(-1), t.reshape(-1)
    if mode == "forward":
        tangent = jax.jvp(unit, pair[:1], pair[1:])[1]
    else:
        (tangent,) = jax.vjp(unit, pair[0])[1](pair[1])
    wide, u = t.astype("f8"), np.array([0.6, 0.8])
    want = (wide - u * (wide @ u)[:, None]) / length
    np.testing.assert_allclose(np.reshape(tangent, (rows, 2)), want, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_signs_of_zeros(kind: str) -> None:
    """As of a dense array: -0 stays, and so does a place that holds nothing else."""
    places = jnp.array([[0, 0], [0, 0], [0, 1], [0, 1], [1, 0], [1, 1]])
    entries = jnp.array([-0.0, -0.0, 0.0, -0.0, -0.0, 2.0], np.float32)
    x = sparse.BCOO((entries, places), shape=(2, 2))
    x = sparse.BCSR.from_bcoo(x) if kind == "BCSR" else x
    y = l2.normalize(x)
    assert np.signbit(y.data[:4]).tolist() == [True, False, True, False]
    assert y.data[:4].tolist() == [0, 0, 0, 1]
