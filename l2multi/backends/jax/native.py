"""The Numba kernels inside programs that XLA compiles for a CPU, as two primitives.

`rows` takes real vectors to their unit vectors, and to their norms and inverses of these; `turn` is
the derivative of the first. How is decided when a program is lowered, for only then are platform
and devices known: on one CPU a custom call runs the kernel for vectors along the last axes. For
others and elsewhere, and in what `jax.export` writes down for other processes, XLA compiles the
functions of `functions`. Those are given to the primitives, which know no formula.

Which of the two a program gets follows from the program and from what is installed alone: a kernel
that did not come with the package is compiled when the program is.

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

from l2multi import _fork, _registry

with contextlib.suppress(Exception):  # JAX promises none of these to anyone; see `_install`
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

ENVIRONMENT = "L2MULTI_JAX_KERNELS"
_ON = os.environ.get(ENVIRONMENT) != "0"
_TARGET = "l2multi_rows"
_UNIT, _NORM, _TURN = 1, 2, 4  # as `l2multi.backends.numba.foreign` has them

# What kernels take and give, and those narrow ones whose derivatives they know.
_KINDS = ("float64", "float32", "float16", "bfloat16")
_NARROW = _KINDS[1:]
# Platforms that compute in float64, whatever JAX's setting for users' arrays.
WIDE = ("cpu", "cuda", "rocm")

Axes = tuple[int, ...]


class Target(NamedTuple):
    """What a program is lowered for."""

    wide: bool = False  # a platform of `WIDE`
    tree: bool = False  # as `sums.total` has it


# For `rows`: ``(x, wanted, target)`` to what it returns.
Formula = Callable[..., Any]


class Turn(NamedTuple):
    """The formulas of `turn`."""

    unit: Callable[..., jax.Array]  # ``(x, wanted, kernels)`` to unit vectors, with derivatives
    wide: Callable[..., jax.Array]  # ``(x, d, wanted, target)`` to what `turn` returns


_forced: ContextVar[bool | None] = ContextVar("l2multi_jax_native", default=None)


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


def serves(x: Any, unit: str = "") -> bool:
    """Whether `rows` can take `x`, to unit vectors of this dtype: real vectors outside any mesh
    (within one, the compiler has to see how an array is spread)."""
    return (
        _installed
        and all(isinstance(d, int) and d > 0 for d in x.shape)
        and x.dtype.name in _KINDS
        and (not unit or unit in _KINDS)
        and jax.sharding.get_abstract_mesh().empty
        and jax.typeof(x).sharding.mesh.empty
    )


def would_run(x: Any, axes: Axes, dtype: np.dtype[Any], ready: bool = False) -> bool:
    """Whether a program for one CPU would call a kernel; and one that is `ready`, if asked for."""
    if not allowed() or not serves(x, dtype.name) or not _trailing(axes, x.ndim):
        return False
    try:
        numba: Any = _registry.load("numba") if _interface() else None
    except (ImportError, OSError):
        return False
    if numba is None:
        return False
    if ready:
        return bool(numba.ready_for_xla(x.dtype, dtype, "rows"))
    return bool(numba.known_to_xla(x.dtype, dtype))


def _trailing(axes: Axes, ndim: int) -> bool:
    return axes == tuple(range(ndim - len(axes), ndim))


class Wanted(NamedTuple):
    """What is to become of vectors. No dtype stands here, for JAX compares these by ``==``, and
    float64 is equal to None."""

    axes: Axes
    eps: float
    zero_nan: bool
    unit: str  # the name of the dtype of the unit vectors; empty: there shall be none
    norm: bool  # whether the norms are wanted
    odd: bool = False  # norms as `functions._split` rounds them for narrower dtypes; by no kernel

    def few(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the norms, axes kept."""
        return tuple(1 if d in self.axes else n for d, n in enumerate(shape))


def rows(x: jax.Array, wanted: Wanted, kernels: bool, formula: Formula) -> tuple[jax.Array, ...]:
    """The unit vectors, if wanted; then, if wanted, the norms and their inverses as two factors
    (see `functions.Polar`), with axes kept and of at least float32."""
    results: list[jax.Array] = _rows.bind(x, wanted=wanted, kernels=kernels, formula=formula)
    return tuple(results)


def turn(x: jax.Array, d: jax.Array, wanted: Wanted, kernels: bool, formula: Turn) -> jax.Array:
    """How the unit vectors move as `x` moves by `d`, all of one dtype: linear in `d`, and its own
    transpose."""
    moved: jax.Array = _turn.bind(x, d, wanted=wanted, kernels=kernels, formula=formula)
    return moved


