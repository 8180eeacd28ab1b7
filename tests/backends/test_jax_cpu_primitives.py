"""The Numba kernels inside XLA's CPU programs: where they run, with what bits, and where not."""

import ctypes
import functools
import os
import re
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import export

import l2multi as l2
from l2multi.backends.jax import cpu_primitives
from l2multi.backends.numba import descriptor, plan, tangents, threads

CALL = "custom_call @l2multi_rows"
FLOATS = [np.dtype("f2"), np.dtype("f4"), np.dtype("f8"), np.dtype(ml_dtypes.bfloat16)]
SHAPES = [(1, 1), (3, 5), (20, 7), (40, 16), (7, 300), (2, 70_000), (300, 200), (50_000, 3)]


@pytest.fixture(autouse=True)
def kernels():
    """Also where the environment says otherwise."""
    with cpu_primitives.use(True):
        yield


def sample(shape, dtype=np.float32, seed=0):
    """Vectors of very different lengths, one of zeros, one with an inf, one with a NaN."""
    rng = np.random.default_rng(seed)
    info = ml_dtypes.finfo(dtype)
    scale = 2.0 ** rng.uniform(info.minexp - 3, info.maxexp - 2, (shape[0], 1))
    x = (rng.standard_normal(shape) * np.where(rng.random((shape[0], 1)) < 0.5, scale, 1.0)).astype(
        dtype
    )
    if shape[0] > 5:
        x[1] = 0
        x[2, 0], x[3, -1] = np.inf, np.nan
    return x


def text(function, *arguments):
    """What a function is lowered to."""
    return jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits(dtype, shape):
    """Those of NumPy, of each quantity, eagerly and under jit, subnormal numbers among them."""
    with np.errstate(all="ignore"):
        a = sample(shape, dtype)
    with jax.enable_x64(dtype.itemsize == 8):
        x = jnp.asarray(a)
        for keywords in ({}, {"zero": "nan"}, {"eps": 1e-3, "return_norm": True}):
            want = l2.normalize(a, backend="numpy", **keywords)
            got = l2.normalize(x, **keywords)
            if "return_norm" not in keywords:
                got, want = (got,), (want,)
            under = jax.jit(lambda x, keywords=keywords: l2.normalize(x, **keywords))(x)
            assert (got[0] == jax.tree.leaves(under)[0]).all() or np.isnan(want[0]).any()
            assert np.asarray(got[0]).tobytes() == want[0].tobytes()
            if len(got) > 1:
                np.testing.assert_array_equal(got[1], want[1])
                np.testing.assert_array_equal(got[1], l2.norm(x))


def test_where_it_runs():
    """For real rows; not for columns, complex numbers and bytes, under a mesh or in an export."""
    x = jnp.ones((4, 6))
    assert CALL in text(l2.normalize, x)
    assert CALL in text(l2.norm, x)
    assert CALL in text(lambda x: l2.normalize(x, axis=None), x)
    assert CALL in text(jax.vmap(l2.normalize), x)
    assert CALL in text(jax.vmap(l2.normalize, in_axes=1), x)
    assert CALL in text(jax.grad(lambda x: l2.normalize(x)[0].sum()), x)
    assert CALL not in text(lambda x: l2.normalize(x, axis=0), x)
    assert CALL not in text(l2.normalize, x.astype(jnp.complex64))
    assert CALL not in text(l2.normalize, x.astype(jnp.float8_e4m3fn))
    assert CALL not in text(l2.normalize, jnp.ones((0, 6)))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert CALL not in text(l2.normalize, x)
    assert CALL not in export.export(jax.jit(l2.normalize))(x).mlir_module()
    with cpu_primitives.use(False):
        assert CALL not in text(lambda x: l2.normalize(x), x)


def test_switch():
    """The environment switches it off, for a process."""
    script = f"""
    import jax, l2multi as l2
    print({CALL!r} in jax.jit(l2.normalize).lower(jax.numpy.ones((2, 3))).as_text())
    """
    for value, wanted in (("0", "False"), ("", "True")):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={**os.environ, cpu_primitives.ENVIRONMENT: value},
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.strip() == wanted


