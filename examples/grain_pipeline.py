"""Feed unit vectors to a device from worker processes, with Grain.

    python examples/grain_pipeline.py

1797 digits of scikit-learn are read, normalized and batched on the host by two worker processes of
Grain's data loader, where `l2multi.normalize` works on NumPy arrays; the main process moves each
batch to the device with `jax.device_put`.
"""

import os

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from sklearn.datasets import load_digits

import l2multi as l2

BATCH = 256


class Digits:
    """The pixels, by index."""

    def __init__(self) -> None:
        self.pixels = load_digits().data.astype(np.float32)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[index]


class Unit(grain.MapTransform):
    """A batch as unit vectors, and the process that made it."""

    def map(self, batch: np.ndarray) -> tuple[np.ndarray, int]:
        return l2.normalize(batch), os.getpid()


def run(workers: int = 2) -> tuple[jax.Array, int]:
    """All unit vectors, on the device, and how many processes made them."""
    source = Digits()
    loader = grain.DataLoader(
        data_source=source,
        sampler=grain.IndexSampler(len(source), grain.NoSharding(), num_epochs=1),
        operations=[grain.Batch(BATCH), Unit()],
        worker_count=workers,
    )
    batches, makers = [], set()
    for unit, maker in loader:
        batches.append(jax.device_put(unit))
        makers.add(int(maker))
    return jnp.concatenate(batches), len(makers - {os.getpid()})


def main(arguments: list[str]) -> None:
    """Run, and say what came."""
    units, makers = run()
    print(f"{units.shape[0]} digits from {makers} worker processes on {units.device}")
    print(f"unit vectors: {bool(l2.is_normalized(units).all())}")


if __name__ == "__main__":
    app.run(main)  # Grain's workers read flags, which have to be parsed
