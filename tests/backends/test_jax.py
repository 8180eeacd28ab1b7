"""What only JAX has: transforms, derivatives to second order, export, sharding, x64, the carrying
of arrays between NumPy and JAX."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import jet
from jax.sharding import PartitionSpec

import l2multi as l2
import l2multi.jax
from l2multi.backends import jax as backend
from l2multi.backends.jax import cpu_primitives, functions, roots
from tests import cases
from tests.reference import judge

F32, F64 = np.dtype("f4"), np.dtype("f8")
# Rows whose sums are safe, and one size on either side of the branch for those.
SIZES = [(3, 5), (roots.LARGE // 64, 64)]
SMALL = 2.0**-125


def x64(dtype):
    """The context in which JAX has this dtype; never the global setting."""
    return jax.enable_x64(np.dtype(dtype).itemsize == (16 if np.dtype(dtype).kind == "c" else 8))


def moderate(shape, seed=0, dtype=F32):
    """Normal random numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def unit(x):
    """The unit vectors of the rows of `x` in float64, zero for zero."""
    x = np.asarray(x, "f8")
    x = x / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-300)
    return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-300)


def close(got, want, rtol=2e-6):
    """Equal up to `rtol` of the largest of `want`: entries that cancel have no digits of theirs."""
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=rtol * np.abs(want).max())


def jacobian(x):
    """The analytic Jacobian of the unit vector, and Hessian of the norm, in float64."""
    u, n = unit(x), np.sqrt((np.asarray(x, "f8") ** 2).sum())
    return (np.eye(u.size) - np.outer(u, u)) / n


def second(x):
    """The analytic second derivative of the unit vector, in float64."""
    u, n, eye = unit(x), np.sqrt((np.asarray(x, "f8") ** 2).sum()), np.eye(len(x))
    return (
        3 * np.einsum("i,j,k", u, u, u)
        - np.einsum("ij,k", eye, u)
        - np.einsum("ik,j", eye, u)
        - np.einsum("jk,i", eye, u)
    ) / n**2


# Transforms of the values.

MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), "i")
ROWS = PartitionSpec("i")
TRANSFORMS = {
    "jit": jax.jit,
    "vmap": jax.vmap,
    "vmap of columns": lambda f: lambda x: jax.vmap(f, 1)(x.T),
    "jit of vmap": lambda f: jax.jit(jax.vmap(f)),
    "checkpoint": jax.checkpoint,
    "scan": lambda f: lambda x: lax.scan(lambda c, row: (c, f(row)), 0, x)[1],
    "map": lambda f: lambda x: lax.map(f, x),
    "cond": lambda f: lambda x: lax.cond(x[0, 0] < jnp.inf, f, lambda y: f(-y), x),
    "shard_map": lambda f: jax.shard_map(f, mesh=MESH, in_specs=ROWS, out_specs=ROWS),
}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms(transform, shape):
    """Values, norms and gradients are the same under every transform."""
    a = moderate(shape)
    a[1] = 0
    x = jnp.asarray(a)
    y, n = transform(lambda x: l2.normalize(x, return_norm=True))(x)
    close(y, unit(a))
    close(n, np.sqrt((a.astype("f8") ** 2).sum(-1)))
    weights = moderate(shape, 1)
    got = jax.grad(lambda x: (transform(l2.normalize)(x) * weights).sum())(x)
    want = np.zeros(shape)
    for row in (0, 2, -1):
        want[row] = jacobian(a[row]) @ weights[row]
        close(got[row], want[row])
    assert not np.asarray(got[1]).any()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("wild", [None, 0, np.inf, np.nan, 2.0**-70, 2.0**70])
