"""The way of a call: open, validate once, select a backend, compute, close. Knows no library.

`_containers` opens, `_contract` validates, `_backends` selects, a backend computes, and what was
opened closes.
"""

from typing import Any, NamedTuple

import numpy as np

from l2multi import _backends, _containers, _contract
from l2multi._containers import known
from l2multi._contract import Request
from l2multi._opened import Opened, on_host


class Call(NamedTuple):
    """A validated call: what its backend is given, and the way back."""

    request: Request
    opened: Opened
    x: Any
    axes: tuple[int, ...]
    selection: _backends.Selection
    result: np.dtype[Any]
    norm: np.dtype[Any]
    widest: np.dtype[Any]  # for norms that decide: never overflows where it can be helped

    @property
    def backend(self) -> _backends.Backend:
        """Who computes."""
        return self.selection.backend


class Explanation(NamedTuple):
    """What a call would use, and why; see `l2multi.explain`."""

    backend: str
    kernel: str
    threads: int
    why: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"backend {self.backend!r}, kernel {self.kernel}, {threads}: {self.why}"


def validated(request: Request) -> Request:
    """A request whose keywords are right; what depends on `x` is looked at later."""
    if request.zero != "null":  # which some containers know
        _contract.check_choice("zero", request.zero, _contract.ZERO)
    _contract.check_choice("nonfinite", request.nonfinite, _contract.NONFINITE)
    eps, keepdims, return_norm = request.eps, request.keepdims, request.return_norm
    if type(eps) is float and eps >= 0.0 and type(keepdims) is type(return_norm) is bool:
        return request  # 1 us saved
    return request._replace(
        eps=size("eps", eps),
        keepdims=known("keepdims", keepdims, bool),
        return_norm=known("return_norm", return_norm, bool),
    )


def size(name: str, value: Any) -> float:
    """A keyword that is no negative number, as a float."""
    return known(name, value, lambda value: _contract.check_size(name, value))


def prepare(opened: Opened, request: Request, of_norm: bool, look: bool = False) -> Call:
    """Validate what `normalize` and `norm` have in common, and select the backend. For who will
    only `look` at the call, no values are moved."""
    array = opened.array
    if request.zero == "null" and not opened.has_nulls:
        _contract.check_choice("zero", request.zero, _contract.ZERO)
    axes = known("axis", request.axis, lambda _: opened.axes(request))
    rule = _contract.rule(array.dtype)
    result, norm = rule.result, rule.norm
    if result != rule.native:
        result = opened.default_float()
        norm = _contract.rule(result).norm
    own = norm if of_norm else result
    if request.dtype is not None:
        complex_ = not of_norm and _contract.is_complex(result)
        asked = _contract.floating(opened.asked(request.dtype), complex_=complex_)
        result, norm = (result, asked) if of_norm else (asked, norm)
    if not of_norm:
        opened.check_result(result)
    name = _backends.named(request.backend)
    if name is not None:
        row = _backends.first(name)
        if opened.library != row.library and not _backends.rows(opened.library, name):
            _backends.load(row)
            opened = opened.moved(name, row.library)
    values = opened.values(axes, look)
    wanted = norm if of_norm else result
    selection = opened.select(values, axes, wanted, name, own, look)
    if not (of_norm and request.dtype is not None):
        opened.keep_fast_path(selection.backend, request.dtype, result)
    widest = rule.wide if opened.library in _backends.OF_NUMPY else norm
    return Call(request, opened, values, axes, selection, result, norm, widest)


def _target(call: Call, of_norm: bool) -> tuple[Any, bool]:
    """Where to write, if the caller says so, and whether the backend may while it reads `x`."""
    opened, out = call.opened, call.request.out
    if out is None:
        return None, True
    if of_norm:
        out = opened.target_norms(out)
        shape = _contract.batch_shape(opened.array.shape, call.axes, call.request.keepdims)
        return out, opened.writable(out, call.x, shape, call.norm)
    out = opened.target(out)
    return out, opened.writable(out, call.x, tuple(call.x.shape), call.result)


def _judges(call: Call, zero: str) -> bool:
    """Whether a policy has to look at the norms."""
    nonfinite = call.request.nonfinite
    if (zero in ("keep", "nan") and nonfinite != "raise") or call.opened.judges_later:
        return False
    if call.backend.traced(call.x):
        _contract.need_values(zero, nonfinite)
    return True


def _plain(call: Call, norms: Any) -> Any:
    """Norms as a NumPy array."""
    return np.asarray(on_host(norms, call.selection.row.library, copy=True))


