"""Quantities of pint and astropy: unit vectors have no unit, norms keep it."""

from typing import Any

import numpy as np

from l2multi import _containers, _contract
from l2multi._containers import Inside, Opened


class Quantity(Inside):
    """Numbers with a unit; the numbers are opened in their place."""

    def __init__(self, inner: Opened, unit: Any) -> None:
        super().__init__(inner)
        self.unit = unit

    def close(self, y: Any) -> Any:
        return self.inner.close(y)

    def wrap(self, result: Any) -> Any:
        if getattr(result, "dtype", None) == np.bool_:
            return result
        return result * self.unit


def open(x: Any, request: _contract.Request) -> Opened:
    """Its numbers, in its unit. `eps` is in that unit too."""
    numbers, unit = (x.magnitude, x.units) if hasattr(x, "magnitude") else (x.value, x.unit)
    return Quantity(_containers.open(numbers, request), unit)
