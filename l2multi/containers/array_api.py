"""Arrays of libraries that follow the array API standard, and that have no file of their own."""

from typing import Any

import numpy as np

from l2multi import _backends, _contract
from l2multi._opened import Opened


class Array(Opened):
    """An array as its library has it."""

    has_fast_path = False

    def __init__(self, x: Any, like: Any, numpy_dtype: Any) -> None:
        super().__init__(like, "array_api")
        self.x, self.numpy_dtype = x, numpy_dtype

    def values(self, axes: tuple[int, ...], look: bool) -> Any:
        return self.x

    def asked(self, dtype: Any) -> Any:
        """A ``dtype=`` by NumPy's name or by the library's own, if the library has it."""
        found = dtype
        if not isinstance(dtype, (str, type)):
            found = self.numpy_dtype(self.array.xp, dtype)
        for complex_ in (False, True):
            try:
                found = _contract.floating(found, complex_=complex_)
            except TypeError:
                continue
            if self.array.own(found) is None:
                library = self.array.xp.__name__
                raise TypeError(
                    f"dtype: {library} has no {_contract.name(found)} on device {self.array.device}"
                )
        return found

    def default_float(self) -> np.dtype[Any]:
        default: np.dtype[Any] = self.array.default_float()
        return default

    def target(self, out: Any) -> Any:
        raise TypeError(
            "out: functions of the array API write to no array that is given to them, for arrays "
            "may be immutable or lazy, so out= cannot be used"
        )


def open(x: Any, request: _contract.Request) -> Opened:
    """As it is."""
    _backends.home("array_api")  # or an ImportError that says what to install
    from l2multi.backends import array_api

    return Array(x, array_api.like(x), array_api.numpy_dtype)
