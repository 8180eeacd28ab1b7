"""What every backend shares: dtype rules, axes, policies and errors. Imports no backend."""

import importlib
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.exceptions import AxisError, TooHardError

Axis = int | Sequence[int] | None
Zero = Literal["keep", "nan", "raise", "null"]  # the last for what can hold nulls
NonFinite = Literal["propagate", "raise"]

ZERO = ("keep", "nan", "raise")
NONFINITE = ("propagate", "raise")

# float8_e8m0fnu is left out on purpose: it has no zero and no sign, so it cannot hold a vector.
ML_FLOATS = (
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)
ML_INTEGERS = ("int2", "uint2", "int4", "uint4")

_REAL = "float16, float32, float64, longdouble"
_COMPLEX = "complex64, complex128, clongdouble"
_ML = f"from ml_dtypes {', '.join(ML_FLOATS)}"
ACCEPTED_DTYPES = f"{_REAL}, {_COMPLEX}, integers, bool, and {_ML}"


class ZeroVectorError(ValueError):
    """A zero vector was met under ``zero="raise"``; nothing has been written."""

    __module__ = "l2multi"  # where users find it


class NonFiniteError(ValueError):
    """A vector with inf or NaN was met under ``nonfinite="raise"``; nothing has been written."""

    __module__ = "l2multi"


class Request(NamedTuple):
    """The keywords of a call."""

    axis: Axis = -1
    eps: float = 0.0
    zero: str = "keep"
    nonfinite: str = "propagate"
    keepdims: bool = False
    out: Any = None
    dtype: Any = None
    return_norm: bool = False
    backend: str | None = None
    dim: Any = None


class Rule(NamedTuple):
    """What one input dtype leads to: native input, result, norm, and the real dtype of the sums."""

    native: np.dtype[Any]
    result: np.dtype[Any]
    norm: np.dtype[Any]
    wide: np.dtype[Any]


_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
_LONG, _CLONG = np.dtype(np.longdouble), np.dtype(np.clongdouble)
_C64, _C128 = np.dtype(np.complex64), np.dtype(np.complex128)

# Load-once cache.
_rules: dict[np.dtype[Any], Rule] = {}


def ml_dtypes_in(names: Sequence[str]) -> tuple[np.dtype[Any], ...]:
    """The dtypes of these names, none while nobody has imported ml_dtypes."""
    ml = sys.modules.get("ml_dtypes")
    types = (getattr(ml, name, None) for name in names)
    return tuple(np.dtype(t) for t in types if t is not None)


def _make_rule(dtype: np.dtype[Any]) -> Rule | None:
    # The one object that NumPy itself uses, for dtypes are compared by address in places; that of
    # an unpickled array is another.
    try:
        native = dtype.newbyteorder("=")
    except TypeError:  # strings of any length, quad precision: what is no classic dtype
        return None
    if native.kind in "biufc" or native.isbuiltin == 2:
        native = np.dtype(native.type)
    if native.kind in "biu" or native in ml_dtypes_in(ML_INTEGERS):
        return Rule(native, _F64, _F64, _F64)
    if native == np.float16 or native in ml_dtypes_in(ML_FLOATS):
        return Rule(native, native, _F32, _F64)
    # longdouble first: where it is float64 in disguise the rules agree.
    for result, norm, wide in (
        (_F32, _F32, _F64),
        (_F64, _F64, _F64),
        (_LONG, _LONG, _LONG),
        (_C64, _F32, _F64),
        (_C128, _F64, _F64),
        (_CLONG, _LONG, _LONG),
    ):
        if native == result:
            return Rule(native, result, norm, wide)
    return None


def rule(dtype: np.dtype[Any]) -> Rule:
    """The row of the dtype table for an input of `dtype`."""
    found = _rules.get(dtype)
    if found is None:
        # JAX has dtypes, such as that of PRNG keys, that are not NumPy's.
        made = _make_rule(dtype) if isinstance(dtype, np.dtype) else None
        if made is None:
            raise TypeError(f"x: dtype {dtype} is not supported; accepted are {ACCEPTED_DTYPES}")
        found = _rules[dtype] = made
    return found


