"""Sixteen float64 lanes as one value: the type, the arithmetic, and the floating-point modes.

A vector type of LLVM's own is used instead of a loop that the vectorizer may or may not recognise:
the machine code is wide at every optimization level, and the order of the additions is the one
written down. LLVM cuts the sixteen lanes into registers of what width the machine has. Knows
nothing of dtypes and of memory.
"""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import models, register_model

from l2multi._summation import LANES
from l2multi.backends.numba.compiler import primitive

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


Value = Any  # llvmlite is not typed


BLOCK = 8  # rows summed in registers at a time


def vector_of(element: Any) -> Any:
    return ir.VectorType(element, LANES)


class _Vector(types.Type):
    """A Numba type whose values are one LLVM vector of LANES elements."""

    def __init__(self, name: str, element: Any) -> None:
        self.element = element
        super().__init__(name=name)


lanes = _Vector("l2multi.lanes", DOUBLE)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: _Vector) -> None:
        super().__init__(manager, fe_type, vector_of(fe_type.element))  # type: ignore[no-untyped-call]


def constant(element: Any, values: Any) -> Value:
    return ir.Constant(vector_of(element), list(values))


def everywhere(element: Any, value: float) -> Value:
    """The same number in all lanes."""
    return constant(element, [value] * LANES)


def splatted(builder: Any, value: Value) -> Value:
    undefined = ir.Constant(vector_of(value.type), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, everywhere(I32, 0))


def intrinsic(builder: Any, name: str, result: Any, *arguments: Value) -> Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, kind, name
    )
    return builder.call(function, arguments)


def first_lanes(builder: Any, count: Value) -> Value:
    """The first `count` lanes."""
    return builder.icmp_signed(">", splatted(builder, count), constant(I64, range(LANES)))


SUFFIX = {I8: "i8", I16: "i16", I32: "i32", I64: "i64", FLOAT: "f32", DOUBLE: "f64"}


def indices(indices: Iterable[int]) -> Value:
    every = list(indices)
    return ir.Constant(ir.VectorType(I32, len(every)), every)


def side_by_side(builder: Any, parts: list[Value]) -> Value:
    """Vectors of one type, two to the power of something of them, as one."""
    while len(parts) > 1:
        every = indices(range(2 * parts[0].type.count))
        parts = [
            builder.shuffle_vector(a, b, every)
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def any_lane(builder: Any, lanes: Value) -> Value:
    """Whether any of a vector of bits is set."""
    mask = builder.bitcast(lanes, ir.IntType(lanes.type.count))
    return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))


def _binary(instruction: str) -> Any:
    """A primitive of two values. LLVM fuses no product into a sum, for neither carries a fast-math
    flag."""

    @primitive(lanes, lanes, lanes)
    def operation(builder: Any, a: Value, b: Value) -> Value:
        return getattr(builder, instruction)(a, b)

    return operation


add, mul, div = map(_binary, ("fadd", "fmul", "fdiv"))


