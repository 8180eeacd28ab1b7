"""Arrays of libraries that follow the array API standard: devices, dtypes, and lazy arrays."""

import re
import sys
import types

import array_api_strict as strict
import jax
import numpy as np
import pytest
import xarray

import l2multi as l2
from l2multi import _backends, _containers
from l2multi.backends import array_api
from tests import cases
from tests.reference import judge, same_bits

F4, F8 = np.dtype("f4"), np.dtype("f8")
DEVICES = strict.__array_namespace_info__().devices()


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d._device)
def test_device(device):
    """The result is on the device of `x`; integers become its default dtype."""
    defaults = strict.__array_namespace_info__().default_dtypes(device=device)
    for dtype in (strict.int32, strict.bool, strict.float32, strict.complex64):
        x = strict.asarray([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=dtype, device=device)
        y, norms = l2.normalize(x, return_norm=True)
        kept = l2.norm(x, keepdims=True)
        unit = l2.is_normalized(y)
        assert {y.device, norms.device, kept.device, unit.device} == {device}
        own = defaults["real floating"] if dtype in (strict.int32, strict.bool) else dtype
        real = strict.float32 if own == strict.complex64 else own
        assert (y.dtype, norms.dtype, kept.dtype, unit.dtype) == (own, real, real, strict.bool)
        assert (y.shape, norms.shape, kept.shape) == ((2, 4), (2,), (2, 1))
        # By another of its names, for it is not NumPy that has these numbers.
        wider = l2.normalize(x, dtype=own)
        assert strict.all(wider == y)
    told = l2.explain(x)
    assert (told.backend, told.threads) == ("array_api", 1)
    assert "array_api_strict" in told.kernel
    assert repr(device) in told.kernel


@pytest.mark.parametrize("function", [l2.normalize, l2.norm])
@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        (strict.float64, "array_api_strict has no float64 on device .*no_float64"),
        ("float64", "array_api_strict has no float64 on device .*no_float64"),
        (np.float16, "array_api_strict has no float16 on device"),
        (np.longdouble, "array_api_strict has no longdouble"),
        (strict.int32, "expected a real floating dtype"),
        (strict.complex64, "expected a real floating dtype"),
        ("nonsense", "expected a real floating dtype"),
    ],
    ids=str,
)
def test_dtypes_that_are_not_there(function, dtype, told):
    """Nor does a backend that has them give them, for they would have no way back."""
    x = strict.ones(3, dtype=strict.float32, device=strict.Device("no_float64"))
    for name in (None, "numpy"):
        with pytest.raises(TypeError, match=rf"^dtype: {told}"):
            function(x, dtype=dtype, backend=name)


def test_other_backends():
    """By name they serve values in the memory of the CPU, and the array comes back."""
    x = strict.asarray([[3e200, 4e200]], device=strict.Device("device1"))
    for name in ("numpy", "numba"):
        y, norms = l2.normalize(x, return_norm=True, backend=name)
        assert type(y) is type(norms) is type(x)
        assert y.device == norms.device == x.device
        want = l2.normalize(np.array([[3e200, 4e200]]), return_norm=True)
        assert all(map(same_bits, map(np.from_dlpack, (y, norms)), want))
    for x in ([3.0, 4.0], np.array([3.0, 4.0]), jax.numpy.asarray([3.0, 4.0])):
        y = l2.normalize(x, backend="array_api")
        assert type(y) is (type(x) if isinstance(x, jax.Array) else np.ndarray)
        assert np.allclose(y, [0.6, 0.8])
    assert "array_api_compat.numpy" in l2.explain([3.0], backend="array_api").kernel


def test_out():
    """There is none, and the error says why."""
    x = strict.ones(3)
    for out in (x, np.ones(3)):
        for function in (l2.normalize, l2.norm):
            with pytest.raises(TypeError, match=r"^out: .*immutable or lazy"):
                function(x, out=out)
    with pytest.raises(TypeError, match=r"^out: expected a numpy.ndarray, got Array"):
        l2.normalize(np.ones(3), out=x)


