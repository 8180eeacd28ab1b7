"""Where the vectors of a call lie in memory, and which kernel that calls for: the only planner.

`planner` makes a function of one text for two worlds. Compiled, for `fast_call_entry`, it reads and
writes memory and takes 30 ns; for the general path, `explain` and `unready`, it is Python that
works on lists, and `planned` keeps what it finds. Imports no Numba.

The vectors of a call, with neighbouring axes made one where memory allows, are told by two tables,
outermost axis first: `inner` has a row (size, stride of x, stride of y) for each axis of a vector,
`batch` a row (size, stride of x, stride of y, stride of the norms) for each axis of the batch.
Strides are in bytes.
"""

import ctypes
import functools
import operator
from typing import Any, NamedTuple

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor

BATCH, INNER = 4, 3  # columns of the tables
AXES = 64  # NumPy's arrays have no more
BATCH_ROOM, INNER_ROOM = BATCH * (AXES + 1), INNER * AXES  # one row to spare

# Elements of a segment from which it need not be whole rows of lanes. The rows that lie in two
# segments, or end a vector, are copied: segments of 17 to 100 then took up to 1.6 times the time
# that they take when they are gathered.
LONG_SEGMENT = 2**8

# Groups of sixteen columns that go to a thread together. Rows narrower than three times as many
# are not split: both cores would then read nearly all of their lines. 100000x100 float32 took two
# threads 2.3 times as long as one, 100000x200 0.7 times (Xeon, 2 MB a core).
GROUPS = 4

# Levels of the tree over a column, and elements from which vectors that are neighbours go one by
# one: more than memory holds of any but the narrowest arrays.
TREE_LEVELS = 26
COLUMNS_MOST = 2 ** (7 + TREE_LEVELS)

# Elements of a long vector that are summed as one part, a power of two of blocks; and the most
# parts of a vector for which the fast path has room.
SPLIT, PARTS_MOST = 2**15, 2**6


