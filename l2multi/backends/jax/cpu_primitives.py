"""All that leans on private parts of JAX and XLA: primitives, and Numba kernels in CPU programs.

A `Primitive` is a function that is written out when a program is lowered, for only then are the
platform and the number of devices known. On one CPU a custom call may run a Numba kernel, by
`rows_kernel` and `jvp_kernel`; for other platforms and several devices, and in what `jax.export`
writes down for other processes, XLA compiles a formula. Which of the two a program gets follows
from the program and from what is installed alone: a kernel that did not come with the package is
compiled when the program is.

JAX promises to nobody its primitives, the rules of their derivatives and the context of a lowering,
nor XLA the layout of its calls. So `_installed` and `_interface` look at them when they are first
needed, and where they are not what they were, formulas serve: more slowly, or less accurately, but
without an error. No other file of this backend may touch them, and this one knows no formula.

``L2MULTI_JAX_KERNELS=0`` in the environment, read when this module is imported, switches custom
calls off.
"""

import contextlib
import ctypes
import functools
import importlib
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

from l2multi import _fork, _usable

with contextlib.suppress(Exception):
    from jax.extend import core
    from jax.interpreters import ad, batching, mlir

ENVIRONMENT = "L2MULTI_JAX_KERNELS"
_ON = os.environ.get(ENVIRONMENT) != "0"

# The name of the Numba backend's handler, and the bits that say what it is to give.
_TARGET = "l2multi_rows"
_UNIT, _NORM, _JVP = 1, 2, 4

# What kernels take and give.
_DTYPES = ("float64", "float32", "float16", "bfloat16")
# Platforms that compute in float64, whatever JAX's setting for users' arrays.
WIDE = ("cpu", "cuda", "rocm")

Axes = tuple[int, ...]


class Target(NamedTuple):
    """What a program is lowered for."""

    wide: bool = False  # a platform of `WIDE`
    one_cpu: bool = False


class Call(NamedTuple):
    """What is asked of vectors: a static argument.

    JAX compares such arguments by ``==``, part by part, and NumPy finds float64 equal to None. So
    dtypes go by their names, and the empty name says that nothing of the kind is wanted.
    """

    unit: str = ""  # the dtype of the unit vectors
    norm: str = ""  # the dtype of the norms
    eps: float = 0.0
    zero_nan: bool = False
    mesh: tuple[str, ...] = ()  # axes of the mesh over which vectors are split
    kernels: bool = False  # what `allowed` said

    @property
    def narrow(self) -> bool:
        """Whether the norms will be rounded to a dtype narrower than float32."""
        return bool(self.norm) and np.dtype(self.norm).itemsize < 4


# The switch.

_forced: ContextVar[bool | None] = ContextVar("l2multi_jax_kernels", default=None)


def allowed() -> bool:
    """Whether custom calls are switched on."""
    wish = _forced.get()
    return _ON if wish is None else wish


class Programs(dict[tuple[Any, ...], Any]):
    """Programs by the arguments of ``make(*arguments, kernels)``."""

    # Who passes ever new numbers has them made again.
    _MOST = 256

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        _kept.append(self)

    def __missing__(self, key: tuple[Any, ...]) -> Any:
        if len(self) >= self._MOST:
            self.clear()
        self[key] = made = self._make(*key, allowed())
        return made


# Load-once caches.
_kept: list[Programs] = []


@contextlib.contextmanager
def use(wish: bool) -> Iterator[None]:
    """Within this block and thread, switch custom calls on or off. For tests and benchmarks."""
    token = _forced.set(wish)
    try:
        for programs in _kept:
            programs.clear()
        yield
    finally:
        _forced.reset(token)
        for programs in _kept:
            programs.clear()


# Primitives.

_missing: list[str] = []  # the primitives that this JAX could not make


