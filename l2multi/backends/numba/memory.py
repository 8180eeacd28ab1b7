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


def masked_load(builder: Any, kind: Kind, address: Value, count: Value) -> Value:
    vector = vector_of(kind.element)
    pointer = builder.inttoptr(address, vector.as_pointer())
    mask, zero = first_lanes(builder, count), ir.Constant(vector, None)
    name = f"llvm.masked.load.v{LANES}{SUFFIX[kind.element]}.p0"
    return intrinsic(builder, name, vector, pointer, ir.Constant(I32, 1), mask, zero)


def loads(kind: Kind) -> tuple[Any, Any]:
    """Loads ``(address, table)`` and ``(address, count, table)``."""
    vector = vector_of(kind.element)

    @primitive(lanes, types.intp, types.intp)
    def whole(builder: Any, address: Value, table: Value) -> Value:
        v = builder.load(builder.inttoptr(address, vector.as_pointer()))
        v.align = 1
        return kind.decode(builder, v, table)

    @primitive(lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, address: Value, count: Value, table: Value) -> Value:
        return kind.decode(builder, masked_load(builder, kind, address, count), table)

    return whole, part


def stores(kind: Kind) -> tuple[Any, Any]:
    """Stores with the lanes as first argument, then as the loads."""
    vector = vector_of(kind.element)
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        pointer = builder.inttoptr(address, vector.as_pointer())
        builder.store(encode(builder, v, table), pointer).align = 1

    @primitive(types.void, lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, v: Value, address: Value, count: Value, table: Value) -> None:
        pointer = builder.inttoptr(address, vector.as_pointer())
        name = f"llvm.masked.store.v{LANES}{SUFFIX[kind.element]}.p0"
        v, align = encode(builder, v, table), ir.Constant(I32, 1)
        intrinsic(builder, name, ir.VoidType(), v, pointer, align, first_lanes(builder, count))

    return whole, part


def boundary(kind: Kind) -> int:
    """The alignment of `non_temporal_store` stores, in bytes."""
    return min(LINE, kind.size * LANES)


def write_non_temporal(builder: Any, kind: Kind, v: Value, address: Value) -> None:
    store = builder.store(v, builder.inttoptr(address, v.type.as_pointer()))
    store.align = boundary(kind)
    once = builder.module.add_metadata([ir.Constant(I32, 1)])
    store.set_metadata("nontemporal", once)


def non_temporal_store(kind: Kind) -> Any:
    """A store as `stores` has it, aligned to `boundary`, that goes past the caches: memory is not
    read before it is written. `fence` has to follow."""
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        write_non_temporal(builder, kind, encode(builder, v, table), address)

    return whole


@primitive(types.void)
def fence(builder: Any) -> None:
    """Streaming stores before this are atomic_load before whatever comes after it."""
    builder.fence("seq_cst")


@primitive(types.void, types.intp)
def prefetch_for_write(builder: Any, address: Value) -> None:
    """Ask memory for the cache line of an address, to write to it."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    flags = (ir.Constant(I32, k) for k in (1, 3, 1))  # to write, keep close, data
    intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)


def prefetch(count: int, rows: int = 1) -> Any:
    """A primitive: ask memory for so many bytes from an address, which need not exist; or for as
    many of each of `rows` rows, ``(address, stride)``. How near they come is the loader's choice;
    see `shipped.Code`."""

    def lines(builder: Any, address: Value) -> None:
        for offset in range(0, count, LINE):
            where = builder.add(address, ir.Constant(I64, offset))
            pointer = builder.inttoptr(where, I8.as_pointer())
            flags = (ir.Constant(I32, k) for k in (0, 1, 1))  # to read, keep farther away, data
            intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)

    @primitive(types.void, types.intp)
    def one(builder: Any, address: Value) -> None:
        lines(builder, address)

    @primitive(types.void, types.intp, types.intp)
    def many(builder: Any, address: Value, stride: Value) -> None:
        for row in range(rows):
            lines(builder, builder.add(address, builder.mul(stride, ir.Constant(I64, row))))

    return one if rows == 1 else many


@primitive(types.void, lanes, types.intp, types.intp, types.intp)
def put_floats(builder: Any, v: Value, address: Value, count: Value, size: Value) -> None:
    """Write the first `count` lanes one after another, as float32 or, if `size` is 8, float64."""
    mask, align = first_lanes(builder, count), ir.Constant(I32, 1)
    with builder.if_else(builder.icmp_signed("==", size, ir.Constant(I64, 8))) as (wide, narrow):
        with wide:
            pointer = builder.inttoptr(address, v.type.as_pointer())
            name = f"llvm.masked.store.v{LANES}f64.p0"
            intrinsic(builder, name, ir.VoidType(), v, pointer, align, mask)
        with narrow:
            single = builder.fptrunc(v, vector_of(FLOAT))
            pointer = builder.inttoptr(address, single.type.as_pointer())
            name = f"llvm.masked.store.v{LANES}f32.p0"
            intrinsic(builder, name, ir.VoidType(), single, pointer, align, mask)


def stack(count: int) -> Any:
    """A primitive: the address of room for `count` lanes on the machine's stack, not zeroed.

    Numba's own helper zeroes it at each call, which took 90 ns of a short vector's 100.
    """

    @primitive(types.intp)
    def reserve(builder: Any) -> Value:
        with builder.goto_entry_block():
            room = builder.alloca(vector_of(DOUBLE), size=ir.Constant(I32, count))
        return builder.ptrtoint(room, I64)

    return reserve


def room(slots: int) -> Any:
    """A primitive: the address of room for so many int64 on the machine's stack, not zeroed."""

    @primitive(types.intp)
    def reserve(builder: Any) -> Value:
        with builder.goto_entry_block():
            found = builder.alloca(I64, size=ir.Constant(I32, slots))
        return builder.ptrtoint(found, I64)

    return reserve


