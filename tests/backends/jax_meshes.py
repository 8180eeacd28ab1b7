"""Checks over several devices, and over two processes; `test_jax` runs this as a script."""

import re
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l2multi as l2
import l2multi.jax

# Vectors of every magnitude, zeros, and one that is large on one device and small on the others.
SHAPE = (16, 512)
SIZES = np.float32(2.0) ** np.array([0, -105, 115, -66, 63, 64, -33, 1], np.float32)
COLLECTIVE = re.compile(r"= (\S.*?) ((?:all|collective|reduce-scatter|ragged)[a-z-]*?)(-start)?\(")


def vectors() -> np.ndarray:
    """The input, of all processes."""
    a = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
    a *= np.tile(SIZES, 2)[:, None]
    a[3] = 0
    a[8, :100] *= np.float32(2.0**60)
    a[8, 100:] *= np.float32(2.0**-40)
    return a


A = vectors()
WIDE = A.astype("f8")
NORM = np.sqrt((WIDE * WIDE).sum(1))
UNIT = WIDE / np.where(NORM == 0, 1, NORM)[:, None]
WEIGHT = np.random.default_rng(1).standard_normal(SHAPE).astype("f4")
# The gradient of the sum of weighted unit vectors, times the norm: of moderate size everywhere.
GRADIENT = (WEIGHT - UNIT * (UNIT * WEIGHT).sum(1, keepdims=True)) * (NORM > 0)[:, None]


def close(y: jax.Array, want: np.ndarray) -> None:
    """What this process holds of `y` is right, to 1e-6 of the largest entry of each vector."""
    for shard in y.addressable_shards:
        part = want[shard.index]
        got = np.asarray(shard.data, "f8")
        scale = np.abs(part).max(-1, keepdims=True) if part.ndim > 1 else np.abs(part)
        miss = np.abs(got - part) - 1e-6 * scale
        rows = np.argwhere(~(miss <= 2.0**-126))
        assert not rows.size, (y.sharding, shard.index, rows[:5], got.flat[:3], part.flat[:3])


def collectives(function, *arguments) -> list[tuple[str, int]]:
    """The collectives of a compiled function, and how many scalars each carries."""
    text = function.lower(*arguments).compile().as_text()
    found = []
    for shapes, kind, _ in COLLECTIVE.findall(text):
        sizes = re.findall(r"\w+\[([\d,]*)\]", shapes)
        found.append((kind, sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in sizes)))
    return found


def check(spec: P, mesh: jax.sharding.Mesh) -> None:
    """Value, norm, gradient, sharding and collectives of arrays that are spread like this."""
    sharding = NamedSharding(mesh, spec)
    x, weight, scale = (
        jax.make_array_from_callback(SHAPE, sharding, lambda index, a=a: a[index])
        for a in (A, WEIGHT, np.broadcast_to(np.float32(NORM)[:, None], SHAPE))
    )
    batch, split = (*spec, None)[:2]
    part = SHAPE[0] // (mesh.shape[batch] if isinstance(batch, str) else 1)

    def normalize(x):
        return l2.normalize(x, return_norm=True)

    def per_shard(x):
        return l2multi.jax.normalize(x, axis_name=split, return_norm=True)

    def of_norm(x):
        return l2multi.jax.norm(x, axis_name=split)

    of_shards = jax.shard_map(per_shard, mesh=mesh, in_specs=spec, out_specs=(spec, P(batch)))
    norms = jax.shard_map(of_norm, mesh=mesh, in_specs=spec, out_specs=P(batch))
    # The compiler adds up float64 sums; a function of shards, which knows no platform, three sums.
    for whole, alone, each in ((normalize, l2.norm, 1), (of_shards, norms, 3)):
        sums = [("all-reduce", each * part)] if split else []
        compiled = jax.jit(whole)
        y, n = compiled(x)
        close(y, UNIT)
        close(n, NORM)
        close(jax.jit(alone)(x), NORM)
        assert y.sharding.is_equivalent_to(x.sharding, 2), y.sharding
        assert collectives(compiled, x) == sums, collectives(compiled, x)
        assert collectives(jax.jit(alone), x) == sums

        def loss(x, factor, whole=whole):
            return (factor * whole(x)[0]).sum()

        gradient = jax.jit(jax.grad(loss))
        factor = weight * scale  # for the gradient of a tiny vector has no float32
        close(gradient(x, factor), GRADIENT)
        back = [("all-reduce", part)] if split else []
        found = collectives(gradient, x, factor)
        assert sorted(found) == sorted(sums + back), found
        gradient = jax.jit(jax.grad(lambda x, alone=alone: alone(x).sum()))
        close(gradient(x), UNIT)
        assert collectives(gradient, x) == sums


