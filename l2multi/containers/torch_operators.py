"""The operators that stand for unit vectors and norms in what torch.compile traces.

They are made of plain operations, which torch puts in their place before it compiles: so they have
all derivatives that these have, and a compiler fuses them with what stands around them. A step of
small models takes up to 1.05 of the time with `F.normalize` then. With a kernel inside, which is
called from Python forwards and backwards, it was up to 1.17.
"""

import hashlib
from typing import Any

import torch

import l2multi
from l2multi.backends import torch as operations

# What torch has compiled it finds in later processes by the names of operators, with what they were
# made of then. So they are named by what they are made of now.
_SPECS: Any = __spec__, operations.__spec__
try:
    _SOURCE = b"".join(spec.loader.get_data(spec.origin) for spec in _SPECS)
except (OSError, AttributeError):  # a loader without files, of what nobody edits
    _SOURCE = l2multi.__version__.encode()
_OVERLOAD = f"of_{hashlib.sha256(_SOURCE).hexdigest()[:8]}"

_library = torch.library.Library("l2multi", "DEF")


def _operator(name: str, arguments: str, results: str) -> Any:
    """The operator of a function of `backends.torch`."""
    function, full = getattr(operations, name), f"{name}.{_OVERLOAD}"
    _library.define(f"{full}(Tensor x, int[] axes, {arguments}) -> {results}")
    _library.impl(
        full, lambda x, axes, *rest: function(x, tuple(axes), *rest), "CompositeImplicitAutograd"
    )
    made = getattr(getattr(torch.ops.l2multi, name), _OVERLOAD)

    def mapped(info: Any, in_dims: Any, x: torch.Tensor, axes: Any, *rest: Any) -> Any:
        """As torch.vmap asks for it: over one axis more, which comes first."""
        found = made(x.movedim(in_dims[0], 0), [d + 1 for d in axes], *rest)
        return found, (0, 0) if isinstance(found, tuple) else 0

    torch.library.register_vmap(made, mapped, lib=_library)
    return made


unit = _operator(
    "unit",
    "float eps, bool zero_nan, ScalarType dtype, ScalarType norm_dtype",
    "(Tensor, Tensor)",
)
length = _operator("length", "bool keepdims, ScalarType dtype", "Tensor")
