"""fast call"""

from typing import Any

from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, geometry, lanes, memory, plan, thread_pool
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.kernels.common import NAN, fill_descriptor
from l2multi.backends.numba.lanes import greater, lesser
from l2multi.backends.numba.memory import get_double, get_int, set_int
from l2multi.backends.numba.thread_pool import call_long_rows, call_parallel_for, call_worker
from l2multi.backends.numba.threads import IN_PLACE

# Elements from which `short` lets go of Python's lock, which costs 50 ns, so that threads can work.
LET_GO = 2**12


ARGUMENTS = 7  # of `short`


_INT = types.intp


# self, arguments, their number; as METH_FASTCALL of CPython has it
METHOD = _INT(_INT, _INT, _INT)


# NumPy's flags.
_CONTIGUOUS, _FORTRAN, _WRITEABLE = 0x1, 0x2, 0x400


def fast_call() -> Any:
    """The short way in, a function in C for Python to call: ``(x, y, norms, eps, axis, ordered,
    nan)``.

    The arguments are trusted to be arrays (`y` and `norms` may be None; `norms` is contiguous,
    writable, and shares no memory_habits with the others), two of whatever the caller was given, and two
    bools; the arrays' fields are read where NumPy's binary interface has them. `nan`: zero vectors
    become NaN. True says that the vectors have been done. Else nothing has been written. None: `y`
    is not in the order of `x`, as `ordered` asks. False: this call is not one for the short way,
    for `eps`, `axis` or a dtype need a closer look, the kernel is not linked, a vector is very
    long, or the arrays do not fit each other or overlap.
    """

    record, tables = memory.room(descriptor.CALL_SIZE), memory.room(geometry.ROOM)
    scratch = memory.stack(plan.PARTS_MOST + 1)
    ask = cabi.external("PyObject_CallNoArgs", lanes.I64, lanes.I64)
    number = cabi.external("PyNumber_AsSsize_t", lanes.I64, lanes.I64, lanes.I64)
    length = cabi.external("PyTuple_Size", lanes.I64, lanes.I64)
    item = cabi.external("PyTuple_GetItem", lanes.I64, lanes.I64, lanes.I64)
    cores = thread_pool.cores()

    @device
    def array(a):
        """Address, number of axes, tables of sizes and strides, dtype and flags."""
        a += descriptor.HEAD
        return (
            get_int(a, 0), get_int(a, 1) & 0xFFFFFFFF, get_int(a, 2), get_int(a, 3),
            get_int(a, 5), get_int(a, 6) & 0xFFFFFFFF,
        )  # fmt: skip

    @device
    def bit(own, axis, axes):
        """An axis as a bit; 0 if it is none. A number too large comes as the largest."""
        kind = get_int(axis + descriptor.HEAD - 8, 0)
        one = number(axis, 0) if kind == get_int(own, descriptor.INT) else axes
        one += axes if one < 0 else 0
        return 1 << one if 0 <= one < axes else 0

    @device
    def mask_of(own, axis, axes):
        """Axes as bits, or -1 if they are not what they should be, or more than there are bits."""
        if axes > 62:
            return -1
        if axis == get_int(own, descriptor.NONE):
            return (1 << axes) - 1
        if get_int(axis + descriptor.HEAD - 8, 0) != get_int(own, descriptor.TUPLE):
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
        no, yes = get_int(own, descriptor.FALSE), get_int(own, descriptor.TRUE)
        if axes_y != axes or dtype != get_int(own, descriptor.TYPE_Y) or flags & _WRITEABLE == 0:
            return no
        same = y == x and dtype == get_int(own, descriptor.TYPE_X)
        if flags & (_CONTIGUOUS | _FORTRAN) == 0 and not apart(
            get_int(own, descriptor.SIZE_Y), axes, sizes, strides_y
        ):
            return no
        last = -1
        # Where the bytes of each begin and end.
        from_x, to_x, from_y, to_y = x, x + get_int(own, descriptor.SIZE_X), y, y
        to_y += get_int(own, descriptor.SIZE_Y)
        for axis in range(axes):
            size = get_int(sizes, axis)
            if get_int(sizes_y, axis) != size:
                return no
            if size > 1:
                step, step_y = get_int(strides_x, axis), get_int(strides_y, axis)
                if ordered and 0 <= last < abs(step):
                    return get_int(own, descriptor.NONE)
                last = abs(step)
                same = same and step == step_y
                from_x += lesser((size - 1) * step, 0)
                to_x += greater((size - 1) * step, 0)
                from_y += lesser((size - 1) * step_y, 0)
                to_y += greater((size - 1) * step_y, 0)
        return yes if same or to_y <= from_x or to_x <= from_y else no

    @function(METHOD)
    def method(bound, arguments, count):
        own = get_int(bound + descriptor.HEAD, 0)  # the data of an array
        no, none = get_int(own, descriptor.FALSE), get_int(own, descriptor.NONE)
        if count != ARGUMENTS:
            return cabi.incref(no)
        x, axes, sizes, strides, dtype, plain = array(get_int(arguments, 0))
        mask = mask_of(own, get_int(arguments, 4), axes)
        total = 1
        for axis in range(axes):
            total *= get_int(sizes, axis)
        at_eps = get_int(arguments, 3) + descriptor.HEAD
        if (
            mask < 0 or total == 0 or dtype != get_int(own, descriptor.TYPE_X)
            or get_int(at_eps - 8, 0) != get_int(own, descriptor.FLOAT)
            or not get_double(at_eps, 0) >= 0.0
        ):  # fmt: skip
            return cabi.incref(no)
        y = norms = 0
        strides_y, write = strides, get_int(own, descriptor.SIZE_X)
        if get_int(arguments, 1) != none:
            y, axes_y, sizes_y, strides_y, dtype, flags = array(get_int(arguments, 1))
            plain &= flags
            write = get_int(own, descriptor.SIZE_Y)
            ordered = get_int(arguments, 5) == get_int(own, descriptor.TRUE)
            said = fit(
                own, ordered, x, axes, sizes, strides,
                y, axes_y, sizes_y, strides_y, dtype, flags,
            )  # fmt: skip
            if said != get_int(own, descriptor.TRUE):
                return cabi.incref(said)
        held, norm_size = 1, 4
        if get_int(arguments, 2) != none:
            norms, axes_norms, sizes_norms, _, dtype, _ = array(get_int(arguments, 2))
            norm_size = 8 if dtype == get_int(own, descriptor.TYPE_DOUBLE) else 4
            if norm_size == 4 and dtype != get_int(own, descriptor.TYPE_SINGLE):
                return cabi.incref(no)
            for axis in range(axes_norms):
                held *= get_int(sizes_norms, axis)
        call, parts = record(), get_int(own, descriptor.PAIR_PARTS)
        fill_descriptor(
            call, x, y, norms, norm_size, 0, parts,
            get_int(own, descriptor.PAIR_TABLE_X), get_int(own, descriptor.PAIR_TABLE_Y),
            get_double(at_eps, 0),
            NAN if get_int(arguments, 6) == get_int(own, descriptor.TRUE) else 1.0,
            total, get_int(own, descriptor.PAIR_POOL), 1,
        )  # fmt: skip
        set_int(call, descriptor.SWAP, 0)
        n = get_int(sizes, axes - 1) if axes else 1
        way, several = descriptor.ROWS, total // n
        # Planning takes 30 ns, which for one row after the other is not needed.
        if plain & _CONTIGUOUS and LANES < n < plan.SPLIT and mask == 1 << axes - 1:
            set_int(call, descriptor.N, n)
        else:
            way, n, several = geometry.plan(
                call, tables(), mask, axes, sizes, strides, strides_y,
                get_int(own, descriptor.SIZE_X), write, parts, norm_size,
            )  # fmt: skip
        worker = get_int(own, way)
        if worker == 0 or (norms != 0 and held * n != total):
            return cabi.incref(no)
        alone = way == descriptor.COLUMNS and y == x and total <= IN_PLACE
        threads = 1 if alone else thread_pool.paid(total)
        if threads > 1:
            threads = lesser(threads, cores(get_int(own, descriptor.PAIR_POOL)))
        if threads > 1:
            told = ask(get_int(own, descriptor.PAIR_THREADS))
            if told == 0:  # an interrupt, most likely; nothing has been written
                return 0
            threads = lesser(threads, number(told, 0))
            cabi.decref(told)
        set_int(call, descriptor.THREADS, threads)
        split = (
            threads > 1 and way == descriptor.ROWS
            and several < 2 * threads and n * parts >= 2 * plan.SPLIT
        )  # fmt: skip
        if split:
            room = plan.SPLIT * plan.PARTS_MOST
            if n * parts > room or get_int(own, descriptor.PAIR_LONG_ROWS) == 0:
                return cabi.incref(no)
            set_int(call, descriptor.PART_SUM, get_int(own, descriptor.PAIR_PART_SUM))
            set_int(call, descriptor.PART_SCALE, get_int(own, descriptor.PAIR_PART_SCALE))
            set_int(call, descriptor.RESCALING, get_int(own, descriptor.PAIR_RESCALING))
            set_int(call, descriptor.SCRATCH, scratch())
        if total < LET_GO:
            call_worker(worker, 0, several, call)
            return cabi.incref(get_int(own, descriptor.TRUE))
        state = cabi.release_gil()
        if split:
            call_long_rows(get_int(own, descriptor.PAIR_LONG_ROWS), several, call)
        elif threads > 1:
            call_parallel_for(
                get_int(get_int(call, descriptor.POOL), descriptor.PARALLEL_FOR),
                worker,
                several,
                call,
            )
        else:
            call_worker(worker, 0, several, call)
        cabi.acquire_gil(state)
        return cabi.incref(get_int(own, descriptor.TRUE))

    return method
