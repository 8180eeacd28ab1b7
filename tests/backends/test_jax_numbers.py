"""What XLA's compiler makes of our products and sums: one number in place of an array, equal
numbers, numbers at the ends of the range, memory."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.sparse import BCOO

import l2multi as l2
from l2multi.backends.jax import cpu_primitives
from tests.reference import judge, vectors

DTYPES = [np.dtype(d) for d in ("f4", "c8", "f8", "c16", "f2")]


def x64(dtype):
    """The context in which JAX has this dtype."""
    return jax.enable_x64(dtype in ("f8", "c16"))


def sizes(dtype):
    """Zero, the ends of the range, and what has a square beyond them, as numbers of `dtype`."""
    form = np.finfo(dtype)
    root = float(np.sqrt(form.tiny)) / 3, float(np.sqrt(form.max)) * 3
    found = [0.0, 1.0, form.tiny, *root, -form.max / 2] + [1e-200, 1e200] * (form.bits == 64)
    return [np.dtype(dtype).type(size) for size in found]


def close(got, want, rtol=2e-6):
    """Equal to `rtol`; by 2e-3 in float16."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    rtol = 2e-3 if got.dtype == np.float16 else rtol
    np.testing.assert_allclose(got.astype("c16"), want.astype("c16"), rtol, 0)


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_one_number(dtype, with_kernels):
    """XLA squares ``x * c`` as ``x * x * c**2`` where it is one number; such c are beyond its
    range."""
    with x64(dtype), cpu_primitives.use(with_kernels):
        places = [
            (shape, axis) for shape in ((), (1,), (1, 1)) for axis in (None, *range(len(shape)))
        ]
        units = [
            jax.jit(lambda x, a=axis: l2.normalize(x, a, return_norm=True)) for _, axis in places
        ]
        mapped = jax.jit(lambda x: lax.map(lambda s: l2.normalize(s, None), x))
        batched = jax.jit(jax.vmap(lambda s: l2.norm(s, ())))
        for value in sizes(dtype):
            sign = np.sign(value.real)
            for (shape, axis), unit in zip(places, units, strict=True):
                x = jnp.full(shape, value)
                for y, n in (unit(x), l2.normalize(x, axis, return_norm=True)):
                    close(y, np.full(shape, sign))
                    close(n, np.full(n.shape, np.abs(value)))
                if value:
                    l2.normalize(x, axis, zero="raise", nonfinite="raise")
                else:
                    with pytest.raises(l2.ZeroVectorError):
                        l2.normalize(x, axis, zero="raise", nonfinite="raise")
            close(mapped(jnp.full(3, value)), np.full(3, sign))
            for count in (1, 3):
                close(batched(jnp.full(count, value)), np.full(count, np.abs(value)))


