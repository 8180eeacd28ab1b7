"""The few LLVM primitives the kernels are written in: sixteen float64 lanes as one value.

A vector type of LLVM's own is used instead of a loop that the vectorizer may or may not
recognise: the machine code is wide at every optimization level, and the order of the additions is
the one written down. LLVM cuts the sixteen lanes into registers of what width the machine has.
Loads and stores ask for no alignment, which costs nothing on machines of this century.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import models, register_model

from l2multi._summation import LANES
from l2multi.backends.numba import machine
from l2multi.backends.numba.frontend import primitive

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()

Value = Any  # llvmlite is not typed
Convert = Callable[[Any, Value, Value], Value]


BLOCK = 8  # rows summed in registers at a time
LINE = 64  # bytes of a cache line


def _vector(element: Any) -> Any:
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
        super().__init__(manager, fe_type, _vector(fe_type.element))  # type: ignore[no-untyped-call]


def _constant(element: Any, values: Any) -> Value:
    return ir.Constant(_vector(element), list(values))


_IOTA = range(LANES)


def _splat(builder: Any, value: Value) -> Value:
    undefined = ir.Constant(_vector(value.type), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, _constant(I32, [0] * LANES))


def _call(builder: Any, name: str, result: Any, *arguments: Value) -> Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, kind, name
    )
    return builder.call(function, arguments)


def _mask(builder: Any, count: Value) -> Value:
    """The first `count` lanes."""
    return builder.icmp_signed(">", _splat(builder, count), _constant(I64, _IOTA))


_SUFFIX = {I8: "i8", I16: "i16", I32: "i32", I64: "i64", FLOAT: "f32", DOUBLE: "f64"}


def _gather(builder: Any, element: Any, where: Value, mask: Value) -> Value:
    pointers = builder.inttoptr(where, _vector(element.as_pointer()))
    name = f"llvm.masked.gather.v{LANES}{_SUFFIX[element]}.v{LANES}p0"
    zero = ir.Constant(_vector(element), None)
    return _call(builder, name, _vector(element), pointers, ir.Constant(I32, 1), mask, zero)


def _table(builder: Any, element: Any, table: Value, index: Value) -> Value:
    """Elements of a table by an integer index per lane."""
    size = int(element.width if isinstance(element, ir.IntType) else 32) // 8
    offset = builder.mul(builder.zext(index, _vector(I64)), _constant(I64, [size] * LANES))
    where = builder.add(_splat(builder, table), offset)
    return _gather(builder, element, where, _constant(I1, [1] * LANES))


def _odd(builder: Any, v: Value, kept: int) -> Value:
    """float64 rounded to odd at so many bits below the leading one; see `l2multi._summation`,
    Rounding. The rest of the bits are cut off, and the last of those kept is set if any was."""
    cut = 52 - kept
    bits = builder.bitcast(v, _vector(I64))
    rest = builder.and_(bits, _constant(I64, [(1 << cut) - 1] * LANES))
    sticky = builder.icmp_unsigned("!=", rest, _constant(I64, [0] * LANES))
    last = builder.select(sticky, _constant(I64, [1 << cut] * LANES), _constant(I64, [0] * LANES))
    upper = builder.and_(bits, _constant(I64, [-1 << cut] * LANES))
    return builder.bitcast(builder.or_(upper, last), _vector(DOUBLE))


def _odd_float(builder: Any, v: Value) -> Value:
    """float64 to float32, by way of float64 rounded to odd.

    At ten bits: two more than bfloat16 and float8 have, none of them is cut off where float32 is
    subnormal and half of the smallest bfloat16 is not yet reached, and float32 holds the rest
    exactly.
    """
    return builder.fptrunc(_odd(builder, v, 10), _vector(FLOAT))


def _shift(builder: Any, bits: Value, by: int) -> Value:
    return builder.lshr(bits, _constant(I32, [by] * LANES))


def _without_half() -> bool:
    """Whether the machine cannot convert float16: LLVM would call functions that no process has."""
    return _machine_has("sse3") and not _machine_has("f16c")


def _single_half(builder: Any, v: Value) -> Value:
    if not _without_half():
        return builder.fpext(builder.bitcast(v, _vector(HALF)), _vector(FLOAT))
    # The bits at their place in float32 are the value times 2**-112, exactly.
    wide = builder.zext(v, _vector(I32))
    sign = builder.shl(
        builder.and_(wide, _constant(I32, [0x8000] * LANES)), _constant(I32, [16] * LANES)
    )
    bits = builder.shl(
        builder.and_(wide, _constant(I32, [0x7FFF] * LANES)), _constant(I32, [13] * LANES)
    )
    scale = _constant(FLOAT, [2.0**112] * LANES)
    finite = builder.bitcast(builder.fmul(builder.bitcast(bits, scale.type), scale), bits.type)
    other = builder.or_(bits, _constant(I32, [0x7F800000] * LANES))
    beyond = builder.icmp_unsigned(">=", bits, _constant(I32, [0x7C00 << 13] * LANES))
    return builder.bitcast(builder.or_(builder.select(beyond, other, finite), sign), scale.type)


def _half_single(builder: Any, v: Value) -> Value:
    """float32 to the bits of float16."""
    if not _without_half():
        return builder.bitcast(builder.fptrunc(v, _vector(HALF)), _vector(I16))
    bits = builder.bitcast(v, _vector(I32))
    size = builder.and_(bits, _constant(I32, [0x7FFFFFFF] * LANES))
    sign = builder.and_(_shift(builder, bits, 16), _constant(I32, [0x8000] * LANES))
    # Ties go to even: half of the last place, less one where the last bit is not set.
    even = builder.and_(_shift(builder, size, 13), _constant(I32, [1] * LANES))
    rounded = builder.add(size, builder.add(even, _constant(I32, [0xFFF - (112 << 23)] * LANES)))
    # Of a sum with 1/2 the last place is that of subnormal numbers.
    half = _constant(FLOAT, [0.5] * LANES)
    small = builder.bitcast(builder.fadd(builder.bitcast(size, half.type), half), size.type)
    small = builder.sub(small, _constant(I32, [0x3F000000] * LANES))

    def below(bound: int) -> Value:
        return builder.icmp_unsigned("<", size, _constant(I32, [bound] * LANES))

    found = builder.select(below(0x38800000), small, _shift(builder, rounded, 13))
    found = builder.select(below(0x477FF000), found, _constant(I32, [0x7C00] * LANES))
    found = builder.select(below(0x7F800001), found, _constant(I32, [0x7E00] * LANES))
    return builder.trunc(builder.or_(found, sign), _vector(I16))


def _single_bfloat(builder: Any, v: Value) -> Value:
    bits = builder.shl(builder.zext(v, _vector(I32)), _constant(I32, [16] * LANES))
    return builder.bitcast(bits, _vector(FLOAT))


def _decode_float(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(v, _vector(DOUBLE))


def _encode_float(builder: Any, v: Value, table: Value) -> Value:
    return builder.fptrunc(v, _vector(FLOAT))


def _decode_half(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(_single_half(builder, v), _vector(DOUBLE))


def _encode_half(builder: Any, v: Value, table: Value) -> Value:
    return _half_single(builder, builder.fptrunc(_odd(builder, v, 22), _vector(FLOAT)))


def _decode_bfloat(builder: Any, v: Value, table: Value) -> Value:
    """Where no register holds sixteen float32, by fours beside zeros, which are their lower halves:
    two instructions less for eight."""
    if _machine_has("avx512f"):
        return builder.fpext(_single_bfloat(builder, v), _vector(DOUBLE))
    zero, parts = ir.Constant(v.type, None), []
    for first in range(0, LANES, 4):
        beside = _constant_indices(k for i in range(first, first + 4) for k in (LANES, i))
        single = builder.bitcast(builder.shuffle_vector(v, zero, beside), ir.VectorType(FLOAT, 4))
        parts.append(builder.fpext(single, ir.VectorType(DOUBLE, 4)))
    return _side_by_side(builder, parts)


def _side_by_side(builder: Any, parts: list[Value]) -> Value:
    """Vectors of one type, two to the power of something of them, as one."""
    while len(parts) > 1:
        every = _constant_indices(range(2 * parts[0].type.count))
        parts = [
            builder.shuffle_vector(a, b, every)
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _encode_bfloat(builder: Any, v: Value, table: Value) -> Value:
    """To nearest, ties to even; a NaN is canonical by now and does not overflow."""
    bits = builder.bitcast(_odd_float(builder, v), _vector(I32))
    even = builder.and_(_shift(builder, bits, 16), _constant(I32, [1] * LANES))
    bits = builder.add(bits, builder.add(even, _constant(I32, [0x7FFF] * LANES)))
    return builder.trunc(_shift(builder, bits, 16), _vector(I16))


def _any(builder: Any, lanes: Value) -> Value:
    """Whether any of a vector of bits is set."""
    mask = builder.bitcast(lanes, ir.IntType(lanes.type.count))
    return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))


def _beyond(builder: Any, single: Value) -> Value:
    """Where a factor leaves the range in which a product's error is one of rounding."""
    low, high = (ir.Constant(single.type, [b] * single.type.count) for b in (2.0**-100, 2.0**100))
    below = builder.fcmp_unordered("<", single, low)
    return builder.or_(below, builder.fcmp_unordered(">", single, high))


