"""The fast call: a compiled function that Python calls, and that finds everything itself; and that
of derivatives.

It reads the fields of arrays, tuples and numbers where `fast_call` has found them to be in memory,
by the numbers that stand there. Nothing else that is compiled knows of Python, and the rest does
without this file.
"""

from typing import Any

from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, memory, plan, thread_pool
from l2multi.backends.numba.cabi import call_long_rows, call_parallel_for, call_worker
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.fast_call import DATA, DTYPE, FLAGS, HEAD, NDIM, SHAPE, STRIDES
from l2multi.backends.numba.kernels.common import NAN, fill_descriptor
from l2multi.backends.numba.lanes import I64, greater, lesser
from l2multi.backends.numba.memory import get_double, get_int, set_int
from l2multi.backends.numba.threads import IN_PLACE

# Elements from which the GIL is released, which takes 50 ns, so that other threads can work.
RELEASE_GIL = 2**12

ARGUMENTS = 8

# self, arguments, their number; as METH_FASTCALL of CPython has it
METHOD = types.intp(types.intp, types.intp, types.intp)

# NumPy's flags.
_CONTIGUOUS, _FORTRAN, _WRITEABLE = 0x1, 0x2, 0x400

_as_int = cabi.external("PyNumber_AsSsize_t", I64, I64, I64)
_tuple_size = cabi.external("PyTuple_Size", I64, I64)
_tuple_item = cabi.external("PyTuple_GetItem", I64, I64, I64)

_plan = plan.planner(device, get_int, set_int)


@device
def class_of(value):
    """The class of an object."""
    return get_int(value + HEAD - 8, 0)


@device
def fields_of(a):
    """Address, number of axes, tables of sizes and strides, dtype and flags of an array."""
    a += HEAD
    return (
        get_int(a, DATA), get_int(a, NDIM) & 0xFFFFFFFF, get_int(a, SHAPE),
        get_int(a, STRIDES), get_int(a, DTYPE), get_int(a, FLAGS) & 0xFFFFFFFF,
    )  # fmt: skip


@device
def rows_of(pair, arguments, sizes):
    """The same of rows, whose address, length and number these arguments are; sizes, strides, and
    those of the result go to a table."""
    n, strides = _as_int(get_int(arguments, 4), 0), sizes + 16
    set_int(sizes, 0, _as_int(get_int(arguments, 5), 0))
    set_int(sizes, 1, n)
    set_int(strides, 0, n * get_int(pair, descriptor.SIZE_X))
    set_int(strides, 1, get_int(pair, descriptor.SIZE_X))
    set_int(strides, 2, n * get_int(pair, descriptor.SIZE_Y))
    set_int(strides, 3, get_int(pair, descriptor.SIZE_Y))
    x = _as_int(get_int(arguments, 0), 0)
    return x, 2, sizes, strides, get_int(pair, descriptor.TYPE_X), _CONTIGUOUS


@device
def product(sizes, axes):
    """The number of elements of an array."""
    total = 1
    for axis in range(axes):
        total *= get_int(sizes, axis)
    return total


@device
def norms_of(pair, a):
    """The address of the norms, how many there are, or 0 if they are of another dtype, and their
    bytes."""
    address, axes, sizes, _, dtype, _ = fields_of(a)
    size = 8 if dtype == get_int(pair, descriptor.TYPE_DOUBLE) else 4
    fits = size == 8 or dtype == get_int(pair, descriptor.TYPE_SINGLE)
    return address, product(sizes, axes) if fits else 0, size


@device
def bit_of(pair, axis, axes):
    """An axis as a bit; 0 if it is none. A number too large comes as the largest."""
    one = _as_int(axis, 0) if class_of(axis) == get_int(pair, descriptor.INT) else axes
    one += axes if one < 0 else 0
    return 1 << one if 0 <= one < axes else 0


@device
def mask_of(pair, axis, axes):
    """Axes as bits, or -1 if they are not what they should be, or more than there are bits."""
    if axes > 62:
        return -1
    if axis == get_int(pair, descriptor.NONE):
        return (1 << axes) - 1
    if class_of(axis) != get_int(pair, descriptor.TUPLE):
        return bit_of(pair, axis, axes) or -1
    mask = 0
    for k in range(_tuple_size(axis)):
        one = bit_of(pair, _tuple_item(axis, k), axes)
        if one == 0 or mask & one:
            return -1
        mask |= one
    return mask


