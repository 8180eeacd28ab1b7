"""Memory as kernels see it: loads and stores of lanes and numbers, room on the machine's stack,
prefetches, non-temporal stores, and atomic operations.

Addresses are integers. Loads and stores ask for no alignment, which costs nothing on machines of
this century.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba.compiler import primitive
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.lanes import (
    DOUBLE,
    FLOAT,
    I8,
    I32,
    I64,
    SUFFIX,
    Value,
    first_lanes,
    intrinsic,
    lanes,
    vector_of,
)

LINE = 64  # bytes of a cache line


def pointer(builder: Any, address: Value, element: Any) -> Value:
    """An address as a pointer to values of a type."""
    return builder.inttoptr(address, element.as_pointer())


def read(builder: Any, address: Value, element: Any, align: int = 1) -> Value:
    """The value of a type at an address."""
    v = builder.load(pointer(builder, address, element))
    v.align = align
    return v


def write(builder: Any, v: Value, address: Value, align: int = 1) -> Any:
    """Write a value to an address."""
    store = builder.store(v, pointer(builder, address, v.type))
    store.align = align
    return store


def write_non_temporal(builder: Any, kind: Kind, v: Value, address: Value) -> None:
    """Write a row of elements by a non-temporal store."""
    store = write(builder, v, address, boundary(kind))
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def read_some(builder: Any, address: Value, element: Any, count: Value) -> Value:
    """The first `count` lanes of a vector of elements, zeros in the others."""
    vector = vector_of(element)
    name = f"llvm.masked.load.v{LANES}{SUFFIX[element]}.p0"
    align, mask, zero = ir.Constant(I32, 1), first_lanes(builder, count), ir.Constant(vector, None)
    return intrinsic(builder, name, vector, pointer(builder, address, vector), align, mask, zero)


def write_some(builder: Any, v: Value, address: Value, count: Value) -> None:
    """Write the first `count` lanes of a vector of elements."""
    name = f"llvm.masked.store.v{LANES}{SUFFIX[v.type.element]}.p0"
    to, align = pointer(builder, address, v.type), ir.Constant(I32, 1)
    intrinsic(builder, name, ir.VoidType(), v, to, align, first_lanes(builder, count))


def loads(kind: Kind) -> tuple[Any, Any]:
    """Loads ``(address, table)`` and ``(address, count, table)``."""

    @primitive(lanes, types.intp, types.intp)
    def whole(builder: Any, address: Value, table: Value) -> Value:
        return kind.decode(builder, read(builder, address, vector_of(kind.element)), table)

    @primitive(lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, address: Value, count: Value, table: Value) -> Value:
        return kind.decode(builder, read_some(builder, address, kind.element, count), table)

    return whole, part


def stores(kind: Kind) -> tuple[Any, Any]:
    """Stores with the lanes as first argument, then as the loads."""

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        write(builder, kind.encoded(builder, v, table), address)

    @primitive(types.void, lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, v: Value, address: Value, count: Value, table: Value) -> None:
        write_some(builder, kind.encoded(builder, v, table), address, count)

    return whole, part


def boundary(kind: Kind) -> int:
    """The alignment of non-temporal stores, in bytes."""
    return min(LINE, kind.size * LANES)


def non_temporal_store(kind: Kind) -> Any:
    """A store as `stores` has it, aligned to `boundary`, which does not read memory into a cache
    before it writes. `fence` has to follow."""

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        write_non_temporal(builder, kind, kind.encoded(builder, v, table), address)

    return whole


@primitive(types.void)
def fence(builder: Any) -> None:
    """All threads see non-temporal stores before this before whatever comes after it."""
    builder.fence("seq_cst")


def _prefetch(builder: Any, address: Value, to_write: int, near: int) -> None:
    flags = (ir.Constant(I32, k) for k in (to_write, near, 1))  # 1: data
    at = pointer(builder, address, I8)
    intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), at, *flags)


@primitive(types.void, types.intp)
def prefetch_for_write(builder: Any, address: Value) -> None:
    """Prefetch the cache line of an address, to write to it."""
    _prefetch(builder, address, 1, 3)


def prefetch(count: int, rows: int = 1) -> Any:
    """A primitive: prefetch so many bytes from an address, which need not exist; or as many of each
    of `rows` rows, ``(address, stride)``. How near they come is the loader's choice; see
    `shipped.Code`."""

    def lines(builder: Any, address: Value) -> None:
        for offset in range(0, count, LINE):
            _prefetch(builder, builder.add(address, ir.Constant(I64, offset)), 0, 1)

    @primitive(types.void, types.intp)
    def one(builder: Any, address: Value) -> None:
        lines(builder, address)

    @primitive(types.void, types.intp, types.intp)
    def many(builder: Any, address: Value, stride: Value) -> None:
        for row in range(rows):
            lines(builder, builder.add(address, builder.mul(stride, ir.Constant(I64, row))))

    return one if rows == 1 else many


# Room on the machine's stack, and slots in it


def _room(element: Any, count: int) -> Any:
    """A primitive: the address of room for so many values, not zeroed. It is gone when the device
    that asks for it returns.

    Numba's own helper zeroes it at each call, which took 90 ns of a short vector's 100.
    """

    @primitive(types.intp)
    def reserve(builder: Any) -> Value:
        with builder.goto_entry_block():
            found = builder.alloca(element, size=ir.Constant(I32, count))
        return builder.ptrtoint(found, I64)

    return reserve


def stack(count: int) -> Any:
    """Room for lanes; see `_room`."""
    return _room(vector_of(DOUBLE), count)


def room(count: int) -> Any:
    """Room for int64; see `_room`."""
    return _room(I64, count)


def slot(builder: Any, address: Value, index: Any, size: int) -> Value:
    """The address of a slot of so many bytes."""
    if isinstance(index, int):
        index = ir.Constant(I64, index)
    return builder.add(address, builder.mul(index, ir.Constant(I64, size)))


@primitive(types.void, types.intp, types.intp, lanes)
def put(builder: Any, address: Value, index: Value, v: Value) -> None:
    """Keep lanes in a slot."""
    write(builder, v, slot(builder, address, index, 8 * LANES), 8)


@primitive(lanes, types.intp, types.intp)
def get(builder: Any, address: Value, index: Value) -> Value:
    """The lanes in a slot."""
    return read(builder, slot(builder, address, index, 8 * LANES), vector_of(DOUBLE), 8)


@primitive(types.void, types.intp, types.intp, types.float64)
def put_double(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write a float64."""
    write(builder, value, slot(builder, address, index, 8))


