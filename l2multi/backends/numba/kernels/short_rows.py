"""Short rows: vectors of at most sixteen neighbouring elements, of which sixteen go through
together."""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor, memory
from l2multi.backends.numba.compiler import device, primitive
from l2multi.backends.numba.dtypes import Kind, machine_has
from l2multi.backends.numba.kernels import common, tiles
from l2multi.backends.numba.kernels.common import worker
from l2multi.backends.numba.lanes import (
    DOUBLE,
    I64,
    Value,
    any_lane,
    everywhere,
    greater,
    indices,
    intrinsic,
    lanes,
    lesser,
    mul,
    splat,
    splatted,
    vector_of,
)
from l2multi.backends.numba.memory import LINE, get, get_double, get_int, put, read, slot, write
from l2multi.backends.numba.plan import BATCH

FEW = 4  # elements up to which sixteen vectors that lie one after another are transposed


def lane_tree(builder: Any, sums: list[Value]) -> Value:
    """The tree over lanes, where each value is what one lane holds of LANES vectors."""
    half = LANES // 2
    while half:
        for k, upper in enumerate(sums[half:]):
            sums[k] = builder.fadd(sums[k], upper)
        sums, half = sums[:half], half // 2
    return sums[0]


def lane_tree_of_squares(builder: Any, kind: Kind, values: list[Value]) -> Value:
    """The same of the squares of values, the upper of which are added as they are made, if they are
    exact; see `arithmetic.sum_squares`."""
    sums = [builder.fmul(v, v) for v in values]
    half = LANES // 2
    while len(sums) <= half:
        half //= 2
    if half and kind.exact and machine_has("fma"):
        name = f"llvm.fma.v{LANES}f64"
        for k, v in enumerate(values[half:]):
            sums[k] = intrinsic(builder, name, v.type, v, v, sums[k])
        sums = sums[:half]
    return lane_tree(builder, sums)


def by_number(builder: Any, number: Value, make: Callable[[int], Value]) -> Value:
    """What ``make(n)`` gives where `number` is n, from 1 to FEW."""
    made = []
    after = builder.append_basic_block("after")
    blocks = [builder.append_basic_block(f"of_{n}") for n in range(1, FEW + 1)]
    switch = builder.switch(number, blocks[-1])
    for n, block in enumerate(blocks, 1):
        if n < FEW:
            switch.add_case(ir.Constant(I64, n), block)
        builder.position_at_end(block)
        made.append((make(n), builder.block))
        builder.branch(after)
    builder.position_at_end(after)
    chosen = builder.phi(made[0][0].type)
    for value, block in made:
        chosen.add_incoming(value, block)
    return chosen


def read_transposed(builder: Any, kind: Kind, n: int, at: Value) -> list[Value]:
    """Element k of LANES vectors of `n`, which lie one after another, for each k. By shuffles: to
    load each lane from an address of its own took three times as long (Zen 5)."""
    raw = read(builder, at, ir.VectorType(kind.element, n * LANES))
    return [builder.shuffle_vector(raw, raw, indices(range(k, n * LANES, n))) for k in range(n)]


