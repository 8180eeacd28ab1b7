"""The Numba kernels inside programs that XLA compiles for a CPU, as one primitive.

`rows` takes real vectors along the last axes to their unit vectors, and to their norms as roots and
powers of two. How is decided when a program is lowered, for only then are platform and devices
known: on one CPU a custom call runs the kernel, and everywhere else, and in what `jax.export`
writes down for other processes, XLA compiles the functions of `functions`. Those are given to the
primitive, which knows no formula.

``L2MULTI_JAX_KERNELS=0`` in the environment, read when this module is imported, switches custom
calls off.
"""

import contextlib
import ctypes
import functools
import math
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from l2multi import _registry

ENVIRONMENT = "L2MULTI_JAX_KERNELS"
_ON = os.environ.get(ENVIRONMENT) != "0"
_TARGET = "l2multi_rows"
_UNIT, _NORM = 1, 2  # as `l2multi.backends.numba.foreign` has them

Axes = tuple[int, ...]
# ``(x, axes, eps, zero_nan, dtype, wide)`` to what `rows` returns with norms; dtype None: no unit
# vectors; wide: the platform is one of `WIDE`.
Formula = Callable[..., tuple[jax.Array, ...]]

_forced: ContextVar[bool | None] = ContextVar("l2multi_jax_native", default=None)


def allowed() -> bool:
    """Whether custom calls are switched on."""
    wish = _forced.get()
    return _ON if wish is None else wish


@contextlib.contextmanager
def use(wish: bool) -> Iterator[None]:
    """Within this block and thread, switch custom calls on or off. For tests and benchmarks."""
    token = _forced.set(wish)
    try:
        yield
    finally:
        _forced.reset(token)


def serves(x: jax.Array, axes: Axes, dtype: np.dtype[Any] | None) -> bool:
    """Whether `rows` can take `x`: real vectors along the last axes, outside any mesh (within one,
    the compiler has to see how an array is spread)."""
    return (
        x.size > 0
        and axes == tuple(range(x.ndim - len(axes), x.ndim))
        and all(d is None or d.name in _KINDS for d in (x.dtype, dtype))
        and jax.sharding.get_abstract_mesh().empty
    )


# Platforms that compute in float64, whatever JAX's setting for users' arrays.
WIDE = ("cpu", "cuda", "rocm")

_KINDS = ("float64", "float32", "float16", "bfloat16")


def rows(
    x: jax.Array,
    axes: Axes,
    eps: float,
    zero_nan: bool,
    dtype: np.dtype[Any] | None,
    norm: bool,
    kernels: bool,
    formula: Formula,
) -> tuple[jax.Array, ...]:
    """The unit vectors of `dtype`, unless it is None; then, if `norm`, roots and powers with axes
    kept: a norm is ``root * 2**power``, of at least float32 and of int32."""
    results: list[jax.Array] = _rows.bind(
        x, count=len(axes), eps=eps, zero_nan=zero_nan, dtype=dtype, norm=norm, kernels=kernels,
        formula=formula,
    )  # fmt: skip
    return tuple(results)


_rows: Any = Primitive("l2multi_rows")
_rows.multiple_results = True


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _shapes(x: Any, *, count: int, dtype: Any, norm: bool, **_: Any) -> list[Any]:
    few = (*x.shape[: x.ndim - count], *[1] * count)
    shapes = [] if dtype is None else [x.update(dtype=dtype, weak_type=False)]
    if norm:
        for kind in (_wide(x.dtype), np.dtype(np.int32)):
            shapes.append(x.update(shape=few, dtype=kind, weak_type=False))
    return shapes


_rows.def_abstract_eval(_shapes)
_rows.def_impl(lambda x, **parameters: jax.jit(functools.partial(_rows.bind, **parameters))(x))


def _batch(arrays: Any, dimensions: Any, **parameters: Any) -> tuple[Any, list[int]]:
    (x,), (dimension,) = arrays, dimensions
    results = _rows.bind(jnp.moveaxis(x, dimension, 0), **parameters)
    return results, [0] * len(results)


batching.primitive_batchers[_rows] = _batch


