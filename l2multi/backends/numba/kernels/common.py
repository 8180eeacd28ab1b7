"""What the kernels have in common."""

import math
from typing import Any

import numpy as np

from l2multi._summation import LANES, rescue
from l2multi.backends.numba import cabi, descriptor, lanes, memory
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.lanes import BLOCK, add, canonical, div, greater, lesser, mul
from l2multi.backends.numba.memory import get, get_int, put, set_int
from l2multi.backends.numba.thread_pool import WORKER

LOWEST, SCALE_UP, SCALE_DOWN = map(float, rescue(np.dtype(np.float64)))


EXPONENT = int(math.log2(SCALE_UP))


INF, NAN = math.inf, math.nan


BATCH, INNER = 4, 3  # columns of the tables


BLOCK_SIZE = BLOCK * LANES  # elements that `arithmetic.sum_squares` takes at a time


LEVELS = 40  # of the tree over blocks: 2**40 of them are more than memory_habits holds


@device
def settle(root, scale_up, scale_down, eps, zero_root):
    """The norm; the divisor with its powers of two; whether that is all that x needs."""
    length = root
    if scale_up != 1.0 or scale_down != 1.0:
        length = root / scale_up / scale_down
    if length <= eps:
        root, scale_up, scale_down = eps, 1.0, 1.0
    if length == 0.0:
        root = zero_root
    plain = scale_up == 1.0 and scale_down == 1.0 and root - root == 0.0
    return length, root, scale_up, scale_down, plain


@device
def put_norm(address, norm_size, length, root, scale_up, scale_down):
    """Write a norm, if it is wanted; see `descriptor.THREE_SINGLE`."""
    if address != 0:
        if norm_size == 4:
            memory.put_float(address, length)
        elif norm_size == 8:
            memory.put_double(address, 0, length)
        else:
            put_three(address, norm_size, length, root, scale_up, scale_down)


@device
def put_three(address, norm_size, length, root, scale_up, scale_down):
    """Write a norm and the factors of its inverse."""
    most = 126 if norm_size == descriptor.THREE_SINGLE else 1022
    field = lanes.bits(root) >> 52
    shift = EXPONENT if scale_down != 1.0 else -EXPONENT if scale_up != 1.0 else 0
    exponent = lesser(greater(field - 1023 + shift, -most), most) if root != 0.0 else 0
    # A rescued root is far from the ends of the range, and so is what is left of it here.
    rest = root * lanes.power(shift - exponent)
    rest = 1.0 / rest if rest != 0.0 else 0.0
    if norm_size == descriptor.THREE_SINGLE:
        memory.put_float(address, length)
        memory.put_float(address + 4, lanes.power(-exponent))
        memory.put_float(address + 8, rest)
    else:
        memory.put_double(address, 0, length)
        memory.put_double(address, 1, lanes.power(-exponent))
        memory.put_double(address, 2, rest)


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


def divided(product: bool) -> Any:
    """Two functions: lanes by a divisor or, of narrow kinds, times its inverse; and the same where
    the divisor has powers of two or not all is finite."""

    @device
    def plainly(v, factor):
        return mul(v, factor) if product else div(v, factor)

    @device
    def with_care(v, factor, scale_up, scale_down):
        return canonical(
            mul(v, factor) if product else mul(div(mul(v, scale_up), factor), scale_down)
        )

    return plainly, with_care


# Bytes of x from which it is fetched ahead, at most so far, and where rows are longer so far, and
# scale_up to so far while it is summed too. Bytes of a row, and of y, from which y is streamed, and how
# far ahead rows are asked for that are read once.
PREFETCH_FROM, PREFETCH_MOST, PREFETCH_LONG, PREFETCH_TWICE = 2**20, 2**15, 2**12, 2**14


STREAM_ROW = 2**11


habits = cabi.symbol(descriptor.MACHINE)


EVEN = 8  # rows from which on it is worth while to know where the ones after the next lie


