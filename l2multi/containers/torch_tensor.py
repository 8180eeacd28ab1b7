"""Torch tensors: in the memory of a CPU as NumPy arrays, without a copy, and differentiable;
others, and those that have no values yet, as they are, for torch's own operations."""

import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from l2multi import _backends, _contract, _cures
from l2multi._opened import Opened
from l2multi.backends import torch as operations
from l2multi.backends.torch import (
    BITS,
    BY_NAME,
    FLOATS,
    NAMES,
    has_values,
    numpy_dtype,
    numpy_dtypes,
    tensor,
    view,
)
from l2multi.containers.torch_gradient import Length, Made, Unit, has_kernel

_BASE = (torch.Tensor, torch.nn.Parameter)


class Like(NamedTuple):
    """What is to be known of a tensor of which there is no NumPy array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: torch.device

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)


class Tensor(Opened):
    """A tensor for torch's own operations."""

    has_fast_path = False

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__(Like(tuple(x.shape), numpy_dtype(x.dtype), x.device), "torch")
        self.x = x

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        return self.x

    def asked(self, dtype: Any) -> Any:
        return asked(dtype)

    def close(self, y: Any) -> Any:
        if operations.is_spread(y) and y.placements != self.x.placements:  # of a few numbers
            y = y.redistribute(placements=self.x.placements)
        return y

    def target(self, out: Any) -> Any:
        check_target(self.x, out)
        if out.device != self.x.device:
            raise ValueError(f"out: expected a tensor on {self.x.device}, got one on {out.device}")
        return out

    def writable(self, out: Any, x: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Never while `x` is read: torch has no operation that sums and writes."""
        if _stands(out):  # with sizes that are symbols, perhaps
            own = numpy_dtype(out.dtype)
            if own != dtype:
                raise TypeError(f"out: expected dtype {dtype.name}, got {own.name}")
            if tuple(out.shape) != shape:
                raise ValueError(f"out: expected shape {shape}, got {tuple(out.shape)}")
            return False
        strides = [out.element_size() * step for step in out.stride()]
        like = np.lib.stride_tricks.as_strided(
            np.empty(1, numpy_dtype(out.dtype)), out.shape, strides
        )
        _contract.check_out(like, shape, dtype)
        return False


class HostTensor(Opened):
    """A tensor in the memory of the CPU, as a NumPy array of that memory."""

    has_fast_path = False  # that of its array gives NumPy arrays

    def __init__(self, x: torch.Tensor, request: _contract.Request) -> None:
        self.kind = type(x)
        self.x = x = x.resolve_conj().resolve_neg()
        super().__init__(view(x.detach()), "numpy")
        self.request = request
        self.over: tuple[int, ...] = ()
        self.needs_grad = x.requires_grad and torch.is_grad_enabled()
        self.lazy: Any = None  # what an `out` will be with its signs changed

    def keep_fast_path(self, found: _backends.Backend, dtype: Any, result: np.dtype[Any]) -> None:
        _backends.keep_fast_path(found, self.array, asked(dtype), result)
        path, own = _backends.fast_paths.get(self.array.dtype), self.x.dtype
        if path is not None and NAMES[own] in FLOATS:
            _paths[own] = path
            if own not in BITS:
                _arrays[own] = path
            if not own.is_complex and result == self.array.dtype:
                _direct[own] = path
        _backends.fast_paths[self.kind] = _fast_path

    def asked(self, dtype: Any) -> Any:
        return asked(dtype)

    def default_float(self) -> np.dtype[Any]:
        return operations.default_float()

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        self.over = axes
        return self.array

    def target(self, out: Any) -> Any:
        check_target(self.x, out)
        if not (out.is_cpu and has_values(out)) or _stands(out):
            what = type(out).__name__ if _stands(out) else out.device
            raise ValueError(f"out: expected a tensor in the memory of the CPU, got {what}")
        if out.is_conj() or out.is_neg():
            self.lazy = torch.empty(out.shape, dtype=out.dtype)
        return view(out.detach() if self.lazy is None else self.lazy)

    def close(self, y: Any) -> Any:
        made = tensor(y)
        if not self.needs_grad:
            return made
        eps, nan = self.request.eps, self.request.zero == "nan"
        name = _backends.named(self.request.backend)
        return Unit.apply(self.x, Made(made, self.over, eps, nan, backend=name))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        made = tensor(np.asarray(norms))
        if not self.needs_grad or made.dtype == torch.bool:
            return made
        name = _backends.named(self.request.backend)
        return Length.apply(self.x, Made(made, axes, keepdims=keepdims, backend=name))

    def close_target(self, out: Any, axes: tuple[int, ...] | None, keepdims: bool = False) -> Any:
        if self.lazy is not None:
            return out.copy_(self.lazy)
        written(out)
        return out

    def moved(self, name: str, library: str) -> Opened:
        return Tensor(self.x) if library == "torch" else super().moved(name, library)


class FastPath:
    """For tensors in the memory of the CPU: the fast path of the NumPy array of that memory."""

    backend = "numba"

    def normalize(
        self, x: torch.Tensor, axis: Any, eps: Any, zero: Any, nonfinite: Any,
        out: Any, dtype: Any, return_norm: Any,
    ) -> Any:  # fmt: skip
        """As `l2multi.normalize`; None where a call needs the general path."""
        # `_watched`, and its frame would be 4 % of a call.
        if _level() is not None or _stack() or _tracing() or forward_ad._current_level >= 0:
            return None
        path = _arrays.get(x.dtype)
        if path is None or return_norm or dtype is not None or x.requires_grad:
            return _normalize(x, axis, eps, zero, nonfinite, out, dtype, return_norm)
        try:
            a = x.numpy()
            if out is None:
                y = path.normalize(a, axis, eps, zero, nonfinite, None, None, False)
                return None if y is None else _from_numpy(y)
            if type(out) not in _BASE or out.is_inference():
                return None
            place = a if out is x else out.numpy()
        except (RuntimeError, TypeError):  # a sign to come, no memory of the CPU, another layout
            return None
        if path.normalize(a, axis, eps, zero, nonfinite, place, None, False) is None:
            return None
        _increment_version(out)
        return out

    def norm(
        self, x: torch.Tensor, axis: Any, keepdims: Any, nonfinite: Any, out: Any, dtype: Any
    ) -> Any:
        """As `l2multi.norm`; None where a call needs the general path."""
        path = None if _watched() else _paths.get(x.dtype)
        needs_grad = x.requires_grad and torch.is_grad_enabled()
        if path is None or out is not None or (needs_grad and type(axis) is not int):
            return None
        if dtype is not None and (dtype := numpy_dtypes.get(dtype)) is None:
            return None
        try:
            a = view(x.detach() if x.requires_grad else x)
        except (RuntimeError, TypeError):
            return None
        norms = path.norm(a, axis, keepdims, nonfinite, None, dtype)
        if norms is None:
            return None
        norms = tensor(np.asarray(norms))
        if needs_grad:
            norms = Length.apply(x, Made(norms, (axis % x.ndim,), keepdims=keepdims))
        return norms


_fast_path = FastPath()


# Load-once caches: the fast paths of NumPy arrays, by torch's floating dtypes; of these those of
# which torch gives arrays; and of real ones.
_paths: dict[torch.dtype, Any] = {}
_arrays: dict[torch.dtype, Any] = {}
_direct: dict[torch.dtype, Any] = {}

# Bound here, for an attribute of a module takes 20 ns of 2000.
_level, _stack = _functorch.maybe_current_level, torch._C._len_torch_dispatch_stack
_tracing, _from_numpy, _empty = torch._C._is_tracing, torch.from_numpy, operations.empty
_strided, _named = torch.strided, hasattr(torch.Tensor, "names")
_increment_version = torch.autograd.graph.increment_version


def _watched() -> bool:
    """Whether somebody traces, maps or differentiates forwards, perhaps not this tensor."""
    return bool(_level() is not None or _stack() or _tracing() or forward_ad._current_level >= 0)


def _address(x: torch.Tensor) -> int:
    """Where a real tensor's elements lie one after another in the memory of the CPU; 0 if they do
    not, or not as they are, or nowhere, as where somebody maps by what came before torch.func."""
    try:
        plain = x.is_cpu and x.layout is _strided and not x.is_nested and x.is_contiguous()
        if not plain or x.is_neg() or (_named and any(x.names)):
            return 0
        return x.data_ptr()  # type: ignore[no-any-return]  # torch is not typed everywhere
    except (RuntimeError, NotImplementedError):
        return 0


def _rows(x: torch.Tensor, axis: Any, eps: Any, zero: Any, nonfinite: Any, out: Any) -> Any:
    """Rows that lie one after another, by their addresses, which takes a third of the time that
    views as arrays take; None where that will not do."""
    dtype, ndim = x.dtype, x.ndim
    path = _direct.get(dtype)
    if path is None or not ndim or type(axis) is not int or (axis != -1 and axis != ndim - 1):
        return None
    size = x.numel()
    if not size or not (at := _address(x)):
        return None
    shape = x.shape
    n = shape[-1]
    if out is None:
        y = _empty(x)
        to = y.data_ptr()
    else:
        y, to = out, 0
        tracked = y.requires_grad and torch.is_grad_enabled()
        if type(y) in _BASE and y.dtype is dtype and not (tracked or y.is_inference()):
            to = at if y is x else _address(y)
        if not to or (y is not x and y.shape != shape):
            return None
        if to != at and abs(to - at) < size * x.itemsize:
            return None
    if not path.rows(at, to, n, size // n, eps, zero, nonfinite, out is not None):
        return None
    if out is not None:
        written(out)
    return y


def _normalize(
    x: torch.Tensor, axis: Any, eps: Any, zero: Any, nonfinite: Any,
    out: Any, dtype: Any, return_norm: Any,
) -> Any:  # fmt: skip
    """With a gradient or keywords, or by the bits."""
    path = _paths.get(x.dtype)
    if path is None:
        return None
    needs_grad = x.requires_grad and torch.is_grad_enabled()
    # Norms are for derivatives that no kernel computes.
    if (
        not return_norm
        and dtype is None
        and not (needs_grad and (out is not None or not has_kernel(x.dtype)))
    ):
        y = _rows(x, axis, eps, zero, nonfinite, out)
        if y is not None:
            if needs_grad:
                y = Unit.apply(x, Made(y, (x.ndim - 1,), eps, zero == "nan"))
            return y
    if needs_grad and (type(axis) is not int or out is not None):
        return None
    if dtype is not None and (dtype := numpy_dtypes.get(dtype)) is None:
        return None
    try:
        a = view(x.detach() if x.requires_grad else x)
        place = None if out is None else _place(out)
    except (RuntimeError, TypeError):
        return None
    with_norms = bool(return_norm or needs_grad)
    done = path.normalize(a, axis, eps, zero, nonfinite, place, dtype, with_norms)
    if done is None:
        return None
    y, norms = done if with_norms else (done, None)
    if out is None:
        y = tensor(y)
    else:
        written(out)
        y = out
    if norms is not None:
        norms = tensor(np.asarray(norms))
    if needs_grad:
        axes = (axis % x.ndim,)
        y = Unit.apply(x, Made(y, axes, eps, zero == "nan", norms))
        norms = Length.apply(x, Made(norms, axes)) if return_norm else None
    return (y, norms) if return_norm else y


def _place(out: Any) -> Any:
    """The memory of an `out` that is as plain as `x`."""
    if type(out) not in _BASE or out.is_inference() or out.requires_grad or out._is_zerotensor():
        raise TypeError
    return view(out)


def asked(dtype: Any) -> Any:
    """A ``dtype=`` as NumPy knows it, if torch has it."""
    if dtype is None or isinstance(dtype, torch.dtype):
        try:
            return dtype and numpy_dtype(dtype)
        except TypeError as error:
            raise TypeError(f"dtype: {error}") from None
    for complex_ in (False, True):
        try:
            found = _contract.floating(dtype, complex_=complex_)
        except TypeError:
            continue
        if found.name not in BY_NAME:
            raise TypeError(f"dtype: torch has no {_contract.name(found)}")
        return found
    return dtype  # and that is refused


def check_target(x: torch.Tensor, out: Any) -> None:
    """Refuse an `out` that no tensor could be written to by way of, or whose gradient would be
    lost."""
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out: expected a torch.Tensor, got {type(out).__name__}")
    plain = type(out) in _BASE or _stands(out)
    if not plain or out.layout != torch.strided or out.is_nested:
        raise TypeError(f"out: expected a strided torch.Tensor, got {_cures.type_name(out)}")
    if operations.is_spread(x):
        raise TypeError("out: no tensor of one process takes the values of a DTensor; leave it out")
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise TypeError(
            "out: gradients do not pass through out=; leave it out, or call under torch.no_grad()"
        )
    if out._is_zerotensor():
        raise TypeError(
            "out: a tensor of zeros without memory cannot be written to; try out.clone()"
        )
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise TypeError("out: an inference tensor is written to in torch.inference_mode() only")


def written(out: torch.Tensor) -> None:
    """Tell autograd that a tensor is another now: what saved it for a derivative will refuse."""
    if not out.is_inference():
        _increment_version(out)


# Subclasses whose instances stand for tensors while somebody traces.
_STANDING = (
    ("torch._subclasses.fake_tensor", "FakeTensor"),
    ("torch._subclasses.functional_tensor", "FunctionalTensor"),
)


def _stands(x: torch.Tensor) -> bool:
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in _STANDING)
    return any(isinstance(x, kind) for kind in kinds if kind is not None)


def open(x: torch.Tensor, request: _contract.Request) -> Opened:
    """As a NumPy array, if it is nothing but numbers in the memory of the CPU."""
    if x.is_nested:
        raise TypeError("x: nested tensors are not supported; try each of x.unbind()")
    base, spread = type(x) in _BASE, operations.is_spread(x)
    if spread and any(one.is_partial() for one in x.placements):
        raise TypeError(
            "x: a DTensor with a partial placement has no values yet; try "
            "x.redistribute(placements=[Replicate()])"
        )
    if spread and x.is_complex():
        raise TypeError(
            "x: torch would gather a DTensor of complex numbers; try the real and imaginary parts "
            "along an axis more, as torch.view_as_real makes it of local tensors"
        )
    if not base and not spread and not _stands(x):
        raise TypeError(
            f"x: {_cures.type_name(x)} is a subclass of torch.Tensor, and what it adds would be "
            "lost; try x.as_subclass(torch.Tensor)"
        )
    if x.layout in (torch.sparse_coo, torch.sparse_csr) and base and has_values(x):
        from l2multi.containers import torch_sparse

        return torch_sparse.open(x, request)
    if x.layout != torch.strided:
        raise TypeError(
            f"x: layout {x.layout} is not supported; accepted are torch.strided and, with values, "
            "torch.sparse_coo and torch.sparse_csr; try x.to_dense()"
        )
    try:
        numpy_dtype(x.dtype)
    except TypeError as error:
        raise TypeError(f"x: {error}; try {_cures.of(x)}") from None
    if any(getattr(x, "names", ())):  # until torch 2.12
        raise TypeError("x: names of dimensions would be lost; try x.rename(None)")
    return HostTensor(x, request) if base and x.is_cpu and has_values(x) else Tensor(x)
