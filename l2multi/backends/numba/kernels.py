"""The kernels: loops only, no validation, no allocation. They follow `l2multi._summation`.

Three ways through memory:

rows     the elements of a vector are neighbours
columns  neighbouring vectors are neighbours: up to sixteen of them, a tile, go through together,
         so that each cache line is read once
packed   anything else, and foreign byte orders: elements are copied to a small buffer and back

Geometry comes as integer tables, outermost axis first: `batch` with a row (size, stride of x,
stride of y, stride of the norms) per axis of the batch, `inner` with a row (size, stride of x,
stride of y) per axis of a vector; strides in bytes. `tables` are the addresses of the tables
that decode x and encode y. `norms` is an address, or 0 where no norms are wanted, and
`norm_size` what one takes in bytes, 4 or 8.
"""

import math
from typing import Any

import numba
import numpy as np

from l2multi._summation import LANES, rescue
from l2multi.backends.numba import simd
from l2multi.backends.numba.simd import BLOCK, Kind, add, canonical, div, get, mul, put, splat

# Plain Python arithmetic, IEEE to the letter; and Python's lock let go, so that threads can work.
OPTIONS = {"nogil": True, "error_model": "numpy"}

LOWEST, UP, DOWN = map(float, rescue(np.dtype(np.float64)))
INF, NAN = math.inf, math.nan

ROWS = BLOCK * LANES  # elements that `simd.sum_squares` takes at a time
LEVELS = 40  # of the tree over blocks: 2**40 of them are more than memory holds
BUFFER = 1024  # elements, a power of two of blocks

device = numba.njit(**OPTIONS)
copied = {size: simd.move(size) for size in (1, 2, 4, 8)}


@device
def settle(root, up, down, eps, zero_root):
    """The norm; the divisor with its powers of two; whether that is all that x needs."""
    length = root
    if up != 1.0 or down != 1.0:
        length = root / up / down
    if length != length:
        length = NAN
    if length <= eps:
        root, up, down = eps, 1.0, 1.0
    if length == 0.0:
        root = zero_root
    plain = up == 1.0 and down == 1.0 and root - root == 0.0
    return length, root, up, down, plain


@device
def put_norm(address, norm_size, length):
    """Write a norm, if it is wanted."""
    if address != 0:
        if norm_size == 4:
            simd.put_float(address, length)
        else:
            simd.put_double(address, 0, length)


@device
def offset(table, column, index):
    """Where the element or vector of this number lies: bytes from the start."""
    total = 0
    for axis in range(table.shape[0] - 1, 0, -1):
        size = table[axis, 0]
        total += index % size * table[axis, column]
        index //= size
    return total + index * table[0, column]


def row_sum(source: Kind, scaled: bool) -> Any:
    """A function: the sum over lanes of the squares of neighbouring elements."""
    whole = simd.sum_squares(source, scaled)
    one, four, eight = (simd.sum_squares_of_some(source, scaled, k) for k in (1, 4, BLOCK))
    size, line = source.size, source.size * LANES

    @device
    def add_blocks(x, first, count, scale, table, stack):
        """Take `count` more blocks into the stack of subtrees, of which it holds `first`."""
        for block in range(first, first + count):
            total = whole(x, line, scale, table)
            x += ROWS * size
            level, rest = 0, block
            while rest & 1:
                total = add(get(stack, level), total)
                rest >>= 1
                level += 1
            put(stack, level, total)

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
        level = 0
        while blocks:
            if blocks & 1:
                total = add(get(stack, level), total)
            blocks >>= 1
            level += 1
        return total

    return add_blocks, finish


def row_scale(source: Kind, target: Kind) -> Any:
    """A function that divides neighbouring elements by the divisor."""
    load, load_some = simd.loads(source)
    store, store_some = simd.stores(target)
    product = source.narrow and target.narrow
    read, write = source.size * LANES, target.size * LANES

    @device
    def plainly(v, factor):
        return mul(v, factor) if product else div(v, factor)

    @device
    def with_care(v, root, up, down):
        if product:
            return canonical(mul(v, splat(1.0 / root)))
        return canonical(mul(div(mul(v, splat(up)), splat(root)), splat(down)))

    @device
    def scale(x, y, n, root, up, down, plain, table_x, table_y):
        left = n % LANES
        if plain:
            factor = splat(1.0 / root if product else root)
            for _ in range(n // LANES):
                store(plainly(load(x, table_x), factor), y, table_y)
                x += read
                y += write
            if left:
                store_some(plainly(load_some(x, left, table_x), factor), y, left, table_y)
        else:
            for _ in range(n // LANES):
                store(with_care(load(x, table_x), root, up, down), y, table_y)
                x += read
                y += write
            if left:
                v = with_care(load_some(x, left, table_x), root, up, down)
                store_some(v, y, left, table_y)

    return scale


def one_row(source: Kind, target: Kind | None) -> Any:
    """A function that does all there is to do to one vector of neighbouring elements."""
    add_blocks, finish = row_sum(source, False)
    add_scaled, finish_scaled = row_sum(source, True) if source.risky else (add_blocks, finish)
    risky, writes = source.risky, target is not None
    scale = row_scale(source, target) if target is not None else None
    reserve = simd.stack(LEVELS)
    size = source.size

    @device
    def again(x, n, factor, table, stack):
        """The sum once more, of elements times a power of two."""
        blocks = n // ROWS
        add_scaled(x, 0, blocks, splat(factor), table, stack)
        x += blocks * ROWS * size
        return finish_scaled(x, blocks, n - blocks * ROWS, splat(factor), table, stack)

    @device
    def row(x, y, n, norm, norm_size, eps, zero_root, table_x, table_y):
        stack = reserve()
        blocks = n // ROWS
        add_blocks(x, 0, blocks, splat(1.0), table_x, stack)
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
        length, root, up, down, plain = settle(math.sqrt(total), up, down, eps, zero_root)
        put_norm(norm, norm_size, length)
        if writes:
            scale(x, y, n, root, up, down, plain, table_x, table_y)

    return row