def name(dtype: np.dtype[Any]) -> str:
    """What messages call a dtype: NumPy's name for longdouble tells the bytes it takes."""
    own = {_LONG: "longdouble", _CLONG: "clongdouble"}.get(dtype)
    return f"{dtype}" if own is None or _LONG == _F64 else f"{own} ({dtype})"


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Whether an element of `dtype` has two parts."""
    return dtype.kind == "c"


def floating(dtype: Any, *, complex_: bool) -> np.dtype[Any]:
    """The dtype asked for by ``dtype=``: floating, complex exactly where `complex_` says so."""
    if isinstance(dtype, str) and dtype in ML_FLOATS:  # NumPy knows them once it is imported
        try:
            dtype = getattr(importlib.import_module("ml_dtypes"), dtype)
        except (ImportError, AttributeError):
            raise ImportError(
                f"dtype: {dtype!r} comes from ml_dtypes; try: pip install 'ml_dtypes>=0.5'"
            ) from None
    wanted = f"a complex floating dtype, as x is complex ({_COMPLEX})"
    if not complex_:
        wanted = f"a real floating dtype, as x or the norm is real ({_REAL}, and {_ML})"
    try:
        asked = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise TypeError(f"dtype: expected {wanted}, got {dtype!r} ({error})") from None
    found = _rules.get(asked) or _make_rule(asked)
    if found is None or found.result != found.native or is_complex(asked) != complex_:
        raise TypeError(f"dtype: expected {wanted}, got {name(asked)}")
    return found.native


def hashable(dtype: Any) -> bool:
    """Whether a ``dtype=`` can be known by itself."""
    return isinstance(dtype, (type, np.dtype, str))


def wider(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The wider of two dtypes of sums, float64 or longdouble."""
    return a if a.itemsize >= b.itemsize else b


def normalize_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as ascending non-negative ints, so that a tuple in any order is one call."""
    if type(axis) is int and -ndim <= axis < ndim:  # 2 us saved
        return (axis % ndim,)
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, (str, bytes)) or (not isinstance(axis, Sequence) and _no_index(axis)):
        raise TypeError(f"axis: expected an int, a tuple of ints or None, got {axis!r}")
    axes = []
    for one in axis if isinstance(axis, Sequence) else (axis,):
        if _no_index(one):
            raise TypeError(f"axis: expected an int, a tuple of ints or None, got {axis!r}")
        index = operator.index(one)
        if not -ndim <= index < ndim:
            alone = "axis: a number has no axes, try axis=None"
            raise AxisError(index, ndim, "axis" if ndim else alone)
        axes.append(index % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis: an axis is named twice in {axis!r}")
    return tuple(sorted(axes))


def _no_index(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return True
    try:
        operator.index(value)
    except TypeError:  # arrays have the method, but most of them no index
        return True
    return False


def batch_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape of the norms."""
    if keepdims:
        return tuple(1 if d in axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in axes)


def check_size(name: str, value: Any) -> float:
    """A non-negative keyword as a float. A string is none, whatever float() makes of it."""
    try:
        number = float("" if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a non-negative number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name}: expected a float64, got an integer beyond its range") from None
    if not number >= 0.0:
        raise ValueError(f"{name}: expected a non-negative number, got {value!r}")
    return number


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a keyword that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that cannot take the result, before anything is written."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(
            f"out: expected a numpy.ndarray, got {type(out).__name__}; try without out="
        )
    if out.dtype not in (dtype, dtype.newbyteorder()):
        cure = "; try without out=" if out.dtype.kind in "iub" else ""  # as of integers in place
        raise TypeError(f"out: expected dtype {name(dtype)}, got {name(out.dtype)}{cure}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writable array, got a read-only one")
    if overlaps_itself(np.asarray(out)):
        raise ValueError(
            "out: expected one memory location per element, got an array that overlaps itself, as "
            "broadcasting, as_strided and sliding windows make; try out.copy()"
        )