class Primitive:
    """The function ``formula(target, *arrays, **static)``, written out at lowering.

    `types` makes the types of the results from those of the arrays, and `several` says that they
    are a list. ``kernel(types, **static)`` gives a function that calls a kernel in place of the
    formula, or None. The rules are plain functions: ``jvp(arrays, tangents, **static)``, where None
    stands for a tangent of zeros, and ``transpose(cotangent, arrays, **static)``, where None stands
    for each array whose cotangent is wanted. Under `jax.vmap` the batch becomes the first axis, and
    the static argument `axes`, if there is one, moves along. Where JAX has no such primitives,
    `plain` is called, or the formula as for any target.
    """

    def __init__(
        self,
        name: str,
        types: Callable[..., Any],
        formula: Callable[..., Any],
        *,
        several: bool = False,
        kernel: Callable[..., Any] | None = None,
        plain: Callable[..., Any] | None = None,
        jvp: Callable[..., Any] | None = None,
        transpose: Callable[..., Any] | None = None,
    ) -> None:
        self.plain = plain or functools.partial(formula, Target())
        self._formula, self._kernel, self._several = formula, kernel, several
        self._one: Any = None
        try:
            one: Any = core.Primitive(name)
            one.multiple_results = several
            one.def_abstract_eval(types)
            one.def_impl(functools.partial(_evaluate, one))
            batching.primitive_batchers[one] = functools.partial(_batch, one)
            for platform in (None, *WIDE):
                lower = functools.partial(self._lower, platform)
                mlir.register_lowering(one, lower, platform=platform)
            if jvp is not None:
                ad.primitive_jvps[one] = functools.partial(self._jvp, jvp)
            if transpose is not None:
                ad.primitive_transposes[one] = functools.partial(_transpose, transpose)
            self._one = one
        except Exception:  # whatever else has changed there
            _missing.append(name)

    def __call__(self, *arrays: jax.Array, **static: Any) -> Any:
        return (self.plain if self._one is None else self._one.bind)(*arrays, **static)

    def _jvp(self, rule: Any, arrays: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
        moved = [None if type(t) is ad.Zero else t for t in tangents]
        return self(*arrays, **static), rule(arrays, moved, **static)

    def _lower(self, platform: str | None, context: Any, *arrays: Any, **static: Any) -> Any:
        one_cpu = platform == "cpu" and _one_device(context)
        target = Target(platform in WIDE, one_cpu)
        if one_cpu and self._kernel is not None and not _exported(context):
            by_kernel = self._kernel(context.avals_in, **static)
            if by_kernel is not None:
                # Where JAX or XLA takes such a call no longer, the formula serves.
                with contextlib.suppress(Exception), jax.enable_x64(True):
                    return mlir.lower_fun(by_kernel, self._several)(context, *arrays)

        # Where there is no float64, it would be in constants and indices too.
        wide = target.wide or np.float64 in {a.dtype for a in context.avals_in}
        wide = wide or "float64" in static.values()

        def by_formula(*arrays: jax.Array) -> Any:
            with jax.enable_x64(True) if wide else contextlib.nullcontext():
                return self._formula(target, *arrays, **static)

        return mlir.lower_fun(by_formula, self._several)(context, *arrays)


@functools.lru_cache(256)
def _program(primitive: Any, static: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(functools.partial(primitive.bind, **dict(static)))


def _evaluate(primitive: Any, *arrays: jax.Array, **static: Any) -> Any:
    """By a program of its own, also where programs are switched off: nothing else can do it."""
    with jax.disable_jit(False), jax.debug_nans(False):
        return _program(primitive, tuple(static.items()))(*arrays)


def _batch(primitive: Any, arrays: Any, dimensions: Any, **static: Any) -> tuple[Any, Any]:
    (size,) = {x.shape[k] for x, k in zip(arrays, dimensions, strict=True) if k is not None}
    batched = [
        jnp.broadcast_to(x, (size, *x.shape)) if k is None else jnp.moveaxis(x, k, 0)
        for x, k in zip(arrays, dimensions, strict=True)
    ]
    if "axes" in static:
        static["axes"] = tuple(d + 1 for d in static["axes"])
    found = primitive.bind(*batched, **static)
    return found, [0] * len(found) if primitive.multiple_results else 0


def _transpose(rule: Any, cotangent: Any, *arrays: Any, **static: Any) -> list[Any]:
    wanted = [ad.is_undefined_primal(x) for x in arrays]  # type: ignore[no-untyped-call]
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval) if w else None for x, w in zip(arrays, wanted, strict=True)]
    if isinstance(cotangent, (list, tuple)):
        cotangent = tuple(map(ad.instantiate_zeros, cotangent))
    known = [None if w else x for x, w in zip(arrays, wanted, strict=True)]
    found = iter(rule(cotangent, known, **static))
    return [
        next(found).astype(x.aval.dtype) if w else None for x, w in zip(arrays, wanted, strict=True)
    ]


