"""DTensors in two processes: ``python -m tests.backends.torch_processes FOLDER``."""

import sys

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed import tensor
from torch.distributed.tensor.debug import CommDebugMode

import l2multi as l2


def gradient(function, x, weights):
    """The gradient of the weighted sum of a function's values."""
    x = x.clone().detach().requires_grad_()
    (function(x) * weights).sum().backward()
    return x.grad


def check(rank: int, folder: str) -> None:
    """All that holds of a DTensor, in one of two processes."""
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    mesh = tensor.init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, weights = torch.randn(2, 7, 5, dtype=dtype)  # parts of unequal size
        x[0] *= 1e30
        x[1] = 0
        for placement in (tensor.Shard(0), tensor.Shard(1), tensor.Replicate()):
            spread, spread_weights = (
                tensor.distribute_tensor(a, mesh, [placement]) for a in (x, weights)
            )
            with CommDebugMode() as communication:
                y, norms = l2.normalize(spread, return_norm=True)
            sums = 2 if dtype == torch.float64 else 1  # the largest entries, first
            assert communication.get_total_counts() == sums * (placement == tensor.Shard(1))
            assert type(y) is type(norms) is tensor.DTensor
            assert (y.placements, y.dtype) == ((placement,), dtype), (
                y.placements,
                placement,
                dtype,
            )
            close = {"rtol": 0.0, "atol": 0.0} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(y.full_tensor(), l2.normalize(x), **close)
            torch.testing.assert_close(norms.full_tensor(), l2.norm(x))
            assert l2.is_normalized(y).full_tensor().tolist() == [True, False, *[True] * 5]
            torch.testing.assert_close(
                gradient(l2.normalize, spread, spread_weights).full_tensor(),
                gradient(l2.normalize, x, weights),
            )
            torch.compiler.reset()
            compiled = torch.compile(l2.normalize, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(spread).full_tensor(), y.full_tensor(), **close)
            torch.testing.assert_close(
                gradient(compiled, spread, spread_weights).full_tensor(),
                gradient(l2.normalize, x, weights),
            )
            with pytest.raises(l2.ZeroVectorError, match="position 1"):
                l2.normalize(spread, zero="raise")
            with pytest.raises(TypeError, match="several processes hold parts"):
                l2.normalize(spread, backend="numpy")
            for out in (spread, torch.empty_like(x)):
                with pytest.raises(TypeError, match="out: "):
                    l2.normalize(spread, out=out)
    for dtype in (torch.float32, torch.float64):  # one process has no part of it
        x = tensor.distribute_tensor(torch.full((2, 1), 1e30, dtype=dtype), mesh, [tensor.Shard(1)])
        y, norms = l2.normalize(x, return_norm=True)
        assert y.placements == x.placements
        assert y.full_tensor().tolist() == [[1.0], [1.0]]
        torch.testing.assert_close(norms.full_tensor(), torch.full((2,), 1e30, dtype=dtype))
    with pytest.raises(TypeError, match="complex"):
        l2.norm(tensor.distribute_tensor(torch.ones(2, 3) * 1j, mesh, [tensor.Replicate()]))
    some = tensor.DTensor.from_local(torch.ones(2, 3), mesh, [tensor.Partial()])
    with pytest.raises(TypeError, match="redistribute"):
        l2.norm(some)
    y = l2.norm(some.redistribute(placements=[tensor.Replicate()]))
    np.testing.assert_allclose(y.full_tensor(), 12**0.5)
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(check, args=(sys.argv[1],), nprocs=2)
