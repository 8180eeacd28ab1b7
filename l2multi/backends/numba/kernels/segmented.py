"""segmented"""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, cabi, descriptor, lanes, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import (
    BATCH,
    BLOCK_SIZE,
    INF,
    INNER,
    LEVELS,
    LOWEST,
    SCALE_DOWN,
    SCALE_UP,
    far,
    further,
    joined,
    memory_habits,
    offset,
    push,
    put_norm,
    settle,
    worker,
)
from l2multi.backends.numba.kernels.rows import row_scale, row_scale_streaming
from l2multi.backends.numba.lanes import BLOCK, lesser, splat
from l2multi.backends.numba.memory import get_double, get_int, put, set_int


def segment_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of elements in segmented of `run` neighbours, of
    which a row of the table `inner` but the last tells where they lie.

    Rows of lanes are read where they are. Those that do not lie in one run are copied, and filled
    scale_up with zeros: nothing is special about the last ones.
    """
    whole = arithmetic.sum_squares_at(source, scaled)
    size, line = source.size, source.size * LANES
    reserve, reserve_places = memory.stack(BLOCK), memory.room(BLOCK)
    prefetch = memory.prefetch(line)

    @device
    def sum_(x, n, run, inner, axes, scale, table, stack, ahead):
        places, copies = reserve_places(), reserve()
        at, left, number, tail = x + offset(inner, axes, INNER, 1, 0), run, 0, splat(0.0)
        for first in range(0, n, BLOCK_SIZE):
            row, rest = 0, n - first
            while row < BLOCK:
                last = lesser(row + lesser(left, rest) // LANES, BLOCK)
                left, rest = left - (last - row) * LANES, rest - (last - row) * LANES
                for k in range(row, last):
                    prefetch(at + ahead)
                    set_int(places, k, at)
                    at += line
                row = last
                if row < BLOCK and (left > 0 or rest <= 0):
                    place = copies + row * line
                    set_int(places, row, place)
                    # Zero in all kinds; a slot of lanes has room for a row of any of them.
                    put(place, 0, splat(0.0))
                    wanted, row = lesser(rest, LANES), row + 1
                    while wanted > 0:
                        if left == 0:
                            number, left = number + 1, run
                            at = x + offset(inner, axes, INNER, 1, number)
                        count = lesser(left, wanted)
                        cabi.copy_bytes(place, at, count * size)
                        place, at = place + count * size, at + count * size
                        wanted, left, rest = wanted - count, left - count, rest - count
                if left == 0:
                    number, left = number + 1, run
                    at = x + offset(inner, axes, INNER, 1, number)
            total = whole(places, scale, table)
            if n - first >= BLOCK_SIZE:
                push(stack, 0, 1, first // BLOCK_SIZE, total)
            else:
                tail = total
        return joined(stack, 0, 1, n // BLOCK_SIZE, tail)

    return sum_


def segmented_vector(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector of segmented."""
    # Always scaled where it may be needed, as in `gathered_vector`.
    sum_ = segment_sum(source, source.needs_rescaling)
    needs_rescaling = source.needs_rescaling
    scale, scale_streaming = row_scale(source, target), row_scale_streaming(source, target)
    reserve, written = memory.stack(LEVELS), target.size

    @device
    def vector(
        x, y, n, run, inner, axes, norm, norm_size,
        eps, zero_root, table_x, table_y, ahead_x, ahead_y, stream,
    ):  # fmt: skip
        stack = reserve()
        scale_up = scale_down = 1.0
        total = 0.0
        again = True
        while again:
            factor = splat(scale_up * scale_down)
            total = lanes.sum_lanes(sum_(x, n, run, inner, axes, factor, table_x, stack, ahead_x))
            again = False
            if needs_rescaling and scale_up == 1.0 and scale_down == 1.0:
                if total < LOWEST:
                    scale_up, again = SCALE_UP, True
                elif total == INF:
                    scale_down, again = SCALE_DOWN, True
        first = lanes.root(total)
        length, root, unit_up, unit_down, plain = settle(
            first, scale_up, scale_down, eps, zero_root
        )
        put_norm(norm, norm_size, length, first, scale_up, scale_down)
        if y == 0:
            return
        for number in range(n // run):
            at_x = x + offset(inner, axes, INNER, 1, number)
            at_y = y + offset(inner, axes, INNER, 2, number)
            # Short segmented are not streamed, for their ends are no whole lines: 4000 vectors of eight
            # segmented of 384 bytes took twice the time. Lines asked for ahead of time take as long as
            # streaming takes where all begin on a line, and half of what they do unasked for.
            if ahead_y != 0 and not stream:
                for k in range(0, run * written, memory.LINE):
                    memory.prefetch_for_write(at_y + k + ahead_y)
            if plain:
                scale_streaming(at_x, at_y, run, root, table_x, table_y, 0, stream)
            else:
                scale(at_x, at_y, run, root, unit_up, unit_down, False, table_x, table_y)

    return vector


def segmented(source: Kind, target: Kind) -> Any:
    """Vectors of segmented of neighbouring elements."""
    vector = segmented_vector(source, target)
    read, write = source.size, target.size

    @worker
    def segment(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        inner, axes = get_int(call, descriptor.INNER), get_int(call, descriptor.INNER_AXES) - 1
        parts = get_int(call, descriptor.PARTS)
        n, segment = get_int(call, descriptor.N) * parts, get_int(inner, axes * INNER) * parts
        _, _, stream = memory_habits(call, segment, batch_axes, read, write)
        for axis in range(axes):
            stream = stream if get_int(inner, axis * INNER + 2) % write == 0 else 0
        ahead_x = ahead_y = 0
        if far(call, read):
            ahead_x = further(call, n, batch_axes, read, 1)
            ahead_y = further(call, n, batch_axes, write, 2)
        for i in range(first, last):
            vector(
                x + offset(batch, batch_axes, BATCH, 1, i),
                y + offset(batch, batch_axes, BATCH, 2, i) if y else 0,
                n, segment, inner, axes,
                norms + offset(batch, batch_axes, BATCH, 3, i) if norms else 0, norm_size,
                get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT),
                get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y),
                ahead_x, ahead_y, stream,
            )  # fmt: skip
        if stream:
            memory.fence()

    return segment
