"""The dtypes that kernels know: how an element becomes a float64, and a float64 an element.

Conversions of vectors of elements, in LLVM's instructions. `l2multi._summation` specifies how they
round. Knows nothing of memory, but for the tables that decode and encode one-byte floats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from l2multi._summation import LANES
from l2multi.backends.numba import machine
from l2multi.backends.numba.lanes import (
    DOUBLE,
    FLOAT,
    HALF,
    I1,
    I8,
    I16,
    I32,
    I64,
    SUFFIX,
    Value,
    any_lane,
    everywhere,
    indices,
    intrinsic,
    side_by_side,
    splatted,
    vector_of,
)

Convert = Callable[[Any, Value, Value], Value]


def machine_has(feature: str) -> bool:
    """Whether what is compiled for has a feature, by LLVM's name."""
    return machine.aimed().has(feature)


def _look_up(builder: Any, element: Any, table: Value, index: Value) -> Value:
    """Elements of a table by an integer index per lane."""
    size = int(element.width if isinstance(element, ir.IntType) else 32) // 8
    offset = builder.mul(builder.zext(index, vector_of(I64)), everywhere(I64, size))
    where = builder.add(splatted(builder, table), offset)
    pointers = builder.inttoptr(where, vector_of(element.as_pointer()))
    name = f"llvm.masked.gather.v{LANES}{SUFFIX[element]}.v{LANES}p0"
    align, mask, zero = (
        ir.Constant(I32, 1),
        everywhere(I1, 1),
        ir.Constant(vector_of(element), None),
    )
    return intrinsic(builder, name, vector_of(element), pointers, align, mask, zero)


def _odd(builder: Any, v: Value, kept: int) -> Value:
    """float64 rounded to odd at so many bits below the leading one; see `l2multi._summation`,
    Rounding. The rest of the bits are cut off, and the last of those kept is set if any was."""
    cut = 52 - kept
    bits = builder.bitcast(v, vector_of(I64))
    rest = builder.and_(bits, everywhere(I64, (1 << cut) - 1))
    sticky = builder.icmp_unsigned("!=", rest, everywhere(I64, 0))
    last = builder.select(sticky, everywhere(I64, 1 << cut), everywhere(I64, 0))
    upper = builder.and_(bits, everywhere(I64, -1 << cut))
    return builder.bitcast(builder.or_(upper, last), vector_of(DOUBLE))


def _odd_float(builder: Any, v: Value) -> Value:
    """float64 to float32, by way of float64 rounded to odd.

    At ten bits: two more than bfloat16 and float8 have, none of them is cut off where float32 is
    subnormal and half of the smallest bfloat16 is not yet reached, and float32 holds the rest
    exactly.
    """
    return builder.fptrunc(_odd(builder, v, 10), vector_of(FLOAT))


def _shift(builder: Any, bits: Value, by: int) -> Value:
    return builder.lshr(bits, everywhere(I32, by))


def _without_half() -> bool:
    """Whether the machine cannot convert float16: LLVM would call functions that no process has."""
    return machine_has("sse3") and not machine_has("f16c")


def _single_half(builder: Any, v: Value) -> Value:
    if not _without_half():
        return builder.fpext(builder.bitcast(v, vector_of(HALF)), vector_of(FLOAT))
    # The bits at their place in float32 are the value times 2**-112, exactly.
    wide = builder.zext(v, vector_of(I32))
    sign = builder.shl(builder.and_(wide, everywhere(I32, 0x8000)), everywhere(I32, 16))
    bits = builder.shl(builder.and_(wide, everywhere(I32, 0x7FFF)), everywhere(I32, 13))
    scale = everywhere(FLOAT, 2.0**112)
    finite = builder.bitcast(builder.fmul(builder.bitcast(bits, scale.type), scale), bits.type)
    other = builder.or_(bits, everywhere(I32, 0x7F800000))
    beyond = builder.icmp_unsigned(">=", bits, everywhere(I32, 0x7C00 << 13))
    return builder.bitcast(builder.or_(builder.select(beyond, other, finite), sign), scale.type)