@pytest.mark.parametrize(
    ("device", "real"), [("device1", F4), ("device1", F8), ("no_float64", F4)], ids=str
)
def test_signs_of_zero(device, real):
    """A zero keeps its sign: by itself, beside the other part, and where a quotient underflows."""
    form = np.finfo(real)
    sizes = np.array([0, 1, form.tiny, form.max], real)
    parts = np.concatenate([sizes, -sizes])
    z = np.empty((len(parts) ** 2, 2), np.result_type(real, "c8"))
    z.real = np.repeat(parts, len(parts))[:, None]
    z.imag = np.tile(parts, len(parts))[:, None]
    x = strict.asarray(z, device=strict.Device(device))
    for keywords in ({}, {"eps": 3.0}, {"eps": float(form.max)}, {"eps": float(form.tiny)}):
        y = np.from_dlpack(l2.normalize(x, **keywords))
        for part in ("real", "imag"):
            signs = np.signbit(getattr(z, part)), np.signbit(getattr(y, part))
            assert np.array_equal(*signs), keywords


@pytest.mark.parametrize("eps", [1e-300, 1e-40, 1e-12, 0.5, 3.0, 1e38, 1e39, 1e300, np.inf])
@pytest.mark.parametrize("kind", ["f4", "c8"])
def test_eps_beyond_float32(eps, kind):
    """On a device without float64."""
    x = np.zeros((6, 4), kind)
    x[1:] = np.array([1e-44, 1e-20, 1, 1e20, 3e38], "f4")[:, None]
    held = strict.asarray(x, device=strict.Device("no_float64"))
    for zero in ("keep", "nan"):
        y = np.from_dlpack(l2.normalize(held, eps=eps, zero=zero))
        rows = x[:5] if eps == 1e39 else x  # whose norm and eps are beyond the range both
        verdict = judge(rows, y[: len(rows)], eps=eps, zero=zero)
        assert verdict.element <= 4, verdict


class Lazy:
    """An array whose numbers nobody may look at, and whose lengths are not known: of
    array-api-strict underneath."""

    def __init__(self, inner):
        self.inner = inner
        self.shape = tuple(None for _ in inner.shape)

    def __array_namespace__(self, *, api_version=None):
        return namespace

    dtype = property(lambda self: self.inner.dtype)
    device = property(lambda self: self.inner.device)
    ndim = property(lambda self: self.inner.ndim)
    size = None


def _no_values(self, *_, **__):
    raise RuntimeError("a lazy array has been looked at")


def _lazy(function):
    """The same of what lazy arrays hold."""

    def call(*args, **keywords):
        found = function(*(a.inner if isinstance(a, Lazy) else a for a in args), **keywords)
        return Lazy(found) if isinstance(found, type(strict.empty(0))) else found

    return call


LOOKS = ("bool", "int", "float", "complex", "index", "array", "dlpack", "len", "iter", "getitem")
for name in LOOKS:
    setattr(Lazy, f"__{name}__", _no_values)
for name in ("add", "sub", "mul", "truediv", "neg", "abs", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Lazy, f"__{name}__", _lazy(getattr(type(strict.empty(0)), f"__{name}__")))
    setattr(Lazy, f"__r{name}__", _lazy(getattr(type(strict.empty(0)), f"__r{name}__", None)))
Lazy.__hash__ = None
namespace = types.ModuleType("lazy")
vars(namespace).update(
    {n: _lazy(f) if isinstance(f, types.FunctionType) else f for n, f in vars(strict).items()}
)
namespace.__name__ = "lazy"
namespace.__array_namespace_info__ = strict.__array_namespace_info__


