#!/bin/sh
# torch 2.13.0 (CPU), numpy 2.4.6, CPython 3.11
#
# torch.autograd.grad(is_grads_batched=True) maps a function's own backward as torch.vmap does, but
# not by torch.func's mapping. The gradient that a backward is given looks like a plain tensor: its
# type is torch.Tensor, it is contiguous, strided, on the CPU, has one gradient's shape, and
# torch.func says that no level of mapping is active. It has no memory: data_ptr() raises, and so
# does numpy(). Who asks torch.func whether somebody maps, and then reads the memory, is told no.
# Within torch.vmap the same backward sees a level.
#
# Output seen:
#   is_grads_batched: Tensor (3,) contiguous cpu, level None, data_ptr RuntimeError
#   torch.vmap: Tensor (3,) contiguous cpu, level 1, data_ptr RuntimeError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/look.py" <<'PY'
import sys

import torch
from torch._C import _functorch

seen = []


class Looked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        try:
            g.data_ptr()
            memory = "an address"
        except RuntimeError as error:
            memory = type(error).__name__
        layout = "contiguous" if g.is_contiguous() else "not contiguous"
        level = _functorch.maybe_current_level()
        seen.append((type(g).__name__, tuple(g.shape), layout, g.device.type, level, memory))
        return g * 2


x = torch.ones(3, requires_grad=True)
y = Looked.apply(x)
torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
torch.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(torch.eye(3))
for name, (kind, shape, layout, device, level, memory) in zip(
    ("is_grads_batched", "torch.vmap"), seen, strict=True
):
    print(f"{name}: {kind} {shape} {layout} {device}, level {level}, data_ptr {memory}")
sys.exit(not (seen[0][4] is None and seen[0][5] == "RuntimeError" and seen[1][4] is not None))
PY
"$folder/venv/bin/python" -W ignore "$folder/look.py"
