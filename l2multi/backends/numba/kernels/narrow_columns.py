"""Narrow columns: no more than sixteen columns, with nothing between a row of them and the next."""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, descriptor, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common, tiles
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.lanes import BLOCK, add, lesser, mul, splat
from l2multi.backends.numba.memory import get, get_int, put
from l2multi.backends.numba.plan import BATCH, TREE_LEVELS


def narrow_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of `width` columns.

    Their elements take turns: element k of column c is number ``k * width + c``. So sixteen
    neighbours are of sixteen lanes and columns, ``LANES * width`` of them make a row of all
    columns, and the tree over rows needs no lane to be told from another.
    """
    whole = arithmetic.sum_squares(source, scaled)
    load, load_some = memory.loads(source)
    size, line, block = source.size, LANES * source.size, common.BLOCK_SIZE * source.size
    prefetch = memory.prefetch(block)

    @device
    def sum_(x, n, width, scales, table, stack, sums, ahead):
        blocks, rest, row = n // common.BLOCK_SIZE, n % common.BLOCK_SIZE * width, width * LANES
        for index in range(blocks):
            for k in range(width):
                if ahead != 0:
                    prefetch(x + k * block + ahead)
                total = whole(x + k * line, width * line, get(scales, k), table)
                common.push(stack, BLOCK + k, width, index, total)
            x += width * block
        for k in range(width):
            # The tree over a few rows, by a stack of its own.
            count = 0
            for at in range(k * LANES, rest, row):
                where = x + at * size
                left = rest - at
                v = load(where, table) if left >= LANES else load_some(where, left, table)
                if scaled:
                    v = mul(v, get(scales, k))
                common.push(stack, 0, 1, count, mul(v, v))
                count += 1
            total = common.joined(stack, 0, 1, count, splat(0.0))
            put(sums, k, common.joined(stack, BLOCK + k, width, blocks, total))
        # The tree over lanes, those of one column now `width` numbers apart. What is added beyond
        # the lower half is not used.
        half = row // 2
        while half >= width:
            for k in range(0, 8 * half, 8 * LANES):
                put(sums + k, 0, add(get(sums + k, 0), get(sums + k + 8 * half, 0)))
            half >>= 1

    return sum_


@device
def repeat(slots, v, width):
    """Repeat the first `width` numbers of lanes, for each of sixteen and for one more group."""
    put(slots, 0, v)
    count = width
    while count < LANES * width:
        for k in range(0, 8 * count, 8 * LANES):
            put(slots + k + 8 * count, 0, get(slots + k, 0))
        count *= 2
    put(slots, width, get(slots, 0))


def narrow_scale(source: Kind, target: Kind) -> Any:
    """A function that divides `count` elements of columns, each by the divisor of its column."""
    load, load_some = memory.loads(source)
    store, store_some = memory.stores(target)
    store_non_temporal = memory.non_temporal_store(target)
    plainly, with_care = common.divided(source.narrow and target.narrow)
    size, written, boundary = source.size, target.size, memory.boundary(target)
    prefetch = memory.prefetch(LANES * size)
    room = memory.stack(LANES + 1)

    @device
    def unit(v, k, roots, ups, downs, plain):
        """The quotients by divisors from number k on."""
        root = get(roots + 8 * k, 0)
        if plain:
            return plainly(v, root)
        return with_care(v, root, get(ups + 8 * k, 0), get(downs + 8 * k, 0))

    @device
    def scale(call, x, y, count, width, group, plain, ahead, stream):
        table_x, table_y = common.tables_of(call)
        roots, ups, downs = room(), room(), room()
        repeat(roots, get(group, tiles.ROOTS), width)
        if not plain:
            repeat(ups, get(group, tiles.SCALE_UPS), width)
            repeat(downs, get(group, tiles.SCALE_DOWNS), width)
        k, period, done = 0, width * LANES, 0
        # Streaming stores are aligned: the elements before go by themselves, as those after do.
        some = lesser(-y % boundary // written, count) if stream else 0
        while done < count:
            if some:
                v = unit(load_some(x, some, table_x), k, roots, ups, downs, plain)
                store_some(v, y, some, table_y)
                x, y, done, k = x + some * size, y + some * written, done + some, k + some
            for _ in range((count - done) // LANES):
                if ahead != 0:
                    prefetch(x + ahead)
                v = unit(load(x, table_x), k, roots, ups, downs, plain)
                if stream:
                    store_non_temporal(v, y, table_y)
                else:
                    store(v, y, table_y)
                x, y, done, k = x + LANES * size, y + LANES * written, done + LANES, k + LANES
                k = k if k < period else k - period
            some = count - done

    return scale


def narrow_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to up to LANES columns."""
    # Always scaled where it may be needed, as in `column_tile`.
    needs_rescaling, product = source.needs_rescaling, source.narrow and target.narrow
    sum_, scale = narrow_sum(source, needs_rescaling), narrow_scale(source, target)
    reserve, room = memory.stack(BLOCK + TREE_LEVELS * LANES), memory.stack(LANES + 1)
    reserve_group = memory.stack(tiles.GROUP)

    @device
    def tile(call, x, y, norm, n, width, norm_step, ahead_sum, ahead_scale, stream):
        stack, sums, factors, group = reserve(), room(), room(), reserve_group()
        table = get_int(call, descriptor.TABLE_X)
        tiles.reset(group)
        rescued, again = False, True
        while again:
            if needs_rescaling:
                repeat(factors, get(group, tiles.FACTORS), width)
            sum_(x, n, width, factors, table, stack, sums, ahead_sum)
            put(group, tiles.SUMS, get(sums, 0))
            again = needs_rescaling and not rescued and tiles.find_lost_sums(group, width)
            rescued = rescued or again
        plain = tiles.settle(call, group, width, norm, norm_step, rescued)
        if y != 0:
            if product:
                tiles.invert_roots(group)
            stream = stream if plain else 0
            scale(call, x, y, n * width, width, group, plain, ahead_scale, stream)

    return tile


def narrow_columns(source: Kind, target: Kind) -> Any:
    """The vectors along the last axis of the batch: all of them make one tile."""
    tile = narrow_tile(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y, norms, batch, axes = common.arrays_of(call)
        n, last_axis = get_int(call, descriptor.N), (axes - 1) * BATCH
        width, norm_step = get_int(batch, last_axis), get_int(batch, last_axis + 3)
        ahead_sum, ahead_scale, stream = common.memory_habits(
            call, n * width, axes - 1, read, write
        )
        for i in range(first, last):
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, i * width)
            tile(call, at_x, at_y, norm, n, width, norm_step, ahead_sum, ahead_scale, stream)
        if stream:
            memory.fence()

    return run
