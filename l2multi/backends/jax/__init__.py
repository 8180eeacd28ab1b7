"""The JAX backend: the pure functions of `functions` behind the names every backend has."""

import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2multi import _contract, _usable
from l2multi.backends.jax import cpu_primitives, functions, roots
from l2multi.backends.jax.cpu_primitives import Axes
from l2multi.backends.jax.functions import finite

__all__ = [
    "check",
    "default_float",
    "fast_path",
    "finite",
    "from_numpy",
    "kernel",
    "norm",
    "normalize",
    "report",
    "to_numpy",
    "traced",
    "unready",
    "unsupported",
]


def normalize(
    x: jax.Array,
    axes: Axes,
    *,
    eps: float,
    zero_nan: bool,
    out: None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[jax.Array, jax.Array | None]:
    """The unit vectors, and the norms where asked for."""
    results: tuple[jax.Array, jax.Array | None]
    norms = norm_dtype.name if norm_dtype is not None else ""
    results = functions.normalize(
        x, axes, eps, zero_nan, dtype.name, norms, (), cpu_primitives.allowed()
    )
    return results


def norm(x: jax.Array, axes: Axes, *, keepdims: bool, out: None, dtype: np.dtype[Any]) -> jax.Array:
    """The norms."""
    # Who only asks must not have a kernel compiled that is not there.
    absent = _usable.asking.get() and not cpu_primitives.would_run(x, axes, x.dtype, ready=True)
    kernels = not absent and cpu_primitives.allowed()
    norms: jax.Array = functions.norm(x, axes, keepdims, dtype.name, (), kernels)
    return norms


# One program for each usual call: JAX finds it faster than one with as many static arguments.
def _normalizer(dtype: Any, result: str, axis: int, alone: bool, eps: float, kernels: bool) -> Any:
    norm_dtype = _norm_of_float(dtype)
    wanted = "" if alone else norm_dtype

    def normalize(x: jax.Array) -> Any:
        axes = _contract.normalize_axes(axis, x.ndim)
        y, norms = functions.normalize(
            x, axes, eps, False, result or dtype.name, wanted, (), kernels
        )
        return y if alone else (y, norms)

    return jax.jit(normalize) if norm_dtype else None


def _measurer(dtype: Any, axis: int, dropped: bool, kernels: bool) -> Any:
    norm_dtype = _norm_of_float(dtype)

    def norm(x: jax.Array) -> Any:
        axes = _contract.normalize_axes(axis, x.ndim)
        return functions.norm(x, axes, not dropped, norm_dtype, (), kernels)

    return jax.jit(norm) if norm_dtype else None


_normalizers, _measurers = cpu_primitives.Programs(_normalizer), cpu_primitives.Programs(_measurer)


class _FastPath:
    """Past validation and selection, which took 14 us of 24 for 128 elements."""

    backend = "jax"

    def __init__(self) -> None:
        # Names of results, by the input's dtype and ``dtype=`` as the caller says it.
        self.ways: dict[tuple[Any, Any], str] = {}

    def normalize(
        self, x: jax.Array, axis: Any, eps: Any, zero: Any, nonfinite: Any,
        out: Any, dtype: Any, return_norm: Any,
    ) -> Any:  # fmt: skip
        """As `l2multi.normalize`; None where a call needs the general path."""
        usual = type(axis) is int and zero == "keep" and nonfinite == "propagate" and out is None
        if not usual or not eps >= 0.0 or type(return_norm) is not bool:
            return None
        result = ""
        if dtype is not None:
            result = self.ways.get((x.dtype, dtype), "") if _contract.hashable(dtype) else ""
            if not result:
                return None
        program = _normalizers[x.dtype, result, axis, not return_norm, eps]
        return None if program is None else program(x)

    def norm(
        self, x: jax.Array, axis: Any, keepdims: Any, nonfinite: Any, out: Any, dtype: Any
    ) -> Any:
        """As `l2multi.norm`; None where a call needs the general path."""
        usual = type(axis) is int and nonfinite == "propagate" and out is None and dtype is None
        if not usual or type(keepdims) is not bool:
            return None
        program = _measurers[x.dtype, axis, not keepdims]
        return None if program is None else program(x)


_fast_path = _FastPath()


def fast_path(x: jax.Array, dtype: Any, result: np.dtype[Any]) -> _FastPath | None:
    """For arrays of a class whose instances all have values."""
    if traced(x):
        return None
    if _contract.hashable(dtype) and _norm_of_float(result):  # which JAX has whatever its settings
        _fast_path.ways[x.dtype, dtype] = result.name
    return _fast_path


def _norm_of_float(dtype: Any) -> str:
    """The dtype of the norms of an array of floating or complex `dtype`, or an empty name: also for
    what is only as wide as JAX's setting allows."""
    try:
        rule = _contract.rule(dtype)
    except TypeError:
        return ""
    return rule.norm.name if rule.result == dtype and rule.norm == np.float32 else ""


def traced(x: Any) -> bool:
    """Whether `x` stands for values not known yet."""
    return isinstance(x, jax.core.Tracer)


def unsupported(x: jax.Array, result: np.dtype[Any]) -> str | None:
    """JAX has no longdouble, and 64 bits only with x64."""
    return _unfit(result)


def unready(x: jax.Array, axes: Axes, result: np.dtype[Any], look: bool) -> None:
    """XLA compiles when it is called, as its users know it."""


def check() -> None:
    """JAX has been imported."""


def report() -> dict[str, str]:
    """Nothing else."""
    return {}


def kernel(
    x: jax.Array | np.ndarray[Any, Any], axes: Axes, result: np.dtype[Any], out: Any
) -> tuple[str, int]:
    """XLA, with a thread per CPU this process may use, or one that feeds the device."""
    placed: Any = x
    if isinstance(x, np.ndarray):  # it would go where a number goes
        x, placed = x.view(x.dtype.newbyteorder("=")), jax.device_put(np.float32(0))
    if traced(placed):
        calls = cpu_primitives.would_run(x, axes, result)
        one = "; in a program for one CPU it calls compiled rows" if calls else ""
        return f"XLA, as part of the traced function{one}", 1
    platform = _platform(placed)
    if (
        platform == "cpu"
        and len(placed.devices()) == 1
        and cpu_primitives.would_run(x, axes, result)
    ):
        numba: Any = sys.modules["l2multi.backends.numba"]  # who would run is there
        return "compiled rows, called by XLA on cpu", numba.threads_in_xla(x.size)
    return f"XLA on {platform}", _cpus() if platform == "cpu" else 1


def _cpus() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cpus or 1


def _platform(x: jax.Array) -> str:
    return str(next(iter(x.devices())).platform)


def to_numpy(x: jax.Array, *, copy: bool) -> np.ndarray[Any, Any]:
    """`x` as a new NumPy array, or a read-only view of the CPU's memory."""
    if traced(x):
        raise TypeError("x: a traced JAX array has no values that NumPy could see")
    if copy:
        return np.array(x)
    if not x.is_fully_addressable or len(x.devices()) != 1 or _platform(x) != "cpu":
        raise TypeError(
            f"x: this JAX array lives on {x.sharding}; a NumPy backend takes one in the memory "
            "of a single CPU device, and nothing is moved unasked"
        )
    return np.asarray(x)


def from_numpy(x: Any, like: jax.Array | None = None) -> jax.Array:
    """`x` as a JAX array: the caller's is copied, for JAX must not see later writes to it; a
    result of ours goes to the device of `like`, without a copy where it is 64-byte aligned."""
    if like is None:
        return jnp.array(x.astype(x.dtype.newbyteorder("="), copy=False))
    moved: jax.Array = jax.device_put(x, like.sharding)
    return moved


def default_float() -> np.dtype[Any]:
    """What integers become: float32, or float64 with x64."""
    return roots.canonical(np.dtype(np.float64))


def _unfit(dtype: np.dtype[Any]) -> str | None:
    native = dtype.newbyteorder("=")
    if _contract.rule(native).norm == np.longdouble != np.float64:
        return "JAX has no longdouble"
    if roots.canonical(native) != native:
        how = "JAX_ENABLE_X64=1 in the environment, or `with jax.enable_x64(True)`"
        return f"{native} needs x64: {how}"
    return None
