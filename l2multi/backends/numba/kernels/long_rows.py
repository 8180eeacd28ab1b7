"""Long rows: vectors of neighbouring elements, one after another, each shared by all threads.

A vector is cut into parts of SPLIT elements. One worker sums parts, each into a slot of its own;
the caller joins the slots by the tree; another worker divides parts.
"""

from typing import Any

from l2multi.backends.numba import descriptor, lanes, memory
from l2multi.backends.numba.cabi import LONG_ROWS, call_parallel_for
from l2multi.backends.numba.compiler import device, function
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.kernels.rows import row_scale, row_sum
from l2multi.backends.numba.lanes import lesser, splat
from l2multi.backends.numba.memory import get, get_double, get_int, put, put_double, set_int
from l2multi.backends.numba.plan import SPLIT


def part_sum(source: Kind, target: Kind) -> Any:
    """The sums over lanes of parts of a long vector, each put into a slot."""
    *_, sum_row = row_sum(source, False)
    *_, sum_rescaled = row_sum(source, source.needs_rescaling)
    reserve, read, write = memory.stack(common.LEVELS), source.size, target.size

    @worker
    def run(first, last, call):
        stack, table = reserve(), get_int(call, descriptor.TABLE_X)
        n, factor = common.numbers_of(call), get_double(call, descriptor.FACTOR)
        ahead, _, _ = common.memory_habits(call, n, 0, read, write)
        for part in range(first, last):
            x = get_int(call, descriptor.VECTOR_X) + part * SPLIT * read
            count = lesser(SPLIT, n - part * SPLIT)
            if factor == 1.0:
                total = sum_row(x, count, splat(factor), table, stack, ahead)
            else:
                total = sum_rescaled(x, count, splat(factor), table, stack, ahead)
            put(get_int(call, descriptor.SCRATCH), part, total)

    return run


def part_scale(source: Kind, target: Kind) -> Any:
    """Parts of a long vector divided by the divisor."""
    scale, read, write = row_scale(source, target), source.size, target.size
    factor = common.quotient_factor(source.narrow and target.narrow)

    @worker
    def run(first, last, call):
        n = common.numbers_of(call)
        _, ahead, stream = common.memory_habits(call, n, 0, read, write)
        for turn in range(first, last):
            start = common.backwards(turn, n // SPLIT + 1, call) * SPLIT
            scale(
                call,
                get_int(call, descriptor.VECTOR_X) + start * read,
                get_int(call, descriptor.VECTOR_Y) + start * write,
                lesser(SPLIT, n - start),
                factor(get_double(call, descriptor.ROOT)),
                get_double(call, descriptor.SCALE_UP),
                get_double(call, descriptor.SCALE_DOWN),
                get_int(call, descriptor.PLAIN) != 0,
                ahead,
                stream,
            )
        if stream:
            memory.fence()

    return run


def long_rows() -> Any:
    """What gives these workers to the threads."""
    reserve = memory.stack(common.LEVELS)

    @device
    def join(scratch, whole):
        """The tree over parts, as `row_sum` has it over blocks."""
        stack = reserve()
        for part in range(whole):
            common.push(stack, 0, 1, part, get(scratch, part))
        return lanes.sum_lanes(common.joined(stack, 0, 1, whole, get(scratch, whole)))

    @function(LONG_ROWS)
    def run(count, call):
        parallel_for = get_int(get_int(call, descriptor.POOL), descriptor.PARALLEL_FOR)
        x, y, norms, batch, axes = common.arrays_of(call)
        scratch, whole = get_int(call, descriptor.SCRATCH), common.numbers_of(call) // SPLIT
        modes = lanes.exact_modes()  # as workers do, for the sums of parts are added here
        for i in range(count):
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, i)
            set_int(call, descriptor.VECTOR_X, at_x)
            scale_up, scale_down, total, again = 1.0, 1.0, 0.0, True
            while again:
                put_double(call, descriptor.FACTOR, scale_up * scale_down)
                call_parallel_for(parallel_for, get_int(call, descriptor.PART_SUM), whole + 1, call)
                total, again = join(scratch, whole), False
                if get_int(call, descriptor.RESCALING):
                    scale_up, scale_down, again = common.rescaled(total, scale_up, scale_down)
            root, scale_up, scale_down, plain = common.divisor_of(
                call, norm, total, scale_up, scale_down
            )
            if y:
                set_int(call, descriptor.VECTOR_Y, at_y)
                put_double(call, descriptor.ROOT, root)
                put_double(call, descriptor.SCALE_UP, scale_up)
                put_double(call, descriptor.SCALE_DOWN, scale_down)
                set_int(call, descriptor.PLAIN, 1 if plain else 0)
                call_parallel_for(
                    parallel_for, get_int(call, descriptor.PART_SCALE), whole + 1, call
                )
        lanes.restore_modes(modes)

    return run
