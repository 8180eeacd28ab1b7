"""Tiles: up to LANES vectors of a group go through together, a lane for each.

A group has some slots of lanes, one after another: the sums of squares, the powers of two that sums
or quotients need, their products, and the divisors.
"""

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor, lanes, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.kernels.common import INF, LOWEST, SCALE_DOWN, SCALE_UP, put_norm
from l2multi.backends.numba.lanes import (
    canonical,
    div,
    mul,
    splat,
    where_at_most,
    where_below,
    where_equal,
)
from l2multi.backends.numba.memory import get, get_double, get_int, put

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
    total, one = get(group, SUMS), splat(1.0)
    if lanes.all_above(total, LOWEST, columns):
        return False
    ups = where_below(total, LOWEST, splat(SCALE_UP), one)
    downs = where_equal(total, INF, splat(SCALE_DOWN), one)
    put(group, SCALE_UPS, ups)
    put(group, SCALE_DOWNS, downs)
    put(group, FACTORS, mul(ups, downs))
    return scaled(ups, downs, columns)


@device
def scaled(ups, downs, columns):
    """Whether any of these powers of two is not 1."""
    return not lanes.all_above(div(downs, ups), 0.5, columns)


@device
def invert_roots(group):
    """The inverses of divisors, by which narrow kinds are multiplied."""
    put(group, ROOTS, div(splat(1.0), get(group, ROOTS)))


@device
def put_norms(call, group, columns, norm, norm_step, length):
    """Write or judge the norms, where they are wanted, of roots and powers of two in a group. The
    place of its sums is free by then."""
    norm_size = get_int(call, descriptor.NORM_SIZE)
    if norm == 0 or (norm_size == descriptor.JUDGED and lanes.all_above(length, 0.0, columns)):
        return
    if norm_step == norm_size and (norm_size == 4 or norm_size == 8):
        memory.put_floats(canonical(length), norm, columns, norm_size)
        return
    put(group, SUMS, canonical(length))
    for c in range(columns):
        put_norm(
            call,
            norm + c * norm_step,
            get_double(group, SUMS * LANES + c),
            get_double(group, ROOTS * LANES + c),
            get_double(group, SCALE_UPS * LANES + c),
            get_double(group, SCALE_DOWNS * LANES + c),
        )


@device
def settle(call, group, columns, norm, norm_step, rescued):
    """As `divisor_of`, for all vectors of a group at once; whether the division is plain for all.
    `rescued`: whether there may be powers of two."""
    eps, one, root = get_double(call, descriptor.EPS), splat(1.0), lanes.roots(get(group, SUMS))
    ups, downs = get(group, SCALE_UPS), get(group, SCALE_DOWNS)
    length = div(div(root, ups), downs) if rescued else root
    put(group, ROOTS, root)
    put_norms(call, group, columns, norm, norm_step, length)
    root = where_at_most(length, eps, splat(eps), root)
    zero_root = splat(get_double(call, descriptor.ZERO_ROOT))
    root = where_equal(length, 0.0, zero_root, root)
    put(group, ROOTS, root)
    plain = lanes.all_above(root, 0.0, columns)
    if rescued:
        ups, downs = where_at_most(length, eps, one, ups), where_at_most(length, eps, one, downs)
        put(group, SCALE_UPS, ups)
        put(group, SCALE_DOWNS, downs)
        plain = plain and not scaled(ups, downs, columns)
    return plain
