"""Derivatives for unit vectors and norms that NumPy's backends computed of tensors on the CPU.

What is given to torch is a function that returns what has been computed. Going backwards once is
done here, some vectors at a time; for all else, such as the derivative of that, it is left to torch
to differentiate its own operations.
"""

import functools
import math
from typing import Any, NamedTuple

import torch

import l2multi
from l2multi import _backends
from l2multi.backends import torch as operations

Axes = tuple[int, ...]

# Numbers that are widened at a time, which then stay in the cache: 10000x768 bfloat16 take half as
# long as at once (2-core Xeon).
BLOCK = 2**18

# Above what a derivative of float64 is divided on its way back, and by what: over the square of the
# smallest norm that has been scaled (see `backends.torch`) it is in the range then.
_LARGE, _SCALE = 2.0**60, 2.0**964


class Made(NamedTuple):
    """What has been computed, and of what; and which backend was named, if one was."""

    y: torch.Tensor
    axes: tuple[int, ...]
    eps: float = 0.0
    zero_nan: bool = False
    norms: torch.Tensor | None = None
    keepdims: bool = False
    backend: str | None = None


class _Computed(torch.autograd.Function):
    """What is there already, as a function of `x`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, made: Made) -> torch.Tensor:
        """They are there."""
        ctx.save_for_backward(x)
        y, *ctx.how = made
        ctx.dtype = y.dtype
        return y


class Unit(_Computed):
    """Unit vectors."""

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        """``(g - u <u, g>) / norm``."""
        (x,) = ctx.saved_tensors
        axes, eps, zero_nan, norms, _, name = ctx.how
        made = None
        # With `eps` and zero vectors that become NaN, the derivative at these is another.
        plain = not (eps and zero_nan) and not torch.is_grad_enabled()
        if plain and operations.has_values(g):
            made = _by_kernel(x, g, axes, eps, name)
            if made is None:
                made = _projected(x, g, axes, eps, norms)
        if made is None:

            def unit(x: torch.Tensor) -> torch.Tensor:
                return operations.unit(x, axes, eps, zero_nan, ctx.dtype, None)[0]

            made = _by_torch(unit, x, g, axes)
        return made, None


class Length(_Computed):
    """Norms."""

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        """``u * g``."""
        (x,) = ctx.saved_tensors
        axes, *_, keepdims, name = ctx.how
        if torch.is_grad_enabled() or not operations.has_values(g):

            def length(x: torch.Tensor) -> torch.Tensor:
                return operations.length(x, axes, keepdims, ctx.dtype)

            return _by_torch(length, x, g), None
        unit = l2multi.normalize(x, axes, backend=name)
        shape = [1 if d in axes else n for d, n in enumerate(x.shape)]
        return (unit * g.reshape(shape)).to(x.dtype), None


def _by_torch(
    function: Any, x: torch.Tensor, g: torch.Tensor, axes: Axes | None = None
) -> torch.Tensor:
    """The derivative that torch makes of its own operations, which it can differentiate again; of
    vectors along `axes` by a smaller `g` where that is large, for it is linear in that."""
    again = torch.is_grad_enabled()
    scale = None
    if axes is not None and not again and g.dtype in (torch.float64, torch.complex128):
        large = (torch.view_as_real(g.resolve_conj()) if g.is_complex() else g).abs() > _LARGE
        large = large.any(-1) if g.is_complex() else large
        large = large.any(axes, keepdim=True) if axes else large
        scale = torch.ones_like(large, dtype=torch.float64).masked_fill_(large, _SCALE)
        g = g / scale
    with torch.enable_grad():
        x = x if again else x.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(x), x, g, create_graph=again)
    return found if scale is None else found * scale


def _by_kernel(
    x: torch.Tensor, g: torch.Tensor, axes: Axes, eps: float, name: str | None
) -> torch.Tensor | None:
    """The same in one pass, by a kernel of a backend for NumPy; None where there is none for it."""
    if axes != (x.ndim - 1,) or g.dtype != x.dtype or g.layout is not torch.strided:
        return None
    try:
        write = _writer(x.dtype, name)
    except ImportError:
        return None
    if write is None or not x.is_contiguous() or not x.numel():
        return None
    g = g.resolve_neg().contiguous()
    y, n = operations.empty(x), x.shape[-1]
    if not (x.data_ptr() and g.data_ptr()):  # zeros that torch keeps in no memory
        return None
    write(x.data_ptr(), g.data_ptr(), y.data_ptr(), x.numel() // n, n, eps)
    return y


@functools.cache
def has_kernel(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for the derivative along the last axis."""
    try:
        return _writer(dtype, None) is not None
    except ImportError:
        return False


