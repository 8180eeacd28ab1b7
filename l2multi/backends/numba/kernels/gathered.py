"""gathered"""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, lanes, memory
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
    offset,
    put_norm,
    settle,
    worker,
)
from l2multi.backends.numba.kernels.rows import row_scale, row_sum
from l2multi.backends.numba.lanes import lesser, splat
from l2multi.backends.numba.memory import get_double, get_int

BUFFER = 1024  # elements, a power of two of blocks


# One element, and many.
copied = {size: (memory.move(size, 1), memory.move(size, LANES)) for size in (1, 2, 4, 8)}


def moving(size: int) -> Any:
    """A function that copies elements of so many bytes, ``(from, step, to, step, count, parts,
    swap)``; `parts` is 2 for complex ones."""
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


def gathered_vector(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector, however it lies in memory_habits."""
    # Always scaled where it may be needed: one copy of the code, and times 1.0 changes no bit.
    add_blocks, finish = row_sum(source, source.needs_rescaling)
    needs_rescaling = source.needs_rescaling
    scale = row_scale(source, target)
    size, written = source.size, target.size
    move_in, move_out = moving(size), moving(written)
    reserve, reserve_buffer = memory.stack(LEVELS), memory.stack(BUFFER // LANES)

    @device
    def gather(x, first, count, inner, axes, parts, swap, buffer):
        """Copy elements from `first` on to a buffer; `parts` is 2 for complex ones."""
        run = get_int(inner, (axes - 1) * INNER)
        step = get_int(inner, (axes - 1) * INNER + 1)
        row, within = first // run, first % run
        while count > 0:
            start = x + offset(inner, axes - 1, INNER, 1, row) + within * step
            most = lesser(run - within, count)
            if step == parts * size and swap == 0:
                cabi.copy_bytes(buffer, start, most * step)
            else:
                move_in(start, step, buffer, parts * size, most, parts, swap)
            buffer += most * parts * size
            row, within = row + 1, 0
            count -= most

    @device
    def scatter(buffer, y, first, count, inner, axes, parts):
        """Copy elements back, from a buffer."""
        run = get_int(inner, (axes - 1) * INNER)
        step = get_int(inner, (axes - 1) * INNER + 2)
        row, within = first // run, first % run
        while count > 0:
            start = y + offset(inner, axes - 1, INNER, 2, row) + within * step
            most = lesser(run - within, count)
            if step == parts * written:
                cabi.copy_bytes(start, buffer, most * step)
            else:
                move_out(buffer, parts * written, start, step, most, parts, 0)
            buffer += most * parts * written
            row, within = row + 1, 0
            count -= most

    @device
    def vector(
        x, y, n, inner, axes, parts, swap, norm, norm_size, eps, zero_root, table_x, table_y
    ):
        stack, buffer, result = reserve(), reserve_buffer(), reserve_buffer()
        most = BUFFER // parts
        scale_up = scale_down = root = 1.0
        plain, scaling, filled = True, False, False
        # Once for the sum, again where it was lost, and at last for the unit vector.
        while True:
            factor, sums, blocks = splat(scale_up * scale_down), splat(0.0), 0
            for first in range(0, n, most):
                count = lesser(most, n - first)
                if not filled:
                    gather(x, first, count, inner, axes, parts, swap, buffer)
                if scaling:
                    scale(
                        buffer,
                        result,
                        count * parts,
                        root,
                        scale_up,
                        scale_down,
                        plain,
                        table_x,
                        table_y,
                    )
                    scatter(result, y, first, count, inner, axes, parts)
                    continue
                whole = count * parts // BLOCK_SIZE
                add_blocks(buffer, blocks, whole, factor, table_x, stack, 0)
                blocks += whole
                if first + count == n:
                    tail, left = (
                        buffer + whole * BLOCK_SIZE * size,
                        count * parts - whole * BLOCK_SIZE,
                    )
                    sums = finish(tail, blocks, left, factor, table_x, stack)
            if scaling:
                return
            filled = n <= most
            total = lanes.sum_lanes(sums)
            if needs_rescaling and scale_up == 1.0 and scale_down == 1.0:
                if total < LOWEST:
                    scale_up = SCALE_UP
                elif total == INF:
                    scale_down = SCALE_DOWN
                if scale_up != 1.0 or scale_down != 1.0:
                    continue
            first_root = lanes.root(total)
            length, root, unit_up, unit_down, plain = settle(
                first_root, scale_up, scale_down, eps, zero_root
            )
            put_norm(norm, norm_size, length, first_root, scale_up, scale_down)
            if y == 0:
                return
            scale_up, scale_down, scaling = unit_up, unit_down, True

    return vector


def gathered(source: Kind, target: Kind) -> Any:
    """Vectors of any layout and byte order."""
    vector = gathered_vector(source, target)

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        for i in range(first, last):
            vector(
                x + offset(batch, batch_axes, BATCH, 1, i),
                y + offset(batch, batch_axes, BATCH, 2, i) if y else 0,
                get_int(call, descriptor.N),
                get_int(call, descriptor.INNER), get_int(call, descriptor.INNER_AXES),
                get_int(call, descriptor.PARTS), get_int(call, descriptor.SWAP),
                norms + offset(batch, batch_axes, BATCH, 3, i) if norms else 0, norm_size,
                get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT),
                get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y),
            )  # fmt: skip

    return run