def test_without_numba(monkeypatch):
    """XLA serves where there is no kernel, or its interface is another."""
    monkeypatch.setattr(cpu_primitives, "_interface", lambda: False)
    assert CALL not in text(lambda x: l2.normalize(x), jnp.ones((4, 6)))


TRAIN = """
    import hashlib, sys
    import jax, jax.numpy as jnp, numpy as np, l2multi as l2
    rng = np.random.default_rng(0)
    x, t = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((64, 30), (64, 10)))
    def loss(w):
        y = l2.normalize(x @ w).astype(jnp.{dtype})
        return jnp.mean((l2.normalize(y, dtype=jnp.bfloat16) - t) ** 2) + l2.norm(w, 0).sum() / 100
    step = jax.jit(lambda w: w - 0.1 * jax.grad(loss)(w))
    w = jnp.asarray(rng.standard_normal((30, 10), np.float32))
    for _ in range(20):
        w = step(w)
    print(hashlib.sha256(np.asarray(w).tobytes() + np.asarray(l2.norm(w)).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])  # whose kernel to bfloat16 does not ship
def test_one_answer_for_ever(dtype, tmp_path):
    """A script prints the same in its first process, in later ones, and without a cache."""
    code, full, nothing = textwrap.dedent(TRAIN).format(dtype=dtype), tmp_path / "a", tmp_path / "b"
    nothing.mkdir(mode=0o555)
    found = set()
    for place in (full, full, nothing, "", "/proc/nowhere"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "L2MULTI_CACHE_DIR": str(place)},
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("with_kernels", [True, False])
def test_derivatives(with_kernels):
    """First and second ones, with the kernel as without, at zero, huge and tiny vectors."""
    with cpu_primitives.use(with_kernels):
        x = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1e30, 2e30, 2e30], [1e-30, 0, 0]])
        w = np.array([1.0, 2.0, 3.0])
        for eps in (0.0, 1e-12):
            value, gradient = jax.vmap(
                jax.value_and_grad(lambda v, eps=eps: l2.normalize(v, eps=eps) @ w)
            )(x)
            u = np.array([[0.6, 0.8, 0], [0, 0, 0], [1 / 3, 2 / 3, 2 / 3], [1, 0, 0]])
            n = np.array([5, np.inf, 3e30, 1e-30])
            if eps:
                u[3], n[1], n[3] = [1e-18, 0, 0], eps, eps
            np.testing.assert_allclose(value, u @ w, rtol=3e-6)
            tangent = (w - u * (u @ w)[:, None]) / n[:, None]
            if eps:
                tangent[1] = tangent[3] = w / eps
            scale = np.where(n == np.inf, 1.0, n)[:, None]  # of what is subtracted
            np.testing.assert_allclose(gradient * scale, tangent * scale, rtol=3e-6, atol=1e-6)
        hessian = jax.vmap(jax.hessian(lambda v: l2.normalize(v) @ w))(x)
        assert np.isfinite(hessian[:3]).all()
        assert (hessian[1] == 0).all()
        length = jax.vmap(jax.grad(l2.norm))(x)
        np.testing.assert_allclose(length, [[0.6, 0.8, 0], [0] * 3, u[2], [1, 0, 0]], rtol=3e-6)


def exact_jvp(x, d, eps):
    """(d - u (u . d)) / norm, or d / eps, in longdouble."""
    x, d = np.asarray(x).astype("g"), np.asarray(d).astype("g")
    n = np.sqrt((x * x).sum(-1, keepdims=True))
    with np.errstate(all="ignore"):
        u = np.where(n == 0, 0, x / n)
        tangent = np.where(n == 0, 0, (d - u * (u * d).sum(-1, keepdims=True)) / n)
        return np.where(n <= eps, d / eps, tangent) if eps else tangent


def scale_of(x, d, eps):
    """The largest of what is subtracted in `exact_jvp`."""
    n = np.sqrt((np.asarray(x).astype("g") ** 2).sum(-1, keepdims=True))
    with np.errstate(all="ignore"):
        size = np.abs(np.asarray(d).astype("g")).max(-1, keepdims=True) / np.maximum(n, eps)
        return np.where(n == 0, 0, size)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] * s[1] < 10**5])
@pytest.mark.parametrize("dtype", ["f4", "f2", ml_dtypes.bfloat16])
def test_derivatives_by_a_kernel(dtype, shape):
    """Forwards and backwards, from huge vectors to tiny ones, as exact arithmetic has them."""
    with np.errstate(all="ignore"):
        x = sample(shape, np.dtype(dtype))
        x[2:4] = 1  # nothing infinite
        d = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for eps in (0.0, 1e-2):
        function = functools.partial(l2.normalize, eps=eps)
        want = exact_jvp(x, d, eps)
        # an ulp of the result, and what is lost where large numbers cancel: half types are in
        # float32 at last
        lost = 2.0**-40 if dtype == "f4" else 2.0**-22
        bound = float(ml_dtypes.finfo(dtype).eps) * np.abs(want) + lost * scale_of(x, d, eps)
        fits = np.abs(want).astype("d") < float(ml_dtypes.finfo(dtype).max)
        for given in (
            jax.jit(lambda x, d, f=function: jax.jvp(f, (x,), (d,))[1])(x, d),
            jax.jit(lambda x, d, f=function: jax.vjp(f, x)[1](d)[0])(x, d),
        ):
            assert given.dtype == dtype
            error = np.abs(np.asarray(given).astype("g") - want)
            assert (error <= bound + float(ml_dtypes.finfo(dtype).smallest_subnormal))[fits].all()


@pytest.mark.parametrize("dtype", ["f4", "f2", ml_dtypes.bfloat16])
def test_threads_share_the_derivative_of_a_long_vector(dtype):
    """With the bits that one thread gives it."""
    x, d = np.random.default_rng(2).standard_normal((2, 2, 6 * plan.SPLIT + 5)).astype(dtype)
    pool = (ctypes.c_int64 * descriptor.POOL_SIZE).from_address(threads.POOL)
    before = pool[descriptor.TICKET]
    got = np.asarray(jax.jit(lambda x, d: jax.jvp(l2.normalize, (x,), (d,))[1])(x, d))
    assert pool[descriptor.TICKET] != before or threads.cores() == 1
    want = np.empty_like(x)
    with threads.force("serial"):
        tangents(x.dtype)(x.ctypes.data, d.ctypes.data, want.ctypes.data, *x.shape, 0.0)
    assert got.tobytes() == want.tobytes()


def test_where_derivatives_run():
    """In kernels for rows of one narrow dtype, under any transform; not for others or elsewhere."""
    x = jnp.ones((4, 6))
    by_kernel = re.compile(CALL + r".*results = 4")

    def loss(x, **keywords):
        return (l2.normalize(x, **keywords) ** 3).sum()

    assert by_kernel.search(text(jax.grad(loss), x))
    assert by_kernel.search(text(jax.vmap(jax.grad(loss)), x))
    assert by_kernel.search(text(jax.hessian(loss), x))
    assert by_kernel.search(text(jax.checkpoint(jax.grad(loss)), x))
    assert by_kernel.search(text(lambda x: jax.jvp(l2.normalize, (x,), (x,)), x))
    assert by_kernel.search(text(jax.grad(lambda x: l2.normalize(x, return_norm=True)[0].sum()), x))
    assert not by_kernel.search(text(jax.grad(l2.norm), x[0]))
    assert not by_kernel.search(text(jax.grad(lambda x: loss(x, dtype=jnp.bfloat16)), x))
    assert not by_kernel.search(text(jax.grad(lambda x: loss(x, axis=0)), x))
    assert CALL not in export.export(jax.jit(jax.grad(loss)))(x).mlir_module()
    with jax.enable_x64(True):
        assert not by_kernel.search(text(jax.grad(loss), jnp.ones((4, 6))))


def test_derivatives_of_derivatives():
    """Third ones too, and by vectors of which some are batched; as without kernels."""
    rng = np.random.default_rng(0)
    x, d, e = (jnp.asarray(rng.standard_normal((3, 7)), np.float32) for _ in range(3))

    def unit_jvp(x, d):
        return jax.jvp(l2.normalize, (x,), (d,))[1]

    def all_of(x, d, e):
        return [
            unit_jvp(x, d),
            jax.vmap(unit_jvp, in_axes=(None, 0))(x, jnp.stack([d, e])),
            jax.vmap(unit_jvp, in_axes=(0, None), out_axes=1)(x, d[0]),
            jax.jvp(unit_jvp, (x, d), (e, d))[1],
            jax.jvp(lambda x: unit_jvp(x, d), (x,), (e,))[1],
            jax.jvp(lambda d: unit_jvp(x, d), (d,), (e,))[1],
            jax.vjp(unit_jvp, x, d)[1](e),
            jax.jacrev(jax.jacfwd(jax.jacrev(l2.normalize)))(x[0]),
            jax.lax.scan(lambda c, r: (unit_jvp(c, r), r), x, jnp.stack([d, e]))[0],
        ]

    found = []
    for with_kernels in (True, False):
        with cpu_primitives.use(with_kernels):
            found.append(jax.jit(all_of)(x, d, e))
    for got, want in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize(("length", "size"), [(1e37, 1.0), (1e30, 1e-6), (1e-18, 1e-18)])
def test_derivatives_near_the_smallest_normal_number(with_kernels, length, size):
    """What is normal has its digits, though what it is computed from is far smaller."""
    rng = np.random.default_rng(0)
    x, d = ((rng.standard_normal((50, 8)) * s).astype("f4") for s in (length, size))
    want = exact_jvp(x, d, 0.0)
    normal = np.abs(want) >= np.finfo("f4").tiny
    with cpu_primitives.use(with_kernels):
        for got in (
            jax.jit(lambda x, d: jax.jvp(l2.normalize, (x,), (d,))[1])(x, d),
            jax.jit(lambda x, d: jax.vjp(l2.normalize, x)[1](d)[0])(x, d),
            jax.jit(lambda x, d: jax.jvp(lambda x: l2.normalize(x, 0), (x,), (d,))[1])(x.T, d.T).T,
        ):
            bound = 4e-6 * np.abs(want) + 4e-7 * scale_of(x, d, 0.0)
            assert (np.abs(np.asarray(got) - want) <= bound)[normal].all()


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f2", ml_dtypes.bfloat16])
def test_large_tangents_at_zero(with_kernels, dtype):
    """The derivative of everything is 0 there, however far one goes."""
    x = jnp.zeros((3, 2), dtype)

    @jax.jit
    def all_of(x, t):
        found = [
            jax.jvp(lambda x, axis=axis: l2.normalize(x, axis), (x,), (t,))[1]
            for axis in (0, 1, None)
        ]
        return [
            *found,
            jax.jvp(lambda x: l2.normalize(x, dtype="f4"), (x,), (t,))[1],
            jax.jvp(l2.norm, (x,), (t,))[1],
            jax.jvp(jax.grad(lambda x: l2.norm(x).sum()), (x,), (t,))[1],
            jax.jvp(jax.grad(lambda x: l2.normalize(x)[:, 0].sum()), (x,), (t,))[1],
            jax.vjp(l2.normalize, x)[1](t)[0],
            jax.vjp(lambda x: l2.normalize(x, 0), x)[1](t)[0],
        ]

    with cpu_primitives.use(with_kernels):
        for size in (4.1, 10.0, 6e4):
            found = all_of(x, jnp.full((3, 2), size, dtype))
            assert not any(np.asarray(one).any() for one in found)


def test_kernel_and_formula_agree_where_zero_becomes_nan():
    """The derivative does not depend on whether a kernel was there."""
    x, t = jnp.array([[0.0, 0.0], [0.1, 0.0], [3.0, 4.0]]), jnp.ones((3, 2))
    found = []
    for with_kernels in (True, False):
        with cpu_primitives.use(with_kernels):
            function = functools.partial(l2.normalize, zero="nan", eps=0.25)
            found.append(np.asarray(jax.jvp(function, (x,), (t,))[1]))
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_from_many_threads():
    """One launch at a time, others alone; all whole."""
    a = sample((600, 200))
    want = l2.normalize(a, backend="numpy").tobytes()
    failed = []

    def work():
        x = jnp.asarray(a)
        for _ in range(30):
            if np.asarray(l2.normalize(x)).tobytes() != want:
                failed.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_program_from_jax_s_cache(tmp_path):
    """A second process finds the compiled program on disk, and the kernel under its name."""
    script = """
    import jax, numpy as np, l2multi as l2
    jax.config.update("jax_compilation_cache_dir", {path!r})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    first = [jax.numpy.float16, jax.numpy.float32][{number}]
    l2.normalize(jax.numpy.ones((2, 3), first))  # kernels are prepared in another order
    a = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    got = jax.jit(lambda x: l2.normalize(x, return_norm=True))(a)
    want = l2.normalize(a, return_norm=True, backend="numpy")
    assert all((np.asarray(g) == w).all() for g, w in zip(got, want))
    """
    for number in (0, 1):
        code = textwrap.dedent(script).format(path=str(tmp_path), number=number)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
        assert list(tmp_path.iterdir())


def test_shapes_and_axes_of_the_usual_call():
    """The fast path into JAX refuses what the general path refuses, in the same words."""
    x = jnp.ones((2, 3))
    l2.normalize(x)
    l2.norm(x)
    for function in (l2.normalize, l2.norm):
        for axis in (2, -3):
            with pytest.raises(np.exceptions.AxisError):
                function(x, axis)
        with pytest.raises(np.exceptions.AxisError):
            function(jnp.float32(3))
    assert l2.norm(x, keepdims=True).shape == (2, 1)
    assert l2.norm(x, 0, keepdims=True).shape == (1, 3)
    with pytest.raises(TypeError, match="axis"):
        l2.normalize(x, True)
    assert type(l2.normalize(x, backend="numpy")) is type(x)
    with l2.backend("numpy"):
        assert (l2.normalize(x) == l2.normalize(np.ones((2, 3), np.float32))).all()
    assert l2.normalize(jnp.ones((2, 3), int)).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_programs_for_other_platforms(dtype):
    """For a GPU one sum and no choice, which its compiler makes one kernel of; for a CPU without
    kernels a tree of additions; three sums, of which two are seldom needed, where there is no
    float64."""
    x = jnp.ones((400, 500), dtype)

    def lowered(platform):
        function = jax.jit(lambda x: l2.normalize(x))
        text = function.trace(x).lower(lowering_platforms=(platform,)).as_text()
        found = [
            text.count(f"stablehlo.{op}") for op in ("reduce(", "select", "case", "custom_call")
        ]
        return found, "f64" in text

    with cpu_primitives.use(False):
        assert lowered("cuda") == lowered("rocm") == ([1, 0, 0, 0], True)
        assert lowered("cpu") == ([0, 0, 0, 0], True)
        (sums, *_), wide = lowered("tpu")
        assert (sums, wide) == (4, False)  # the fourth asks whether all is well


def test_without_jit_and_with_nan_checks():
    """What users switch for debugging."""
    x = jnp.array([[3.0, 4.0]])
    with jax.disable_jit():
        np.testing.assert_allclose(l2.normalize(x), [[0.6, 0.8]], rtol=1e-6)
        np.testing.assert_allclose(jax.grad(lambda x: l2.norm(x)[0])(x), [[0.6, 0.8]], rtol=1e-6)
    with jax.debug_nans(True):
        np.testing.assert_allclose(l2.normalize(x), [[0.6, 0.8]], rtol=1e-6)
        with pytest.raises(FloatingPointError):
            l2.normalize(x * np.nan)


def test_float64_outside_x64():
    """As the general path refuses it, so does the fast path."""
    with jax.enable_x64(True):
        x = jnp.ones((2, 3), np.float64)
        l2.normalize(x)
        l2.norm(x)
    for function in (l2.normalize, l2.norm):
        with pytest.raises(TypeError, match="x64"):
            function(x)


def test_symbolic_sizes_that_may_be_zero():
    """An export asks nothing of them."""
    (b,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 4), np.float32)
    exported = export.export(jax.jit(lambda x: l2.normalize(x[1:])))(shape)
    assert exported.call(jnp.ones((1, 4))).shape == (0, 4)
    np.testing.assert_allclose(exported.call(jnp.ones((3, 4))), np.full((2, 4), 0.5), rtol=1e-6)


def test_helpers_hired_by_a_thread_of_xla():
    """They compute with subnormal numbers, as all others."""
    script = """
    import jax, numpy as np, l2multi as l2
    x = np.full((4096, 64), 5e-324)
    want = l2.normalize(x, backend="numpy")
    call = lambda a: l2.normalize(x, backend="numba")[:1, :1].astype(np.float32)
    jax.jit(lambda a: jax.pure_callback(call, jax.ShapeDtypeStruct((1, 1), np.float32), a))(1.0)
    for _ in range(20):
        assert (l2.normalize(x, backend="numba") == want).all()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


