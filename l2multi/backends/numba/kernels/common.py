"""What the kernels share: how they read a call descriptor, the tree over blocks, the norm and its
divisor, how they go about memory, and what makes a worker of a function.

Loops only, as in all kernels: no validation, no allocation, nothing of Python.
"""

import math
from typing import Any

import numpy as np

from l2multi._summation import LANES, rescue
from l2multi.backends.numba import cabi, descriptor, lanes, memory
from l2multi.backends.numba.cabi import WORKER
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.lanes import BLOCK, add, canonical, div, greater, lesser, mul
from l2multi.backends.numba.memory import get, get_double, get_int, put, set_int
from l2multi.backends.numba.plan import BATCH

LOWEST, SCALE_UP, SCALE_DOWN = map(float, rescue(np.dtype(np.float64)))
EXPONENT = int(math.log2(SCALE_UP))
INF, NAN = math.inf, math.nan

BLOCK_SIZE = BLOCK * LANES  # elements that `arithmetic.sum_squares` takes at a time
LEVELS = 40  # of the tree over blocks: 2**40 of them are more than memory holds


def worker(python: Any) -> Any:
    """Mark a worker: a C function that does the vectors `first` to `last` of a call. All that
    computes is one, and so does it in the same modes, whoever calls.

    What computes is called, not inlined: between a read and a write of modes LLVM keeps constants
    of loops in memory, and rows of 3 took 1.15 times as long (Zen 5).
    """
    compute = device(python, inline=False)

    @function(WORKER)
    def exactly(first, last, call):
        modes = lanes.exact_modes()
        compute(first, last, call)
        lanes.restore_modes(modes)

    return exactly


# The call descriptor


@device
def fill_descriptor(
    call, batch, count, n, x, y, norms, read, write, norm_size, parts, table_x, table_y,
    eps, zero_root, pool, threads,
):  # fmt: skip
    """Fill a call descriptor for `count` vectors of `n` elements that lie one after another; their
    table goes to `batch`."""
    set_int(batch, 0, count)
    set_int(batch, 1, n * read)
    set_int(batch, 2, n * write)
    set_int(batch, 3, norm_size)
    set_int(call, descriptor.BATCH, batch)
    set_int(call, descriptor.BATCH_AXES, 1)
    set_int(call, descriptor.X, x)
    set_int(call, descriptor.Y, y)
    set_int(call, descriptor.NORMS, norms)
    set_int(call, descriptor.NORM_SIZE, norm_size)
    set_int(call, descriptor.N, n)
    set_int(call, descriptor.PARTS, parts)
    set_int(call, descriptor.TOGETHER, 1)
    set_int(call, descriptor.TABLE_X, table_x)
    set_int(call, descriptor.TABLE_Y, table_y)
    memory.put_double(call, descriptor.EPS, eps)
    memory.put_double(call, descriptor.ZERO_ROOT, zero_root)
    set_int(call, descriptor.TOTAL, count * n)
    set_int(call, descriptor.POOL, pool)
    set_int(call, descriptor.THREADS, threads)


@device
def numbers_of(call):
    """The numbers in a vector: of complex elements both parts."""
    return get_int(call, descriptor.N) * get_int(call, descriptor.PARTS)


@device
def arrays_of(call):
    """The addresses of x, y and the norms, and the table of the batch with its rows."""
    return (
        get_int(call, descriptor.X), get_int(call, descriptor.Y), get_int(call, descriptor.NORMS),
        get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES),
    )  # fmt: skip


@device
def tables_of(call):
    """The addresses of the tables that decode x and encode y."""
    return get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y)


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
def places(x, y, norms, batch, axes, index):
    """Where the vector of this number, its unit vector and its norm lie, or 0 for what is not
    wanted; of what `arrays_of` gives."""
    return (
        x + offset(batch, axes, BATCH, 1, index),
        y + offset(batch, axes, BATCH, 2, index) if y else 0,
        norms + offset(batch, axes, BATCH, 3, index) if norms else 0,
    )


# The tree over blocks


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


# The norm and the divisor


@device
def rescaled(total, scale_up, scale_down):
    """By which powers of two to multiply elements before they are squared once more, and whether
    that is needed: where a sum of elements as they are has left the safe range."""
    again = scale_up == 1.0 and scale_down == 1.0 and (total < LOWEST or total == INF)
    if again:
        if total < LOWEST:
            scale_up = SCALE_UP
        else:
            scale_down = SCALE_DOWN
    return scale_up, scale_down, again


@device
def divisor_of(call, norm, total, scale_up, scale_down):
    """Write the norm of a vector with this sum of squares to `norm`, if that is not 0; the divisor,
    its powers of two, and whether that is all that x needs."""
    root = lanes.root(total)
    length, eps = root, get_double(call, descriptor.EPS)
    if scale_up != 1.0 or scale_down != 1.0:
        length = root / scale_up / scale_down
    put_norm(call, norm, length, root, scale_up, scale_down)
    if length <= eps:
        root, scale_up, scale_down = eps, 1.0, 1.0
    if length == 0.0:
        root = get_double(call, descriptor.ZERO_ROOT)
    plain = scale_up == 1.0 and scale_down == 1.0 and root - root == 0.0
    return root, scale_up, scale_down, plain


