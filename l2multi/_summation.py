"""The order of the summation: a specification, used by NumPy and followed by Numba.

The sum of the squares of one vector ``x[0], ..., x[n-1]`` (in C order over its axes; a complex
element counts as its real, then its imaginary part) is defined to the last bit:

1. *Square.* Each element is converted to float64, which is exact for all dtypes but int64, uint64
   (rounded to nearest) and longdouble (which is summed as longdouble). It is multiplied by itself
   and rounded. No fused multiply-add, but where squares are exact (float32 and narrower) and it
   gives the same bits.
2. *Lanes and rows.* Square ``i`` stands in row ``i // LANES``, lane ``i % LANES``; the last row is
   filled up with zeros, which change no sum.
3. *Tree over rows.* Within each lane, neighbouring rows are added in pairs, then neighbouring
   results, and so on: ``((r0 + r1) + (r2 + r3)) + ...``. A result without a neighbour moves up
   unchanged.
4. *Tree over lanes.* The upper half of the lanes is added to the lower half until one is left.

Why a tree: its error grows with the logarithm of n; a row of equal values is summed all but
exactly; aligned parts of a long vector can be summed apart (by chunks, or by threads) and joined
with the same bits; and nothing in it waits for the previous addition, so it runs as fast as any.

*Rescue.* Squares of float32 and narrower values neither overflow nor underflow in float64. For
float64 a sum outside ``[LOWEST, inf)`` says that squares may have been lost. It is formed again
from ``x * 2**600`` if it is too small, or ``x * 2**-600`` if it is inf: powers of two, so the
products are exact where they matter. With ``r`` the square root of that sum,

====================  ==========================  ===================
sum of squares        norm                        element of the unit vector
====================  ==========================  ===================
in the safe range     ``r``                       ``x / r``
too small             ``r * 2**-600``             ``(x * 2**600) / r``
inf                   ``r * 2**600``              ``(x / r) * 2**-600``
====================  ==========================  ===================

Longdouble has its own exponent range, and powers of two in proportion.

*Quotient.* Where input and output are both narrower than float64 the element is
``x * (1 / r)`` in float64, rounded once: 0.5 ulp and 2**-28 more. Otherwise it is the quotient.

*Rounding.* Dtypes narrower than float32 are reached from float64 by way of float32 rounded to odd
(truncated, the last bit set if anything was cut off), which makes the second rounding the only
one that counts: Boldo and Melquiond, IEEE Trans. Comput. 57 (2008), doi:10.1109/TC.2007.70819.

*NaN.* A NaN that is written is the canonical quiet NaN of its dtype, its sign bit clear.
"""

from typing import Any, NamedTuple

import numpy as np

LANES = 16


class Rescue(NamedTuple):
    """The safe range of a sum of squares and the powers of two for what lies outside."""

    lowest: Any
    scale_up: Any
    scale_down: Any


def rescue(dtype: np.dtype[Any]) -> Rescue:
    """The rescue of sums of `dtype`, float64 or longdouble.

    For float64, ``2**-900``, ``2**600`` and ``2**-600``: a sum of ``2**-900`` has lost less than
    ``n * 2**-1075`` to underflow, and ``2**600`` takes the smallest subnormal, ``2**-1074``, to
    where its square is normal.
    """
    one = dtype.type(1)
    unit = int(np.finfo(dtype).maxexp) // 1024
    return Rescue(np.ldexp(one, -900 * unit), np.ldexp(one, 600 * unit), np.ldexp(one, -600 * unit))


def sum_rows(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Step 3, over the last but one axis: ``(..., rows, LANES)`` to ``(..., LANES)``."""
    while (count := rows.shape[-2]) > 1:
        pairs = rows[..., 0 : count - 1 : 2, :] + rows[..., 1::2, :]
        rows = pairs if count % 2 == 0 else np.concatenate([pairs, rows[..., -1:, :]], axis=-2)
    return rows[..., 0, :]


def sum_lanes(lanes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Step 4, over the last axis: ``(..., LANES)`` to ``(...)``."""
    while (half := lanes.shape[-1] // 2) > 0:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


class RowTree:
    """Step 3 over the parts of a long vector, one at a time, each ``2**k`` rows but the last."""

    def __init__(self) -> None:
        self._done: list[tuple[int, np.ndarray[Any, Any]]] = []

    def add(self, lanes: np.ndarray[Any, Any]) -> None:
        """Take in the sum of the next part, and join the subtrees that it completes."""
        level = 0
        while self._done and self._done[-1][0] == level:
            lanes = self._done.pop()[1] + lanes
            level += 1
        self._done.append((level, lanes))

    def total(self) -> np.ndarray[Any, Any]:
        """The sum of all rows."""
        _, lanes = self._done[-1]
        for _, earlier in reversed(self._done[:-1]):
            lanes = earlier + lanes
        return lanes
