"""JVP: the tangents of unit vectors, for rows of neighbouring elements, one after another.

For the tangent d of x, that of the unit vector u is ``(d - u (u . d)) / norm``, or ``d / eps``
where the norm is at most `eps`, or 0 where it is 0. As a matrix it is symmetric, so that it serves
derivatives forwards and backwards. Kinds are narrow: no product of three of their numbers leaves
the range of float64, where sums are. The results of half types are in float32, two rows of lanes at
a time, where that holds what is on the way: within 2**-22 of the larger of the two terms. From 32
elements on that takes 0.36 to 0.86 of the time (Zen 5).
"""

from typing import Any

from numba.core import types

from l2multi._summation import LANES
from l2multi.backends.numba import arithmetic, descriptor, lanes, memory
from l2multi.backends.numba.cabi import LONG_ROWS, call_parallel_for, call_worker
from l2multi.backends.numba.compiler import device, function, primitive
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import (
    PREFETCH_OUTPUT,
    backwards,
    memory_habits,
    worker,
)
from l2multi.backends.numba.kernels.short_rows import (
    FEW,
    by_number,
    lane_tree,
    lane_tree_of_squares,
    read_transposed,
    write_transposed,
)
from l2multi.backends.numba.lanes import (
    DOUBLE,
    Value,
    add,
    any_lane,
    canonical,
    everywhere,
    intrinsic,
    lesser,
    mul,
    muladd,
    splat,
    splatted,
)
from l2multi.backends.numba.memory import get, get_double, get_int, put, put_double, set_int
from l2multi.backends.numba.plan import SPLIT

# Rows of lanes, of some vectors together, that are summed before any is scaled: what they are in
# float64 is kept. Those of one vector alone: 500x1536 float32 take 0.85 of the time. Bytes of those
# that are read again: 1000x768 float16 take 0.89 by five together (Zen 5).
KEPT, ALONE, TOGETHER = 64, 128, 2**14

# Parts of a vector from which threads share it, which shorter ones are done before; and parts whose
# sums are held at a time.
SHARED, HELD = 6, 256


LEAST = 2.0**-1022  # the inverses of some smaller numbers are inf


@device
def inverse_of(eps):
    """What a tangent is multiplied by where `eps` counts; finite, for zeros stay zeros."""
    return 1.0 / (eps if eps > LEAST else LEAST) if eps > 0.0 else 0.0


@device
def factors_of(squares, products, eps):
    """What to multiply d and x by; and whether all of both is finite."""
    square, along = lanes.sum_lanes(squares), lanes.sum_lanes(products)
    length = lanes.root(square)
    finite = square - square == 0.0 and along - along == 0.0
    if length <= eps:
        return inverse_of(eps), 0.0, finite
    factor = 1.0 / length
    return factor, -factor * (along / square), finite


@device
def tangent(v, w, factor, back):
    """Lanes of the result."""
    return muladd(v, back, mul(w, factor))


@device
def moderate(value):
    """Whether float32 holds products of this factor with numbers of a half type."""
    return 2.0**-200 <= value * value <= 2.0**200


