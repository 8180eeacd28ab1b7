"""What Python calls: loops over vectors, serial or parallel, compiled when first asked for.

`flat`     typed, contiguous arrays: the shortest way in
`rows`, `columns`, `packed`     addresses and tables, see `l2multi.backends.numba.kernels`
`split`    one long contiguous vector after another, each in parallel
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import prange, types

from l2multi._summation import LANES
from l2multi.backends.numba import kernels, simd
from l2multi.backends.numba.kernels import OPTIONS, ROWS, offset
from l2multi.backends.numba.simd import Kind

# Parts into which a batch is cut for the threads, which share them evenly.
PARTS = 64

# Elements of a long vector that are summed as one part, a power of two of blocks.
SPLIT = 2**15

_TABLE = types.Array(types.intp, 2, "C")
_INT, _FLOAT = types.intp, types.float64


def _array(storage: str) -> Any:
    return types.Array(numba.from_dtype(np.dtype(storage)), 1, "C")


def _readable(storage: str) -> Any:
    return _array(storage).copy(readonly=True)


def flat(source: Kind, target: Kind | None, parallel: bool) -> Callable[..., None]:
    """``(x, y, norms, n, eps, zero_root, table_x, table_y)``; no norms if `norms` is empty."""
    row = kernels.one_row(source, target)
    read, write = source.size, target.size if target is not None else 0
    norm_size = 4 if source.narrow else 8
    parts = PARTS if parallel else 1

    def entry(x, y, norms, n, eps, zero_root, table_x, table_y):  # type: ignore[no-untyped-def]
        count = x.size // n
        px, py, pn = np.intp(x.ctypes.data), np.intp(y.ctypes.data), np.intp(norms.ctypes.data)
        step = norm_size if norms.size else 0
        for part in prange(parts):
            first = np.intp(part) * count // parts
            for i in range(first, (np.intp(part) + 1) * count // parts):
                at = pn + i * step if step else 0
                row(
                    px + i * n * read, py + i * n * write, n, at, norm_size,
                    eps, zero_root, table_x, table_y,
                )  # fmt: skip

    y = _array(target.storage if target is not None else "u1")
    norms = _array("f4" if source.narrow else "f8")
    signature = types.void(
        _readable(source.storage), y, norms, _INT, _FLOAT, _FLOAT, _INT, _INT
    )  # fmt: skip
    return _compiled(entry, signature, parallel)


def _compiled(entry: Callable[..., None], signature: Any, parallel: bool) -> Callable[..., None]:
    return numba.njit(signature, parallel=parallel, **OPTIONS)(entry)  # type: ignore[no-any-return]


_GENERAL = types.void(
    *[_INT] * 6, _TABLE, _TABLE, *[_INT] * 3, _FLOAT, _FLOAT, _INT, _INT
)  # fmt: skip


def rows(source: Kind, target: Kind | None, parallel: bool) -> Callable[..., None]:
    """Contiguous vectors, anywhere: ``(x, y, norms, norm_size, n, count, inner, batch, parts,
    swap, columns, eps, zero_root, table_x, table_y)``, the same for all three."""
    row = kernels.one_row(source, target)
    cuts = PARTS if parallel else 1

    def entry(
        x, y, norms, norm_size, n, count, inner, batch, parts, swap, columns,
        eps, zero_root, table_x, table_y,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        for cut in prange(cuts):
            first = np.intp(cut) * count // cuts
            for i in range(first, (np.intp(cut) + 1) * count // cuts):
                at = norms + offset(batch, 3, i) if norms else 0
                row(
                    x + offset(batch, 1, i), y + offset(batch, 2, i), n * parts, at, norm_size,
                    eps, zero_root, table_x, table_y,
                )  # fmt: skip

    return _compiled(entry, _GENERAL, parallel)


def packed(source: Kind, target: Kind | None, parallel: bool) -> Callable[..., None]:
    """Vectors of any layout and byte order."""
    vector = kernels.one_packed(source, target)
    cuts = PARTS if parallel else 1

    def entry(
        x, y, norms, norm_size, n, count, inner, batch, parts, swap, columns,
        eps, zero_root, table_x, table_y,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        for cut in prange(cuts):
            first = np.intp(cut) * count // cuts
            for i in range(first, (np.intp(cut) + 1) * count // cuts):
                at = norms + offset(batch, 3, i) if norms else 0
                vector(
                    x + offset(batch, 1, i), y + offset(batch, 2, i), n, inner, parts, swap,
                    at, norm_size, eps, zero_root, table_x, table_y,
                )  # fmt: skip

    return _compiled(entry, _GENERAL, parallel)


def columns(source: Kind, target: Kind | None, parallel: bool) -> Callable[..., None]:
    """Vectors whose neighbours are neighbours: those of the last axis of the batch. `count` is
    the number of tiles, `columns` that of the tiles along this axis."""
    tile = kernels.one_tile(source, target)
    cuts = PARTS if parallel else 1
    read, write = source.size, target.size if target is not None else 0

    def entry(
        x, y, norms, norm_size, n, count, inner, batch, parts, swap, columns,
        eps, zero_root, table_x, table_y,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        last = batch.shape[0] - 1
        width, norm_step = batch[last, 0], batch[last, 3]
        for cut in prange(cuts):
            first = np.intp(cut) * count // cuts
            for i in range(first, (np.intp(cut) + 1) * count // cuts):
                column = i % columns * LANES
                vector = i // columns * width + column
                at = norms + offset(batch, 3, vector) if norms else 0
                tile(
                    x + offset(batch, 1, vector), y + offset(batch, 2, vector), n,
                    inner[0, 1], inner[0, 2], min(width - column, LANES), at, norm_step, norm_size,
                    eps, zero_root, table_x, table_y,
                )  # fmt: skip

    return _compiled(entry, _GENERAL, parallel)


def split(source: Kind, target: Kind | None, parallel: bool) -> Callable[..., None]:
    """Long contiguous vectors: ``(x, y, norms, norm_size, n, count, stride_x, stride_y,
    norm_step, scratch, eps, zero_root, table_x, table_y)``. `scratch` has LANES float64 for each
    part of SPLIT elements, one part more than are whole."""
    add_blocks, finish = kernels.row_sum(source, False)
    add_scaled, finish_scaled = (
        kernels.row_sum(source, True) if source.risky else (add_blocks, finish)
    )
    risky, writes = source.risky, target is not None
    scale = kernels.row_scale(source, target) if target is not None else None
    read, write = source.size, target.size if target is not None else 0
    reserve = simd.stack(kernels.LEVELS)
    device, get, put, add = kernels.device, simd.get, simd.put, simd.add
    splat, sum_lanes, settle = simd.splat, simd.sum_lanes, kernels.settle
    put_norm = kernels.put_norm
    lowest, up_, down_, inf = kernels.LOWEST, kernels.UP, kernels.DOWN, kernels.INF
    blocks, top = SPLIT // ROWS, (SPLIT // ROWS).bit_length() - 1

    @device
    def part_sum(x, count, factor, table):  # type: ignore[no-untyped-def]
        stack = reserve()
        if count == SPLIT:
            if factor == 1.0:
                add_blocks(x, 0, blocks, splat(factor), table, stack)
            else:
                add_scaled(x, 0, blocks, splat(factor), table, stack)
            return get(stack, top)
        whole = count // ROWS
        tail = x + whole * ROWS * read
        left = count - whole * ROWS
        if factor == 1.0:
            add_blocks(x, 0, whole, splat(factor), table, stack)
            return finish(tail, whole, left, splat(factor), table, stack)
        add_scaled(x, 0, whole, splat(factor), table, stack)
        return finish_scaled(tail, whole, left, splat(factor), table, stack)

    @device
    def join(scratch, whole):  # type: ignore[no-untyped-def]
        """The tree over parts, as `row_sum` has it over blocks."""
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

    def entry(
        x, y, norms, norm_size, n, count, stride_x, stride_y, norm_step, scratch,
        eps, zero_root, table_x, table_y,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        whole = n // SPLIT
        for i in range(count):
            px, py = x + i * stride_x, y + i * stride_y
            up, down = 1.0, 1.0
            again = True
            total = 0.0
            while again:
                factor = up * down
                for part in prange(whole + 1):
                    k = np.intp(part)
                    size = min(SPLIT, n - k * SPLIT)
                    put(scratch, k, part_sum(px + k * SPLIT * read, size, factor, table_x))
                total = join(scratch, whole)
                again = False
                if risky and factor == 1.0:
                    if total < lowest:
                        up, again = up_, True
                    elif total == inf:
                        down, again = down_, True
            root = np.sqrt(total)
            length, root, up, down, plain = settle(root, up, down, eps, zero_root)
            put_norm(norms + i * norm_step if norms else 0, norm_size, length)
            if writes:
                for part in prange(whole + 1):
                    k = np.intp(part)
                    size = min(SPLIT, n - k * SPLIT)
                    scale(
                        px + k * SPLIT * read, py + k * SPLIT * write, size,
                        root, up, down, plain, table_x, table_y,
                    )  # fmt: skip

    signature = types.void(*[_INT] * 10, _FLOAT, _FLOAT, _INT, _INT)
    return _compiled(entry, signature, parallel)


# By name, for the cache of compiled entries.
MAKERS = {"flat": flat, "rows": rows, "columns": columns, "packed": packed, "split": split}
