"""Tiles: up to LANES vectors of a group go through together, a lane for each.

A group has some slots of lanes, one after another: the sums of squares, the powers of two that sums
or quotients need, their products, and the divisors.
"""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor, lanes, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.kernels.common import (
    INF,
    LOWEST,
    SCALE_DOWN,
    SCALE_UP,
    divisor_of,
    put_norm,
)
from l2multi.backends.numba.lanes import div, mul, splat
from l2multi.backends.numba.memory import get, get_double, get_int, put, put_double

SUMS, SCALE_UPS, SCALE_DOWNS, FACTORS, ROOTS, GROUP = range(6)
GROUP_BYTES = 8 * LANES * GROUP


@device
def reset(group):
    """No powers of two."""
    put(group, SCALE_UPS, splat(1.0))
    put(group, SCALE_DOWNS, splat(1.0))
    put(group, FACTORS, splat(1.0))


@device
def find_lost_sums(group, columns):
    """Find the sums that have left the safe range, and the power of two for each; whether there
    are any."""
    found = False
    for c in range(columns):
        total = get_double(group, SUMS * LANES + c)
        if total < LOWEST:
            put_double(group, SCALE_UPS * LANES + c, SCALE_UP)
            found = True
        elif total == INF:
            put_double(group, SCALE_DOWNS * LANES + c, SCALE_DOWN)
            found = True
    if found:
        put(group, FACTORS, mul(get(group, SCALE_UPS), get(group, SCALE_DOWNS)))
    return found


@device
def invert_roots(group):
    """The inverses of divisors, by which narrow kinds are multiplied."""
    put(group, ROOTS, div(splat(1.0), get(group, ROOTS)))


def settling(needs_rescaling: bool) -> Any:
    """A function: `divisor_of` for all vectors of a group at once, where none is special (groups of
    2-element vectors take a third of the time), or one by one; whether the division is plain for
    all."""
    # A sum above this needs no rescaling, and no root is zero.
    lowest = LOWEST if needs_rescaling else 0.0

    @device
    def settle(call, group, columns, norm, norm_step, rescued):
        total = get(group, SUMS)
        root = lanes.roots(total)
        norm_size, eps = get_int(call, descriptor.NORM_SIZE), get_double(call, descriptor.EPS)
        if (
            not rescued
            and lanes.all_above(total, lowest, columns)
            and lanes.all_above(root, eps, columns)
        ):
            put(group, ROOTS, root)
            if norm != 0 and norm_size != descriptor.JUDGED:  # for these pass
                if norm_step == norm_size and norm_size <= 8:
                    memory.put_floats(root, norm, columns, norm_size)
                else:
                    for c in range(columns):
                        one = get_double(group, ROOTS * LANES + c)
                        put_norm(call, norm + c * norm_step, one, one, 1.0, 1.0)
            return True
        plain = True
        put(group, ROOTS, splat(1.0))
        for c in range(columns):
            divisor, scale_up, scale_down, simple = divisor_of(
                call,
                norm + c * norm_step if norm else 0,
                get_double(group, SUMS * LANES + c),
                get_double(group, SCALE_UPS * LANES + c),
                get_double(group, SCALE_DOWNS * LANES + c),
            )
            put_double(group, ROOTS * LANES + c, divisor)
            put_double(group, SCALE_UPS * LANES + c, scale_up)
            put_double(group, SCALE_DOWNS * LANES + c, scale_down)
            plain = plain and simple
        return plain

    return settle
