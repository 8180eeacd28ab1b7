"""Sparse tensors of torch, COO and CSR, in the memory of a CPU: as SciPy's sparse arrays of that
memory. May import torch and SciPy; `torch_tensor` hands them over."""

from typing import Any

import numpy as np
import torch

from l2multi import _contract
from l2multi._opened import Inside, Opened
from l2multi.backends.torch import tensor
from l2multi.containers import scipy_sparse
from l2multi.containers.torch_tensor import asked

try:
    from scipy import sparse
except ImportError:
    raise ImportError("sparse tensors need SciPy; try: pip install 'scipy>=1.13'") from None

# What SciPy has sparse arrays of.
_HELD = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class SparseTensor(Inside):
    """A sparse tensor; its entries are opened in its place."""

    def __init__(self, inner: Opened, layout: torch.layout) -> None:
        super().__init__(inner)
        self.layout = layout

    def asked(self, dtype: Any) -> Any:
        return asked(dtype)

    def target(self, out: Any) -> Any:
        raise TypeError("out: a sparse tensor of torch cannot be written to; leave it out")

    def target_norms(self, out: Any) -> Any:
        return self.target(out)

    def moved(self, name: str, library: str) -> Opened:
        raise TypeError(
            f"x: backend {name!r} cannot serve this input: a sparse tensor; try "
            'backend="numba" or "numpy", or x.to_dense()'
        )

    def wrap(self, result: Any) -> Any:
        """Unit vectors as a sparse tensor, norms as a dense one."""
        if not sparse.issparse(result):
            return tensor(np.asarray(result))
        values, shape = torch.from_numpy(result.data), result.shape
        if self.layout is torch.sparse_csr:
            ends, columns = map(torch.from_numpy, (result.indptr, result.indices))
            return torch.sparse_csr_tensor(ends, columns, values, shape, check_invariants=False)
        places = torch.from_numpy(np.stack(result.coords).astype(np.int64, copy=False))
        known = bool(result.has_canonical_format)
        return torch.sparse_coo_tensor(
            places, values, shape, is_coalesced=known, check_invariants=False
        )


def open(x: torch.Tensor, request: _contract.Request) -> Opened:
    """Its entries, without a copy."""
    if not x.is_cpu or x.ndim != 2 or x.dense_dim():
        raise TypeError(
            f"x: of sparse tensors only matrices of numbers in the memory of a CPU are supported, "
            f"got shape {tuple(x.shape)} on {x.device}; try x.to_dense()"
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise TypeError("x: gradients of sparse tensors are not supported; try x.to_dense()")
    if x.dtype not in _HELD:
        raise TypeError(f"x: sparse tensors of {x.dtype} are not supported; try x.float()")
    x = x.detach()
    if x.layout is torch.sparse_csr:
        parts = x.values(), x.col_indices(), x.crow_indices()
        values, columns, ends = (part.resolve_conj().numpy() for part in parts)
        held: Any = sparse.csr_array((values, columns, ends), shape=tuple(x.shape))
    else:
        rows, columns = x._indices().numpy()
        held = sparse.coo_array(
            (x._values().resolve_conj().numpy(), (rows, columns)), tuple(x.shape)
        )
        held.has_canonical_format = x.is_coalesced()
    return SparseTensor(scipy_sparse.open(held, request), x.layout)
