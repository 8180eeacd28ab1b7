"""narrow columns"""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, descriptor, memory, plan
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.columns import find_lost_sums, settle_tile
from l2multi.backends.numba.kernels.common import (
    BATCH,
    BLOCK_SIZE,
    divided,
    joined,
    memory_habits,
    offset,
    push,
    worker,
)
from l2multi.backends.numba.lanes import BLOCK, add, div, lesser, mul, splat
from l2multi.backends.numba.memory import get, get_double, get_int, put


def narrow_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of the vectors of a tile.

    The elements of its `width` vectors take turns: element k of vector c is number
    ``k * width + c``. So sixteen neighbours are of sixteen lanes and vectors, ``LANES * width``
    of them make a row of all vectors, and the tree over rows needs no lane to be told from another.
    """
    whole = arithmetic.sum_squares(source, scaled)
    load, load_some = memory.loads(source)
    size, line, block = source.size, LANES * source.size, BLOCK_SIZE * source.size
    prefetch = memory.prefetch(block)

    @device
    def sum_(x, n, width, scales, table, stack, sums, ahead):
        blocks, rest, row = n // BLOCK_SIZE, n % BLOCK_SIZE * width, width * LANES
        for index in range(blocks):
            for k in range(width):
                if ahead != 0:
                    prefetch(x + k * block + ahead)
                total = whole(x + k * line, width * line, get(scales, k), table)
                push(stack, BLOCK + k, width, index, total)
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
                push(stack, 0, 1, count, mul(v, v))
                count += 1
            total = joined(stack, 0, 1, count, splat(0.0))
            put(sums, k, joined(stack, BLOCK + k, width, blocks, total))
        # The tree over lanes, those of one vector now `width` numbers apart. What is added beyond
        # the lower half is not used.
        half = row // 2
        while half >= width:
            for k in range(0, 8 * half, 8 * LANES):
                put(sums + k, 0, add(get(sums + k, 0), get(sums + k + 8 * half, 0)))
            half >>= 1

    return sum_


@device
def repeat(slots, width):
    """Repeat the first `width` numbers, for each of sixteen lanes and for one more group."""
    count = width
    while count < LANES * width:
        for k in range(0, 8 * count, 8 * LANES):
            put(slots + k + 8 * count, 0, get(slots + k, 0))
        count *= 2
    put(slots, width, get(slots, 0))


def narrow_scale(source: Kind, target: Kind) -> Any:
    """A function that divides the elements of a tile, each by the divisor of its vector."""
    load, load_some = memory.loads(source)
    store, store_some = memory.stores(target)
    store_non_temporal = memory.non_temporal_store(target)
    plainly, with_care = divided(source.narrow and target.narrow)
    size, written, boundary = source.size, target.size, memory.boundary(target)
    prefetch = memory.prefetch(LANES * size)

    @device
    def unit(v, k, roots, scale_ups, scale_downs, plain):
        """The quotients by divisors from number k on."""
        root = get(roots + 8 * k, 0)
        if plain:
            return plainly(v, root)
        return with_care(v, root, get(scale_ups + 8 * k, 0), get(scale_downs + 8 * k, 0))

    @device
    def scale(
        x, y, count, width, roots, scale_ups, scale_downs, plain, table_x, table_y, ahead, stream
    ):
        k, period, done = 0, width * LANES, 0
        # Streaming stores are aligned: the elements before go by themselves, as those after do.
        some = lesser(-y % boundary // written, count) if stream else 0
        while done < count:
            if some:
                v = unit(load_some(x, some, table_x), k, roots, scale_ups, scale_downs, plain)
                store_some(v, y, some, table_y)
                x, y, done, k = x + some * size, y + some * written, done + some, k + some
            for _ in range((count - done) // LANES):
                if ahead != 0:
                    prefetch(x + ahead)
                v = unit(load(x, table_x), k, roots, scale_ups, scale_downs, plain)
                if stream:
                    store_non_temporal(v, y, table_y)
                else:
                    store(v, y, table_y)
                x, y, done, k = x + LANES * size, y + LANES * written, done + LANES, k + LANES
                k = k if k < period else k - period
            some = count - done

    return scale


def narrow_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a tile: scale_up to LANES vectors whose elements take
    turns, with nothing between them."""
    # Always scaled where it may be needed, as in `gathered_vector`.
    sum_, scale = narrow_sum(source, source.needs_rescaling), narrow_scale(source, target)
    needs_rescaling, product = source.needs_rescaling, source.narrow and target.narrow
    reserve, room = memory.stack(BLOCK + plan.TREE_LEVELS * LANES), memory.stack(LANES + 1)
    settle_all = settle_tile(needs_rescaling)

    @device
    def tile(
        x, y, n, width, norm, norm_step, norm_size,
        eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream,
    ):  # fmt: skip
        stack, sums, factors = reserve(), room(), room()
        scale_ups, scale_downs, roots = room(), room(), room()
        put(scale_ups, 0, splat(1.0))
        put(scale_downs, 0, splat(1.0))
        put(factors, 0, splat(1.0))
        rescued, again = False, True
        while again:
            if needs_rescaling:
                repeat(factors, width)
            sum_(x, n, width, factors, table_x, stack, sums, ahead_sum)
            again = (
                needs_rescaling
                and not rescued
                and find_lost_sums(sums, scale_ups, scale_downs, width)
            )
            if again:
                rescued = True
                put(factors, 0, mul(get(scale_ups, 0), get(scale_downs, 0)))
        plain = settle_all(
            sums,
            scale_ups,
            scale_downs,
            roots,
            width,
            norm,
            norm_step,
            norm_size,
            eps,
            zero_root,
            rescued,
        )
        if y == 0:
            return
        if product:
            put(roots, 0, div(splat(1.0), get(roots, 0)))
        repeat(roots, width)
        if not plain:
            repeat(scale_ups, width)
            repeat(scale_downs, width)
        scale(
            x, y, n * width, width, roots, scale_ups, scale_downs, plain,
            table_x, table_y, ahead_scale, stream if plain else 0,
        )  # fmt: skip

    return tile


def narrow_columns(source: Kind, target: Kind) -> Any:
    """Slabs of the vectors along the last axis of the batch: all of them make one tile."""
    tile = narrow_tile(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        last_axis = (batch_axes - 1) * BATCH
        width = get_int(batch, last_axis)
        n = get_int(call, descriptor.N)
        ahead_sum, ahead_scale, stream = memory_habits(call, n * width, batch_axes - 1, read, write)
        for i in range(first, last):
            tile(
                x + offset(batch, batch_axes, BATCH, 1, i * width),
                y + offset(batch, batch_axes, BATCH, 2, i * width) if y else 0,
                n, width,
                norms + offset(batch, batch_axes, BATCH, 3, i * width) if norms else 0,
                get_int(batch, last_axis + 3), norm_size,
                get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT),
                get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y),
                ahead_sum, ahead_scale, stream,
            )  # fmt: skip
        if stream:
            memory.fence()

    return run
