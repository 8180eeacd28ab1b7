"""Short rows: vectors of at most sixteen neighbouring elements, of which sixteen go through
together."""

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
    add,
    greater,
    indices,
    intrinsic,
    lanes,
    lesser,
    mul,
    splat,
    vector_of,
)
from l2multi.backends.numba.memory import LINE, get, get_double, get_int, put, read, slot, write
from l2multi.backends.numba.plan import BATCH

FEW = 4  # elements up to which sixteen vectors that lie one after another are transposed


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


def _kept(builder: Any, stack: Value, count: int) -> list[Value]:
    """The lanes in the first slots of a stack."""
    slots = (slot(builder, stack, k, 8 * LANES) for k in range(count))
    return [read(builder, at, vector_of(DOUBLE), 8) for at in slots]


def _by_number(builder: Any, number: Value, make: Callable[[int], Value | None]) -> Value | None:
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
    if made[0][0] is None:
        return None
    chosen = builder.phi(made[0][0].type)
    for value, block in made:
        chosen.add_incoming(value, block)
    return chosen


def load_transposed(kind: Kind) -> Any:
    """A primitive: read LANES vectors of `n` elements, up to FEW, that lie one after another, ``(n,
    address, table, stack)``, element k of all of them into slot k; the sums of their squares.

    By shuffles: to load each lane from an address of its own took three times as long (Zen 5).
    """

    @primitive(lanes, types.intp, types.intp, types.intp, types.intp)
    def load(builder: Any, number: Value, address: Value, table: Value, stack: Value) -> Value:
        def of(n: int) -> Value:
            raw = read(builder, address, ir.VectorType(kind.element, n * LANES))
            values = []
            for k in range(n):
                every = indices(range(k, n * LANES, n))
                v = kind.decode(builder, builder.shuffle_vector(raw, raw, every), table)
                write(builder, v, slot(builder, stack, k, 8 * LANES), 8)
                values.append(v)
            return _lane_tree(builder, kind, values)

        return _by_number(builder, number, of)

    return load


def store_transposed(kind: Kind) -> Any:
    """A primitive: the reverse, ``(n, stack, address, table)``."""

    @primitive(types.void, types.intp, types.intp, types.intp, types.intp)
    def store(builder: Any, number: Value, stack: Value, address: Value, table: Value) -> None:
        def of(n: int) -> None:
            parts = [kind.encoded(builder, v, table) for v in _kept(builder, stack, n)]
            width = LANES
            while len(parts) > 1:  # side by side; what an odd one is given is not asked for
                seconds = [*parts[1::2], parts[-1]][: -(-len(parts) // 2)]
                side = indices(range(2 * width))
                pairs = zip(parts[::2], seconds, strict=True)
                parts, width = [builder.shuffle_vector(*pair, side) for pair in pairs], 2 * width
            order = indices(k * LANES + i for i in range(LANES) for k in range(n))
            whole = builder.shuffle_vector(parts[0], parts[0], order)
            write(builder, whole, address)

        _by_number(builder, number, of)

    return store


@primitive(lanes, types.intp)
def sum_rows(builder: Any, stack: Value) -> Value:
    """The sums over lanes of the squares in LANES slots, the sum of slot k in lane k.

    Level by level of the tree, the halves of two sets of vectors side by side.
    """
    sums = [builder.fmul(v, v) for v in _kept(builder, stack, LANES)]
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


@device
def tree_over_lanes(stack, n, most):
    """The sum of `n` slots, up to a power of two, as `sum_lanes` adds: those beyond are zeros,
    which change no sum."""
    half, left = most // 2, n
    while half:
        for k in range(left - half):
            put(stack, k, add(get(stack, k), get(stack, k + half)))
        left = lesser(left, half)
        half >>= 1
    return get(stack, 0)


def short_rows_sum(source: Kind) -> Any:
    """Two functions: the sums of squares of up to LANES vectors, which are kept in slots; and the
    same of what is kept there times the factors of a group, in a stack. `few`: a slot holds one
    element of each vector, else one vector."""
    _, load_some = memory.loads(source)
    load_few = load_transposed(source)

    @device
    def load(x, n, step, count, few, table, values):
        if few:
            return load_few(n, x, table, values)
        for k in range(count):
            put(values, k, load_some(x + k * step, n, table))
        for k in range(count, LANES):
            put(values, k, splat(0.0))
        return sum_rows(values)

    @device
    def sum_rescaled(n, group, few, values, stack):
        if not few:
            for k in range(LANES):
                factor = splat(get_double(group, tiles.FACTORS * LANES + k))
                put(stack, k, mul(get(values, k), factor))
            return sum_rows(stack)
        for k in range(n):
            v = mul(get(values, k), get(group, tiles.FACTORS))
            put(stack, k, mul(v, v))
        return tree_over_lanes(stack, n, LANES)

    return load, sum_rescaled


def short_rows_tile(source: Kind, target: Kind) -> Any:
    """A function that does all there is to do to up to LANES vectors, `step` bytes apart, of no
    more than LANES neighbouring elements."""
    load, sum_rescaled = short_rows_sum(source)
    _, store_some = memory.stores(target)
    store_few = store_transposed(target)
    needs_rescaling, product = source.needs_rescaling, source.narrow and target.narrow
    plainly, with_care = common.divided(product)
    size, written = source.size, target.size
    reserve, reserve_group = memory.stack(LANES), memory.stack(tiles.GROUP)
    settle = tiles.settling(needs_rescaling)

    @device
    def scale(y, n, step, count, few, plain, group, values, table):
        """Divide what is kept in slots."""
        for k in range(n if few else count):
            v = get(values, k)
            if few:
                root = get(group, tiles.ROOTS)
                ups, downs = get(group, tiles.SCALE_UPS), get(group, tiles.SCALE_DOWNS)
            else:
                root = splat(get_double(group, tiles.ROOTS * LANES + k))
                ups = splat(get_double(group, tiles.SCALE_UPS * LANES + k))
                downs = splat(get_double(group, tiles.SCALE_DOWNS * LANES + k))
            v = plainly(v, root) if plain else with_care(v, root, ups, downs)
            if few:
                put(values, k, v)
            else:
                store_some(v, y + k * step, n, table)
        if few:
            store_few(n, values, y, table)

    @device
    def tile(call, x, y, norm, n, step_x, step_y, count, norm_step):
        values, stack, group = reserve(), reserve(), reserve_group()
        table_x, table_y = common.tables_of(call)
        tiles.reset(group)
        few = n <= FEW and count == LANES and step_x == n * size
        few = few and (y == 0 or step_y == n * written)
        put(group, tiles.SUMS, load(x, n, step_x, count, few, table_x, values))
        rescued = needs_rescaling and tiles.find_lost_sums(group, count)
        if rescued:
            put(group, tiles.SUMS, sum_rescaled(n, group, few, values, stack))
        plain = settle(call, group, count, norm, norm_step, rescued)
        if y != 0:
            if product:
                tiles.invert_roots(group)
            scale(y, n, step_y, count, few, plain, group, values, table_y)

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
        for i in range(first, last):
            start = i % tiles * LANES
            at_x, at_y, norm = common.places(x, y, norms, batch, axes, i // tiles * width + start)
            if ahead:
                fetch(at_x, step_x, ahead)
                if y != 0 and y != x:
                    fetch_to_write(at_y, step_y, ahead)
            tile(call, at_x, at_y, norm, n, step_x, step_y, lesser(width - start, LANES), norm_step)

    return run