def part_sums(kind: Kind) -> Any:
    """A function: the sums over lanes of the squares of x and its products with d, of `n`
    neighbouring elements."""
    load, load_some = memory.loads(kind)
    size, step = kind.size, kind.size * LANES

    @device
    def sums(x, d, n):
        left, squares, products = n % LANES, splat(0.0), splat(0.0)
        end = (n - left) * size
        for k in range(0, end, step):
            v, w = load(x + k, 0), load(d + k, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        if left:
            v, w = load_some(x + end, left, 0), load_some(d + end, left, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        return squares, products

    return sums


def wide_tangents(kind: Kind) -> Any:
    """A function: the tangents of elements from one of these bytes to another, whole rows of lanes,
    in float64."""
    load, _ = memory.loads(kind)
    store, _ = memory.stores(kind)
    store_non_temporal = memory.non_temporal_store(kind)
    step = kind.size * LANES

    @device
    def rows(x, d, y, first, end, factor, back, stream):
        factors, backs = splat(factor), splat(back)
        if stream:
            for k in range(first, end, step):
                v = tangent(load(x + k, 0), load(d + k, 0), factors, backs)
                store_non_temporal(canonical(v), y + k, 0)
        else:
            for k in range(first, end, step):
                memory.prefetch_for_write(y + k + PREFETCH_OUTPUT)
                v = tangent(load(x + k, 0), load(d + k, 0), factors, backs)
                store(canonical(v), y + k, 0)

    return rows


def half_tangents(kind: Kind) -> Any:
    """The same of a half type, by its factors; in float32 where these are moderate."""
    wide, step = wide_tangents(kind), 2 * kind.size * LANES
    two, two_non_temporal = (
        arithmetic.tangents_of_two_rows(kind, non_temporal) for non_temporal in (False, True)
    )

    @device
    def rows(x, d, y, first, end, factor, back, stream):
        factors, backs = splat(factor), splat(back)
        if moderate(factor) and (back == 0.0 or moderate(back)):
            after = end - (end - first) % step
            if stream:
                for k in range(first, after, step):
                    if not two_non_temporal(x + k, d + k, y + k, factors, backs):
                        wide(x, d, y, k, k + step, factor, back, stream)
            else:
                for k in range(first, after, step):
                    memory.prefetch_for_write(y + k + PREFETCH_OUTPUT)
                    if not two(x + k, d + k, y + k, factors, backs):
                        wide(x, d, y, k, k + step, factor, back, stream)
            first = after
        wide(x, d, y, first, end, factor, back, stream)

    return rows


def part_tangents(kind: Kind) -> Any:
    """A function: the tangents of `n` neighbouring elements, by the factors of their vector."""
    _, load_some = memory.loads(kind)
    _, store_some = memory.stores(kind)
    size, boundary = kind.size, memory.boundary(kind)
    rows = half_tangents(kind) if kind.half else wide_tangents(kind)

    @device
    def scale(x, d, y, n, factor, back, stream):
        left = n % LANES
        end = (n - left) * size
        rows(x, d, y, 0, end, factor, back, stream and y % boundary == 0)
        if left:
            v, w = load_some(x + end, left, 0), load_some(d + end, left, 0)
            v = tangent(v, w, splat(factor), splat(back))
            store_some(canonical(v), y + end, left, 0)

    return scale


def jvp_row(kind: Kind) -> Any:
    """A function: the tangent of one vector, of any length; its sums are by parts, as where
    threads share it."""
    sums, scale, size, boundary = (
        part_sums(kind), part_tangents(kind), kind.size, memory.boundary(kind)
    )  # fmt: skip

    @device
    def row(x, d, y, n, eps, stream):
        squares = products = splat(0.0)
        for start in range(0, n, SPLIT):
            n_part = lesser(SPLIT, n - start)
            square, product = sums(x + start * size, d + start * size, n_part)
            squares, products = add(squares, square), add(products, product)
        factor, back, _ = factors_of(squares, products, eps)
        stream = stream and n * size % boundary == 0
        # What was summed last is in the caches still.
        for start in range((n - 1) // SPLIT * SPLIT, -1, -SPLIT):
            n_part, at = lesser(SPLIT, n - start), start * size
            scale(x + at, d + at, y + at, n_part, factor, back, stream)

    return row


def jvp_kept(kind: Kind) -> Any:
    """A function: the tangents of some vectors, of no more than KEPT rows of lanes together, or one
    of no more than ALONE.

    They are converted once, and none waits for its own root. Where all is finite, no lane is looked
    at for NaN, which is a fifth of the instructions.
    """
    load, load_some = memory.loads(kind)
    store, store_some = memory.stores(kind)
    store_non_temporal = memory.non_temporal_store(kind)
    size, step, boundary = kind.size, kind.size * LANES, memory.boundary(kind)
    reserve, reserve_doubles = memory.stack(ALONE), memory.stack(2 * KEPT // LANES)

    @device
    def kept(x, d, y, n, count, eps, stream):
        values, others, doubles = reserve(), reserve(), reserve_doubles()
        whole, left, number, plain = n // LANES, n % LANES, 0, True
        for i in range(count):
            squares = products = splat(0.0)
            for _ in range(whole):
                v, w = load(x, 0), load(d, 0)
                squares, products = muladd(v, v, squares), muladd(v, w, products)
                put(values, number, v)
                put(others, number, w)
                x, d, number = x + step, d + step, number + 1
            if left:
                v, w = load_some(x, left, 0), load_some(d, left, 0)
                squares, products = muladd(v, v, squares), muladd(v, w, products)
                put(values, number, v)
                put(others, number, w)
                x, d, number = x + left * size, d + left * size, number + 1
            factor, back, finite = factors_of(squares, products, eps)
            put_double(doubles, 2 * i, factor)
            put_double(doubles, 2 * i + 1, back)
            plain = plain and finite
        number, stream = 0, stream and (y | n * size) % boundary == 0
        for i in range(count):
            factors = splat(get_double(doubles, 2 * i))
            backs = splat(get_double(doubles, 2 * i + 1))
            if not plain:
                for _ in range(whole):
                    v = tangent(get(values, number), get(others, number), factors, backs)
                    store(canonical(v), y, 0)
                    y, number = y + step, number + 1
            elif stream:
                for _ in range(whole):
                    v = tangent(get(values, number), get(others, number), factors, backs)
                    store_non_temporal(v, y, 0)
                    y, number = y + step, number + 1
            else:
                for _ in range(whole):
                    memory.prefetch_for_write(y + PREFETCH_OUTPUT)
                    v = tangent(get(values, number), get(others, number), factors, backs)
                    store(v, y, 0)
                    y, number = y + step, number + 1
            if left:
                v = tangent(get(values, number), get(others, number), factors, backs)
                store_some(canonical(v), y, left, 0)
                y, number = y + left * size, number + 1

    return kept


def jvp_read_again(kind: Kind) -> Any:
    """The same of a half type, whose vectors have two rows of lanes at least: to convert them again
    costs less than to keep float64."""
    sums, scale, size, boundary = (
        part_sums(kind), part_tangents(kind), kind.size, memory.boundary(kind)
    )  # fmt: skip
    reserve_doubles = memory.stack(2 * KEPT // LANES)

    @device
    def again(x, d, y, n, count, eps, stream):
        doubles, row, stream = reserve_doubles(), n * size, stream and (n * size) % boundary == 0
        for i in range(count):
            squares, products = sums(x + i * row, d + i * row, n)
            factor, back, _ = factors_of(squares, products, eps)
            put_double(doubles, 2 * i, factor)
            put_double(doubles, 2 * i + 1, back)
        for i in range(count):
            at, factor, back = i * row, get_double(doubles, 2 * i), get_double(doubles, 2 * i + 1)
            scale(x + at, d + at, y + at, n, factor, back, stream)

    return again


def tangent_transposed(kind: Kind) -> Any:
    """A primitive: the tangents of LANES vectors of `n` elements, up to FEW, that lie one after
    another, ``(n, x, d, y, eps, inverse_eps)``; False, and nothing is written, where one of them is
    not finite."""

    @primitive(types.boolean, *[types.intp] * 4, *[types.float64] * 2)
    def tangents(
        builder: Any, number: Value, x: Value, d: Value, y: Value, eps: Value, inverse: Value
    ) -> Value:
        zero, name = everywhere(DOUBLE, 0.0), f"llvm.fmuladd.v{LANES}f64"

        def of(n: int) -> Value:
            values, others = (
                [kind.decode(builder, v, None) for v in read_transposed(builder, kind, n, at)]
                for at in (x, d)
            )
            squares = lane_tree_of_squares(builder, kind, values)
            products = lane_tree(builder, list(map(builder.fmul, values, others)))
            length = intrinsic(builder, f"llvm.sqrt.v{LANES}f64", squares.type, squares)
            low = builder.fcmp_ordered("<=", length, splatted(builder, eps))
            factor = builder.fdiv(everywhere(DOUBLE, 1.0), length)
            back = builder.fmul(builder.fneg(factor), builder.fdiv(products, squares))
            factor = builder.select(low, splatted(builder, inverse), factor)
            back = builder.select(low, zero, back)
            differences = (builder.fsub(one, one) for one in (squares, products))
            bad = (builder.fcmp_unordered("une", one, zero) for one in differences)
            good = builder.not_(any_lane(builder, builder.or_(*bad)))
            with builder.if_then(good):
                found = [
                    intrinsic(builder, name, v.type, v, back, builder.fmul(w, factor))
                    for v, w in zip(values, others, strict=True)
                ]
                write_transposed(builder, [kind.encoded(builder, v, None) for v in found], y)
            return good

        return by_number(builder, number, of)

    return tangents


def jvp_part_sum(source: Kind, target: Kind) -> Any:
    """Of parts of SPLIT elements of one long vector, the sums over lanes: two slots for each."""
    sums, size = part_sums(source), source.size
    assert target is source

    @worker
    def run(first, last, call):
        scratch, n = get_int(call, descriptor.SCRATCH), get_int(call, descriptor.N)
        x, d = get_int(call, descriptor.X), get_int(call, descriptor.TANGENT)
        for part in range(first, last):
            at = part * SPLIT
            squares, products = sums(x + at * size, d + at * size, lesser(SPLIT, n - at))
            put(scratch, 2 * part, squares)
            put(scratch, 2 * part + 1, products)

    return run


def jvp_part_scale(source: Kind, target: Kind) -> Any:
    """Tangents of parts of one long vector, by its factors."""
    scale, size = part_tangents(source), source.size
    assert target is source

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        d, n = get_int(call, descriptor.TANGENT), get_int(call, descriptor.N)
        factor, back = get_double(call, descriptor.FACTOR), get_double(call, descriptor.BACK)
        _, _, stream = memory_habits(call, n, 0, size, size)
        for turn in range(first, last):
            start = backwards(turn, (n + SPLIT - 1) // SPLIT, call) * SPLIT
            n_part, at = lesser(SPLIT, n - start), start * size
            scale(x + at, d + at, y + at, n_part, factor, back, stream)
        if stream:
            memory.fence()

    return run


def jvp(source: Kind, target: Kind) -> Any:
    """Tangents along rows of neighbouring elements, one after the other: all of one kind."""
    row, kept, few, size = (
        jvp_row(source),
        jvp_kept(source),
        tangent_transposed(source),
        source.size,
    )
    half = source.half
    again = jvp_read_again(source) if half else kept
    assert target is source

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        d, n = get_int(call, descriptor.TANGENT), get_int(call, descriptor.N)
        eps = get_double(call, descriptor.EPS)
        inverse_eps = inverse_of(eps)
        _, _, stream = memory_habits(call, n, 0, size, size)
        rows, reads = -(-n // LANES), half and n >= 2 * LANES
        if reads:
            most = lesser(TOGETHER // (2 * n * size), KEPT)
        else:
            most = 1 if KEPT < rows <= ALONE else KEPT // rows
        while first < last:
            at = first * n * size
            if (
                n <= FEW
                and last - first >= LANES
                and few(n, x + at, d + at, y + at, eps, inverse_eps)
            ):
                first += LANES
            elif most > 0:
                count = lesser(most, last - first)
                if reads:
                    again(x + at, d + at, y + at, n, count, eps, stream)
                else:
                    kept(x + at, d + at, y + at, n, count, eps, stream)
                first += count
            else:
                row(x + at, d + at, y + at, n, eps, stream)
                first += 1
        if stream:
            memory.fence()

    return run


def jvp_rows() -> Any:
    """What gives these workers to the threads: the rows, or of a few long ones the parts."""
    reserve = memory.stack(2 * HELD)

    @device
    def place(call, x, d, y, n):
        set_int(call, descriptor.X, x)
        set_int(call, descriptor.TANGENT, d)
        set_int(call, descriptor.Y, y)
        set_int(call, descriptor.N, n)

    @device
    def share(parallel_for, call, x, d, y, n, size):
        """One vector by parts, in the order of `jvp_row`."""
        scratch, some = reserve(), HELD * SPLIT
        set_int(call, descriptor.SCRATCH, scratch)
        squares = products = splat(0.0)
        for start in range(0, n, some):
            n_some, at = lesser(some, n - start), start * size
            place(call, x + at, d + at, y + at, n_some)
            parts = (n_some + SPLIT - 1) // SPLIT
            call_parallel_for(parallel_for, get_int(call, descriptor.PART_SUM), parts, call)
            for part in range(parts):
                squares = add(squares, get(scratch, 2 * part))
                products = add(products, get(scratch, 2 * part + 1))
        factor, back, _ = factors_of(squares, products, get_double(call, descriptor.EPS))
        put_double(call, descriptor.FACTOR, factor)
        put_double(call, descriptor.BACK, back)
        place(call, x, d, y, n)
        parts = (n + SPLIT - 1) // SPLIT
        call_parallel_for(parallel_for, get_int(call, descriptor.PART_SCALE), parts, call)

    @function(LONG_ROWS)
    def run(count, call):
        threads, n = get_int(call, descriptor.THREADS), get_int(call, descriptor.N)
        rows = get_int(call, descriptor.WORKER)
        if threads == 1:
            call_worker(rows, 0, count, call)
            return
        parallel_for = get_int(get_int(call, descriptor.POOL), descriptor.PARALLEL_FOR)
        if n < SHARED * SPLIT or count >= 2 * threads:
            call_parallel_for(parallel_for, rows, count, call)
            return
        x, d = get_int(call, descriptor.X), get_int(call, descriptor.TANGENT)
        y, step = get_int(call, descriptor.Y), get_int(get_int(call, descriptor.BATCH), 1)
        modes = lanes.exact_modes()  # as workers do, for the sums of parts are added here
        for at in range(0, count * step, step):
            share(parallel_for, call, x + at, d + at, y + at, n, step // n)
        lanes.restore_modes(modes)

    return run
