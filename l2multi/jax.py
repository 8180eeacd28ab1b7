"""`normalize` and `norm` for JAX alone: also where `jax.shard_map` has split the vectors.

Under automatic and explicit sharding `l2multi.normalize` is enough: the compiler knows how an array
is spread. Inside `jax.shard_map` a function sees its own shard, and only these functions, told the
axis of the mesh, know that the vector goes on elsewhere.

`jax.experimental.jet` is not supported: it raises UnexpectedTracerError for every function with a
derivative rule of its own (`jax.custom_jvp`), `jax.nn.relu` among them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2multi import _api, _call, _containers, _contract, _cures, _usable
from l2multi._contract import Axis, Request, Zero
from l2multi.containers import numbers, numpy_array

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise _usable.unusable("jax", error) from error

from l2multi.backends.jax import functions, roots, trees

__all__ = ["clip_by_global_norm", "global_norm", "norm", "normalize"]

AxisName = str | Sequence[str] | None


def normalize(
    x: Any,
    axis: Axis = -1,
    *,
    axis_name: AxisName = None,
    eps: float = 0.0,
    zero: Zero = "keep",
    dtype: Any = None,
    return_norm: bool = False,
) -> Any:
    """Scale vectors to unit Euclidean length, also such as are split over a mesh of devices.

    Does what `l2multi.normalize` does to a JAX array, at every magnitude and with the same
    derivatives. A split vector costs one all-reduce of three scalars, and its gradient one of
    one scalar.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors or, with `axis_name`, this device's part of them. Lists may hold JAX arrays,
        and lists and numbers get JAX's default dtype. NumPy arrays keep theirs or are refused:
        float64 needs x64. What says more than its numbers (a mask, a unit, nulls, names) is for
        `l2multi.normalize`. BCOO and BCSR are served
        as by `l2multi.normalize`, and cannot have an `axis_name`.
    axis : int, tuple of ints or None, default -1
        The axis or axes of `x` over which a vector extends; None means all.
    axis_name : str or sequence of str, optional
        The axis or axes of the mesh over which vectors are split as well: names bound by
        `jax.shard_map` (or by ``jax.vmap(..., axis_name=...)``). None means that each is whole,
        also where vectors are split: JAX's types tell that `x` varies over an axis of the mesh, but
        not whether the vector or the batch does. An axis over which `x` is the same would count
        each vector once per device. It is refused where types tell, but ``check_vma=False`` and
        `jax.vmap` keep no account of it.
    eps : float, default 0.0
        A lower bound of the divisor.
    zero : {"keep", "nan", "raise"}, default "keep"
        What becomes of a zero vector. "raise" needs values, so it is refused under tracing and
        with an `axis_name`.
    dtype : dtype, optional
        The floating dtype of the result, complex for complex input.
    return_norm : bool, default False
        Whether to return the norms of the whole vectors too.

    Returns
    -------
    jax.Array, BCOO or BCSR, shape (..., n)
        The unit vectors, or this device's part of them, in the dtype of `x` if it is a floating
        one, else JAX's default float.
    jax.Array, shape (...)
        With `return_norm`, the norms before `eps`, the same on all devices that share a vector;
        float32 for float16, bfloat16 and float8.

    Raises
    ------
    ZeroVectorError
        By ``zero="raise"``.
    NameError
        No such axis is bound.
    ValueError
        `x` does not vary over an axis of `axis_name`.
    numpy.exceptions.AxisError, TypeError, ValueError
        As for `l2multi.normalize`.

    Examples
    --------
    >>> import jax, l2multi.jax
    >>> from jax.sharding import AxisType, PartitionSpec as P
    >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    >>> split = P(None, "model")
    >>> @jax.jit
    ... @jax.shard_map(mesh=mesh, in_specs=split, out_specs=split)
    ... def unit(part):
    ...     return l2multi.jax.normalize(part, axis_name="model")
    >>> unit(jax.numpy.array([[3e30, 4e30], [0.0, 0.0]])).round(6)
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    x = _array(x)
    names = _names(axis_name, x)
    if not names:
        return _api.normalize(
            x, axis, eps=eps, zero=zero, dtype=dtype, return_norm=return_norm, backend="jax"
        )
    eps = _call.size("eps", eps)
    _contract.check_choice("zero", zero, _contract.ZERO)
    if zero == "raise":
        raise TypeError(
            'zero="raise" needs values; with axis_name= there are none: use zero="keep" or "nan"'
        )
    call = _prepared(x, axis, dtype, of_norm=False)
    norm_dtype = call.norm.name if return_norm else ""
    y, norms = functions.normalize(
        x, call.axes, eps, zero == "nan", call.result.name, norm_dtype, names
    )
    return (y, norms) if return_norm else y


