"""What torch.compile traces in place of the walk through the tables: validation, then an operator
that stands for torch's own operations or, where a program is exported, these. It is Python that
torch's tracer takes without a break, and knows no other container."""

from typing import Any

import torch

import l2multi
from l2multi import _backends, _contract
from l2multi.backends import torch as operations
from l2multi.containers import torch_operators as operators


def _with_values(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function as if nobody traced, between two graphs. Where there is to be one graph,
    torch says why there is none."""
    return function(*arguments, **keywords)


_WHY = 'l2multi: zero="raise" and nonfinite="raise" need values; use zero="keep" or "nan"'
try:
    _with_values = torch.compiler.disable(_with_values, reason=_WHY)
except TypeError:  # before torch 2.8
    _with_values = torch.compiler.disable(_with_values)


class Traced:
    """As a fast path, but for tensors that have no values yet; raises in place of None."""

    backend = "torch"

    def normalize(
        self, x: torch.Tensor, axis: Any, eps: Any, zero: Any, nonfinite: Any,
        out: Any, dtype: Any, return_norm: Any,
    ) -> Any:  # fmt: skip
        """As `l2multi.normalize`."""
        _contract.check_choice("zero", zero, _contract.ZERO)
        if zero == "raise" or nonfinite == "raise":
            keywords = {"out": out, "dtype": dtype, "return_norm": return_norm}
            return _with_values(
                l2multi.normalize, x, axis, eps=eps, zero=zero, nonfinite=nonfinite, **keywords
            )
        axes = _validated(x, axis, nonfinite)
        eps = _contract.check_size("eps", eps)
        result, norm = _dtypes(x)
        if dtype is not None:
            result = _asked(dtype, x.is_complex())
        how = eps, zero == "nan", result
        if _exporting():
            y, norms = operations.unit(x, axes, *how, norm if return_norm else None)
        else:  # a compiler drops norms that nobody wants
            y, norms = operators.unit(x, axes, *how, norm)
        y = _written(x, y, out)
        return (y, norms) if return_norm else y

    def norm(
        self, x: torch.Tensor, axis: Any, keepdims: Any, nonfinite: Any, out: Any, dtype: Any
    ) -> Any:
        """As `l2multi.norm`."""
        if nonfinite == "raise":
            keywords = {"keepdims": keepdims, "out": out, "dtype": dtype}
            return _with_values(l2multi.norm, x, axis, nonfinite=nonfinite, **keywords)
        axes = _validated(x, axis, nonfinite)
        asked = _dtypes(x)[1] if dtype is None else _asked(dtype, False)
        length = operations.length if _exporting() else operators.length
        return _written(x, length(x, axes, keepdims, asked), out)


TRACED = Traced()


# An exported program has plain operations, so that it runs where this package is not. Before torch
# 2.7 nobody can tell, and all programs have.
_exporting = getattr(torch.compiler, "is_exporting", lambda: True)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _named(argument: str | None) -> str | None:
    """The backend asked for while torch traces, which cannot trace context variables."""
    return _backends.named(argument)


def fast_path(x: Any, argument: str | None) -> Traced | None:
    """For a tensor."""
    if not isinstance(x, torch.Tensor):
        return None
    name = _named(argument)
    if name is not None and name != "torch":
        raise TypeError(
            f"x: backend {name!r} cannot serve this input: a tensor that torch.compile traces "
            'has no values yet; leave it out, or use backend="torch"'
        )
    return TRACED


def is_normalized(x: Any, axis: Any, tol: float | None, backend: str | None) -> torch.Tensor:
    """As `l2multi.is_normalized`."""
    path = fast_path(x, backend)
    if path is None:
        raise TypeError(f"x: expected a torch.Tensor while torch.compile traces, got {type(x)}")
    norms = path.norm(x, axis, False, "propagate", None, None)
    if tol is None:
        own = _dtypes(x)[0]
        wide = own.itemsize >= 4  # as `_contract.default_tol`
        tol = 4 * torch.finfo(norms.dtype).eps if wide else torch.finfo(own).eps
    else:
        tol = _contract.check_size("tol", tol)
    return (norms - 1).abs() <= tol


def _validated(x: torch.Tensor, axis: Any, nonfinite: Any) -> tuple[int, ...]:
    _contract.check_choice("nonfinite", nonfinite, _contract.NONFINITE)
    if x.layout != torch.strided:
        raise TypeError(f"x: layout {x.layout} is not supported while torch.compile traces")
    if x.dtype not in operations.NAMES:
        raise TypeError(f"x: dtype {x.dtype} is not supported")
    for one in axis if isinstance(axis, (tuple, list)) else (axis,):
        if isinstance(one, int) and not -x.ndim <= one < x.ndim:
            # In place of NumPy's AxisError, which torch does not trace, and would not tell of.
            raise IndexError(f"axis {one} is out of bounds for array of dimension {x.ndim}")
    axes = _contract.normalize_axes(axis, x.ndim)
    # An argument of what is compiled may be a symbol, of which torch 2.13 holds `not in` for true.
    return tuple(d for d in range(x.ndim) if any(d == one for one in axes))


def _dtypes(x: torch.Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Of unit vectors and norms."""
    own = x.dtype if x.is_floating_point() or x.is_complex() else torch.get_default_dtype()
    wide = own in (torch.float64, torch.complex128)
    return own, torch.float64 if wide else torch.float32


def _asked(dtype: Any, complex_: bool) -> torch.dtype:
    fits = isinstance(dtype, torch.dtype) and dtype in operations.NAMES
    if not fits or not (dtype.is_complex if complex_ else dtype.is_floating_point):
        kind = "complex" if complex_ else "real"
        raise TypeError(f"dtype: expected a {kind} floating torch.dtype, got {dtype!r}")
    found: torch.dtype = dtype
    return found


def _written(x: torch.Tensor, y: torch.Tensor, out: Any) -> torch.Tensor:
    """`y`, or `out` with its values."""
    if out is None:
        return y
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out: expected a torch.Tensor, got {type(out).__name__}")
    if out.dtype != y.dtype:
        raise TypeError(f"out: expected dtype {y.dtype}, got {out.dtype}")
    if out.shape != y.shape:
        raise ValueError(f"out: expected shape {tuple(y.shape)}, got {tuple(out.shape)}")
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise TypeError("out: gradients do not pass through out=; leave it out")
    return out.copy_(y)