def _nearest_half(builder: Any, p: Value) -> tuple[Value, Value]:
    """float32 rounded to float16, and where another float32 within two units would not be."""
    ends = (builder.fmul(p, _constant(FLOAT, [1 + e] * LANES)) for e in (-(2.0**-22), 2.0**-22))
    low, high = (_half_single(builder, e) for e in ends)
    return low, builder.icmp_unsigned("!=", low, high)


def _doubtful(builder: Any, bits: Value) -> Value:
    """How far above the lowest that is within two units of the middle of two bfloat16 a float32 is,
    in units: less than 5 where it is."""
    count = bits.type.count
    rest = builder.add(bits, ir.Constant(bits.type, [0x8002] * count))
    return builder.and_(rest, ir.Constant(bits.type, [0xFFFF] * count))


def _nearest_bfloat(builder: Any, p: Value) -> tuple[Value, Value]:
    """float32 rounded to bfloat16, and where it lies within two units of the middle of two."""
    bits = builder.bitcast(p, _vector(I32))
    up = builder.add(bits, _constant(I32, [0x8000] * LANES))
    doubt = builder.icmp_unsigned("<", _doubtful(builder, bits), _constant(I32, [5] * LANES))
    return builder.trunc(_shift(builder, up, 16), _vector(I16)), doubt


