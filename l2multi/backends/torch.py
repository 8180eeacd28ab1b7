"""The torch backend: plain operations of torch, which run on any device, are differentiable in both
modes to any order, and which torch.compile, torch.export and torch.func take apart by themselves.

Works on tensors with or without values; knows neither containers nor other backends. Sums are in
float64, where no square of a narrower number leaves the range. Float64 numbers, and any on a device
without float64, are scaled by a power of two where they are large or small. What a choice does not
take is finite all the same, for its derivative is multiplied by 0: so the derivatives at the zero
vector are 0, and there is no NaN.
"""

import math
import sys
from typing import Any

import numpy as np
import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from l2multi import _contract

Axes = tuple[int, ...]

# What torch has of the contract's dtypes, by NumPy's and ml_dtypes' names.
BYTES = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128", *BYTES)
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
BY_NAME: dict[str, torch.dtype] = {n: getattr(torch, n) for n in (*FLOATS, *_INTEGERS, "bool")}
NAMES = {dtype: name for name, dtype in BY_NAME.items()}

# Vectors whose entries are between these have squares that can be summed as they are, of up to
# 2**60 entries in float64 and 2**36 in float32; others are scaled by this power of two.
_SAFE = {torch.float64: (2.0**-400, 2.0**480, 600), torch.float32: (2.0**-40, 2.0**45, 80)}
# What an entry beyond them counts, where one between counts 1.
_LARGE = 2.0**64


def has_values(x: torch.Tensor) -> bool:
    """Whether `x` is nothing but numbers in memory: nobody traces, maps or differentiates it
    forwards, or takes notes of what is done to it."""
    return not (
        _functorch.is_functorch_wrapped_tensor(x)
        or _functorch.is_legacy_batchedtensor(x)
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or x.is_meta
    )


def traced(x: Any) -> bool:
    """Whether `x` stands for values not known yet."""
    return isinstance(x, torch.Tensor) and not has_values(x)


def unit(
    x: torch.Tensor,
    axes: Axes,
    eps: float,
    zero_nan: bool,
    dtype: torch.dtype,
    norm_dtype: torch.dtype | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The unit vectors, and the norms where asked for."""
    parts, along, may_leave = _parts(x, axes)
    raised, total, factor = _squared(parts, along, may_leave)
    root, zero, bound = _root(total), total == 0, max(eps, torch.finfo(parts.dtype).tiny)
    if factor is None and dtype not in (torch.float64, torch.complex128):
        # One product for each number, which is rounded to fewer bits. A compiler keeps what `rsqrt`
        # gives, and repeats a division for each number, in derivatives too: 1000x768 float32
        # forwards and backwards took 1.4 times as long. Times 0 a zero keeps its sign, and its
        # derivative is 0.
        inverse = torch.where(zero, 0.0, torch.where(zero, 1.0, total).rsqrt())
        if eps:
            inverse = torch.where(root <= bound, 1.0 / bound, inverse)
        y = parts * inverse
    else:
        divisor = torch.where(zero, 1.0, root)
        y = raised / divisor
        if factor is not None:  # down only now, so that no bit is lost on the way
            y = y * factor.clamp(max=1.0)
        y = torch.where(zero, parts * 0.0, y)
        if eps:
            short = (root <= bound) if factor is None else (root <= bound * factor)
            y = torch.where(short, parts / bound, y)
    if zero_nan:
        y = torch.where(zero, math.nan, y)
    norms = None
    if norm_dtype is not None:
        norms = _rounded(_length(root, factor), norm_dtype).reshape(_batch(x, axes))
    return _rounded(torch.view_as_complex(y) if dtype.is_complex else y, dtype), norms


def length(x: torch.Tensor, axes: Axes, keepdims: bool, dtype: torch.dtype) -> torch.Tensor:
    """The norms."""
    _, total, factor = _squared(*_parts(x, axes))
    norms = _rounded(_length(_root(total), factor), dtype)
    shape = [1 if d in axes else n for d, n in enumerate(x.shape)] if keepdims else _batch(x, axes)
    return norms.reshape(shape)


def _batch(x: torch.Tensor, axes: Axes) -> list[int]:
    return [n for d, n in enumerate(x.shape) if d not in axes]


def _parts(x: torch.Tensor, axes: Axes) -> tuple[torch.Tensor, Axes, bool]:
    """The numbers as wide as the device has them, complex ones as pairs; the axes of a vector; and
    whether squares may leave the range."""
    wide = _widest(x.device)
    may_leave = x.dtype in (torch.float64, torch.complex128) or wide != torch.float64
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
        axes = (*axes, x.ndim - 1)
    return x.to(wide), axes, may_leave


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _squared(
    parts: torch.Tensor, axes: Axes, may_leave: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The numbers times a factor, if there is one and it is larger than 1; the sum of squares, axes
    kept, of the numbers times the factor; and the factor.

    Derivatives come together at what has been multiplied: 1 over the norm of a subnormal vector is
    beyond the range, where the derivative may be within.
    """
    factor = None
    if may_leave:
        low, high, power = _SAFE[parts.dtype]
        size = parts.abs()
        # A sum in place of the largest, of which there is none where a process holds no part.
        kind = (size >= low).to(parts.dtype) + (size > high).to(parts.dtype) * _LARGE
        if axes:  # to torch, no axes are all axes
            kind = _reduced(kind.sum(axes, keepdim=True))
        factor = torch.where(kind == 0, torch.full_like(kind, 2.0**power), 1.0)
        factor = torch.where(kind >= _LARGE, 2.0**-power, factor)
        parts = parts * factor.clamp(min=1.0)
    total = (parts if factor is None else parts * factor.clamp(max=1.0)).square()
    if axes:
        total = _reduced(total.sum(axes, keepdim=True))
    return parts, total, factor


def _root(total: torch.Tensor) -> torch.Tensor:
    """The root, whose derivative at 0 is 0."""
    zero = total == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, total).sqrt())


