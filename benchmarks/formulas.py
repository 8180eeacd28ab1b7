"""Formulas of unit vectors in JAX, and what they are to a compiler for GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import l2multi as l2


def divided(x: jax.Array) -> jax.Array:
    """What most people write."""
    y: jax.Array = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return y


def multiplied(x: jax.Array) -> jax.Array:
    """What some write for speed."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def three_sums(x: jax.Array) -> jax.Array:
    """Safe in float32: squares of x, of x times a large power of two and over it, in one pass."""
    wide, up, down = x.astype(np.float32), 2.0**96, 2.0**-96
    plain, more, less = (
        jnp.square(wide * scale).sum(-1, keepdims=True) for scale in (1.0, up, down)
    )
    small, fits = plain < 2.0**-66, plain < jnp.inf
    root = jnp.sqrt(jnp.where(small, more, jnp.where(fits, plain, less)))
    scale = jnp.where(small, up, jnp.where(fits, 1.0, down))
    return (wide * scale / jnp.where(root == 0, 1.0, root)).astype(x.dtype)


def rescue(x: jax.Array) -> jax.Array:
    """Safe in float32: one sum, and `three_sums` where that has left the range in any row."""
    wide = x.astype(np.float32)
    plain = jnp.square(wide).sum(-1, keepdims=True)
    safe = ((plain >= 2.0**-66) & (plain < jnp.inf)).all()
    y: jax.Array = lax.cond(
        safe, lambda: (wide / jnp.sqrt(plain)).astype(x.dtype), lambda: three_sums(x)
    )
    return y


# Ways to be right for every vector; that of l2multi is one sum in float64.
SAFE = {
    "l2multi": lambda x: l2.normalize(x),
    "three float32 sums": three_sums,
    "one, and three if needed": rescue,
}


def programs() -> dict[str, dict[str, int]]:
    """What the formulas are lowered to for CUDA, which needs no GPU. XLA makes one kernel, which
    reads and writes memory once, of one sum and no choice between operands."""
    x = jax.ShapeDtypeStruct((4096, 1024), np.float32)
    operations = {"sums": "reduce(", "selects": "select", "branches": "case"}
    found = {}
    for name, function in {**SAFE, "x / norm, not safe": divided}.items():
        text = jax.jit(function).trace(x).lower(lowering_platforms=("cuda",)).as_text()
        found[name] = {key: text.count(f"stablehlo.{op}") for key, op in operations.items()}
        found[name]["float64"] = int("f64>" in text)
    return found
