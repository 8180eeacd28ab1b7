"""Gathered: vectors of any layout and byte order, whose elements are copied to a small buffer and
back."""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.kernels.rows import row_scale, row_sum
from l2multi.backends.numba.lanes import lesser, splat, sum_lanes
from l2multi.backends.numba.memory import get_int
from l2multi.backends.numba.plan import INNER

BUFFER = 1024  # numbers, a power of two of blocks

# A copy of one element, and of many.
copied = {size: (memory.move(size, 1), memory.move(size, LANES)) for size in (1, 2, 4, 8)}


def moving(size: int) -> Any:
    """A function that copies elements of so many bytes, ``(from, step, to, step, count, parts,
    swap)``."""
    one, many = copied[size]

    @device
    def move(at, step, to, step_to, count, parts, swap):
        for part in range(parts):
            x, y = at + part * size, to + part * size
            for _ in range(count // LANES):
                many(x, step, y, step_to, swap)
                x, y = x + LANES * step, y + LANES * step_to
            for _ in range(count % LANES):
                one(x, step, y, step_to, swap)
                x, y = x + step, y + step_to

    return move


def gathering(size: int, back: bool) -> Any:
    """A function that copies `count` elements of a vector, from number `first` on, to a buffer, or
    back from it to y."""
    move, column = moving(size), 2 if back else 1

    @device
    def copy(call, vector, first, count, buffer):
        inner, axes = get_int(call, descriptor.INNER), get_int(call, descriptor.INNER_AXES)
        parts, swap = get_int(call, descriptor.PARTS), 0
        if not back:
            swap = get_int(call, descriptor.SWAP)
        length = get_int(inner, (axes - 1) * INNER)
        step = get_int(inner, (axes - 1) * INNER + column)
        row, within, near = first // length, first % length, parts * size
        while count > 0:
            start = vector + common.offset(inner, axes - 1, INNER, column, row) + within * step
            most = lesser(length - within, count)
            if step == near and swap == 0:
                if back:
                    cabi.copy_bytes(start, buffer, most * step)
                else:
                    cabi.copy_bytes(buffer, start, most * step)
            elif back:
                move(buffer, near, start, step, most, parts, 0)
            else:
                move(start, step, buffer, near, most, parts, swap)
            buffer += most * near
            row, within = row + 1, 0
            count -= most

    return copy


def gathered_vector(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector, however it lies in memory."""
    # Always scaled where it may be needed, as in `segmented_vector`.
    needs_rescaling = source.needs_rescaling
    add_blocks, finish, _ = row_sum(source, needs_rescaling)
    scale, size = row_scale(source, target), source.size
    factor_of = common.quotient_factor(source.narrow and target.narrow)
    gather, scatter = gathering(size, False), gathering(target.size, True)
    reserve, reserve_buffer = memory.stack(common.LEVELS), memory.stack(BUFFER // LANES)

    @device
    def vector(call, x, y, norm):
        stack, buffer, result = reserve(), reserve_buffer(), reserve_buffer()
        n, parts, table = (
            get_int(call, descriptor.N),
            get_int(call, descriptor.PARTS),
            get_int(call, descriptor.TABLE_X),
        )
        most = BUFFER // parts
        scale_up = scale_down = divisor = 1.0
        plain, scaling, filled = True, False, False
        # Once for the sum, again where that needs rescaling, and at last for the unit vector.
        while True:
            factor, sums, blocks = splat(scale_up * scale_down), splat(0.0), 0
            for first in range(0, n, most):
                count = lesser(most, n - first)
                if not filled:
                    gather(call, x, first, count, buffer)
                if scaling:
                    scale(
                        call, buffer, result, count * parts,
                        divisor, scale_up, scale_down, plain, 0, 0,
                    )  # fmt: skip
                    scatter(call, y, first, count, result)
                    continue
                whole = count * parts // common.BLOCK_SIZE
                add_blocks(buffer, blocks, whole, factor, table, stack, 0)
                blocks += whole
                if first + count == n:
                    done = whole * common.BLOCK_SIZE
                    sums = finish(
                        buffer + done * size, blocks, count * parts - done, factor, table, stack
                    )
            if scaling:
                return
            filled = n <= most
            total = sum_lanes(sums)
            if needs_rescaling:
                scale_up, scale_down, again = common.rescaled(total, scale_up, scale_down)
                if again:
                    continue
            root, scale_up, scale_down, plain = common.divisor_of(
                call, norm, total, scale_up, scale_down
            )
            if y == 0:
                return
            divisor, scaling = factor_of(root), True

    return vector


def gathered(source: Kind, target: Kind) -> Any:
    """Vectors of any layout and byte order."""
    vector = gathered_vector(source, target)

    @worker
    def run(first, last, call):
        x, y, norms, batch, axes = common.arrays_of(call)
        for i in range(first, last):
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, i)
            vector(call, at_x, at_y, norm)

    return run