def _bfloat_by_eights(builder: Any, v: Value, single: Value) -> tuple[Value, Value]:
    """bfloat16 times float32 as `_nearest_bfloat` has it, and whether any lane is in doubt, where
    no register holds sixteen float32: what lies beside zeros need not cross the register's halves
    there and back, which with a shift for each took 1.4 times as long (Zen 3)."""
    eight, zero = ir.VectorType(I32, 8), ir.Constant(v.type, None)
    words, rests = [], []
    for first in (0, 4):
        order = [half + first + i for half in (0, 8) for i in range(4)]
        beside = _constant_indices(k for i in order for k in (LANES, i))
        x = builder.bitcast(builder.shuffle_vector(v, zero, beside), ir.VectorType(FLOAT, 8))
        factor = builder.shuffle_vector(single, single, _constant_indices(order))
        bits = builder.bitcast(builder.fmul(x, factor), eight)
        up = builder.add(bits, ir.Constant(eight, [0x8000] * 8))
        words.append(builder.bitcast(builder.lshr(up, ir.Constant(eight, [16] * 8)), v.type))
        none = ir.Constant(eight, None)
        rests.append(builder.select(_beyond(builder, factor), none, _doubtful(builder, bits)))
    rest = builder.select(builder.icmp_unsigned("<", *rests), *rests)
    doubt = builder.icmp_unsigned("<", rest, ir.Constant(eight, [5] * 8))
    order = [word + half + 2 * i for half in (0, 8) for word in (0, LANES) for i in range(4)]
    found = builder.shuffle_vector(*words, _constant_indices(order))
    return found, _any(builder, doubt)


def _decode_byte(builder: Any, v: Value, table: Value) -> Value:
    return builder.fpext(_table(builder, FLOAT, table, v), _vector(DOUBLE))


def _encode_byte(builder: Any, v: Value, table: Value) -> Value:
    """By a table over the upper 16 bits, rounded to odd: two bits more than any float8 has."""
    bits = builder.bitcast(_odd_float(builder, v), _vector(I32))
    rest = builder.and_(bits, _constant(I32, [0xFFFF] * LANES))
    sticky = builder.icmp_unsigned("!=", rest, _constant(I32, [0] * LANES))
    upper = builder.or_(_shift(builder, bits, 16), builder.zext(sticky, _vector(I32)))
    return _table(builder, I8, table, upper)


def _decode_signed(builder: Any, v: Value, table: Value) -> Value:
    return builder.sitofp(v, _vector(DOUBLE))


def _decode_unsigned(builder: Any, v: Value, table: Value) -> Value:
    return builder.uitofp(v, _vector(DOUBLE))


def _decode_bool(builder: Any, v: Value, table: Value) -> Value:
    true = builder.icmp_unsigned("!=", v, _constant(I8, [0] * LANES))
    return builder.uitofp(true, _vector(DOUBLE))


def _same(builder: Any, v: Value, table: Value) -> Value:
    return v


class Kind(NamedTuple):
    """How elements of a dtype lie in memory and become float64 lanes, and lanes elements."""

    element: Any
    size: int
    decode: Convert
    encode: Convert | None = None
    narrow: bool = False  # narrower than float64: no rescue; a product in place of the quotient
    risky: bool = False  # squares may leave the range of float64
    exact: bool = False  # squares are exact in float64
    single: Callable[..., Value] | None = None  # decode, to float32
    nearest: Callable[..., tuple[Value, Value]] | None = None  # see `scaling`


def _kinds() -> dict[str, Kind]:
    kinds = {
        "float64": Kind(DOUBLE, 8, _same, _same, risky=True),
        "float32": Kind(
            FLOAT,
            4,
            _decode_float,
            _encode_float,
            narrow=True,
            exact=True,
            single=lambda builder, v: v,
        ),
        "float16": Kind(
            I16,
            2,
            _decode_half,
            _encode_half,
            narrow=True,
            exact=True,
            single=_single_half,
            nearest=_nearest_half,
        ),
        "bfloat16": Kind(
            I16,
            2,
            _decode_bfloat,
            _encode_bfloat,
            narrow=True,
            exact=True,
            single=_single_bfloat,
            nearest=_nearest_bfloat,
        ),
        "byte": Kind(I8, 1, _decode_byte, _encode_byte, narrow=True, exact=True),
        "small": Kind(I8, 1, _decode_byte, exact=True),
        "bool": Kind(I8, 1, _decode_bool, exact=True),
    }
    for size, element in ((1, I8), (2, I16), (4, I32), (8, I64)):
        kinds[f"int{8 * size}"] = Kind(element, size, _decode_signed, exact=size < 4)
        kinds[f"uint{8 * size}"] = Kind(element, size, _decode_unsigned, exact=size < 4)
    return kinds


KINDS = _kinds()


def _masked_load(builder: Any, kind: Kind, address: Value, count: Value) -> Value:
    vector = _vector(kind.element)
    pointer = builder.inttoptr(address, vector.as_pointer())
    mask, zero = _mask(builder, count), ir.Constant(vector, None)
    name = f"llvm.masked.load.v{LANES}{_SUFFIX[kind.element]}.p0"
    return _call(builder, name, vector, pointer, ir.Constant(I32, 1), mask, zero)