def _half_single(builder: Any, v: Value) -> Value:
    """float32 to the bits of float16."""
    if not _without_half():
        return builder.bitcast(builder.fptrunc(v, vector_of(HALF)), vector_of(I16))
    bits = builder.bitcast(v, vector_of(I32))
    size = builder.and_(bits, everywhere(I32, 0x7FFFFFFF))
    sign = builder.and_(_shift(builder, bits, 16), everywhere(I32, 0x8000))
    # Ties go to even: half of the last place, less one where the last bit is not set.
    even = builder.and_(_shift(builder, size, 13), everywhere(I32, 1))
    rounded = builder.add(size, builder.add(even, everywhere(I32, 0xFFF - (112 << 23))))
    # Of a sum with 1/2 the last place is that of subnormal numbers.
    half = everywhere(FLOAT, 0.5)
    small = builder.bitcast(builder.fadd(builder.bitcast(size, half.type), half), size.type)
    small = builder.sub(small, everywhere(I32, 0x3F000000))

    def below(bound: int) -> Value:
        return builder.icmp_unsigned("<", size, everywhere(I32, bound))

    found = builder.select(below(0x38800000), small, _shift(builder, rounded, 13))
    found = builder.select(below(0x477FF000), found, everywhere(I32, 0x7C00))
    found = builder.select(below(0x7F800001), found, everywhere(I32, 0x7E00))
    return builder.trunc(builder.or_(found, sign), vector_of(I16))


def _single_bfloat(builder: Any, v: Value) -> Value:
    bits = builder.shl(builder.zext(v, vector_of(I32)), everywhere(I32, 16))
    return builder.bitcast(bits, vector_of(FLOAT))