def test_branch_keeps_accuracy(dtype, wild):
    """A large batch is right where all sums are safe, and where one row makes XLA sum again."""
    a = moderate(SIZES[1], 2, dtype)
    if wild is not None:
        a[5] *= 0 if not np.isfinite(wild) else dtype.type(wild) ** (8 if dtype == F64 else 1)
        a[5, 3] = wild if not np.isfinite(wild) else a[5, 3]
    with x64(dtype):
        y, n = l2.normalize(jnp.asarray(a), return_norm=True)
        assert y.dtype == n.dtype == dtype
    verdict = judge(a, np.asarray(y), np.asarray(n), sample=64, flush=True)
    assert max(verdict[:2]) <= 4, verdict


def test_norms_are_one_answer():
    """The second result has the bits of `norm`, whatever `dtype`, eager and under jit."""
    for shape, axis in [((7, 50), 0), ((3, 4, 5), (0, 2)), (SIZES[1], 1)]:
        x = jnp.asarray(moderate(shape))
        alone = np.asarray(l2.norm(x, axis))
        both = {"dtype": "f2", "return_norm": True, "eps": 2.0, "zero": "nan"}
        _, eager = l2.normalize(x, axis, **both)
        _, traced = jax.jit(lambda x, axis=axis, both=both: l2.normalize(x, axis, **both))(x)
        np.testing.assert_array_equal(eager, alone)
        np.testing.assert_array_equal(traced, alone)
    with jax.enable_x64(True):
        _, wide = l2.normalize(x, axis, dtype="f8", return_norm=True)
        np.testing.assert_array_equal(wide, alone)
        assert wide.dtype == F32


def test_no_retrace():
    """The same shapes trace once, eagerly and under jit; eager calls compile nothing new."""
    x = jnp.asarray(moderate((6, 11)))
    l2.normalize(x, eps=0.125)
    before = functions.normalize._cache_size()
    for _ in range(3):
        l2.normalize(x + 1, eps=0.125)
    assert functions.normalize._cache_size() == before
    traces = []
    jitted = jax.jit(lambda x: (traces.append(1), l2.normalize(x))[1])
    for _ in range(3):
        jitted(x)
    assert len(traces) == 1


def test_donated():
    """A donated buffer may be reused, and the result is right."""
    a = moderate((4, 8))
    x = jnp.array(a)
    y = jax.jit(l2.normalize, donate_argnums=0)(x)
    close(y, unit(a))
    assert x.is_deleted()