@primitive(lanes, lanes, lanes, lanes)
def muladd(builder: Any, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once where the machine can: not for what has its bits specified."""
    return intrinsic(builder, f"llvm.fmuladd.v{LANES}f64", a.type, a, b, c)


@primitive(types.float64, types.float64)
def root(builder: Any, value: Value) -> Value:
    """The square root, as an instruction: C's function is not found in every process. Of a NaN it
    is the canonical one; by a test of the value, for LLVM leaves out one of the root."""
    found = intrinsic(builder, "llvm.sqrt.f64", DOUBLE, value)
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.select(nan, ir.Constant(DOUBLE, float("nan")), found)


@primitive(lanes, lanes)
def roots(builder: Any, v: Value) -> Value:
    """The square roots."""
    return intrinsic(builder, f"llvm.sqrt.v{LANES}f64", v.type, v)


def _where(comparison: str) -> Any:
    """A primitive: lanes of one where lanes compare so with a bound, which no NaN does, and of
    another elsewhere; ``(v, bound, yes, no)``."""

    @primitive(lanes, lanes, types.float64, lanes, lanes)
    def chosen(builder: Any, v: Value, bound: Value, yes: Value, no: Value) -> Value:
        found = builder.fcmp_ordered(comparison, v, splatted(builder, bound))
        return builder.select(found, yes, no)

    return chosen


where_below, where_at_most, where_equal = map(_where, ("<", "<=", "=="))


@primitive(types.boolean, lanes, types.float64, types.intp)
def all_above(builder: Any, v: Value, bound: Value, count: Value) -> Value:
    """Whether the first `count` lanes are all greater than `bound`, and less than inf."""
    inf = everywhere(DOUBLE, float("inf"))
    above = builder.fcmp_ordered(">", v, splatted(builder, bound))
    good = builder.and_(above, builder.fcmp_ordered("<", v, inf))
    bad = builder.and_(builder.not_(good), first_lanes(builder, count))
    bits = builder.bitcast(bad, ir.IntType(LANES))
    return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))


@primitive(lanes, types.float64)
def splat(builder: Any, value: Value) -> Value:
    """The same number in all lanes."""
    return splatted(builder, value)


@primitive(lanes, lanes)
def canonical(builder: Any, v: Value) -> Value:
    """The same lanes, each NaN the canonical quiet one."""
    nan = everywhere(DOUBLE, float("nan"))
    return builder.select(builder.fcmp_unordered("uno", v, v), nan, v)


@primitive(types.float64, lanes)
def sum_lanes(builder: Any, v: Value) -> Value:
    """The tree over lanes: the upper half to the lower half, until one is left."""
    half = LANES // 2
    while half:
        lower, upper = (indices(range(k * half, (k + 1) * half)) for k in (0, 1))
        v = builder.fadd(builder.shuffle_vector(v, v, lower), builder.shuffle_vector(v, v, upper))
        half //= 2
    return builder.extract_element(v, ir.Constant(I32, 0))


@primitive(types.intp, types.float64)
def bits(builder: Any, value: Value) -> Value:
    """The bits of a float64."""
    return builder.bitcast(value, I64)


@primitive(types.float64, types.intp)
def power(builder: Any, exponent: Value) -> Value:
    """A power of two, of an exponent from -1022 to 1023."""
    field = builder.add(exponent, ir.Constant(I64, 1023))
    return builder.bitcast(builder.shl(field, ir.Constant(I64, 52)), DOUBLE)


@primitive(types.intp, types.intp, types.intp)
def lesser(builder: Any, a: Value, b: Value) -> Value:
    """The lesser of two integers; `min`, which Numba would compile as a function like others."""
    return builder.select(builder.icmp_signed("<", b, a), b, a)


@primitive(types.intp, types.intp, types.intp)
def greater(builder: Any, a: Value, b: Value) -> Value:
    """The greater of two integers."""
    return builder.select(builder.icmp_signed(">", b, a), b, a)


def _register(builder: Any) -> tuple[str, str, Any, int, int] | None:
    """Of the machine's register of floating-point modes: what reads and what writes it, its type,
    its bits but for those that say what has happened, and these bits in the modes that a process
    begins with. None where it is not known."""
    machine = builder.module.triple.split("-")[0]
    if machine in ("x86_64", "i686"):
        return "llvm.x86.sse.stmxcsr", "llvm.x86.sse.ldmxcsr", I32, 0xFFC0, 0x1F80
    if machine in ("aarch64", "arm64"):
        return "llvm.aarch64.get.fpcr", "llvm.aarch64.set.fpcr", I64, -1, 0
    return None


def _read_modes(builder: Any, name: str, kind: Any) -> Value:
    if kind is I64:
        return intrinsic(builder, name, kind)
    with builder.goto_entry_block():
        cell = builder.alloca(kind)
    intrinsic(builder, name, ir.VoidType(), builder.bitcast(cell, I8.as_pointer()))
    return builder.load(cell)


def _write_modes(builder: Any, name: str, value: Value) -> None:
    if value.type is not I64:
        with builder.goto_entry_block():
            cell = builder.alloca(value.type)
        builder.store(value, cell)
        value = builder.bitcast(cell, I8.as_pointer())
    intrinsic(builder, name, ir.VoidType(), value)


@primitive(types.intp)
def exact_modes(builder: Any) -> Value:
    """Compute with subnormal numbers and round to nearest, whatever another library has set; what
    `restore_modes` needs. To read the modes takes 6 ns (Zen), which disappears in a call; to write
    them twice, which is seldom needed, takes 3 to 10 more.

    LLVM takes no notice of modes, but moves no arithmetic from behind a branch to before it: there
    is a branch about each of the two writes.
    """
    register = _register(builder)
    if register is None:
        return ir.Constant(I64, 0)
    read, write, kind, mask, usual = register
    before = _read_modes(builder, read, kind)
    modes = builder.and_(before, ir.Constant(kind, mask))
    other = builder.icmp_unsigned("!=", modes, ir.Constant(kind, usual))
    with builder.if_then(other, likely=False):
        _write_modes(builder, write, ir.Constant(kind, usual))
    known = before if kind is I64 else builder.zext(before, I64)
    return builder.select(other, known, ir.Constant(I64, usual))


@primitive(types.void, types.intp)
def restore_modes(builder: Any, before: Value) -> None:
    """Compute as before `exact_modes`."""
    register = _register(builder)
    if register is None:
        return
    _, write, kind, _, usual = register
    other = builder.icmp_unsigned("!=", before, ir.Constant(I64, usual))
    with builder.if_then(other, likely=False):
        _write_modes(builder, write, before if kind is I64 else builder.trunc(before, kind))