def _decode_float(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(v, vector_of(DOUBLE))


def _encode_float(builder: Any, v: Value, table: Value) -> Value:
    return builder.fptrunc(v, vector_of(FLOAT))


def _decode_half(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(_single_half(builder, v), vector_of(DOUBLE))


def _encode_half(builder: Any, v: Value, table: Value) -> Value:
    return _half_single(builder, builder.fptrunc(_odd(builder, v, 22), vector_of(FLOAT)))


def _decode_bfloat(builder: Any, v: Value, table: Value) -> Value:
    """Where no register holds sixteen float32, by fours beside zeros, which are their lower halves:
    two instructions less for eight."""
    if machine_has("avx512f"):
        return builder.fpext(_single_bfloat(builder, v), vector_of(DOUBLE))
    zero, parts = ir.Constant(v.type, None), []
    for first in range(0, LANES, 4):
        beside = indices(k for i in range(first, first + 4) for k in (LANES, i))
        single = builder.bitcast(builder.shuffle_vector(v, zero, beside), ir.VectorType(FLOAT, 4))
        parts.append(builder.fpext(single, ir.VectorType(DOUBLE, 4)))
    return side_by_side(builder, parts)


def _nearest_upper_bits(builder: Any, single: Value) -> Value:
    """float32 whose upper bits are those of the nearest bfloat16, ties to even; a NaN is canonical
    by now and does not overflow."""
    bits = builder.bitcast(single, vector_of(I32))
    even = builder.and_(_shift(builder, bits, 16), everywhere(I32, 1))
    return builder.add(bits, builder.add(even, everywhere(I32, 0x7FFF)))


def _encode_bfloat(builder: Any, v: Value, table: Value) -> Value:
    bits = _nearest_upper_bits(builder, _odd_float(builder, v))
    return builder.trunc(_shift(builder, bits, 16), vector_of(I16))


def beyond(builder: Any, single: Value) -> Value:
    """Where a factor leaves the range in which a product's error is one of rounding."""
    low, high = (ir.Constant(single.type, [b] * single.type.count) for b in (2.0**-100, 2.0**100))
    below = builder.fcmp_unordered("<", single, low)
    return builder.or_(below, builder.fcmp_unordered(">", single, high))


def _nearest_half(builder: Any, p: Value) -> tuple[Value, Value]:
    """float32 rounded to float16, and where another float32 within two units would not be."""
    ends = (builder.fmul(p, everywhere(FLOAT, 1 + e)) for e in (-(2.0**-22), 2.0**-22))
    low, high = (_half_single(builder, e) for e in ends)
    return low, builder.icmp_unsigned("!=", low, high)


def _nearest_bfloat(builder: Any, p: Value) -> tuple[Value, Value]:
    """float32 rounded to bfloat16, and where it lies within two units of the middle of two."""
    bits = builder.bitcast(p, vector_of(I32))
    up = builder.add(bits, everywhere(I32, 0x8000))
    # In units above the lowest of those in doubt.
    above = builder.and_(builder.add(bits, everywhere(I32, 0x8002)), everywhere(I32, 0xFFFF))
    doubt = builder.icmp_unsigned("<=", above, everywhere(I32, 4))
    return builder.trunc(_shift(builder, up, 16), vector_of(I16)), doubt


def bfloat_products(builder: Any, v: Value, single: Value) -> tuple[Value, Value]:
    """Rows of sixteen bfloat16 times sixteen float32, as `_nearest_bfloat` has it, and whether any
    lane is in doubt.

    Two neighbours share 32 bits: what stands in the upper half is a float32 as it is, but for the
    other's bits, and so are the products put together again. Nothing is widened and narrowed, which
    took twice the instructions (Sapphire Rapids).
    """
    pairs = ir.VectorType(I32, v.type.count // 2)
    singles = ir.VectorType(FLOAT, pairs.count)

    def everywhere(value: int) -> Value:
        return ir.Constant(pairs, [value] * pairs.count)

    def lower(bits: Value) -> Value:
        return builder.lshr(bits, everywhere(16))

    def upper(bits: Value) -> Value:
        return builder.and_(bits, everywhere(0xFFFF0000))

    bits, ups = builder.bitcast(v, pairs), []
    for odd, x in enumerate((builder.shl(bits, everywhere(16)), upper(bits))):
        lanes = indices((2 * i + odd) % LANES for i in range(pairs.count))
        factor = builder.shuffle_vector(single, single, lanes)
        product = builder.bitcast(builder.fmul(builder.bitcast(x, singles), factor), pairs)
        ups.append(builder.add(product, everywhere(0x8000)))
    even, odd_ = ups
    found = builder.or_(lower(even), upper(odd_))
    rests = builder.or_(builder.and_(even, everywhere(0xFFFF)), builder.shl(odd_, everywhere(16)))
    # In units above the lowest of those in doubt; where a factor is beyond, all are.
    above = builder.add(builder.bitcast(rests, v.type), ir.Constant(v.type, [2] * v.type.count))
    most = builder.select(
        beyond(builder, single),
        ir.Constant(vector_of(I16), [0xFFFF] * LANES),
        ir.Constant(vector_of(I16), [4] * LANES),
    )
    most = builder.shuffle_vector(most, most, indices(i % LANES for i in range(v.type.count)))
    doubt = builder.icmp_unsigned("<=", above, most)
    return builder.bitcast(found, v.type), any_lane(builder, doubt)


def two_halves(builder: Any, kind: "Kind", v: Value) -> list[Value]:
    """Two rows of elements of a half type as float32. Of bfloat16 each half has every other
    element: two neighbours share 32 bits, which are a float32 but for the other's bits."""
    if kind is not KINDS["bfloat16"]:
        assert kind.single is not None
        parts = (indices(range(k, k + LANES)) for k in (0, LANES))
        return [kind.single(builder, builder.shuffle_vector(v, v, part)) for part in parts]
    bits = builder.bitcast(v, vector_of(I32))
    lower = builder.shl(bits, everywhere(I32, 16))
    upper = builder.and_(bits, everywhere(I32, 0xFFFF0000))
    return [builder.bitcast(one, vector_of(FLOAT)) for one in (lower, upper)]


def of_two_halves(builder: Any, kind: "Kind", halves: list[Value]) -> Value:
    """The inverse of `two_halves`, rounded to nearest."""
    if kind is not KINDS["bfloat16"]:
        return side_by_side(builder, [_half_single(builder, one) for one in halves])
    lower, upper = (_nearest_upper_bits(builder, one) for one in halves)
    upper = builder.and_(upper, everywhere(I32, 0xFFFF0000))
    found = builder.or_(_shift(builder, lower, 16), upper)
    return builder.bitcast(found, ir.VectorType(I16, 2 * LANES))


def _decode_byte(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(_look_up(builder, FLOAT, table, v), vector_of(DOUBLE))


def _encode_byte(builder: Any, v: Value, table: Value) -> Value:
    """By a table over the upper 16 bits, rounded to odd: two bits more than any float8 has."""
    bits = builder.bitcast(_odd_float(builder, v), vector_of(I32))
    rest = builder.and_(bits, everywhere(I32, 0xFFFF))
    sticky = builder.icmp_unsigned("!=", rest, everywhere(I32, 0))
    upper = builder.or_(_shift(builder, bits, 16), builder.zext(sticky, vector_of(I32)))
    return _look_up(builder, I8, table, upper)


def decode_signed(builder: Any, v: Value, table: Value) -> Value:
    return builder.sitofp(v, vector_of(DOUBLE))


def decode_unsigned(builder: Any, v: Value, table: Value) -> Value:
    return builder.uitofp(v, vector_of(DOUBLE))


def _decode_bool(builder: Any, v: Value, table: Value) -> Value:
    true = builder.icmp_unsigned("!=", v, everywhere(I8, 0))
    return builder.uitofp(true, vector_of(DOUBLE))


def _same(builder: Any, v: Value, table: Value) -> Value:
    return v


class Kind(NamedTuple):
    """How elements of a dtype lie in memory and become float64 lanes, and lanes elements."""

    element: Any
    size: int
    decode: Convert
    encode: Convert | None = None
    narrow: bool = False  # narrower than float64: a product in place of the quotient
    needs_rescaling: bool = False  # squares may leave the range of float64
    exact: bool = False  # squares are exact in float64
    single: Callable[..., Value] | None = None  # decode, to float32
    nearest: Callable[..., tuple[Value, Value]] | None = None  # see `arithmetic.scaling`

    @property
    def half(self) -> bool:
        """Whether elements are float16 or bfloat16."""
        return self.nearest is not None

    def encoded(self, builder: Any, v: Value, table: Value) -> Value:
        """Lanes as elements, of a kind that is written."""
        assert self.encode is not None
        return self.encode(builder, v, table)


KINDS = {
    "float64": Kind(DOUBLE, 8, _same, _same, needs_rescaling=True),
    "float32": Kind(
        FLOAT, 4, _decode_float, _encode_float, narrow=True, exact=True,
        single=lambda builder, v: v,
    ),
    "float16": Kind(
        I16, 2, _decode_half, _encode_half, narrow=True, exact=True,
        single=_single_half, nearest=_nearest_half,
    ),
    "bfloat16": Kind(
        I16, 2, _decode_bfloat, _encode_bfloat, narrow=True, exact=True,
        single=_single_bfloat, nearest=_nearest_bfloat,
    ),
    "byte": Kind(I8, 1, _decode_byte, _encode_byte, narrow=True, exact=True),
    "small": Kind(I8, 1, _decode_byte, exact=True),
    "bool": Kind(I8, 1, _decode_bool, exact=True),
}  # fmt: skip
for _size, _element in ((1, I8), (2, I16), (4, I32), (8, I64)):
    KINDS[f"int{8 * _size}"] = Kind(_element, _size, decode_signed, exact=_size < 4)
    KINDS[f"uint{8 * _size}"] = Kind(_element, _size, decode_unsigned, exact=_size < 4)
