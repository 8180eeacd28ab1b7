"""The operators that torch.compile traces: registered as torch asks for it, and what becomes of
them in transforms, in graphs and in exported programs."""

import hashlib
from pathlib import Path

import pytest

import l2multi as l2

torch = pytest.importorskip("torch")

from l2multi.containers import torch_operators  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

F4, F8 = torch.float32, torch.float64
DTYPES = [F4, F8, torch.bfloat16, torch.float16, torch.complex64]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "sliced": lambda x: x[1:, ::2, 1:],
    "permuted": lambda x: x.permute(2, 0, 1),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, layout, needs_grad):
    """Schema, registrations, values of no memory, and derivatives under AOTAutograd."""
    x = LAYOUTS[layout](torch.randn(3, 4, 5).to(dtype)).detach().requires_grad_(needs_grad)
    norm = F8 if dtype == F8 else F4
    for axes, *how in (([2], 0.0, False), ([0, 1], 2.0, True)):
        torch.library.opcheck(torch_operators.unit, (x, axes, *how, dtype, norm))
        torch.library.opcheck(torch_operators.length, (x, axes, how[1], norm))


def first(x):
    """A number, to be differentiated."""
    return l2.normalize(x)[..., 0].sum()


TRANSFORMS = {
    "vmap": torch.func.vmap(l2.normalize),
    "vmap of another axis": torch.func.vmap(lambda x: l2.normalize(x, 0), in_dims=2, out_dims=1),
    "vmap of norms": torch.func.vmap(lambda x: l2.normalize(x, return_norm=True)),
    "vmap twice": torch.func.vmap(torch.func.vmap(l2.norm, in_dims=1)),
    "grad": torch.func.grad(first),
    "vmap of grad": torch.func.vmap(torch.func.grad(first)),
    "grad of vmap": torch.func.grad(lambda x: torch.func.vmap(first)(x).sum()),
    "jvp": lambda x: torch.func.jvp(l2.normalize, (x,), (x.cos(),)),
    "vjp": lambda x: torch.func.vjp(l2.norm, x)[1](x[..., 0].cos()),
    "jacrev": torch.func.jacrev(first),
    "jacfwd": torch.func.jacfwd(first),
    "hessian": torch.func.hessian(first),
}


def nodes(graphs):
    """What is called in graphs, by its names."""
    return [str(n.target) for g in graphs for n in g.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
    """In one graph, with an operator in it (from torch 2.7 on): the values of torch.func outside of
    one. No vmap calls an operator for one vector after another."""
    graphs = []

    def kept(module, arguments):
        graphs.append(module)
        return module

    function, x = TRANSFORMS[name], torch.randn(3, 2, 4)
    torch.compiler.reset()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    try:
        found = torch.compile(function, fullgraph=True, backend=kept)(x)
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(True)
    torch.testing.assert_close(found, function(x))
    assert len(graphs) == 1
    assert any("l2multi" in node for node in nodes(graphs)) == hasattr(
        torch.compiler, "is_exporting"
    )


def test_zero_vectors():
    """Their derivatives are 0 under transforms in a graph, the second ones too."""
    x = torch.zeros(3)
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.compiler.reset()
        found = torch.compile(transform(first), fullgraph=True, backend="aot_eager")(x)
        assert not found.any()


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_have_none(strict):
    """They run where this package is not, and compute no norms that nobody asked for, which have
    fewer axes."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return l2.normalize(x)

    torch.compiler.reset()
    program = torch.export.export(Model(), (torch.ones(2, 3),), strict=strict)
    called = nodes([program.graph_module])
    assert called
    assert not any("l2multi" in node for node in called)
    assert not any("reshape" in node or "view" in node for node in called)


def test_names_tell_the_source():
    """Torch keeps what it has compiled by the names of operators, with what is inside them: after
    a change there, an old program must not be found."""
    package = Path(l2.__file__).parent
    made_of = package / "containers/torch_operators.py", package / "backends/torch.py"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in made_of)).hexdigest()
    for operator in (torch_operators.unit, torch_operators.length):
        assert operator._overloadname == f"of_{digest[:8]}"