def planner(device: Any, get_int: Any, set_int: Any) -> Any:
    """The planner, as a function whose parts are marked by `device`, and which uses tables by
    ``get_int(table, index)`` and ``set_int(table, index, value)``."""

    @device
    def move_row(table, columns, source, target):
        """Copy a row of a table to another place in it."""
        for column in range(columns):
            set_int(table, target * columns + column, get_int(table, source * columns + column))

    @device
    def write_axes(
        table, columns, of_vector, mask, axes, sizes, strides_x, strides_y, strides_norm
    ):
        """Write the axes of a vector, or of the batch, to a table; how many rows that takes."""
        rows = 0
        for axis in range(axes):
            size, x = get_int(sizes, axis), get_int(strides_x, axis)
            if size == 1 or mask >> axis & 1 != of_vector:
                continue
            # Vectors may come in any order: this one goes straight through memory.
            row = rows
            while (
                not of_vector
                and row > 0
                and abs(get_int(table, row * columns - columns + 1)) < abs(x)
            ):
                move_row(table, columns, row - 1, row)
                row -= 1
            set_int(table, row * columns, size)
            set_int(table, row * columns + 1, x)
            set_int(table, row * columns + 2, get_int(strides_y, axis))
            if not of_vector:
                set_int(table, row * columns + 3, get_int(strides_norm, axis))
            rows += 1
        done = 0
        for row in range(rows):
            size, whole = get_int(table, row * columns), done > 0
            for column in range(1, columns):
                stride = get_int(table, row * columns + column)
                whole = whole and get_int(table, (done - 1) * columns + column) == size * stride
            if whole:
                done -= 1
                size *= get_int(table, done * columns)
            move_row(table, columns, row, done)
            set_int(table, done * columns, size)
            done += 1
        return done

    @device
    def layout_of(inner, inner_rows, batch, rows, n, read, write, parts, swap):
        """The kernel for these tables. Of columns, the axis along which they are neighbours becomes
        the last one of the batch."""
        last = (inner_rows - 1) * INNER
        near = get_int(inner, last + 1) == read and get_int(inner, last + 2) == write
        if swap:
            return descriptor.GATHERED
        if inner_rows > 1:
            segment = get_int(inner, last) * parts
            if near and (segment % LANES == 0 or segment >= LONG_SEGMENT):
                return descriptor.SEGMENTED
            return descriptor.GATHERED
        if near:
            several = get_int(batch, (rows - 1) * BATCH) >= LANES
            return descriptor.SHORT_ROWS if several and n * parts <= LANES else descriptor.ROWS
        if parts == 1 and n < COLUMNS_MOST:
            for row in range(rows):
                x, y = get_int(batch, row * BATCH + 1), get_int(batch, row * BATCH + 2)
                if x == read and y == write:
                    move_row(batch, BATCH, row, rows)
                    for later in range(row, rows):
                        move_row(batch, BATCH, later + 1, later)
                    width = get_int(batch, (rows - 1) * BATCH)
                    whole = get_int(inner, 1) == width * read and get_int(inner, 2) == width * write
                    if width <= LANES and whole:
                        return descriptor.NARROW_COLUMNS
                    return descriptor.COLUMNS
        return descriptor.GATHERED

    @device
    def plan(
        call, inner, batch, mask, axes, sizes, strides_x, strides_y, strides_norm,
        read, write, parts, swap,
    ):  # fmt: skip
        """Plan a call whose vectors extend over the axes of a bit mask. Write the tables, and to
        the call descriptor what they are like. The number of the layout, the length of a vector,
        and how many vectors, or tiles of them, a worker is given.

        All strides have an axis of x each, and sizes are not 0; `read` and `write` are the bytes of
        an element of x and y.
        """
        n = count = 1
        for axis in range(axes):
            size = get_int(sizes, axis)
            n, count = (n * size, count) if mask >> axis & 1 else (n, count * size)
        inner_rows = write_axes(
            inner, INNER, 1, mask, axes, sizes, strides_x, strides_y, strides_norm
        )
        if inner_rows == 0:
            set_int(inner, 0, 1)
            set_int(inner, 1, read)
            set_int(inner, 2, write)
            inner_rows = 1
        rows = write_axes(batch, BATCH, 0, mask, axes, sizes, strides_x, strides_y, strides_norm)
        if rows == 0:
            set_int(batch, 0, 1)
            for column in range(1, BATCH):
                set_int(batch, column, 0)
            rows = 1
        layout = layout_of(inner, inner_rows, batch, rows, n, read, write, parts, swap)
        width = get_int(batch, (rows - 1) * BATCH)
        tiles = (width + LANES - 1) // LANES
        set_int(call, descriptor.N, n)
        set_int(call, descriptor.INNER_AXES, inner_rows)
        set_int(call, descriptor.BATCH_AXES, rows)
        set_int(call, descriptor.TILES, tiles)
        together = GROUPS if tiles >= 3 * GROUPS else tiles
        set_int(call, descriptor.TOGETHER, together if layout == descriptor.COLUMNS else 1)
        if (
            layout == descriptor.SHORT_ROWS
            or layout == descriptor.COLUMNS
            or layout == descriptor.NARROW_COLUMNS
        ):
            count = count // width * tiles
        return layout, n, count

    return plan


_in_python = planner(lambda function: function, operator.getitem, operator.setitem)


class Plan(NamedTuple):
    """What is planned for calls of one shape, with the same strides and axes."""

    layout: str
    n: int  # elements of a vector
    items: int  # vectors, or tiles of them
    call: list[int]  # a call descriptor, as far as it is known
    tables: Any  # to which that refers


@functools.lru_cache(256)
def planned(
    shape: tuple[int, ...],
    strides_x: tuple[int, ...],
    strides_y: tuple[int, ...],
    strides_norm: tuple[int, ...],
    axes: tuple[int, ...],
    sizes: tuple[int, int, int],
    swap: bool,
) -> Plan:
    """The plan for vectors along `axes`, of no size 0; `strides_norm` are of the axes left, and
    `sizes` the bytes of an element of x and of y, and the parts of one."""
    norms = iter(strides_norm)
    by_axis = [0 if d in axes else next(norms) for d in range(len(shape))]
    call, inner, batch = ([0] * k for k in (descriptor.CALL_SIZE, INNER_ROOM, BATCH_ROOM))
    mask = sum(1 << d for d in axes)
    where = len(shape), shape, strides_x, strides_y, by_axis
    layout, n, count = _in_python(call, inner, batch, mask, *where, *sizes, swap)
    inner = inner[: INNER * call[descriptor.INNER_AXES]]
    rows = inner + batch[: BATCH * call[descriptor.BATCH_AXES]]
    tables = (ctypes.c_int64 * len(rows))(*rows)
    call[descriptor.INNER] = ctypes.addressof(tables)
    call[descriptor.BATCH] = call[descriptor.INNER] + 8 * len(inner)
    call[descriptor.PARTS], call[descriptor.SWAP] = sizes[2], swap
    return Plan(descriptor.LAYOUTS[layout], n, count, call, tables)
