"""The Numba kernels inside programs that XLA compiles for a CPU, as one primitive.

`rows` takes real vectors along the last axes to their unit vectors, and to their norms and inverses
of these. How is decided when a program is lowered, for only then are platform and devices
known: on one CPU a custom call runs the kernel, and everywhere else, and in what `jax.export`
writes down for other processes, XLA compiles the functions of `functions`. Those are given to the
primitive, which knows no formula.

Nobody waits for a compiler other than XLA: a program made before its kernel is there goes without.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from l2multi import _registry

ENVIRONMENT = "L2MULTI_JAX_KERNELS"
_ON = os.environ.get(ENVIRONMENT) != "0"
_TARGET = "l2multi_rows"
_UNIT, _NORM = 1, 2  # as `l2multi.backends.numba.foreign` has them

# What kernels take and give.
_KINDS = ("float64", "float32", "float16", "bfloat16")
# Platforms that compute in float64, whatever JAX's setting for users' arrays.
WIDE = ("cpu", "cuda", "rocm")

Axes = tuple[int, ...]
# ``(x, wanted, wide)`` to what `rows` returns; `wide` on a platform of `WIDE`.
Formula = Callable[..., tuple[jax.Array, ...]]

_forced: ContextVar[int | None] = ContextVar("l2multi_jax_native", default=None)

# What `allowed` gives; WAIT has programs wait for a kernel's compilation.
OFF, WAIT = 0, -1
_era = 1
_later: set[tuple[np.dtype[Any], np.dtype[Any]]] = set()


def allowed() -> int:
    """Whether custom calls are switched on: 0 for no, else a number that is another once kernels
    are there that were not when programs asked for them. (As a part of the key by which JAX finds
    what it has compiled, it has these programs compiled again.)"""
    global _era
    wish = _forced.get()
    if wish is not None:
        return wish
    if _later:
        for pair in tuple(_later):
            if not _registry.load("numba").pending_for_xla(*pair):  # type: ignore[attr-defined]
                _later.discard(pair)
                _era += 1
    return _era if _ON else OFF


@contextlib.contextmanager
def use(wish: bool) -> Iterator[None]:
    """Within this block and thread, switch custom calls on, with programs that wait for kernels, or
    off. For tests and benchmarks."""
    token = _forced.set(WAIT if wish else OFF)
    try:
        yield
    finally:
        _forced.reset(token)


def serves(x: jax.Array, axes: Axes, dtype: np.dtype[Any] | None) -> bool:
    """Whether `rows` can take `x`: real vectors along the last axes, outside any mesh (within one,
    the compiler has to see how an array is spread)."""
    return (
        all(isinstance(d, int) and d > 0 for d in x.shape)
        and axes == tuple(range(x.ndim - len(axes), x.ndim))
        and all(d is None or d.name in _KINDS for d in (x.dtype, dtype))
        and jax.sharding.get_abstract_mesh().empty
    )


def would_run(x: jax.Array, axes: Axes, dtype: np.dtype[Any]) -> bool:
    """Whether a program for one CPU would call a kernel now."""
    return bool(allowed() and serves(x, axes, dtype) and _kernel(x.dtype, dtype, False) is not None)


class Wanted(NamedTuple):
    """What is to become of vectors."""

    last: int  # so many of the last axes are those over which a vector extends
    eps: float
    zero_nan: bool
    dtype: np.dtype[Any] | None  # of the unit vectors; None: there shall be none
    norm: bool  # whether the norms are wanted

    def few(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the norms, axes kept."""
        return (*shape[: len(shape) - self.last], *[1] * self.last)


def rows(x: jax.Array, wanted: Wanted, kernels: int, formula: Formula) -> tuple[jax.Array, ...]:
    """The unit vectors, if wanted; then, if wanted, the norms and their inverses as two factors
    (see `functions.Polar`), with axes kept and of at least float32."""
    results: list[jax.Array] = _rows.bind(x, wanted=wanted, kernels=kernels, formula=formula)
    return tuple(results)


