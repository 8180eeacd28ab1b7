"""The kernels as a handler for XLA's typed foreign function interface, in CPU programs.

The layouts are those of ``xla/ffi/api/c_api.h``, which comes with jaxlib: what is read here is the
same in versions 0.1 (jaxlib 0.8.0) to 0.3 (from 0.9.1 on). XLA asks a handler for the version that
it was made for, and refuses a later one than its own.
"""

import sys
from typing import Any

from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, memory, thread_pool
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.kernels.common import fill_descriptor
from l2multi.backends.numba.lanes import I32, I64, lesser
from l2multi.backends.numba.memory import get_double, get_int, set_int
from l2multi.backends.numba.thread_pool import HELPER, call_parallel_for

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
_report = cabi.calling(types.intp(types.intp))


def handler() -> Any:
    """Rows of x, of `n` elements, to unit vectors and to norms with inverses (see `records`),
    whichever is wanted; or x and what it moves by to how unit vectors turn."""
    table_at = cabi.symbol(descriptor.XLA_TABLE)
    cores = thread_pool.cores()
    new_record, new_batch, new_error = map(memory.room, (descriptor.CALL_SIZE, 4, 4))
    message = cabi.text("l2multi: this process has not linked the kernel")

    @device
    def number(attributes, k):
        """The address of the value of an attribute."""
        return get_int(get_int(attributes, k), 1)

    @function(HELPER)
    def handle(frame):
        extension = get_int(frame, _EXTENSION)
        if extension != 0 and get_int(extension, 1) & 0xFFFFFFFF == _METADATA:
            asked, api = get_int(extension, 3), get_int(frame, _API)
            version = get_int(api, _VERSION) if api != 0 else _FIRST  # 0.1 shows no table yet
            set_int(asked, 3, version if version < _LAST else _LAST)
            set_int(asked, 4, 0)  # no traits
            return 0
        attributes, results = get_int(frame, _ATTRIBUTES), get_int(frame, _RESULTS)
        table = table_at()
        pair = table + 8 * descriptor.XLA_PAIR * get_int(number(attributes, KERNEL), 0)
        pool = get_int(table, descriptor.XLA_POOL)
        n, wanted = get_int(number(attributes, N), 0), get_int(number(attributes, RESULTS), 0)
        worker, short_rows = (
            get_int(pair, descriptor.XLA_ROWS),
            get_int(pair, descriptor.XLA_SHORT_ROWS),
        )
        if wanted & JVP:
            worker, short_rows = get_int(pair, descriptor.XLA_JVP), 0
        if worker == 0 or pool == 0:
            error = new_error()
            set_int(error, 0, 32)
            set_int(error, 1, 0)
            set_int(error, 2, message())
            set_int(error, 3, _UNAVAILABLE)
            return _report(get_int(get_int(frame, _API), _NEW_ERROR), error)
        buffer = get_int(get_int(frame, _ARGUMENTS), 0)
        total = 1
        for axis in range(get_int(buffer, _RANK)):
            total *= get_int(get_int(buffer, _SIZES), axis)
        count = total // n
        y = norms = 0
        if wanted & (UNIT | JVP):
            y = get_int(get_int(results, 0), _DATA)
        if wanted & NORM:
            norms = get_int(get_int(results, 1 if y else 0), _DATA)
        read, write = get_int(pair, descriptor.XLA_READ), get_int(pair, descriptor.XLA_WRITE)
        three = descriptor.THREE_DOUBLE if read == 8 else descriptor.THREE_SINGLE
        threads = lesser(thread_pool.paid(total), get_int(pool, descriptor.LIMIT))
        if threads > 1:
            threads = lesser(threads, cores(pool))
        eps = get_double(number(attributes, EPS), 0)
        zero_root = get_double(number(attributes, ZERO), 0)
        x, call = get_int(buffer, _DATA), new_record()
        fill_descriptor(call, x, y, norms, three, n, 1, 0, 0, eps, zero_root, total, pool, threads)
        if wanted & JVP:
            set_int(
                call, descriptor.TANGENT, get_int(get_int(get_int(frame, _ARGUMENTS), 1), _DATA)
            )
        if n <= LANES and count >= LANES and short_rows != 0:
            batch = new_batch()
            set_int(batch, 0, count)
            set_int(batch, 1, n * read)
            set_int(batch, 2, n * write)
            set_int(batch, 3, three)
            set_int(call, descriptor.BATCH, batch)
            set_int(call, descriptor.BATCH_AXES, 1)
            worker, count = short_rows, (count + LANES - 1) // LANES
            set_int(call, descriptor.TILES, count)
        if HUGE and y != 0 and total * write >= HUGE_FROM:
            _advise(y + -y % PAGE, total * write - PAGE, HUGE)
        call_parallel_for(get_int(pool, descriptor.PARALLEL_FOR), worker, count, call)
        return 0

    return handle
