"""What is compiled: workers, one for each way through memory and pair of kinds, and launchers.

A worker is a C function that does the vectors `first` to `last`, of signature WORKER. A launcher
is what Python calls: it gives a worker's address the whole batch, or each thread its share, and
knows nothing of kinds. So each pair of kinds is compiled once, not once serial and once parallel.
"""

from typing import Any

import numba
import numpy as np
from numba import prange, types

from l2multi._summation import LANES
from l2multi.backends.numba import kernels, simd
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
from l2multi.backends.numba.simd import Kind, add, get, get_int, put, splat, sum_lanes

# Parts into which a batch is cut for the threads, which share them evenly.
PARTS = 64

# Elements of a long vector that are summed as one part, a power of two of blocks.
SPLIT = 2**15

_INT, _FLOAT = types.intp, types.float64

# x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes, parts, swap, tiles,
# eps, zero_root, table_x, table_y
_CALL = (*[_INT] * 12, _FLOAT, _FLOAT, _INT, _INT)
WORKER = types.void(_INT, _INT, *_CALL)
# x, count, factor, slot, table_x
SUM = types.void(_INT, _INT, _FLOAT, _INT, _INT)
# x, y, count, root, up, down, plain, table_x, table_y
SCALE = types.void(_INT, _INT, _INT, _FLOAT, _FLOAT, _FLOAT, _INT, _INT, _INT)

_work, _sum, _scale = map(simd.calling, (WORKER, SUM, SCALE))


