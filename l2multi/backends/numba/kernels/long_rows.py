"""long rows"""

from typing import Any

from l2multi.backends.numba import descriptor, lanes, memory, plan
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import (
    BATCH,
    BLOCK_SIZE,
    INF,
    LEVELS,
    LOWEST,
    SCALE_DOWN,
    SCALE_UP,
    joined,
    memory_habits,
    offset,
    push,
    put_norm,
    settle,
    worker,
)
from l2multi.backends.numba.kernels.rows import row_scale, row_scale_streaming, row_sum
from l2multi.backends.numba.lanes import lesser, splat
from l2multi.backends.numba.memory import get, get_double, get_int, put, set_int
from l2multi.backends.numba.thread_pool import LONG, call_parallel_for


def part_sum(source: Kind, target: Kind) -> Any:
    """The sums over lanes of parts of a long vector, each put into a slot."""
    add_blocks, finish = row_sum(source, False)
    add_scaled, finish_scaled = (
        row_sum(source, True) if source.needs_rescaling else (add_blocks, finish)
    )
    reserve, read, write = memory.stack(LEVELS), source.size, target.size
    blocks, top = plan.SPLIT // BLOCK_SIZE, (plan.SPLIT // BLOCK_SIZE).bit_length() - 1

    @worker
    def run(first, last, call):
        stack = reserve()
        n = get_int(call, descriptor.N) * get_int(call, descriptor.PARTS)
        factor, table = get_double(call, descriptor.FACTOR), get_int(call, descriptor.TABLE_X)
        ahead, _, _ = memory_habits(call, n, 0, read, write)
        for part in range(first, last):
            x = get_int(call, descriptor.VECTOR_X) + part * plan.SPLIT * read
            count = lesser(plan.SPLIT, n - part * plan.SPLIT)
            whole = count // BLOCK_SIZE
            tail, left = x + whole * BLOCK_SIZE * read, count % BLOCK_SIZE
            if factor == 1.0:
                add_blocks(x, 0, whole, splat(factor), table, stack, ahead)
                total = finish(tail, whole, left, splat(factor), table, stack)
            else:
                add_scaled(x, 0, whole, splat(factor), table, stack, ahead)
                total = finish_scaled(tail, whole, left, splat(factor), table, stack)
            lanes = get(stack, top) if whole == blocks else total
            put(get_int(call, descriptor.SCRATCH), part, lanes)

    return run


def part_scale(source: Kind, target: Kind) -> Any:
    """Parts of a long vector divided by the divisor."""
    scale, scale_streaming = row_scale(source, target), row_scale_streaming(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        n = get_int(call, descriptor.N) * get_int(call, descriptor.PARTS)
        start, stop = first * plan.SPLIT, lesser(last * plan.SPLIT, n)
        x = get_int(call, descriptor.VECTOR_X) + start * read
        y = get_int(call, descriptor.VECTOR_Y) + start * write
        root, plain = get_double(call, descriptor.ROOT), get_int(call, descriptor.PLAIN) != 0
        table_x, table_y = get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y)
        if plain:
            _, ahead, stream = memory_habits(call, n, 0, read, write)
            scale_streaming(x, y, stop - start, root, table_x, table_y, ahead, stream)
            if stream:
                memory.fence()
        else:
            scale_up, scale_down = (
                get_double(call, descriptor.SCALE_UP),
                get_double(call, descriptor.SCALE_DOWN),
            )
            scale(x, y, stop - start, root, scale_up, scale_down, plain, table_x, table_y)

    return run


def long_rows() -> Any:
    """Long contiguous vectors, one after another, the threads sharing each."""
    reserve = memory.stack(LEVELS)

    @device
    def join(scratch, whole):
        """The tree over parts, as `row_sum` has it over blocks."""
        stack = reserve()
        for part in range(whole):
            push(stack, 0, 1, part, get(scratch, part))
        return lanes.sum_lanes(joined(stack, 0, 1, whole, get(scratch, whole)))

    @function(LONG)
    def launcher(count, call):
        parallel_for = get_int(get_int(call, descriptor.POOL), descriptor.PARALLEL_FOR)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        scratch = get_int(call, descriptor.SCRATCH)
        whole = get_int(call, descriptor.N) * get_int(call, descriptor.PARTS) // plan.SPLIT
        parts = whole + 1
        modes = lanes.exact_modes()  # as workers do, for the sums of parts are added here
        for i in range(count):
            x = get_int(call, descriptor.X) + offset(batch, batch_axes, BATCH, 1, i)
            set_int(call, descriptor.VECTOR_X, x)
            scale_up, scale_down, total = 1.0, 1.0, 0.0
            again = True
            while again:
                memory.put_double(call, descriptor.FACTOR, scale_up * scale_down)
                call_parallel_for(parallel_for, get_int(call, descriptor.PART_SUM), parts, call)
                total = join(scratch, whole)
                again = False
                if get_int(call, descriptor.RESCALING) and scale_up == 1.0 and scale_down == 1.0:
                    if total < LOWEST:
                        scale_up, again = SCALE_UP, True
                    elif total == INF:
                        scale_down, again = SCALE_DOWN, True
            first = lanes.root(total)
            length, root, unit_up, unit_down, plain = settle(
                first,
                scale_up,
                scale_down,
                get_double(call, descriptor.EPS),
                get_double(call, descriptor.ZERO_ROOT),
            )
            if norms:
                at = norms + offset(batch, batch_axes, BATCH, 3, i)
                put_norm(at, norm_size, length, first, scale_up, scale_down)
            if get_int(call, descriptor.Y):
                y = get_int(call, descriptor.Y) + offset(batch, batch_axes, BATCH, 2, i)
                set_int(call, descriptor.VECTOR_Y, y)
                memory.put_double(call, descriptor.ROOT, root)
                memory.put_double(call, descriptor.SCALE_UP, unit_up)
                memory.put_double(call, descriptor.SCALE_DOWN, unit_down)
                set_int(call, descriptor.PLAIN, 1 if plain else 0)
                call_parallel_for(parallel_for, get_int(call, descriptor.PART_SCALE), parts, call)
        lanes.restore_modes(modes)

    return launcher
