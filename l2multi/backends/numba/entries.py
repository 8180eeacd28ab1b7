"""What is compiled: workers, one for each way through memory and pair of kinds, and launchers.

A worker is a C function that does the vectors `first` to `last` of a call, of signature WORKER;
`call` is the address of a record (see `records`). A launcher (see `team`) gives a worker the whole
batch, or each thread its shares, and knows nothing of kinds. So each pair of kinds is compiled
once, not once serial and once parallel.
"""

from typing import Any

from llvmlite import ir
from numba import types

from l2multi._summation import LANES
from l2multi.backends.numba import foreign, geometry, kernels, launch, records, simd, team
from l2multi.backends.numba.frontend import device, function
from l2multi.backends.numba.geometry import plan
from l2multi.backends.numba.kernels import BATCH, INNER, LEVELS, ROWS, TILE, offset
from l2multi.backends.numba.records import SPLIT
from l2multi.backends.numba.simd import (
    I64,
    Kind,
    get,
    get_double,
    get_int,
    greater,
    lesser,
    put,
    set_int,
    splat,
)
from l2multi.backends.numba.team import WORKER, share, work
from l2multi.backends.numba.team import launch as share_out

# Elements from which `short` lets go of Python's lock, which costs 50 ns, so that threads can work.
LET_GO = 2**12

ARGUMENTS = 7  # of `short`

_INT = types.intp

# self, arguments, their number; as METH_FASTCALL of CPython has it
METHOD = _INT(_INT, _INT, _INT)


# Bytes of x from which it is fetched ahead, at most so far, and where rows are longer so far, and
# up to so far while it is summed too. Bytes of a row, and of y, from which y is streamed, and how
# far ahead rows are asked for that are read once.
FETCH_FROM, FETCH_MOST, FETCH_LONG, FETCH_TWICE = 2**20, 2**15, 2**12, 2**14
STREAM_ROW = 2**11
habits = simd.symbol(records.MACHINE)
EVEN = 8  # rows from which on it is worth while to know where the ones after the next lie


@device
def further(call, n, axes, size, column):
    """How many bytes ahead, in x or y by the column of the batch table, those rows lie that are to
    be asked for by now, of `n` numbers along the last of the first `axes` axes; 0 if that is too
    far, or there are too few."""
    batch, last = get_int(call, records.BATCH), (axes - 1) * BATCH
    if n * size > 2 * FETCH_MOST or (axes > 0 and get_int(batch, last) < EVEN):
        return 0
    step = get_int(batch, last + column) if axes > 0 else n * size
    return 4 * step if 4 * n * size <= FETCH_MOST else step


@device
def far(call, read):
    """Whether no cache holds x."""
    return get_int(call, records.TOTAL) * get_int(call, records.PARTS) * read >= FETCH_FROM


@device
def memory(call, n, axes, read, write):
    """How to go about memory, by size: how many bytes ahead to ask for x while a vector is summed
    and while it is scaled, 0 for not at all, and whether y is written past the caches. `n` numbers
    are neighbours, and the first `axes` of the batch tell where the next so many lie.

    Where no cache holds x it is asked for ahead of time. Against the fastest copy (2 cores of a
    Xeon, 200000x768 float32): in place 1.62 times its time without, 0.98 four rows ahead. Where no
    cache holds y, its lines are not read before they are written: 2.4 times a copy's time without
    and 1.24 with, or 1.13 where x is asked for while it is summed too (rows of 6 KiB, float64, lose
    as much by that); under a few KiB a row the ends, which are no whole lines, cost more than that
    saves.
    """
    total = get_int(call, records.TOTAL) * get_int(call, records.PARTS)
    x, y = get_int(call, records.X), get_int(call, records.Y)
    if not far(call, read):
        return 0, 0, 0
    once = get_int(habits(), records.ONCE)
    if y == 0:
        return once, 0, 0
    stream = 0
    if y != x and total * write >= get_int(habits(), records.STREAM) and n * write >= STREAM_ROW:
        places, batch = y, get_int(call, records.BATCH)
        for axis in range(get_int(call, records.BATCH_AXES)):
            places |= get_int(batch, axis * BATCH + 2)
        stream = 1 if places % write == 0 else 0
    ahead = further(call, n, axes, read, 1)
    if ahead == 0:
        return once, FETCH_LONG, stream
    return ahead if stream and 4 * n * read <= FETCH_TWICE else 0, ahead, stream


