#!/bin/sh
# torch 2.13.0 (CPU), CPython 3.11
#
# What torch.compile has compiled is found again by later processes, by the names of the operators in
# it. What an operator of one's own is made of is no part of that: neither the derivative given to
# `register_autograd`, which is in what has been kept, nor the inside of an operator that torch takes
# apart ("CompositeImplicitAutograd"). Who mends a derivative and starts anew gets the values of the new
# source and the gradients of the old one, without a word. Python that is traced is looked at; a new
# name for the operator helps.
#
# Output seen (a process with a factor of 1, then one with 2; sums of two ones, and a gradient):
#   custom_op, not compiled: 2.0 [1.0, 1.0] then 4.0 [2.0, 2.0]
#   custom_op: 2.0 [1.0, 1.0] then 4.0 [1.0, 1.0]
#   composite: 2.0 [1.0, 1.0] then 2.0 [1.0, 1.0]
#   no operator: 2.0 [1.0, 1.0] then 4.0 [2.0, 2.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cat >"$folder/scaled.py" <<'PY'
import json
import sys

import torch

kind, factor = sys.argv[1], float(sys.argv[2])


def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * factor


if kind.startswith("custom_op"):
    made = torch.library.custom_op("mine::scaled", scaled, mutates_args=())
    made.register_fake(torch.empty_like)
    made.register_autograd(lambda context, gradient: gradient * factor)
elif kind == "composite":
    library = torch.library.Library("mine", "DEF")
    library.define("scaled(Tensor x) -> Tensor")
    library.impl("scaled", scaled, "CompositeImplicitAutograd")
    made = torch.ops.mine.scaled
else:
    made = scaled


def total(x):
    return made(x).sum()


if not kind.endswith("not compiled"):
    total = torch.compile(total)
x = torch.ones(2, requires_grad=True)
y = total(x)
y.backward()
print(json.dumps([y.item(), x.grad.tolist()]))
PY
cat >"$folder/look.py" <<'PY'
import json
import os
import subprocess
import sys
import tempfile

found = {}
for kind in ("custom_op, not compiled", "custom_op", "composite", "no operator"):
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        script = [sys.executable, "-W", "ignore", sys.argv[1], kind]
        found[kind] = [
            json.loads(subprocess.check_output([*script, factor], env=environment))
            for factor in ("1", "2")
        ]
    (first, before), (second, after) = found[kind]
    print(f"{kind}: {first} {before} then {second} {after}")
one, two = [2.0, [1.0, 1.0]], [4.0, [2.0, 2.0]]
want = [[one, two], [one, [4.0, [1.0, 1.0]]], [one, one], [one, two]]
sys.exit(list(found.values()) != want)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder/scaled.py"