def test_weak_types_and_scalars():
    """Nothing promotes: not `eps`, not a weakly typed input."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float32):
        y = l2.normalize(jnp.ones(4, dtype), eps=1e-3)
        assert y.dtype == dtype
        assert not y.weak_type
    weak = jnp.asarray(3.0)
    assert weak.weak_type
    assert l2.normalize(weak, None).dtype == F32
    assert float(l2.normalize(weak, ())) == pytest.approx(1)
    assert (l2.normalize(weak, None) * jnp.ones(1, jnp.bfloat16)).dtype == F32
    assert l2.normalize(jnp.arange(3)).dtype == F32
    with jax.enable_x64(True):
        assert l2.normalize(jnp.arange(3)).dtype == F64
        assert l2.normalize(jnp.arange(3, dtype="i4")).dtype == F64
        assert l2.normalize(jnp.ones(3, "f4")).dtype == F32
    assert not jax.config.jax_enable_x64


# Derivatives.

MODES = {"forward": jax.jacfwd, "reverse": jax.jacrev}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("scale", [1.0, SMALL, 2.0**-70, 2.0**70, 2.0**110])
def test_first_derivatives(mode, scale):
    """Of unit vector and norm, at every magnitude, against the analytic ones."""
    a = np.array([3, -4, 0.5, 1], "f4")
    x = jnp.asarray(a * np.float32(scale))
    close(mode(l2.norm)(x), unit(a))
    close(mode(l2.norm)(jnp.full(5, np.finfo("f4").max)), unit(np.ones(5)))
    weights = np.float32(min(scale, 1))  # else the derivative of a tiny vector has no float32
    close(mode(lambda x: l2.normalize(x) * weights)(x), jacobian(a) * (weights / scale))


@pytest.mark.parametrize("outer", MODES.values(), ids=MODES)
@pytest.mark.parametrize("inner", MODES.values(), ids=MODES)
def test_second_derivatives(outer, inner):
    """Of unit vector and norm, in all modes, against the analytic ones."""
    a = np.array([3, -4, 0.5, 1], "f4")
    hessian, curvature = jax.jit(outer(inner(l2.norm))), jax.jit(outer(inner(l2.normalize)))
    bounded = jax.jit(outer(inner(lambda x: l2.normalize(x, eps=2.0**-40))))
    for scale in (1, 2.0**-40, 2.0**40):
        x = jnp.asarray(a * np.float32(scale))
        close(hessian(x), jacobian(a) / scale)
        close(curvature(x), second(a) / scale**2)
        close(bounded(x), second(a) / scale**2)


def test_second_derivatives_eager():
    """The same without jit, where partial evaluation takes another way."""
    x = jnp.asarray([3, -4, 0.5, 1])
    close(jax.hessian(l2.norm)(x), jacobian(x))
    close(jax.jacfwd(jax.jacrev(l2.normalize))(x), second(x))
    assert not np.asarray(jax.jacfwd(jax.jacrev(l2.normalize))(x * 0)).any()


@pytest.mark.parametrize(("dtype", "eps"), [(F32, 0.0), (F32, 0.25), (F64, 0.0), (F64, 1e-6)])
def test_derivatives_at_zero(dtype, eps):
    """0 to second order; with `eps`, ``1 / eps`` at first order."""
    with x64(dtype):
        zero = jnp.zeros(3, dtype)

        def f(x):
            return l2.normalize(x, eps=eps)

        for mode in MODES.values():
            norms, units = jax.jit(lambda x, m=mode: (m(l2.norm)(x), m(f)(x)))(zero)
            assert not np.asarray(norms).any()
            close(units, np.eye(3) / eps if eps else np.zeros((3, 3)))
            for outer in MODES.values():
                both = jax.jit(lambda x, m=mode, o=outer: (o(m(l2.norm))(x), o(m(f))(x)))
                for derivative in both(zero):
                    assert not np.asarray(derivative).any()


@pytest.mark.parametrize("eps", [2.0**-130, 2.0**-120, 1e-3, 1.0, 2.0**120, 1e300, np.inf])
def test_eps_of_any_size(eps):
    """The divisor is ``max(norm, eps)`` in value and derivative, also beyond float32's range."""
    near = float(np.clip(eps, 2.0**-110, 2.0**110))
    weight = np.float32(min(near, 1))  # else the derivative of a tiny vector has no float32
    jacobian_of = jax.jit(jax.jacrev(lambda x: l2.normalize(x, eps=eps) * weight))
    for factor in (0.0, 1e-3, 0.5, 2.0, 1e3):
        a = (np.array([0.6, -0.8, 0]) * near * factor).astype("f4")
        divisor = max(np.sqrt((a.astype("f8") ** 2).sum()), eps)
        u = a.astype("f8") / divisor
        close(l2.normalize(jnp.asarray(a), eps=eps), np.where(np.abs(u) < 1e-37, 0, u))
        got = jacobian_of(jnp.asarray(a))
        want = np.eye(3) - (np.outer(u, u) if divisor > eps else 0)
        want = weight * want / divisor
        np.testing.assert_allclose(got, np.where(np.abs(want) < 1e-37, 0, want), 1e-5, 1e-37)


def test_mixed_batch():
    """Zero, tiny, huge, NaN and moderate rows do not disturb each other's gradients."""
    a = moderate((6, 4))
    a[1] = 0
    a[2] *= 2.0**-60
    a[3] *= 2.0**60
    a[4, 2] = np.nan
    w = jnp.asarray(moderate(4, 1))
    got = np.asarray(jax.vmap(jax.grad(jax.jit(lambda x: l2.normalize(x) @ w)))(jnp.asarray(a)))
    assert not got[1].any()
    for row in (0, 2, 3, 5):
        close(got[row], jacobian(a[row]) @ np.asarray(w))


