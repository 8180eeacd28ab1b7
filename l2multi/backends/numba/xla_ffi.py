"""The kernels as an XLA custom call, in CPU programs: a handler for its typed foreign function
interface. The only file that knows XLA's structs.

The layouts are those of ``xla/ffi/api/c_api.h``, which comes with jaxlib: what is read here is the
same in versions 0.1 (jaxlib 0.8.0) to 0.3 (from 0.9.1 on). XLA asks a handler for the version that
it was made for, and refuses a later one than its own.
"""

import sys
from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, memory, thread_pool
from l2multi.backends.numba.cabi import ON_ADDRESS, call_long_rows, call_parallel_for
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.kernels.common import fill_descriptor
from l2multi.backends.numba.lanes import I32, I64, lesser
from l2multi.backends.numba.memory import get_double, get_int, set_int

# Versions as they lie in a slot: the minor number above the major one.
_FIRST, _LAST = 1 << 32, 3 << 32
_METADATA = 1  # the extension by which XLA asks for the version
_UNAVAILABLE = 14

# Slots of a call frame; of its lists of arguments, results and attributes; and of a buffer.
_EXTENSION, _API, _ARGUMENTS, _RESULTS, _ATTRIBUTES = 1, 2, 9, 14, 20
_DATA, _RANK, _SIZES = 3, 4, 5
_VERSION, _NEW_ERROR = 4, 6  # of the table of functions
# The attributes, which XLA sorts by name.
EPS, KERNEL, N, RESULTS, ZERO = range(5)
UNIT, NORM, JVP = 1, 2, 4  # of `results`; the last alone

# Bytes of an output from which huge pages are asked for, as NumPy does and XLA does not; and
# Linux's word for it.
HUGE_FROM, PAGE = 2**22, 2**12
HUGE = 14 if sys.platform == "linux" else 0

_advise = cabi.external("madvise", I32, I64, I64, I32)
_report = cabi.calling(ON_ADDRESS)


@device
def attribute(frame, k):
    """The address of the value of an attribute."""
    return get_int(get_int(get_int(frame, _ATTRIBUTES), k), 1)


@device
def data_of(frame, buffers, k):
    """The address of the data of an argument or a result."""
    return get_int(get_int(get_int(frame, buffers), k), _DATA)


@device
def told_version(frame):
    """Whether XLA asks for the version; if so, it is told."""
    extension = get_int(frame, _EXTENSION)
    if extension == 0 or get_int(extension, 1) & 0xFFFFFFFF != _METADATA:
        return False
    asked, api = get_int(extension, 3), get_int(frame, _API)
    version = get_int(api, _VERSION) if api != 0 else _FIRST  # 0.1 shows no table yet
    set_int(asked, 3, version if version < _LAST else _LAST)
    set_int(asked, 4, 0)  # no traits
    return True


def handler() -> Any:
    """Rows of x, of `n` elements, to unit vectors and to norms with inverses (see
    `descriptor.THREE_SINGLE`), whichever is wanted; or x and its tangent to that of unit
    vectors."""
    table_at = cabi.symbol(descriptor.XLA_TABLE)
    cores = thread_pool.cores()
    new_call, new_batch, new_error = map(memory.room, (descriptor.CALL_SIZE, 4, 4))
    message = cabi.text("l2multi: this process has not linked the kernel")

    @device
    def unavailable(frame):
        """The error that this process has not linked the kernel."""
        error = new_error()
        set_int(error, 0, 32)
        set_int(error, 1, 0)
        set_int(error, 2, message())
        set_int(error, 3, _UNAVAILABLE)
        return _report(get_int(get_int(frame, _API), _NEW_ERROR), error)

    @function(ON_ADDRESS)
    def handle(frame):
        if told_version(frame):
            return 0
        table, wanted = table_at(), get_int(attribute(frame, RESULTS), 0)
        pair = table + 8 * descriptor.XLA_PAIR * get_int(attribute(frame, KERNEL), 0)
        pool, worker = get_int(table, descriptor.XLA_POOL), get_int(pair, descriptor.XLA_ROWS)
        if wanted & JVP:
            worker = get_int(pair, descriptor.XLA_JVP)
        if worker == 0 or pool == 0:
            return unavailable(frame)
        buffer = get_int(get_int(frame, _ARGUMENTS), 0)
        total, n = 1, get_int(attribute(frame, N), 0)
        for axis in range(get_int(buffer, _RANK)):
            total *= get_int(get_int(buffer, _SIZES), axis)
        count, y, norms = total // n, 0, 0
        if wanted & (UNIT | JVP):
            y = data_of(frame, _RESULTS, 0)
        if wanted & NORM:
            norms = data_of(frame, _RESULTS, 1 if y else 0)
        read, write = get_int(pair, descriptor.XLA_READ), get_int(pair, descriptor.XLA_WRITE)
        threads = lesser(thread_pool.paid(total), get_int(pool, descriptor.LIMIT))
        if threads > 1:
            threads = lesser(threads, cores(pool))
        call = new_call()
        fill_descriptor(
            call, new_batch(), count, n, get_int(buffer, _DATA), y, norms, read, write,
            descriptor.THREE_DOUBLE if read == 8 else descriptor.THREE_SINGLE, 1, 0, 0,
            get_double(attribute(frame, EPS), 0), get_double(attribute(frame, ZERO), 0),
            pool, threads,
        )  # fmt: skip
        short_rows = get_int(pair, descriptor.XLA_SHORT_ROWS)
        if wanted & JVP:
            set_int(call, descriptor.TANGENT, data_of(frame, _ARGUMENTS, 1))
            set_int(call, descriptor.WORKER, worker)
            for slot, part in (
                (descriptor.PART_SUM, descriptor.XLA_JVP_PART_SUM),
                (descriptor.PART_SCALE, descriptor.XLA_JVP_PART_SCALE),
            ):
                set_int(call, slot, get_int(pair, part))
        elif n <= LANES and count >= LANES and short_rows != 0:
            worker, count = short_rows, (count + LANES - 1) // LANES
            set_int(call, descriptor.TILES, count)
        if HUGE and y != 0 and total * write >= HUGE_FROM:
            _advise(y + -y % PAGE, total * write - PAGE, HUGE)
        if wanted & JVP:
            call_long_rows(get_int(table, descriptor.XLA_JVP_ROWS), count, call)
        else:
            call_parallel_for(get_int(pool, descriptor.PARALLEL_FOR), worker, count, call)
        return 0

    return handle
