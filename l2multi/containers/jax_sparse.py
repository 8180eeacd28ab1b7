"""BCOO and BCSR matrices of `jax.experimental.sparse`, along their rows."""

from typing import Any

from l2multi import _contract
from l2multi._containers import known
from l2multi._opened import Opened

# What there is to ask for.
_ONLY = {"zero": "keep", "nonfinite": "propagate", "out": None}


class SparseJax(Opened):
    """A matrix without batch dimensions."""

    has_fast_path = False

    def __init__(self, x: Any) -> None:
        super().__init__(x, "sparse JAX")

    def moved(self, name: str, library: str) -> Opened:
        raise TypeError(f"x: backend {name!r} cannot serve this input: a sparse JAX array")


def open(x: Any, request: _contract.Request) -> Opened:
    """As it is; what is not for it is refused."""
    for keyword, only in _ONLY.items():
        value = getattr(request, keyword)
        if value is not only and (only is None or value != only):
            raise TypeError(f"{keyword}: sparse arrays can have {only!r} only, got {value!r}")
    if x.ndim != 2 or x.n_batch or x.n_dense:
        raise TypeError(
            "x: expected a sparse matrix without batch dimensions (jax.vmap takes them off) or "
            f"dense ones, got shape {x.shape} with n_batch={x.n_batch}, n_dense={x.n_dense}"
        )
    if known("axis", request.axis, _contract.normalize_axes, 2) != (1,):
        raise ValueError(
            f"axis: sparse arrays have vectors along axis -1 only, got {request.axis!r}"
        )
    return SparseJax(x)