def test_long_gradient():
    """The gradient of a vector beyond the branch's size, huge ones included."""
    w = moderate(roots.LARGE + 3, 1)
    gradient = jax.grad(lambda x: l2.normalize(x) @ w)
    for scale in (1, 2.0**70):
        a = moderate(w.shape) * np.float32(scale)
        got = gradient(jnp.asarray(a))
        u, wide = unit(a), w.astype("f8")
        close(got, (wide - u * (u @ wide)) / np.linalg.norm(a.astype("f8")))


@pytest.mark.parametrize("axis", [-1, None])
def test_complex_derivatives(axis):
    """They follow JAX's convention: those of the naive formula, at moderate size."""
    rng = np.random.default_rng(3)
    z, w, dz = (
        jnp.asarray((rng.normal(size=(2, 3)) + 1j * rng.normal(size=(2, 3))).astype("c8"))
        for _ in range(3)
    )
    kept = {"axis": axis, "keepdims": True}

    def naive(z):
        return z / jnp.sqrt(jnp.sum(z.real**2 + z.imag**2, **kept))

    def ours(z):
        return l2.normalize(z, axis)

    close(ours(z), naive(z))
    close(jax.jvp(ours, (z,), (dz,))[1], jax.jvp(naive, (z,), (dz,))[1])
    close(jax.vjp(ours, z)[1](w)[0], jax.vjp(naive, z)[1](w)[0])
    tangent = jax.jvp(lambda z: l2.norm(z, **kept), (z,), (dz,))[1]
    close(tangent, jnp.sum((jnp.conj(ours(z)) * dz).real, **kept))
    close(jax.grad(lambda z: l2.norm(z, axis).sum())(z), jnp.conj(ours(z)))
    loss = jax.grad(lambda z: (w * ours(z)).real.sum())
    close(loss(z), jax.grad(lambda z: (w * naive(z)).real.sum())(z))
    assert not np.asarray(loss(z * 0)).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_derivatives(dtype):
    """Computed in float32 and rounded once: a float16 vector of norm 3e5 has its gradient."""
    x = jnp.asarray([3, -4, 0.5, 1], dtype) * dtype(2.0**13)
    got = jax.grad(lambda x: l2.norm(x.at[0].multiply(1)).sum())(x)
    assert got.dtype == dtype
    close(got.astype("f4"), unit(x), float(jnp.finfo(dtype).eps))
    got = jax.grad(lambda x: l2.normalize(x, dtype="f4")[0] * 2.0**13)(x)
    close(got.astype("f4"), jacobian(x)[0] * 2.0**13, float(jnp.finfo(dtype).eps))


def test_second_order_of_a_mixed_batch():
    """Under vmap of jit, in half precision too: zero, tiny, huge and moderate rows at once."""
    a = moderate((5, 4))
    scales = np.float32(2.0) ** np.array([0, 0, -60, 60, -30], "f4")
    a *= scales[:, None]
    a[1] = 0
    v = moderate(4, 1)

    def curve(x, weight):  # the Hessian of a weighted entry, along v
        slope = jax.grad(lambda x: weight * weight * l2.normalize(x, dtype="f4")[0])
        return jax.jvp(slope, (x,), (jnp.asarray(v, x.dtype),))[1]

    for dtype, rtol in ((jnp.float32, 4e-6), (jnp.bfloat16, 2e-2)):
        x = jnp.asarray(a, dtype)
        got = np.asarray(jax.jit(jax.vmap(curve))(x, jnp.asarray(scales)).astype("f4"))
        assert not got[1].any()
        for row in (0, 2, 3, 4):
            v_rounded = np.asarray(v, dtype).astype("f8")
            want = np.einsum("jk,k", second(x[row].astype("f4"))[0], v_rounded)
            close(got[row], want * float(scales[row]) ** 2, rtol)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_narrow_derivatives(dtype):
    """float8 has gradients in its own dtype, 0 at the zero vector."""
    x = jnp.asarray([[3, -4, 0.5, 1], [0, 0, 0, 0]], dtype)
    got = jax.jit(jax.grad(lambda x: l2.norm(x).sum()))(x)
    assert got.dtype == dtype
    close(got[0].astype("f4"), unit(x[0].astype("f4")), float(jnp.finfo(dtype).eps))
    assert not np.asarray(got[1].astype("f4")).any()
    got = jax.grad(lambda x: l2.normalize(x, dtype="f4")[:, 0].sum())(x)
    close(got[0].astype("f4"), jacobian(x[0].astype("f4"))[0], float(jnp.finfo(dtype).eps))
    assert not np.asarray(got[1].astype("f4")).any()


