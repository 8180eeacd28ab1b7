"""JVP: the tangents of unit vectors, for rows of neighbouring elements, one after another."""

from typing import Any

from l2multi._summation import LANES
from l2multi.backends.numba import descriptor, lanes, memory
from l2multi.backends.numba.compiler import device
from l2multi.backends.numba.dtypes import Kind
from l2multi.backends.numba.kernels.common import memory_habits, worker
from l2multi.backends.numba.lanes import canonical, mul, muladd, splat
from l2multi.backends.numba.memory import get_double, get_int


def jvp_row(kind: Kind) -> Any:
    """A function: the tangent of the unit vector u of `x`, for the tangent `d` of `x`. That is
    ``(d - u (u . d)) / norm``, or ``d / eps`` where the norm is at most `eps`, or 0 where it is 0.

    As a matrix it is symmetric, so that it serves derivatives forwards and backwards. `kind` is
    narrow: no product of three of its numbers leaves the range of float64.
    """
    load, load_some = memory.loads(kind)
    store, store_some = memory.stores(kind)
    store_non_temporal = memory.non_temporal_store(kind)
    size, step, boundary = kind.size, kind.size * LANES, memory.boundary(kind)

    @device
    def tangent(v, w, factor, back):
        return canonical(muladd(v, back, mul(w, factor)))

    @device
    def row(x, d, y, n, eps, stream):
        left, whole = n % LANES, n - n % LANES
        squares = products = splat(0.0)
        for k in range(0, whole * size, step):
            v, w = load(x + k, 0), load(d + k, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        at = whole * size
        if left:
            v, w = load_some(x + at, left, 0), load_some(d + at, left, 0)
            squares, products = muladd(v, v, squares), muladd(v, w, products)
        square = lanes.sum_lanes(squares)
        length = lanes.root(square)
        if length <= eps:
            factor, back = 1.0 / eps if eps > 0.0 else 0.0, 0.0
        else:
            factor = 1.0 / length
            back = -factor * (lanes.sum_lanes(products) / square)
        factors, backs = splat(factor), splat(back)
        if stream and (y | at + left * size) % boundary == 0:
            for k in range(0, at, step):
                v = tangent(load(x + k, 0), load(d + k, 0), factors, backs)
                store_non_temporal(v, y + k, 0)
        else:
            for k in range(0, at, step):
                store(tangent(load(x + k, 0), load(d + k, 0), factors, backs), y + k, 0)
        if left:
            v, w = load_some(x + at, left, 0), load_some(d + at, left, 0)
            store_some(tangent(v, w, factors, backs), y + at, left, 0)

    return row


def jvp(source: Kind, target: Kind) -> Any:
    """Tangents along rows of neighbouring elements, one after the other: all of one kind."""
    row, size = jvp_row(source), source.size
    assert target is source

    @worker
    def run(first, last, call):
        x, y = get_int(call, descriptor.X), get_int(call, descriptor.Y)
        d, n = get_int(call, descriptor.TANGENT), get_int(call, descriptor.N)
        eps = get_double(call, descriptor.EPS)
        _, _, stream = memory_habits(call, n, 0, size, size)
        for at in range(first * n * size, last * n * size, n * size):
            row(x + at, d + at, y + at, n, eps, stream)
        if stream:
            memory.fence()

    return run
