"""The kernels: loops only, no validation, no allocation. They follow `l2multi._summation`.

Six ways through memory:

rows     the elements of a vector are neighbours
columns  neighbouring vectors are neighbours: up to TILE of them go through together, sixteen in a
         group, so that each cache line is read once
slabs    as columns, but no more than sixteen, with nothing between a row of them and the next
bundles  vectors of at most sixteen neighbouring elements: sixteen vectors go through together
runs     the elements of a vector are in runs of neighbours, of whole sixteens or long
packed   anything else, and foreign byte orders: elements are copied to a small buffer and back

Geometry comes as integer tables, outermost axis first: `batch` with a row (size, stride of x,
stride of y, stride of the norms) per axis of the batch, `inner` with a row (size, stride of x,
stride of y) per axis of a vector; strides in bytes. `table_x` and `table_y` are the addresses of
the tables that decode x and encode y. The addresses `y` and `norm` are 0 where no unit vectors or
no norms are wanted; a norm takes `norm_size` bytes, 4 or 8; more: see `records`.
"""

import math
from typing import Any

import numpy as np

from l2multi._summation import LANES, rescue
from l2multi.backends.numba import records, simd
from l2multi.backends.numba.frontend import device
from l2multi.backends.numba.simd import (
    BLOCK,
    Kind,
    add,
    canonical,
    div,
    get,
    get_int,
    greater,
    lesser,
    mul,
    muladd,
    put,
    set_int,
    splat,
)  # fmt: skip

LOWEST, UP, DOWN = map(float, rescue(np.dtype(np.float64)))
EXPONENT = int(math.log2(UP))
INF, NAN = math.inf, math.nan

BATCH, INNER = 4, 3  # columns of the tables

ROWS = BLOCK * LANES  # elements that `simd.sum_squares` takes at a time
LEVELS = 40  # of the tree over blocks: 2**40 of them are more than memory holds
TILE = records.GROUPS * LANES  # columns that go through together
STACKS = LANES  # slots before those of the levels: for what is done to one group at a time
# Slots on the machine's stack, 57 KB where a thread may have as little as 128: for all levels of
# one group of columns.
TILE_ROOM = STACKS + records.TREE_LEVELS * LANES
BUFFER = 1024  # elements, a power of two of blocks

# One element, and many.
copied = {size: (simd.move(size, 1), simd.move(size, LANES)) for size in (1, 2, 4, 8)}


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


@device
def settle(root, up, down, eps, zero_root):
    """The norm; the divisor with its powers of two; whether that is all that x needs."""
    length = root
    if up != 1.0 or down != 1.0:
        length = root / up / down
    if length <= eps:
        root, up, down = eps, 1.0, 1.0
    if length == 0.0:
        root = zero_root
    plain = up == 1.0 and down == 1.0 and root - root == 0.0
    return length, root, up, down, plain


@device
def put_norm(address, norm_size, length, root, up, down):
    """Write a norm, if it is wanted; see `records.THREE_SINGLE`."""
    if address != 0:
        if norm_size == 4:
            simd.put_float(address, length)
        elif norm_size == 8:
            simd.put_double(address, 0, length)
        else:
            put_three(address, norm_size, length, root, up, down)


@device
def put_three(address, norm_size, length, root, up, down):
    """Write a norm and the factors of its inverse."""
    most = 126 if norm_size == records.THREE_SINGLE else 1022
    field = simd.bits(root) >> 52
    shift = EXPONENT if down != 1.0 else -EXPONENT if up != 1.0 else 0
    exponent = lesser(greater(field - 1023 + shift, -most), most) if root != 0.0 else 0
    # A rescued root is far from the ends of the range, and so is what is left of it here.
    rest = root * simd.power(shift - exponent)
    rest = 1.0 / rest if rest != 0.0 else 0.0
    if norm_size == records.THREE_SINGLE:
        simd.put_float(address, length)
        simd.put_float(address + 4, simd.power(-exponent))
        simd.put_float(address + 8, rest)
    else:
        simd.put_double(address, 0, length)
        simd.put_double(address, 1, simd.power(-exponent))
        simd.put_double(address, 2, rest)


