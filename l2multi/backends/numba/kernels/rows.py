"""Rows: the elements of a vector are neighbours."""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, cabi, descriptor, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import KINDS, Kind
from l2multi.backends.numba.kernels import common, tiles
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.lanes import BLOCK, lesser, splat, sum_lanes
from l2multi.backends.numba.memory import LINE, get_double, get_int, put, put_double
from l2multi.backends.numba.plan import BATCH


def row_sum(source: Kind, scaled: bool) -> Any:
    """Three functions for the sum over lanes of the squares of neighbouring elements: what takes in
    blocks, what ends with the rest, and both in one for a whole row."""
    whole = arithmetic.sum_squares(source, scaled)
    one, four, eight = (
        arithmetic.sum_squares_of_some(source, scaled, rows) for rows in (1, 4, BLOCK)
    )
    size, line = source.size, source.size * LANES
    prefetch, prefetch_line = memory.prefetch(common.BLOCK_SIZE * size), memory.prefetch(LINE)

    @device
    def add_blocks(x, first, count, factor, table, stack, ahead):
        """Take `count` more blocks into the stack of subtrees, which holds `first` of them."""
        for block in range(first, first + count):
            if ahead != 0:
                prefetch(x + ahead)
            total = whole(x, line, factor, table)
            x += common.BLOCK_SIZE * size
            common.push(stack, 0, 1, block, total)

    @device
    def finish(x, blocks, left, factor, table, stack):
        """The sum of the subtrees and of a tail that is shorter than a block."""
        if left == 0:
            total = splat(0.0)
        elif left <= LANES:
            total = one(x, line, left, LANES, LANES, factor, table)
        elif left <= 4 * LANES:
            total = four(x, line, left, LANES, LANES, factor, table)
        else:
            total = eight(x, line, left, LANES, LANES, factor, table)
        return common.joined(stack, 0, 1, blocks, total)

    @device
    def sum_row(x, n, factor, table, stack, ahead):
        """The sum of a whole row."""
        blocks = n // common.BLOCK_SIZE
        add_blocks(x, 0, blocks, factor, table, stack, ahead)
        tail, left = x + blocks * common.BLOCK_SIZE * size, n - blocks * common.BLOCK_SIZE
        if ahead != 0:
            for offset in range(0, left * size, LINE):
                prefetch_line(tail + ahead + offset)
        return finish(tail, blocks, left, factor, table, stack)

    return add_blocks, finish, sum_row