def norm(
    x: Any,
    axis: Axis = -1,
    *,
    axis_name: AxisName = None,
    keepdims: bool = False,
    dtype: Any = None,
) -> jax.Array:
    """Measure the Euclidean length of vectors, also such as are split over a mesh of devices.

    Parameters
    ----------
    x : array_like, shape (..., n)
        The vectors, or this device's part of them.
    axis : int, tuple of ints or None, default -1
        The axis or axes of `x` over which a vector extends; None means all.
    axis_name : str or sequence of str, optional
        The axis or axes of the mesh over which vectors are split, as for `normalize`.
    keepdims : bool, default False
        Whether the axes stay, with length one.
    dtype : dtype, optional
        The real floating dtype of the result.

    Returns
    -------
    jax.Array, shape (...)
        The norms, of the dtype that `l2multi.norm` gives; the same on all devices that share a
        vector. They neither overflow nor underflow before their dtype does.

    Raises
    ------
    NameError, numpy.exceptions.AxisError, TypeError, ValueError
        As for `normalize`.

    Examples
    --------
    >>> import jax, l2multi.jax
    >>> halves = jax.numpy.array([[3e30], [4e30]])
    >>> jax.vmap(lambda part: l2multi.jax.norm(part, axis_name="i"), axis_name="i")(halves)
    Array([5.e+30, 5.e+30], dtype=float32)
    """
    x = _array(x)
    names = _names(axis_name, x)
    norms: jax.Array
    if not names:
        norms = _api.norm(x, axis, keepdims=keepdims, dtype=dtype, backend="jax")
    else:
        call = _prepared(x, axis, dtype, of_norm=True)
        norms = functions.norm(x, call.axes, keepdims, call.norm.name, names)
    return norms


def global_norm(tree: Any) -> jax.Array:
    """Measure the Euclidean length of all leaves of a pytree together, as if they were one vector.

    No sum overflows or underflows, whatever the leaves' dtypes: the norm is right wherever its
    dtype can hold it, and inf where it is larger. Leaves are neither joined nor made wider as a
    whole.

    Parameters
    ----------
    tree : pytree of array_like
        The parts of the vector, of any shapes. Leaves may differ in dtype: complex ones count with
        their absolute values, integers and bool as numbers. NumPy arrays and numbers are taken as
        by `normalize`. None is no leaf.

    Returns
    -------
    jax.Array, shape ()
        The norm: float64 if a leaf is float64 or complex128, else float32; integers count as JAX's
        default float. Of a tree without leaves 0, in JAX's default float. A NaN anywhere makes it
        NaN, else an inf makes it inf. Its gradient is the unit vector, and 0 where all leaves are
        zero, as are the second derivatives there.

    Raises
    ------
    TypeError
        A leaf is sparse or of a dtype that is not supported; the message says which.

    Examples
    --------
    >>> import jax, l2multi.jax
    >>> weights = jax.numpy.full((1000, 1000), 1e18, jax.numpy.bfloat16)
    >>> l2multi.jax.global_norm({"w": weights, "b": jax.numpy.array([1e-30])})
    Array(9.997991e+20, dtype=float32)
    """
    found: jax.Array
    _, leaves, _ = _leaves(tree)
    if not leaves:
        return jnp.zeros((), roots.canonical(roots.F64))
    found = trees.norm(leaves, trees.width_of(leaves).name)
    return found


def clip_by_global_norm(tree: Any, max_norm: Any, *, return_norm: bool = False) -> Any:
    """Scale all leaves of a pytree by one factor, so that their global norm is at most a limit.

    Each leaf becomes ``leaf * min(1, max_norm / global_norm(tree))``. A tree whose norm is not
    larger than `max_norm` keeps its bits.

    Parameters
    ----------
    tree : pytree of array_like
        The parts of the vector, such as gradients, as for `global_norm`; floating and complex
        leaves only, for others could not be scaled and keep their dtype.
    max_norm : float or jax.Array, shape ()
        The limit, not negative. It may be traced, and is not looked at then. It is rounded to the
        dtype of the norm.
    return_norm : bool, default False
        Whether to return the norm before clipping too.

    Returns
    -------
    pytree of jax.Array
        The same tree with leaves of the same dtypes. Also if the norm is beyond
        its dtype, leaves are right that are finite. As for `normalize`, a NaN anywhere makes all
        leaves NaN; where there is an inf, infs become NaN and the rest 0, unless `max_norm` is inf.
    jax.Array, shape ()
        With `return_norm`, ``global_norm(tree)``.

    Raises
    ------
    TypeError
        A leaf is an integer, sparse, or of a dtype that is not supported; the message says which.
    ValueError
        `max_norm` is negative or NaN.

    Examples
    --------
    >>> import jax, l2multi.jax
    >>> gradients = {"w": jax.numpy.array([3e30, 0.0]), "b": jax.numpy.array([4e30])}
    >>> l2multi.jax.clip_by_global_norm(gradients, 1.25)
    {'b': Array([1.], dtype=float32), 'w': Array([0.75, 0.  ], dtype=float32)}
    """
    return_norm = _containers.known("return_norm", return_norm, bool)
    if np.shape(max_norm):
        raise ValueError(f"max_norm: expected a number, got shape {np.shape(max_norm)}")
    most = max_norm
    if not isinstance(max_norm, jax.core.Tracer):
        most = _call.size("max_norm", max_norm)
    elif _contract.is_complex(max_norm.dtype):
        raise TypeError(f"max_norm: expected a real number, got dtype {max_norm.dtype}")
    names, leaves, structure = _leaves(tree)
    for name, leaf in zip(names, leaves, strict=True):
        if not trees.keeps(leaf.dtype):
            raise TypeError(
                f"tree: leaf {name} is of dtype {leaf.dtype}, which scaled numbers cannot keep"
            )
    if not leaves:
        return (tree, global_norm(tree)) if return_norm else tree
    width = trees.width_of(leaves)
    with np.errstate(over="ignore"):  # beyond the range it is inf, and clips nothing
        clipped, length = trees.clip(leaves, jnp.asarray(most, width), width.name)
    clipped = jax.tree.unflatten(structure, clipped)
    return (clipped, length) if return_norm else clipped


