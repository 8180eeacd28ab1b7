"""Segmented: the elements of a vector lie in segments of neighbours, of whole rows of lanes or
long."""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, cabi, descriptor, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.kernels.rows import row_scale
from l2multi.backends.numba.lanes import BLOCK, greater, lesser, splat, sum_lanes
from l2multi.backends.numba.memory import LINE, get_int, put, set_int
from l2multi.backends.numba.plan import INNER


def segment_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of `n` elements in segments of `length`, of
    which the rows of the table `inner` but the last tell where they lie.

    Rows of lanes are read where they are. Those that do not lie in one segment are copied, and
    filled up with zeros, so that the last ones need no code of their own.
    """
    whole = arithmetic.sum_squares_at(source, scaled)
    size, line = source.size, source.size * LANES
    reserve, reserve_places = memory.stack(BLOCK), memory.room(BLOCK)
    prefetch = memory.prefetch(line)

    @device
    def sum_(x, n, length, inner, axes, scale, table, stack, ahead):
        rows, copies = reserve_places(), reserve()
        at, left, number, tail = x + common.offset(inner, axes, INNER, 1, 0), length, 0, splat(0.0)
        for first in range(0, n, common.BLOCK_SIZE):
            row, rest = 0, n - first
            while row < BLOCK:
                last = lesser(row + lesser(left, rest) // LANES, BLOCK)
                left, rest = left - (last - row) * LANES, rest - (last - row) * LANES
                for k in range(row, last):
                    prefetch(at + ahead)
                    set_int(rows, k, at)
                    at += line
                row = last
                if row < BLOCK and (left > 0 or rest <= 0):
                    copy = copies + row * line
                    set_int(rows, row, copy)
                    # Zero in all kinds; a slot of lanes has room for a row of any of them.
                    put(copy, 0, splat(0.0))
                    wanted, row = lesser(rest, LANES), row + 1
                    while wanted > 0:
                        if left == 0:
                            number, left = number + 1, length
                            at = x + common.offset(inner, axes, INNER, 1, number)
                        count = lesser(left, wanted)
                        cabi.copy_bytes(copy, at, count * size)
                        copy, at = copy + count * size, at + count * size
                        wanted, left, rest = wanted - count, left - count, rest - count
                if left == 0:
                    number, left = number + 1, length
                    at = x + common.offset(inner, axes, INNER, 1, number)
            total = whole(rows, scale, table)
            if n - first >= common.BLOCK_SIZE:
                common.push(stack, 0, 1, first // common.BLOCK_SIZE, total)
            else:
                tail = total
        return common.joined(stack, 0, 1, n // common.BLOCK_SIZE, tail)

    return sum_


def segmented_vector(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector of segments."""
    # Always scaled where sums may need it: one copy of the code, and times 1.0 changes no bit.
    needs_rescaling = source.needs_rescaling
    sum_, scale = segment_sum(source, needs_rescaling), row_scale(source, target)
    factor_of = common.quotient_factor(source.narrow and target.narrow)
    reserve, written = memory.stack(common.LEVELS), target.size

    @device
    def vector(call, x, y, norm, length, ahead_x, ahead_y, again_x, stream):
        stack, table, n = reserve(), get_int(call, descriptor.TABLE_X), common.numbers_of(call)
        inner, axes = get_int(call, descriptor.INNER), get_int(call, descriptor.INNER_AXES) - 1
        scale_up, scale_down, total, again = 1.0, 1.0, 0.0, True
        while again:
            factor, again = splat(scale_up * scale_down), False
            total = sum_lanes(sum_(x, n, length, inner, axes, factor, table, stack, ahead_x))
            if needs_rescaling:
                scale_up, scale_down, again = common.rescaled(total, scale_up, scale_down)
        root, scale_up, scale_down, plain = common.divisor_of(
            call, norm, total, scale_up, scale_down
        )
        if y == 0:
            return
        divisor = factor_of(root)
        for number in range(n // length):
            at_x = x + common.offset(inner, axes, INNER, 1, number)
            at_y = y + common.offset(inner, axes, INNER, 2, number)
            # Short segments are not streamed, for their ends are no whole lines: 4000 vectors of
            # eight segments of 384 bytes took twice the time. Where all begin on a line, a prefetch
            # of y takes as long as streaming does, and half of what neither takes.
            if ahead_y != 0 and not stream:
                for k in range(0, length * written, LINE):
                    memory.prefetch_for_write(at_y + k + ahead_y)
            scale(call, at_x, at_y, length, divisor, scale_up, scale_down, plain, again_x, stream)

    return vector


def segmented(source: Kind, target: Kind) -> Any:
    """Vectors of segments."""
    vector = segmented_vector(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y, norms, batch, batch_axes = common.arrays_of(call)
        inner, axes = get_int(call, descriptor.INNER), get_int(call, descriptor.INNER_AXES) - 1
        length = get_int(inner, axes * INNER) * get_int(call, descriptor.PARTS)
        _, _, stream = common.memory_habits(call, length, batch_axes, read, write)
        for axis in range(axes):
            stream = stream if get_int(inner, axis * INNER + 2) % write == 0 else 0
        n, ahead_x, ahead_y, again_x = common.numbers_of(call), 0, 0, 0
        if common.beyond_caches(call, read):
            ahead_x = common.next_rows(call, n, batch_axes, read, 1)
            ahead_y = common.next_rows(call, n, batch_axes, write, 2)
            # Of a vector that no cache holds, later segments of its own. Three vectors of segments
            # of 224 float32 then took half the time (Zen 5).
            later, at = greater(common.PREFETCH_LONG // (length * read), 1), (axes - 1) * INNER
            if ahead_x == 0:
                ahead_x = again_x = later * get_int(inner, at + 1)
            if ahead_y == 0:
                ahead_y = later * get_int(inner, at + 2)
        for i in range(first, last):
            at_x, at_y, norm = common.places(x, y, norms, batch, batch_axes, i)
            vector(call, at_x, at_y, norm, length, ahead_x, ahead_y, again_x, stream)
        if stream:
            memory.fence()

    return run