def test_zero_nan_and_axes_have_gradients():
    """``zero="nan"`` and tuples of axes differentiate too."""
    a = moderate((2, 3, 4))
    got = jax.grad(lambda x: l2.normalize(x, (0, 2), zero="nan")[0, 1, 2])(jnp.asarray(a))
    flat = a.transpose(1, 0, 2).reshape(3, 8)[1]
    want = np.zeros((2, 3, 4))
    want[:, 1] = jacobian(flat)[2].reshape(2, 4)
    close(got, want)


# Export, sharding, tracing.


@pytest.mark.parametrize("shape", ["b, 4", "b, n", "3, n"])
def test_export(shape):
    """Symbolic shapes survive serialization, with derivatives."""
    like = jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float32)
    f = jax.jit(lambda x: l2.normalize(x, eps=0.5, return_norm=True))
    data = export.export(f)(like).serialize(vjp_order=1)
    loaded = export.deserialize(data)
    a = moderate((3, 4)) * np.float32(2.0**100)
    a[1] = 0
    y, n = loaded.call(jnp.asarray(a))
    close(y, unit(a))
    close(n, np.sqrt((a.astype("f8") ** 2).sum(-1)))
    weights = np.float32(2.0**100)
    got = jax.grad(lambda x: loaded.call(x)[0][0, 0] * weights)(jnp.asarray(a))
    close(got[0], jacobian(a[0])[0] * weights)


MESHES = Path(__file__).with_name("jax_meshes.py")


def meshes(*arguments, devices):
    """A process with this many devices that makes the checks in `jax_meshes`."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", MESHES, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_eight_devices():
    """Values, gradients, shardings and collectives under automatic and explicit sharding and
    `shard_map`, and the device of an input."""
    process = meshes(devices=8)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 0, told


def test_two_processes():
    """The same over two processes of two devices each, joined by `jax.distributed`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [meshes(rank, port, devices=2) for rank in (0, 1)]
    told = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(told)


def test_split_vectors():
    """`l2multi.jax` sums over a named axis in every dtype, and refuses what it cannot do."""
    a = moderate((2, 4, 3)) * np.float32(2.0**40)
    whole = np.moveaxis(a, 0, 1).reshape(4, 6)

    def mapped(function, a, **keywords):
        return jax.vmap(lambda x: function(x, axis_name="i", **keywords), axis_name="i")(a)

    for dtype in ("f4", "bfloat16", "c8"):
        y, n = mapped(l2multi.jax.normalize, a, eps=1.0, zero="nan", return_norm=True, dtype=None)
        y = mapped(l2multi.jax.normalize, jnp.asarray(a, dtype))
        assert y.dtype == dtype
        close(np.asarray(y, "c8" if dtype == "c8" else "f4"), np.stack(np.split(unit(whole), 2, 1)),
              1e-2 if dtype == "bfloat16" else 2e-6)  # fmt: skip
        close(n[0], np.sqrt((whole.astype("f8") ** 2).sum(1)))
    assert mapped(l2multi.jax.norm, a, keepdims=True, dtype="f2").dtype == np.float16
    assert np.isnan(mapped(l2multi.jax.normalize, a * 0, zero="nan")).all()
    assert not np.asarray(mapped(l2multi.jax.normalize, a * 0, eps=2.0**-130)).any()
    close(l2multi.jax.normalize(whole), unit(whole))
    close(l2multi.jax.norm(whole), np.sqrt((whole.astype("f8") ** 2).sum(1)))
    with pytest.raises(l2.ZeroVectorError):
        l2multi.jax.normalize([0.0, 0.0], zero="raise")
    with pytest.raises(TypeError, match="axis_name"):
        mapped(l2multi.jax.normalize, a, zero="raise")
    with pytest.raises(ValueError, match="eps"):
        mapped(l2multi.jax.normalize, a, eps=-1)
    with pytest.raises(ValueError, match="zero"):
        mapped(l2multi.jax.normalize, a, zero="drop")
    with pytest.raises(NameError, match=r"^axis_name: 'nowhere' is not bound .*shard_map.*vmap"):
        l2multi.jax.norm(a, axis_name="nowhere")