def loads(kind: Kind) -> tuple[Any, Any]:
    """Loads ``(address, table)`` and ``(address, count, table)``."""
    vector = _vector(kind.element)

    @primitive(lanes, types.intp, types.intp)
    def whole(builder: Any, address: Value, table: Value) -> Value:
        v = builder.load(builder.inttoptr(address, vector.as_pointer()))
        v.align = 1
        return kind.decode(builder, v, table)

    @primitive(lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, address: Value, count: Value, table: Value) -> Value:
        return kind.decode(builder, _masked_load(builder, kind, address, count), table)

    return whole, part


def stores(kind: Kind) -> tuple[Any, Any]:
    """Stores with the lanes as first argument, then as the loads."""
    vector = _vector(kind.element)
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        pointer = builder.inttoptr(address, vector.as_pointer())
        builder.store(encode(builder, v, table), pointer).align = 1

    @primitive(types.void, lanes, types.intp, types.intp, types.intp)
    def part(builder: Any, v: Value, address: Value, count: Value, table: Value) -> None:
        pointer = builder.inttoptr(address, vector.as_pointer())
        name = f"llvm.masked.store.v{LANES}{_SUFFIX[kind.element]}.p0"
        v, align = encode(builder, v, table), ir.Constant(I32, 1)
        _call(builder, name, ir.VoidType(), v, pointer, align, _mask(builder, count))

    return whole, part


def _lane_tree(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The tree over lanes of the squares of lanes, where each value is what one lane holds of
    LANES vectors; see `_sum_of_squares`."""
    sums = [builder.fmul(v, v) for v in values]
    half, fused = LANES // 2, kind.exact and _machine_has("fma")
    while half:
        for k, upper in enumerate(sums[half:]):
            if fused:
                v = values[k + half]
                sums[k] = _call(builder, f"llvm.fma.v{LANES}f64", v.type, v, v, sums[k])
            else:
                sums[k] = builder.fadd(sums[k], upper)
        fused = fused and len(sums) <= half  # later ones are sums
        sums, half = sums[:half], half // 2
    return sums[0]


def _slots(builder: Any, stack: Value, count: int) -> list[Value]:
    found = []
    for k in range(count):
        slot = builder.add(stack, ir.Constant(I64, 8 * LANES * k))
        v = builder.load(builder.inttoptr(slot, _vector(DOUBLE).as_pointer()))
        v.align = 8
        found.append(v)
    return found


def few_in(kind: Kind, n: int) -> Any:
    """A primitive: read LANES vectors of `n` elements that lie one after the other, ``(address,
    table, stack)``, the elements of number k into slot k; the sums of their squares.

    By shuffles: to load each lane from an address of its own took three times as long (Zen 5).
    """
    raw = ir.VectorType(kind.element, n * LANES)

    @primitive(lanes, types.intp, types.intp, types.intp)
    def read(builder: Any, address: Value, table: Value, stack: Value) -> Value:
        whole = builder.load(builder.inttoptr(address, raw.as_pointer()))
        whole.align = 1
        values = []
        for k in range(n):
            every = _constant_indices(range(k, n * LANES, n))
            v = kind.decode(builder, builder.shuffle_vector(whole, whole, every), table)
            slot = builder.add(stack, ir.Constant(I64, 8 * LANES * k))
            builder.store(v, builder.inttoptr(slot, v.type.as_pointer())).align = 8
            values.append(v)
        return _lane_tree(builder, kind, values)

    return read


def few_out(kind: Kind, n: int) -> Any:
    """A primitive: the reverse, ``(stack, address, table)``."""
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, types.intp, types.intp, types.intp)
    def write(builder: Any, stack: Value, address: Value, table: Value) -> None:
        parts = [encode(builder, v, table) for v in _slots(builder, stack, n)]
        width = LANES
        while len(parts) > 1:  # side by side; what an odd one is given is not asked for
            pairs = zip(parts[::2], [*parts[1::2], parts[-1]][: -(-len(parts) // 2)], strict=True)
            side = _constant_indices(range(2 * width))
            parts, width = [builder.shuffle_vector(*pair, side) for pair in pairs], 2 * width
        order = _constant_indices(k * LANES + i for i in range(LANES) for k in range(n))
        whole = builder.shuffle_vector(parts[0], parts[0], order)
        builder.store(whole, builder.inttoptr(address, whole.type.as_pointer())).align = 1

    return write


@primitive(lanes, types.intp)
def sum_rows(builder: Any, stack: Value) -> Value:
    """The sums over lanes of the squares in LANES slots, the sum of slot k in lane k.

    Level by level of the tree, the halves of two sets of vectors side by side.
    """
    sums = [builder.fmul(v, v) for v in _slots(builder, stack, LANES)]
    half = LANES // 2
    while half:
        joined = []
        for a, b in zip(sums[::2], sums[1::2], strict=True):
            starts = range(0, 2 * LANES, 2 * half)
            lower, upper = (
                _constant_indices(s + at + i for s in starts for i in range(half))
                for at in (0, half)
            )
            pair = (builder.shuffle_vector(a, b, side) for side in (lower, upper))
            joined.append(builder.fadd(*pair))
        sums, half = joined, half // 2
    return sums[0]


def boundary(kind: Kind) -> int:
    """The alignment of `streaming` stores, in bytes."""
    return min(LINE, kind.size * LANES)


def _store_past(builder: Any, kind: Kind, v: Value, address: Value) -> None:
    store = builder.store(v, builder.inttoptr(address, v.type.as_pointer()))
    store.align = boundary(kind)
    once = builder.module.add_metadata([ir.Constant(I32, 1)])
    store.set_metadata("nontemporal", once)


def streaming(kind: Kind) -> Any:
    """A store as `stores` has it, aligned to `boundary`, that goes past the caches: memory is not
    read before it is written. `fence` has to follow."""
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, lanes, types.intp, types.intp)
    def whole(builder: Any, v: Value, address: Value, table: Value) -> None:
        _store_past(builder, kind, encode(builder, v, table), address)

    return whole


def scaling(source: Kind, target: Kind, past: bool) -> Any:
    """A primitive: lanes of one array divided into another, ``(from, to, divisor, table_x,
    table_y)``; of narrow kinds, multiplied by the divisor's inverse, which then is given. `past`:
    by a store as `streaming` has it.

    All is finite. Half types can do with a product in float32, of which the inverse and the product
    are rounded, half a unit each: within two units of what float64 gives. Where that leaves doubt
    about the result, one time in some thousand, float64 decides (bfloat16 then takes 0.45 of the
    time).
    """
    read, write = _vector(source.element), _vector(target.element)
    encode = target.encode
    assert encode is not None

    def wide(builder: Any, v: Value, divisor: Value, table_x: Value, table_y: Value) -> Value:
        product = source.narrow and target.narrow
        v = source.decode(builder, v, table_x)
        v = builder.fmul(v, divisor) if product else builder.fdiv(v, divisor)
        return encode(builder, v, table_y)

    def narrow(builder: Any, v: Value, inverse: Value, table_x: Value, table_y: Value) -> Value:
        single = builder.fptrunc(inverse, _vector(FLOAT))
        if source is target is KINDS["bfloat16"] and not _machine_has("avx512f"):
            found, any_doubt = _bfloat_by_eights(builder, v, single)
        else:
            assert source.single is not None
            assert target.nearest is not None
            p = builder.fmul(source.single(builder, v), single)
            found, doubt = target.nearest(builder, p)
            any_doubt = _any(builder, builder.or_(doubt, _beyond(builder, single)))
        before = builder.block
        with builder.if_then(any_doubt, likely=False):
            sure = wide(builder, v, inverse, table_x, table_y)
            after = builder.block
        chosen = builder.phi(write)
        chosen.add_incoming(found, before)
        chosen.add_incoming(sure, after)
        return chosen

    make = narrow if source.single is not None and target.nearest is not None else wide

    @primitive(types.void, types.intp, types.intp, lanes, types.intp, types.intp)
    def whole(
        builder: Any, address: Value, to: Value, divisor: Value, table_x: Value, table_y: Value
    ) -> None:
        v = builder.load(builder.inttoptr(address, read.as_pointer()))
        v.align = 1
        v = make(builder, v, divisor, table_x, table_y)
        if past:
            _store_past(builder, target, v, to)
        else:
            builder.store(v, builder.inttoptr(to, write.as_pointer())).align = 1

    return whole


@primitive(types.void)
def fence(builder: Any) -> None:
    """Streaming stores before this are seen before whatever comes after it."""
    builder.fence("seq_cst")


@primitive(types.void, types.intp)
def claim(builder: Any, address: Value) -> None:
    """Ask memory for the cache line of an address, to write to it."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    flags = (ir.Constant(I32, k) for k in (1, 3, 1))  # to write, keep close, data
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)


