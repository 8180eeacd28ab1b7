"""The public functions: validate once, select a backend, call it. Nothing is computed here."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from l2multi import _contract, _inputs, _registry
from l2multi._contract import Axis, NonFinite, Zero

# What `numpy.asarray` is for.
_PLAIN = (list, tuple, bool, int, float, complex, np.generic, np.ndarray)


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Call(NamedTuple):
    """A validated call: what its backend is given, and the way back to the caller."""

    x: Any
    axes: tuple[int, ...]
    backend: _registry.Backend
    result: np.dtype[Any]
    norm: np.dtype[Any]
    widest: np.dtype[Any]  # for norms that decide: never overflows where it can be helped
    back: Callable[[Any], Any] | None  # None where backend and caller share a library
    library: str
    name: str
    why: str


def rule_of(x: Any) -> _contract.Rule:
    """The row of the dtype table for an array; of objects the refusal says what to do."""
    try:
        return _contract.rule(x.dtype)
    except TypeError as error:
        if x.dtype != np.object_:
            raise
        raise TypeError(f"{error}; {_inputs.of_objects(x)}") from None


def adopt(x: Any) -> tuple[Any, str]:
    """`x` as an array, and the library that owns it."""
    if isinstance(x, np.ndarray):
        return x if type(x) is np.ndarray else _inputs.base("x", x), "numpy"
    if isinstance(x, (list, tuple)):
        return _inputs.stacked(x), "numpy"
    if isinstance(x, _PLAIN):
        return np.asarray(x), "numpy"
    library = "jax" if _registry.sparse(x) is not None else _registry.library_of(x)
    if library is None:
        cure = _inputs.cure(x)
        raise TypeError(
            f"x: type {_inputs.type_name(x)} is not supported; accepted are "
            f"{_registry.ACCEPTED_ARRAYS}, lists, tuples and numbers"
            + ("" if cure is None else f"; try {cure}")
        )
    return x, library


def _known(name: str, value: Any, check: Callable[..., T], *rest: Any) -> T:
    """A keyword's value, checked; for a traced one the refusal says how to make it known."""
    try:
        return check(value, *rest)
    except TypeError:
        some = value if isinstance(value, (tuple, list)) else (value,)
        if not any(map(_registry.traced, some)):
            raise
    raise TypeError(
        f"{name}: expected a value that is known when a function is traced, got {value!r}; "
        f"jax.jit takes it as known with static_argnames={name!r}"
    )


def size(name: str, value: Any) -> float:
    """A keyword that is no negative number, as a float."""
    return _known(name, value, lambda value: _contract.check_size(name, value))


def enter(
    x: Any, axis: Axis, dtype: Any, backend: str | None, of_norm: bool, look: bool = False
) -> _Call:
    """Validate what `normalize` and `norm` have in common, and select the backend. For who will
    only `look` at the call, no values are moved."""
    library = "numpy"
    if type(x) is not np.ndarray:
        x, library = adopt(x)
    rule = rule_of(x)
    result, norm, widest = rule.result, rule.norm, rule.wide
    axes = (
        (x.ndim - 1,)
        if type(axis) is int and axis == -1 and x.ndim
        else _known("axis", axis, _contract.normalize_axes, x.ndim)
    )
    if library != "numpy" and result != rule.native:
        result = norm = _registry.home(library).default_float()
    own = norm if of_norm else result
    if dtype is not None:
        complex_ = not of_norm and _contract.is_complex(result)
        asked = _contract.floating(dtype, complex_=complex_)
        result, norm = (result, asked) if of_norm else (asked, norm)
    name = _registry.named(backend)
    back = None
    home = library
    if name is not None and (library := _registry.row(name).library) != home:
        _registry.load(name)
        owner, served = x, library
        x = _registry.carry(x, home, library, look=look)

        def back(y: Any) -> Any:
            return _registry.carry(y, served, home, back_to=owner)

    row, module, why = _registry.select(
        x, library, axes, norm if of_norm else result, name, own, look
    )
    if library != "numpy":
        widest = norm
    elif home == library and (not of_norm or dtype is None):
        _registry.find_short(row, module, x.dtype, dtype, result)
    return _Call(x, axes, module, result, norm, widest, back, home, row.name, why)


