"""Train an embedding of handwritten digits whose loss is made of unit vectors.

    python examples/metric_learning.py

1797 digits of scikit-learn, one of them blank: a sheet on which nobody has written. A linear
embedding is trained with Flax and Optax to give digits of one label a large cosine (supervised
contrastive loss of Khosla et al., NeurIPS 2020, arXiv:2004.11362). The blank digit's embedding is
the zero vector. By the naive formula its unit vector is NaN, and after the first step so is the
whole model; by l2multi it is zero, with a gradient of zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import l2multi as l2

STEPS, BATCH, TRAINED = 100, 256, 1000


def naive(x: jax.Array) -> jax.Array:
    """The textbook formula."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def train(normalize: Callable[[jax.Array], jax.Array]) -> tuple[float, float]:
    """The last loss, and how often the most similar trained digit has the label of a new one."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    pixels[0] = 0
    model = nnx.Linear(64, 16, use_bias=False, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Linear, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss(model: nnx.Linear) -> jax.Array:
            unit = normalize(model(x))
            others = 1 - jnp.eye(len(x))
            alike = (y[:, None] == y) * others
            scores = unit @ unit.T / 0.1 - 1e9 * (1 - others)
            chances = jax.nn.log_softmax(scores)
            return -jnp.mean((alike * chances).sum(1) / jnp.maximum(alike.sum(1), 1))

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    random = np.random.default_rng(0)
    for _ in range(STEPS):
        chosen = np.append(0, random.choice(TRAINED, BATCH - 1, replace=False))
        value = step(model, optimizer, pixels[chosen], labels[chosen])
    unit = np.asarray(normalize(model(pixels)))
    nearest = (unit[TRAINED:] @ unit[:TRAINED].T).argmax(1)
    return float(value), float(np.mean(labels[nearest] == labels[TRAINED:]))


if __name__ == "__main__":
    for name, normalize in (("x / jnp.linalg.norm(x)", naive), ("l2multi.normalize", l2.normalize)):
        loss, accuracy = train(normalize)
        print(f"{name:<24} last loss {loss:6.3f}, label of a new digit right for {accuracy:.1%}")