_rows: Any = Primitive("l2multi_rows")
_rows.multiple_results = True


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _shapes(x: Any, *, wanted: Wanted, **_: Any) -> list[Any]:
    shapes = [] if wanted.dtype is None else [x.update(dtype=wanted.dtype, weak_type=False)]
    if wanted.norm:
        few = x.update(shape=wanted.few(x.shape), dtype=_wide(x.dtype), weak_type=False)
        shapes += [few] * 3
    return shapes


_rows.def_abstract_eval(_shapes)


@functools.lru_cache(256)
def _program(parameters: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(functools.partial(_rows.bind, **dict(parameters)))


def _evaluate(x: jax.Array, **parameters: Any) -> Any:
    """By a program of its own, also where programs are switched off: nothing else can do it."""
    with jax.disable_jit(False), jax.debug_nans(False):
        return _program(tuple(parameters.items()))(x)


_rows.def_impl(_evaluate)


def _batch(arrays: Any, dimensions: Any, **parameters: Any) -> tuple[Any, list[int]]:
    (x,), (dimension,) = arrays, dimensions
    results = _rows.bind(jnp.moveaxis(x, dimension, 0), **parameters)
    return results, [0] * len(results)


batching.primitive_batchers[_rows] = _batch


def _by_formula(
    wide: bool, x: jax.Array, *, wanted: Wanted, formula: Formula, **_: Any
) -> list[jax.Array]:
    return list(formula(x, wanted, wide))


def _by_kernel(kernel: int, x: jax.Array, *, wanted: Wanted, **_: Any) -> list[jax.Array]:
    n = math.prod(x.shape[x.ndim - wanted.last :])
    shape: Any = jax.ShapeDtypeStruct
    shapes = [] if wanted.dtype is None else [shape(x.shape, wanted.dtype)]
    if wanted.norm:
        shapes.append(shape((x.size // n, 3), _wide(x.dtype)))
    results = jax.ffi.ffi_call(_TARGET, shapes)(
        x,
        eps=np.float64(wanted.eps),
        kernel=np.int64(kernel),
        n=np.int64(n),
        results=np.int64((wanted.dtype is not None) * _UNIT + wanted.norm * _NORM),
        zero=np.float64(math.nan if wanted.zero_nan else 1.0),
    )
    if not wanted.norm:
        return list(results)
    *unit, three = results
    return [*unit, *(three[:, k].reshape(wanted.few(x.shape)) for k in range(3))]


def _lower(context: Any, x: Any, **parameters: Any) -> Any:
    """For a CPU: the kernel where one device runs the program of this very process."""
    module = context.module_context
    alone = getattr(module.axis_context, "num_devices", 0) in (None, 1)
    exported = module.lowering_parameters.for_export
    kernel = None
    if parameters["kernels"] and alone and not exported:
        (aval,) = context.avals_in
        wait = parameters["kernels"] == WAIT
        kernel = _kernel(aval.dtype, parameters["wanted"].dtype or aval.dtype, wait)
    if kernel is None:
        return _lower_wide(context, x, **parameters)
    with jax.enable_x64(True):
        function = functools.partial(_by_kernel, kernel)
        return mlir.lower_fun(function, multiple_results=True)(context, x, **parameters)


def _lower_formula(wide: bool) -> Any:
    return mlir.lower_fun(functools.partial(_by_formula, wide), multiple_results=True)


_lower_wide = _lower_formula(True)
mlir.register_lowering(_rows, _lower_formula(False))
mlir.register_lowering(_rows, _lower, platform="cpu")
for _platform in WIDE[1:]:
    mlir.register_lowering(_rows, _lower_wide, platform=_platform)


def _kernel(x: np.dtype[Any], y: np.dtype[Any], wait: bool) -> int | None:
    """The number of the kernel, compiled and known to XLA, or None where there is none (yet)."""
    if not _interface():
        return None
    try:
        numba: Any = _registry.load("numba")
    except ImportError:
        return None
    found = numba.for_xla(x, y, wait)
    if found == "later":
        _later.add((x, y))
    if found is None or found == "later":
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


_registered = False


def _register(handler: int) -> None:
    """Tell XLA of the handler, once."""
    global _registered
    with _registry.loading:
        if _registered:
            return
        new: Any = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        capsule = new(handler, b"xla._CUSTOM_CALL_TARGET", None)
        jax.ffi.register_ffi_target(_TARGET, capsule, platform="cpu", api_version=1)
        _registered = True