@device
def put_norm(call, address, length, root, scale_up, scale_down):
    """Write a norm, if it is wanted; with the factors of its inverse, where a call asks for three
    numbers (see `descriptor.THREE_SINGLE`); or judge it."""
    norm_size = get_int(call, descriptor.NORM_SIZE)
    if address != 0:
        if norm_size == 4:
            memory.put_float(address, length)
        elif norm_size == 8:
            memory.put_double(address, 0, length)
        elif norm_size == descriptor.JUDGED:
            judge(address, length)
        else:
            put_three(address, norm_size, length, root, scale_up, scale_down)


@device
def judge(address, length):
    """Tell that a norm is 0, or NaN or inf; once, for each store takes the line from other threads:
    20000x64 zeros took 1.4 times as long by two."""
    if length == 0.0:
        if get_int(address, 0) == 0:
            set_int(address, 0, 1)
    elif not length < INF and get_int(address, 1) == 0:
        set_int(address, 1, 1)


@device
def put_three(address, norm_size, length, root, scale_up, scale_down):
    """Write a norm and the factors of its inverse."""
    most = 126 if norm_size == descriptor.THREE_SINGLE else 1022
    field = lanes.bits(root) >> 52
    shift = EXPONENT if scale_down != 1.0 else -EXPONENT if scale_up != 1.0 else 0
    exponent = lesser(greater(field - 1023 + shift, -most), most) if root != 0.0 else 0
    # The root of a rescaled sum is far from the ends of the range, and so is what is left of it.
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


def quotient_factor(product: bool) -> Any:
    """A function: what lanes are divided by or, of narrow kinds, multiplied by; see `divided`."""

    @device
    def factor(root):
        return 1.0 / root if product else root

    return factor


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


# How to go about memory


@device
def backwards(turn, parts, call):
    """The part of a long vector that comes at a turn of its scaling: what a thread has summed last
    first, for that is in its caches still. The calling thread sums its share from the first part
    on, others from the last; see `thread_pool`. (Of a vector of more parts than are summed at a
    time that is the last of them only.)"""
    share = parts // get_int(call, descriptor.THREADS)
    return (share if turn < share else parts + share) - 1 - turn


# Bytes of x from which no cache is taken to hold it.
PREFETCH_FROM = 2**20
# How far ahead x is prefetched at most; where rows are longer; and while it is summed too.
PREFETCH_MOST, PREFETCH_LONG, PREFETCH_SUM = 2**15, 2**12, 2**14
# How far ahead an output is prefetched that is not streamed. Into another array and two threads,
# 1000x768 to 3000x768 float32 take 0.82 to 0.95, bfloat16 0.9 to 1.0; derivatives 0.85 to 0.97, and
# 1.0 to 1.05 in the caches (Intel Xeon).
PREFETCH_OUTPUT = 2**11
# Bytes of a row from which y is streamed.
STREAM_ROW = 2**11
EVEN = 8  # rows from which on it pays to know where the ones after the next lie

_habits = cabi.symbol(descriptor.MACHINE)


@device
def next_rows(call, n, axes, size, column):
    """How many bytes ahead, in x or y by the column of the batch table, the rows lie that are to be
    prefetched now, of `n` numbers along the last of the first `axes` axes; 0 if that is too far, or
    there are too few."""
    batch, last = get_int(call, descriptor.BATCH), (axes - 1) * BATCH
    if n * size > 2 * PREFETCH_MOST or (axes > 0 and get_int(batch, last) < EVEN):
        return 0
    step = get_int(batch, last + column) if axes > 0 else n * size
    if 4 * n * size > PREFETCH_MOST:
        return step
    return greater(PREFETCH_LONG // (n * size), 4) * step


@device
def beyond_caches(call, read):
    """Whether no cache holds x."""
    total = get_int(call, descriptor.TOTAL) * get_int(call, descriptor.PARTS)
    return total * read >= PREFETCH_FROM


@device
def memory_habits(call, n, axes, read, write):
    """How to go about memory, by size: how many bytes ahead to prefetch x while a vector is summed
    and while it is scaled, 0 for not at all, and whether y is streamed. `n` numbers are neighbours,
    and the first `axes` axes of the batch tell where the next so many lie.

    On 200000x768 float32 (2 cores of a Xeon) against the fastest copy: in place 0.98 of its time
    with a prefetch four rows ahead, 1.62 without. Into an output 1.13 with non-temporal stores and
    a prefetch while x is summed too, 1.24 without the latter, 2.4 without either. Rows of 6 KiB
    lose by the prefetch while x is summed, and rows under a few KiB by streaming: their ends are no
    whole lines. For norms no CPU looks far enough ahead itself where rows are shorter than a block:
    300000x50 float32 take 0.19 of the time with a prefetch (Zen 5).
    """
    total = get_int(call, descriptor.TOTAL) * get_int(call, descriptor.PARTS)
    x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
    if not beyond_caches(call, read):
        return 0, 0, 0
    once = 0
    if total * read >= get_int(_habits(), descriptor.ONCE_FROM):
        once = get_int(_habits(), descriptor.ONCE)
    if y == 0:
        return once if once or n >= BLOCK_SIZE else PREFETCH_LONG, 0, 0
    stream = 0
    if (
        y != x
        and total * write >= get_int(_habits(), descriptor.STREAM)
        and n * write >= STREAM_ROW
    ):
        bits, batch = y, get_int(call, descriptor.BATCH)
        for axis in range(get_int(call, descriptor.BATCH_AXES)):
            bits |= get_int(batch, axis * BATCH + 2)
        stream = 1 if bits % write == 0 else 0
    ahead = next_rows(call, n, axes, read, 1)
    if ahead == 0:
        return once, PREFETCH_LONG, stream
    return ahead if stream and 4 * n * read <= PREFETCH_SUM else 0, ahead, stream
