"""The backend of BCOO and BCSR: the functions of `sparse` behind the names every backend has."""

from typing import Any

import numpy as np

from l2multi.backends import jax as dense
from l2multi.backends.jax import sparse
from l2multi.backends.jax.sparse import kernel as _kernel

check, default_float, report = dense.check, dense.default_float, dense.report
unsupported, unready = dense.unsupported, dense.unready


def normalize(
    x: Any,
    axes: tuple[int, ...],
    *,
    eps: float,
    zero_nan: bool,
    out: None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[Any, Any]:
    """The unit rows, and the norms where asked for."""
    wanted = norm_dtype.name if norm_dtype is not None else ""
    results: tuple[Any, Any] = sparse.normalize(x, eps, dtype.name, bool(wanted), wanted)
    return results


def norm(x: Any, axes: tuple[int, ...], *, keepdims: bool, out: None, dtype: np.dtype[Any]) -> Any:
    """The norms of the rows."""
    return sparse.norm(x, keepdims, dtype.name)


def finite(x: Any, axes: tuple[int, ...]) -> Any:
    """Nobody asks: no policy raises for what is sparse."""
    raise NotImplementedError


def traced(x: Any) -> bool:
    """Whether `x` stands for values not known yet."""
    return dense.traced(x.data)


def fast_path(x: Any, dtype: Any, result: np.dtype[Any]) -> None:
    """There is none."""


def kernel(x: Any, axes: tuple[int, ...], result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """XLA scatters in one thread."""
    return _kernel(x)