@primitive(types.float64, types.intp, types.intp)
def get_double(builder: Any, address: Value, index: Value) -> Value:
    """Read a float64."""
    return read(builder, slot(builder, address, index, 8), DOUBLE)


@primitive(types.void, types.intp, types.intp, types.intp)
def set_int(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write an int64."""
    write(builder, value, slot(builder, address, index, 8), 8)


@primitive(types.intp, types.intp, types.intp)
def get_int(builder: Any, address: Value, index: Value) -> Value:
    """Read an int64."""
    return read(builder, slot(builder, address, index, 8), I64, 8)


@primitive(types.void, types.intp, types.float64)
def put_float(builder: Any, address: Value, value: Value) -> None:
    """Write a float64 as float32."""
    write(builder, builder.fptrunc(value, FLOAT), address)


@primitive(types.void, lanes, types.intp, types.intp, types.intp)
def put_floats(builder: Any, v: Value, address: Value, count: Value, size: Value) -> None:
    """Write the first `count` lanes one after another, as float32 or, if `size` is 8, float64."""
    with builder.if_else(builder.icmp_signed("==", size, ir.Constant(I64, 8))) as (wide, narrow):
        with wide:
            write_some(builder, v, address, count)
        with narrow:
            write_some(builder, builder.fptrunc(v, vector_of(FLOAT)), address, count)


# Int64 that several threads use, in one order for all of them


def _shared(builder: Any, address: Value, index: Value) -> Value:
    return pointer(builder, slot(builder, address, index, 8), I64)


@primitive(types.intp, types.intp, types.intp)
def atomic_load(builder: Any, address: Value, index: Value) -> Value:
    """Read."""
    return builder.load_atomic(_shared(builder, address, index), "seq_cst", 8)


@primitive(types.void, types.intp, types.intp, types.intp)
def atomic_store(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write; who reads it sees all that was written before."""
    builder.store_atomic(value, _shared(builder, address, index), "seq_cst", 8)


@primitive(types.intp, types.intp, types.intp, types.intp)
def atomic_add(builder: Any, address: Value, index: Value, value: Value) -> Value:
    """Add; what there was before."""
    return builder.atomic_rmw("add", _shared(builder, address, index), value, "seq_cst")


@primitive(types.boolean, types.intp, types.intp, types.intp, types.intp)
def compare_exchange(builder: Any, address: Value, index: Value, old: Value, new: Value) -> Value:
    """Replace what is still `old`; whether it was."""
    cell = _shared(builder, address, index)
    return builder.extract_value(builder.cmpxchg(cell, old, new, "seq_cst", "seq_cst"), 1)


def move(size: int, count: int) -> Any:
    """A primitive: copy `count` elements of `size` bytes, so many bytes apart, ``(from, step, to,
    step, swap)``; the bytes of each in the other order if `swap` is not 0."""
    element = ir.IntType(8 * size)

    def copy_all(
        builder: Any, at: Value, step: Value, to: Value, step_to: Value, swapped: bool
    ) -> None:
        for _ in range(count):
            v = read(builder, at, element)
            if swapped:
                v = intrinsic(builder, f"llvm.bswap.i{8 * size}", element, v)
            write(builder, v, to)
            at, to = builder.add(at, step), builder.add(to, step_to)

    @primitive(types.void, *[types.intp] * 5)
    def copy(
        builder: Any, source: Value, step: Value, target: Value, step_to: Value, swap: Value
    ) -> None:
        if size == 1:
            copy_all(builder, source, step, target, step_to, False)
            return
        with builder.if_else(builder.icmp_signed("==", swap, ir.Constant(I64, 0))) as (same, other):
            with same:
                copy_all(builder, source, step, target, step_to, False)
            with other:
                copy_all(builder, source, step, target, step_to, True)

    return copy
