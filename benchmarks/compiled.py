"""What normalizing costs a training step: ``python -m benchmarks.compiled``.

For some two-layer models that torch.compile makes into one graph: the time of a step (forwards,
backwards, descent) with `l2multi.normalize` at the end over that with `F.normalize`, in turns in
one process. PyTorch is needed.
"""

import statistics
from collections.abc import Callable
from typing import Any

import l2multi as l2
from benchmarks import common
from benchmarks.common import Call

# Examples in a batch, and the widths of the layers.
MODELS = ((32, 128, 256, 128), (256, 128, 256, 128), (1024, 384, 768, 384), (256, 768, 1536, 768))
BUDGET = 8.0  # seconds a model
LONGER = 30.0  # turns of 30 ms, in which one step in hundreds is disturbed


def step(model: tuple[int, int, int, int], normalize: Callable[[Any], Any]) -> Call:
    """A step of this model, compiled."""
    import torch  # not above: asv imports every module

    torch.manual_seed(0)
    batch, width, hidden, vector = model
    layers = torch.nn.Sequential(
        torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, vector)
    )
    compiled = torch.compile(lambda x: normalize(layers(x)), fullgraph=True)
    descent = torch.optim.SGD(layers.parameters(), 1e-3)
    x, target = torch.randn(batch, width), torch.randn(batch, vector)

    def run() -> None:
        loss = (compiled(x) * target).sum()
        descent.zero_grad()
        loss.backward()
        descent.step()

    run()
    return run


def main() -> None:
    """Print the ratios."""
    import torch
    from torch.nn import functional

    ways = {"F.normalize": functional.normalize, "l2multi": l2.normalize}
    print("| batch, widths | F.normalize, us | l2multi: least over least | medians |")
    print("| --- | --- | --- | --- |")
    for model in MODELS:
        torch.compiler.reset()  # before all of them: it forgets what has been compiled
        steps = {name: step(model, normalize) for name, normalize in ways.items()}
        theirs, own = common.interleave(steps, BUDGET, LONGER).values()
        least = min(own) / min(theirs)
        medians = statistics.median(own) / statistics.median(theirs)
        name = ", ".join(map(str, model))
        print(f"| {name} | {min(theirs) * 1e6:.0f} | {least:.3f} | {medians:.3f} |", flush=True)


if __name__ == "__main__":
    main()