def _refuse(call: _Call, zero: str, nonfinite: str) -> None:
    """Raise where a policy says so, before anything is written."""
    if call.backend.traced(call.x):
        given, use = 'zero="raise"', 'zero="keep" or "nan"'
        if zero != "raise":
            given, use = 'nonfinite="raise"', 'nonfinite="propagate"'
        raise TypeError(
            f"{given} needs values; under tracing (jit, grad, vmap) there are none: use {use}"
        )
    norms = call.backend.norm(call.x, call.axes, keepdims=False, out=None, dtype=call.widest)
    _contract.refuse(
        np.asarray(norms),
        lambda: np.asarray(call.backend.finite(call.x, call.axes)),
        zero,
        nonfinite,
        empty=any(call.x.shape[d] == 0 for d in call.axes),
    )


def _enter_sparse(
    sparse: Any,
    x: Any,
    axis: Axis,
    dtype: Any,
    backend: str | None,
    of_norm: bool,
    **keywords: tuple[Any, Any],
) -> _Call:
    """`enter` for sparse arrays, which their module `sparse` serves; what is not for them is
    refused."""
    name = _registry.named(backend)
    if name not in (None, "jax"):
        raise TypeError(f"backend {name!r} cannot serve this input: a sparse JAX array")
    for keyword, (value, only) in keywords.items():
        if value is not only and (only is None or value != only):
            raise TypeError(f"{keyword}: sparse arrays can have {only!r} only, got {value!r}")
    sparse.check(x, axis)
    return enter(x, axis, dtype, backend, of_norm)


def _plain(out: Any) -> Any:
    """An `out` as backends write to it."""
    is_subclass = isinstance(out, np.ndarray) and type(out) is not np.ndarray
    return _inputs.base("out", out) if is_subclass else out