@pytest.mark.parametrize("device", ["CPU_DEVICE", "no_float64"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16", "i4", "?"])
@pytest.mark.where(cases=lambda device, dtype: device != "no_float64" or dtype in ("f4", "c8"))
def test_lazy(device, dtype):
    """Nothing is looked at, lengths are not needed, and the numbers are those of an eager array."""
    x = cases.vectors(np.dtype(dtype), 5) if dtype != "?" else np.eye(4, 5) > 0
    eager = strict.asarray(np.concatenate([x, np.zeros_like(x[:1])]), device=strict.Device(device))
    calls = [
        lambda x: l2.normalize(x),
        lambda x: l2.normalize(x, 0, eps=0.5, zero="nan", return_norm=True),
        lambda x: l2.norm(x, None, keepdims=True),
        lambda x: l2.norm(x, (0, 1)),
        lambda x: l2.is_normalized(x, ()),
    ]
    for call in calls:
        pair = call(Lazy(eager)), call(eager)
        for got, want in zip(*(p if isinstance(p, tuple) else (p,) for p in pair), strict=True):
            assert type(got) is Lazy
            assert same_bits(*map(np.from_dlpack, (got.inner, want)))
    assert "lazy" in l2.explain(Lazy(eager)).kernel


@pytest.mark.parametrize("keyword", ["zero", "nonfinite"])
def test_lazy_arrays_do_not_raise(keyword, monkeypatch):
    """What a policy of "raise" needs is not there, as a TypeError says; nor can another backend
    have it."""
    x = Lazy(strict.ones((2, 3)))
    with pytest.raises(TypeError, match=rf'^{keyword}="raise" needs values; .*lazy arrays'):
        l2.normalize(x, **{keyword: "raise"})
    told = r"^x: the values of this .*nothing is moved unasked"
    with pytest.raises(TypeError, match=told):
        l2.norm(x, backend="numpy")
    monkeypatch.setattr(array_api, "traced", lambda x: False)  # as of one that is sparse
    with pytest.raises(TypeError, match=told):
        l2.normalize(x, **{keyword: "raise"})


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "c8", "i4", "f8", "c16"])
@pytest.mark.where(cases=lambda x64, dtype: x64 or dtype in ("f4", "c8", "i4"))
def test_under_jit(dtype, x64):
    """With jax.numpy as the namespace the functions can be traced, which no look at a number
    could."""
    x = cases.sample(np.dtype(dtype), (3, 5))
    with jax.enable_x64(x64):
        given = jax.numpy.asarray(x)
        real = np.dtype("f8" if x64 and dtype[1:] in ("8", "16") and dtype != "c8" else "f4")
        to = np.dtype(f"c{2 * real.itemsize}") if dtype[0] == "c" else real

        @jax.jit
        def traced(x):
            assert array_api.traced(x)
            return array_api.normalize(
                x, (1,), eps=0.25, zero_nan=True, out=None, dtype=to, norm_dtype=real
            ), array_api.finite(x, (1,))

        (y, norms), finite = map(jax.tree.map, [np.asarray] * 2, traced(given))
    verdict = judge(x, y, norms, eps=0.25)
    assert max(verdict.element, verdict.norm) <= 4, verdict
    assert finite.all()


def test_in_a_data_array():
    """The data of a DataArray may be such arrays."""
    x = xarray.DataArray(strict.asarray([[3.0, 4.0], [0.0, 2.0]]), dims=("time", "space"))
    y = l2.normalize(x, dim="space")
    assert type(y.data) is type(x.data)
    assert np.from_dlpack(y.data).tolist() == [[0.6, 0.8], [0, 1]]


def test_owners(monkeypatch):
    """Any class with the method, and CuPy's, which has it from CuPy 14 on; no instance of one that
    another row is for, and no class itself."""
    cupy = types.ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for x in (cupy.ndarray(), strict.empty(0), Lazy(strict.empty(0))):
        assert _containers.find(x).name == "array API"
    for x in (np.empty(0), jax.numpy.ones(1)):
        assert hasattr(x, "__array_namespace__")
        assert _containers.find(x).name != "array API"
    with pytest.raises(TypeError, match="not supported"):
        _containers.find(Lazy)


def test_without_array_api_compat(monkeypatch):
    """An error that says what to install."""
    row = _backends.first("array_api")
    monkeypatch.setitem(sys.modules, "array_api_compat", None)
    monkeypatch.delitem(sys.modules, row.module)
    for kept in (_backends._loaded, _backends._failed):
        monkeypatch.delitem(kept, row.module, raising=False)
    told = re.escape("; try: pip install 'array-api-compat")
    with pytest.raises(ImportError, match=told):
        l2.norm(strict.ones(3))
    monkeypatch.setattr(_backends, "_failed", {})