MADE_OF_ONE = {
    "full": lambda s, c: jnp.full(4, s * c),
    "ones": lambda s, c: s * c * jnp.ones(4, s.dtype),
    "broadcast": lambda s, c: jnp.broadcast_to(s, (4,)) * c,
    "one": lambda s, c: jnp.tile((s * c)[None] / 2, 4) * 2,
}


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("make", MADE_OF_ONE.values(), ids=MADE_OF_ONE)
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_arrays_made_of_one_number(dtype, make, with_kernels):
    """Under jit, with a constant of the caller's too, whose square is beyond the range."""
    far = 1e200 if dtype in ("f8", "c16") else 1e25
    form = np.finfo(dtype)
    with x64(dtype), cpu_primitives.use(with_kernels):
        for factor in (1, far, 1 / far):
            c = np.finfo(dtype).dtype.type(factor)

            def unit(s, c=c, **keywords):
                return l2.normalize(make(s, c), return_norm=True, **keywords)

            whole = jax.jit(unit)
            slope = jax.jit(jax.grad(lambda s, c=c: l2.norm(make(s, c))))
            short = {}
            for value in sizes(dtype):
                want = value.real.astype("g") * factor
                if want and not form.tiny <= np.abs(want) <= form.max:
                    continue
                y, n = whole(value)
                close(y, np.full(4, np.sign(want) / 2))
                with np.errstate(over="ignore"):
                    close(n, np.abs(2 * want).astype(n.dtype))
                if want and np.abs(want) < form.max / 8:
                    short[float(np.abs(4 * want))] = value
                if dtype.kind == "f" and factor == 1:
                    close(slope(value), 2 * np.sign(value))

            @jax.jit
            def shorter(values, unit=unit, short=short):
                return [unit(s, eps=eps)[0] for s, eps in zip(values, short, strict=True)]

            for y, value in zip(shorter(list(short.values())), short.values(), strict=True):
                close(y, np.full(4, np.sign(value.real) / 4))


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_the_compiler_knows(dtype, with_kernels):
    """Vectors of constants, and a number that zeros pad: rows, columns, and as bits of a wider
    dtype."""
    values, wide = sizes(dtype), {"f": "f8", "c": "c16"}[dtype.kind]
    known = [np.full((2, 3), value) for value in values]

    def both(x, axis, **keywords):
        return l2.normalize(x, axis, return_norm=True, **keywords), l2.norm(x, axis)

    def of_constants():
        return [both(jnp.asarray(a), axis) for a in known for axis in (0, 1)]

    def of_padded(x):
        padded = (jnp.pad(jnp.stack([v, v])[:, None], ((0, 0), (0, 2))) for v in x)
        return [both(*way) for a in padded for way in ((a, 1), (a.T, 0))]

    def widened():
        return l2.norm(jnp.asarray(known[0]), dtype="float64"), l2.norm(jnp.zeros((2, 3), wide), 0)

    with x64(dtype), cpu_primitives.use(with_kernels):
        for k, ((y, n), alone) in enumerate(jax.jit(of_constants)()):
            value, length = values[k // 2], (2, 3)[k % 2]
            close(y, np.full((2, 3), np.sign(value.real) / np.sqrt(length)))
            with np.errstate(over="ignore"):
                close(n, np.full(5 - length, np.abs(value) * np.sqrt(length)).astype(n.dtype))
            close(alone, n)
        for k, ((y, n), alone) in enumerate(jax.jit(of_padded)(values)):
            value = values[k // 2]
            want = np.outer([1, 1], [np.sign(value.real), 0, 0])
            close(y, want.T if k % 2 else want)
            close(n, np.full(2, np.abs(value)))
            close(alone, n)
    with jax.enable_x64(True), cpu_primitives.use(with_kernels):
        for zeros in jax.jit(widened)():
            assert not np.asarray(zeros).any()


def test_float32_without_float64():
    """The three sums of platforms that have no float64, on this one."""
    from l2multi.backends.jax import powers, roots

    call = cpu_primitives.Call(norm="float32")

    @jax.jit
    def norm(s, x):
        x = jnp.broadcast_to(s, x.shape) * x
        return powers.lengths(*roots._three_roots(x, (0,), call))[0][0]

    for value in sizes("f4"):
        for count in (1, 3):
            with np.errstate(over="ignore"):
                want = np.abs(value) * np.float32(np.sqrt(count))
            close(norm(value, np.ones(count, "f4")), want)


EQUAL = [((), None), ((1,), 0), ((1, 7), 1), ((7, 1), 1), ((7, 1), 0), ((777,), 0), ((100_003,), 0),
         ((50_001, 3, 2), (0, 2)), ((1025, 3), 0), ((3, 33, 65), (0, 2))]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), EQUAL)
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_equal_numbers(dtype, shape, axis):
    """They round alike at each addition: the worst case of a sum in order. By any axes; and as the
    vectors grow, so do their norms, in derivatives."""

    @jax.jit
    def found(x):
        y, n = l2.normalize(x, axis, return_norm=True)
        _, growth = jax.jvp(lambda x: l2.norm(x, axis), (x,), (x,))
        return y, n, growth, jax.vjp(lambda x: l2.normalize(x, axis), x)[1](jnp.conj(x))[0]

    for value in (0.1, 0.7, 3e30):
        a = np.full(shape, value * (1 if dtype.kind == "f" else 1 + 0.3j)).astype(dtype)
        with x64(dtype), cpu_primitives.use(False):
            y, n, growth, tangent = map(np.asarray, found(a))
        x, y = vectors(a, axis)[0], vectors(y, axis)[0]
        verdict = judge(x[:2], y[:2], n.reshape(-1)[:2], sample=5)
        assert max(verdict[:2]) <= 2.5, verdict
        verdict = judge(x[:2], None, growth.reshape(-1)[:2])
        assert max(verdict[:2]) <= 4, verdict
        # What two equal terms leave when one is subtracted from the other.
        assert np.abs(tangent).max() <= 4 * np.finfo(dtype).eps * np.abs(y).max()


def test_no_program_of_another_call():
    """NumPy finds float64 equal to None, by which JAX gave one call the program of another in one
    of a hundred processes for each shape."""
    with jax.enable_x64(True):
        for k in range(500):  # of which four to six failed
            jax.clear_caches()
            shape = 2 + k % 30, 1 + k // 30
            x = jax.ShapeDtypeStruct(shape, np.float64)
            y, n = jax.eval_shape(lambda x: l2.normalize(x, return_norm=True), x)
            alone = jax.eval_shape(lambda x: l2.normalize(x), x)
            kept = jax.eval_shape(lambda x: l2.norm(x, keepdims=True), x)
            assert (y.shape, n.shape) == (shape, shape[:1])
            assert jax.eval_shape(lambda x: l2.norm(x), x).shape == shape[:1]
            assert (alone.shape, kept.shape) == (shape, (shape[0], 1))