def turns(x: jax.Array, wanted: Wanted) -> bool:
    """Whether `turn` can take an `x` that `rows` takes. (With `eps` and zero vectors that become
    NaN, the derivative at these is another.)"""
    return (
        x.dtype.name == wanted.unit
        and wanted.unit in _NARROW
        and not (wanted.eps and wanted.zero_nan)
    )


# Load-once caches: the primitives.
_rows: Any = None
_turn: Any = None


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _shapes(x: Any, *, wanted: Wanted, **_: Any) -> list[Any]:
    shapes = [x.update(dtype=np.dtype(wanted.unit), weak_type=False)] if wanted.unit else []
    if wanted.norm:
        few = x.update(shape=wanted.few(x.shape), dtype=_wide(x.dtype), weak_type=False)
        shapes += [few] * 3
    return shapes


@functools.lru_cache(256)
def _program(primitive: Any, parameters: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(functools.partial(primitive.bind, **dict(parameters)))


def evaluate(primitive: Any, *arrays: jax.Array, **parameters: Any) -> Any:
    """By a program of its own, also where programs are switched off: nothing else can do it."""
    with jax.disable_jit(False), jax.debug_nans(False):
        return _program(primitive, tuple(parameters.items()))(*arrays)


def batch_first(arrays: Any, dimensions: Any) -> list[jax.Array]:
    """Batched arrays with the batch in front, and in those that have none."""
    (size,) = {x.shape[k] for x, k in zip(arrays, dimensions, strict=True) if k is not None}
    return [
        jnp.broadcast_to(x, (size, *x.shape)) if k is None else jnp.moveaxis(x, k, 0)
        for x, k in zip(arrays, dimensions, strict=True)
    ]


def _batch(
    primitive: Any, arrays: Any, dimensions: Any, *, wanted: Wanted, **parameters: Any
) -> Any:
    wanted = wanted._replace(axes=tuple(d + 1 for d in wanted.axes))
    results = primitive.bind(*batch_first(arrays, dimensions), wanted=wanted, **parameters)
    return results, [0] * len(results) if primitive.multiple_results else 0


def _turn_jvp(primals: Any, tangents: Any, *, wanted: Wanted, **parameters: Any) -> Any:
    (x, d), (dx, dd) = primals, tangents
    value = turn(x, d, wanted, **parameters)
    if type(dx) is ad.Zero:
        return value, turn(x, dd, wanted, **parameters)
    function = functools.partial(_turn_formula, Target(), wanted=wanted, **parameters)
    dd = jnp.zeros_like(d) if type(dd) is ad.Zero else dd
    return value, jax.jvp(function, primals, (dx, dd))[1]


def _turn_transpose(moved: Any, x: Any, d: Any, **parameters: Any) -> tuple[None, Any]:
    return None, moved if type(moved) is ad.Zero else turn(x, moved, **parameters)


def _rows_formula(
    target: Target, x: jax.Array, *, wanted: Wanted, formula: Formula, **_: Any
) -> list[jax.Array]:
    return list(formula(x, wanted, target))


def _turn_formula(
    target: Target, x: jax.Array, d: jax.Array, *, wanted: Wanted, kernels: bool, formula: Turn
) -> jax.Array:
    if target.wide:
        return formula.wide(x, d, wanted, target)
    moved: jax.Array = jax.jvp(lambda x: formula.unit(x, wanted, kernels), (x,), (d,))[1]
    return moved


def _rows_kernel(kernel: int, x: jax.Array, *, wanted: Wanted, **_: Any) -> list[jax.Array]:
    shape: Any = jax.ShapeDtypeStruct
    shapes = [shape(x.shape, np.dtype(wanted.unit))] if wanted.unit else []
    if wanted.norm:
        shapes.append(shape((math.prod(wanted.few(x.shape)), 3), _wide(x.dtype)))
    results = bool(wanted.unit) * _UNIT + wanted.norm * _NORM
    found = _call(shapes, wanted, kernel, results, x)
    if not wanted.norm:
        return found
    *unit, three = found
    return [*unit, *(three[:, k].reshape(wanted.few(x.shape)) for k in range(3))]


def _turn_kernel(kernel: int, x: jax.Array, d: jax.Array, *, wanted: Wanted, **_: Any) -> jax.Array:
    shape: Any = jax.ShapeDtypeStruct
    moved: jax.Array
    (moved,) = _call([shape(x.shape, x.dtype)], wanted, kernel, _TURN, x, d)
    return moved


def _call(
    shapes: list[Any], wanted: Wanted, kernel: int, results: int, *arrays: jax.Array
) -> list[Any]:
    shape = arrays[0].shape
    found: Any = jax.ffi.ffi_call(_TARGET, shapes)(
        *arrays,
        eps=np.float64(wanted.eps),
        kernel=np.int64(kernel),
        n=np.int64(math.prod(shape[d] for d in wanted.axes)),
        results=np.int64(results),
        zero=np.float64(math.nan if wanted.zero_nan else 1.0),
    )
    return list(found)


def alone(context: Any) -> bool:
    """Whether one device runs what is lowered; what `jax.shard_map` does on each is run by one."""
    place = context.module_context.axis_context
    if hasattr(place, "manual_axes"):
        return set(place.manual_axes) == set(place.mesh.axis_names)
    return getattr(place, "num_devices", 0) in (None, 1)


def _exported(context: Any) -> bool:
    parameters = getattr(context.module_context, "lowering_parameters", None)
    return bool(getattr(parameters, "for_export", True))


def _lower(work: str, by_kernel: Any, by_formula: Any, platform: str) -> Callable[..., Any]:
    """For a CPU: the kernel where one device runs the program of this very process."""
    several = work == "rows"

    def lower(context: Any, *arrays: Any, **parameters: Any) -> Any:
        wanted, x = parameters["wanted"], context.avals_in[0]
        on_cpu = alone(context) and platform == "cpu"
        if (
            on_cpu
            and not _exported(context)
            and parameters["kernels"]
            and not wanted.odd
            and _trailing(wanted.axes, x.ndim)
        ):
            unit = np.dtype(wanted.unit) if wanted.unit else x.dtype
            if (kernel := _kernel(x.dtype, unit, work)) is not None:
                function = functools.partial(by_kernel, kernel)
                # Where JAX or XLA takes such a call no longer, the formula serves.
                with contextlib.suppress(Exception), jax.enable_x64(True):
                    return mlir.lower_fun(function, several)(context, *arrays, **parameters)
        function = functools.partial(by_formula, Target(platform in WIDE, on_cpu))
        return mlir.lower_fun(function, several)(context, *arrays, **parameters)

    return lower


def _install() -> bool:
    """Make the primitives; whether that is possible with this JAX."""
    global _rows, _turn
    try:
        _rows, _turn = Primitive("l2multi_rows"), Primitive("l2multi_turn")
        _rows.multiple_results = True
        _rows.def_abstract_eval(_shapes)
        _turn.def_abstract_eval(lambda x, d, **_: d.update(weak_type=False))
        for one, work, by_kernel, by_formula in (
            (_rows, "rows", _rows_kernel, _rows_formula),
            (_turn, "jvp", _turn_kernel, _turn_formula),
        ):
            one.def_impl(functools.partial(evaluate, one))
            batching.primitive_batchers[one] = functools.partial(_batch, one)
            mlir.register_lowering(one, _lower(work, by_kernel, by_formula, "other"))
            for platform in WIDE:
                lower = _lower(work, by_kernel, by_formula, platform)
                mlir.register_lowering(one, lower, platform=platform)
        ad.primitive_jvps[_turn] = _turn_jvp
        ad.primitive_transposes[_turn] = _turn_transpose
    except Exception:  # whatever else has changed there
        return False
    return True


def _kernel(x: np.dtype[Any], y: np.dtype[Any], work: str) -> int | None:
    """The number of the kernel, linked and known to XLA, or None where there is none."""
    try:
        numba: Any = _registry.load("numba") if _interface() else None
        found = None if numba is None else numba.for_xla(x, y, work)
        if found is None:
            return None
        handler, kernel = found
        with _fork.loading:
            return int(kernel) if _registered(handler) else None
    except (ImportError, OSError):  # perhaps there is one the next time
        return None


@functools.cache
def _interface() -> bool:
    """Whether XLA's interface is one that the handler is written for, or a later one like it; an
    OSError where that cannot be told for now."""
    try:
        header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except Exception as error:  # no such folder, or nobody who tells it
        if _registry.passes(error):  # not to be kept
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
        if _registry.passes(error):  # not to be kept
            raise OSError(str(error)) from error
        return False
    return True


_installed = _install()