@device
def no_overlap_within(size, axes, sizes, strides):
    """Whether along each axis what lies along those of smaller strides fits into a stride: if so,
    no two elements overlap."""
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
def fits(pair, ordered, x, axes, sizes, strides_x, y, axes_y, sizes_y, strides_y, dtype, flags):
    """TRUE if y can take what comes of x, NONE if it is not in the order that is asked for."""
    no, yes = get_int(pair, descriptor.FALSE), get_int(pair, descriptor.TRUE)
    if axes_y != axes or dtype != get_int(pair, descriptor.TYPE_Y) or flags & _WRITEABLE == 0:
        return no
    same = y == x and dtype == get_int(pair, descriptor.TYPE_X)
    if flags & (_CONTIGUOUS | _FORTRAN) == 0 and not no_overlap_within(
        get_int(pair, descriptor.SIZE_Y), axes, sizes, strides_y
    ):
        return no
    last = -1
    # Where the bytes of each begin and end.
    from_x, to_x, from_y, to_y = x, x + get_int(pair, descriptor.SIZE_X), y, y
    to_y += get_int(pair, descriptor.SIZE_Y)
    for axis in range(axes):
        size = get_int(sizes, axis)
        if get_int(sizes_y, axis) != size:
            return no
        if size > 1:
            step, step_y = get_int(strides_x, axis), get_int(strides_y, axis)
            if ordered and 0 <= last < abs(step):
                return get_int(pair, descriptor.NONE)
            last = abs(step)
            same = same and step == step_y
            from_x += lesser((size - 1) * step, 0)
            to_x += greater((size - 1) * step, 0)
            from_y += lesser((size - 1) * step_y, 0)
            to_y += greater((size - 1) * step_y, 0)
    return yes if same or to_y <= from_x or to_x <= from_y else no


@device
def planned(pair, call, tables, mask, axes, sizes, strides_x, strides_y, write, norm_size):
    """The plan of a call, whose tables go to `tables`, as `plan.planner` has it."""
    batch = tables + 8 * plan.INNER_ROOM
    strides_norm, step = batch + 8 * plan.BATCH_ROOM, norm_size
    for axis in range(axes - 1, -1, -1):
        set_int(strides_norm, axis, step)
        step *= 1 if mask >> axis & 1 else get_int(sizes, axis)
    set_int(call, descriptor.INNER, tables)
    set_int(call, descriptor.BATCH, batch)
    return _plan(
        call, tables, batch, mask, axes, sizes, strides_x, strides_y, strides_norm,
        get_int(pair, descriptor.SIZE_X), write, get_int(pair, descriptor.PAIR_PARTS), 0,
    )  # fmt: skip


@device
def met(call, judged):
    """Whether norms have met what these policies refuse, as the fast call is told of them."""
    zero, nonfinite = get_int(call, descriptor.MET_ZERO), get_int(call, descriptor.MET_NONFINITE)
    return judged & zero != 0 or judged >> 1 & nonfinite != 0


def threading() -> Any:
    """A function: how many threads work on a call of so many elements; 0 where that is to be asked,
    as the fast call's `most` has it."""
    cores, pays_to_wake = thread_pool.cores(), thread_pool.pays_to_wake()

    @device
    def threads_for(pool, total, most):
        threads = thread_pool.paid(total)
        if threads > 1:
            threads = lesser(threads, cores(pool)) if pays_to_wake(pool, total) else 1
        return lesser(threads, _as_int(most, 0)) if threads > 1 else 1

    return threads_for