def write_transposed(builder: Any, parts: list[Value], at: Value) -> None:
    """The reverse."""
    n, width = len(parts), LANES
    while len(parts) > 1:  # side by side; what an odd one is given is not asked for
        seconds = [*parts[1::2], parts[-1]][: -(-len(parts) // 2)]
        side = indices(range(2 * width))
        pairs = zip(parts[::2], seconds, strict=True)
        parts, width = [builder.shuffle_vector(*pair, side) for pair in pairs], 2 * width
    order = indices(k * LANES + i for i in range(LANES) for k in range(n))
    write(builder, builder.shuffle_vector(parts[0], parts[0], order), at)


def unit_transposed(source: Kind, target: Kind) -> Any:
    """A primitive: the unit vectors of LANES vectors of `n` elements, up to FEW, that lie one after
    another, ``(n, x, y, eps, zero_root, lengths, table_x, table_y)``, and their norms in a slot;
    without y the norms alone. False, and nothing is written to y, where a sum has left the safe
    range, but by a zero vector, or a divisor is not finite.

    All stays in registers: 1000000x2 float32 take half of the time that they took by slots (Zen 5).
    """

    @primitive(types.boolean, *[types.intp] * 3, *[types.float64] * 2, *[types.intp] * 3)
    def unit(builder: Any, number: Value, x: Value, y: Value, eps: Value, zero_root: Value,
             lengths: Value, table_x: Value, table_y: Value) -> Value:  # fmt: skip
        zero, inf = (everywhere(DOUBLE, value) for value in (0.0, float("inf")))

        def of(n: int) -> Value:
            elements = read_transposed(builder, source, n, x)
            values = [source.decode(builder, v, table_x) for v in elements]
            total = lane_tree_of_squares(builder, source, values)
            length = intrinsic(builder, f"llvm.sqrt.v{LANES}f64", total.type, total)
            write(builder, length, lengths, 8)
            least = splatted(builder, eps)
            low = builder.fcmp_ordered("<=", length, least)
            divisor = builder.select(low, least, length)
            none = builder.fcmp_ordered("==", length, zero)
            divisor = builder.select(none, splatted(builder, zero_root), divisor)
            good = builder.fcmp_ordered("<", divisor, inf)
            if source.needs_rescaling:
                safe = builder.fcmp_ordered(">=", total, everywhere(DOUBLE, common.LOWEST))
                zeros = [builder.fcmp_ordered("==", v, zero) for v in values]
                safe = builder.or_(safe, functools.reduce(builder.and_, zeros))
                good = builder.and_(good, safe)
            good = builder.not_(any_lane(builder, builder.not_(good)))
            wanted = builder.icmp_unsigned("!=", y, ir.Constant(I64, 0))
            with builder.if_then(builder.and_(good, wanted)):
                if source.narrow and target.narrow:
                    divisor = builder.fdiv(everywhere(DOUBLE, 1.0), divisor)
                    units = [builder.fmul(v, divisor) for v in values]
                else:
                    units = [builder.fdiv(v, divisor) for v in values]
                encoded = [target.encoded(builder, v, table_y) for v in units]
                write_transposed(builder, encoded, y)
            return good

        return by_number(builder, number, of)

    return unit


@primitive(lanes, types.intp)
def sum_rows(builder: Any, stack: Value) -> Value:
    """The sums over lanes of the squares in LANES slots, the sum of slot k in lane k.

    Level by level of the tree, the halves of two sets of vectors side by side.
    """
    slots = (slot(builder, stack, k, 8 * LANES) for k in range(LANES))
    kept = [read(builder, at, vector_of(DOUBLE), 8) for at in slots]
    sums, half = [builder.fmul(v, v) for v in kept], LANES // 2
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
    """A function that does all there is to do to up to LANES vectors, `step` bytes apart, of no
    more than LANES neighbouring elements."""
    _, load_some = memory.loads(source)
    _, store_some = memory.stores(target)
    few = unit_transposed(source, target)
    needs_rescaling, product = source.needs_rescaling, source.narrow and target.narrow
    plainly, with_care = common.divided(product)
    size, written = source.size, target.size
    reserve, reserve_group = memory.stack(LANES), memory.stack(tiles.GROUP)

    @device
    def sum_rescaled(group, values, stack):
        for k in range(LANES):
            factor = splat(get_double(group, tiles.FACTORS * LANES + k))
            put(stack, k, mul(get(values, k), factor))
        return sum_rows(stack)

    @device
    def tile(call, x, y, norm, n, step_x, step_y, count, norm_step):
        values, stack, group = reserve(), reserve(), reserve_group()
        table_x, table_y = common.tables_of(call)
        tiles.reset(group)
        if n <= FEW and count == LANES and step_x == n * size and (y == 0 or step_y == n * written):
            eps, zero_root = (
                get_double(call, descriptor.EPS),
                get_double(call, descriptor.ZERO_ROOT),
            )
            if few(n, x, y, eps, zero_root, stack, table_x, table_y):
                put(group, tiles.ROOTS, get(stack, 0))
                tiles.put_norms(call, group, count, norm, norm_step, get(stack, 0))
                return
        for k in range(count):
            put(values, k, load_some(x + k * step_x, n, table_x))
        for k in range(count, LANES):
            put(values, k, splat(0.0))
        put(group, tiles.SUMS, sum_rows(values))
        rescued = needs_rescaling and tiles.find_lost_sums(group, count)
        if rescued:
            put(group, tiles.SUMS, sum_rescaled(group, values, stack))
        plain = tiles.settle(call, group, count, norm, norm_step, rescued)
        if y == 0:
            return
        if product:
            tiles.invert_roots(group)
        for k in range(count):
            v, root = get(values, k), splat(get_double(group, tiles.ROOTS * LANES + k))
            if plain:
                v = plainly(v, root)
            else:
                ups = splat(get_double(group, tiles.SCALE_UPS * LANES + k))
                downs = splat(get_double(group, tiles.SCALE_DOWNS * LANES + k))
                v = with_care(v, root, ups, downs)
            store_some(v, y + k * step_y, n, table_y)

    return tile


def fetching(prefetch: Any) -> Any:
    """A function that prefetches the lines of LANES vectors, `step` bytes apart, so many vectors
    ahead. 937500x16 float32, beyond the caches, then took 0.25 to 0.3 of the time (one core of a
    Zen 5); up to FEW elements no more than a hundredth is won or lost."""

    @device
    def fetch(at, step, ahead):
        at += ahead * step
        for offset in range(0, LANES * step, LINE if step <= 2 * LINE else step):
            prefetch(at + offset)

    return fetch


def short_rows(source: Kind, target: Kind) -> Any:
    """Vectors along the last axis of the batch, which has `tiles` of sixteen of them."""
    tile, read = short_rows_tile(source, target), source.size
    fetch, fetch_to_write = fetching(memory.prefetch(LINE)), fetching(memory.prefetch_for_write)

    @worker
    def run(first, last, call):
        x, y, norms, batch, axes = common.arrays_of(call)
        n, tiles, last_axis = (
            common.numbers_of(call),
            get_int(call, descriptor.TILES),
            (axes - 1) * BATCH,
        )
        width, norm_step = get_int(batch, last_axis), get_int(batch, last_axis + 3)
        step_x, step_y = get_int(batch, last_axis + 1), get_int(batch, last_axis + 2)
        ahead = 0
        if n > FEW and common.beyond_caches(call, read):
            ahead = greater(common.PREFETCH_LONG // (LANES * n * read), 1) * LANES
        while first < last:
            start = first % tiles
            at_x, at_y, norm = common.places(
                x, y, norms, batch, axes, first // tiles * width + start * LANES
            )
            stop = lesser(first + tiles - start, last)
            for left in range(
                width - start * LANES, width - (start + stop - first) * LANES, -LANES
            ):
                if ahead:
                    fetch(at_x, step_x, ahead)
                    if y != 0 and y != x:
                        fetch_to_write(at_y, step_y, ahead)
                tile(call, at_x, at_y, norm, n, step_x, step_y, lesser(left, LANES), norm_step)
                at_x += LANES * step_x
                at_y += LANES * step_y if y else 0
                norm += LANES * norm_step if norms else 0
            first = stop

    return run