def is_spread(x: Any) -> bool:
    """Whether `x` is a DTensor, whose values several processes hold."""
    found = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return found is not None and isinstance(x, found)


def _reduced(x: Any) -> torch.Tensor:
    """What processes have parts of, as one value: else a DTensor is reduced anew for each use."""
    placements = getattr(x, "placements", ())  # as torch.compile can tell too
    if any(one.is_partial() for one in placements):
        from torch.distributed.tensor import Replicate  # as torch.compile can trace it

        x = x.redistribute(placements=[Replicate() if p.is_partial() else p for p in placements])
    found: torch.Tensor = x
    return found


def _length(root: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return root if factor is None else root * (1 / factor)


def _rounded(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As `dtype`. To bfloat16, float16 and float8 torch rounds by way of float32, which is within
    0.501 ulp of theirs. And to the only dtype that can hold neither, it takes inf and what is
    larger than 464 for 448: here these become NaN, as in ml_dtypes."""
    if dtype == torch.float8_e4m3fn:
        y = torch.where(y.abs() > 464, math.nan, y)
    return y.to(dtype)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return BY_NAME[dtype.name]


def normalize(
    x: torch.Tensor,
    axes: Axes,
    *,
    eps: float,
    zero_nan: bool,
    out: None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The unit vectors, and the norms where asked for."""
    norms = None if norm_dtype is None else _torch_dtype(norm_dtype)
    return unit(x, axes, eps, zero_nan, _torch_dtype(dtype), norms)


def norm(
    x: torch.Tensor, axes: Axes, *, keepdims: bool, out: None, dtype: np.dtype[Any]
) -> torch.Tensor:
    """The norms."""
    return length(x, axes, keepdims, _torch_dtype(dtype))


def finite(x: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Whether each vector is free of inf and NaN."""
    parts, axes, _ = _parts(x, axes)
    return parts.isfinite().all(axes) if axes else parts.isfinite()


def unsupported(x: Any, result: np.dtype[Any]) -> str | None:
    """Torch has no longdouble, and a device may lack float64."""
    if result.name not in BY_NAME:
        return f"torch has no {_contract.name(result)}"
    if isinstance(x, torch.Tensor) and result.itemsize == 8 and result.kind == "f":
        if _widest(x.device) != torch.float64:
            return f"{x.device.type} has no float64"
    elif not isinstance(x, torch.Tensor) and x.dtype.name not in BY_NAME:
        return f"torch has no {_contract.name(x.dtype)}"
    return None


def unready(x: Any, axes: Axes, result: np.dtype[Any], look: bool) -> None:
    """Torch is always ready."""


def fast_path(x: Any, dtype: Any, result: np.dtype[Any]) -> None:
    """There is none."""


def check() -> None:
    """Torch has been imported."""


def report() -> dict[str, str]:
    """Nothing else."""
    return {}


def kernel(x: Any, axes: Axes, result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """Operations of torch, with its threads on a CPU, or one that feeds the device."""
    device = x.device.type if isinstance(x, torch.Tensor) else torch.get_default_device().type
    return f"torch operations on {device}", torch.get_num_threads() if device == "cpu" else 1


def to_numpy(x: torch.Tensor, *, copy: bool) -> np.ndarray[Any, Any]:
    """`x` as a new NumPy array, or a view of the CPU's memory."""
    if traced(x):
        raise TypeError("x: a traced torch tensor has no values that NumPy could see")
    if not copy and not x.is_cpu:
        raise TypeError(
            f"x: this tensor lives on {x.device}; a NumPy backend takes one in the memory of the "
            "CPU, and nothing is moved unasked"
        )
    if is_spread(x):
        if not copy:
            raise TypeError("x: several processes hold parts of this DTensor; NumPy has no such")
        x = x.full_tensor()
    found: np.ndarray[Any, Any] = view(x.detach().cpu().resolve_conj().resolve_neg())
    return found.copy() if copy else found


def from_numpy(x: np.ndarray[Any, Any], like: Any = None) -> torch.Tensor:
    """`x` as a tensor on the device of `like`, or torch's default one. The caller's is copied, for
    torch takes no negative strides, other byte orders or memory that must not be written to."""
    if like is None:
        x = np.array(x, x.dtype.newbyteorder("="), order="C")
    made = tensor(x)
    return made.to(torch.get_default_device() if like is None else like.device)


def default_float() -> np.dtype[Any]:
    """What integers become: what torch makes of them too where it divides."""
    return numpy_dtype(torch.get_default_dtype())


# Load-once cache.
numpy_dtypes: dict[torch.dtype, np.dtype[Any]] = {}


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's name for one of torch's dtypes; a TypeError where it has none."""
    found = numpy_dtypes.get(dtype)
    if found is None:
        name = str(dtype).rpartition(".")[2]
        if name not in BY_NAME:
            raise TypeError(f"dtype {dtype} is not supported; accepted are {', '.join(BY_NAME)}")
        if name in ("bfloat16", *BYTES):
            try:
                import ml_dtypes
            except ImportError:
                raise ImportError(
                    f"{dtype} comes to NumPy by ml_dtypes; try: pip install 'ml_dtypes>=0.5'"
                ) from None
            found = np.dtype(getattr(ml_dtypes, name))
        else:
            found = np.dtype(name)
        numpy_dtypes[dtype] = found
    return found


# What NumPy has no dtype for goes by its bits.
BITS = {torch.bfloat16: torch.int16, **{BY_NAME[name]: torch.uint8 for name in BYTES}}


def view(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """The memory of a tensor on the CPU, without conjugate or negative bit, as a NumPy array."""
    if x._is_zerotensor():  # which has none, as some derivatives of torch's
        x = torch.zeros(x.shape, dtype=x.dtype, device="cpu")
    bits = BITS.get(x.dtype)
    seen: np.ndarray[Any, Any] = x.numpy() if bits is None else x.view(bits).numpy()
    return seen if bits is None else seen.view(numpy_dtype(x.dtype))


# Bytes from which on NumPy asks for huge pages, which torch does not.
HUGE = 2**22


def empty(x: torch.Tensor) -> torch.Tensor:
    """A tensor like a contiguous `x` on the CPU, to be written to. Small ones of torch's own take
    half a microsecond less."""
    if x.numel() * x.itemsize < HUGE:
        return torch.empty_like(x)
    return tensor(np.empty(x.shape, numpy_dtype(x.dtype)))


# Load-once cache: what NumPy's dtypes are to be viewed as, there and here; their names take 1 us.
_views: dict[np.dtype[Any], tuple[np.dtype[Any], torch.dtype]] = {}


def tensor(x: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor of the memory of a native NumPy array that may be written to."""
    found = _views.get(x.dtype)
    if found is None:
        dtype = BY_NAME[x.dtype.name]
        name = str(BITS.get(dtype, dtype)).rpartition(".")[2]
        found = _views[x.dtype] = np.dtype(name), dtype
    bits, dtype = found
    if bits is x.dtype:
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(bits)).view(dtype)