def worker(python: Any) -> Any:
    """Mark a worker. All that computes is one, and so does it in the same modes, whoever calls.

    What computes is called, not inlined: between a read and a write of modes LLVM keeps constants
    of loops in memory, and rows of 3 took 1.15 times as long (Zen 5).
    """
    compute = device(python, inline=False)

    @function(WORKER)
    def exactly(first, last, call):
        modes = simd.exact_modes()
        compute(first, last, call)
        simd.restore_modes(modes)

    return exactly


def rows(source: Kind, target: Kind) -> Any:
    """Vectors of neighbouring elements; without a batch table one after the other."""
    row = kernels.one_row(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        n = get_int(call, records.N) * get_int(call, records.PARTS)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        eps, zero_root = get_double(call, records.EPS), get_double(call, records.ZERO_ROOT)
        table_x, table_y = get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y)
        ahead_sum, ahead_scale, stream = memory(call, n, batch_axes, read, write)
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

    return run


def runs(source: Kind, target: Kind) -> Any:
    """Vectors of runs of neighbouring elements."""
    vector = kernels.one_run_after_another(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        inner, axes = get_int(call, records.INNER), get_int(call, records.INNER_AXES) - 1
        parts = get_int(call, records.PARTS)
        n, run = get_int(call, records.N) * parts, get_int(inner, axes * INNER) * parts
        _, _, stream = memory(call, run, batch_axes, read, write)
        for axis in range(axes):
            stream = stream if get_int(inner, axis * INNER + 2) % write == 0 else 0
        ahead_x = ahead_y = 0
        if far(call, read):
            ahead_x = further(call, n, batch_axes, read, 1)
            ahead_y = further(call, n, batch_axes, write, 2)
        for i in range(first, last):
            vector(
                x + offset(batch, batch_axes, BATCH, 1, i),
                y + offset(batch, batch_axes, BATCH, 2, i) if y else 0,
                n, run, inner, axes,
                norms + offset(batch, batch_axes, BATCH, 3, i) if norms else 0, norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
                ahead_x, ahead_y, stream,
            )  # fmt: skip
        if stream:
            simd.fence()

    return run


def packed(source: Kind, target: Kind) -> Any:
    """Vectors of any layout and byte order."""
    vector = kernels.one_packed(source, target)

    @worker
    def run(first, last, call):
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

    return run


@device
def edge(column, at, size):
    """The first column, from this one on, that begins a cache line, of elements from `at` on."""
    return column + -(at + column * size) % simd.LINE // size


def columns(source: Kind, target: Kind) -> Any:
    """Tiles of the vectors along the last axis of the batch, which has `tiles` of them."""
    tile = kernels.one_tile(source, target)
    read, write, boundary = source.size, target.size, simd.boundary(target)
    reserve = simd.stack(kernels.TILE_ROOM)
    allocate, free = simd.external("malloc", I64, I64), simd.external("free", ir.VoidType(), I64)

    @worker
    def run(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        tiles, inner = get_int(call, records.TILES), get_int(call, records.INNER)
        width = get_int(batch, (batch_axes - 1) * BATCH)
        norm_step = get_int(batch, (batch_axes - 1) * BATCH + 3)
        stride_x, stride_y = get_int(inner, 1), get_int(inner, 2)
        # All tiles but the first begin with a cache line, as streaming stores must, and lest two
        # threads write to one (1000x128 float32 in place took 3.5 times as long). So the first is
        # up to a line wider.
        stride, size = (stride_y, write) if y else (stride_x, read)
        wide = TILE + greater(simd.LINE // size, LANES)
        # Where the tree is too high for the machine's stack it has room of its own, or else one
        # group of columns goes at a time.
        slots, levels = kernels.STACKS, get_int(call, records.N) // ROWS
        while levels > 0:
            slots, levels = slots + wide, levels >> 1
        heap = allocate(slots * 8 * LANES) if slots > kernels.TILE_ROOM else 0
        narrow = heap == 0 and slots > kernels.TILE_ROOM
        most = LANES if narrow else TILE
        stack = heap if heap != 0 else reserve()
        aligned = not narrow and stride % simd.LINE == 0
        ahead = ROWS * stride_x if far(call, read) else 0  # the next block of each column
        _, _, stream = memory(call, get_int(call, records.N), batch_axes, read, write)
        stream = stream if aligned else 0
        i = first
        while i < last:
            column, row = i % tiles * LANES, i // tiles * width
            together = lesser(lesser(width - column, (last - i) * LANES), most)
            i += (together + LANES - 1) // LANES
            at_x = x + offset(batch, batch_axes, BATCH, 1, row)
            at_y = y + offset(batch, batch_axes, BATCH, 2, row) if y else 0
            first_column, last_column = column, column + together
            if aligned:
                at = at_y if y else at_x
                first_column = edge(first_column, at, size) if column else 0
                last_column = edge(last_column, at, size)
            first_column, last_column = lesser(first_column, width), lesser(last_column, width)
            if first_column == last_column:
                continue
            at_x += first_column * read
            at_y += first_column * write if y else 0
            tile(
                at_x, at_y,
                get_int(call, records.N), stride_x, stride_y, last_column - first_column,
                norms + offset(batch, batch_axes, BATCH, 3, row) + first_column * norm_step
                if norms else 0,
                norm_step, norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
                ahead, stream if at_y % boundary == 0 else 0, stack,
            )  # fmt: skip
        free(heap)
        if stream:
            simd.fence()

    return run


def slabs(source: Kind, target: Kind) -> Any:
    """Slabs of the vectors along the last axis of the batch: all of them make one tile."""
    slab = kernels.one_slab(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        x, y = get_int(call, records.X), get_int(call, records.Y)
        norms, norm_size = get_int(call, records.NORMS), get_int(call, records.NORM_SIZE)
        batch, batch_axes = get_int(call, records.BATCH), get_int(call, records.BATCH_AXES)
        last_axis = (batch_axes - 1) * BATCH
        width = get_int(batch, last_axis)
        n = get_int(call, records.N)
        ahead_sum, ahead_scale, stream = memory(call, n * width, batch_axes - 1, read, write)
        for i in range(first, last):
            slab(
                x + offset(batch, batch_axes, BATCH, 1, i * width),
                y + offset(batch, batch_axes, BATCH, 2, i * width) if y else 0,
                n, width,
                norms + offset(batch, batch_axes, BATCH, 3, i * width) if norms else 0,
                get_int(batch, last_axis + 3), norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
                ahead_sum, ahead_scale, stream,
            )  # fmt: skip
        if stream:
            simd.fence()

    return run


def part_sum(source: Kind, target: Kind) -> Any:
    """The sums over lanes of parts of a long vector, each put into a slot."""
    add_blocks, finish = kernels.row_sum(source, False)
    add_scaled, finish_scaled = (
        kernels.row_sum(source, True) if source.risky else (add_blocks, finish)
    )
    reserve, read, write = simd.stack(LEVELS), source.size, target.size
    blocks, top = SPLIT // ROWS, (SPLIT // ROWS).bit_length() - 1

    @worker
    def run(first, last, call):
        stack = reserve()
        n = get_int(call, records.N) * get_int(call, records.PARTS)
        factor, table = get_double(call, records.FACTOR), get_int(call, records.TABLE_X)
        ahead, _, _ = memory(call, n, 0, read, write)
        for part in range(first, last):
            x = get_int(call, records.VECTOR_X) + part * SPLIT * read
            count = lesser(SPLIT, n - part * SPLIT)
            whole = count // ROWS
            tail, left = x + whole * ROWS * read, count % ROWS
            if factor == 1.0:
                add_blocks(x, 0, whole, splat(factor), table, stack, ahead)
                total = finish(tail, whole, left, splat(factor), table, stack)
            else:
                add_scaled(x, 0, whole, splat(factor), table, stack, ahead)
                total = finish_scaled(tail, whole, left, splat(factor), table, stack)
            lanes = get(stack, top) if whole == blocks else total
            put(get_int(call, records.SCRATCH), part, lanes)

    return run


def part_scale(source: Kind, target: Kind) -> Any:
    """Parts of a long vector divided by the divisor."""
    scale, pass_by = kernels.row_scale(source, target), kernels.row_stream(source, target)
    read, write = source.size, target.size

    @worker
    def run(first, last, call):
        n = get_int(call, records.N) * get_int(call, records.PARTS)
        start, stop = first * SPLIT, lesser(last * SPLIT, n)
        x = get_int(call, records.VECTOR_X) + start * read
        y = get_int(call, records.VECTOR_Y) + start * write
        root, plain = get_double(call, records.ROOT), get_int(call, records.PLAIN) != 0
        table_x, table_y = get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y)
        if plain:
            _, ahead, stream = memory(call, n, 0, read, write)
            pass_by(x, y, stop - start, root, table_x, table_y, ahead, stream)
            if stream:
                simd.fence()
        else:
            up, down = get_double(call, records.UP), get_double(call, records.DOWN)
            scale(x, y, stop - start, root, up, down, plain, table_x, table_y)

    return run


def bundles(source: Kind, target: Kind) -> Any:
    """Short vectors of neighbouring elements, in tiles as `columns` has them."""
    bundle = kernels.one_bundle(source, target)

    @worker
    def run(first, last, call):
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
                lesser(width - start, LANES),
                norms + offset(batch, batch_axes, BATCH, 3, vector) if norms else 0,
                get_int(batch, last_axis + 3), norm_size,
                get_double(call, records.EPS), get_double(call, records.ZERO_ROOT),
                get_int(call, records.TABLE_X), get_int(call, records.TABLE_Y),
            )  # fmt: skip

    return run


def turn(source: Kind, target: Kind) -> Any:
    """Derivatives along rows of neighbouring elements, one after the other: all of one kind."""
    row, size = kernels.one_turn(source), source.size
    assert target is source

    @worker
    def run(first, last, call):
        x, y, d = get_int(call, records.X), get_int(call, records.Y), get_int(call, records.MOVES)
        n, eps = get_int(call, records.N), get_double(call, records.EPS)
        _, _, stream = memory(call, n, 0, size, size)
        for at in range(first * n * size, last * n * size, n * size):
            row(x + at, d + at, y + at, n, eps, stream)
        if stream:
            simd.fence()

    return run


# By name.
WORKERS = {
    "rows": rows,
    "columns": columns,
    "slabs": slabs,
    "bundles": bundles,
    "runs": runs,
    "packed": packed,
    "part_sum": part_sum,
    "part_scale": part_scale,
    "turn": turn,
}


# NumPy's flags.
_CONTIGUOUS, _FORTRAN, _WRITEABLE = 0x1, 0x2, 0x400


def short() -> Any:
    """The short way in, a function in C for Python to call: ``(x, y, norms, eps, axis, ordered,
    nan)``.

    The arguments are trusted to be arrays (`y` and `norms` may be None; `norms` is contiguous,
    writable, and shares no memory with the others), two of whatever the caller was given, and two
    bools; the arrays' fields are read where NumPy's binary interface has them. `nan`: zero vectors
    become NaN. True says that the vectors have been done. Else nothing has been written. None: `y`
    is not in the order of `x`, as `ordered` asks. False: this call is not one for the short way,
    for `eps`, `axis` or a dtype need a closer look, the kernel is not linked, a vector is very
    long, or the arrays do not fit each other or overlap.
    """

    record, tables = simd.room(records.CALL), simd.room(geometry.ROOM)
    scratch = simd.stack(records.SHORT_PARTS_MOST + 1)
    ask = simd.external("PyObject_CallNoArgs", simd.I64, simd.I64)
    number = simd.external("PyNumber_AsSsize_t", simd.I64, simd.I64, simd.I64)
    length = simd.external("PyTuple_Size", simd.I64, simd.I64)
    item = simd.external("PyTuple_GetItem", simd.I64, simd.I64, simd.I64)
    cores = team.cores()

    @device
    def array(a):
        """Address, number of axes, tables of sizes and strides, dtype and flags."""
        a += records.HEAD
        return (
            get_int(a, 0), get_int(a, 1) & 0xFFFFFFFF, get_int(a, 2), get_int(a, 3),
            get_int(a, 5), get_int(a, 6) & 0xFFFFFFFF,
        )  # fmt: skip

    @device
    def bit(own, axis, axes):
        """An axis as a bit; 0 if it is none. A number too large comes as the largest."""
        kind = get_int(axis + records.HEAD - 8, 0)
        one = number(axis, 0) if kind == get_int(own, records.INT) else axes
        one += axes if one < 0 else 0
        return 1 << one if 0 <= one < axes else 0

    @device
    def mask_of(own, axis, axes):
        """Axes as bits, or -1 if they are not what they should be, or more than there are bits."""
        if axes > 62:
            return -1
        if axis == get_int(own, records.NONE):
            return (1 << axes) - 1
        if get_int(axis + records.HEAD - 8, 0) != get_int(own, records.TUPLE):
            return bit(own, axis, axes) or -1
        mask = 0
        for k in range(length(axis)):
            one = bit(own, item(axis, k), axes)
            if one == 0 or mask & one:
                return -1
            mask |= one
        return mask

    @device
    def apart(size, axes, sizes, strides):
        """Whether along each axis what lies along those of smaller strides fits into a stride: if
        so, no two elements overlap."""
        for axis in range(axes):
            step, extent = abs(get_int(strides, axis)), size
            if get_int(sizes, axis) > 1:
                for other in range(axes):
                    reach = abs(get_int(strides, other))
                    if other != axis and reach <= step:
                        extent += (get_int(sizes, other) - 1) * reach
                if step < extent:
                    return False
        return True

    @device
    def fit(own, ordered, x, axes, sizes, strides_x, y, axes_y, sizes_y, strides_y, dtype, flags):
        """Whether y can take what comes of x."""
        no, yes = get_int(own, records.FALSE), get_int(own, records.TRUE)
        if axes_y != axes or dtype != get_int(own, records.TYPE_Y) or flags & _WRITEABLE == 0:
            return no
        same = y == x and dtype == get_int(own, records.TYPE_X)
        if flags & (_CONTIGUOUS | _FORTRAN) == 0 and not apart(
            get_int(own, records.SIZE_Y), axes, sizes, strides_y
        ):
            return no
        last = -1
        # Where the bytes of each begin and end.
        from_x, to_x, from_y, to_y = x, x + get_int(own, records.SIZE_X), y, y
        to_y += get_int(own, records.SIZE_Y)
        for axis in range(axes):
            size = get_int(sizes, axis)
            if get_int(sizes_y, axis) != size:
                return no
            if size > 1:
                step, step_y = get_int(strides_x, axis), get_int(strides_y, axis)
                if ordered and 0 <= last < abs(step):
                    return get_int(own, records.NONE)
                last = abs(step)
                same = same and step == step_y
                from_x += lesser((size - 1) * step, 0)
                to_x += greater((size - 1) * step, 0)
                from_y += lesser((size - 1) * step_y, 0)
                to_y += greater((size - 1) * step_y, 0)
        return yes if same or to_y <= from_x or to_x <= from_y else no

    @function(METHOD)
    def method(bound, arguments, count):
        own = get_int(bound + records.HEAD, 0)  # the data of an array
        no, none = get_int(own, records.FALSE), get_int(own, records.NONE)
        if count != ARGUMENTS:
            return simd.new_reference(no)
        x, axes, sizes, strides, dtype, plain = array(get_int(arguments, 0))
        mask = mask_of(own, get_int(arguments, 4), axes)
        total = 1
        for axis in range(axes):
            total *= get_int(sizes, axis)
        at_eps = get_int(arguments, 3) + records.HEAD
        if (
            mask < 0 or total == 0 or dtype != get_int(own, records.TYPE_X)
            or get_int(at_eps - 8, 0) != get_int(own, records.FLOAT)
            or not get_double(at_eps, 0) >= 0.0
        ):  # fmt: skip
            return simd.new_reference(no)
        y = norms = 0
        strides_y, write = strides, get_int(own, records.SIZE_X)
        if get_int(arguments, 1) != none:
            y, axes_y, sizes_y, strides_y, dtype, flags = array(get_int(arguments, 1))
            plain &= flags
            write = get_int(own, records.SIZE_Y)
            ordered = get_int(arguments, 5) == get_int(own, records.TRUE)
            said = fit(
                own, ordered, x, axes, sizes, strides,
                y, axes_y, sizes_y, strides_y, dtype, flags,
            )  # fmt: skip
            if said != get_int(own, records.TRUE):
                return simd.new_reference(said)
        held, norm_size = 1, 4
        if get_int(arguments, 2) != none:
            norms, axes_norms, sizes_norms, _, dtype, _ = array(get_int(arguments, 2))
            norm_size = 8 if dtype == get_int(own, records.TYPE_DOUBLE) else 4
            if norm_size == 4 and dtype != get_int(own, records.TYPE_SINGLE):
                return simd.new_reference(no)
            for axis in range(axes_norms):
                held *= get_int(sizes_norms, axis)
        call, parts = record(), get_int(own, records.SHORT_PARTS)
        team.enter(
            call, x, y, norms, norm_size, 0, parts,
            get_int(own, records.SHORT_TABLE_X), get_int(own, records.SHORT_TABLE_Y),
            get_double(at_eps, 0),
            kernels.NAN if get_int(arguments, 6) == get_int(own, records.TRUE) else 1.0,
            total, get_int(own, records.SHORT_POOL), 1,
        )  # fmt: skip
        set_int(call, records.SWAP, 0)
        n = get_int(sizes, axes - 1) if axes else 1
        way, several = records.ROWS, total // n
        # Planning takes 30 ns, which for one row after the other is not needed.
        if plain & _CONTIGUOUS and LANES < n < SPLIT and mask == 1 << axes - 1:
            set_int(call, records.N, n)
        else:
            way, n, several = plan(
                call, tables(), mask, axes, sizes, strides, strides_y,
                get_int(own, records.SIZE_X), write, parts, norm_size,
            )  # fmt: skip
        worker = get_int(own, way)
        if worker == 0 or (norms != 0 and held * n != total):
            return simd.new_reference(no)
        alone = way == records.COLUMNS and y == x and total <= launch.IN_PLACE
        threads = 1 if alone else team.paid(total)
        if threads > 1:
            threads = lesser(threads, cores(get_int(own, records.SHORT_POOL)))
        if threads > 1:
            told = ask(get_int(own, records.SHORT_THREADS))
            if told == 0:  # an interrupt, most likely; nothing has been written
                return 0
            threads = lesser(threads, number(told, 0))
            simd.disown(told)
        set_int(call, records.THREADS, threads)
        split = (
            threads > 1 and way == records.ROWS
            and several < 2 * threads and n * parts >= 2 * SPLIT
        )  # fmt: skip
        if split:
            room = SPLIT * records.SHORT_PARTS_MOST
            if n * parts > room or get_int(own, records.SHORT_SPLIT) == 0:
                return simd.new_reference(no)
            set_int(call, records.PART_SUM, get_int(own, records.SHORT_PART_SUM))
            set_int(call, records.PART_SCALE, get_int(own, records.SHORT_PART_SCALE))
            set_int(call, records.RISKY, get_int(own, records.SHORT_RISKY))
            set_int(call, records.SCRATCH, scratch())
        if total < LET_GO:
            work(worker, 0, several, call)
            return simd.new_reference(get_int(own, records.TRUE))
        state = simd.let_go()
        if split:
            share(get_int(own, records.SHORT_SPLIT), several, call)
        elif threads > 1:
            share_out(get_int(get_int(call, records.POOL), records.TEAM), worker, several, call)
        else:
            work(worker, 0, several, call)
        simd.take_back(state)
        return simd.new_reference(get_int(own, records.TRUE))

    return method


# By name.
LAUNCHERS = {
    "short": short,
    "team": team.team,
    "helper": team.helper,
    "split": team.split,
    "foreign": foreign.handler,
}