def _refuse(call: Call, zero: str) -> None:
    """Raise where a policy says so; or find which vectors are to be null."""
    empty = any(call.opened.array.shape[d] == 0 for d in call.axes)
    norms = call.backend.norm(call.x, call.axes, keepdims=False, out=None, dtype=call.widest)
    norms = call.opened.judged(_plain(call, norms))
    if zero == "null" and not empty:
        call.opened.make_null(_contract.are_zero(norms))
    _contract.refuse(
        norms,
        lambda: _plain(call, call.backend.finite(call.x, call.axes)),
        zero,
        call.request.nonfinite,
        empty,
    )


def _fast_path_now(opened: Opened, x: Any, request: Request) -> _backends.FastPath | None:
    """The fast path for what has become an array only now, such as a list."""
    if opened.array is x or not opened.has_fast_path or request.dim is not None:
        return None
    return _backends.fast_path(opened.array, request.backend)


def normalize(x: Any, request: Request) -> Any:
    """`l2multi.normalize`, in general."""
    request = validated(request)
    opened = _containers.open(x, request)
    if (path := _fast_path_now(opened, x, request)) is not None:
        done = path.normalize(
            opened.array, request.axis, request.eps, request.zero, request.nonfinite, request.out,
            request.dtype, request.return_norm,
        )  # fmt: skip
        if done is not None:
            return done
    call = prepare(opened, request, of_norm=False)
    opened = call.opened
    out, direct = _target(call, of_norm=False)
    zero, judges = request.zero, _judges(call, request.zero)
    # Before anything is written; where nobody sees what is written, one way through x will do.
    before = out is not None or zero == "null"
    if judges and before:
        _refuse(call, zero)
    later = judges and not before
    y, norms = call.backend.normalize(
        call.x,
        call.axes,
        eps=request.eps,
        zero_nan=request.zero == "nan",
        out=out if direct else None,
        dtype=call.result,
        norm_dtype=call.norm if request.return_norm or later else None,
    )
    if later and not _contract.passes(_plain(call, norms), zero, request.nonfinite):
        _refuse(call, zero)
    if out is None:
        y = opened.close(y)
    else:
        if not direct:
            out[...] = opened.back(y)
        y = opened.close_target(request.out, None)
    return (y, opened.close_norms(norms, call.axes)) if request.return_norm else y


def norm(x: Any, request: Request) -> Any:
    """`l2multi.norm`, in general."""
    request = validated(request)
    opened = _containers.open(x, request)
    keepdims = request.keepdims
    if (path := _fast_path_now(opened, x, request)) is not None:
        done = path.norm(
            opened.array, request.axis, keepdims, request.nonfinite, request.out, request.dtype
        )
        if done is not None:
            return done
    call = prepare(opened, request, of_norm=True)
    axes, opened = call.axes, call.opened
    out, direct = _target(call, of_norm=True)
    judges = _judges(call, "keep")
    if judges and out is not None:
        _refuse(call, "keep")
    norms = call.backend.norm(
        call.x, axes, keepdims=keepdims, out=out if direct else None, dtype=call.norm
    )
    if out is None:
        if judges and not _contract.passes(_plain(call, norms), "keep", request.nonfinite):
            _refuse(call, "keep")
        return opened.close_norms(norms, axes, keepdims)
    if not direct:
        out[...] = opened.back(norms)
    return opened.close_target(request.out, axes, keepdims)


def explain(x: Any, request: Request) -> Explanation:
    """`l2multi.explain`."""
    request = validated(request)
    call = prepare(_containers.open(x, request), request, of_norm=False, look=True)
    row, backend, why = call.selection
    target = None if request.out is None else call.opened.target(request.out)
    return Explanation(row.name, *backend.kernel(call.x, call.axes, call.result, target), why)


def is_normalized(x: Any, request: Request, tol: float | None) -> Any:
    """`l2multi.is_normalized`, in general."""
    call = prepare(_containers.open(x, request), request, of_norm=True)
    norms = call.backend.norm(call.x, call.axes, keepdims=False, out=None, dtype=call.widest)
    return call.opened.close_norms(close_to_one(norms, call.opened.array.dtype, tol), call.axes)


def close_to_one(norms: Any, dtype: np.dtype[Any], tol: float | None) -> Any:
    """Which norms of vectors of `dtype` are within `tol` of 1, or within the default."""
    return abs(norms - 1) <= (_contract.default_tol(dtype) if tol is None else tol)
