"""Tensors: memory, signs to come, derivatives, transforms, compilation, and what is refused."""

import math

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi import _backends, _contract, _testing
from tests import processes
from tests.reference import same_bits

torch = pytest.importorskip("torch")

from l2multi.backends import torch as operations  # noqa: E402
from l2multi.containers import torch_tensor  # noqa: E402

# Torch's own, of what it imports for forward derivatives and calls in torch.jit.trace.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

F4 = torch.float32
WAYS = [None, "numpy", "torch"]


@pytest.fixture(params=[True, False], ids=["fast", "general"], autouse=True)
def path(request):
    """Every test by the fast path and by the general one."""
    if request.param:
        x = torch.ones(2, 3)
        for _ in range(3):  # a kernel is linked beside, then kept
            for dtype in (F4, torch.float64, torch.complex64, torch.bfloat16, torch.float16):
                l2.normalize(x.to(dtype), backend="numba")
        yield
        return
    with _testing.general_path():
        yield


def bits(x):
    """The values as NumPy has them."""
    return operations.to_numpy(x, copy=True)


def test_no_copy():
    """The kernels read the tensor's memory, and the result is theirs; `out` is written to."""
    x = torch.randn(5, 128)
    opened = torch_tensor.open(x, _contract.Request())
    assert opened.array.ctypes.data == x.data_ptr()
    made = opened.close(array := np.ones(3, "f4"))
    assert made.data_ptr() == array.ctypes.data
    out = torch.empty_like(x)
    assert l2.normalize(x, out=out) is out
    assert torch.equal(out, l2.normalize(x))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "bfloat16"])
def test_in_place(dtype):
    """``out=x`` is exact, and autograd knows that x is another now."""
    x = torch.randn(7, 33).to(getattr(torch, dtype))
    want, version = l2.normalize(x), x._version
    assert l2.normalize(x, out=x) is x
    assert torch.equal(x, want)
    assert x._version == version + 1
    norms = torch.empty(7)
    assert l2.norm(x, out=norms) is norms
    y = torch.randn(2, 3, requires_grad=True)
    z = y * 1.0
    square = z * z
    with torch.no_grad():
        l2.normalize(z, out=z)
    with pytest.raises(RuntimeError, match=r"modified by an inplace"):
        square.sum().backward()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_out_of_other_kinds(dtype):
    """Parameters where no gradient is kept, tensors that share memory, and those of inference."""
    x = torch.randn(9, 33).to(getattr(torch, dtype))
    want = l2.normalize(x)
    parameter = torch.nn.Parameter(x.clone())
    for one, out in ((parameter, parameter), (x, parameter)):
        with pytest.raises(TypeError, match="gradients"):
            l2.normalize(one, out=out)
        version = out._version
        with torch.no_grad():
            assert l2.normalize(one, out=out) is out
        assert torch.equal(out, want)
        assert out._version == version + 1
        assert out.requires_grad
    y = x.clone()
    assert torch.equal(l2.normalize(y[:-1], out=y[1:]), want[:-1])
    with torch.inference_mode():
        y = x.clone()
        assert l2.normalize(y, out=y) is y
    for one in (x, y):
        with pytest.raises(TypeError, match="inference"):
            l2.normalize(one, out=y)
    with torch.inference_mode():
        assert torch.equal(l2.normalize(x, out=y), want)