@device
def further(call, n, axes, size, column):
    """How many bytes ahead, in x or y by the column of the batch table, those rows lie that are to
    be asked for by now, of `n` numbers along the last of the first `axes` axes; 0 if that is too
    far, or there are too few."""
    batch, last = get_int(call, descriptor.BATCH), (axes - 1) * BATCH
    if n * size > 2 * PREFETCH_MOST or (axes > 0 and get_int(batch, last) < EVEN):
        return 0
    step = get_int(batch, last + column) if axes > 0 else n * size
    return 4 * step if 4 * n * size <= PREFETCH_MOST else step


@device
def far(call, read):
    """Whether no cache holds x."""
    return get_int(call, descriptor.TOTAL) * get_int(call, descriptor.PARTS) * read >= PREFETCH_FROM


@device
def memory_habits(call, n, axes, read, write):
    """How to go about memory_habits, by size: how many bytes ahead to ask for x while a vector is summed
    and while it is scaled, 0 for not at all, and whether y is written non_temporal the caches. `n` numbers
    are neighbours, and the first `axes` of the batch tell where the next so many lie.

    Where no cache holds x it is asked for ahead of time. Against the fastest copy (2 cores of a
    Xeon, 200000x768 float32): in place 1.62 times its time without, 0.98 four rows ahead. Where no
    cache holds y, its lines are not read before they are written: 2.4 times a copy's time without
    and 1.24 with, or 1.13 where x is asked for while it is summed too (rows of 6 KiB, float64, lose
    as much by that); under a few KiB a row the ends, which are no whole lines, cost more than that
    saves.
    """
    total = get_int(call, descriptor.TOTAL) * get_int(call, descriptor.PARTS)
    x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
    if not far(call, read):
        return 0, 0, 0
    once = get_int(habits(), descriptor.ONCE)
    if y == 0:
        return once, 0, 0
    stream = 0
    if y != x and total * write >= get_int(habits(), descriptor.STREAM) and n * write >= STREAM_ROW:
        places, batch = y, get_int(call, descriptor.BATCH)
        for axis in range(get_int(call, descriptor.BATCH_AXES)):
            places |= get_int(batch, axis * BATCH + 2)
        stream = 1 if places % write == 0 else 0
    ahead = further(call, n, axes, read, 1)
    if ahead == 0:
        return once, PREFETCH_LONG, stream
    return ahead if stream and 4 * n * read <= PREFETCH_TWICE else 0, ahead, stream


def worker(python: Any) -> Any:
    """Mark a worker. All that computes is one, and so does it in the same modes, whoever calls.

    What computes is called, not inlined: between a read and a write of modes LLVM keeps constants
    of loops in memory_habits, and rows of 3 took 1.15 times as long (Zen 5).
    """
    compute = device(python, inline=False)

    @function(WORKER)
    def exactly(first, last, call):
        modes = lanes.exact_modes()
        compute(first, last, call)
        lanes.restore_modes(modes)

    return exactly


@device
def fill_descriptor(
    call, x, y, norms, norm_size, n, parts, table_x, table_y, eps, zero_root, total, pool, threads
):
    """Fill a record for vectors that lie one after the other."""
    set_int(call, descriptor.X, x)
    set_int(call, descriptor.Y, y)
    set_int(call, descriptor.NORMS, norms)
    set_int(call, descriptor.NORM_SIZE, norm_size)
    set_int(call, descriptor.N, n)
    set_int(call, descriptor.BATCH_AXES, 0)
    set_int(call, descriptor.PARTS, parts)
    set_int(call, descriptor.TOGETHER, 1)
    set_int(call, descriptor.TABLE_X, table_x)
    set_int(call, descriptor.TABLE_Y, table_y)
    memory.put_double(call, descriptor.EPS, eps)
    memory.put_double(call, descriptor.ZERO_ROOT, zero_root)
    set_int(call, descriptor.TOTAL, total)
    set_int(call, descriptor.POOL, pool)
    set_int(call, descriptor.THREADS, threads)