def doing() -> Any:
    """A function that does what a call descriptor says, by a worker, the thread pool, or as long
    rows; what Python is given."""
    scratch, threads_for = memory.stack(plan.PARTS_MOST + 1), threading()

    @device
    def run(pair, call, layout, n, count, total, in_place, most, judged):
        pool, worker = get_int(pair, descriptor.PAIR_POOL), get_int(pair, layout)
        alone = layout == descriptor.COLUMNS and in_place and total <= IN_PLACE
        threads = 1 if alone else threads_for(pool, total, most)
        if threads == 0:
            return cabi.incref(get_int(pair, descriptor.INT))
        set_int(call, descriptor.THREADS, threads)
        n *= get_int(pair, descriptor.PAIR_PARTS)
        long = layout == descriptor.ROWS and n >= 2 * plan.SPLIT and count < 2 * threads
        long = long and threads > 1
        long_rows = get_int(pair, descriptor.PAIR_LONG_ROWS)
        if long:
            if n > plan.SPLIT * plan.PARTS_MOST or long_rows == 0:
                return cabi.incref(get_int(pair, descriptor.FALSE))
            set_int(call, descriptor.PART_SUM, get_int(pair, descriptor.PAIR_PART_SUM))
            set_int(call, descriptor.PART_SCALE, get_int(pair, descriptor.PAIR_PART_SCALE))
            set_int(call, descriptor.RESCALING, get_int(pair, descriptor.PAIR_RESCALING))
            set_int(call, descriptor.SCRATCH, scratch())
        if total < RELEASE_GIL:
            call_worker(worker, 0, count, call)
        else:
            state = cabi.release_gil()
            if long:
                call_long_rows(long_rows, count, call)
            elif threads > 1:
                call_parallel_for(get_int(pool, descriptor.PARALLEL_FOR), worker, count, call)
            else:
                call_worker(worker, 0, count, call)
            cabi.acquire_gil(state)
        if judged and met(call, judged):
            return cabi.incref(get_int(pair, descriptor.FLOAT))
        return cabi.incref(get_int(pair, descriptor.TRUE))

    return run


def fast_call() -> Any:
    """The fast call, a function in C for Python to call: ``(x, y, norms, eps, axis, ordered,
    nan, most)``; or, of rows that lie one after another, ``(address of x, of y or None, norms, eps,
    elements of a row, rows, nan, most)``, which are trusted as they are.

    The arguments are trusted to be arrays (`y` and `norms` may be None; `norms` is contiguous,
    writable, and shares no memory with the others), two of whatever the caller was given, two
    bools and an int. In place of `norms`, an int tells the policies that judge them: 1 for zero
    vectors, 2 for those that are not finite, 3 for both. `nan`: zero vectors become NaN. `most`:
    how many threads may work, or 0 if nobody has asked. True says that the vectors have been done,
    `float` that a policy may refuse one of them: norms that overflow need a closer look. Else
    nothing has been written. None: `y` is not in the order of `x`, as `ordered` asks. `int`: this
    call pays for threads, so `most` is asked for. False: it needs the general path, for `eps`,
    `axis` or a dtype need a closer look, the kernel is not linked, a vector is very long, or the
    arrays do not fit each other or overlap.
    """
    # What a device reserves is gone when it returns: all that the call descriptor refers to is
    # reserved here.
    room, batch = memory.room(descriptor.CALL_SIZE), memory.room(plan.BATCH)
    tables = memory.room(plan.INNER_ROOM + plan.BATCH_ROOM + plan.AXES)
    rows = memory.room(6)  # sizes, strides of x and those of y
    do = doing()

    @function(METHOD)
    def method(bound, arguments, count):
        pair = get_int(bound + HEAD, 0)  # the data of an array
        no, none = get_int(pair, descriptor.FALSE), get_int(pair, descriptor.NONE)
        if count != ARGUMENTS:
            return cabi.incref(no)
        first, eps = get_int(arguments, 0), get_int(arguments, 3)
        by_address = class_of(first) == get_int(pair, descriptor.INT)
        if by_address:
            x, axes, sizes, strides, dtype, plain = rows_of(pair, arguments, rows())
            mask = 1 << axes - 1
        else:
            x, axes, sizes, strides, dtype, plain = fields_of(first)
            mask = mask_of(pair, get_int(arguments, 4), axes)
        total = product(sizes, axes)
        if (
            mask < 0 or total == 0 or dtype != get_int(pair, descriptor.TYPE_X)
            or class_of(eps) != get_int(pair, descriptor.FLOAT)
            or not get_double(eps + HEAD, 0) >= 0.0
        ):  # fmt: skip
            return cabi.incref(no)
        y = norms = 0
        strides_y, write = strides, get_int(pair, descriptor.SIZE_X)
        if by_address and get_int(arguments, 1) != none:
            y, strides_y = _as_int(get_int(arguments, 1), 0), strides + 8 * axes
            write = get_int(pair, descriptor.SIZE_Y)
        elif get_int(arguments, 1) != none:
            y, axes_y, sizes_y, strides_y, dtype, flags = fields_of(get_int(arguments, 1))
            plain &= flags
            write = get_int(pair, descriptor.SIZE_Y)
            ordered = get_int(arguments, 5) == get_int(pair, descriptor.TRUE)
            said = fits(
                pair, ordered, x, axes, sizes, strides,
                y, axes_y, sizes_y, strides_y, dtype, flags,
            )  # fmt: skip
            if said != get_int(pair, descriptor.TRUE):
                return cabi.incref(said)
        held, norm_size, judged, third = 0, 4, 0, get_int(arguments, 2)
        call = room()
        if class_of(third) == get_int(pair, descriptor.INT):
            judged, norm_size = _as_int(third, 0), descriptor.JUDGED
            norms = call + 8 * descriptor.MET_ZERO
            set_int(call, descriptor.MET_ZERO, 0)
            set_int(call, descriptor.MET_NONFINITE, 0)
        elif third != none:
            norms, held, norm_size = norms_of(pair, third)
        n = get_int(sizes, axes - 1) if axes else 1
        layout, several = descriptor.ROWS, total // n
        fill_descriptor(
            call, batch(), several, n, x, y, norms, get_int(pair, descriptor.SIZE_X), write,
            norm_size, get_int(pair, descriptor.PAIR_PARTS),
            get_int(pair, descriptor.PAIR_TABLE_X), get_int(pair, descriptor.PAIR_TABLE_Y),
            get_double(eps + HEAD, 0),
            NAN if get_int(arguments, 6) == get_int(pair, descriptor.TRUE) else 1.0,
            get_int(pair, descriptor.PAIR_POOL), 1,
        )  # fmt: skip
        set_int(call, descriptor.SWAP, 0)
        # A plan takes 30 ns, which rows that lie one after another do not need.
        if not (plain & _CONTIGUOUS and LANES < n < plan.SPLIT and mask == 1 << axes - 1):
            layout, n, several = planned(
                pair, call, tables(), mask, axes, sizes, strides, strides_y, write, norm_size
            )
        if get_int(pair, layout) == 0 or (norms != 0 and not judged and held * n != total):
            return cabi.incref(no)
        return do(pair, call, layout, n, several, total, y == x, get_int(arguments, 7), judged)

    return method