def _one_device(context: Any) -> bool:
    """Whether one device runs what is lowered; what `jax.shard_map` does on each is run by one."""
    place = context.module_context.axis_context
    if hasattr(place, "manual_axes"):
        return set(place.manual_axes) == set(place.mesh.axis_names)
    return getattr(place, "num_devices", 0) in (None, 1)


def _exported(context: Any) -> bool:
    parameters = getattr(context.module_context, "lowering_parameters", None)
    return bool(getattr(parameters, "for_export", True))


def available() -> bool:
    """Whether this JAX has primitives."""
    return not _missing


def alike(x: Any, shape: tuple[Any, ...], dtype: Any) -> Any:
    """The type `x`, with this shape and dtype."""
    return x.update(shape=shape, dtype=np.dtype(dtype), weak_type=False)


def few(x: Any, axes: Axes, dtype: Any) -> Any:
    """The type of what has one number for each vector of `x`, with the axes kept."""
    return alike(x, one_each(x.shape, axes), dtype)


def one_each(shape: tuple[Any, ...], axes: Axes) -> tuple[Any, ...]:
    """This shape with 1 for the length of `axes`."""
    return tuple(1 if d in axes else n for d, n in enumerate(shape))


def spread(*arrays: jax.Array) -> bool:
    """Whether types say that the arrays are spread over devices, so that the compiler has to see
    what becomes of them. (What each device does alone in `jax.shard_map` is a program for one.)"""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and all(jax.typeof(a).sharding.mesh.empty for a in arrays):
        return False
    if not mesh.are_all_axes_manual:
        return True
    kinds: Any = {few(jax.typeof(a), tuple(range(a.ndim)), np.float32) for a in arrays}
    return len(kinds) > 1


# Kernels.


def serves(x: Any, unit: str = "") -> bool:
    """Whether `rows_kernel` may find a kernel for `x`, to unit vectors of this dtype: for real
    vectors outside any mesh (within one, the compiler has to see how an array is spread)."""
    return (
        available()
        and all(isinstance(d, int) and d > 0 for d in x.shape)
        and x.dtype.name in _DTYPES
        and (not unit or unit in _DTYPES)
        and jax.sharding.get_abstract_mesh().empty
        and jax.typeof(x).sharding.mesh.empty
    )


def would_run(x: Any, axes: Axes, dtype: np.dtype[Any], ready: bool = False) -> bool:
    """Whether a program for one CPU would call a kernel; and one that is `ready`, if asked for."""
    if not allowed() or not serves(x, dtype.name) or not trailing(axes, x.ndim):
        return False
    try:
        numba = _numba()
    except (ImportError, OSError):
        return False
    if numba is None:
        return False
    if ready:
        return bool(numba.ready_for_xla(x.dtype, dtype, "rows"))
    return bool(numba.known_to_xla(x.dtype, dtype))


def trailing(axes: Axes, ndim: int) -> bool:
    """Whether these are the last axes, as kernels take them."""
    return axes == tuple(range(ndim - len(axes), ndim))