def slot_pointer(builder: Any, address: Value, index: Value, kind: Any, size: int) -> Value:
    offset = builder.mul(index, ir.Constant(I64, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


@primitive(types.void, types.intp, types.intp, lanes)
def put(builder: Any, address: Value, index: Value, v: Value) -> None:
    """Keep lanes in a slot of a stack."""
    builder.store(v, slot_pointer(builder, address, index, vector_of(DOUBLE), 8 * LANES)).align = 8


@primitive(lanes, types.intp, types.intp)
def get(builder: Any, address: Value, index: Value) -> Value:
    """The lanes in a slot of a stack."""
    v = builder.load(slot_pointer(builder, address, index, vector_of(DOUBLE), 8 * LANES))
    v.align = 8
    return v


def lanes_in_slots(builder: Any, stack: Value, count: int) -> list[Value]:
    found = []
    for k in range(count):
        slot = builder.add(stack, ir.Constant(I64, 8 * LANES * k))
        v = builder.load(builder.inttoptr(slot, vector_of(DOUBLE).as_pointer()))
        v.align = 8
        found.append(v)
    return found


@primitive(types.void, types.intp, types.intp, types.float64)
def put_double(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write a float64."""
    builder.store(value, slot_pointer(builder, address, index, DOUBLE, 8)).align = 1


@primitive(types.float64, types.intp, types.intp)
def get_double(builder: Any, address: Value, index: Value) -> Value:
    """Read a float64."""
    v = builder.load(slot_pointer(builder, address, index, DOUBLE, 8))
    v.align = 1
    return v


@primitive(types.void, types.intp, types.float64)
def put_float(builder: Any, address: Value, value: Value) -> None:
    """Write a float64 as float32."""
    pointer = builder.inttoptr(address, FLOAT.as_pointer())
    builder.store(builder.fptrunc(value, FLOAT), pointer).align = 1


@primitive(types.intp, types.intp, types.intp)
def get_int(builder: Any, address: Value, index: Value) -> Value:
    """Read an int64."""
    return builder.load(slot_pointer(builder, address, index, I64, 8))


@primitive(types.void, types.intp, types.intp, types.intp)
def set_int(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write an int64."""
    builder.store(value, slot_pointer(builder, address, index, I64, 8))


def _atomic_cell(builder: Any, address: Value, index: Value) -> Value:
    return slot_pointer(builder, address, index, I64, 8)


@primitive(types.intp, types.intp, types.intp)
def atomic_load(builder: Any, address: Value, index: Value) -> Value:
    """Read an int64 that other threads write, in one order for all."""
    return builder.load_atomic(_atomic_cell(builder, address, index), "seq_cst", 8)


@primitive(types.void, types.intp, types.intp, types.intp)
def atomic_store(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write an int64 that other threads read, and with it all written before."""
    builder.store_atomic(value, _atomic_cell(builder, address, index), "seq_cst", 8)


@primitive(types.intp, types.intp, types.intp, types.intp)
def atomic_add(builder: Any, address: Value, index: Value, value: Value) -> Value:
    """Add to an int64 that other threads atomic_add too."""
    return builder.atomic_rmw("add", _atomic_cell(builder, address, index), value, "seq_cst")


@primitive(types.boolean, types.intp, types.intp, types.intp, types.intp)
def compare_exchange(builder: Any, address: Value, index: Value, old: Value, new: Value) -> Value:
    """Replace an int64 if it is still `old`; whether it was."""
    cell = _atomic_cell(builder, address, index)
    return builder.extract_value(builder.cmpxchg(cell, old, new, "seq_cst", "seq_cst"), 1)


def move(size: int, count: int) -> Any:
    """A primitive: copy `count` elements of `size` bytes, so many bytes apart, ``(from, step, to,
    step, compare_exchange)``; the bytes of each in the other order if `compare_exchange` is not 0."""
    element = ir.IntType(8 * size)

    def copy_all(
        builder: Any, at: Value, step: Value, to: Value, step_to: Value, turn: bool
    ) -> None:
        for _ in range(count):
            v = builder.load(builder.inttoptr(at, element.as_pointer()))
            v.align = 1
            if turn:
                v = intrinsic(builder, f"llvm.bswap.i{8 * size}", element, v)
            builder.store(v, builder.inttoptr(to, element.as_pointer())).align = 1
            at, to = builder.add(at, step), builder.add(to, step_to)

    @primitive(types.void, *[types.intp] * 5)
    def copy(
        builder: Any,
        source: Value,
        step: Value,
        target: Value,
        step_to: Value,
        compare_exchange: Value,
    ) -> None:
        if size == 1:
            copy_all(builder, source, step, target, step_to, False)
            return
        with builder.if_else(builder.icmp_signed("==", compare_exchange, ir.Constant(I64, 0))) as (
            same,
            other,
        ):
            with same:
                copy_all(builder, source, step, target, step_to, False)
            with other:
                copy_all(builder, source, step, target, step_to, True)

    return copy
