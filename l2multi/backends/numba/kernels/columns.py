"""Columns: neighbouring vectors are neighbours. Up to TILE of them go through together, sixteen in
a group, so that each cache line is read once."""

from typing import Any

from llvmlite import ir

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, cabi, descriptor, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common, tiles
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.lanes import BLOCK, I64, add, greater, lesser, splat
from l2multi.backends.numba.memory import LINE, get, get_int, put
from l2multi.backends.numba.plan import BATCH, TREE_LEVELS

# Columns that go through together. By 64 of them 150000x100 float32 took 1.3 times as long (Zen 5),
# for its rows' ends are no lines; by sixteen, 4000x768 in Fortran order 1.4 times: one line of each
# row is slow to come.
TILE = 8 * LANES
STACKS = LANES  # slots before those of the levels: for what is done to one group at a time
# Slots on the machine's stack, 57 KB where a thread may have as little as 128: for all levels of
# one group of columns.
TILE_ROOM = STACKS + TREE_LEVELS * LANES

_allocate, _free = cabi.external("malloc", I64, I64), cabi.external("free", ir.VoidType(), I64)


def group_sum(source: Kind, scaled: bool, rows: int) -> Any:
    """A function: the tree over some rows of a group of columns, be it whole or not."""
    whole = arithmetic.sum_squares(source, scaled, rows)
    some = arithmetic.sum_squares_of_some(source, scaled, rows)

    @device
    def sum_(x, stride, columns, scale, table):
        if columns >= LANES:
            return whole(x, stride, scale, table)
        return some(x, stride, columns, 0, columns, scale, table)

    return sum_


