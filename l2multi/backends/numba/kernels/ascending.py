"""Ascending: whether the indices of each vector ascend, and so none comes twice; and their copy."""

from typing import Any

from llvmlite import ir
from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import cabi, descriptor, memory
from l2multi.backends.numba.compiler import device, primitive
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels import common
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.lanes import I64, Value, first_lanes, lesser, vector_of
from l2multi.backends.numba.memory import get_int, set_int


def copying(source: Kind) -> Any:
    """A function that copies so many bytes of elements, past the caches."""
    step, boundary = source.size * LANES, memory.boundary(source)
    prefetch = memory.prefetch(step)

    @primitive(types.void, types.intp, types.intp)
    def stream(builder: Any, at: Value, to: Value) -> None:
        memory.write_non_temporal(
            builder, source, memory.read(builder, at, vector_of(source.element)), to
        )

    @device
    def copy(x, y, count):
        head = lesser(-y % boundary, count)
        cabi.copy_bytes(y, x, head)
        whole = (count - head) // step * step
        for at in range(head, head + whole, step):
            prefetch(x + at + common.PREFETCH_LONG)
            stream(x + at, y + at)
        at = head + whole
        cabi.copy_bytes(y + at, x + at, count - at)
        memory.fence()

    return copy


def ascending(source: Kind, target: Kind) -> Any:
    """Indices of vectors that begin and end where a table tells, as `ragged` has it; 1 is written
    in place of norms where some do not ascend. If y is wanted, they are copied to it instead, past
    the caches."""
    element, size, step = source.element, source.size, source.size * LANES
    assert target is source

    def bits(builder: Any, flags: Value) -> Value:
        return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), I64)

    @primitive(types.intp, types.intp)
    def descents(builder: Any, at: Value) -> Value:
        """A bit for each of LANES indices whose next is not larger."""
        these, nexts = (
            memory.read(builder, builder.add(at, ir.Constant(I64, past)), vector_of(element))
            for past in (0, size)
        )
        return bits(builder, builder.icmp_signed("<=", nexts, these))

    @primitive(types.intp, types.intp, types.intp)
    def some_descents(builder: Any, at: Value, count: Value) -> Value:
        these, nexts = (
            memory.read_some(builder, builder.add(at, ir.Constant(I64, past)), element, count)
            for past in (0, size)
        )
        found = builder.icmp_signed("<=", nexts, these)
        return bits(builder, builder.and_(found, first_lanes(builder, count)))

    prefetch, copy = memory.prefetch(step), copying(source)

    @worker
    def run(first, last, call):
        x, ends, found = get_int(call, descriptor.X), get_int(call, descriptor.BATCH), 0
        y, end = get_int(call, descriptor.Y), get_int(ends, first)
        if y != 0:
            copy(x + end * size, y + end * size, (get_int(ends, last) - end) * size)
            return
        for i in range(first, last):
            at, end = x + end * size, get_int(ends, i + 1)
            pairs = x + (end - 1) * size - at  # in bytes
            while pairs > 0:
                prefetch(at + common.PREFETCH_LONG)
                if pairs >= step:
                    found |= descents(at)
                else:
                    found |= some_descents(at, pairs // size)
                at += step
                pairs -= step
        if found:
            set_int(get_int(call, descriptor.NORMS), 0, 1)

    return run