@functools.cache
def _writer(dtype: torch.dtype, name: str | None) -> Any:
    """What writes derivatives of tensors of a dtype, of the first backend that has it."""
    for row in _backends.rows("numpy", name):
        make = getattr(_backends.load(row), "tangents", None)
        if make is not None:
            return make(operations.numpy_dtype(dtype))
    return None


def _projected(
    x: torch.Tensor, g: torch.Tensor, axes: Axes, eps: float, norms: torch.Tensor | None
) -> torch.Tensor | None:
    """``(g - u <u, g>) / norm``, as ``g * inverse - x * <x, g> * cube``; None where no dtype holds
    the cubes."""
    wide = torch.float64 if x.dtype in (torch.float64, torch.complex128) else torch.float32
    shape = [1 if d in axes else n for d, n in enumerate(x.shape)]
    if norms is not None and norms.numel() == 1 and not x.is_complex():
        length = float(norms)
        if max(eps, 1e-12) < length < 1e12:  # by numbers, in half the time
            xs, gs = x.to(wide), g.to(wide)
            across = float((xs * gs).sum()) / length**3
            if math.isfinite(across):
                return (gs * (1 / length)).add_(xs, alpha=-across).to(x.dtype)
    if norms is None or not _are_moderate(norms, wide):
        norms = l2multi.norm(x, axes, dtype=torch.float64)
        if not _are_moderate(norms, wide):
            if wide == torch.float64:
                return None
            wide = torch.float64
    norms = norms.reshape(shape)
    zero = norms == 0
    inverse = norms.masked_fill(zero, 1.0).reciprocal_().masked_fill_(zero, 0.0)
    cube = inverse * inverse * inverse
    if eps:
        short = norms <= eps
        inverse.masked_fill_(short, 1 / eps)
        cube.masked_fill_(short, 0.0)
    if x.is_complex():
        x, g = torch.view_as_real(x.resolve_conj()), torch.view_as_real(g.resolve_conj())
        axes, inverse, cube = (*axes, x.ndim - 1), inverse[..., None], cube[..., None]
    made = _combined(x, g, axes, inverse.to(wide), cube.to(wide))
    if made is None and wide != torch.float64:
        made = _combined(x, g, axes, inverse.to(torch.float64), cube.to(torch.float64))
    return torch.view_as_complex(made) if made is not None and made.ndim > len(shape) else made


def _are_moderate(norms: torch.Tensor, wide: torch.dtype) -> bool:
    """Whether cubes of the inverses are in the range of a dtype, of norms that are not 0."""
    if not norms.numel():
        return True
    low, high = norms.masked_fill(norms == 0, 1.0).aminmax()
    bound = 1e12 if wide == torch.float32 else 1e100
    return bool(low > 1 / bound) and bool(high < bound)


def _combined(
    x: torch.Tensor, g: torch.Tensor, axes: Axes, inverse: torch.Tensor, cube: torch.Tensor
) -> torch.Tensor | None:
    """``g * inverse - x * <x, g> * cube`` in the dtype of `x`, worked out in that of `cube`; None
    where that does not hold what is on the way: the second term is not finite then, or both are as
    large as the result."""
    wide = cube.dtype
    if x.dtype == g.dtype == wide or x.numel() <= BLOCK:
        xs, gs = x.to(wide), g.to(wide)
        factor = _dots(xs, gs, axes) * cube
        if not factor.isfinite().all():
            return None
        return (gs * inverse).addcmul_(xs, factor, value=-1).to(x.dtype)
    made = torch.empty_like(x)
    step = max(1, BLOCK * len(x) // x.numel())
    parts = [slice(lo, lo + step) for lo in range(0, len(x), step)]
    across = 0 in axes  # then the parts are parts of vectors
    if across:
        total = sum(_dots(x[part].to(wide), g[part].to(wide), axes) for part in parts) * cube
    for part in parts:
        xs, gs = x[part].to(wide), g[part].to(wide)
        factor = total if across else _dots(xs, gs, axes) * cube[part]
        if not factor.isfinite().all():
            return None
        made[part] = (gs * (inverse if across else inverse[part])).addcmul_(xs, factor, value=-1)
    return made


def _dots(x: torch.Tensor, g: torch.Tensor, axes: Axes) -> torch.Tensor:
    return (x * g).sum(axes, keepdim=True) if axes else x * g