def test_numpy_arrays_are_not_narrowed():
    """`l2multi.jax` refuses what JAX would turn into another dtype, as the backend does."""
    for function in (l2multi.jax.normalize, l2multi.jax.norm):
        for a in (np.array([3e200, 4e200]), np.array([3, 4]), np.ones(2, "c16"), np.ones(2, "g")):
            with pytest.raises(TypeError, match=r"x64|longdouble"):
                function(a)
        with jax.enable_x64(True):
            assert function(np.array([3e200, 4e200])).dtype == F64
    close(l2multi.jax.normalize(np.array([3, 4], ">f4")), [0.6, 0.8])


def test_raise_needs_values():
    """``"raise"`` works eagerly, also where only tiny values are, and is refused under tracing."""
    with pytest.raises(l2.ZeroVectorError, match="position 1"):
        l2.normalize(jnp.asarray([[1.0, 2], [0, 0]]), zero="raise")
    with pytest.raises(l2.NonFiniteError, match="position 0"):
        l2.norm(jnp.asarray([[1.0, np.inf], [0, 0]]), nonfinite="raise")
    l2.normalize(jnp.full((2, 3), SMALL), zero="raise", nonfinite="raise")
    l2.normalize(jnp.full((2, 3), np.finfo("f4").max), zero="raise", nonfinite="raise")
    for keywords in ({"zero": "raise"}, {"nonfinite": "raise"}):
        for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
            with pytest.raises(TypeError, match="under tracing"):
                transform(lambda x, k=keywords: l2.normalize(x, **k))(jnp.ones((2, 3)))


def test_tracer_under_a_numpy_backend():
    """A tracer has no values that NumPy could see: said so, not a tracer error."""
    with pytest.raises(TypeError, match="traced JAX array"):
        jax.jit(lambda x: l2.normalize(x, backend="numpy"))(jnp.ones(3))


@pytest.mark.parametrize("dtype", ["key<fry>", "float4_e2m1fn", "float8_e8m0fnu"])
def test_unsupported_dtypes(dtype):
    """Dtypes that are JAX's own or hold no vectors are refused by name."""
    x = jax.random.key(0) if "key" in dtype else jnp.ones(4, dtype)
    with pytest.raises(TypeError, match=f"dtype {dtype}"):
        l2.normalize(x, None)


def test_out_is_refused():
    """JAX arrays are immutable."""
    x = jnp.ones(3)
    with pytest.raises(TypeError, match="immutable"):
        l2.normalize(x, out=x)


def test_explain():
    """The kernel's name says where it runs."""
    found = l2.explain(jnp.ones(3, jnp.complex64))
    assert (found.backend, found.kernel) == ("jax", "XLA on cpu")
    assert found.threads >= 1
    with cpu_primitives.use(False):
        assert l2.explain(jnp.ones(3)).kernel == "XLA on cpu"
    seen = []
    jax.jit(lambda x: (seen.append(l2.explain(x)), x)[1])(jnp.ones(3))
    assert "traced" in seen[0].kernel


# Between NumPy and JAX.


