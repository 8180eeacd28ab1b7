"""columns"""

from typing import Any

from llvmlite import ir

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, cabi, descriptor, lanes, memory, plan
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import (
    BATCH,
    BLOCK_SIZE,
    INF,
    LOWEST,
    SCALE_DOWN,
    SCALE_UP,
    divided,
    far,
    joined,
    memory_habits,
    offset,
    push,
    put_norm,
    settle,
    worker,
)
from l2multi.backends.numba.lanes import BLOCK, I64, add, div, greater, lesser, mul, splat
from l2multi.backends.numba.memory import get, get_double, get_int, put

TILE = plan.GROUPS * LANES  # columns that go through together


STACKS = LANES  # slots before those of the levels: for what is done to one group at a time


# Slots on the machine's stack, 57 KB where a thread may have as little as 128: for all levels of
# one group of columns.
TILE_ROOM = STACKS + plan.TREE_LEVELS * LANES


def column_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of the vectors of a tile."""
    whole = arithmetic.sum_squares(source, scaled)
    one, some = (arithmetic.sum_squares_of_some(source, scaled, k) for k in (1, BLOCK))
    two, four = (arithmetic.sum_squares(source, scaled, k) for k in (2, 4))
    across = LANES * source.size
    prefetch = memory.prefetch(across, BLOCK)

    @device
    def few(x, stride, rows, scale, table):
        """The tree over no more than a block's rows, of whole lanes."""
        if rows == BLOCK:
            return whole(x, stride, scale, table)
        total = splat(0.0)
        if rows & 1:
            total = one(x + (rows - 1) * stride, 0, LANES, 0, LANES, scale, table)
        if rows & 2:
            total = add(two(x + (rows & 4) * stride, stride, scale, table), total)
        if rows & 4:
            total = add(four(x, stride, scale, table), total)
        return total

    @device
    def sum_(x, n, stride, columns, scales, table, stack, sums, ahead):
        """Each of the LANES of a vector has a slot of its own at each level of the stack."""
        groups = (columns + LANES - 1) // LANES
        blocks, left = n // BLOCK_SIZE, n % BLOCK_SIZE
        for block in range(blocks):
            for lane in range(LANES):
                for group in range(groups):
                    at, some_columns = x + lane * stride + group * across, columns - group * LANES
                    scale = get(scales, group)
                    if ahead != 0:
                        prefetch(at + ahead, LANES * stride)
                    if some_columns >= LANES:
                        total = whole(at, LANES * stride, scale, table)
                    else:
                        total = some(
                            at, LANES * stride, some_columns, 0, some_columns, scale, table
                        )
                    push(stack, STACKS + lane * groups + group, LANES * groups, block, total)
            x += BLOCK_SIZE * stride
        for group in range(groups):
            some_columns, scale = lesser(columns - group * LANES, LANES), get(scales, group)
            for lane in range(LANES):
                rows, at = (left - lane + LANES - 1) // LANES, x + lane * stride
                total = splat(0.0)
                if rows == 1:
                    total = one(at, 0, some_columns, 0, some_columns, scale, table)
                elif rows > 1 and some_columns == LANES:
                    total = few(at, LANES * stride, rows, scale, table)
                elif rows > 1:  # row k has some columns while there are rows left, and then none
                    total = some(
                        at, LANES * stride, rows * LANES, LANES, some_columns, scale, table
                    )
                first = STACKS + lane * groups + group
                put(stack, lane, joined(stack, first, LANES * groups, blocks, total))
            half = LANES // 2
            while half:
                for lane in range(half):
                    put(stack, lane, add(get(stack, lane), get(stack, lane + half)))
                half >>= 1
            put(sums, group, get(stack, 0))
            x += across

    return sum_


@device
def find_lost_sums(sums, scale_ups, scale_downs, columns):
    """Find the sums of a tile that have left the safe range, and the power of two for each."""
    again = False
    for c in range(columns):
        total = memory.get_double(sums, c)
        if total < LOWEST:
            memory.put_double(scale_ups, c, SCALE_UP)
            again = True
        elif total == INF:
            memory.put_double(scale_downs, c, SCALE_DOWN)
            again = True
    return again