@device
def offset(table, rows, width, column, index):
    """Where the element or vector of this number lies: bytes from the start."""
    total = 0
    for axis in range(rows - 1, 0, -1):
        size = get_int(table, axis * width)
        total += index % size * get_int(table, axis * width + column)
        index //= size
    return total + index * get_int(table, column)


@device
def push(stack, first, step, index, total):
    """Step 3 of the summation, by a stack whose slots are `step` apart: take in the sum of part
    number `index`, and join the subtrees that it completes."""
    slot = first
    while index & 1:
        total = add(get(stack, slot), total)
        index >>= 1
        slot += step
    put(stack, slot, total)


@device
def joined(stack, first, step, count, total):
    """The sum of all `count` parts, and of what comes after them."""
    slot = first
    while count:
        if count & 1:
            total = add(get(stack, slot), total)
        count >>= 1
        slot += step
    return total


def row_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of neighbouring elements."""
    whole = simd.sum_squares(source, scaled)
    one, four, eight = (simd.sum_squares_of_some(source, scaled, k) for k in (1, 4, BLOCK))
    size, line = source.size, source.size * LANES
    fetch = simd.fetch(ROWS * size)

    @device
    def add_blocks(x, first, count, scale, table, stack, ahead):
        """Take `count` more blocks into the stack of subtrees, of which it holds `first`."""
        for block in range(first, first + count):
            if ahead != 0:
                fetch(x + ahead)
            total = whole(x, line, scale, table)
            x += ROWS * size
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


def divided(product: bool) -> Any:
    """Two functions: lanes by a divisor or, of narrow kinds, times its inverse; and the same where
    the divisor has powers of two or not all is finite."""

    @device
    def plainly(v, factor):
        return mul(v, factor) if product else div(v, factor)

    @device
    def with_care(v, factor, up, down):
        return canonical(mul(v, factor) if product else mul(div(mul(v, up), factor), down))

    return plainly, with_care


def row_scale(source: Kind, target: Kind) -> Any:
    """A function that divides neighbouring elements by the divisor."""
    load, load_some = simd.loads(source)
    store, store_some = simd.stores(target)
    step = simd.scaling(source, target, False)
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES

    plainly, with_care = divided(product)

    @device
    def scale(x, y, n, root, up, down, plain, table_x, table_y):
        left, factor = n % LANES, splat(1.0 / root if product else root)
        ups, downs = splat(up), splat(down)
        if plain:
            for _ in range(n // LANES):
                step(x, y, factor, table_x, table_y)
                x += read
                y += write
            if left:
                store_some(plainly(load_some(x, left, table_x), factor), y, left, table_y)
        else:
            for _ in range(n // LANES):
                store(with_care(load(x, table_x), factor, ups, downs), y, table_y)
                x += read
                y += write
            if left:
                v = with_care(load_some(x, left, table_x), factor, ups, downs)
                store_some(v, y, left, table_y)

    return scale


def row_stream(source: Kind, target: Kind) -> Any:
    """As `row_scale`, where that is plain, for arrays that no cache holds."""
    _, load_some = simd.loads(source)
    _, store_some = simd.stores(target)
    step, step_past = (simd.scaling(source, target, past) for past in (False, True))
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES
    size, written, boundary = source.size, target.size, simd.boundary(target)
    fetch = simd.fetch(read)

    plainly, _ = divided(product)

    @device
    def stream(x, y, n, root, table_x, table_y, ahead, past):
        factor = splat(1.0 / root if product else root)
        first = 0
        if past:
            first = lesser(-y % boundary // written, n)
            if first:
                store_some(plainly(load_some(x, first, table_x), factor), y, first, table_y)
                x += first * size
                y += first * written
            for _ in range((n - first) // LANES):
                fetch(x + ahead)
                step_past(x, y, factor, table_x, table_y)
                x += read
                y += write
        else:
            for _ in range(n // LANES):
                fetch(x + ahead)
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
    add_scaled, finish_scaled = row_sum(source, True) if source.risky else (add_blocks, finish)
    risky = source.risky
    scale = row_scale(source, target)
    pass_by = row_stream(source, target)
    reserve = simd.stack(LEVELS)
    size = source.size

    @device
    def again(x, n, factor, table, stack):
        """The sum once more, of elements times a power of two."""
        blocks = n // ROWS
        add_scaled(x, 0, blocks, splat(factor), table, stack, 0)
        x += blocks * ROWS * size
        return finish_scaled(x, blocks, n - blocks * ROWS, splat(factor), table, stack)

    @device
    def row(
        x, y, n, norm, norm_size, eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream
    ):  # fmt: skip
        stack = reserve()
        blocks = n // ROWS
        add_blocks(x, 0, blocks, splat(1.0), table_x, stack, ahead_sum)
        tail = x + blocks * ROWS * size
        left = n - blocks * ROWS
        total = simd.sum_lanes(finish(tail, blocks, left, splat(1.0), table_x, stack))
        up = down = 1.0
        if risky:
            if total < LOWEST:
                up = UP
                total = simd.sum_lanes(again(x, n, UP, table_x, stack))
            elif total == INF:
                down = DOWN
                total = simd.sum_lanes(again(x, n, DOWN, table_x, stack))
        first = simd.root(total)
        length, root, up_, down_, plain = settle(first, up, down, eps, zero_root)
        put_norm(norm, norm_size, length, first, up, down)
        up, down = up_, down_
        if y != 0:
            if plain and (stream or ahead_scale):
                pass_by(x, y, n, root, table_x, table_y, ahead_scale, stream)
            else:
                scale(x, y, n, root, up, down, plain, table_x, table_y)

    return row


def run_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of elements in runs of `run` neighbours, of
    which a row of the table `inner` but the last tells where they lie.

    Rows of lanes are read where they are. Those that do not lie in one run are copied, and filled
    up with zeros: nothing is special about the last ones.
    """
    whole = simd.sum_squares_at(source, scaled)
    size, line = source.size, source.size * LANES
    reserve, reserve_places = simd.stack(BLOCK), simd.room(BLOCK)
    fetch = simd.fetch(line)

    @device
    def sum_(x, n, run, inner, axes, scale, table, stack, ahead):
        places, copies = reserve_places(), reserve()
        at, left, number, tail = x + offset(inner, axes, INNER, 1, 0), run, 0, splat(0.0)
        for first in range(0, n, ROWS):
            row, rest = 0, n - first
            while row < BLOCK:
                last = lesser(row + lesser(left, rest) // LANES, BLOCK)
                left, rest = left - (last - row) * LANES, rest - (last - row) * LANES
                for k in range(row, last):
                    fetch(at + ahead)
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
                        simd.copy_bytes(place, at, count * size)
                        place, at = place + count * size, at + count * size
                        wanted, left, rest = wanted - count, left - count, rest - count
                if left == 0:
                    number, left = number + 1, run
                    at = x + offset(inner, axes, INNER, 1, number)
            total = whole(places, scale, table)
            if n - first >= ROWS:
                push(stack, 0, 1, first // ROWS, total)
            else:
                tail = total
        return joined(stack, 0, 1, n // ROWS, tail)

    return sum_


def one_run_after_another(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector of runs."""
    # Always scaled where it may be needed, as in `one_packed`.
    sum_ = run_sum(source, source.risky)
    risky = source.risky
    scale, pass_by = row_scale(source, target), row_stream(source, target)
    reserve, written = simd.stack(LEVELS), target.size

    @device
    def vector(
        x, y, n, run, inner, axes, norm, norm_size,
        eps, zero_root, table_x, table_y, ahead_x, ahead_y, stream,
    ):  # fmt: skip
        stack = reserve()
        up = down = 1.0
        total = 0.0
        again = True
        while again:
            factor = splat(up * down)
            total = simd.sum_lanes(sum_(x, n, run, inner, axes, factor, table_x, stack, ahead_x))
            again = False
            if risky and up == 1.0 and down == 1.0:
                if total < LOWEST:
                    up, again = UP, True
                elif total == INF:
                    down, again = DOWN, True
        first = simd.root(total)
        length, root, up_, down_, plain = settle(first, up, down, eps, zero_root)
        put_norm(norm, norm_size, length, first, up, down)
        if y == 0:
            return
        for number in range(n // run):
            at_x = x + offset(inner, axes, INNER, 1, number)
            at_y = y + offset(inner, axes, INNER, 2, number)
            # Short runs are not streamed, for their ends are no whole lines: 4000 vectors of eight
            # runs of 384 bytes took twice the time. Lines asked for ahead of time take as long as
            # streaming takes where all begin on a line, and half of what they do unasked for.
            if ahead_y != 0 and not stream:
                for k in range(0, run * written, simd.LINE):
                    simd.claim(at_y + k + ahead_y)
            if plain:
                pass_by(at_x, at_y, run, root, table_x, table_y, 0, stream)
            else:
                scale(at_x, at_y, run, root, up_, down_, False, table_x, table_y)

    return vector


def one_packed(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to one vector, however it lies in memory."""
    # Always scaled where it may be needed: one copy of the code, and times 1.0 changes no bit.
    add_blocks, finish = row_sum(source, source.risky)
    risky = source.risky
    scale = row_scale(source, target)
    size, written = source.size, target.size
    move_in, move_out = moving(size), moving(written)
    reserve, reserve_buffer = simd.stack(LEVELS), simd.stack(BUFFER // LANES)

    @device
    def pack(x, first, count, inner, axes, parts, swap, buffer):
        """Copy elements from `first` on to a buffer; `parts` is 2 for complex ones."""
        run = get_int(inner, (axes - 1) * INNER)
        step = get_int(inner, (axes - 1) * INNER + 1)
        row, within = first // run, first % run
        while count > 0:
            start = x + offset(inner, axes - 1, INNER, 1, row) + within * step
            most = lesser(run - within, count)
            if step == parts * size and swap == 0:
                simd.copy_bytes(buffer, start, most * step)
            else:
                move_in(start, step, buffer, parts * size, most, parts, swap)
            buffer += most * parts * size
            row, within = row + 1, 0
            count -= most

    @device
    def unpack(buffer, y, first, count, inner, axes, parts):
        """Copy elements back, from a buffer."""
        run = get_int(inner, (axes - 1) * INNER)
        step = get_int(inner, (axes - 1) * INNER + 2)
        row, within = first // run, first % run
        while count > 0:
            start = y + offset(inner, axes - 1, INNER, 2, row) + within * step
            most = lesser(run - within, count)
            if step == parts * written:
                simd.copy_bytes(start, buffer, most * step)
            else:
                move_out(buffer, parts * written, start, step, most, parts, 0)
            buffer += most * parts * written
            row, within = row + 1, 0
            count -= most

    @device
    def packed(
        x, y, n, inner, axes, parts, swap, norm, norm_size, eps, zero_root, table_x, table_y
    ):
        stack, buffer, result = reserve(), reserve_buffer(), reserve_buffer()
        most = BUFFER // parts
        up = down = root = 1.0
        plain, scaling, filled = True, False, False
        # Once for the sum, again where it was lost, and at last for the unit vector.
        while True:
            factor, lanes, blocks = splat(up * down), splat(0.0), 0
            for first in range(0, n, most):
                count = lesser(most, n - first)
                if not filled:
                    pack(x, first, count, inner, axes, parts, swap, buffer)
                if scaling:
                    scale(buffer, result, count * parts, root, up, down, plain, table_x, table_y)
                    unpack(result, y, first, count, inner, axes, parts)
                    continue
                whole = count * parts // ROWS
                add_blocks(buffer, blocks, whole, factor, table_x, stack, 0)
                blocks += whole
                if first + count == n:
                    tail, left = buffer + whole * ROWS * size, count * parts - whole * ROWS
                    lanes = finish(tail, blocks, left, factor, table_x, stack)
            if scaling:
                return
            filled = n <= most
            total = simd.sum_lanes(lanes)
            if risky and up == 1.0 and down == 1.0:
                if total < LOWEST:
                    up = UP
                elif total == INF:
                    down = DOWN
                if up != 1.0 or down != 1.0:
                    continue
            first_root = simd.root(total)
            length, root, up_, down_, plain = settle(first_root, up, down, eps, zero_root)
            put_norm(norm, norm_size, length, first_root, up, down)
            if y == 0:
                return
            up, down, scaling = up_, down_, True

    return packed


def column_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of the vectors of a tile."""
    whole = simd.sum_squares(source, scaled)
    one, some = (simd.sum_squares_of_some(source, scaled, k) for k in (1, BLOCK))
    two, four = (simd.sum_squares(source, scaled, k) for k in (2, 4))
    across = LANES * source.size
    fetch = simd.fetch(across, BLOCK)

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
        blocks, left = n // ROWS, n % ROWS
        for block in range(blocks):
            for lane in range(LANES):
                for group in range(groups):
                    at, some_columns = x + lane * stride + group * across, columns - group * LANES
                    scale = get(scales, group)
                    if ahead != 0:
                        fetch(at + ahead, LANES * stride)
                    if some_columns >= LANES:
                        total = whole(at, LANES * stride, scale, table)
                    else:
                        total = some(
                            at, LANES * stride, some_columns, 0, some_columns, scale, table
                        )
                    push(stack, STACKS + lane * groups + group, LANES * groups, block, total)
            x += ROWS * stride
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


def one_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a tile: vectors that are neighbours."""
    # Always scaled where it may be needed, as in `one_packed`.
    sum_ = column_sum(source, source.risky)
    risky = source.risky
    _, load_some = simd.loads(source)
    _, store_some = simd.stores(target)
    step, step_past = (simd.scaling(source, target, past) for past in (False, True))
    product = source.narrow and target.narrow
    plainly, with_care = divided(product)
    small = simd.stack((TILE + simd.LINE) // LANES)  # a line more is no more than so many bytes
    few = simd.stack(LANES)
    settle_all = settle_tile(risky)
    across, written = LANES * source.size, LANES * target.size

    @device
    def scale_whole(x, y, n, read, write, groups, roots, table_x, table_y, stream):
        for _ in range(n):
            for group in range(groups):
                at, to, divisor = x + group * across, y + group * written, get(roots, group)
                if stream:
                    step_past(at, to, divisor, table_x, table_y)
                else:
                    step(at, to, divisor, table_x, table_y)
            x += read
            y += write

    @device
    def scale_some(x, y, n, read, write, columns, root, up, down, plain, table_x, table_y, buffer):
        """Some rows are read before they are written, for a narrow row's store has the next one
        wait, which lies in its shadow."""
        for first in range(0, n, LANES):
            rows = lesser(n - first, LANES)
            for row in range(rows):
                v = load_some(x, columns, table_x)
                put(buffer, row, plainly(v, root) if plain else with_care(v, root, up, down))
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
        sums, ups, downs, roots, factors = small(), small(), small(), small(), small()
        groups = (columns + LANES - 1) // LANES
        for group in range(groups):
            put(ups, group, splat(1.0))
            put(downs, group, splat(1.0))
            put(factors, group, splat(1.0))
        again = True
        rescued = False
        while again:
            sum_(x, n, read, columns, factors, table_x, stack, sums, ahead)
            again = risky and not rescued and lost_sums(sums, ups, downs, columns)
            if again:
                rescued = True
                for group in range(groups):
                    put(factors, group, mul(get(ups, group), get(downs, group)))
        whole = 0
        for group in range(groups):
            some_columns, slot = lesser(columns - group * LANES, LANES), group * 8 * LANES
            plain = settle_all(
                sums + slot, ups + slot, downs + slot, roots + slot, some_columns,
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
                        get(roots, group), get(ups, group), get(downs, group), plain,
                        table_x, table_y, buffer,
                    )  # fmt: skip
        if whole:
            scale_whole(x, y, n, read, write, whole, roots, table_x, table_y, stream)

    return tile


def slab_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sums of squares of the vectors of a slab.

    The elements of its `width` vectors take turns: element k of vector c is number
    ``k * width + c``. So sixteen neighbours are of sixteen lanes and vectors, ``LANES * width``
    of them make a row of all vectors, and the tree over rows needs no lane to be told from another.
    """
    whole = simd.sum_squares(source, scaled)
    load, load_some = simd.loads(source)
    size, line, block = source.size, LANES * source.size, ROWS * source.size
    fetch = simd.fetch(block)

    @device
    def sum_(x, n, width, scales, table, stack, sums, ahead):
        blocks, rest, row = n // ROWS, n % ROWS * width, width * LANES
        for index in range(blocks):
            for k in range(width):
                if ahead != 0:
                    fetch(x + k * block + ahead)
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


def slab_scale(source: Kind, target: Kind) -> Any:
    """A function that divides the elements of a slab, each by the divisor of its vector."""
    load, load_some = simd.loads(source)
    store, store_some = simd.stores(target)
    store_past = simd.streaming(target)
    plainly, with_care = divided(source.narrow and target.narrow)
    size, written, boundary = source.size, target.size, simd.boundary(target)
    fetch = simd.fetch(LANES * size)

    @device
    def unit(v, k, roots, ups, downs, plain):
        """The quotients by divisors from number k on."""
        root = get(roots + 8 * k, 0)
        if plain:
            return plainly(v, root)
        return with_care(v, root, get(ups + 8 * k, 0), get(downs + 8 * k, 0))

    @device
    def scale(x, y, count, width, roots, ups, downs, plain, table_x, table_y, ahead, stream):
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
                    fetch(x + ahead)
                v = unit(load(x, table_x), k, roots, ups, downs, plain)
                if stream:
                    store_past(v, y, table_y)
                else:
                    store(v, y, table_y)
                x, y, done, k = x + LANES * size, y + LANES * written, done + LANES, k + LANES
                k = k if k < period else k - period
            some = count - done

    return scale


def one_slab(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a slab: up to LANES vectors whose elements take
    turns, with nothing between them."""
    # Always scaled where it may be needed, as in `one_packed`.
    sum_, scale = slab_sum(source, source.risky), slab_scale(source, target)
    risky, product = source.risky, source.narrow and target.narrow
    reserve, room = simd.stack(BLOCK + records.TREE_LEVELS * LANES), simd.stack(LANES + 1)
    settle_all = settle_tile(risky)

    @device
    def slab(
        x, y, n, width, norm, norm_step, norm_size,
        eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream,
    ):  # fmt: skip
        stack, sums, factors = reserve(), room(), room()
        ups, downs, roots = room(), room(), room()
        put(ups, 0, splat(1.0))
        put(downs, 0, splat(1.0))
        put(factors, 0, splat(1.0))
        rescued, again = False, True
        while again:
            if risky:
                repeat(factors, width)
            sum_(x, n, width, factors, table_x, stack, sums, ahead_sum)
            again = risky and not rescued and lost_sums(sums, ups, downs, width)
            if again:
                rescued = True
                put(factors, 0, mul(get(ups, 0), get(downs, 0)))
        plain = settle_all(
            sums, ups, downs, roots, width, norm, norm_step, norm_size, eps, zero_root, rescued
        )
        if y == 0:
            return
        if product:
            put(roots, 0, div(splat(1.0), get(roots, 0)))
        repeat(roots, width)
        if not plain:
            repeat(ups, width)
            repeat(downs, width)
        scale(
            x, y, n * width, width, roots, ups, downs, plain,
            table_x, table_y, ahead_scale, stream if plain else 0,
        )  # fmt: skip

    return slab


@device
def lost_sums(sums, ups, downs, columns):
    """Find the sums of a tile that have left the safe range, and the power of two for each."""
    again = False
    for c in range(columns):
        total = simd.get_double(sums, c)
        if total < LOWEST:
            simd.put_double(ups, c, UP)
            again = True
        elif total == INF:
            simd.put_double(downs, c, DOWN)
            again = True
    return again


def settle_tile(risky: bool) -> Any:
    """A function: `settle` for all vectors of a tile at once, where none is special (a tile of
    2-element vectors takes a third of the time), or one by one; it writes their norms and gives
    whether the division is plain for all."""
    # A sum above this needs no rescue, and no root is zero.
    lowest = LOWEST if risky else 0.0

    @device
    def settle_all(
        sums, ups, downs, roots, columns, norm, norm_step, norm_size, eps, zero_root, rescued
    ):  # fmt: skip
        total = get(sums, 0)
        root = simd.roots(total)
        if (
            not rescued
            and simd.all_above(total, lowest, columns)
            and simd.all_above(root, eps, columns)
        ):
            put(roots, 0, root)
            if norm != 0:
                if norm_step == norm_size and norm_size <= 8:
                    simd.put_floats(root, norm, columns, norm_size)
                else:
                    for c in range(columns):
                        one = simd.get_double(roots, c)
                        put_norm(norm + c * norm_step, norm_size, one, one, 1.0, 1.0)
            return True
        plain = True
        put(roots, 0, splat(1.0))
        for c in range(columns):
            first = simd.root(simd.get_double(sums, c))
            up, down = simd.get_double(ups, c), simd.get_double(downs, c)
            length, divisor, up_, down_, simple = settle(first, up, down, eps, zero_root)
            if norm != 0:
                put_norm(norm + c * norm_step, norm_size, length, first, up, down)
            up, down = up_, down_
            simd.put_double(roots, c, divisor)
            simd.put_double(ups, c, up)
            simd.put_double(downs, c, down)
            plain = plain and simple
        return plain

    return settle_all


def one_bundle(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a bundle: up to LANES vectors, `step` bytes apart,
    of no more than LANES neighbouring elements. Where up to four elements of all of them lie one
    after the other, a slot holds one element of each vector, else one vector."""
    _, load_some = simd.loads(source)
    _, store_some = simd.stores(target)
    one_in, two_in, three_in, four_in = (simd.few_in(source, n) for n in range(1, 5))
    one_out, two_out, three_out, four_out = (simd.few_out(target, n) for n in range(1, 5))
    risky = source.risky
    product = source.narrow and target.narrow
    plainly, with_care = divided(product)
    size, written = source.size, target.size
    reserve, small = simd.stack(LANES), simd.stack(1)
    settle_all = settle_tile(risky)

    @device
    def sum_across(n, factor, values, stack):
        """Slots of one element of each vector: the tree over lanes; those beyond n are zeros, which
        change no sum."""
        for k in range(n):
            v = mul(get(values, k), factor)
            put(stack, k, mul(v, v))
        half, left = LANES // 2, n
        while half:
            for k in range(left - half):
                put(stack, k, add(get(stack, k), get(stack, k + half)))
            left = lesser(left, half)
            half >>= 1
        return get(stack, 0)

    @device
    def fill(x, n, step, count, few, table, values):
        if few:
            if n == 1:
                return one_in(x, table, values)
            if n == 2:
                return two_in(x, table, values)
            if n == 3:
                return three_in(x, table, values)
            return four_in(x, table, values)
        for k in range(count):
            put(values, k, load_some(x + k * step, n, table))
        for k in range(count, LANES):
            put(values, k, splat(0.0))
        return simd.sum_rows(values)

    @device
    def spill(values, y, n, table):
        if n == 1:
            one_out(values, y, table)
        elif n == 2:
            two_out(values, y, table)
        elif n == 3:
            three_out(values, y, table)
        else:
            four_out(values, y, table)

    @device
    def bundle(
        x, y, n, step_x, step_y, count, norm, norm_step, norm_size,
        eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        values, stack = reserve(), reserve()
        sums, ups, downs, roots = small(), small(), small(), small()
        put(ups, 0, splat(1.0))
        put(downs, 0, splat(1.0))
        few = n <= 4 and count == LANES and step_x == n * size
        few = few and (y == 0 or step_y == n * written)
        put(sums, 0, fill(x, n, step_x, count, few, table_x, values))
        rescued = risky and lost_sums(sums, ups, downs, count)
        if rescued:
            factors = mul(get(ups, 0), get(downs, 0))
            if few:
                put(sums, 0, sum_across(n, factors, values, stack))
            else:
                put(roots, 0, factors)
                for k in range(LANES):
                    put(stack, k, mul(get(values, k), splat(simd.get_double(roots, k))))
                put(sums, 0, simd.sum_rows(stack))
        plain = settle_all(
            sums, ups, downs, roots, count, norm, norm_step, norm_size, eps, zero_root, rescued
        )
        if y == 0:
            return
        if product:
            put(roots, 0, div(splat(1.0), get(roots, 0)))
        if few:
            for k in range(n):
                v, divisor = get(values, k), get(roots, 0)
                v = (
                    plainly(v, divisor)
                    if plain
                    else with_care(v, divisor, get(ups, 0), get(downs, 0))
                )
                put(values, k, v)
            spill(values, y, n, table_y)
        else:
            for k in range(count):
                v, divisor = get(values, k), splat(simd.get_double(roots, k))
                up, down = splat(simd.get_double(ups, k)), splat(simd.get_double(downs, k))
                v = plainly(v, divisor) if plain else with_care(v, divisor, up, down)
                store_some(v, y + k * step_y, n, table_y)

    return bundle


def one_turn(kind: Kind) -> Any:
    """A function: how the unit vector u of `x` changes as `x` moves by `d`. That is
    ``(d - u (u . d)) / norm``, or ``d / eps`` where the norm is at most `eps`, or 0 where it is 0.

    As a matrix it is symmetric, so that it serves derivatives forwards and backwards. `kind` is
    narrow: no product of three of its numbers leaves the range of float64.
    """
    load, load_some = simd.loads(kind)
    store, store_some = simd.stores(kind)
    past = simd.streaming(kind)
    size, step, boundary = kind.size, kind.size * LANES, simd.boundary(kind)

    @device
    def turned(v, w, factor, back):
        return canonical(muladd(v, back, mul(w, factor)))

    @device
    def turn(x, d, y, n, eps, stream):
        left, whole = n % LANES, n - n % LANES
        squares = products = splat(0.0)
        for k in range(0, whole * size, step):
            v, w = load(x + k, 0), load(d + k, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        at = whole * size
        if left:
            v, w = load_some(x + at, left, 0), load_some(d + at, left, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        square = simd.sum_lanes(squares)
        length = simd.root(square)
        if length <= eps:
            factor, back = 1.0 / eps if eps > 0.0 else 0.0, 0.0
        else:
            factor = 1.0 / length
            back = -factor * (simd.sum_lanes(products) / square)
        factors, backs = splat(factor), splat(back)
        if stream and (y | at + left * size) % boundary == 0:
            for k in range(0, at, step):
                past(turned(load(x + k, 0), load(d + k, 0), factors, backs), y + k, 0)
        else:
            for k in range(0, at, step):
                store(turned(load(x + k, 0), load(d + k, 0), factors, backs), y + k, 0)
        if left:
            v, w = load_some(x + at, left, 0), load_some(d + at, left, 0)
            store_some(turned(v, w, factors, backs), y + at, left, 0)

    return turn