def row_scale_plainly(source: Kind, target: Kind) -> Any:
    """A function that divides neighbouring elements by the divisor where all is plain, and
    prefetches and streams if it is told to."""
    _, load_some = memory.loads(source)
    store_some, (plainly, _) = store_rest(target), common.divided(source.narrow and target.narrow)
    step, step_streaming = (
        arithmetic.scaling(source, target, non_temporal) for non_temporal in (False, True)
    )
    # bfloat16 fill a register by two rows of lanes.
    rows = 2 if source is target is KINDS["bfloat16"] else 1
    steps = arithmetic.scaling(source, target, False, rows)
    size, written, boundary = source.size, target.size, memory.boundary(target)
    read, write = size * LANES, written * LANES
    prefetch, prefetch_rows = memory.prefetch(read), memory.prefetch(rows * read)
    fetches = source.narrow and target.narrow  # quotients leave time for an output to come

    def walk(fetches_x, fetches_y):
        @device
        def run(x, y, n, factor, table_x, table_y, ahead):
            for _ in range(n // (rows * LANES)):
                if fetches_x:
                    prefetch_rows(x + ahead)
                if fetches_y:
                    memory.prefetch_for_write(y + common.PREFETCH_OUTPUT)
                steps(x, y, factor, table_x, table_y)
                x += rows * read
                y += rows * write
            return x, y

        return run

    in_caches, beyond_caches, to_another = walk(False, False), walk(True, False), walk(True, True)

    @device
    def scale(x, y, n, factor, table_x, table_y, ahead, stream):
        if stream:
            first = lesser(-y % boundary // written, n)
            if first:
                store_some(plainly(load_some(x, first, table_x), factor), x, y, first, table_y)
                x += first * size
                y += first * written
                n -= first
            for _ in range(n // LANES):
                prefetch(x + ahead)
                step_streaming(x, y, factor, table_x, table_y)
                x += read
                y += write
        else:
            if ahead == 0:
                x, y = in_caches(x, y, n, factor, table_x, table_y, ahead)
            elif fetches and x != y:
                x, y = to_another(x, y, n, factor, table_x, table_y, ahead)
            else:
                x, y = beyond_caches(x, y, n, factor, table_x, table_y, ahead)
            if n % (rows * LANES) >= LANES:
                step(x, y, factor, table_x, table_y)
                x += read
                y += write
        left = n % LANES
        if left:
            if ahead and not stream:
                prefetch(x + ahead)
            store_some(plainly(load_some(x, left, table_x), factor), x, y, left, table_y)

    return scale


def row_scale(source: Kind, target: Kind) -> Any:
    """A function that divides neighbouring elements by the divisor, or multiplies narrow kinds by
    its inverse, whatever they are like."""
    load, load_some = memory.loads(source)
    (store, _), store_some = memory.stores(target), store_rest(target)
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES
    scale_plainly, (_, with_care) = row_scale_plainly(source, target), common.divided(product)

    @device
    def scale(call, x, y, n, factor, scale_up, scale_down, plain, ahead, stream):
        factor = splat(factor)
        table_x, table_y = common.tables_of(call)
        if plain:
            scale_plainly(x, y, n, factor, table_x, table_y, ahead, stream)
        else:
            ups, downs, left = splat(scale_up), splat(scale_down), n % LANES
            for _ in range(n // LANES):
                store(with_care(load(x, table_x), factor, ups, downs), y, table_y)
                x += read
                y += write
            if left:
                v = with_care(load_some(x, left, table_x), factor, ups, downs)
                store_some(v, x, y, left, table_y)

    return scale


def store_rest(target: Kind) -> Any:
    """A function that stores the first of the lanes that were read from `x`. In place it writes no
    wider than they are: the next vector begins right there, and its load would wait for a masked
    store to be done."""
    store, store_masked = memory.stores(target)
    reserve, size = memory.stack(1), target.size

    @device
    def store_some(v, x, y, count, table):
        if x == y:
            lanes = reserve()
            store(v, lanes, table)
            cabi.copy_bytes(y, lanes, count * size)
        else:
            store_masked(v, y, count, table)

    return store_some


def one_row(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector of neighbouring elements."""
    *_, sum_row = row_sum(source, False)
    *_, sum_rescaled = row_sum(source, source.needs_rescaling)
    needs_rescaling, scale = source.needs_rescaling, row_scale(source, target)
    factor_of = common.quotient_factor(source.narrow and target.narrow)
    reserve = memory.stack(common.LEVELS)

    @device
    def row(call, x, y, norm, n, ahead_sum, ahead_scale, stream):
        stack, table = reserve(), get_int(call, descriptor.TABLE_X)
        scale_up = scale_down = 1.0
        total = sum_lanes(sum_row(x, n, splat(1.0), table, stack, ahead_sum))
        if needs_rescaling:
            scale_up, scale_down, again = common.rescaled(total, 1.0, 1.0)
            if again:
                factor = splat(scale_up * scale_down)
                total = sum_lanes(sum_rescaled(x, n, factor, table, stack, 0))
        root, scale_up, scale_down, plain = common.divisor_of(
            call, norm, total, scale_up, scale_down
        )
        if y != 0:
            divisor = factor_of(root)
            scale(call, x, y, n, divisor, scale_up, scale_down, plain, ahead_scale, stream)

    return row


# Bytes of rows that go through together, which the nearest cache still holds when they are scaled.
# By half as many, 1000x768 float32 took 1.15 times as long (Zen 5); by twice as many it is no less.
# Of arrays of FAR bytes and more, which come from memory, only rows of an eighth: while rows are
# summed nothing is on its way, and one core took 1.2 times as long for 20000x768 float32 in place.
TOGETHER, FAR = 2**14, 2**24


def rows_together(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to up to LANES vectors of neighbouring elements, so
    many bytes apart; None where that does not pay.

    All sums come first, then all roots. One by one, the products of a vector wait for its root, and
    the CPU looks no further ahead than a vector or two: 1000x128 bfloat16 then take 1.8 times as
    long (Sapphire Rapids). Quotients keep the CPU busy enough to sum the next vector meanwhile.
    """
    if not (source.narrow and target.narrow):
        return None
    *_, sum_row = row_sum(source, False)
    scale, written = row_scale(source, target), target.size
    reserve, reserve_group = memory.stack(common.LEVELS), memory.stack(tiles.GROUP)

    @device
    def together(
        call, x, y, norm, n, count, step_x, step_y, norm_step, ahead_sum, ahead_scale, stream
    ):
        stack, group, decode = reserve(), reserve_group(), get_int(call, descriptor.TABLE_X)
        tiles.reset(group)
        put(group, tiles.SUMS, splat(1.0))
        for k in range(count):
            total = sum_lanes(sum_row(x + k * step_x, n, splat(1.0), decode, stack, ahead_sum))
            put_double(group, tiles.SUMS * LANES + k, total)
        plain = tiles.settle(call, group, count, norm, norm_step, False)
        tiles.invert_roots(group)
        for k in range(count):
            inverse = get_double(group, tiles.ROOTS * LANES + k)
            if stream:
                memory.prefetch_for_write(y + n * written)
            scale(call, x, y, n, inverse, 1.0, 1.0, plain, ahead_scale, stream)
            x, y = x + step_x, y + step_y

    return together


def rows(source: Kind, target: Kind) -> Any:
    """Vectors of neighbouring elements."""
    row, together = one_row(source, target), rows_together(source, target)
    read, write, grouped = source.size, target.size, together is not None

    @worker
    def run(first, last, call):
        x, y, norms, batch, axes = common.arrays_of(call)
        n = common.numbers_of(call)
        ahead_sum, ahead_scale, stream = common.memory_habits(call, n, axes, read, write)
        total = get_int(call, descriptor.TOTAL) * get_int(call, descriptor.PARTS)
        longest = TOGETHER // (2 if total * read < FAR else 8)
        if grouped and y != 0 and last - first > 1 and n * read <= longest:
            last_axis = (axes - 1) * BATCH
            width, norm_step = get_int(batch, last_axis), get_int(batch, last_axis + 3)
            step_x, step_y = get_int(batch, last_axis + 1), get_int(batch, last_axis + 2)
            most = lesser(TOGETHER // (n * read), LANES)
            if ahead_scale:  # no more than are prefetched
                most = lesser(most, 4)
            while first < last:
                at_x, at_y, norm = common.places(x, y, norms, batch, axes, first)
                count = lesser(lesser(most, last - first), width - first % width)
                together(
                    call, at_x, at_y, norm, n, count, step_x, step_y, norm_step,
                    ahead_sum, ahead_scale, stream,
                )  # fmt: skip
                first += count
        for i in range(first, last):
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, i)
            if stream:
                memory.prefetch_for_write(at_y + n * write)
            row(call, at_x, at_y, norm, n, ahead_sum, ahead_scale, stream)
        if stream:
            memory.fence()

    return run