def eight() -> None:
    """On one process with eight devices."""
    assert jax.device_count() == 8
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
        with jax.set_mesh(mesh):
            for spec in (P("data"), P(None, "model"), P("data", "model")):
                check(spec, mesh)
        x = jax.device_put(A, NamedSharding(mesh, P("data")))
        y = l2.normalize(x, eps=0.5)  # eagerly, and with no mesh set
        assert y.sharding.is_equivalent_to(x.sharding, 2), y.sharding
        with pytest.raises(TypeError, match="single CPU device"):
            l2.normalize(x, backend="numpy")
        x = jax.device_put(A, NamedSharding(mesh, P(None, "model")))  # a split vector, likewise
        y, norms = l2.normalize(x, return_norm=True)
        close(y, UNIT)
        np.testing.assert_array_equal(norms, l2.norm(x))
        _, tangent = jax.jvp(l2.normalize, (x,), (x,))
        assert tangent.shape == x.shape
    both = jax.shard_map(  # split over two axes of the mesh, unlike what `check` has
        lambda x: l2multi.jax.normalize(x, axis_name=("data", "model"), eps=2.0**-130),
        mesh=mesh, in_specs=P(None, ("data", "model")), out_specs=P(None, ("data", "model")),
    )  # fmt: skip
    x = jax.device_put(A, NamedSharding(mesh, P(None, ("data", "model"))))
    close(both(x), UNIT)
    for name, error in (("other", NameError), (3, TypeError), (("data", 3), TypeError)):
        with pytest.raises(error, match="axis_name"):
            jax.shard_map(
                lambda x, name=name: l2multi.jax.normalize(x, axis_name=name),
                mesh=mesh, in_specs=P(), out_specs=P(),
            )(A)  # fmt: skip
    for axis_name, spec in ((("data", "model"), P(None, "model")), ("model", P("data"))):
        # Where types keep account of what varies, a vector that is on every device is refused.
        for function in (l2multi.jax.normalize, l2multi.jax.norm):
            refused = pytest.raises(ValueError, match="axis_name: x is the same on all devices")
            with refused as refusal:
                jax.shard_map(
                    lambda x, f=function, name=axis_name: f(x, axis_name=name),
                    mesh=mesh, in_specs=spec, out_specs=P(),
                )(jax.device_put(A, NamedSharding(mesh, spec)))  # fmt: skip
    # The cure of the last refusal, which is for "model".
    cure = compile(str(refusal.value).rpartition(" pass ")[2], "the cure", "eval")
    equal = jax.shard_map(
        lambda x: l2multi.jax.norm(eval(cure, {"jax": jax, "x": x}), axis_name="model"),
        mesh=mesh, in_specs=P("data"), out_specs=P("data"),
    )  # fmt: skip
    close(equal(jax.device_put(A, NamedSharding(mesh, P("data")))), 2 * NORM)
    line = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    with jax.enable_x64(True):  # shards of one number, whose products XLA rearranges
        for sizes in ([1e-200] * 8, [0.0] * 8, [1e-200, 1e200, 1.0] + [0.0] * 5, [1e200] * 8):
            for dtype in ("f8", "c16"):
                a = np.array(sizes, dtype)
                x = jax.device_put(a, NamedSharding(line, P("i")))
                top = np.abs(a).max() or 1.0
                length = np.sqrt((np.abs(a / top) ** 2).sum())
                for call in (l2.normalize, jax.jit(l2.normalize)):
                    want = a / top / (length or 1.0)
                    np.testing.assert_allclose(call(x), want, 1e-15, 1e-300)
                np.testing.assert_allclose(l2.norm(x), length * top, 1e-15)
        x = np.full((8, 50_001, 3, 2), 0.1)  # equal numbers, on one device and on each
        few, many = np.sqrt(np.longdouble(0.1) ** 2 * 50_001 * np.array([2, 16])[:, None])

        def both(x, *axes, **name):
            def norm(x):
                return l2multi.jax.norm(x, axes, **name)

            return jax.jvp(norm, (x,), (x,))

        def shards(function, out):
            return jax.shard_map(function, mesh=line, in_specs=P("i"), out_specs=out)

        for function, a, want in (
            (lambda x: both(x, 1, 3), x, few),
            (lambda x: both(x, 1, 3), x.astype("c16"), few),
            (shards(lambda x: both(x, 1, 3), P("i")), x, few),
            (shards(lambda x: both(x, 0, 1, 3, axis_name="i"), P()), x, many),
        ):
            for found in jax.jit(function)(a):
                miss = np.abs(np.asarray(found) - want) / np.spacing(want.astype("f8"))
                assert miss.max() <= 4, miss
    other = jax.device_put(A, jax.devices()[2])
    for backend in ("jax", "numpy"):
        assert l2.normalize(other, backend=backend).devices() == {jax.devices()[2]}


def pair(rank: int, port: int) -> None:
    """On one of two processes with two devices each."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=60)
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("model",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            check(P(None, "model"), mesh)
    jax.distributed.shutdown()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        eight()
    else:
        pair(*map(int, sys.argv[1:]))