def column_end(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of a group of columns, by its subtrees and the rows left."""
    one = arithmetic.sum_squares_of_some(source, scaled, 1)
    two, four = (group_sum(source, scaled, rows) for rows in (2, 4))
    eight = arithmetic.sum_squares(source, scaled)
    some_four = arithmetic.sum_squares_of_some(source, scaled, 4)
    prefetch = memory.prefetch(LANES * source.size)

    @device
    def few(x, stride, rows, columns, scale, table):
        """The tree over no more than a block's rows, by none beyond them: lanes that are not asked
        for are waited for all the same."""
        total = splat(0.0)
        if rows == BLOCK:
            if columns == LANES:
                return eight(x, stride, scale, table)
            total = some_four(x + 4 * stride, stride, columns, 0, columns, scale, table)
        if rows & 1:
            total = one(x + (rows - 1) * stride, 0, columns, 0, columns, scale, table)
        if rows & 2:
            total = add(two(x + (rows & 4) * stride, stride, columns, scale, table), total)
        if rows >= 4:
            total = add(four(x, stride, columns, scale, table), total)
        return total

    @device
    def finish(x, stride, columns, blocks, left, scale, table, stack, first, step, ahead):
        for lane in range(LANES):
            rows, at = (left - lane + LANES - 1) // LANES, x + lane * stride
            if ahead != 0:
                for row in range(rows):
                    prefetch(at + ahead + row * LANES * stride)
            total = few(at, LANES * stride, rows, columns, scale, table)
            put(stack, lane, common.joined(stack, first + lane * step, LANES * step, blocks, total))
        half = LANES // 2
        while half:
            for lane in range(half):
                put(stack, lane, add(get(stack, lane), get(stack, lane + half)))
            half >>= 1
        return get(stack, 0)

    return finish


def column_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of the vectors of a tile."""
    block_sum, finish = group_sum(source, scaled, BLOCK), column_end(source, scaled)
    across = LANES * source.size
    prefetch = memory.prefetch(across, BLOCK)

    @device
    def sum_(x, n, stride, columns, slots, table, stack, ahead):
        """Each of the LANES of a vector has a slot of its own at each level of the stack."""
        groups = (columns + LANES - 1) // LANES
        blocks, left = n // common.BLOCK_SIZE, n % common.BLOCK_SIZE
        for block in range(blocks):
            for lane in range(LANES):
                for group in range(groups):
                    at, some_columns = x + lane * stride + group * across, columns - group * LANES
                    scale = get(slots + group * tiles.GROUP_BYTES, tiles.FACTORS)
                    if ahead != 0:
                        prefetch(at + ahead, LANES * stride)
                    total = block_sum(at, LANES * stride, some_columns, scale, table)
                    common.push(stack, STACKS + lane * groups + group, LANES * groups, block, total)
            x += common.BLOCK_SIZE * stride
        for number in range(groups):
            group = slots + number * tiles.GROUP_BYTES
            total = finish(
                x + number * across, stride, lesser(columns - number * LANES, LANES), blocks, left,
                get(group, tiles.FACTORS), table, stack, STACKS + number, groups, ahead,
            )  # fmt: skip
            put(group, tiles.SUMS, total)

    return sum_


def column_scale(source: Kind, target: Kind) -> Any:
    """Two functions that divide rows of a tile: of some whole groups, where all is plain, and of
    one group, whatever it is like."""
    _, load_some = memory.loads(source)
    _, store_some = memory.stores(target)
    step, step_streaming = (
        arithmetic.scaling(source, target, non_temporal) for non_temporal in (False, True)
    )
    plainly, with_care = common.divided(source.narrow and target.narrow)
    reserve = memory.stack(LANES)
    across, written = LANES * source.size, LANES * target.size
    prefetch = memory.prefetch(across)

    @device
    def scale_whole(call, x, y, n, read, write, groups, slots, ahead_x, ahead_y, stream):
        table_x, table_y = common.tables_of(call)
        for _ in range(n):
            for group in range(groups):
                at, to = x + group * across, y + group * written
                if ahead_x != 0:
                    prefetch(at + ahead_x)
                if ahead_y != 0:
                    memory.prefetch_for_write(to + ahead_y)
                divisor = get(slots + group * tiles.GROUP_BYTES, tiles.ROOTS)
                if stream:
                    step_streaming(at, to, divisor, table_x, table_y)
                else:
                    step(at, to, divisor, table_x, table_y)
            x += read
            y += write

    @device
    def scale_some(call, x, y, n, read, write, columns, group, ahead_x, ahead_y, plain):
        """Some rows are read before they are written, for a narrow row's store has the next one
        wait, which lies in its shadow."""
        buffer, root = reserve(), get(group, tiles.ROOTS)
        table_x, table_y = common.tables_of(call)
        ups, downs = get(group, tiles.SCALE_UPS), get(group, tiles.SCALE_DOWNS)
        for first in range(0, n, LANES):
            rows = lesser(n - first, LANES)
            for row in range(rows):
                if ahead_x != 0:
                    prefetch(x + ahead_x)
                v = load_some(x, columns, table_x)
                put(buffer, row, plainly(v, root) if plain else with_care(v, root, ups, downs))
                x += read
            for row in range(rows):
                if ahead_y != 0:
                    memory.prefetch_for_write(y + ahead_y)
                store_some(get(buffer, row), y, columns, table_y)
                y += write

    return scale_whole, scale_some


def column_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a tile: vectors that are neighbours."""
    # Always scaled where it may be needed: one copy of the code, and times 1.0 changes no bit.
    needs_rescaling, product = source.needs_rescaling, source.narrow and target.narrow
    sum_ = column_sum(source, needs_rescaling)
    scale_whole, scale_some = column_scale(source, target)
    # A tile may be wider by a line, which is no more than so many elements.
    reserve = memory.stack((TILE + LINE) // LANES * tiles.GROUP)
    across, written = LANES * source.size, LANES * target.size

    @device
    def tile(
        call, x, y, norm, read, write, columns, norm_step, ahead, ahead_x, ahead_y, stream, stack
    ):  # fmt: skip
        slots, n, table = reserve(), get_int(call, descriptor.N), get_int(call, descriptor.TABLE_X)
        groups = (columns + LANES - 1) // LANES
        for number in range(groups):
            tiles.reset(slots + number * tiles.GROUP_BYTES)
        rescued, again = False, True
        while again:
            sum_(x, n, read, columns, slots, table, stack, ahead)
            again = False
            if needs_rescaling and not rescued:
                for number in range(groups):
                    some_columns = lesser(columns - number * LANES, LANES)
                    again = (
                        tiles.find_lost_sums(slots + number * tiles.GROUP_BYTES, some_columns)
                        or again
                    )
                rescued = again
        whole, all_plain = 0, True
        for number in range(groups):
            group = slots + number * tiles.GROUP_BYTES
            some_columns = lesser(columns - number * LANES, LANES)
            at_norm = norm + number * LANES * norm_step if norm else 0
            plain = tiles.settle(call, group, some_columns, at_norm, norm_step, rescued)
            if product:
                tiles.invert_roots(group)
            all_plain = all_plain and plain
            whole += 1 if all_plain and some_columns == LANES else 0
        if y == 0:
            return
        for first in range(0, n, common.BLOCK_SIZE):
            rows = lesser(n - first, common.BLOCK_SIZE)
            if whole:
                scale_whole(call, x, y, rows, read, write, whole, slots, ahead_x, ahead_y, stream)
            for number in range(whole, groups):
                at, to = x + number * across, y + number * written
                group = slots + number * tiles.GROUP_BYTES
                scale_some(
                    call, at, to, rows, read, write, lesser(columns - number * LANES, LANES), group,
                    ahead_x, ahead_y, all_plain,
                )  # fmt: skip
            x += rows * read
            y += rows * write

    return tile


@device
def edge(column, at, size):
    """The first column, from this one on, that begins a cache line, of elements from `at` on."""
    return column + -(at + column * size) % LINE // size


# How far ahead tiles are prefetched: into the next matrix if it is no more bytes away than FAR, and
# by so many rows where no cache holds a tile. On one core of a Zen 5 columns of 20 float32 that lie
# beyond the caches, 17 to 768 side by side, took 0.3 to 0.5 of the time, those of 100 0.3 to 0.6,
# 19531x768 0.6 (29 November 2026).
FAR = 2**16
ROWS_AHEAD = 8


@device
def ahead_of_tile(batch, axes, column, size):
    """How many bytes ahead, in x or y by the column of the batch table, to prefetch a tile that a
    cache holds: the same columns of a later matrix, or else the next ones."""
    step = get_int(batch, (axes - 2) * BATCH + column) if axes > 1 else 0
    if 0 < step <= FAR:
        return greater(common.PREFETCH_LONG // step, 1) * step
    return TILE * size


@device
def distances(call, batch, axes, n, stride_x, stride_y, read, write, to_write):
    """How many bytes ahead to prefetch x while columns are summed, and x and, if it is `to_write`
    and not streamed, y while they are divided; 0 for not at all."""
    if not common.beyond_caches(call, read):
        return 0, 0, 0
    if n * TILE * read > common.PREFETCH_MOST:
        ahead_y = ROWS_AHEAD * stride_y if to_write else 0
        return common.BLOCK_SIZE * stride_x, ROWS_AHEAD * stride_x, ahead_y
    ahead_y = ahead_of_tile(batch, axes, 2, write) if to_write else 0
    return ahead_of_tile(batch, axes, 1, read), 0, ahead_y


def columns(source: Kind, target: Kind) -> Any:
    """Tiles of the vectors along the last axis of the batch, which has `tiles` of them."""
    tile = column_tile(source, target)
    read, write, boundary = source.size, target.size, memory.boundary(target)
    reserve = memory.stack(TILE_ROOM)

    @worker
    def run(first, last, call):
        x, y, norms, batch, axes = common.arrays_of(call)
        tiles, inner = get_int(call, descriptor.TILES), get_int(call, descriptor.INNER)
        width = get_int(batch, (axes - 1) * BATCH)
        norm_step = get_int(batch, (axes - 1) * BATCH + 3)
        n, stride_x, stride_y = get_int(call, descriptor.N), get_int(inner, 1), get_int(inner, 2)
        # All tiles but the first begin with a cache line, as streaming stores must, and lest two
        # threads write to one (1000x128 float32 in place took 3.5 times as long). So the first is
        # up to a line wider.
        stride, size = (stride_y, write) if y else (stride_x, read)
        wide = TILE + greater(LINE // size, LANES)
        # Where the tree is too high for the machine's stack it has room of its own, or else one
        # group of columns goes at a time.
        slots, levels = STACKS, n // common.BLOCK_SIZE
        while levels > 0:
            slots, levels = slots + wide, levels >> 1
        heap = _allocate(slots * 8 * LANES) if slots > TILE_ROOM else 0
        narrow = heap == 0 and slots > TILE_ROOM
        most = LANES if narrow else TILE
        stack = heap if heap != 0 else reserve()
        aligned = not narrow and stride % LINE == 0
        _, _, stream = common.memory_habits(call, n, axes, read, write)
        stream = stream if aligned else 0
        ahead, ahead_x, ahead_y = distances(
            call, batch, axes, n, stride_x, stride_y, read, write, y != x and stream == 0
        )
        i = first
        while i < last:
            column, row = i % tiles * LANES, i // tiles * width
            together = lesser(lesser(width - column, (last - i) * LANES), most)
            i += (together + LANES - 1) // LANES
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, row)
            start, stop = column, column + together
            if aligned:
                at = at_y if y else at_x
                start = edge(start, at, size) if column else 0
                stop = edge(stop, at, size)
            start, stop = lesser(start, width), lesser(stop, width)
            if start == stop:
                continue
            at_x += start * read
            at_y += start * write if y else 0
            norm += start * norm_step if norms else 0
            tile(
                call, at_x, at_y, norm, stride_x, stride_y, stop - start, norm_step,
                ahead, ahead_x, ahead_y, stream if at_y % boundary == 0 else 0, stack,
            )  # fmt: skip
        _free(heap)
        if stream:
            memory.fence()

    return run