def aligned(n, offset):
    """A float32 array that begins `offset` bytes behind a 64-byte boundary."""
    raw = np.zeros(4 * n + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    return raw[start : start + 4 * n].view("f4")


@pytest.mark.parametrize("offset", [0, 4, 16])
def test_arguments_are_copied(offset):
    """Later writes to the caller's NumPy array do not reach JAX, aligned or not."""
    a = aligned(4096, offset)
    a[:] = 1
    x = backend.from_numpy(a)
    a[:] = 2
    assert np.asarray(x).max() == 1


@pytest.mark.parametrize("offset", [0, 4])
def test_results_move_to_the_device(offset):
    """A result goes where the argument was; without a copy where alignment allows."""
    like, a = jnp.ones(3), aligned(4096, offset)
    x = backend.from_numpy(a, like)
    assert x.devices() == like.devices()
    assert (x.unsafe_buffer_pointer() == a.ctypes.data) == (offset == 0)
    scalar = backend.from_numpy(np.float32(3), like)
    assert scalar.shape == ()


def test_numpy_through_jax():
    """NumPy in, NumPy out: new, writable, native, not aliased."""
    a = moderate((5, 7))
    for x in (a, a.astype(">f4"), a[:, ::-1], np.asfortranarray(a), a.astype("c8"), a.astype("f2")):
        kept = x.copy()
        y, n = l2.normalize(x, backend="jax", return_norm=True)
        for result in (y, n):
            assert type(result) is np.ndarray
            assert result.flags.writeable
            assert result.dtype.isnative
            assert not np.shares_memory(result, x)
        assert y.dtype == x.dtype.newbyteorder("=")
        y[:] = 0
        np.testing.assert_array_equal(x, kept)
    out = np.empty_like(a)
    assert l2.normalize(a, out=out, backend="jax") is out
    close(out, unit(a))


def test_numpy_through_jax_in_64_bits():
    """Without x64 nothing is narrowed in silence; with it, all digits."""
    a = moderate(5, dtype=F64)
    for x in (a, a.astype("c16"), np.arange(5), [3.0, 4.0], a.astype(np.longdouble)):
        with pytest.raises(TypeError, match=r"x64|longdouble"):
            l2.normalize(x, backend="jax")
    with pytest.raises(TypeError, match="x64"):
        l2.norm(jnp.ones(3), dtype="f8")
    with jax.enable_x64(True):
        y = l2.normalize(a, backend="jax")
        assert y.dtype == F64
        np.testing.assert_allclose(y, unit(a), 1e-15)
        assert l2.normalize(np.arange(5), backend="jax").dtype == F64
        with pytest.raises(TypeError, match="longdouble"):
            l2.normalize(a.astype(np.longdouble), backend="jax")
    assert not jax.config.jax_enable_x64


def test_jax_through_numpy():
    """A CPU array is seen without a copy, and the result is a JAX array."""
    x = jnp.asarray(moderate((5, 7)))
    view = backend.to_numpy(x, copy=False)
    assert view.ctypes.data == x.unsafe_buffer_pointer()
    assert not view.flags.writeable
    mine = backend.to_numpy(x, copy=True)
    assert mine.flags.writeable
    assert not np.shares_memory(mine, view)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.complex64, jnp.int32):
        y, n = l2.normalize(x.astype(dtype) + 1, backend="numpy", return_norm=True)
        assert isinstance(y, jax.Array)
        assert isinstance(n, jax.Array)
        assert y.dtype == (dtype if dtype != jnp.int32 else jnp.float32)
        assert isinstance(l2.is_normalized(y, backend="numpy"), jax.Array)
    with pytest.raises(TypeError, match="x64"):
        l2.normalize(x, dtype="f8", backend="numpy")


