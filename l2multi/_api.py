"""The public functions; their docstrings are the reference. `_call` is the way of a call, and a
fast path goes before it where there is one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2multi import _backends, _call, _usable
from l2multi._call import Explanation
from l2multi._contract import Axis, NonFinite, Request, Zero


def _split(name: str) -> TypeError:
    return TypeError(f"axis_name: only l2multi.jax.{name} takes it, for vectors split over devices")


def normalize(
    x: Any,
    axis: Axis = -1,
    *,
    eps: float = 0.0,
    zero: Zero = "keep",
    nonfinite: NonFinite = "propagate",
    out: Any = None,
    dtype: Any = None,
    return_norm: bool = False,
    backend: str | None = None,
    axis_name: None = None,
    dim: Any = None,
) -> Any:
    """Scale vectors to unit Euclidean length: ``x / max(norm(x), eps)``.

    A vector is the set of elements along `axis`. Any finite nonzero vector, from the smallest
    subnormal to the largest number its dtype holds, becomes a unit vector.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors: a NumPy array, a list, a tuple, a number, a JAX array or a PyTorch tensor
        (traced or not); a DataArray of xarray, a quantity of pint or astropy (whose unit vectors
        have no unit, while norms keep it); an Arrow array of lists or fixed-shape tensors, a
        column with `__arrow_c_array__` or `__arrow_c_stream__` (an Arrow array comes back) or a
        Polars Series of Array or List, whose rows are vectors, and null where they or an element
        are. Or a BCOO or BCSR matrix of `jax.experimental.sparse`, along its rows, with
        ``axis=-1``, ``zero="keep"`` and ``nonfinite="propagate"`` (`jax.vmap` serves batch
        dimensions): the result is of its class, only stored entries change, entries for one place
        are added first (in more than their own width), and those out of range do not count. Any
        strides; read-only arrays and memory maps too; a stream is read once, by `explain` too. It
        is not modified unless it is `out`. Inside `jax.shard_map`
        each device's part is taken for whole vectors, for no type tells whether a vector is split
        or the batch: for split vectors there is ``l2multi.jax.normalize(..., axis_name=)``.
        Of pandas, a Series of arrays or lists has a vector in each row, a Series of numbers is one,
        and rows of a DataFrame are vectors (``axis=0``: columns); labels are kept, and `pd.NA`
        makes its vector null.
        Masked entries of a ``numpy.ma.MaskedArray`` do not count and stay masked. An instance of
        another subclass of `numpy.ndarray` comes back as a base array, and is refused where it has
        a unit or arithmetic of its own. Of a sparse array or matrix of SciPy, in any format, the
        stored entries alone are scaled and no others appear, so NaN stands in the place of those
        only; a vector without any is a zero vector. Entries for one place are added first. A vector
        has the bits of the dense vector of its stored entries, in the order of their indices; the
        zeros with which BSR fills its blocks and DIA its diagonals do not count as entries. Arrays
        of any other library that follows the array API standard (CuPy, ndonnx, array-api-strict)
        stay in that library, on their device, and lazy if they are lazy. So does an array of Dask:
        nothing is computed, each task uses one thread, and policies that raise do so when the
        array is computed, by when other blocks may have been stored. Where each of its vectors
        lies in one block they have the bits of the block's array; where not, the accuracy below,
        however they are cut.
    axis : int, tuple of ints or None, default -1
        The axis or axes over which a vector extends; None means all.
    eps : float, default 0.0
        A lower bound of the divisor, as PyTorch's ``eps``, in the unit of `x`.
    zero : {"keep", "nan", "raise", "null"}, default "keep"
        What becomes of a zero vector: it stays as it is, becomes NaN, or raises; of Arrow,
        Polars and what has nulls in pandas, "null" makes it null. An empty vector is not a zero
        vector, and `eps` does not matter here. "raise" needs values, which there are none of under
        JAX tracing (jit, grad, vmap) and in lazy arrays but Dask's: a TypeError says so. Likewise
        for `nonfinite`.
    nonfinite : {"propagate", "raise"}, default "propagate"
        What becomes of a vector with an inf or a NaN. Under "propagate" a NaN makes its whole
        vector NaN; in a vector with an inf and no NaN, infs become NaN and the rest 0 with its
        sign. Other vectors are untouched.
    out : numpy.ndarray or torch.Tensor, optional
        Where to write, of the result's shape and dtype, in either byte order. ``out=x`` works in
        place; any other overlap with `x` gives the result of no overlap, but no two elements of
        `out` may overlap. Not for JAX and Arrow arrays, which are immutable, nor for those of
        the array API, which may be, nor for pandas. For a SciPy sparse `x`, only `x`.
    dtype : dtype, optional
        The floating dtype of the result, complex for complex input. The arithmetic is as wide as
        input or output, whichever is wider, and rounded once.
    return_norm : bool, default False
        Whether to return ``norm(x, axis)`` too, the same bits.
    backend : {None, "numpy", "numba", "jax", "torch", "array_api"}, optional
        The backend to use; by default the context manager `l2multi.backend`, then the environment
        variable ``L2MULTI_BACKEND``, then the best for the input.
    axis_name : None
        Anything else is refused: vectors that are split over a mesh of devices inside
        `jax.shard_map` are for `l2multi.jax.normalize`.
    dim : str or tuple of str, optional
        In place of `axis`, of arrays whose dimensions have names (`xarray.DataArray`).

    Returns
    -------
    array, shape (..., n)
        The unit vectors, of the library, device and shape of `x`. Floating and complex dtypes
        are kept, float16, bfloat16 and float8 among them; integers and bool become float64
        (JAX, torch and the array API: their default float). NumPy arrays lie in memory in the order
        of `x`, so that of a Fortran-ordered array is Fortran-ordered.
    array, shape (...)
        With `return_norm`, the norms before `eps`.

    Raises
    ------
    ZeroVectorError, NonFiniteError
        A policy says "raise"; nothing has been written.
    numpy.exceptions.AxisError
        `axis` is out of range, or `x` has no axes.
    TypeError
        A type or dtype that is not supported, by anyone or by the backend named; an `out` of the
        wrong dtype; a policy of "raise" under JAX tracing or on a lazy array other than Dask's.
    ValueError
        A negative `eps`, an unknown choice, an `out` of the wrong shape, read-only or such that
        two of its elements overlap.
    ImportError
        The backend named is not installed.

    Notes
    -----
    Accuracy on NumPy and Numba: 0.51 ulp per element for float32 and narrower, 4 ulp for
    float64; the same vector has the same bits in either, whatever its batch, layout and the
    number of threads. On JAX, 4 ulp; XLA may flush subnormal input to zero. By a library's own
    functions (array API), as on NumPy where the device has float64 and the library adds as
    accurately as NumPy does along a row, and 4 ulp for float32 where it has not. The order of the
    summation is specified in ``l2multi/_summation.py``. Float64 sums that leave the safe range
    are repeated on input scaled by a power of two, as in Blue, ACM Trans. Math. Softw. 4 (1978),
    doi:10.1145/355769.355771.

    Examples
    --------
    >>> import l2multi as l2
    >>> l2.normalize([3e200, 4e200])
    array([0.6, 0.8])
    >>> l2.normalize([[3.0, 4.0], [0.0, 0.0]], return_norm=True)
    (array([[0.6, 0.8],
           [0. , 0. ]]), array([5., 0.]))
    >>> l2.normalize([[3.0, 1.0], [4.0, 0.0]], axis=0)
    array([[0.6, 1. ],
           [0.8, 0. ]])
    """
    if axis_name is not None:
        raise _split("normalize")
    if type(eps) is not float:
        eps = _call.size("eps", eps)
    path = _backends.fast_path(x, backend)
    if path is not None and dim is None:
        done = path.normalize(x, axis, eps, zero, nonfinite, out, dtype, return_norm)
        if done is not None:
            return done
    return _call.normalize(
        x, Request(axis, eps, zero, nonfinite, False, out, dtype, return_norm, backend, dim)
    )


def norm(
    x: Any,
    axis: Axis = -1,
    *,
    keepdims: bool = False,
    nonfinite: NonFinite = "propagate",
    out: Any = None,
    dtype: Any = None,
    backend: str | None = None,
    axis_name: None = None,
    dim: Any = None,
) -> Any:
    """Measure the Euclidean length of vectors: ``sqrt(sum(|x|**2))``.

    No sum overflows or underflows: the norm is right wherever its dtype can hold it, and inf
    where it is larger.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors, as for `normalize`: inside `jax.shard_map`, each device's part is taken for
        whole vectors, and split ones are for ``l2multi.jax.norm(..., axis_name=)``.
    axis : int, tuple of ints or None, default -1
        The axis or axes over which a vector extends; None means all.
    keepdims : bool, default False
        Whether the axes stay, with length one.
    nonfinite : {"propagate", "raise"}, default "propagate"
        Under "propagate" the norm of a vector with a NaN is NaN, and of one with an inf and no
        NaN it is inf.
    out : numpy.ndarray, optional
        Where to write, of the result's shape and dtype. Not for JAX arrays, nor for those of the
        array API.
    dtype : dtype, optional
        The real floating dtype of the result.
    backend : {None, "numpy", "numba", "jax", "torch", "array_api"}, optional
        As for `normalize`.
    axis_name : None
        Anything else is refused: `l2multi.jax.norm` takes it.
    dim : str or tuple of str, optional
        In place of `axis`, as for `normalize`.

    Returns
    -------
    array, shape (...)
        The norms, in the unit of `x`: float32 for float32, complex64 and anything narrower,
        float64 for float64, complex128, integers and bool (JAX: its default float for integers),
        longdouble for longdouble. The norm of an empty vector is 0.

    Raises
    ------
    NonFiniteError, numpy.exceptions.AxisError, TypeError, ValueError, ImportError
        As for `normalize`.

    Notes
    -----
    Accuracy on NumPy and Numba: 0.51 ulp in float32, 2.5 ulp in float64; on JAX, 4 ulp.

    Examples
    --------
    >>> import l2multi as l2
    >>> bool(l2.norm([3 * 2.0**700, 4 * 2.0**700]) == 5 * 2.0**700)
    True
    >>> l2.norm([[3.0, 4.0], [5.0, 12.0]], keepdims=True)
    array([[ 5.],
           [13.]])
    """
    if axis_name is not None:
        raise _split("norm")
    path = _backends.fast_path(x, backend)
    if path is not None and dim is None:
        done = path.norm(x, axis, keepdims, nonfinite, out, dtype)
        if done is not None:
            return done
    return _call.norm(
        x, Request(axis, 0.0, "keep", nonfinite, keepdims, out, dtype, False, backend, dim)
    )


def is_normalized(
    x: Any, axis: Axis = -1, *, tol: float | None = None, backend: str | None = None
) -> Any:
    """Tell which vectors have unit length: ``|norm(x) - 1| <= tol``.

    No kernel is made for it, unless `backend` names the one that needs it.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors, as for `normalize`.
    axis : int, tuple of ints or None, default -1
        The axis or axes over which a vector extends; None means all.
    tol : float, optional
        How far the norm may be from 1; by default 4 ulp of 1 in the dtype of `x`, and 1 ulp of 1
        for dtypes narrower than float32, whose norms are computed without rounding to them.
    backend : {None, "numpy", "numba", "jax", "torch", "array_api"}, optional
        As for `normalize`.

    Returns
    -------
    bool array, shape (...)
        One bool per vector, of the library of `x`: a `numpy.bool` for a single vector of NumPy, a
        dense `jax.Array` for BCOO and BCSR. False for a vector with a NaN or an inf, and for a
        zero or an empty one.

    Raises
    ------
    numpy.exceptions.AxisError, TypeError, ValueError, ImportError
        As for `normalize`; ValueError for a negative `tol`.

    Examples
    --------
    >>> import l2multi as l2
    >>> l2.is_normalized([[0.6, 0.8], [3.0, 4.0]])
    array([ True, False])
    """
    return _is_normalized(x, axis, tol, backend)


@_usable.asks
def _is_normalized(x: Any, axis: Axis, tol: float | None, backend: str | None) -> Any:
    if tol is not None:
        tol = _call.size("tol", tol)
    path = _backends.fast_path(x, backend)
    if path is not None:
        norms = path.norm(x, axis, False, "propagate", None, np.float64)
        if norms is not None:
            return _call.close_to_one(norms, x.dtype, tol)
    return _call.is_normalized(x, Request(axis, backend=backend), tol)


def _traced_is_normalized(x: Any, axis: Axis, tol: float | None, backend: str | None) -> Any:
    """What torch.compile, which traces Python, traces in place of `_is_normalized`."""
    from l2multi.containers import torch_traced

    return torch_traced.is_normalized(x, axis, tol, backend)


_backends.trace_as(_is_normalized, _traced_is_normalized)


def backend(name: str) -> contextlib.AbstractContextManager[None]:
    """Use the backend of this name inside a ``with`` block, in this thread and asyncio task.

    What `torch.compile` compiles is for torch's operations: it is refused under another name, by
    when it is traced; around later calls of what has been compiled, a name changes nothing.

    Parameters
    ----------
    name : {"numpy", "numba", "jax", "torch", "array_api"}
        The backend; an argument ``backend=`` of a call goes before it.

    Returns
    -------
    context manager

    Raises
    ------
    ValueError
        The name is unknown.

    Examples
    --------
    >>> import l2multi as l2
    >>> with l2.backend("numpy"):
    ...     l2.normalize([3.0, 4.0])
    array([0.6, 0.8])
    """
    _backends.check_name(name)
    return _chosen(name)


@contextlib.contextmanager
def _chosen(name: str) -> Iterator[None]:
    token = _backends.chosen.set(name)
    try:
        yield
    finally:
        _backends.chosen.reset(token)


@_usable.asks
def explain(
    x: Any,
    axis: Axis = -1,
    *,
    eps: float = 0.0,
    zero: Zero = "keep",
    nonfinite: NonFinite = "propagate",
    keepdims: bool = False,
    out: Any = None,
    dtype: Any = None,
    return_norm: bool = False,
    backend: str | None = None,
    dim: Any = None,
) -> Explanation:
    """Say which backend, kernel and number of threads the same call would use, and why.

    Runs nothing on the data, copies nothing and starts nothing: a kernel that is not there yet is
    not asked for. Takes what `normalize` and `norm` take; what such a call would
    refuse for its type, dtype, axis or backend is refused here too.

    Returns
    -------
    Explanation
        A named tuple of `backend`, `kernel`, `threads` and `why`; its ``str`` is a sentence.

    Raises
    ------
    numpy.exceptions.AxisError, TypeError, ValueError, ImportError
        As for `normalize`.

    Examples
    --------
    >>> import l2multi as l2
    >>> l2.explain([3.0, 4.0], backend="numpy").threads
    1
    """
    return _call.explain(
        x, Request(axis, eps, zero, nonfinite, keepdims, out, dtype, return_norm, backend, dim)
    )