def settle_tile(needs_rescaling: bool) -> Any:
    """A function: `settle` for all vectors of a tile at once, where none is special (a tile of
    2-element vectors takes a third of the time), or one by one; it writes their norms and gives
    whether the division is plain for all."""
    # A sum above this needs no rescue, and no root is zero.
    lowest = LOWEST if needs_rescaling else 0.0

    @device
    def settle_all(
        sums, scale_ups, scale_downs, roots, columns, norm, norm_step, norm_size, eps, zero_root, rescued
    ):  # fmt: skip
        total = get(sums, 0)
        root = lanes.roots(total)
        if (
            not rescued
            and lanes.all_above(total, lowest, columns)
            and lanes.all_above(root, eps, columns)
        ):
            put(roots, 0, root)
            if norm != 0:
                if norm_step == norm_size and norm_size <= 8:
                    memory.put_floats(root, norm, columns, norm_size)
                else:
                    for c in range(columns):
                        one = memory.get_double(roots, c)
                        put_norm(norm + c * norm_step, norm_size, one, one, 1.0, 1.0)
            return True
        plain = True
        put(roots, 0, splat(1.0))
        for c in range(columns):
            first = lanes.root(memory.get_double(sums, c))
            scale_up, scale_down = (
                memory.get_double(scale_ups, c),
                memory.get_double(scale_downs, c),
            )
            length, divisor, unit_up, unit_down, simple = settle(
                first, scale_up, scale_down, eps, zero_root
            )
            if norm != 0:
                put_norm(norm + c * norm_step, norm_size, length, first, scale_up, scale_down)
            scale_up, scale_down = unit_up, unit_down
            memory.put_double(roots, c, divisor)
            memory.put_double(scale_ups, c, scale_up)
            memory.put_double(scale_downs, c, scale_down)
            plain = plain and simple
        return plain

    return settle_all


