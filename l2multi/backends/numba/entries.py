"""What is compiled: workers, one for each way through memory and pair of kinds, and launchers.

A worker is a C function that does the vectors `first` to `last` of a call, of signature WORKER;
`call` is the address of a record (see `records`). A launcher gives a worker the whole batch, or
each thread its share, and knows nothing of kinds. So each pair of kinds is compiled once, not once
serial and once parallel.
"""

from typing import Any

import numba
import numpy as np
from numba import prange, types

from l2multi._summation import LANES
from l2multi.backends.numba import kernels, records, simd
from l2multi.backends.numba.kernels import (
    BATCH,
    DOWN,
    INF,
    LEVELS,
    LOWEST,
    OPTIONS,
    ROWS,
    UP,
    device,
    offset,
    settle,
)  # fmt: skip
from l2multi.backends.numba.records import SPLIT
from l2multi.backends.numba.simd import (
    Kind,
    add,
    get,
    get_double,
    get_int,
    put,
    splat,
    sum_lanes,
)  # fmt: skip

# Parts into which a batch is cut for the threads, which share them evenly.
SHARES = 64

# Elements from which `short` lets go of Python's lock, which costs 50 ns, so that threads can work.
LET_GO = 2**12

# Vectors from which `bundles` saves more than the way to it costs.
BUNDLED = 2**9

_INT, _FLOAT = types.intp, types.float64

# first, last, call
WORKER = types.void(_INT, _INT, _INT)
# x, count, factor, slot, table_x
SUM = types.void(_INT, _INT, _FLOAT, _INT, _INT)
# x, y, count, root, up, down, plain, table_x, table_y
SCALE = types.void(_INT, _INT, _INT, _FLOAT, _FLOAT, _FLOAT, _INT, _INT, _INT)
# worker, count, call
TEAM = types.void(_INT, _INT, _INT)
# count, call
LONG = types.void(_INT, _INT)
# self, arguments, their number; as METH_FASTCALL of CPython has it
METHOD = _INT(_INT, _INT, _INT)

_work, _sum, _scale = map(simd.calling, (WORKER, SUM, SCALE))


def rows(source: Kind, target: Kind) -> Any:
    """Vectors of neighbouring elements; without a batch table one after the other."""
    row = kernels.one_row(source, target)
    read, write = source.size, target.size

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        n = get_int(call, records.N) * get_int(call, records.PARTS)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        eps, zero_root = get_double(call, records.EPS), get_double(call, records.ZERO_ROOT)
        table_x, table_y = get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y)
        ahead_sum, ahead_scale = (
            get_int(call, records.AHEAD_SUM),
            get_int(call, records.AHEAD_SCALE),
        )
        stream = get_int(call, records.STREAM)
        for i in range(first, last):
            if batch_axes == 0:
                at_x, at_y, at_norm = i * n * read, i * n * write, i * norm_size
            else:
                at_x = offset(batch, batch_axes, BATCH, 1, i)
                at_y = offset(batch, batch_axes, BATCH, 2, i)
                at_norm = offset(batch, batch_axes, BATCH, 3, i)
            if stream:
                simd.claim(y + at_y + n * write)
            row(
                x + at_x, y + at_y if y else 0, n, norms + at_norm if norms else 0, norm_size,
                eps, zero_root, table_x, table_y, ahead_sum, ahead_scale, stream,
            )  # fmt: skip
        if stream:
            simd.fence()

    return worker


def packed(source: Kind, target: Kind) -> Any:
    """Vectors of any layout and byte order."""
    vector = kernels.one_packed(source, target)

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        for i in range(first, last):
            vector(
                x + offset(batch, batch_axes, BATCH, 1, i),
                y + offset(batch, batch_axes, BATCH, 2, i) if y else 0,
                get_int(call, records.N),
                get_int(call, records.INNER), get_int(call, records.INNER_AXES),
                get_int(call, records.PARTS), get_int(call, records.SWAP),
                norms + offset(batch, batch_axes, BATCH, 3, i) if norms else 0, norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
            )  # fmt: skip

    return worker


def columns(source: Kind, target: Kind) -> Any:
    """Tiles of the vectors along the last axis of the batch, which has `tiles` of them."""
    tile = kernels.one_tile(source, target)

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        tiles, inner = get_int(call, records.TILES), get_int(call, records.INNER)
        width = get_int(batch, (batch_axes - 1) * BATCH)
        norm_step = get_int(batch, (batch_axes - 1) * BATCH + 3)
        for i in range(first, last):
            column = i % tiles * LANES
            vector = i // tiles * width + column
            tile(
                x + offset(batch, batch_axes, BATCH, 1, vector),
                y + offset(batch, batch_axes, BATCH, 2, vector) if y else 0,
                get_int(call, records.N), get_int(inner, 1), get_int(inner, 2),
                min(width - column, LANES),
                norms + offset(batch, batch_axes, BATCH, 3, vector) if norms else 0,
                norm_step, norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
            )  # fmt: skip

    return worker