@pytest.mark.parametrize("dtype", cases.HALVES)
def test_halves_by_way_of_double(dtype):
    """Float64 input with a narrow result is computed in float64: its tiny vectors are right."""
    with jax.enable_x64(True):
        x = jnp.asarray([3e-200, 4e-200])
        y = np.asarray(l2.normalize(x, dtype=dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.array([0.6, 0.8]).astype("f4").astype(dtype))


@pytest.mark.parametrize("narrow", [np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize("kernels", [True, False])
def test_rounded_once(narrow, kernels):
    """Numbers of float64 near the middle of two narrow ones go to the right one of them."""
    low = np.random.default_rng(2).uniform(0.01, 0.9, 2000).astype(narrow)
    high = (low.view("u2") + np.uint16(1)).view(narrow)
    middle = (low.astype("f8") + high.astype("f8")) / 2
    x = np.stack([np.nextafter(middle, 0), middle, np.nextafter(middle, 2)])
    want = np.stack([low, np.where(low.view("u2") % 2 == 0, low, high), high])
    with jax.enable_x64(True), cpu_primitives.use(kernels):
        for wrap in (lambda f: f, jax.jit):
            norms = wrap(lambda x: l2.norm(x, dtype=narrow))(jnp.asarray(x[..., None]))
            units = wrap(lambda x: l2.normalize(x, eps=2.0, dtype=narrow))(
                jnp.asarray(2 * x[..., None])
            )
            assert (np.asarray(norms) == want).all()
            assert (np.asarray(units)[..., 0] == want).all()
        slope = jax.grad(lambda x: l2.norm(x, dtype=narrow).astype("f8"))(jnp.array([3.0, 4.0]))
        assert np.allclose(slope, [0.6, 0.8], rtol=2.0**-7)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("narrow", ["f2", jnp.bfloat16])
@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_rounded_once_from_float32(dtype, narrow, kernels):
    """Norms that float32 cannot tell from the middle of two narrow numbers: of ``[middle, small]``
    with a square of the second too small for float32."""
    low = np.random.default_rng(2).uniform(0.01, 0.9, 2000).astype(narrow)
    high = (low.view("u2") + np.uint16(1)).view(narrow)
    middle = (low.astype("f4") + high.astype("f4")) / 2
    even = low.view("u2") % 2 == 0
    x = np.stack([middle, middle * np.float32(1e-4)], -1).astype(dtype)
    with cpu_primitives.use(kernels):
        for wrap in (lambda f: f, jax.jit):
            for axis in (1, 0):
                norms = wrap(lambda x, a=axis: l2.norm(x, a, dtype=narrow))(x if axis else x.T)
                assert (np.asarray(norms) == high).all()
                norms = wrap(lambda x, a=axis: l2.norm(x, a, dtype=narrow))(
                    x[:, :1] if axis else x[:, :1].T
                )
                assert (np.asarray(norms) == np.where(even, low, high)).all()
        slope = jax.grad(lambda x: l2.norm(x, dtype=narrow).astype("f4"))(jnp.array([3.0, 4.0]))
        assert np.allclose(slope, [0.6, 0.8], rtol=2.0**-7)


@pytest.mark.parametrize("function", [jax.nn.relu, l2.norm, l2.normalize])
def test_jet_takes_no_function_with_a_rule_of_its_own(function):
    """As the README says, which is to change when JAX does."""
    x = jnp.asarray([3.0, 4.0])
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jet.jet(function, (x,), ((jnp.ones_like(x), jnp.zeros_like(x)),))


def test_results_of_another_dtype_by_the_fast_path() -> None:
    """Later calls with ``dtype=`` give what the first gave, for each way to say it, and no setting
    of JAX that held then."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), np.float32)
    for asked in (np.float16, "bfloat16", np.dtype("float32"), jnp.bfloat16):
        first, *later = (l2.normalize(x, dtype=asked, return_norm=True) for _ in range(3))
        for one in later:
            assert [np.asarray(a).tobytes() for a in one] == [
                np.asarray(a).tobytes() for a in first
            ]
            assert [a.dtype for a in one] == [np.dtype(asked), np.dtype("float32")]
    with jax.enable_x64(True):
        assert l2.normalize(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="x64"):
        l2.normalize(x, dtype=np.float64)
    l2.normalize(x + 1j, dtype=np.complex64)
    with pytest.raises(TypeError, match="complex"):
        l2.normalize(x, dtype=np.complex64)