def _leaves(tree: Any) -> tuple[list[str], tuple[jax.Array, ...], Any]:
    """The leaves of a tree as JAX arrays, what messages call them, and the structure."""
    sparse = next(row for row in _containers.ROWS if row.name == "sparse JAX matrix")
    paths, structure = jax.tree.flatten_with_path(tree, is_leaf=sparse.owns)
    names = [jax.tree_util.keystr(path) or "itself" for path, _ in paths]
    leaves = []
    for name, (_, leaf) in zip(names, paths, strict=True):
        try:
            if sparse.owns(leaf):
                # Not its `todense`, which adds repeats in bfloat16 and stops at 256.
                raise TypeError("x: a sparse matrix is no leaf; try l2multi.norm of it instead")
            leaves.append(_array(leaf))
            _contract.rule(leaves[-1].dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(f"tree: leaf {name}: {error}") from None
    return names, tuple(leaves), structure


def _prepared(x: jax.Array, axis: Axis, dtype: Any, of_norm: bool) -> _call.Call:
    """A validated call on this device's part of split vectors."""
    request = Request(axis, dtype=dtype, backend="jax")
    return _call.prepare(_containers.open(x, request), request, of_norm)


def _array(x: Any) -> Any:
    """`x` as a JAX array, or a sparse one. NumPy arrays keep their dtype or are refused; lists and
    numbers get JAX's default, as from its own functions."""
    if isinstance(x, jax.Array) or hasattr(type(x), "__jax_array__"):
        return jnp.asarray(x)
    keeps, held = isinstance(x, (np.ndarray, np.generic)), _cures.type_name(x)
    if isinstance(x, (list, tuple)):
        x = numbers.stacked(x, jax.Array, jnp.asarray)
    opened = _containers.open(x, Request())
    x = opened.array
    if opened.library in ("jax", "sparse JAX"):
        return x
    if type(opened) is not numpy_array.NumpyArray:
        raise TypeError(
            f"x: {held} is more than a JAX array could hold; l2multi.normalize and norm take it as "
            "it is"
        )
    result = _contract.rule(x.dtype).result
    if not keeps and result in (np.float64, np.complex128):
        x = x.astype(roots.canonical(result))
    return numpy_array.NumpyArray(x).moved("jax", "jax").values((), False)


def _names(axis_name: AxisName, x: jax.Array) -> tuple[str, ...]:
    """The axes of the mesh over which `x` is split."""
    if axis_name is None:
        return ()
    if not isinstance(x, jax.Array):
        raise TypeError(f"axis_name: sparse arrays can have None only, got {axis_name!r}")
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"axis_name: expected a str or a sequence of str, got {axis_name!r}")
    for name in names:
        try:
            index = jax.lax.axis_index(name)
        except NameError:
            raise NameError(
                f"axis_name: {name!r} is not bound here: the call is not inside a jax.shard_map "
                f"over a mesh with that axis, nor inside jax.vmap(..., axis_name={name!r})"
            ) from None
        # Where JAX keeps account of what varies, the index along an axis varies over it.
        if name in _varying(index) and name not in _varying(x):
            known = hasattr(jax.lax, "pcast")  # from JAX 0.8.2 on
            cure = f"pcast(x, {name!r}, to='varying')" if known else f"pvary(x, {name!r})"
            raise ValueError(
                f"axis_name: x is the same on all devices along {name!r}, so a vector would count "
                f"once for each; leave {name!r} out where every device holds whole vectors, or, "
                f"where equal parts are meant, pass jax.lax.{cure}"
            )
    return tuple(names)


def _varying(x: jax.Array) -> Any:
    """The axes of the mesh over which `x` varies, as far as its type tells."""
    found: Any = jax.typeof(x)
    account = getattr(found, "mat", None)  # before JAX 0.10 `vma`
    return getattr(found, "vma", ()) if account is None else account.varying