def test_static_arguments_hold_no_dtype():
    """Nor None, to which one of another call could be equal."""
    seen = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            seen.extend(equation.params.get("call", ()))
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    look(value.jaxpr)

    with jax.enable_x64(True):
        for function in (lambda x: l2.normalize(x, return_norm=True), l2.norm, l2.normalize):
            look(jax.make_jaxpr(function)(np.ones(3)).jaxpr)
    assert "float64" in seen
    assert not any(isinstance(part, np.dtype) or part is None for part in seen)


def exact(x, d, eps):
    """Tangents of the unit vectors of rows in longdouble, and the largest of what is subtracted."""
    x, d = x.astype("g"), d.astype("g")
    n = np.sqrt((x * x).sum(-1, keepdims=True))
    u = x / n
    tangent = (d - u * (u * d).sum(-1, keepdims=True)) / n
    largest = np.abs(d).max(-1, keepdims=True) / n
    return np.where(n <= eps, d / eps, tangent) if eps else tangent, largest


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("eps", [0.0, 1e-20])
def test_derivatives_at_any_size(axis, eps, with_kernels):
    """Of vectors and by tangents from the smallest normal number to the largest: by the kernel, by
    the formula, of rows and of columns; forwards and backwards."""
    rng = np.random.default_rng(0)
    tiny, top = np.finfo("f4").tiny, np.finfo("f4").max
    x, d = (
        (rng.uniform(0.3, 1, (4000, 5)) * rng.choice([-1, 1], (4000, 5))).astype("f4")
        * np.ldexp(np.float32(1), rng.integers(-124, 126, (4000, 1)))
        for _ in range(2)
    )
    d[:500] = np.sign(d[:500]) * tiny * rng.uniform(1, 8, (500, 5))  # each product would underflow
    x[:250] = np.float32(rng.uniform(0.5, 1, (250, 5)))
    want, scale = exact(x, d, eps)
    known = (np.abs(want) >= 2 * tiny) & (np.maximum(np.abs(want), scale) < top / 2)
    X, D = (x, d) if axis else (x.T, d.T)

    def unit(x):
        return l2.normalize(x, axis, eps=eps)

    with cpu_primitives.use(with_kernels):
        for got in (
            jax.jit(lambda x, d: jax.jvp(unit, (x,), (d,))[1])(X, D),
            jax.jit(lambda x, d: jax.vjp(unit, x)[1](d)[0])(X, D),
        ):
            got = np.asarray(got).astype("g") if axis else np.asarray(got).T.astype("g")
            assert known.mean() > 0.3
            error = np.abs(got - want) / np.maximum(np.abs(want), scale)
            assert error[known].max() < 1e-6


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_derivatives_of_subnormal_numbers(dtype, with_kernels):
    """Right by way of the kernel. XLA's CPU compiler takes such numbers for 0, in derivatives as in
    values."""
    form = np.finfo(dtype)
    u = np.array([0.6, 0.8])
    tangent = np.eye(2) - np.outer(u, u)
    with x64(dtype), cpu_primitives.use(with_kernels):

        @jax.jit
        def all_of(x):
            unit, norm = l2.normalize, l2.norm
            growth = jax.jvp(norm, (x,), (jnp.ones_like(x),))[1]
            return (
                jax.grad(norm)(x),
                growth,
                jax.hessian(norm)(x),
                *(jacobian(unit)(x) for jacobian in (jax.jacfwd, jax.jacrev)),
            )

        for length in (1.2, 0.6):  # in smallest normal numbers
            x = (length * u * form.tiny).astype(dtype)
            gradient, growth, *tangents = all_of(x)
            known = float(with_kernels)
            close(gradient, known * u)
            close(growth, known * u.sum())
            for found in tangents:
                close(found, known * tangent / length / form.tiny, 1e-6)


@pytest.mark.parametrize("keywords", [{}, {"zero": "nan"}, {"eps": 0.25}, {"eps": np.inf},
                                      {"eps": 0.25, "zero": "nan"}])  # fmt: skip