def tangents_call() -> Any:
    """The same for derivatives: ``(address of x, of its tangent, of the result, rows, elements of a
    row, eps, most)``, which are trusted as they are. `int` where `most` is asked for, else True.
    """
    room, batch, threads_for = (
        memory.room(descriptor.CALL_SIZE),
        memory.room(plan.BATCH),
        threading(),
    )

    @function(METHOD)
    def method(bound, arguments, count):
        pair, eps = get_int(bound + HEAD, 0), get_int(arguments, 5)
        count, n = _as_int(get_int(arguments, 3), 0), _as_int(get_int(arguments, 4), 0)
        pool, size = get_int(pair, descriptor.PAIR_POOL), get_int(pair, descriptor.SIZE_X)
        threads = threads_for(pool, count * n, get_int(arguments, 6))
        if threads == 0:
            return cabi.incref(get_int(pair, descriptor.INT))
        call = room()
        fill_descriptor(
            call, batch(), count, n, _as_int(get_int(arguments, 0), 0),
            _as_int(get_int(arguments, 2), 0), 0, size, size, 0, 1, 0, 0,
            get_double(eps + HEAD, 0), 1.0, pool, threads,
        )  # fmt: skip
        set_int(call, descriptor.TANGENT, _as_int(get_int(arguments, 1), 0))
        set_int(call, descriptor.WORKER, get_int(pair, descriptor.PAIR_JVP))
        set_int(call, descriptor.PART_SUM, get_int(pair, descriptor.PAIR_JVP_PART_SUM))
        set_int(call, descriptor.PART_SCALE, get_int(pair, descriptor.PAIR_JVP_PART_SCALE))
        jvp_rows = get_int(pair, descriptor.PAIR_JVP_ROWS)
        if count * n < RELEASE_GIL:
            call_long_rows(jvp_rows, count, call)
        else:
            state = cabi.release_gil()
            call_long_rows(jvp_rows, count, call)
            cabi.acquire_gil(state)
        return cabi.incref(get_int(pair, descriptor.TRUE))

    return method