GUARDED = """
    import importlib, sys
    import numpy as np, jax, jax.numpy as jnp
    from jax.experimental.sparse import BCOO  # which leans on them too
    for name in {names!r}.split():
        owner, _, attribute = name.rpartition(".")
        def raises(*_, **__):
            raise RuntimeError(f"{{name}} is not what it was")
        importlib.import_module(owner)
        if {gone}:
            delattr(sys.modules[owner], attribute)
        else:
            setattr(sys.modules[owner], attribute, raises)
    import l2multi as l2
    x = np.random.default_rng(0).standard_normal((30, 50)).astype(np.float32)
    a = jnp.asarray(x)
    want, norms = l2.normalize(x, return_norm=True, backend="numpy")
    for f, dtype in ((jax.jit(l2.normalize), "f4"), (jax.vmap(l2.normalize), "f2")):
        got = f(a.astype(dtype)).astype("f4")
        np.testing.assert_allclose(got, want, rtol=1e-6 if dtype == "f4" else 2e-3)
    np.testing.assert_allclose(l2.norm(a), norms, rtol=1e-3)
    np.testing.assert_allclose(jax.grad(lambda v: l2.norm(v).sum())(a), want, rtol=1e-5)
    tangent = jax.grad(lambda v: l2.normalize(v)[0, 0])(a)[0]
    eye = np.eye(1, 50)[0]
    np.testing.assert_allclose(tangent, (eye - want[0] * want[0, 0]) / norms[0], atol=1e-6)
    s = BCOO((a.ravel(), np.argwhere(np.ones(a.shape))), shape=a.shape)
    np.testing.assert_allclose(l2.normalize(s).data, want.ravel(), rtol=1e-5)
    length = lambda d: l2.norm(BCOO((d, s.indices), shape=s.shape)).sum()
    np.testing.assert_allclose(jax.grad(length)(s.data), want.ravel(), rtol=1e-5)
    print("custom_call @l2multi_rows" in jax.jit(l2.normalize).lower(a).as_text())
    l2.explain(a), l2.show_versions()
    from l2multi.backends.numba import loader
    for backend in ("numba", None):
        y = l2.normalize(np.ones((400, 300), np.float32), backend=backend)
        assert (y == np.float32(300**-0.5)).all()
"""

# What leans on private parts of JAX, XLA, LLVM and Numba; and whether programs call kernels all the
# same.
PRIVATE = {
    "jax.extend.core.Primitive": False,
    "jax.interpreters.mlir.register_lowering": False,
    "jax.interpreters.ad.primitive_jvps": False,
    "jax.ffi.include_dir": False,
    "jax.ffi.register_ffi_target": False,
    "jax.ffi.ffi_call": False,
}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_not_what_it_was(name, gone, tmp_path):
    """Where a library's inner parts are gone, or raise, calls are served all the same."""
    if name.endswith("primitive_jvps") and not gone:
        pytest.skip("no function")
    script = textwrap.dedent(GUARDED).format(names=name, gone=gone)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "L2MULTI_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[0] == str(PRIVATE[name])
