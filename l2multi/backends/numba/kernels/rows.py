"""rows"""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, descriptor, lanes, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import (
    BATCH,
    BLOCK_SIZE,
    INF,
    LEVELS,
    LOWEST,
    SCALE_DOWN,
    SCALE_UP,
    divided,
    joined,
    memory_habits,
    offset,
    push,
    put_norm,
    settle,
    worker,
)
from l2multi.backends.numba.lanes import BLOCK, lesser, splat
from l2multi.backends.numba.memory import get_double, get_int


def row_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of neighbouring elements."""
    whole = arithmetic.sum_squares(source, scaled)
    one, four, eight = (arithmetic.sum_squares_of_some(source, scaled, k) for k in (1, 4, BLOCK))
    size, line = source.size, source.size * LANES
    prefetch = memory.prefetch(BLOCK_SIZE * size)

    @device
    def add_blocks(x, first, count, scale, table, stack, ahead):
        """Take `count` more blocks into the stack of subtrees, of which it holds `first`."""
        for block in range(first, first + count):
            if ahead != 0:
                prefetch(x + ahead)
            total = whole(x, line, scale, table)
            x += BLOCK_SIZE * size
            push(stack, 0, 1, block, total)

    @device
    def finish(x, blocks, left, scale, table, stack):
        """The sum of the subtrees and of a tail that is shorter than a block."""
        if left == 0:
            total = splat(0.0)
        elif left <= LANES:
            total = one(x, line, left, LANES, LANES, scale, table)
        elif left <= 4 * LANES:
            total = four(x, line, left, LANES, LANES, scale, table)
        else:
            total = eight(x, line, left, LANES, LANES, scale, table)
        return joined(stack, 0, 1, blocks, total)

    return add_blocks, finish


def row_scale(source: Kind, target: Kind) -> Any:
    """A function that divides neighbouring elements by the divisor."""
    load, load_some = memory.loads(source)
    store, store_some = memory.stores(target)
    step = arithmetic.scaling(source, target, False)
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES

    plainly, with_care = divided(product)

    @device
    def scale(x, y, n, root, scale_up, scale_down, plain, table_x, table_y):
        left, factor = n % LANES, splat(1.0 / root if product else root)
        scale_ups, scale_downs = splat(scale_up), splat(scale_down)
        if plain:
            for _ in range(n // LANES):
                step(x, y, factor, table_x, table_y)
                x += read
                y += write
            if left:
                store_some(plainly(load_some(x, left, table_x), factor), y, left, table_y)
        else:
            for _ in range(n // LANES):
                store(with_care(load(x, table_x), factor, scale_ups, scale_downs), y, table_y)
                x += read
                y += write
            if left:
                v = with_care(load_some(x, left, table_x), factor, scale_ups, scale_downs)
                store_some(v, y, left, table_y)

    return scale


def row_scale_streaming(source: Kind, target: Kind) -> Any:
    """As `row_scale`, where that is plain, for arrays that no cache holds."""
    _, load_some = memory.loads(source)
    _, store_some = memory.stores(target)
    step, step_non_temporal = (
        arithmetic.scaling(source, target, non_temporal) for non_temporal in (False, True)
    )
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES
    size, written, boundary = source.size, target.size, memory.boundary(target)
    prefetch = memory.prefetch(read)

    plainly, _ = divided(product)

    @device
    def stream(x, y, n, root, table_x, table_y, ahead, non_temporal):
        factor = splat(1.0 / root if product else root)
        first = 0
        if non_temporal:
            first = lesser(-y % boundary // written, n)
            if first:
                store_some(plainly(load_some(x, first, table_x), factor), y, first, table_y)
                x += first * size
                y += first * written
            for _ in range((n - first) // LANES):
                prefetch(x + ahead)
                step_non_temporal(x, y, factor, table_x, table_y)
                x += read
                y += write
        else:
            for _ in range(n // LANES):
                prefetch(x + ahead)
                step(x, y, factor, table_x, table_y)
                x += read
                y += write
        left = (n - first) % LANES
        if left:
            store_some(plainly(load_some(x, left, table_x), factor), y, left, table_y)

    return stream


def one_row(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector of neighbouring elements."""
    add_blocks, finish = row_sum(source, False)
    add_scaled, finish_scaled = (
        row_sum(source, True) if source.needs_rescaling else (add_blocks, finish)
    )
    needs_rescaling = source.needs_rescaling
    scale = row_scale(source, target)
    scale_streaming = row_scale_streaming(source, target)
    reserve = memory.stack(LEVELS)
    size = source.size

    @device
    def again(x, n, factor, table, stack):
        """The sum once more, of elements times a power of two."""
        blocks = n // BLOCK_SIZE
        add_scaled(x, 0, blocks, splat(factor), table, stack, 0)
        x += blocks * BLOCK_SIZE * size
        return finish_scaled(x, blocks, n - blocks * BLOCK_SIZE, splat(factor), table, stack)

    @device
    def row(
        x, y, n, norm, norm_size, eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream
    ):  # fmt: skip
        stack = reserve()
        blocks = n // BLOCK_SIZE
        add_blocks(x, 0, blocks, splat(1.0), table_x, stack, ahead_sum)
        tail = x + blocks * BLOCK_SIZE * size
        left = n - blocks * BLOCK_SIZE
        total = lanes.sum_lanes(finish(tail, blocks, left, splat(1.0), table_x, stack))
        scale_up = scale_down = 1.0
        if needs_rescaling:
            if total < LOWEST:
                scale_up = SCALE_UP
                total = lanes.sum_lanes(again(x, n, SCALE_UP, table_x, stack))
            elif total == INF:
                scale_down = SCALE_DOWN
                total = lanes.sum_lanes(again(x, n, SCALE_DOWN, table_x, stack))
        first = lanes.root(total)
        length, root, unit_up, unit_down, plain = settle(
            first, scale_up, scale_down, eps, zero_root
        )
        put_norm(norm, norm_size, length, first, scale_up, scale_down)
        scale_up, scale_down = unit_up, unit_down
        if y != 0:
            if plain and (stream or ahead_scale):
                scale_streaming(x, y, n, root, table_x, table_y, ahead_scale, stream)
            else:
                scale(x, y, n, root, scale_up, scale_down, plain, table_x, table_y)

    return row


def rows(source: Kind, target: Kind) -> Any:
    """Vectors of neighbouring elements; without a batch table one after the other."""
    row = one_row(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        n = get_int(call, descriptor.N) * get_int(call, descriptor.PARTS)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        eps, zero_root = get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT)
        table_x, table_y = get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y)
        ahead_sum, ahead_scale, stream = memory_habits(call, n, batch_axes, read, write)
        for i in range(first, last):
            if batch_axes == 0:
                at_x, at_y, at_norm = i * n * read, i * n * write, i * norm_size
            else:
                at_x = offset(batch, batch_axes, BATCH, 1, i)
                at_y = offset(batch, batch_axes, BATCH, 2, i)
                at_norm = offset(batch, batch_axes, BATCH, 3, i)
            if stream:
                memory.prefetch_for_write(y + at_y + n * write)
            row(
                x + at_x, y + at_y if y else 0, n, norms + at_norm if norms else 0, norm_size,
                eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream,
            )  # fmt: skip
        if stream:
            memory.fence()

    return run