VIEWS = {
    "transposed": lambda x: x.T,
    "sliced": lambda x: x[::2, 1::3],
    "expanded": lambda x: x[:1].expand(6, -1),
    "one number": lambda x: x[:1, :1].expand(5, 4),
    "unfolded": lambda x: x.reshape(-1).unfold(0, 7, 3),
    "conjugate": lambda x: torch.complex(x, 2 * x).conj(),
    "negative": lambda x: torch.complex(x, 2 * x).conj().imag,
    "imaginary": lambda x: torch.complex(x, 2 * x).imag,
    "empty": lambda x: x[:0],
    "no entries": lambda x: x[:, :0],
    "shared": lambda x: x.clone().share_memory_(),
    "parameter": lambda x: torch.nn.Parameter(x),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("by", WAYS)
def test_views(view, by):
    """Any view: the values of a dense copy, and the view is as it was."""
    x = VIEWS[view](torch.randn(8, 9))
    dense = np.array(bits(x))
    for axis in (-1, 0, None):
        y, norms = l2.normalize(x, axis, return_norm=True, backend=by)
        want, lengths = l2.normalize(dense, axis, return_norm=True)
        tight = 3e-7 if by == "torch" else 0
        np.testing.assert_allclose(bits(y), want, rtol=tight)
        np.testing.assert_allclose(bits(norms), lengths, rtol=tight)
        assert type(y) is torch.Tensor
    assert same_bits(bits(x), dense)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("view", sorted({*VIEWS} - {"conjugate"}))
def test_views_by_their_addresses(view, dtype):
    """Without norms, into a new tensor, into another and in place: the bits of arrays."""
    x = VIEWS[view](torch.randn(8, 9)).detach()
    dtype = getattr(torch, dtype)
    x = x if view in ("negative", "one number", "expanded") else x.to(dtype)
    for axis in (-1, 1, 0, None):
        want = l2.normalize(bits(x), axis)
        assert same_bits(bits(l2.normalize(x, axis)), want)
        out = torch.empty(x.shape, dtype=x.dtype)
        version = out._version
        assert l2.normalize(x, axis, out=out) is out
        assert same_bits(bits(out), want)
        assert out._version == version + 1
        if view not in ("expanded", "one number", "unfolded"):
            y = x.clone(memory_format=torch.preserve_format)
            assert l2.normalize(y, axis, out=y) is y
            assert same_bits(bits(y), want)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
def test_addresses_that_will_not_do():
    """An output that shares some of the input's memory, of another shape or dtype, of inference
    mode, or by which a gradient would be lost; zeros that have no memory; one number."""
    memory = torch.randn(12, 40)
    x, want = memory[:8], l2.normalize(memory[:8].clone())
    assert l2.normalize(x, out=memory[3:11]).equal(want)
    with pytest.raises(ValueError, match="shape"):
        l2.normalize(memory, out=torch.empty(40, 12))
    with pytest.raises(TypeError, match=r"dtype|float64"):
        l2.normalize(memory, out=torch.empty(12, 40, dtype=torch.float64))
    with pytest.raises(TypeError, match="gradient"):
        l2.normalize(memory, out=torch.empty(12, 40, requires_grad=True))
    with torch.inference_mode():
        held = torch.empty(12, 40)
    with pytest.raises(TypeError, match="inference"):
        l2.normalize(memory, out=held)
    with pytest.raises(ValueError, match=r"axis|axes"):
        l2.normalize(torch.tensor(3.0))
    with torch.device("meta"):
        assert not l2.normalize(torch._efficientzerotensor((3, 4))).any()
    with pytest.raises(TypeError, match="zeros"):
        l2.normalize(memory, out=torch._efficientzerotensor((12, 40)))
    with pytest.raises(TypeError, match="out: expected"):
        l2.normalize(memory, out=torch.nested.nested_tensor([torch.ones(12, 40)]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_in_batches(dtype):
    """Torch maps the backward of somebody's function by tensors that have no memory."""

    class Normalized(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return l2.normalize(g)

    x = torch.randn(3, 40, dtype=getattr(torch, dtype), requires_grad=True)
    g = torch.randn(5, 3, 40).to(x.dtype)
    (got,) = torch.autograd.grad(Normalized.apply(x), x, g, is_grads_batched=True)
    torch.testing.assert_close(got, l2.normalize(g))


def test_policies_by_addresses():
    """What is refused leaves the output as it was."""
    x = torch.randn(9, 20)
    x[4], x[5, 3] = 0, torch.inf
    nan = l2.normalize(x, zero="nan")
    assert same_bits(bits(nan), l2.normalize(bits(x), zero="nan"))
    assert same_bits(bits(l2.normalize(x, eps=3.0)), l2.normalize(bits(x), eps=3.0))
    out = torch.full((9, 20), 7.0)
    for keywords in ({"zero": "raise"}, {"nonfinite": "raise"}):
        with pytest.raises(ValueError, match=r"zero|inf or NaN"):
            l2.normalize(x, out=out, **keywords)
        with pytest.raises(ValueError, match=r"zero|inf or NaN"):
            l2.normalize(x, **keywords)
    assert (out == 7).all()
    for keywords in ({"zero": "other"}, {"nonfinite": "other"}, {"eps": -1.0}):
        with pytest.raises(ValueError, match=r"zero|nonfinite|eps"):
            l2.normalize(x, **keywords)


def test_signs_to_come_in_place():
    """A conjugate or negative view is normalized in place, and so is what it is a view of."""
    for view in (lambda z: z.conj(), lambda z: z.conj().imag):
        z = torch.complex(torch.randn(3, 4), torch.randn(3, 4))
        x = view(z)
        want = l2.normalize(x)
        assert l2.normalize(x, out=x) is x
        assert torch.equal(x, want)
        assert torch.equal(view(z), want)


def test_zero_axes():
    """A tensor of no axes is a vector under ``axis=None``."""
    for backend in WAYS:
        assert l2.normalize(torch.tensor(-3.0), None, backend=backend) == -1
        assert l2.norm(torch.tensor(-3.0), None, backend=backend).shape == ()
        with pytest.raises(np.exceptions.AxisError):
            l2.normalize(torch.tensor(-3.0), backend=backend)


def test_dtypes():
    """Torch's dtypes are what ``dtype=`` takes, NumPy's too; integers become torch's default."""
    x = torch.tensor([[3, 4]])
    for backend in WAYS:
        assert l2.normalize(x, backend=backend).dtype == F4
        for asked in (torch.bfloat16, "bfloat16", ml_dtypes.bfloat16):
            assert l2.normalize(x, dtype=asked, backend=backend).dtype == torch.bfloat16
            assert l2.norm(x * 1.0, dtype=asked, backend=backend).dtype == torch.bfloat16
        torch.set_default_dtype(torch.float64)
        try:
            assert l2.normalize(x, backend=backend).dtype == torch.float64
            assert l2.normalize(x.to(F4), backend=backend).dtype == F4
        finally:
            torch.set_default_dtype(F4)
        for wrong in (np.longdouble, torch.complex64, torch.int8, torch.qint8, "nonsense"):
            with pytest.raises(TypeError, match=r"^dtype: "):
                l2.normalize(x, dtype=wrong, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert l2.normalize(torch.ones(2, 3), backend="torch").dtype == F4


def test_float8_norms_that_overflow():
    """They are NaN, as in ml_dtypes, where torch has the largest number."""
    x = torch.tensor([[300.0, 400.0], [3.0, 4.0], [torch.inf, 1.0]])
    for backend in WAYS:
        got = l2.norm(x, dtype=torch.float8_e4m3fn, backend=backend).float()
        assert got.isnan().tolist() == [True, False, True]


REFUSED = {
    "chalf": (lambda: torch.ones(2, dtype=torch.complex32), r"complex32.*try x.cfloat\(\)"),
    "quantized": (
        lambda: torch.ops.aten.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        r"qint8.*x.dequantize\(\)",
    ),
    "subclass": (
        lambda: torch.ones(2).as_subclass(type("Sub", (torch.Tensor,), {})),
        r"Sub is a subclass.*try x.as_subclass\(torch.Tensor\)",
    ),
    "mkldnn": (lambda: torch.ones(2).to_mkldnn(), r"layout torch._mkldnn.*try x.to_dense\(\)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    """A TypeError says what to do."""
    make, told = REFUSED[kind]
    for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
        with pytest.raises(TypeError, match=f"^x: .*{told}"):
            function(make())


def test_refused_out():
    """Before anything is written; a gradient is not lost in silence."""
    x = torch.ones(2, 3)
    leaf = torch.ones(2, 3, requires_grad=True)
    with torch.inference_mode():
        inference = torch.ones(2, 3)
    for backend in (None, "torch"):
        for a, out, told in (
            (x, np.ones((2, 3), "f4"), "expected a torch.Tensor"),
            (x, torch.ones(3, 2), r"expected shape \(2, 3\), got \(3, 2\)"),
            (x, torch.ones(2, 3).double(), "expected dtype float32"),
            (x, torch.ones(1, 3).expand(2, 3), "overlaps itself"),
            (x, torch.ones(2, 3).to_sparse(), "expected a strided"),
            (x, leaf, "gradients do not pass"),
            (leaf, x, "gradients do not pass"),
            (x, inference, "inference"),
        ):
            with pytest.raises((TypeError, ValueError), match=f"^out: .*{told}"):
                l2.normalize(a, out=out, backend=backend)
        with torch.no_grad():
            held = leaf.detach().clone()
            l2.normalize(leaf, out=leaf, backend=backend)
            leaf.copy_(held)
        with torch.inference_mode():
            l2.normalize(inference, out=inference, backend=backend)
    assert (x == 1).all()
    b = torch.arange(12.0).reshape(3, 4)
    for backend in (None, "torch"):
        c = b.clone()
        want = l2.normalize(c[:, :2])
        l2.normalize(c[:, :2], out=c[:, 1:3], backend=backend)
        assert torch.equal(c[:, 1:3], want)


def functions(backend):
    """What is differentiated."""
    return {
        "rows": lambda x: l2.normalize(x, backend=backend),
        "columns": lambda x: l2.normalize(x, 0, backend=backend),
        "all": lambda x: l2.normalize(x, None, backend=backend),
        "eps": lambda x: l2.normalize(x, eps=1.7, backend=backend),
        "both": lambda x: l2.normalize(x, return_norm=True, backend=backend),
        "norm": lambda x: l2.norm(x, 0, keepdims=True, backend=backend),
    }


@pytest.mark.parametrize("what", functions(None))
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("by", [None, "torch"])
def test_derivatives(what, dtype, by):
    """First and second, backwards and forwards, in batches."""
    torch.manual_seed(1)
    x = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    function = functions(by)[what]
    batched = {"check_batched_grad": True}
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, **batched)
    assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True, **batched)


@pytest.mark.parametrize("by", [None, "torch"])
@pytest.mark.parametrize("dtype", [F4, torch.bfloat16, torch.float16, torch.float64])
def test_derivatives_of_large_batches(by, dtype):
    """In parts and at once, along either axis, those of float64."""
    torch.manual_seed(2)
    for shape in ((1, 128), (9, 5), (3000, 128)):
        x = torch.randn(shape).to(dtype)
        g = torch.randn(shape).to(dtype)
        for axis in (-1, 0, None):
            for eps in (0.0, 3.0):
                got, want = (
                    torch.autograd.grad(l2.normalize(a, axis, eps=eps, backend=name), a, b)[0]
                    for a, b, name in (
                        (x.requires_grad_(), g, by),
                        (x.double().detach().requires_grad_(), g.double(), "torch"),
                    )
                )
                assert got.dtype == dtype
                size = (g.double() / l2.norm(x, axis, keepdims=True).double()).abs().max()
                close = {torch.bfloat16: 2e-2, torch.float16: 2e-3, F4: 1e-5}.get(dtype, 1e-13)
                assert (got.double() - want).abs().max() <= close * size


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-8, 1.0, 1e15, 6e37])
@pytest.mark.parametrize("by", [None, "torch"])
def test_derivatives_at_every_size(scale, by):
    """Zero rows have 0, small and large ones the true derivative."""
    x = (torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * scale).to(F4)
    x.requires_grad_()
    y, norms = l2.normalize(x, return_norm=True, backend=by)
    g = torch.tensor([[1.0, 0.0], [1.0, 0.0]]) * min(scale, 1.0)
    (first,) = torch.autograd.grad(y, x, g, retain_graph=True)
    want = torch.tensor([[0.128, -0.096], [0.0, 0.0]]).double() / scale * min(scale, 1.0)
    rtol = 1e-4 if scale == 1e-40 else 1e-5
    torch.testing.assert_close(first.double(), want, rtol=rtol, atol=0)
    (along,) = torch.autograd.grad(norms.sum(), x)
    torch.testing.assert_close(along, torch.tensor([[0.6, 0.8], [0, 0]]), rtol=rtol, atol=0)
    z = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(l2.normalize(z, backend=by)[:, 0].sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    assert not first.any()
    assert not second.any()


@pytest.mark.parametrize("make", [lambda g: g, lambda g: g.t().contiguous().t(), torch._neg_view])
def test_derivatives_by_kernel(make):
    """In float64 and rounded once, of any gradient; another backend that is named has none."""
    torch.manual_seed(3)
    x, g = torch.randn(2, 40, 130)
    want, *_ = torch.autograd.grad(
        l2.normalize(wide := x.double().requires_grad_()), wide, make(g).double()
    )
    (got,) = torch.autograd.grad(l2.normalize(x.requires_grad_()), x, make(g))
    assert ((got - want).abs() <= 0.51 * 2.0**-23 * want.abs()).all()
    with l2.backend("numpy"):
        (other,) = torch.autograd.grad(l2.normalize(x), x, make(g))
    assert not torch.equal(other, got)
    torch.testing.assert_close(other, got)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 31, 32, 48, 64, 200, 1040, 70000, 200_003])
def test_derivatives_of_half_types_at_every_size(n, dtype):
    """Those of float64, whatever is beyond float32 on the way; and NaN stays in its row."""
    torch.manual_seed(4)
    far = {torch.bfloat16: 120, torch.float16: 12}[dtype]
    sizes = torch.tensor([2.0**power for power in (-far, -far // 2, 0, far // 2, far)])
    x, g = (
        (torch.randn(25, n) * one[:, None]).to(dtype)
        for one in (sizes.repeat(5), sizes.repeat_interleave(5))
    )
    g[4] = x[4]  # along x, of which nothing is left
    g[9, 1:], x[14, 1:] = 0, 0
    rows = slice(None) if n < 100_000 else slice(10, 13)  # few, which threads share
    x, g = x[rows].contiguous(), g[rows].contiguous()
    wide = x.double().requires_grad_()
    (want,) = torch.autograd.grad(l2.normalize(wide, backend="torch"), wide, g.double())
    (got,) = torch.autograd.grad(l2.normalize(x.requires_grad_()), x, g)
    norms, along = l2.norm(x.double(), keepdims=True), (x * g.double()).sum(1, keepdims=True).abs()
    scale = g.double().abs() / norms + x.double().abs() * along / norms**3
    form = torch.finfo(dtype)
    bound = (0.5001 * want.abs() + form.smallest_normal) * form.eps + 2.0**-21 * scale
    noise = scale * 2.0**-40 > form.max  # what float64 leaves of two terms is beyond the range too
    want, bound = want.clamp(-form.max, form.max), bound.clamp(max=form.max / 2)
    close = (got.double().clamp(-form.max, form.max) - want).abs() <= bound
    assert (close | noise).all()
    assert noise.sum() <= 4 * n
    with torch.no_grad():
        x[1, n // 2], g[2, n // 3] = math.inf, math.nan
    (again,) = torch.autograd.grad(l2.normalize(x), x, g)
    others = [row for row in range(len(x)) if row not in (1, 2)]
    assert torch.equal(again[others], got[others])
    assert again[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_derivatives_of_half_types_past_the_caches(dtype):
    """As those of some rows of them, wherever in a line of the cache they begin."""
    torch.manual_seed(4)
    x, g = torch.randn(2, 12_000, 1536).to(dtype)
    x[5, 7] = {torch.bfloat16: 2.0**127, torch.float16: 60000.0}[dtype]
    x[9, 1], g[11, 5] = math.inf, math.nan
    room = torch.empty(x.numel() + 64, dtype=dtype)
    for shift in (0, 1, 16):
        moved = room[shift : shift + x.numel()].view(x.shape).copy_(x).requires_grad_()
        (whole,) = torch.autograd.grad(l2.normalize(moved), moved, g)
        some = x[:200].clone().requires_grad_()
        (want,) = torch.autograd.grad(l2.normalize(some), some, g[:200])
        torch.testing.assert_close(whole[:200], want, rtol=0, atol=0, equal_nan=True)


def test_norms_near_eps():
    """Which of the two formulas holds is decided as forwards, by what is beyond float32 too."""
    x = torch.zeros(64, dtype=torch.bfloat16)
    x[0], x[1] = 1, 2.0**-13
    x.requires_grad_()
    (found,) = torch.autograd.grad(l2.normalize(x, eps=1.0), x, torch.ones_like(x))
    assert found[0] == torch.tensor(-(2.0**-13)).to(torch.bfloat16)
    assert (found[1:] == 1).all()


def test_gradients_whose_terms_are_beyond_float64():
    """Of vectors whose inverse norm is, and where the incoming derivative is near it."""
    tiny, most = 5e-324, 1.7e308
    for x, g, want in (
        ([1e-309, 0], [2, 0], [0, 0]),
        ([tiny] * 3, [1, 1, 1], [0, 0, 0]),
        ([tiny, 0, 0], [2.0**59, 0, 0], [0, 0, 0]),
        ([2.2e-308, 0, 0], [most, 1, 0], [0, 1 / 2.2e-308, 0]),
        ([1e-5, 0], [most, 1], [0, 1e5]),
        ([1e300, 1e300], [1e308, -1e308], [0.5**0.5 * 1e8, -(0.5**0.5) * 1e8]),
    ):
        for by in (None, "torch") if max(g) < 2.0**60 else (None,):
            for dtype in (torch.float64, torch.complex128):
                a = torch.tensor([x], dtype=dtype, requires_grad=True)
                b = torch.tensor([g], dtype=dtype)
                (found,) = torch.autograd.grad(l2.normalize(a, backend=by), a, b)
                all_, kept = torch.tensor([want], dtype=dtype), (a == 0) | (b != b[0, 0])
                torch.testing.assert_close(found[kept], all_[kept])
                # Elsewhere nothing is left but what rounding leaves, which may be beyond the range.
                assert not found.real.isnan().any()
    for axis in (0, -1):
        x = torch.tensor([[1e-12, 1.0], [0.0, 1.0]], requires_grad=True)
        g = torch.tensor([[1e25, 0.0], [1.0, 0.0]])
        (found,) = torch.autograd.grad(l2.normalize(x, axis), x, g)
        assert found.isfinite().all()


def test_gradients_of_extreme_float64():
    """Where cubes of norms are beyond float64."""
    for scale in (1e-300, 1e-120, 1e120, 1e300):
        x = torch.tensor([3 * scale, 4 * scale], dtype=torch.float64, requires_grad=True)
        g = torch.tensor([min(scale, 1.0), 0.0], dtype=torch.float64)
        (got,) = torch.autograd.grad(l2.normalize(x), x, g)
        want = torch.tensor([0.128, -0.096], dtype=torch.float64) * (min(scale, 1.0) / scale)
        torch.testing.assert_close(got, want, rtol=1e-14, atol=0)


def test_what_comes_after_may_be_in_place():
    """The unit vectors are not needed for the derivative."""
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    l2.normalize(x).mul_(10).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.32, -0.24]]))


def test_other_backends_keep_the_gradient():
    """NumPy and JAX compute, torch differentiates."""
    for backend in ("numpy", "jax"):
        if backend == "jax":
            pytest.importorskip("jax")
        x = torch.tensor([[3.0, 4.0]], requires_grad=True)
        l2.normalize(x, backend=backend)[:, 0].sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([[0.128, -0.096]]))


def test_transforms():
    """`torch.func`, composed."""
    func = torch.func
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    want = torch.tensor([[[0.128, -0.096], [-0.096, 0.072]], [[0, 0], [0, 0]]])
    torch.testing.assert_close(func.vmap(func.jacrev(l2.normalize))(x), want)
    torch.testing.assert_close(func.vmap(func.jacfwd(l2.normalize))(x), want)
    torch.testing.assert_close(func.vmap(func.hessian(l2.norm))(x), want)
    torch.testing.assert_close(func.jacrev(func.jacrev(l2.norm))(x[0]), want[0])
    torch.testing.assert_close(torch.autograd.functional.hessian(l2.norm, x[1]), want[1])
    mapped = func.vmap(lambda v: l2.normalize(v, 0), in_dims=1)(x)
    torch.testing.assert_close(mapped, l2.normalize(x, 0).T)
    third = func.grad(lambda s: func.vmap(func.hessian(l2.norm))(s * x).sum())(torch.tensor(2.0))
    torch.testing.assert_close(third, -want.sum() / 4)
    _, moved = func.jvp(l2.normalize, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(moved, want.sum(-1))
    for keyword in ("zero", "nonfinite"):
        with pytest.raises(TypeError, match=f"{keyword}=.*tracing"):
            func.vmap(lambda v: l2.normalize(v, **{keyword: "raise"}))(x)  # noqa: B023
    with pytest.raises(TypeError, match=r"^x: a traced torch tensor has no values"):
        func.vmap(lambda v: l2.normalize(v, backend="numba"))(x)


@pytest.mark.parametrize("mode", ["fake", "meta", "fx", "jit", "inference"])
def test_modes(mode):
    """Whoever watches sees operations of torch; whoever has no values gets shapes."""
    x = torch.randn(3, 4)
    if mode == "fake":
        fake = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode()
        with fake:
            y, norms = l2.normalize(fake.from_tensor(x), return_norm=True)
        assert (y.shape, norms.shape) == ((3, 4), (3,))
    elif mode == "meta":
        y, norms = l2.normalize(x.to("meta"), return_norm=True)
        assert (y.device.type, y.shape, norms.shape) == ("meta", (3, 4), (3,))
        assert l2.explain(x.to("meta")).backend == "torch"
        with pytest.raises(TypeError, match="no values"):
            l2.norm(x.to("meta"), backend="numpy")
    elif mode == "fx":
        made = pytest.importorskip("torch.fx.experimental.proxy_tensor").make_fx(
            lambda x: l2.normalize(x)
        )(x)
        torch.testing.assert_close(made(2 * x + 1), l2.normalize(2 * x + 1))
    elif mode == "jit":
        made = torch.jit.trace(lambda x: l2.normalize(x), x)
        torch.testing.assert_close(made(2 * x + 1), l2.normalize(2 * x + 1))
    else:
        with torch.inference_mode():
            y = l2.normalize(x.clone())
        assert torch.equal(y, l2.normalize(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("called", [False, True])
def test_policies_that_raise_between_two_graphs(called):
    """They need values, and break the graph; whether or not somebody has called before."""
    if not called:
        _backends.fast_paths.pop(torch.Tensor, None)
    torch.compiler.reset()
    unit = torch.compile(lambda x: l2.normalize(x * 1, zero="raise") * 2, backend="eager")
    length = torch.compile(lambda x: l2.norm(x, nonfinite="raise"), backend="eager")
    x = torch.tensor([[3.0, 4.0]])
    if called:
        l2.normalize(x), l2.normalize(x)
    for _ in range(2):
        torch.testing.assert_close(unit(x), torch.tensor([[1.2, 1.6]]))
        torch.testing.assert_close(length(x), torch.tensor([5.0]))
        with pytest.raises(l2.ZeroVectorError):
            unit(0 * x)
        with pytest.raises(l2.NonFiniteError):
            length(x / 0)


@pytest.mark.filterwarnings("ignore")
def test_compiled():
    """One graph, any number of vectors, and its derivative; what is refused is refused."""

    def compiled(function):
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")

    for function in (
        l2.normalize,
        lambda x: l2.normalize(x, 0, eps=2, return_norm=True, dtype=torch.float64),
        lambda x: l2.norm(x, (0, 1), keepdims=True) * 2,
        lambda x: l2.normalize(x, out=torch.empty_like(x)),
        l2.norm,
        l2.is_normalized,
    ):
        made = compiled(function)
        for shape in ((3, 4), (5, 6), (7, 8)):
            x = torch.randn(shape)
            torch.testing.assert_close(made(x), function(x))
    made = compiled(lambda x, axis: l2.normalize(x, axis, return_norm=True))
    for axis in (0, 1, -1, 2, (0, 2), (2, 1)):
        x = torch.randn(2, 3, 4)
        torch.testing.assert_close(made(x, axis), l2.normalize(x, axis, return_norm=True))
    x = torch.zeros(2, 3, requires_grad=True)
    compiled(l2.normalize)(x)[:, 0].sum().backward()
    assert not x.grad.any()
    for function, told in (
        (lambda x: l2.normalize(x, zero="raise"), "zero="),
        (lambda x: l2.normalize(x, backend="numba"), "numba"),
        (lambda x: l2.norm(x, 2), "axis 2 is out of bounds for array of dimension 2"),
        (lambda x: l2.norm(x, (0, -3)), "axis -3 is out of bounds"),
    ):
        with pytest.raises((TypeError, RuntimeError), match=told):
            compiled(function)(x)


@pytest.mark.filterwarnings("ignore")
def test_backends_named_while_compiling(monkeypatch):
    """By context or environment: torch's own serves, others are refused."""

    def compiled(function):
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, backend="eager")

    x, refused = torch.randn(3, 4), (TypeError, RuntimeError)
    with l2.backend("torch"):
        torch.testing.assert_close(compiled(l2.normalize)(x), l2.normalize(x))
    for function in (l2.normalize, lambda x: l2.is_normalized(x)):
        with l2.backend("numpy"), pytest.raises(refused, match="numpy"):
            compiled(function)(x)
    monkeypatch.setenv("L2MULTI_BACKEND", "numba")
    with pytest.raises(refused, match="numba"):
        compiled(l2.norm)(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict, out):
    """With any number of vectors, and where they are written to others' place."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return l2.normalize(x, out=torch.empty_like(x) if out else None)

    torch.compiler.reset()
    shapes = ({0: torch.export.Dim("n")},)
    x = torch.randn(5, 7)
    program = torch.export.export(Model(), (x[:3],), dynamic_shapes=shapes, strict=strict)
    torch.testing.assert_close(program.module()(x), l2.normalize(x))


def test_out_without_memory():
    """A fake tensor is written to for a fake one, if it fits, and for no other."""
    mode = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode()
    with mode:
        x = torch.empty(3, 4)
        assert l2.normalize(x, out=x) is x
        for out in (torch.empty(3, 5), torch.empty(3, 4, dtype=torch.float64)):
            with pytest.raises((TypeError, ValueError), match=r"^out: expected"):
                l2.normalize(x, out=out)
    with pytest.raises(ValueError, match="got FakeTensor"):
        l2.normalize(torch.ones(3, 4), out=x)


def test_numpy_by_torch():
    """NumPy arrays under ``backend="torch"`` come back as NumPy arrays."""
    x = np.array([[3, 4]], ">f4")[:, ::-1]
    y = l2.normalize(x, backend="torch")
    assert type(y) is np.ndarray
    np.testing.assert_allclose(y, [[0.8, 0.6]], rtol=1e-7)
    with pytest.raises(TypeError, match=r"torch.*longdouble"):
        l2.normalize(x.astype("g"), backend="torch")


def test_explain():
    """Tensors are served by the backends of NumPy arrays."""
    x = torch.ones(2, 3)
    assert l2.explain(x, backend="torch").kernel == "torch operations on cpu"
    assert l2.explain(x).backend in ("numba", "numpy")
    assert l2.explain(x, out=x, dtype=F4).backend in ("numba", "numpy")
    assert l2.is_normalized(l2.normalize(x)).tolist() == [True, True]
    assert l2.is_normalized(l2.normalize(x), backend="torch").dtype == torch.bool


WITHOUT = """
import sys
sys.modules["torch"] = None
import l2multi as l2, numpy as np
assert l2.normalize(np.array([3.0, 4.0])).tolist() == [0.6, 0.8]
try:
    l2.normalize([3.0, 4.0], backend="torch")
except ImportError as error:
    assert "torch>=2.6" in str(error)
else:
    raise AssertionError
"""


def test_without_torch():
    """All else works, and the error says what to install."""
    processes.run(WITHOUT)


PROCESSES = """
import torch, l2multi as l2

def work(x):
    return l2.normalize(x)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return l2.normalize(torch.full((3,), float(i + 1)))

if __name__ == "__main__":
    x = torch.ones(2, 3)
    l2.normalize(x)
    for method in ("fork", "spawn") if __file__ else ():
        how = {"num_workers": 2, "multiprocessing_context": method}
        loader = torch.utils.data.DataLoader(Data(), 2, **how)
        for batch in loader:
            assert l2.is_normalized(batch).all()
"""


def test_data_loader(tmp_path):
    """Workers of both kinds, beside calls in their parent."""
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    processes.run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int32])
def test_is_normalized_while_compiling(dtype):
    """In one graph, as outside."""
    nothing = 0.0 if dtype == torch.int32 else np.nan
    x = torch.tensor([[0.6, 0.8], [3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [nothing, 1.0]]).to(dtype)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def asked(x, tol=None):
        return l2.is_normalized(x.clone(), tol=tol)

    torch.compiler.reset()
    for tol in (None, 0.5, 10):
        assert asked(x, tol).tolist() == l2.is_normalized(x, tol=tol).tolist()


def matrix(layout, dtype):
    """A matrix with an empty row, and its layout's."""
    dense = torch.tensor([[3, 0, 4, 0], [0, 0, 0, 0], [0, -2e-30, 0, 1e30]]).to(dtype)
    return dense, dense.to_sparse() if layout is torch.sparse_coo else dense.to_sparse_csr()


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("dtype", [F4, torch.float64, torch.complex64, torch.complex128])
def test_sparse(layout, dtype):
    """The bits of the dense tensor, in the same places; norms are dense."""
    dense, x = matrix(layout, dtype)
    for axis in (-1, 0, None, (0, 1)):
        y, norms = l2.normalize(x, axis, return_norm=True)
        assert (y.layout, y.dtype, y.shape) == (layout, dtype, x.shape)
        want, wanted = l2.normalize(dense, axis, return_norm=True)
        assert torch.equal(y.to_dense(), want)
        assert same_bits(bits(norms), bits(wanted))
        assert same_bits(bits(l2.norm(x, axis)), bits(wanted))
    assert l2.is_normalized(l2.normalize(x)).tolist() == [True, False, True]
    assert same_bits(bits(x.to_dense()), bits(dense))
    assert "ragged" in l2.explain(x).kernel
    with pytest.raises(l2.ZeroVectorError, match="position 1"):
        l2.normalize(x, zero="raise")
    if layout is torch.sparse_csr:
        assert torch.equal(y.crow_indices(), x.crow_indices())
        assert torch.equal(y.col_indices(), x.col_indices())


def test_sparse_repeats():
    """Entries for one place are added first, and wider than they are."""
    places = torch.tensor([[0, 0, 1, 0], [1, 1, 0, 1]])
    x = torch.sparse_coo_tensor(
        places, torch.tensor([1e8, 1.0, -0.0, -1e8]), (2, 2), check_invariants=True
    )
    y, norms = l2.normalize(x, return_norm=True)
    assert y.is_coalesced()
    assert bits(y.to_dense()).tolist() == [[0, 1], [0, 0]]
    assert bits(norms).tolist() == [1, 0]


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize(
    ("make", "keywords", "told"),
    [
        (lambda: matrix(torch.sparse_coo, torch.bfloat16)[1], {}, r"try x.float\(\)"),
        (lambda: matrix(torch.sparse_coo, torch.int32)[1], {}, r"try x.float\(\)"),
        (lambda: matrix(torch.sparse_coo, F4)[1].requires_grad_(), {}, "gradients"),
        (lambda: torch.ones(2, 2, 2).to_sparse(), {}, r"try x.to_dense\(\)"),
        (lambda: torch.ones(2, 2).to_sparse(1), {}, r"try x.to_dense\(\)"),
        (lambda: matrix(torch.sparse_coo, F4)[1], {"out": torch.ones(3, 4)}, "leave it out"),
        (lambda: matrix(torch.sparse_csr, F4)[1], {"backend": "torch"}, "cannot serve"),
    ],
)
def test_sparse_that_is_refused(make, keywords, told):
    """Or what would be lost."""
    with pytest.raises(TypeError, match=told):
        l2.normalize(make(), **keywords)


def test_sparse_keywords():
    """A dtype of torch's, and a tensor whose gradient nobody asks for."""
    x = matrix(torch.sparse_coo, F4)[1].requires_grad_()
    with torch.no_grad():
        y, norms = l2.normalize(x, dtype=torch.float64, return_norm=True)
        assert (y.dtype, norms.dtype) == (torch.float64, F4)
        assert l2.norm(x, dtype="float64").dtype == torch.float64
        with pytest.raises(TypeError, match="torch has no longdouble"):
            l2.norm(x, dtype=np.longdouble)


def test_gradient_by_the_backend_that_was_named():
    """In whatever context it is computed, and however that was named."""
    x = np.random.default_rng(0).standard_normal((50, 300), dtype=np.float32)
    g = torch.from_numpy(np.random.default_rng(1).standard_normal((50, 300), dtype=np.float32))

    def gradient(**keywords):
        a = torch.from_numpy(x.copy()).requires_grad_()
        y = l2.normalize(a, **keywords)
        with l2.backend("numba"):
            y.backward(g)
        return a.grad

    named = gradient(backend="numpy")
    with l2.backend("numpy"):
        assert torch.equal(gradient(), named)
    np.testing.assert_allclose(gradient(), named, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", ["tensor", "array"])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers_of_both_libraries(dtype, first):
    """In one process, whichever comes first: torch's become its default float, NumPy's float64."""
    processes.run(f"""
        import numpy as np, torch, l2multi as l2
        tensor = torch.ones(3, 8).to(torch.{dtype})
        for round in range(3):
            for kind in ("tensor", "array") if {first!r} == "tensor" else ("array", "tensor"):
                for backend in ("numba", None, "numpy"):
                    x = tensor if kind == "tensor" else tensor.numpy()
                    unit = l2.normalize(x, backend=backend)
                    want = torch.float32 if kind == "tensor" else np.float64
                    assert unit.dtype == want, (kind, backend, round, unit.dtype)
                    assert l2.norm(x, backend=backend).dtype == want
    """)