def _by_formula(
    x: jax.Array,
    *,
    count: int,
    eps: float,
    zero_nan: bool,
    dtype: Any,
    norm: bool,
    wide: bool,
    formula: Formula,
    **_: Any,
) -> list[jax.Array]:
    axes = tuple(range(x.ndim - count, x.ndim))
    results = formula(x, axes, eps, zero_nan, dtype, wide)
    return list(results if norm else results[:-2])


def _by_kernel(
    kernel: int,
    x: jax.Array,
    *,
    count: int,
    eps: float,
    zero_nan: bool,
    dtype: Any,
    norm: bool,
    **_: Any,
) -> list[jax.Array]:
    n = math.prod(x.shape[x.ndim - count :])
    shape: Any = jax.ShapeDtypeStruct
    shapes = [] if dtype is None else [shape(x.shape, dtype)]
    if norm:
        shapes.append(shape((x.size // n, 2), np.float64))
    results = jax.ffi.ffi_call(_TARGET, shapes)(
        x,
        eps=np.float64(eps),
        kernel=np.int64(kernel),
        n=np.int64(n),
        results=np.int64((0 if dtype is None else _UNIT) | (_NORM if norm else 0)),
        zero=np.float64(math.nan if zero_nan else 1.0),
    )
    if not norm:
        return list(results)
    *unit, pairs = results
    root, power = pairs[:, 0], pairs[:, 1].astype(np.int32)
    if _wide(x.dtype) == np.float32:
        root, power = split(root)
    few = (*x.shape[: x.ndim - count], *[1] * count)
    return [*unit, root.reshape(few), power.reshape(few)]


def split(root: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float64 roots as roots in the range of float32, as norms may not be, and powers of two."""
    bits = lax.bitcast_convert_type(root, np.int64)
    field = bits >> np.int64(52)
    ordinary = (field > 0) & (field < 2047)
    fraction = (bits & np.int64((1 << 52) - 1)) | np.int64(1023 << 52)
    one = jnp.where(ordinary, lax.bitcast_convert_type(fraction, np.float64), root)
    power = jnp.where(ordinary, field - np.int64(1023), np.int64(0))
    return one.astype(np.float32), power.astype(np.int32)


def _lower(context: Any, x: Any, **parameters: Any) -> Any:
    """For a CPU: the kernel where one device runs the program of this very process."""
    module = context.module_context
    alone = getattr(module.axis_context, "num_devices", 0) in (None, 1)
    exported = module.lowering_parameters.for_export
    kernel = None
    if parameters["kernels"] and alone and not exported:
        (aval,) = context.avals_in
        kernel = _kernel(aval.dtype, parameters["dtype"] or aval.dtype)
    if kernel is None:
        return _lower_wide(context, x, **parameters)
    with jax.enable_x64(True):
        function = functools.partial(_by_kernel, kernel)
        return mlir.lower_fun(function, multiple_results=True)(context, x, **parameters)


def _lower_formula(wide: bool) -> Any:
    function = functools.partial(_by_formula, wide=wide)
    return mlir.lower_fun(function, multiple_results=True)


_lower_wide = _lower_formula(True)
mlir.register_lowering(_rows, _lower_formula(False))
mlir.register_lowering(_rows, _lower, platform="cpu")
for _platform in WIDE[1:]:
    mlir.register_lowering(_rows, _lower_wide, platform=_platform)


def _kernel(x: np.dtype[Any], y: np.dtype[Any]) -> int | None:
    """The number of the kernel, compiled and known to XLA, or None where there is none."""
    if not _interface():
        return None
    try:
        numba: Any = _registry.load("numba")
    except ImportError:
        return None
    found = numba.for_xla(x, y)
    if found is None:
        return None
    handler, kernel = found
    _register(handler)
    return int(kernel)


@functools.cache
def _interface() -> bool:
    """Whether XLA's interface is one that the handler is written for, or a later one like it."""
    try:
        header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except OSError:
        return False
    version = re.findall(r"^#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)$", header, flags=re.M)
    return len(version) == 2 and int(version[0]) == 0 and int(version[1]) >= 3


@functools.cache
def _register(handler: int) -> None:
    """Tell XLA of the handler."""
    new: Any = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    )
    capsule = new(handler, b"xla._CUSTOM_CALL_TARGET", None)
    jax.ffi.register_ffi_target(_TARGET, capsule, platform="cpu", api_version=1)