def test_derivatives_of_special_vectors(keywords):
    """Of zeros, infs and NaNs: the same by the kernel, by the formula, of rows and of columns."""
    inf, nan = np.inf, np.nan
    x = np.float32([[3, 4], [inf, 1], [inf, -inf], [nan, 1], [inf, nan], [0, 0], [0.1, 0]])
    d = np.float32([[1, 2]] * len(x))
    found = []
    for with_kernels in (True, False):
        for columns in (False, True):

            def unit(x, axis=0 if columns else 1):
                return l2.normalize(x, axis, **keywords)

            a, b = (x.T, d.T) if columns else (x, d)
            with cpu_primitives.use(with_kernels):
                some = [
                    jax.jit(unit)(a),
                    jax.jit(lambda x, d, f=unit: jax.jvp(f, (x,), (d,))[1])(a, b),
                    jax.jit(lambda x, d, f=unit: jax.vjp(f, x)[1](d)[0])(a, b),
                ]
            found.append([np.asarray(y).T if columns else np.asarray(y) for y in some])
    eps = keywords.get("eps", 0)
    for _, forward, backward in found:
        np.testing.assert_allclose(forward, found[0][1], 1e-6, 1e-14)
        np.testing.assert_allclose(backward, found[0][1], 1e-6, 1e-14)
        if eps < np.inf:
            assert np.isnan(forward[1:5]).all()
        near = np.float32([1, 2]) / eps if eps else [0, 20]
        np.testing.assert_allclose(forward[6], near, 1e-6, 1e-14)
        zero = 0 if not eps or "zero" in keywords else d[5] / eps
        np.testing.assert_allclose(forward[5], zero * np.ones(2))


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_derivatives_with_a_subnormal_eps(dtype):
    """Of vectors that are longer than it, by every way to the formula."""
    eps = 5e-324 if dtype in ("f8", "c16") else 1e-45
    with x64(dtype):
        x = jnp.asarray([3, 4], dtype)
        places = jnp.array([[0, 0], [0, 1]])

        def sparse(d):
            return l2.normalize(BCOO((d, places), shape=(1, 2)), eps=eps).data[0].real

        ways = []
        for keywords in ({}, {"zero": "nan"}):
            ways.append(lambda d, k=keywords: l2.normalize(d, eps=eps, **k)[0].real)
            ways.append(lambda d, k=keywords: l2.normalize(d[:, None], 0, eps=eps, **k)[0, 0].real)
        for with_kernels, some in ((True, [*ways, sparse]), (False, ways)):
            with cpu_primitives.use(with_kernels):
                for slope in jax.jit(lambda x, some=some: [jax.grad(way)(x) for way in some])(x):
                    close(slope, [0.128, -0.096])
                for way in some[:2]:
                    close(jax.grad(way)(x), [0.128, -0.096])


def test_integers_have_no_derivative():
    """But what they are multiplied by has one, through calls on them."""
    for x in (jnp.arange(1, 4), jnp.array([True, False, True])):
        for function in (l2.norm, l2.normalize):
            slope = jax.grad(lambda s, x=x, f=function: (s * f(x)).sum())(2.0)
            close(slope, function(x).sum())
            _, tangent = jax.jvp(function, (x,), (np.zeros(x.shape, jax.dtypes.float0),))
            assert not np.asarray(tangent).any()


MEMORY = """
    import sys
    import jax, numpy as np, l2multi as l2
    def beside(function, x):
        jax.block_until_ready(function(x))  # compiled
        open("/proc/self/clear_refs", "w").write("5")
        status = lambda key: int(open("/proc/self/status").read().split(key)[1].split()[0]) / 1024
        before = status("VmRSS:")
        y = jax.block_until_ready(function(x))
        return status("VmHWM:") - before - y.nbytes / 2**20
    for dtype in ("f4", "c8", "f2", "i1", "f8"):
        with jax.enable_x64(dtype == "f8"):
            x = jax.numpy.asarray(np.ones((8_000, 1_000), dtype))
            for axis in (0, 1):
                for function in (l2.norm, l2.normalize):
                    print(dtype, axis, function.__name__, x.nbytes / 2**20,
                          beside(lambda x: function(x, axis), x))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peaks")
def test_memory():
    """XLA holds no copy of the input beside it, where it serves."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY)],
        env={**os.environ, cpu_primitives.ENVIRONMENT: "0"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        *_, held, more = line.split()
        assert float(more) < max(0.3 * float(held), 12), done.stdout


@pytest.mark.parametrize("dtype", DTYPES[:4])
@pytest.mark.parametrize("eps", [0.5, 1.0, 3.0])
def test_the_smallest_normal_number_over_eps(dtype, eps):
    """Over 1 it stays what it is, by every way: no factor of the quotient is subnormal."""
    form = np.finfo(dtype)
    x = np.array([[1, 2, -1, 3]], form.dtype) * 4 * form.tiny
    x = (x if eps == 3 else x / 4).view(dtype)
    with x64(dtype):
        for with_kernels in (True, False):
            with cpu_primitives.use(with_kernels):
                y = np.asarray(l2.normalize(jnp.asarray(x), None, eps=eps))
                np.testing.assert_array_almost_equal_nulp(
                    y.view(form.dtype), x.view(form.dtype) / form.dtype.type(eps), 2
                )
