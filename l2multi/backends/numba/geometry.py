"""Where the vectors of a call lie, for the short way: `_plan` of the Numba backend, compiled.

What a plan says is written into a call's record (see `records`), with tables as `kernels` has them.
"""

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.kernels.common import BATCH, INNER
from l2multi.backends.numba.memory import get_int, set_int
from l2multi.backends.numba.plan import COLUMNS_MOST, GROUPS, LONG_SEGMENT

AXES = 64  # NumPy's arrays have no more

ROOM = AXES * INNER + (AXES + 1) * BATCH  # the tables, and a row to spare


@device
def move_row(table, columns, source, target):
    """Copy a row of a table to another place in it."""
    for column in range(columns):
        set_int(table, target * columns + column, get_int(table, source * columns + column))


@device
def fill(table, columns, of_vector, mask, axes, sizes, strides_x, strides_y, norm):
    """Write the axes of a vector, or of the batch, neighbours made one where memory allows; how
    many rows that takes. `norm` is the number of bytes of all norms."""
    rows = 0
    for axis in range(axes):
        size, x = get_int(sizes, axis), get_int(strides_x, axis)
        if size == 1 or mask >> axis & 1 != of_vector:
            continue
        # Any order of the vectors gives the same; this one goes through memory straight.
        row = rows
        while row > 0 and not of_vector and abs(get_int(table, (row - 1) * columns + 1)) < abs(x):
            move_row(table, columns, row - 1, row)
            row -= 1
        set_int(table, row * columns, size)
        set_int(table, row * columns + 1, x)
        set_int(table, row * columns + 2, get_int(strides_y, axis))
        if not of_vector:
            norm //= size
            set_int(table, row * columns + 3, norm)
        rows += 1
    done = 0
    for row in range(rows):
        size, whole = get_int(table, row * columns), done > 0
        for column in range(1, columns):
            inner = get_int(table, row * columns + column)
            whole = whole and get_int(table, (done - 1) * columns + column) == size * inner
        if whole:
            done -= 1
            size *= get_int(table, done * columns)
        move_row(table, columns, row, done)
        set_int(table, done * columns, size)
        done += 1
    return done


@device
def plan(call, inner, mask, axes, sizes, strides_x, strides_y, read, write, parts, norm_size):
    """Write the geometry of a call whose vectors extend over the axes of a bit mask; the tables go
    to `inner`, where there is ROOM. The number of the kernel for it, among `descriptor.WAYS`, the
    length of a vector, and the number of what the kernel takes for one vector."""
    batch = inner + 8 * AXES * INNER
    n = count = 1
    for axis in range(axes):
        size = get_int(sizes, axis)
        n, count = (n * size, count) if mask >> axis & 1 else (n, count * size)
    inner_rows = rows = 0
    for of_vector in range(2):
        table, columns = (inner, INNER) if of_vector else (batch, BATCH)
        norm = count * norm_size
        found = fill(table, columns, of_vector, mask, axes, sizes, strides_x, strides_y, norm)
        if found == 0:
            set_int(table, 0, 1)
            set_int(table, 1, read if of_vector else 0)
            set_int(table, 2, write if of_vector else 0)
            found = 1
        inner_rows, rows = (found, rows) if of_vector else (inner_rows, found)
    way = descriptor.GATHERED
    last = (inner_rows - 1) * INNER
    near = get_int(inner, last + 1) == read and get_int(inner, last + 2) == write
    if inner_rows > 1:
        run = get_int(inner, last) * parts
        if near and (run % LANES == 0 or run >= LONG_SEGMENT):
            way = descriptor.SEGMENTED
    elif near:
        few = n * parts <= LANES and get_int(batch, (rows - 1) * BATCH) >= LANES
        way = descriptor.SHORT_ROWS if few else descriptor.ROWS
    elif parts == 1 and n < COLUMNS_MOST:
        for row in range(rows):
            x, y = get_int(batch, row * BATCH + 1), get_int(batch, row * BATCH + 2)
            if x == read and y == write:
                way = descriptor.COLUMNS
                move_row(batch, BATCH, row, rows)
                for later in range(row, rows):
                    move_row(batch, BATCH, later + 1, later)
                break
    width = get_int(batch, (rows - 1) * BATCH)
    if way == descriptor.COLUMNS and width <= LANES:
        alone = get_int(inner, 1) == width * read and get_int(inner, 2) == width * write
        way = descriptor.NARROW_COLUMNS if alone else way
    tiles = (width + LANES - 1) // LANES
    set_int(call, descriptor.N, n)
    set_int(call, descriptor.INNER, inner)
    set_int(call, descriptor.INNER_AXES, inner_rows)
    set_int(call, descriptor.BATCH, batch)
    set_int(call, descriptor.BATCH_AXES, rows)
    set_int(call, descriptor.TILES, tiles)
    set_int(call, descriptor.TOGETHER, GROUPS if way == descriptor.COLUMNS else 1)
    if (
        way == descriptor.SHORT_ROWS
        or way == descriptor.COLUMNS
        or way == descriptor.NARROW_COLUMNS
    ):
        count = count // width * tiles
    return way, n, count