def one_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a tile: vectors that are neighbours."""
    # Always scaled where it may be needed, as in `gathered_vector`.
    sum_ = column_sum(source, source.needs_rescaling)
    needs_rescaling = source.needs_rescaling
    _, load_some = memory.loads(source)
    _, store_some = memory.stores(target)
    step, step_non_temporal = (
        arithmetic.scaling(source, target, non_temporal) for non_temporal in (False, True)
    )
    product = source.narrow and target.narrow
    plainly, with_care = divided(product)
    small = memory.stack((TILE + memory.LINE) // LANES)  # a line more is no more than so many bytes
    few = memory.stack(LANES)
    settle_all = settle_tile(needs_rescaling)
    across, written = LANES * source.size, LANES * target.size

    @device
    def scale_whole(x, y, n, read, write, groups, roots, table_x, table_y, stream):
        for _ in range(n):
            for group in range(groups):
                at, to, divisor = x + group * across, y + group * written, get(roots, group)
                if stream:
                    step_non_temporal(at, to, divisor, table_x, table_y)
                else:
                    step(at, to, divisor, table_x, table_y)
            x += read
            y += write

    @device
    def scale_some(
        x, y, n, read, write, columns, root, scale_up, scale_down, plain, table_x, table_y, buffer
    ):
        """Some rows are read before they are written, for a narrow row's store has the next one
        wait, which lies in its shadow."""
        for first in range(0, n, LANES):
            rows = lesser(n - first, LANES)
            for row in range(rows):
                v = load_some(x, columns, table_x)
                put(
                    buffer,
                    row,
                    plainly(v, root) if plain else with_care(v, root, scale_up, scale_down),
                )
                x += read
            for row in range(rows):
                store_some(get(buffer, row), y, columns, table_y)
                y += write

    @device
    def tile(
        x, y, n, read, write, columns, norm, norm_step, norm_size,
        eps, zero_root, table_x, table_y, ahead, stream, stack,
    ):  # fmt: skip
        buffer = few()
        sums, scale_ups, scale_downs, roots, factors = small(), small(), small(), small(), small()
        groups = (columns + LANES - 1) // LANES
        for group in range(groups):
            put(scale_ups, group, splat(1.0))
            put(scale_downs, group, splat(1.0))
            put(factors, group, splat(1.0))
        again = True
        rescued = False
        while again:
            sum_(x, n, read, columns, factors, table_x, stack, sums, ahead)
            again = (
                needs_rescaling
                and not rescued
                and find_lost_sums(sums, scale_ups, scale_downs, columns)
            )
            if again:
                rescued = True
                for group in range(groups):
                    put(factors, group, mul(get(scale_ups, group), get(scale_downs, group)))
        whole = 0
        for group in range(groups):
            some_columns, slot = lesser(columns - group * LANES, LANES), group * 8 * LANES
            plain = settle_all(
                sums + slot, scale_ups + slot, scale_downs + slot, roots + slot, some_columns,
                norm + group * LANES * norm_step if norm else 0, norm_step, norm_size,
                eps, zero_root, rescued,
            )  # fmt: skip
            if product:
                put(roots, group, div(splat(1.0), get(roots, group)))
            if y != 0:
                if plain and whole == group and some_columns == LANES:
                    whole += 1
                else:
                    scale_some(
                        x + group * across, y + group * written, n, read, write, some_columns,
                        get(roots, group), get(scale_ups, group), get(scale_downs, group), plain,
                        table_x, table_y, buffer,
                    )  # fmt: skip
        if whole:
            scale_whole(x, y, n, read, write, whole, roots, table_x, table_y, stream)

    return tile


@device
def edge(column, at, size):
    """The first column, from this one on, that begins a cache line, of elements from `at` on."""
    return column + -(at + column * size) % memory.LINE // size


def columns(source: Kind, target: Kind) -> Any:
    """Tiles of the vectors along the last axis of the batch, which has `tiles` of them."""
    tile = one_tile(source, target)
    read, write, boundary = source.size, target.size, memory.boundary(target)
    reserve = memory.stack(TILE_ROOM)
    allocate, free = cabi.external("malloc", I64, I64), cabi.external("free", ir.VoidType(), I64)

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        tiles, inner = get_int(call, descriptor.TILES), get_int(call, descriptor.INNER)
        width = get_int(batch, (batch_axes - 1) * BATCH)
        norm_step = get_int(batch, (batch_axes - 1) * BATCH + 3)
        stride_x, stride_y = get_int(inner, 1), get_int(inner, 2)
        # All tiles but the first begin with a cache line, as streaming stores must, and lest two
        # threads write to one (1000x128 float32 in place took 3.5 times as long). So the first is
        # scale_up to a line wider.
        stride, size = (stride_y, write) if y else (stride_x, read)
        wide = TILE + greater(memory.LINE // size, LANES)
        # Where the tree is too high for the machine's stack it has room of its own, or else one
        # group of columns goes at a time.
        slots, levels = STACKS, get_int(call, descriptor.N) // BLOCK_SIZE
        while levels > 0:
            slots, levels = slots + wide, levels >> 1
        heap = allocate(slots * 8 * LANES) if slots > TILE_ROOM else 0
        narrow = heap == 0 and slots > TILE_ROOM
        most = LANES if narrow else TILE
        stack = heap if heap != 0 else reserve()
        aligned = not narrow and stride % memory.LINE == 0
        ahead = BLOCK_SIZE * stride_x if far(call, read) else 0  # the next block of each column
        _, _, stream = memory_habits(call, get_int(call, descriptor.N), batch_axes, read, write)
        stream = stream if aligned else 0
        i = first
        while i < last:
            column, row = i % tiles * LANES, i // tiles * width
            together = lesser(lesser(width - column, (last - i) * LANES), most)
            i += (together + LANES - 1) // LANES
            at_x = x + offset(batch, batch_axes, BATCH, 1, row)
            at_y = y + offset(batch, batch_axes, BATCH, 2, row) if y else 0
            first_column, last_column = column, column + together
            if aligned:
                at = at_y if y else at_x
                first_column = edge(first_column, at, size) if column else 0
                last_column = edge(last_column, at, size)
            first_column, last_column = lesser(first_column, width), lesser(last_column, width)
            if first_column == last_column:
                continue
            at_x += first_column * read
            at_y += first_column * write if y else 0
            tile(
                at_x, at_y,
                get_int(call, descriptor.N), stride_x, stride_y, last_column - first_column,
                norms + offset(batch, batch_axes, BATCH, 3, row) + first_column * norm_step
                if norms else 0,
                norm_step, norm_size,
                get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT),
                get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y),
                ahead, stream if at_y % boundary == 0 else 0, stack,
            )  # fmt: skip
        free(heap)
        if stream:
            memory.fence()

    return run
