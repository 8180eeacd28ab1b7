"""Masked arrays: masked entries do not count and stay masked."""

from typing import Any

import numpy as np

from l2multi import _contract
from l2multi._opened import Opened
from l2multi.containers import numpy_array


class MaskedArray(Opened):
    """A masked array, computed on a copy whose masked entries do not count, if there are any."""

    has_fast_path = False

    def __init__(self, x: Any) -> None:
        super().__init__(x.data, "numpy")
        self.mask = np.ma.getmaskarray(x)

    def _masked(self, axes: tuple[int, ...], keepdims: bool) -> Any:
        """Which vectors are masked in full; an empty one is not."""
        empty = any(self.mask.shape[d] == 0 for d in axes)
        return self.mask.all(axis=axes, keepdims=keepdims) & (not empty)

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        """A vector masked in full is filled with ones: it is not a zero vector, nothing of it
        shows."""
        if look:
            return np.empty_like(self.array, subok=False)
        if not self.mask.any():
            return self.array
        data = np.array(self.array)
        np.copyto(data, np.zeros((), data.dtype), where=self.mask)
        np.copyto(data, np.ones((), data.dtype), where=self._masked(axes, True))
        return data

    def target(self, out: Any) -> Any:
        if not isinstance(out, np.ma.MaskedArray):
            raise TypeError(f"out: expected a numpy.ma.MaskedArray, got {type(out).__name__}")
        return np.asarray(numpy_array.base("out", out).data)

    def close(self, y: Any) -> Any:
        return np.ma.MaskedArray(y, self.mask.copy())

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return np.ma.MaskedArray(norms, self._masked(axes, keepdims))[()]

    def close_target(self, out: Any, axes: tuple[int, ...] | None, keepdims: bool = False) -> Any:
        out.mask = self.mask if axes is None else self._masked(axes, keepdims)
        return out


def open(x: Any, request: _contract.Request) -> Opened:
    """With its mask."""
    numpy_array.check_dtype(x)
    return MaskedArray(numpy_array.base("x", x))