def rows(source: Kind, target: Kind) -> Any:
    """Vectors of neighbouring elements; without a batch table one after the other."""
    row = kernels.one_row(source, target)
    read, write = source.size, target.size

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(
        first, last, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
        parts, swap, tiles, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        n *= parts
        for i in range(first, last):
            if batch_axes == 0:
                at_x, at_y, at_norm = i * n * read, i * n * write, i * norm_size
            else:
                at_x = offset(batch, batch_axes, BATCH, 1, i)
                at_y = offset(batch, batch_axes, BATCH, 2, i)
                at_norm = offset(batch, batch_axes, BATCH, 3, i)
            row(
                x + at_x, y + at_y if y else 0, n, norms + at_norm if norms else 0, norm_size,
                eps, zero_root, table_x, table_y,
            )  # fmt: skip

    return worker


def packed(source: Kind, target: Kind) -> Any:
    """Vectors of any layout and byte order."""
    vector = kernels.one_packed(source, target)

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(
        first, last, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
        parts, swap, tiles, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        for i in range(first, last):
            vector(
                x + offset(batch, batch_axes, BATCH, 1, i),
                y + offset(batch, batch_axes, BATCH, 2, i) if y else 0,
                n, inner, inner_axes, parts, swap,
                norms + offset(batch, batch_axes, BATCH, 3, i) if norms else 0, norm_size,
                eps, zero_root, table_x, table_y,
            )  # fmt: skip

    return worker


def columns(source: Kind, target: Kind) -> Any:
    """Tiles of the vectors along the last axis of the batch, which has `tiles` of them."""
    tile = kernels.one_tile(source, target)

    @numba.cfunc(WORKER, error_model="numpy")
    def worker(
        first, last, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
        parts, swap, tiles, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        width = get_int(batch, (batch_axes - 1) * BATCH)
        norm_step = get_int(batch, (batch_axes - 1) * BATCH + 3)
        for i in range(first, last):
            column = i % tiles * LANES
            vector = i // tiles * width + column
            tile(
                x + offset(batch, batch_axes, BATCH, 1, vector),
                y + offset(batch, batch_axes, BATCH, 2, vector) if y else 0,
                n, get_int(inner, 1), get_int(inner, 2), min(width - column, LANES),
                norms + offset(batch, batch_axes, BATCH, 3, vector) if norms else 0,
                norm_step, norm_size, eps, zero_root, table_x, table_y,
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
            add_blocks(x, 0, whole, splat(factor), table, stack)
            total = finish(tail, whole, left, splat(factor), table, stack)
        else:
            add_scaled(x, 0, whole, splat(factor), table, stack)
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


# By name, for the cache of compiled workers.
WORKERS = {
    "rows": rows,
    "columns": columns,
    "packed": packed,
    "part_sum": part_sum,
    "part_scale": part_scale,
}


def flat(source: str, target: str, norm: str) -> Any:
    """The short way in for contiguous arrays, by the storage of x, y and norms: ``(worker, x, y,
    norms, n, eps, zero_root, table_x, table_y)``; no unit vectors or norms where these are
    empty."""
    norm_size = np.dtype(norm).itemsize

    def array(storage: str) -> Any:
        return types.Array(numba.from_dtype(np.dtype(storage)), 1, "C")

    def launcher(worker, x, y, norms, n, eps, zero_root, table_x, table_y):
        _work(
            worker, 0, x.size // n, np.intp(x.ctypes.data),
            np.intp(y.ctypes.data) if y.size else 0,
            np.intp(norms.ctypes.data) if norms.size else 0,
            norm_size, n, 0, 0, 0, 0, 1, 0, 0, eps, zero_root, table_x, table_y,
        )  # fmt: skip

    signature = types.void(
        _INT, array(source).copy(readonly=True), array(target), array(norm), _INT,
        _FLOAT, _FLOAT, _INT, _INT,
    )  # fmt: skip
    return numba.njit(signature, **OPTIONS)(launcher)


def serial() -> Any:
    """The whole batch in this thread: ``(worker, count, *call)``."""

    def launcher(
        worker, count, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
        parts, swap, tiles, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        _work(
            worker, 0, count, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
            parts, swap, tiles, eps, zero_root, table_x, table_y,
        )  # fmt: skip

    return numba.njit(types.void(_INT, _INT, *_CALL), **OPTIONS)(launcher)


def parallel() -> Any:
    """Shares of the batch in parallel threads: ``(worker, count, *call)``."""

    def launcher(
        worker, count, x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
        parts, swap, tiles, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        for cut in prange(PARTS):
            k = np.intp(cut)
            _work(
                worker, k * count // PARTS, (k + 1) * count // PARTS,
                x, y, norms, norm_size, n, inner, inner_axes, batch, batch_axes,
                parts, swap, tiles, eps, zero_root, table_x, table_y,
            )  # fmt: skip

    return numba.njit(types.void(_INT, _INT, *_CALL), parallel=True, **OPTIONS)(launcher)


def split() -> Any:
    """Long contiguous vectors, one after another, the threads sharing each: ``(sum, scale, x, y,
    norms, norm_size, n, count, stride_x, stride_y, norm_step, read, write, risky, scratch,
    eps, zero_root, table_x, table_y)``. `scratch` has a slot for each whole part of SPLIT
    elements, and one more."""
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

    def launcher(
        sum_, scale, x, y, norms, norm_size, n, count, stride_x, stride_y, norm_step, read, write,
        risky, scratch, eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        whole = n // SPLIT
        for i in range(count):
            px, py = x + i * stride_x, y + i * stride_y
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
                if risky and factor == 1.0:
                    if total < LOWEST:
                        up, again = UP, True
                    elif total == INF:
                        down, again = DOWN, True
            length, root, up, down, plain = settle(np.sqrt(total), up, down, eps, zero_root)
            if norms:
                kernels.put_norm(norms + i * norm_step, norm_size, length)
            if y:
                for part in prange(whole + 1):
                    k = np.intp(part)
                    size = min(SPLIT, n - k * SPLIT)
                    _scale(
                        scale, px + k * SPLIT * read, py + k * SPLIT * write, size,
                        root, up, down, 1 if plain else 0, table_x, table_y,
                    )  # fmt: skip

    signature = types.void(*[_INT] * 15, _FLOAT, _FLOAT, _INT, _INT)
    return numba.njit(signature, parallel=True, **OPTIONS)(launcher)