def part_sum(source: Kind, target: Kind) -> Any:
    """The sum over lanes of one part of a long vector, put into a slot."""
    add_blocks, finish = kernels.row_sum(source, False)
    add_scaled, finish_scaled = (
        kernels.row_sum(source, True) if source.risky else (add_blocks, finish)
    )
    reserve, read = simd.stack(LEVELS), source.size
    blocks, top = SPLIT // ROWS, (SPLIT // ROWS).bit_length() - 1

    @numba.cfunc(SUM, error_model="numpy")
    def worker(x, count, factor, slot, table):
        stack = reserve()
        whole = count // ROWS
        tail, left = x + whole * ROWS * read, count % ROWS
        if factor == 1.0:
            add_blocks(x, 0, whole, splat(factor), table, stack, 0)
            total = finish(tail, whole, left, splat(factor), table, stack)
        else:
            add_scaled(x, 0, whole, splat(factor), table, stack, 0)
            total = finish_scaled(tail, whole, left, splat(factor), table, stack)
        put(slot, 0, get(stack, top) if whole == blocks else total)

    return worker


def part_scale(source: Kind, target: Kind) -> Any:
    """One part of a long vector divided by the divisor."""
    scale = kernels.row_scale(source, target)

    @numba.cfunc(SCALE, error_model="numpy")
    def worker(x, y, count, root, up, down, plain, table_x, table_y):
        scale(x, y, count, root, up, down, plain != 0, table_x, table_y)

    return worker


def bundles(source: Kind, target: Kind) -> Any:
    """Short vectors of neighbouring elements, in tiles as `columns` has them."""
    bundle = kernels.one_bundle(source, target)

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        tiles = get_int(call, records.TILES)
        last_axis = (batch_axes - 1) * BATCH
        width = get_int(batch, last_axis)
        for i in range(first, last):
            start = i % tiles * LANES
            vector = i // tiles * width + start
            bundle(
                x + offset(batch, batch_axes, BATCH, 1, vector),
                y + offset(batch, batch_axes, BATCH, 2, vector) if y else 0,
                get_int(call, records.N) * get_int(call, records.PARTS),
                get_int(batch, last_axis + 1), get_int(batch, last_axis + 2),
                min(width - start, LANES),
                norms + offset(batch, batch_axes, BATCH, 3, vector) if norms else 0,
                get_int(batch, last_axis + 3), norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
            )  # fmt: skip

    return worker


# By name.
WORKERS = {
    "rows": rows,
    "columns": columns,
    "bundles": bundles,
    "packed": packed,
    "part_sum": part_sum,
    "part_scale": part_scale,
}


# Bytes of an object before its own fields, and NumPy's flags of an array.
HEAD = object.__basicsize__
_C_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400
_FIT = _C_CONTIGUOUS | _ALIGNED


