"""The fast path of NumPy arrays: a compiled function of the caller's objects, by the input's dtype.

It validates what is usual and leaves the rest to the general path, before anything is written.
"""

from typing import Any

import numpy as np
from numpy import empty, ndarray  # 20 ns of each call

from l2multi import _contract
from l2multi.backends.numba.fast_call import FastCall
from l2multi.backends.numba.threads import limit

Array = np.ndarray[Any, Any]
# A fast call, and the dtype of its result.
Way = tuple[FastCall, np.dtype[Any]]


class FastPath:
    """For native arrays of one dtype."""

    backend = "numba"

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.norm_dtype = _contract.rule(dtype).norm
        self.own: Way | None = None  # results without ``dtype=``
        self.ways: dict[Any, Way] = {}  # and with it, as the caller says it

    def normalize(
        self, x: Array, axis: Any, eps: Any, zero: Any, nonfinite: Any,
        out: Any, dtype: Any, return_norm: Any,
    ) -> Any:  # fmt: skip
        """As `l2multi.normalize`; None where a call needs the general path."""
        if dtype is None:
            way = self.own
        else:
            way = self.ways.get(dtype) if _contract.hashable(dtype) else None
        if way is None:
            return None
        call, result = way
        norms: Any = None
        nan, judged = False, 0
        if zero != "keep" or nonfinite != "propagate":
            policies = _policies(zero, nonfinite)
            if policies is None:
                return None
            nan, judged = policies
            # Where nobody sees what is written, one way through x will do.
            if judged and out is not None:
                if not self._passes(x, axis, judged):
                    return None
                judged = 0
            norms = judged or None
        if return_norm:
            shape = _norm_shape(x, axis, False)
            if shape is None:
                return None
            norms = empty(shape, self.norm_dtype)
        if out is None:
            y = empty(x.shape, result)
            done = call(x, y, norms, eps, axis, True, nan, 0)
            if done is True and not return_norm:  # 10 ns saved
                return y
            if done is None:
                y = np.empty_like(x, result)
                done = call(x, y, norms, eps, axis, False, nan, 0)
        elif type(out) is ndarray:
            y = out
            done = call(x, y, norms, eps, axis, False, nan, 0)
        else:
            return None
        if done is int:
            done = call(x, y, norms, eps, axis, False, nan, limit())
        if done is not True:
            return None
        if not return_norm:
            return y
        if judged and not _contract.passes(norms, zero, nonfinite):
            return None
        return y, norms[()]

    def rows(
        self, x: int, y: int, n: int, count: int, eps: Any, zero: Any, nonfinite: Any, seen: bool
    ) -> bool:
        """As `normalize`, of so many rows of `n` elements, one after another, from an address to
        another: the same, or one that shares nothing with it. Somebody may have `seen` what is to
        be written over. False where a call needs the general path."""
        if self.own is None:
            return False
        call, _ = self.own
        nan, judged = False, None
        if zero != "keep" or nonfinite != "propagate":
            policies = _policies(zero, nonfinite)
            if policies is None:
                return False
            nan, judged = policies[0], policies[1] or None
            if judged and seen:
                if not self._passes(x, n, judged, count):
                    return False
                judged = None
        done = call(x, y, judged, eps, n, count, nan, 0)
        if done is int:
            done = call(x, y, judged, eps, n, count, nan, limit())
        return done is True

    def norm(self, x: Array, axis: Any, keepdims: Any, nonfinite: Any, out: Any, dtype: Any) -> Any:
        """As `l2multi.norm`; None where a call needs the general path."""
        way, shape = self.own, _norm_shape(x, axis, keepdims)
        if way is None or shape is None:
            return None
        later = False
        if nonfinite != "propagate":
            if nonfinite not in _contract.NONFINITE:
                return None
            later = out is None
            if not later and not self._passes(x, axis, 2):
                return None
        if dtype is None:
            dtype = self.norm_dtype
        elif (dtype := _contract.floating(dtype, complex_=False)) not in (np.float32, np.float64):
            return None
        norms = empty(shape, dtype) if out is None else out
        if out is not None and not (
            type(out) is np.ndarray
            and out.dtype == dtype
            and out.shape == shape
            and out.flags.carray
            and not np.may_share_memory(out, x)
        ):
            return None
        done = way[0](x, None, norms, 0.0, axis, False, False, 0)
        if done is int:
            done = way[0](x, None, norms, 0.0, axis, False, False, limit())
        if done is not True or (later and not _contract.passes(norms, "keep", nonfinite)):
            return None
        return norms[()] if out is None else out

    def _passes(self, x: Array | int, axis: Any, judged: int, rows: int = 0) -> bool:
        """Whether these policies refuse no vector, before anything is written: of an array along an
        axis or, as the fast call is told of them, of so many rows from an address."""
        if self.own is None:
            return False
        call = self.own[0]
        done = call(x, None, judged, 0.0, axis, rows, False, 0)
        if done is int:
            done = call(x, None, judged, 0.0, axis, rows, False, limit())
        return done is True


def _policies(zero: Any, nonfinite: Any) -> tuple[bool, int] | None:
    """Whether zero vectors become NaN, and what judges norms: an int, whatever they are, for the
    fast call takes all else for an array. None for what is no policy."""
    if zero not in _contract.ZERO or nonfinite not in _contract.NONFINITE:
        return None
    return zero == "nan", (1 if zero == "raise" else 0) + (2 if nonfinite == "raise" else 0)


def _norm_shape(x: Array, axis: Any, keepdims: Any) -> Any:
    """The shape of the norms, or None where the axis needs a closer look. For one axis it takes
    0.3 us, by the general rule 3."""
    if type(axis) is int and not keepdims and -x.ndim <= axis < x.ndim:
        return x.shape[:axis] + x.shape[axis:][1:]
    try:
        axes = _contract.normalize_axes(axis, x.ndim)
    except (TypeError, ValueError):
        return None
    return _contract.batch_shape(x.shape, axes, keepdims)