def norm_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the norms that a kernel gives for vectors of `dtype`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def rows_kernel(types: Any, *, axes: Axes, call: Call) -> Callable[..., Any] | None:
    """What calls the kernel for the unit vectors, if wanted, and, if wanted, for the norms with
    their inverses as two factors (see `functions.Polar`), with the axes kept."""
    (x,) = types
    kernel = None if call.narrow else _kernel("rows", x, axes, call)
    if kernel is None:
        return None
    shape: Any = jax.ShapeDtypeStruct
    results = [shape(x.shape, np.dtype(call.unit))] if call.unit else []
    each = one_each(x.shape, axes)
    if call.norm:
        results.append(shape((math.prod(each), 3), norm_of(x.dtype)))
    wanted = bool(call.unit) * _UNIT + bool(call.norm) * _NORM

    def by_kernel(x: jax.Array) -> list[jax.Array]:
        found = _custom_call(results, wanted, kernel, axes, call, x)
        if not call.norm:
            return found
        *unit, three = found
        return [*unit, *(three[:, k].reshape(each) for k in range(3))]

    return by_kernel


def jvp_kernel(types: Any, *, axes: Axes, call: Call) -> Callable[..., Any] | None:
    """What calls the kernel for the tangents of unit vectors."""
    x, _ = types
    kernel = _kernel("jvp", x, axes, call)
    if kernel is None:
        return None
    shape: Any = jax.ShapeDtypeStruct
    result = shape(x.shape, x.dtype)

    def by_kernel(x: jax.Array, dx: jax.Array) -> jax.Array:
        tangent: jax.Array
        (tangent,) = _custom_call([result], _JVP, kernel, axes, call, x, dx)
        return tangent

    return by_kernel


def _custom_call(
    results: list[Any], wanted: int, kernel: int, axes: Axes, call: Call, *arrays: jax.Array
) -> list[jax.Array]:
    shape = arrays[0].shape
    found: Any = jax.ffi.ffi_call(_TARGET, results)(
        *arrays,
        eps=np.float64(call.eps),
        kernel=np.int64(kernel),
        n=np.int64(math.prod(shape[d] for d in axes)),
        results=np.int64(wanted),
        zero=np.float64(math.nan if call.zero_nan else 1.0),
    )
    return list(found)


def _kernel(work: str, x: Any, axes: Axes, call: Call) -> int | None:
    """The number of the kernel, linked and known to XLA, or None where there is none."""
    if not call.kernels or not trailing(axes, x.ndim):
        return None
    try:
        numba = _numba()
        unit = np.dtype(call.unit) if call.unit else x.dtype
        found = None if numba is None else numba.for_xla(x.dtype, unit, work)
        if found is None:
            return None
        handler, kernel = found
        with _fork.loading:
            return int(kernel) if _registered(handler) else None
    except (ImportError, OSError):  # perhaps there is one the next time
        return None


def _numba() -> Any:
    """The Numba backend, or None where XLA could not call its kernels."""
    if not _interface():
        return None
    try:
        with _fork.loading:
            return importlib.import_module("l2multi.backends.numba")
    except Exception as error:  # a broken library fails in whatever way it likes
        raise ImportError(str(error)) from error


@functools.cache
def _interface() -> bool:
    """Whether XLA's interface is one that the handler is written for, or a later one like it; an
    OSError where that cannot be told for now."""
    try:
        header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except Exception as error:  # no such folder, or nobody who tells it
        if _usable.passes(error):  # not to be kept
            raise OSError(str(error)) from error
        return False
    version = re.findall(r"^#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)$", header, flags=re.M)
    return len(version) == 2 and int(version[0]) == 0 and int(version[1]) >= 1


@functools.cache
def _registered(handler: int) -> bool:
    """Tell XLA of the handler, once; whether it knows it now."""
    new: Any = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    try:
        capsule = new(handler, b"xla._CUSTOM_CALL_TARGET", None)
        jax.ffi.register_ffi_target(_TARGET, capsule, platform="cpu", api_version=1)
    except Exception as error:  # a broken library fails in whatever way it likes
        if _usable.passes(error):  # not to be kept
            raise OSError(str(error)) from error
        return False
    return True