def short() -> Any:
    """The short way in, a function in C for Python to call: ``(x, y, norms, eps)``.

    The arguments are trusted to be arrays (`y` and `norms` may be None) and a float; the arrays'
    fields are read where NumPy's binary interface has them. True says that the vectors along the
    last axis have been done; False, that this call is not one for the short way and nothing has
    been written: the arrays are large, do not fit each other, are not contiguous, or overlap.
    """

    @device
    def array(a):
        """Address, number of axes, table of sizes, dtype and flags."""
        a += HEAD
        return (
            get_int(a, 0), get_int(a, 1) & 0xFFFFFFFF, get_int(a, 2),
            get_int(a, 5), get_int(a, 6) & 0xFFFFFFFF,
        )  # fmt: skip

    @numba.cfunc(METHOD, error_model="numpy")
    def method(bound, arguments, count):
        own = get_int(bound + HEAD, 0)  # the data of an array
        no = simd.new_reference(get_int(own, records.FALSE))
        x, axes, sizes, dtype, flags = array(get_int(arguments, 0))
        if axes == 0 or dtype != get_int(own, records.TYPE_X) or flags & _FIT != _FIT:
            return no
        total = 1
        for axis in range(axes):
            total *= get_int(sizes, axis)
        n = get_int(sizes, axes - 1)
        if total == 0 or total > get_int(own, records.LARGEST):
            return no
        if n * get_int(own, records.SHORT_PARTS) <= LANES and total >= BUNDLED * n:
            return no
        y = norms = 0
        if get_int(arguments, 1) != get_int(own, records.NONE):
            y, axes_y, sizes_y, dtype, flags = array(get_int(arguments, 1))
            fit = _FIT | _WRITEABLE
            if axes_y != axes or dtype != get_int(own, records.TYPE_Y) or flags & fit != fit:
                return no
            for axis in range(axes):
                if get_int(sizes_y, axis) != get_int(sizes, axis):
                    return no
            if y == x:
                if dtype != get_int(own, records.TYPE_X):
                    return no
            elif (
                y < x + total * get_int(own, records.SIZE_X)
                and x < y + total * get_int(own, records.SIZE_Y)
            ):  # fmt: skip
                return no
        if get_int(arguments, 2) != get_int(own, records.NONE):
            norms = get_int(get_int(arguments, 2) + HEAD, 0)
        call = simd.record()
        simd.set_int(call, records.X, x)
        simd.set_int(call, records.Y, y)
        simd.set_int(call, records.NORMS, norms)
        simd.set_int(call, records.NORM_SIZE, get_int(own, records.SHORT_NORM_SIZE))
        simd.set_int(call, records.N, n)
        simd.set_int(call, records.BATCH_AXES, 0)
        simd.set_int(call, records.PARTS, get_int(own, records.SHORT_PARTS))
        simd.set_int(call, records.TABLE_X, get_int(own, records.SHORT_TABLE_X))
        simd.set_int(call, records.TABLE_Y, get_int(own, records.SHORT_TABLE_Y))
        simd.set_int(call, records.AHEAD_SUM, 0)
        simd.set_int(call, records.AHEAD_SCALE, 0)
        simd.set_int(call, records.STREAM, 0)
        eps = get_double(get_int(arguments, 3) + HEAD, 0)
        simd.put_double(call, records.EPS, eps)
        simd.put_double(call, records.ZERO_ROOT, 1.0)
        worker = get_int(own, records.WORKER)
        if total < LET_GO:
            _work(worker, 0, total // n, call)
        else:
            state = simd.let_go()
            _work(worker, 0, total // n, call)
            simd.take_back(state)
        return simd.new_reference(get_int(own, records.TRUE))

    return method


def team() -> Any:
    """Shares of the batch in parallel threads."""

    @numba.njit(TEAM, parallel=True, **OPTIONS)
    def parallel(worker, count, call):
        for share in prange(SHARES):
            k = np.intp(share)
            _work(worker, k * count // SHARES, (k + 1) * count // SHARES, call)

    @numba.cfunc(TEAM, error_model="numpy")
    def launcher(worker, count, call):
        parallel(worker, count, call)

    return launcher


def split() -> Any:
    """Long contiguous vectors, one after another, the threads sharing each."""
    reserve = simd.stack(LEVELS)

    @device
    def join(scratch, whole):
        """The tree over parts, as `kernels.row_sum` has it over blocks."""
        stack = reserve()
        for part in range(whole):
            total = get(scratch, part)
            level, rest = 0, part
            while rest & 1:
                total = add(get(stack, level), total)
                rest >>= 1
                level += 1
            put(stack, level, total)
        total = get(scratch, whole)
        level = 0
        while whole:
            if whole & 1:
                total = add(get(stack, level), total)
            whole >>= 1
            level += 1
        return sum_lanes(total)

    @numba.njit(LONG, parallel=True, **OPTIONS)
    def parallel(count, call):
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        read, write = get_int(call, records.READ), get_int(call, records.WRITE)
        table_x, table_y = get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y)
        sum_, scale = get_int(call, records.PART_SUM), get_int(call, records.PART_SCALE)
        scratch = get_int(call, records.SCRATCH)
        n = get_int(call, records.N) * get_int(call, records.PARTS)
        whole = n // SPLIT
        for i in range(count):
            px = get_int(call, records.X) + offset(batch, batch_axes, BATCH, 1, i)
            py = get_int(call, records.Y)
            up, down, total = 1.0, 1.0, 0.0
            again = True
            while again:
                factor = up * down
                for part in prange(whole + 1):
                    k = np.intp(part)
                    size = min(SPLIT, n - k * SPLIT)
                    slot = scratch + k * LANES * 8
                    _sum(sum_, px + k * SPLIT * read, size, factor, slot, table_x)
                total = join(scratch, whole)
                again = False
                if get_int(call, records.RISKY) and factor == 1.0:
                    if total < LOWEST:
                        up, again = UP, True
                    elif total == INF:
                        down, again = DOWN, True
            length, root, up, down, plain = settle(
                simd.root(total), up, down,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
            )  # fmt: skip
            if norms:
                kernels.put_norm(norms + offset(batch, batch_axes, BATCH, 3, i), norm_size, length)
            if py:
                py += offset(batch, batch_axes, BATCH, 2, i)
                for part in prange(whole + 1):
                    k = np.intp(part)
                    size = min(SPLIT, n - k * SPLIT)
                    _scale(
                        scale, px + k * SPLIT * read, py + k * SPLIT * write, size,
                        root, up, down, 1 if plain else 0, table_x, table_y,
                    )  # fmt: skip

    @numba.cfunc(LONG, error_model="numpy")
    def launcher(count, call):
        parallel(count, call)

    return launcher


# By name.
LAUNCHERS = {"short": short, "team": team, "split": split}
