"""short rows"""

from typing import Any

from llvmlite import ir
from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor, memory
from l2multi.backends.numba.compiler import device, primitive
from l2multi.backends.numba.dtypes import Kind, machine_has
from l2multi.backends.numba.kernels.columns import find_lost_sums, settle_tile
from l2multi.backends.numba.kernels.common import BATCH, divided, offset, worker
from l2multi.backends.numba.lanes import (
    I64,
    Value,
    add,
    div,
    indices,
    intrinsic,
    lanes,
    lesser,
    mul,
    splat,
)
from l2multi.backends.numba.memory import get, get_double, get_int, lanes_in_slots, put


def _lane_tree(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The tree over lanes of the squares of lanes, where each value is what one lane holds of
    LANES vectors; see `_sum_of_squares`."""
    sums = [builder.fmul(v, v) for v in values]
    half, fused = LANES // 2, kind.exact and machine_has("fma")
    while half:
        for k, upper in enumerate(sums[half:]):
            if fused:
                v = values[k + half]
                sums[k] = intrinsic(builder, f"llvm.fma.v{LANES}f64", v.type, v, v, sums[k])
            else:
                sums[k] = builder.fadd(sums[k], upper)
        fused = fused and len(sums) <= half  # later ones are sums
        sums, half = sums[:half], half // 2
    return sums[0]


def load_transposed(kind: Kind, n: int) -> Any:
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
            every = indices(range(k, n * LANES, n))
            v = kind.decode(builder, builder.shuffle_vector(whole, whole, every), table)
            slot = builder.add(stack, ir.Constant(I64, 8 * LANES * k))
            builder.store(v, builder.inttoptr(slot, v.type.as_pointer())).align = 8
            values.append(v)
        return _lane_tree(builder, kind, values)

    return read


def store_transposed(kind: Kind, n: int) -> Any:
    """A primitive: the reverse, ``(stack, address, table)``."""
    encode = kind.encode
    assert encode is not None

    @primitive(types.void, types.intp, types.intp, types.intp)
    def write(builder: Any, stack: Value, address: Value, table: Value) -> None:
        parts = [encode(builder, v, table) for v in lanes_in_slots(builder, stack, n)]
        width = LANES
        while len(parts) > 1:  # side by side; what an odd one is given is not asked for
            pairs = zip(parts[::2], [*parts[1::2], parts[-1]][: -(-len(parts) // 2)], strict=True)
            side = indices(range(2 * width))
            parts, width = [builder.shuffle_vector(*pair, side) for pair in pairs], 2 * width
        order = indices(k * LANES + i for i in range(LANES) for k in range(n))
        whole = builder.shuffle_vector(parts[0], parts[0], order)
        builder.store(whole, builder.inttoptr(address, whole.type.as_pointer())).align = 1

    return write


@primitive(lanes, types.intp)
def sum_rows(builder: Any, stack: Value) -> Value:
    """The sums over lanes of the squares in LANES slots, the sum of slot k in lane k.

    Level by level of the tree, the halves of two sets of vectors side by side.
    """
    sums = [builder.fmul(v, v) for v in lanes_in_slots(builder, stack, LANES)]
    half = LANES // 2
    while half:
        joined = []
        for a, b in zip(sums[::2], sums[1::2], strict=True):
            starts = range(0, 2 * LANES, 2 * half)
            lower, upper = (
                indices(s + at + i for s in starts for i in range(half)) for at in (0, half)
            )
            pair = (builder.shuffle_vector(a, b, side) for side in (lower, upper))
            joined.append(builder.fadd(*pair))
        sums, half = joined, half // 2
    return sums[0]


def short_rows_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to a tile: scale_up to LANES vectors, `step` bytes apart,
    of no more than LANES neighbouring elements. Where scale_up to four elements of all of them lie one
    after the other, a slot holds one element of each vector, else one vector."""
    _, load_some = memory.loads(source)
    _, store_some = memory.stores(target)
    one_in, two_in, three_in, four_in = (load_transposed(source, n) for n in range(1, 5))
    one_out, two_out, three_out, four_out = (store_transposed(target, n) for n in range(1, 5))
    needs_rescaling = source.needs_rescaling
    product = source.narrow and target.narrow
    plainly, with_care = divided(product)
    size, written = source.size, target.size
    reserve, small = memory.stack(LANES), memory.stack(1)
    settle_all = settle_tile(needs_rescaling)

    @device
    def sum_across(n, factor, values, stack):
        """Slots of one element of each vector: the tree over lanes; those beyond n are zeros, which
        change no sum."""
        for k in range(n):
            v = mul(get(values, k), factor)
            put(stack, k, mul(v, v))
        half, left = LANES // 2, n
        while half:
            for k in range(left - half):
                put(stack, k, add(get(stack, k), get(stack, k + half)))
            left = lesser(left, half)
            half >>= 1
        return get(stack, 0)

    @device
    def fill(x, n, step, count, few, table, values):
        if few:
            if n == 1:
                return one_in(x, table, values)
            if n == 2:
                return two_in(x, table, values)
            if n == 3:
                return three_in(x, table, values)
            return four_in(x, table, values)
        for k in range(count):
            put(values, k, load_some(x + k * step, n, table))
        for k in range(count, LANES):
            put(values, k, splat(0.0))
        return sum_rows(values)

    @device
    def spill(values, y, n, table):
        if n == 1:
            one_out(values, y, table)
        elif n == 2:
            two_out(values, y, table)
        elif n == 3:
            three_out(values, y, table)
        else:
            four_out(values, y, table)

    @device
    def tile(
        x, y, n, step_x, step_y, count, norm, norm_step, norm_size,
        eps, zero_root, table_x, table_y,
    ):  # fmt: skip
        values, stack = reserve(), reserve()
        sums, scale_ups, scale_downs, roots = small(), small(), small(), small()
        put(scale_ups, 0, splat(1.0))
        put(scale_downs, 0, splat(1.0))
        few = n <= 4 and count == LANES and step_x == n * size
        few = few and (y == 0 or step_y == n * written)
        put(sums, 0, fill(x, n, step_x, count, few, table_x, values))
        rescued = needs_rescaling and find_lost_sums(sums, scale_ups, scale_downs, count)
        if rescued:
            factors = mul(get(scale_ups, 0), get(scale_downs, 0))
            if few:
                put(sums, 0, sum_across(n, factors, values, stack))
            else:
                put(roots, 0, factors)
                for k in range(LANES):
                    put(stack, k, mul(get(values, k), splat(memory.get_double(roots, k))))
                put(sums, 0, sum_rows(stack))
        plain = settle_all(
            sums,
            scale_ups,
            scale_downs,
            roots,
            count,
            norm,
            norm_step,
            norm_size,
            eps,
            zero_root,
            rescued,
        )
        if y == 0:
            return
        if product:
            put(roots, 0, div(splat(1.0), get(roots, 0)))
        if few:
            for k in range(n):
                v, divisor = get(values, k), get(roots, 0)
                v = (
                    plainly(v, divisor)
                    if plain
                    else with_care(v, divisor, get(scale_ups, 0), get(scale_downs, 0))
                )
                put(values, k, v)
            spill(values, y, n, table_y)
        else:
            for k in range(count):
                v, divisor = get(values, k), splat(memory.get_double(roots, k))
                scale_up, scale_down = (
                    splat(memory.get_double(scale_ups, k)),
                    splat(memory.get_double(scale_downs, k)),
                )
                v = plainly(v, divisor) if plain else with_care(v, divisor, scale_up, scale_down)
                store_some(v, y + k * step_y, n, table_y)

    return tile


def short_rows(source: Kind, target: Kind) -> Any:
    """Short vectors of neighbouring elements, in tiles as `columns` has them."""
    tile = short_rows_tile(source, target)

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        norms, norm_size = get_int(call, descriptor.NORMS), get_int(call, descriptor.NORM_SIZE)
        batch, batch_axes = get_int(call, descriptor.BATCH), get_int(call, descriptor.BATCH_AXES)
        tiles = get_int(call, descriptor.TILES)
        last_axis = (batch_axes - 1) * BATCH
        width = get_int(batch, last_axis)
        for i in range(first, last):
            start = i % tiles * LANES
            vector = i // tiles * width + start
            tile(
                x + offset(batch, batch_axes, BATCH, 1, vector),
                y + offset(batch, batch_axes, BATCH, 2, vector) if y else 0,
                get_int(call, descriptor.N) * get_int(call, descriptor.PARTS),
                get_int(batch, last_axis + 1), get_int(batch, last_axis + 2),
                lesser(width - start, LANES),
                norms + offset(batch, batch_axes, BATCH, 3, vector) if norms else 0,
                get_int(batch, last_axis + 3), norm_size,
                get_double(call, descriptor.EPS), get_double(call, descriptor.ZERO_ROOT),
                get_int(call, descriptor.TABLE_X), get_int(call, descriptor.TABLE_Y),
            )  # fmt: skip

    return run