def overlaps_itself(a: np.ndarray[Any, Any]) -> bool:
    """Whether two elements share a byte."""
    extent = a.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if step < extent:
            break
        extent += step * (n - 1)
    else:
        return False
    # Elements may lie between one another. If any two overlap, so do two of which the first is at 0
    # along the axes up to the first along which they differ, and the other beyond 0 there.
    shares: Any = np.shares_memory  # whose type has no limits such as this one
    try:
        for d in range(a.ndim if a.size else 0):
            rest = a[(0,) * d]
            if shares(rest[:1], rest[1:], max_work=10**6):
                return True
    except TooHardError:  # it would take minutes; no array that somebody uses is known to
        return True
    return False


def default_tol(dtype: np.dtype[Any]) -> float:
    """Four ulp of 1 for float32 and wider, whose sums round; one for the narrow types."""
    found = rule(dtype)
    if found.result == np.float16:
        return float(np.finfo(np.float16).eps)
    if found.result in ml_dtypes_in(ML_FLOATS):
        return float(sys.modules["ml_dtypes"].finfo(found.result).eps)
    return 4 * float(np.finfo(found.norm).eps)


def need_values(zero: str, nonfinite: str) -> None:
    """Refuse a policy of "raise" where there are no values."""
    if zero != "raise" and nonfinite != "raise":
        return
    given, use = 'zero="raise"', 'zero="keep" or "nan"'
    if zero != "raise":
        given, use = 'nonfinite="raise"', 'nonfinite="propagate"'
    raise TypeError(
        f"{given} needs values; under tracing (jit, grad, vmap, compile) and in lazy arrays there "
        f"are none: use {use}"
    )


def refuse(
    norms: np.ndarray[Any, Any],
    finite: Callable[[], np.ndarray[Any, Any]],
    zero: str,
    nonfinite: str,
    empty: bool,
) -> None:
    """Raise what ``zero="raise"`` and ``nonfinite="raise"`` ask for.

    `norms` are as wide as the sums. A norm of inf may belong to a finite vector, so `finite`,
    one bool a vector, is asked for only where there is one.
    """
    if nonfinite == "raise":
        bad = ~np.isfinite(norms)
        if bad.any():
            bad = bad & ~finite()
        if bad.any():
            raise NonFiniteError(_where("x: inf or NaN", bad))
    if zero == "raise" and not empty:
        bad = are_zero(norms)
        if bad.any():
            raise ZeroVectorError(_where("x: zero norm", bad))


def passes(norms: np.ndarray[Any, Any], zero: str, nonfinite: str) -> bool:
    """Whether these policies refuse no vector, as norms in any dtype tell without a closer look:
    those that underflow or overflow do not."""
    if not norms.size:
        return True
    return bool(
        (zero != "raise" or norms.min() > 0) and (nonfinite != "raise" or norms.max() < np.inf)
    )


def are_zero(norms: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which norms are zero, by their bits: where another library has set denormals-are-zero, a
    subnormal number equals 0."""
    size = norms.dtype.itemsize
    zero: np.ndarray[Any, Any] = (norms if size > 8 else norms.view(f"u{size}")) == 0
    return zero


def _where(what: str, bad: np.ndarray[Any, Any]) -> str:
    first = tuple(map(int, np.unravel_index(int(np.argmax(bad)), bad.shape)))
    return met(what, int(np.count_nonzero(bad)), bad.size, first)


def met(what: str, count: int, total: int, first: tuple[int, ...]) -> str:
    """What a policy met in so many vectors, the first of them at this position in the batch."""
    if not first:
        return f"{what} in the only vector"
    position = first[0] if len(first) == 1 else first
    return f"{what} in {count} of {total} vectors, the first at position {position} of the batch"