def _check_out(call: _Call, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Refuse an unfit `out`; whether the backend may write to it while it reads `x`."""
    if call.library != "numpy":
        raise TypeError(f"out: {call.library} arrays are immutable, so out= cannot be used")
    _contract.check_out(out, shape, dtype)
    if call.back is not None or out.dtype != dtype:  # of the other byte order
        return False
    same = out is call.x or (
        out.shape == call.x.shape
        and out.strides == call.x.strides
        and out.dtype == call.x.dtype
        and out.ctypes.data == call.x.ctypes.data
    )
    return same or not np.may_share_memory(out, call.x)


def _norm_shape(x: Any, axis: Axis, keepdims: bool) -> Any:
    """The shape of the norms, or None where the axis needs a closer look. For one axis it takes
    0.3 us, by the general rule 3."""
    if type(axis) is int and not keepdims and -x.ndim <= axis < x.ndim:
        return x.shape[:axis] + x.shape[axis:][1:]
    try:
        axes = _contract.normalize_axes(axis, x.ndim)
    except (TypeError, ValueError):
        return None
    return _contract.batch_shape(x.shape, axes, keepdims)


def _measure(found: Any, x: Any, axis: Axis, keepdims: bool, dtype: Any, out: Any) -> Any:
    """The norms of an array, by what `usual` has found; None where the call needs a closer look."""
    shape = _norm_shape(x, axis, keepdims)
    if shape is None:
        return None
    dtype = found[2] if dtype is None else _contract.floating(dtype, complex_=False)
    if out is None:
        out = np.empty(shape, dtype)
    elif not (
        type(out) is np.ndarray
        and out.dtype == dtype
        and out.shape == shape
        and out.flags.carray
        and not np.may_share_memory(out, x)
    ):
        return None
    return out if found[0](x, None, out, 0.0, axis, False, False) else None


def _unrefused(found: Any, x: Any, axis: Axis, zero: str, nonfinite: str) -> bool:
    """Whether no policy refuses any vector of an array, as the short way can tell: where it cannot,
    or one does, the call needs a closer look."""
    if zero not in _contract.ZERO or nonfinite not in _contract.NONFINITE:
        return False
    if zero != "raise" and nonfinite != "raise":
        return True
    norms = _measure(found, x, axis, False, np.float64, None)
    if norms is None or (zero == "raise" and not norms.min() > 0):
        return False
    return nonfinite != "raise" or bool(norms.max() < np.inf)


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
) -> Any:
    """Scale vectors to unit Euclidean length: ``x / max(norm(x), eps)``.

    A vector is the set of elements along `axis`. Any finite nonzero vector, from the smallest
    subnormal to the largest number its dtype holds, becomes a unit vector.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors: a NumPy array, a list, a tuple, a number or a JAX array (traced or not). Or a
        BCOO or BCSR matrix of `jax.experimental.sparse`, along its rows, with ``axis=-1``,
        ``zero="keep"`` and ``nonfinite="propagate"`` (`jax.vmap` serves batch dimensions): the
        result is of its class, only stored entries change, entries for one place are added first
        (in more than their own width), and those out of range do not count. Any strides; read-only
        arrays and memory maps too. It is not modified unless it is `out`. Inside `jax.shard_map`
        each device's part is taken for whole vectors, for no type tells whether a vector is split
        or the batch: for split vectors there is ``l2multi.jax.normalize(..., axis_name=)``.
        Masked entries of a ``numpy.ma.MaskedArray`` do not count and stay masked. An instance of
        another subclass of `numpy.ndarray` comes back as a base array, and is refused where it has
        a unit or arithmetic of its own.
    axis : int, tuple of ints or None, default -1
        The axis or axes over which a vector extends; None means all.
    eps : float, default 0.0
        A lower bound of the divisor, as PyTorch's ``eps``, in the unit of `x`.
    zero : {"keep", "nan", "raise"}, default "keep"
        What becomes of a zero vector: it stays as it is, becomes NaN, or raises. An empty vector
        is not a zero vector, and `eps` does not matter here. "raise" needs values, which there are
        none of under JAX tracing (jit, grad, vmap): a TypeError says so. Likewise for `nonfinite`.
    nonfinite : {"propagate", "raise"}, default "propagate"
        What becomes of a vector with an inf or a NaN. Under "propagate" a NaN makes its whole
        vector NaN; in a vector with an inf and no NaN, infs become NaN and the rest 0 with its
        sign. Other vectors are untouched.
    out : numpy.ndarray, optional
        Where to write, of the result's shape and dtype, in either byte order. ``out=x`` works in
        place; any other overlap with `x` gives the result of no overlap, but no two elements of
        `out` may overlap. Not for JAX arrays, which are immutable.
    dtype : dtype, optional
        The floating dtype of the result, complex for complex input. The arithmetic is as wide as
        input or output, whichever is wider, and rounded once.
    return_norm : bool, default False
        Whether to return ``norm(x, axis)`` too, the same bits.
    backend : {"numpy", "numba", "jax"}, optional
        The backend to use; by default the context manager `l2multi.backend`, then the environment
        variable ``L2MULTI_BACKEND``, then the best for the input.
    axis_name : None
        Anything else is refused: vectors that are split over a mesh of devices inside
        `jax.shard_map` are for `l2multi.jax.normalize`.

    Returns
    -------
    array, shape (..., n)
        The unit vectors, of the library, device and shape of `x`. Floating and complex dtypes
        are kept, float16, bfloat16 and float8 among them; integers and bool become float64
        (JAX: its default float). NumPy arrays lie in memory in the order of `x`, so that of a
        Fortran-ordered array is Fortran-ordered.
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
        wrong dtype; a policy of "raise" under JAX tracing.
    ValueError
        A negative `eps`, an unknown choice, an `out` of the wrong shape, read-only or such that
        two of its elements overlap.
    ImportError
        The backend named is not installed.

    Notes
    -----
    Accuracy on NumPy and Numba: 0.51 ulp per element for float32 and narrower, 4 ulp for
    float64; the same vector has the same bits in either, whatever its batch, layout and the
    number of threads. On JAX, 4 ulp; XLA may flush subnormal input to zero. The order of the
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
    if type(eps) is not float or not eps >= 0.0:
        eps = size("eps", eps)
    if type(x) is np.ndarray:
        found = _registry.usual(
            x.dtype if dtype is None else _registry.key(x.dtype, dtype), backend
        )
        if found is not None and (
            (zero == "keep" and nonfinite == "propagate")
            or _unrefused(found, x, axis, zero, nonfinite)
        ):
            # The usual call, by the shortest way.
            short, result, norm_dtype, _ = found
            nan = zero == "nan"
            done: bool | None = False
            shape = _norm_shape(x, axis, False) if return_norm else None
            norms = None if shape is None else np.empty(shape, norm_dtype)
            if return_norm and norms is None:
                y = None
            elif out is None:
                y = np.empty(x.shape, result)
                done = short(x, y, norms, eps, axis, True, nan)
                if done is None:
                    y = np.empty_like(x, result)
                    done = short(x, y, norms, eps, axis, False, nan)
            elif type(y := out) is np.ndarray:
                done = short(x, y, norms, eps, axis, False, nan)
            if done:
                return y if norms is None else (y, norms[()])
    elif (
        (quick := _registry.usual(type(x), backend)) is not None
        and type(axis) is int
        and zero == "keep"
        and nonfinite == "propagate"
        and out is None
        and dtype is None
        and (call := quick[0][x.dtype, axis, not return_norm, eps]) is not None
    ):
        return call(x)
    elif isinstance(x, np.ma.MaskedArray):
        return _normalize_masked(
            x, axis, out, return_norm,
            eps=eps, zero=zero, nonfinite=nonfinite, dtype=dtype, backend=backend,
        )  # fmt: skip
    elif (sparse := _registry.sparse(x)) is not None:
        call = _enter_sparse(
            sparse, x, axis, dtype, backend, False,
            zero=(zero, "keep"), nonfinite=(nonfinite, "propagate"), out=(out, None),
        )  # fmt: skip
        y, norms = sparse.normalize(x, eps, call.result.name, return_norm, call.norm.name)
        return (y, norms) if return_norm else y
    elif isinstance(x, _PLAIN):
        return normalize(
            adopt(x)[0], axis, eps=eps, zero=zero, nonfinite=nonfinite,
            out=out, dtype=dtype, return_norm=return_norm, backend=backend,
        )  # fmt: skip
    return_norm = _known("return_norm", return_norm, bool)
    if zero != "keep":
        _contract.check_choice("zero", zero, _contract.ZERO)
    if nonfinite != "propagate":
        _contract.check_choice("nonfinite", nonfinite, _contract.NONFINITE)
    call = enter(x, axis, dtype, backend, False)
    held, out = out, _plain(out)
    direct = out is None or _check_out(call, out, call.x.shape, call.result)
    if zero == "raise" or nonfinite == "raise":
        _refuse(call, zero, nonfinite)
    y, norms = call.backend.normalize(
        call.x,
        call.axes,
        eps=eps,
        zero_nan=zero == "nan",
        out=out if direct else None,
        dtype=call.result,
        norm_dtype=call.norm if return_norm else None,
    )
    if call.back is not None:
        y, norms = call.back(y), None if norms is None else call.back(norms)
    if not direct:
        out[...] = y
    if out is not None:
        y = held
    return (y, norms) if return_norm else y


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
        Where to write, of the result's shape and dtype. Not for JAX arrays.
    dtype : dtype, optional
        The real floating dtype of the result.
    backend : {"numpy", "numba", "jax"}, optional
        As for `normalize`.
    axis_name : None
        Anything else is refused: `l2multi.jax.norm` takes it.

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
    if type(x) is np.ndarray:
        if (found := _registry.usual(x.dtype, backend)) is not None and (
            nonfinite == "propagate" or _unrefused(found, x, axis, "keep", nonfinite)
        ):
            norms = _measure(found, x, axis, keepdims, dtype, out)
            if norms is not None:
                return norms[()] if out is None else out
    elif (
        (quick := _registry.usual(type(x), backend)) is not None
        and type(axis) is int
        and nonfinite == "propagate"
        and out is None
        and dtype is None
        and (call := quick[1][x.dtype, axis, not keepdims]) is not None
    ):
        return call(x)
    elif isinstance(x, np.ma.MaskedArray):
        return _norm_masked(
            x, axis, out, keepdims=keepdims, nonfinite=nonfinite, dtype=dtype, backend=backend
        )
    elif (sparse := _registry.sparse(x)) is not None:
        call = _enter_sparse(
            sparse, x, axis, dtype, backend, True,
            nonfinite=(nonfinite, "propagate"), out=(out, None),
        )  # fmt: skip
        return sparse.norm(x, keepdims, call.norm.name)
    elif isinstance(x, _PLAIN):
        return norm(
            adopt(x)[0], axis,
            keepdims=keepdims, nonfinite=nonfinite, out=out, dtype=dtype, backend=backend,
        )  # fmt: skip
    if nonfinite != "propagate":
        _contract.check_choice("nonfinite", nonfinite, _contract.NONFINITE)
    keepdims = _known("keepdims", keepdims, bool)
    call = enter(x, axis, dtype, backend, True)
    direct = True
    held, out = out, _plain(out)
    if out is not None:
        shape = _contract.batch_shape(call.x.shape, call.axes, keepdims)
        direct = _check_out(call, out, shape, call.norm)
    if nonfinite == "raise":
        _refuse(call, "keep", nonfinite)
    norms = call.backend.norm(
        call.x, call.axes, keepdims=keepdims, out=out if direct else None, dtype=call.norm
    )
    if call.back is not None:
        norms = call.back(norms)
    if not direct:
        out[...] = norms
    return norms if out is None else held


def _asks(function: Callable[P, R]) -> Callable[P, R]:
    """Have calls of a function start nothing: no compilation, no thread."""

    @functools.wraps(function)
    def ask(*arguments: P.args, **keywords: P.kwargs) -> R:
        token = _registry.asking.set(True)
        try:
            return function(*arguments, **keywords)
        finally:
            _registry.asking.reset(token)

    return ask


@_asks
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
    backend : {"numpy", "numba", "jax"}, optional
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
    if tol is not None:
        tol = size("tol", tol)
    if isinstance(x, np.ma.MaskedArray):
        data, mask = _fill(x, axis)
        full = _full_mask(mask, axis, keepdims=False)
        return np.ma.MaskedArray(is_normalized(data, axis, tol=tol, backend=backend), full)[()]
    norms: Any = None
    if isinstance(x, _PLAIN):
        x, _ = adopt(x)
        if (found := _registry.usual(x.dtype, backend)) is not None:
            norms = _measure(found, x, axis, False, np.float64, None)
    elif _registry.sparse(x) is not None:
        norms = norm(x, axis, backend=backend)
    call = enter(x, axis, None, backend, True) if norms is None else None
    if call is not None:
        norms = call.backend.norm(call.x, call.axes, keepdims=False, out=None, dtype=call.widest)
    if tol is None:
        tol = _contract.default_tol(x.dtype)
    close = abs(norms - 1) <= tol
    return close if call is None or call.back is None else call.back(close)


def _full_mask(mask: np.ndarray[Any, Any], axis: Axis, keepdims: bool) -> Any:
    """Which vectors are masked in full; an empty one is not."""
    axes = _known("axis", axis, _contract.normalize_axes, mask.ndim)
    empty = any(mask.shape[d] == 0 for d in axes)
    return mask.all(axis=axes, keepdims=keepdims) & (not empty)


def _fill(x: Any, axis: Axis) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A copy whose masked entries do not count, and the mask.

    A vector masked in full is filled with ones: it is not a zero vector, nothing of it shows.
    """
    rule_of(x)
    mask = np.ma.getmaskarray(_inputs.base("x", x))
    data = np.array(x.data)
    np.copyto(data, np.zeros((), data.dtype), where=mask)
    np.copyto(data, np.ones((), data.dtype), where=_full_mask(mask, axis, keepdims=True))
    return data, mask


def _normalize_masked(x: Any, axis: Axis, out: Any, return_norm: bool, **keywords: Any) -> Any:
    """`normalize` of a masked array."""
    data, mask = _fill(x, axis)
    if out is not None:
        result = enter(data, axis, keywords["dtype"], keywords["backend"], False).result
        _contract.check_out(_plain(out), data.shape, result, masked=True)
    y, norms = normalize(data, axis, return_norm=True, **keywords)
    if out is None:
        out = np.ma.MaskedArray(y, mask.copy())
    else:
        out.data[...] = y
        out.mask = mask
    full = _full_mask(mask, axis, keepdims=False)
    return (out, np.ma.MaskedArray(norms, full)[()]) if return_norm else out


def _norm_masked(x: Any, axis: Axis, out: Any, **keywords: Any) -> Any:
    """`norm` of a masked array."""
    data, mask = _fill(x, axis)
    full = _full_mask(mask, axis, keywords["keepdims"])
    if out is not None:
        dtype = enter(data, axis, keywords["dtype"], keywords["backend"], True).norm
        _contract.check_out(_plain(out), full.shape, dtype, masked=True)
    norms = norm(data, axis, **keywords)
    if out is None:
        return np.ma.MaskedArray(norms, full)[()]
    out.data[...] = norms
    out.mask = full
    return out


def backend(name: str) -> contextlib.AbstractContextManager[None]:
    """Use the backend of this name inside a ``with`` block, in this thread and asyncio task.

    Parameters
    ----------
    name : {"numpy", "numba", "jax"}
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
    _registry.row(name)
    return _chosen(name)


@contextlib.contextmanager
def _chosen(name: str) -> Iterator[None]:
    token = _registry.chosen.set(name)
    try:
        yield
    finally:
        _registry.chosen.reset(token)


class Explanation(NamedTuple):
    """What a call would use, and why; see `explain`."""

    backend: str
    kernel: str
    threads: int
    why: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"backend {self.backend!r}, kernel {self.kernel}, {threads}: {self.why}"


@_asks
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
    size("eps", eps)
    _contract.check_choice("zero", zero, _contract.ZERO)
    _contract.check_choice("nonfinite", nonfinite, _contract.NONFINITE)
    if isinstance(x, np.ma.MaskedArray):  # a call works on a copy, which has this layout
        rule_of(x)
        x, out = np.empty_like(_inputs.base("x", x).data, subok=False), None
    if (sparse := _registry.sparse(x)) is not None:
        call = _enter_sparse(
            sparse, x, axis, dtype, backend, False,
            zero=(zero, "keep"), nonfinite=(nonfinite, "propagate"), out=(out, None),
        )  # fmt: skip
        kernel, threads = sparse.kernel(x)
    else:
        call = enter(x, axis, dtype, backend, False, look=True)
        kernel, threads = call.backend.kernel(call.x, call.axes, call.result, out)
    return Explanation(call.name, kernel, threads, call.why)


@_asks
def show_versions() -> None:
    """Print what is installed and which backends are usable, and why one is not.

    Backends are loaded, and nothing is compiled: "usable" is what can be told without. Of the Numba
    backend it says how many kernels came with the package, for which level of CPU features, and how
    many more are in the user's cache.

    Examples
    --------
    >>> import l2multi as l2
    >>> l2.show_versions()  # doctest: +ELLIPSIS
    l2multi ...
    """
    import platform
    from importlib import metadata  # 20 ms, more than all of `import l2multi` may take

    lines = {"l2multi": sys.modules["l2multi"].__version__, "python": platform.python_version()}
    lines["platform"] = f"{platform.system()} {platform.machine()}"
    for name in ("numpy", "numba", "llvmlite", "jax", "jaxlib", "ml_dtypes"):
        try:
            lines[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines[name] = "not installed"
    for name in _registry.NAMES:
        try:
            _registry.load(name).check()
        except ImportError as error:
            lines[f"backend {name}"] = f"not usable: {error}"
        else:
            lines[f"backend {name}"] = "usable"
            lines |= _registry.load(name).report()
    asked = _registry.named_in_environment()
    if asked is not None and asked not in _registry.NAMES:
        asked = f"{asked}: unknown, so calls fail; known are {', '.join(_registry.NAMES)}"
    lines[f"${_registry.ENVIRONMENT}"] = asked or "not set"
    kernels = os.environ.get("L2MULTI_JAX_KERNELS") or "not set"
    if kernels not in ("not set", "0", "1"):
        kernels += ": unknown, so it counts as 1; known are 0, 1"
    lines["$L2MULTI_JAX_KERNELS"] = kernels
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
