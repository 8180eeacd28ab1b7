"""Arithmetic on elements where they lie in memory: sums of squares, in the order that
`l2multi._summation` specifies, and quotients.
"""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba.compiler import primitive
from l2multi.backends.numba.dtypes import (
    KINDS,
    Kind,
    beyond,
    bfloat_products,
    decode_signed,
    decode_unsigned,
    machine_has,
    of_two_halves,
    two_halves,
)
from l2multi.backends.numba.lanes import (
    BLOCK,
    DOUBLE,
    FLOAT,
    I16,
    I32,
    I64,
    Value,
    any_lane,
    everywhere,
    indices,
    intrinsic,
    lanes,
    side_by_side,
    vector_of,
)
from l2multi.backends.numba.memory import read, read_some, slot, write, write_non_temporal


def _sum_of_squares(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The tree over rows, of the squares of lanes.

    An exact square may be added as it is made: the fused operation rounds once, as the sum alone
    does. That is a quarter of the arithmetic of a sum less.
    """
    if len(values) == 1:
        return builder.fmul(values[0], values[0])
    if len(values) == 2 and kind.exact and machine_has("fma"):
        square = builder.fmul(values[0], values[0])
        name = f"llvm.fma.v{LANES}f64"
        return intrinsic(builder, name, square.type, values[1], values[1], square)
    half = len(values) // 2
    halves = (_sum_of_squares(builder, kind, part) for part in (values[:half], values[half:]))
    return builder.fadd(*halves)


def _sum_of_byte_squares(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The same sum of integers of a byte, which no order of additions changes."""
    signed = kind.decode is decode_signed
    extend = builder.sext if signed else builder.zext
    wide = [extend(v, vector_of(I16)) for v in values]
    sums = [builder.mul(v, v) for v in wide]
    if signed:  # the squares of 128 and 128 are 2**15
        sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    total = None
    for part in (builder.zext(v, vector_of(I32)) for v in sums):
        total = part if total is None else builder.add(total, part)
    return builder.sitofp(total, vector_of(DOUBLE))


def _decoded(builder: Any, kind: Kind, raw: Value, table: Value, scale: Value | None) -> Value:
    v = kind.decode(builder, raw, table)
    return v if scale is None else builder.fmul(v, scale)


def _sum_of_rows(
    builder: Any, kind: Kind, places: Iterable[Value], scale: Value | None, table: Value
) -> Value:
    values = [read(builder, place, vector_of(kind.element)) for place in places]
    if kind.size == 1 and kind.decode in (decode_signed, decode_unsigned) and scale is None:
        return _sum_of_byte_squares(builder, kind, values)
    return _sum_of_squares(
        builder, kind, [_decoded(builder, kind, v, table, scale) for v in values]
    )


def sum_squares(kind: Kind, scaled: bool, rows: int = BLOCK) -> Any:
    """A primitive: the sum over `rows` rows, `stride` bytes apart, of the squares of lanes times
    `scale`; ``(address, stride, scale, table)``. `scale` is ignored unless `scaled`."""

    @primitive(lanes, types.intp, types.intp, lanes, types.intp)
    def whole(builder: Any, address: Value, stride: Value, scale: Value, table: Value) -> Value:
        steps = (builder.mul(stride, ir.Constant(I64, row)) for row in range(rows))
        places = (builder.add(address, step) for step in steps)
        return _sum_of_rows(builder, kind, places, scale if scaled else None, table)

    return whole


def sum_squares_at(kind: Kind, scaled: bool) -> Any:
    """As `sum_squares`, of rows whose addresses stand in a table: ``(places, scale, table)``."""

    @primitive(lanes, types.intp, lanes, types.intp)
    def whole(builder: Any, address: Value, scale: Value, table: Value) -> Value:
        places = (read(builder, slot(builder, address, row, 8), I64, 8) for row in range(BLOCK))
        return _sum_of_rows(builder, kind, places, scale if scaled else None, table)

    return whole


def sum_squares_of_some(kind: Kind, scaled: bool, rows: int) -> Any:
    """As `sum_squares`, over the first `rows` rows, of which row k has
    ``min(count - k * fewer, most)`` elements: ``(address, stride, count, fewer, most, scale,
    table)``."""

    @primitive(lanes, *[types.intp] * 5, lanes, types.intp)
    def part(builder: Any, *arguments: Value) -> Value:
        address, stride, count, fewer, most, scale, table = arguments
        values = []
        for row in range(rows):
            k = ir.Constant(I64, row)
            where = builder.add(address, builder.mul(stride, k))
            left = builder.sub(count, builder.mul(fewer, k))
            left = builder.select(builder.icmp_signed("<", left, most), left, most)
            raw = read_some(builder, where, kind.element, left)
            values.append(_decoded(builder, kind, raw, table, scale if scaled else None))
        return _sum_of_squares(builder, kind, values)

    return part


def scaling(source: Kind, target: Kind, non_temporal: bool, rows: int = 1) -> Any:
    """A primitive: so many rows of lanes of one array divided into another, ``(from, to, divisor,
    table_x, table_y)``; of narrow kinds, multiplied by the divisor's inverse, which then is given.

    All is finite. Half types can do with a product in float32, of which the inverse and the product
    are rounded, half a unit each: within two units of what float64 gives. Where that leaves doubt
    about the result, one time in some thousand, float64 decides (bfloat16 then takes 0.45 of the
    time).
    """

    def wide(builder: Any, v: Value, divisor: Value, table_x: Value, table_y: Value) -> Value:
        product = source.narrow and target.narrow
        v = source.decode(builder, v, table_x)
        v = builder.fmul(v, divisor) if product else builder.fdiv(v, divisor)
        return target.encoded(builder, v, table_y)

    def narrow(builder: Any, v: Value, inverse: Value, table_x: Value, table_y: Value) -> Value:
        single = builder.fptrunc(inverse, vector_of(FLOAT))
        if source is target is KINDS["bfloat16"]:
            found, any_doubt = bfloat_products(builder, v, single)
        else:
            assert source.single is not None
            assert target.nearest is not None
            p = builder.fmul(source.single(builder, v), single)
            found, doubt = target.nearest(builder, p)
            any_doubt = any_lane(builder, builder.or_(doubt, beyond(builder, single)))
        before = builder.block
        with builder.if_then(any_doubt, likely=False):
            parts = [
                builder.shuffle_vector(v, v, indices(range(k, k + LANES)))
                for k in range(0, v.type.count, LANES)
            ]
            parts = [wide(builder, part, inverse, table_x, table_y) for part in parts]
            sure = side_by_side(builder, parts)
            after = builder.block
        chosen = builder.phi(sure.type)
        chosen.add_incoming(found, before)
        chosen.add_incoming(sure, after)
        return chosen

    make = narrow if source.single is not None and target.nearest is not None else wide

    @primitive(types.void, types.intp, types.intp, lanes, types.intp, types.intp)
    def whole(
        builder: Any, address: Value, to: Value, divisor: Value, table_x: Value, table_y: Value
    ) -> None:
        v = read(builder, address, ir.VectorType(source.element, rows * LANES))
        v = make(builder, v, divisor, table_x, table_y)
        if non_temporal:
            write_non_temporal(builder, target, v, to)
        else:
            write(builder, v, to)

    return whole


def tangents_of_two_rows(kind: Kind, non_temporal: bool) -> Any:
    """A primitive: ``v * back + w * factor`` of two rows of lanes of a half type in float32, ``(v,
    w, to, factor, back)``, where these two are in its range; False, and nothing is written, where
    it does not hold a number on the way."""
    rows = ir.VectorType(kind.element, 2 * LANES)
    muladd = f"llvm.fmuladd.v{LANES}f32"

    @primitive(types.boolean, types.intp, types.intp, types.intp, lanes, lanes)
    def whole(builder: Any, x: Value, d: Value, to: Value, factor: Value, back: Value) -> Value:
        singles = vector_of(FLOAT)
        factor, back = builder.fptrunc(factor, singles), builder.fptrunc(back, singles)
        values, others = (two_halves(builder, kind, read(builder, at, rows)) for at in (x, d))
        found = [
            intrinsic(builder, muladd, singles, v, back, builder.fmul(w, factor))
            for v, w in zip(values, others, strict=True)
        ]
        differences = (builder.fsub(one, one) for one in found)
        bad = (builder.fcmp_unordered("une", one, everywhere(FLOAT, 0.0)) for one in differences)
        good = builder.not_(any_lane(builder, builder.or_(*bad)))
        with builder.if_then(good, likely=True):
            v = of_two_halves(builder, kind, found)
            if non_temporal:
                write_non_temporal(builder, kind, v, to)
            else:
                write(builder, v, to)
        return good

    return whole
