"""Quantities of pint and astropy: unit vectors have no unit, norms keep it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from l2multi import _containers, _contract
from l2multi._opened import Inside, Opened


class Quantity(Inside):
    """Numbers with a unit; the numbers are opened in their place, and `made` gives others it."""

    def __init__(self, inner: Opened, made: Callable[[Any], Any]) -> None:
        super().__init__(inner)
        self.made = made

    def close(self, y: Any) -> Any:
        return self.inner.close(y)

    def wrap(self, result: Any) -> Any:
        if getattr(result, "dtype", None) == np.bool_:
            return result
        return self.made(result)


def _check_unit(x: Any) -> None:
    """Refuse a unit in which numbers have no length: one with an offset, or of logarithms."""
    if hasattr(x, "magnitude"):
        unit, cure, one = x.units, "x.to_base_units()", type(x)(1.0, x.units)
        try:
            multiplies = (one * one).units == unit**2
        except Exception:  # pint's own for such units, which are not importable by one name
            multiplies = False
    else:
        unit, cure, multiplies = x.unit, "x.physical", not hasattr(x.unit, "function_unit")
    if not multiplies:
        raise TypeError(
            f"x: numbers in {unit} are no multiples of a unit, so that they have no length; try "
            f"{cure}"
        )


def open(x: Any, request: _contract.Request) -> Opened:
    """Its numbers, in its unit. `eps` is in that unit too."""
    # Not by products, which would change numbers where subnormal ones are taken for zero.
    _check_unit(x)
    if hasattr(x, "magnitude"):
        return Quantity(
            _containers.open(x.magnitude, request), lambda norms: type(x)(norms, x.units)
        )
    return Quantity(_containers.open(x.value, request), lambda norms: norms << x.unit)
