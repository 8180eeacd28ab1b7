"""Rows of BCOO and BCSR arrays: the stored entries are scaled, and no others appear."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO, BCSR

from l2multi import _contract
from l2multi.backends.jax import functions


def normalize(
    x: BCOO | BCSR, axis: Any, eps: float, dtype: Any, return_norm: bool
) -> tuple[Any, Any]:
    """The unit rows, of the class of `x`, and the norms where asked for."""
    rows = _rows(x, axis)
    result = functions.canonical(_result(x, dtype))
    scaled, power, root = _measure(rows, result)
    divisor = root
    if eps:  # in the unit of the scaled row; where that overflows, the quotient is 0 as it is
        divisor = jnp.maximum(root, jnp.minimum(eps, np.finfo(root.dtype).max) * power)
    inverse = jnp.where(divisor == 0, 0, 1 / jnp.where(divisor == 0, 1, divisor))
    unit = BCOO(
        ((scaled * _spread(rows, inverse)).astype(result), rows.indices),
        shape=rows.shape, indices_sorted=rows.indices_sorted, unique_indices=True,
    )  # fmt: skip
    y = BCSR.from_bcoo(unit) if isinstance(x, BCSR) else unit
    return y, (root / power).astype(_contract.rule(x.dtype).norm) if return_norm else None


def norm(x: BCOO | BCSR, axis: Any, keepdims: bool, dtype: Any) -> jax.Array:
    """The norms of the rows."""
    wanted = _contract.rule(x.dtype).norm if dtype is None else _real(dtype)
    _, power, root = _measure(_rows(x, axis), functions.canonical(wanted))
    n = (root / power).astype(functions.canonical(wanted))
    return n[:, None] if keepdims else n


def _real(dtype: Any) -> np.dtype[Any]:
    return _contract.floating(dtype, complex_=False)


def _result(x: Any, dtype: Any) -> np.dtype[Any]:
    own = _contract.rule(x.dtype).result
    return own if dtype is None else _real(dtype)


def _rows(x: BCOO | BCSR, axis: Any) -> BCOO:
    """`x` with one stored entry a place; what cannot be served is refused."""
    if x.ndim != 2 or x.n_batch or x.n_dense:
        raise TypeError(
            f"x: expected a sparse matrix without batch or dense dimensions, got shape {x.shape} "
            f"with n_batch={x.n_batch}, n_dense={x.n_dense}"
        )
    if _contract.is_complex(x.dtype):
        raise TypeError(f"x: a sparse array has to be real, got dtype {x.dtype}")
    if _contract.normalize_axes(axis, 2) != (1,):
        raise ValueError(f"axis: sparse arrays have vectors along axis -1 only, got {axis!r}")
    rows = x.to_bcoo() if isinstance(x, BCSR) else x
    # Entries for one place are its summands. The number of entries stays, for it has to be known
    # under jit; the places left over are out of range.
    return rows if rows.unique_indices else rows.sum_duplicates(nse=rows.nse)


def _spread(rows: BCOO, of_row: jax.Array) -> jax.Array:
    """A number of each row, for each entry; 0 where an entry is out of range."""
    return of_row.at[rows.indices[:, 0]].get(mode="fill", fill_value=0)


def _measure(rows: BCOO, result: np.dtype[Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled entries, the power of two that scales each row, and the norms of scaled rows."""
    own = functions.canonical(_contract.rule(rows.dtype).norm)
    wide = np.promote_types(own, functions.canonical(_contract.rule(result).norm))
    data, count, row = rows.data.astype(wide), rows.shape[0], rows.indices[:, 0]
    form = np.finfo(wide)
    largest = jnp.zeros(count, wide).at[row].max(abs(lax.stop_gradient(data)), mode="drop")
    bits = lax.bitcast_convert_type(largest, np.dtype(f"i{wide.itemsize}"))
    field = jnp.clip(bits >> form.nmant, 1, 2 * form.maxexp - 3)
    power = lax.bitcast_convert_type((2 * form.maxexp - 2 - field) << form.nmant, wide)
    scaled = data * _spread(rows, power)
    squares = jnp.zeros(count, wide).at[row].add(scaled * scaled, mode="drop")
    zero = squares == 0  # the root has no derivative there
    return scaled, power, jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))