def fetch(count: int, rows: int = 1) -> Any:
    """A primitive: ask memory for so many bytes from an address, which need not exist; or for as
    many of each of `rows` rows, ``(address, stride)``. How near they come is the loader's choice;
    see `shipped.Code`."""

    def lines(builder: Any, address: Value) -> None:
        for offset in range(0, count, LINE):
            where = builder.add(address, ir.Constant(I64, offset))
            pointer = builder.inttoptr(where, I8.as_pointer())
            flags = (ir.Constant(I32, k) for k in (0, 1, 1))  # to read, keep farther away, data
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)

    @primitive(types.void, types.intp)
    def one(builder: Any, address: Value) -> None:
        lines(builder, address)

    @primitive(types.void, types.intp, types.intp)
    def many(builder: Any, address: Value, stride: Value) -> None:
        for row in range(rows):
            lines(builder, builder.add(address, builder.mul(stride, ir.Constant(I64, row))))

    return one if rows == 1 else many


def _machine_has(feature: str) -> bool:
    """Whether what is compiled for has a feature, by LLVM's name."""
    return machine.aimed().has(feature)


def _sum_of_squares(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The tree over rows, of the squares of lanes.

    An exact square may be added as it is made: the fused operation rounds once, as the sum alone
    does. That is a quarter of the arithmetic of a sum less.
    """
    if len(values) == 1:
        return builder.fmul(values[0], values[0])
    if len(values) == 2 and kind.exact and _machine_has("fma"):
        square = builder.fmul(values[0], values[0])
        name = f"llvm.fma.v{LANES}f64"
        return _call(builder, name, square.type, values[1], values[1], square)
    half = len(values) // 2
    halves = (_sum_of_squares(builder, kind, part) for part in (values[:half], values[half:]))
    return builder.fadd(*halves)


def _sum_of_byte_squares(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The same sum of integers of a byte, which no order of additions changes."""
    signed = kind.decode is _decode_signed
    extend = builder.sext if signed else builder.zext
    wide = [extend(v, _vector(I16)) for v in values]
    sums = [builder.mul(v, v) for v in wide]
    if signed:  # the squares of 128 and 128 are 2**15
        sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    total = None
    for part in (builder.zext(v, _vector(I32)) for v in sums):
        total = part if total is None else builder.add(total, part)
    return builder.sitofp(total, _vector(DOUBLE))


def _decoded(builder: Any, kind: Kind, raw: Value, table: Value, scale: Value | None) -> Value:
    v = kind.decode(builder, raw, table)
    return v if scale is None else builder.fmul(v, scale)


def _sum_of_rows(
    builder: Any, kind: Kind, places: Iterable[Value], scale: Value | None, table: Value
) -> Value:
    values = []
    for place in places:
        raw = builder.load(builder.inttoptr(place, _vector(kind.element).as_pointer()))
        raw.align = 1
        values.append(raw)
    if kind.size == 1 and kind.decode in (_decode_signed, _decode_unsigned) and scale is None:
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
        rows = (ir.Constant(I64, row) for row in range(BLOCK))
        places = (builder.load(_slot(builder, address, row, I64, 8)) for row in rows)
        return _sum_of_rows(builder, kind, places, scale if scaled else None, table)

    return whole


def sum_squares_of_some(kind: Kind, scaled: bool, rows: int) -> Any:
    """As `sum_squares`, over the first `rows` rows, of which row k has
    ``min(count - k * fewer, most)`` elements: ``(address, stride, count, fewer, most, scale,
    table)``."""
    integers = [types.intp] * 5

    @primitive(lanes, *integers, lanes, types.intp)
    def part(
        builder: Any,
        address: Value,
        stride: Value,
        count: Value,
        fewer: Value,
        most: Value,
        scale: Value,
        table: Value,
    ) -> Value:
        values = []
        for row in range(rows):
            k = ir.Constant(I64, row)
            where = builder.add(address, builder.mul(stride, k))
            left = builder.sub(count, builder.mul(fewer, k))
            left = builder.select(builder.icmp_signed("<", left, most), left, most)
            raw = _masked_load(builder, kind, where, left)
            values.append(_decoded(builder, kind, raw, table, scale if scaled else None))
        return _sum_of_squares(builder, kind, values)

    return part


@primitive(lanes, lanes, lanes)
def add(builder: Any, a: Value, b: Value) -> Value:
    """a + b; LLVM fuses no product into it, for neither carries a fast-math flag."""
    return builder.fadd(a, b)


@primitive(lanes, lanes, lanes)
def mul(builder: Any, a: Value, b: Value) -> Value:
    """a * b."""
    return builder.fmul(a, b)


@primitive(lanes, lanes, lanes, lanes)
def muladd(builder: Any, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once where the machine can: not for what has its bits specified."""
    return _call(builder, f"llvm.fmuladd.v{LANES}f64", a.type, a, b, c)


@primitive(lanes, lanes, lanes)
def div(builder: Any, a: Value, b: Value) -> Value:
    """a / b."""
    return builder.fdiv(a, b)


@primitive(types.float64, types.float64)
def root(builder: Any, value: Value) -> Value:
    """The square root, as an instruction: C's function is not found in every process. Of a NaN it
    is the canonical one; by a test of the value, for LLVM leaves out one of the root."""
    found = _call(builder, "llvm.sqrt.f64", DOUBLE, value)
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.select(nan, ir.Constant(DOUBLE, float("nan")), found)


@primitive(lanes, lanes)
def roots(builder: Any, v: Value) -> Value:
    """The square roots."""
    return _call(builder, f"llvm.sqrt.v{LANES}f64", v.type, v)


@primitive(types.boolean, lanes, types.float64, types.intp)
def all_above(builder: Any, v: Value, bound: Value, count: Value) -> Value:
    """Whether the first `count` lanes are all greater than `bound`, and less than inf."""
    inf = _constant(DOUBLE, [float("inf")] * LANES)
    above = builder.fcmp_ordered(">", v, _splat(builder, bound))
    good = builder.and_(above, builder.fcmp_ordered("<", v, inf))
    bad = builder.and_(builder.not_(good), _mask(builder, count))
    bits = builder.bitcast(bad, ir.IntType(LANES))
    return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))


@primitive(types.void, lanes, types.intp, types.intp, types.intp)
def put_floats(builder: Any, v: Value, address: Value, count: Value, size: Value) -> None:
    """Write the first `count` lanes one after another, as float32 or, if `size` is 8, float64."""
    mask, align = _mask(builder, count), ir.Constant(I32, 1)
    with builder.if_else(builder.icmp_signed("==", size, ir.Constant(I64, 8))) as (wide, narrow):
        with wide:
            pointer = builder.inttoptr(address, v.type.as_pointer())
            name = f"llvm.masked.store.v{LANES}f64.p0"
            _call(builder, name, ir.VoidType(), v, pointer, align, mask)
        with narrow:
            single = builder.fptrunc(v, _vector(FLOAT))
            pointer = builder.inttoptr(address, single.type.as_pointer())
            name = f"llvm.masked.store.v{LANES}f32.p0"
            _call(builder, name, ir.VoidType(), single, pointer, align, mask)


@primitive(lanes, types.float64)
def splat(builder: Any, value: Value) -> Value:
    """The same number in all lanes."""
    return _splat(builder, value)


@primitive(lanes, lanes)
def canonical(builder: Any, v: Value) -> Value:
    """The same lanes, each NaN the canonical quiet one."""
    nan = _constant(DOUBLE, [float("nan")] * LANES)
    return builder.select(builder.fcmp_unordered("uno", v, v), nan, v)


@primitive(types.float64, lanes)
def sum_lanes(builder: Any, v: Value) -> Value:
    """The tree over lanes: the upper half to the lower half, until one is left."""
    half = LANES // 2
    while half:
        lower, upper = (_constant_indices(range(k * half, (k + 1) * half)) for k in (0, 1))
        v = builder.fadd(builder.shuffle_vector(v, v, lower), builder.shuffle_vector(v, v, upper))
        half //= 2
    return builder.extract_element(v, ir.Constant(I32, 0))


def _constant_indices(indices: Iterable[int]) -> Value:
    every = list(indices)
    return ir.Constant(ir.VectorType(I32, len(every)), every)


def stack(count: int) -> Any:
    """A primitive: the address of room for `count` lanes on the machine's stack, not zeroed.

    Numba's own helper zeroes it at each call, which took 90 ns of a short vector's 100.
    """

    @primitive(types.intp)
    def reserve(builder: Any) -> Value:
        with builder.goto_entry_block():
            room = builder.alloca(_vector(DOUBLE), size=ir.Constant(I32, count))
        return builder.ptrtoint(room, I64)

    return reserve


def _slot(builder: Any, address: Value, index: Value, kind: Any, size: int) -> Value:
    offset = builder.mul(index, ir.Constant(I64, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


@primitive(types.void, types.intp, types.intp, lanes)
def put(builder: Any, address: Value, index: Value, v: Value) -> None:
    """Keep lanes in a slot of a stack."""
    builder.store(v, _slot(builder, address, index, _vector(DOUBLE), 8 * LANES)).align = 8


@primitive(lanes, types.intp, types.intp)
def get(builder: Any, address: Value, index: Value) -> Value:
    """The lanes in a slot of a stack."""
    v = builder.load(_slot(builder, address, index, _vector(DOUBLE), 8 * LANES))
    v.align = 8
    return v


@primitive(types.intp, types.float64)
def bits(builder: Any, value: Value) -> Value:
    """The bits of a float64."""
    return builder.bitcast(value, I64)


@primitive(types.float64, types.intp)
def power(builder: Any, exponent: Value) -> Value:
    """A power of two, of an exponent from -1022 to 1023."""
    field = builder.add(exponent, ir.Constant(I64, 1023))
    return builder.bitcast(builder.shl(field, ir.Constant(I64, 52)), DOUBLE)


@primitive(types.void, types.intp, types.intp, types.float64)
def put_double(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write a float64."""
    builder.store(value, _slot(builder, address, index, DOUBLE, 8)).align = 1


@primitive(types.float64, types.intp, types.intp)
def get_double(builder: Any, address: Value, index: Value) -> Value:
    """Read a float64."""
    v = builder.load(_slot(builder, address, index, DOUBLE, 8))
    v.align = 1
    return v


@primitive(types.intp, types.intp, types.intp)
def get_int(builder: Any, address: Value, index: Value) -> Value:
    """Read an int64."""
    return builder.load(_slot(builder, address, index, I64, 8))


@primitive(types.void, types.intp, types.float64)
def put_float(builder: Any, address: Value, value: Value) -> None:
    """Write a float64 as float32."""
    pointer = builder.inttoptr(address, FLOAT.as_pointer())
    builder.store(builder.fptrunc(value, FLOAT), pointer).align = 1


def calling(signature: Any) -> Any:
    """A primitive: call the C function at an address, ``(address, *arguments)``."""
    result = ir.VoidType() if signature.return_type == types.void else I64

    @primitive(signature.return_type, types.intp, *signature.args)
    def call(builder: Any, address: Value, *arguments: Value) -> Value:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        value = builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
        return None if signature.return_type == types.void else value

    return call


def _symbol(builder: Any, name: str) -> Value:
    found = builder.module.globals.get(name) or ir.GlobalVariable(builder.module, I64, name)
    return builder.ptrtoint(found, I64)


def symbol(name: str) -> Any:
    """A primitive: the address of data that the process knows by a name."""

    @primitive(types.intp)
    def read(builder: Any) -> Value:
        return _symbol(builder, name)

    return read


def text(content: str) -> Any:
    """A primitive: the address of a C string."""

    @primitive(types.intp)
    def read(builder: Any) -> Value:
        found = cgutils.global_constant(  # type: ignore[no-untyped-call]
            builder.module,
            "l2multi_text",
            cgutils.make_bytearray(content.encode() + b"\0"),  # type: ignore[no-untyped-call]
        )
        return builder.ptrtoint(found, I64)

    return read


def move(size: int, count: int) -> Any:
    """A primitive: copy `count` elements of `size` bytes, so many bytes apart, ``(from, step, to,
    step, swap)``; the bytes of each in the other order if `swap` is not 0."""
    element = ir.IntType(8 * size)

    def copy_all(
        builder: Any, at: Value, step: Value, to: Value, step_to: Value, turn: bool
    ) -> None:
        for _ in range(count):
            v = builder.load(builder.inttoptr(at, element.as_pointer()))
            v.align = 1
            if turn:
                v = _call(builder, f"llvm.bswap.i{8 * size}", element, v)
            builder.store(v, builder.inttoptr(to, element.as_pointer())).align = 1
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


@primitive(types.intp, types.intp, types.intp)
def lesser(builder: Any, a: Value, b: Value) -> Value:
    """The lesser of two integers; `min`, which Numba would compile as a function like others."""
    return builder.select(builder.icmp_signed("<", b, a), b, a)


@primitive(types.intp, types.intp, types.intp)
def greater(builder: Any, a: Value, b: Value) -> Value:
    """The greater of two integers."""
    return builder.select(builder.icmp_signed(">", b, a), b, a)


@primitive(types.void, types.intp, types.intp, types.intp)
def set_int(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write an int64."""
    builder.store(value, _slot(builder, address, index, I64, 8))


def _cell(builder: Any, address: Value, index: Value) -> Value:
    return _slot(builder, address, index, I64, 8)


@primitive(types.intp, types.intp, types.intp)
def seen(builder: Any, address: Value, index: Value) -> Value:
    """Read an int64 that other threads write, in one order for all."""
    return builder.load_atomic(_cell(builder, address, index), "seq_cst", 8)


@primitive(types.void, types.intp, types.intp, types.intp)
def show(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Write an int64 that other threads read, and with it all written before."""
    builder.store_atomic(value, _cell(builder, address, index), "seq_cst", 8)


@primitive(types.intp, types.intp, types.intp, types.intp)
def change(builder: Any, address: Value, index: Value, value: Value) -> Value:
    """Add to an int64 that other threads change too."""
    return builder.atomic_rmw("add", _cell(builder, address, index), value, "seq_cst")


@primitive(types.boolean, types.intp, types.intp, types.intp, types.intp)
def swap(builder: Any, address: Value, index: Value, old: Value, new: Value) -> Value:
    """Replace an int64 if it is still `old`; whether it was."""
    cell = _cell(builder, address, index)
    return builder.extract_value(builder.cmpxchg(cell, old, new, "seq_cst", "seq_cst"), 1)


@primitive(types.void)
def pause(builder: Any) -> None:
    """Let the other thread of a core work, if the machine knows how."""
    name = builder.module.triple.split("-")[0]
    if name in ("x86_64", "i686"):
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif name in ("aarch64", "arm64"):
        _call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))


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
        return _call(builder, name, kind)
    with builder.goto_entry_block():
        cell = builder.alloca(kind)
    _call(builder, name, ir.VoidType(), builder.bitcast(cell, I8.as_pointer()))
    return builder.load(cell)


def _write_modes(builder: Any, name: str, value: Value) -> None:
    if value.type is not I64:
        with builder.goto_entry_block():
            cell = builder.alloca(value.type)
        builder.store(value, cell)
        value = builder.bitcast(cell, I8.as_pointer())
    _call(builder, name, ir.VoidType(), value)


@primitive(types.intp)
def exact_modes(builder: Any) -> Value:
    """Compute with subnormal numbers and round to nearest, whatever another library has set; what
    `restore_modes` needs. Reading the modes takes 6 ns (Zen), which no call is seen to take longer
    by; writing them twice, which is seldom needed, 3 to 10 more.

    LLVM takes no notice of modes. It moves no arithmetic from behind a branch to before it, though,
    and there is one about each of the two writes.
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


def room(slots: int) -> Any:
    """A primitive: the address of room for so many int64 on the machine's stack, not zeroed."""

    @primitive(types.intp)
    def reserve(builder: Any) -> Value:
        with builder.goto_entry_block():
            found = builder.alloca(I64, size=ir.Constant(I32, slots))
        return builder.ptrtoint(found, I64)

    return reserve


def external(name: str, result: Any, *arguments: Any) -> Any:
    """A primitive: a C function that the process knows, of int32 and int64 (addresses among
    them); all are int64 here."""

    @primitive(types.intp, *[types.intp] * len(arguments))
    def call(builder: Any, *values: Value) -> Value:
        given = [
            builder.trunc(v, I32) if kind is I32 else v
            for v, kind in zip(values, arguments, strict=True)
        ]
        value = _call(builder, name, result, *given)
        if isinstance(result, ir.VoidType):
            return ir.Constant(I64, 0)
        return builder.sext(value, I64) if result is I32 else value

    return call


@primitive(types.intp, types.intp)
def new_reference(builder: Any, address: Value) -> Value:
    """The same object, owned once more."""
    _call(builder, "Py_IncRef", ir.VoidType(), address)
    return address


disown = external("Py_DecRef", ir.VoidType(), I64)

# ``(to, from, bytes)``.
copy_bytes = external("memcpy", I64, I64, I64, I64)

# Let go of Python's lock, and take it again.
let_go = external("PyEval_SaveThread", I64)
take_back = external("PyEval_RestoreThread", ir.VoidType(), I64)
