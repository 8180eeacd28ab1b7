"""The array_api backend: functions of the array API standard and no others, on whatever library has
them and wherever its arrays lie.

No number of an array is looked at, so lazy arrays stay lazy, and unknown lengths unknown. Sums are
in float64, where no square of a narrower number leaves the range. Those of float64 numbers, and of
any on a device without float64, are made three times, of the numbers and of these times a large and
a small power of two: wherever one overflows or loses digits, another does neither. The order of a
sum is the library's.
"""

import math
import sys
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from l2multi import _contract

Axes = tuple[int, ...]

# What the standard has of the contract's dtypes, and what libraries have besides, by NumPy's names.
_FLOATS = ("float16", "float32", "float64", "complex64", "complex128")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NAMES = (*_FLOATS, *_INTEGERS, "bool")

# A sum of squares from the first number on has lost nothing to underflow, if it is finite; another
# is made of numbers times the second, or times its inverse.
_SAFE = {"float64": (2.0**-900, 2.0**600), "float32": (2.0**-66, 2.0**96)}


class Like(NamedTuple):
    """What is to be known of an array without its numbers; lengths that are not known are None."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # as NumPy has it, or the library's own, which no rule is for
    device: Any
    xp: Any

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def own(self, dtype: np.dtype[Any]) -> Any:
        """The library's dtype that is this one of NumPy; None if it has none on the device."""
        if self.xp in (None, sys.modules.get("array_api_compat.numpy")):  # NumPy has all
            return None if _contract.rule(dtype).wide.itemsize > 8 else dtype
        listed = self.xp.__array_namespace_info__().dtypes(kind=None, device=self.device)
        if dtype.name in listed:
            return listed[dtype.name]
        return getattr(self.xp, dtype.name, None) if dtype == np.float16 else None

    def default_float(self) -> np.dtype[Any]:
        """What integers become."""
        kinds = self.xp.__array_namespace_info__().default_dtypes(device=self.device)
        default: np.dtype[Any] = numpy_dtype(self.xp, kinds["real floating"])
        return default

    def constant(self, value: float, dtype: Any) -> Any:
        """A number as an array without axes."""
        return self.xp.asarray(value, dtype=dtype, device=self.device)


def like(x: Any) -> Like:
    """What is to be known of `x`."""
    xp = array_api_compat.array_namespace(x)
    return Like(tuple(x.shape), numpy_dtype(xp, x.dtype), array_api_compat.device(x), xp)


def numpy_dtype(xp: Any, dtype: Any) -> Any:
    """NumPy's name for a dtype of a library; the dtype itself where it has none."""
    if isinstance(dtype, np.dtype):
        return dtype.newbyteorder("=")
    for name in _NAMES:
        if getattr(xp, name, None) == dtype:
            return np.dtype(name)
    return dtype


# NumPy's, whose namespace is not asked for: with NumPy 2.0 that imports `numpy.testing`, which has
# the system run lscpu.
_HOST = Like((0,), np.dtype(np.float64), "cpu", None)


class _Vectors:
    """Vectors as wide as the device has numbers, and the roots of their sums of squares, axes kept,
    each of the vector times `scale_up` and `scale_down`, which are powers of two, or None."""

    def __init__(self, x: Any, axes: Axes) -> None:
        self.like, self.axes = like(x), axes
        self.xp = xp = self.like.xp
        double = self.like.own(np.dtype(np.float64))
        self.width = "float32" if double is None else "float64"
        self.real = double or self.like.own(np.dtype(np.float32))
        self.complex = _contract.is_complex(self.like.dtype)
        wide = self.real
        if self.complex:
            wide = self.like.own(np.dtype("c8" if double is None else "c16"))
        self.values = xp.astype(x, wide, copy=False)
        self.parts = [self.values]
        if self.complex:
            self.parts = [xp.real(self.values), xp.imag(self.values)]
        self.scale_up = self.scale_down = None
        total = self.squares(1.0)
        if double is None or self.like.dtype in (np.float64, np.complex128):
            lowest, power = _SAFE[self.width]
            one = self.constant(1.0)
            small, large = total < lowest, total == math.inf
            total = xp.where(small, self.squares(power), total)
            total = xp.where(large, self.squares(1 / power), total)
            self.scale_up = xp.where(small, self.constant(power), one)
            self.scale_down = xp.where(large, self.constant(1 / power), one)
        self.root = xp.sqrt(total)

    def constant(self, value: float) -> Any:
        """A real number, inf if it is beyond the range."""
        top = float(np.finfo(self.width).max)
        return self.like.constant(math.inf if value > top else value, self.real)

    def squares(self, factor: float) -> Any:
        """The sums of squares of the numbers times a factor."""
        total = None
        for part in self.parts:
            scaled = part if factor == 1.0 else part * factor
            each = scaled * scaled
            if self.axes:  # libraries differ over what no axes mean
                each = self.xp.sum(each, axis=self.axes, keepdims=True)
            total = each if total is None else total + each
        return total

    def norms(self, keepdims: bool, dtype: np.dtype[Any]) -> Any:
        """The norms."""
        length = self.length()
        if not keepdims and self.axes:
            length = self.xp.squeeze(length, axis=self.axes)
        return self.xp.astype(length, self.like.own(dtype))

    def length(self) -> Any:
        """The norms, axes kept."""
        return self.root if self.scale_up is None else self.root / self.scale_up / self.scale_down

    def units(self, eps: float, zero_nan: bool, dtype: np.dtype[Any]) -> Any:
        """The unit vectors."""
        xp, root, scale_up, scale_down = self.xp, self.root, self.scale_up, self.scale_down
        zero = root == 0
        if eps:
            short = self.length() <= self.constant(eps)
            if scale_up is not None:  # so that neither `eps` nor its inverse is beyond the range
                power = _SAFE[self.width][1]
                less = eps < 1
                scale_up = xp.where(short, self.constant(power if less else 1.0), scale_up)
                scale_down = xp.where(short, self.constant(1.0 if less else 1 / power), scale_down)
                eps = eps * power if less else eps / power
            root = xp.where(short, self.constant(eps), root)
        root = xp.where(zero, self.constant(math.nan if zero_nan else 1.0), root)
        if self.complex:
            y = self.times(*(f for f in (scale_up, 1 / root, scale_down) if f is not None))
        elif scale_up is None:
            y = self.values / root
        else:
            y = self.values * scale_up / root * scale_down
        return xp.astype(y, self.like.own(dtype))

    def times(self, *factors: Any) -> Any:
        """Complex vectors times real numbers that are not negative.

        The standard cannot make complex numbers of two parts, and a product with a real number is
        one with an imaginary part of 0, which adds 0 times the other part. That does not change the
        sign of a zero where both parts are positive; so all are mirrored to there and back.
        """
        xp, z = self.xp, self.values
        negative, below = map(xp.signbit, self.parts)
        mirrored = negative != below
        z = xp.where(mirrored, xp.conj(z), z)
        z = xp.where(negative, -z, z)
        for factor in factors:
            z = z * xp.astype(factor, z.dtype)
        z = xp.where(negative, -z, z)
        return xp.where(mirrored, xp.conj(z), z)


def normalize(
    x: Any,
    axes: Axes,
    *,
    eps: float,
    zero_nan: bool,
    out: None,
    dtype: np.dtype[Any],
    norm_dtype: np.dtype[Any] | None,
) -> tuple[Any, Any]:
    """The unit vectors, and the norms where asked for."""
    with np.errstate(all="ignore"):  # for libraries that are NumPy underneath
        vectors = _Vectors(x, axes)
        norms = None if norm_dtype is None else vectors.norms(False, norm_dtype)
        return vectors.units(eps, zero_nan, dtype), norms


def norm(x: Any, axes: Axes, *, keepdims: bool, out: None, dtype: np.dtype[Any]) -> Any:
    """The norms."""
    with np.errstate(all="ignore"):
        return _Vectors(x, axes).norms(keepdims, dtype)


def finite(x: Any, axes: Axes) -> Any:
    """Whether each vector is free of inf and NaN."""
    xp = array_api_compat.array_namespace(x)
    each = xp.isfinite(x)
    return xp.all(each, axis=axes) if axes else each


def traced(x: Any) -> bool:
    """Whether the values of `x` cannot be looked at."""
    return bool(array_api_compat.is_lazy_array(x))


def unsupported(x: Any, result: np.dtype[Any]) -> str | None:
    """Nobody has longdouble, and a device may have no float64."""
    known = _HOST if isinstance(x, (np.ndarray, np.generic)) else like(x)
    for dtype in (known.dtype if known is not _HOST else x.dtype, result):
        if known.own(dtype) is None:
            name = _contract.name(dtype)
            if known is _HOST:
                return f"the array API has no {name}"
            return f"{known.xp.__name__} has no {name} on device {known.device}"
    return None


def unready(x: Any, axes: Axes, result: np.dtype[Any], look: bool) -> None:
    """What a library compiles is its own affair."""


def fast_path(x: Any, dtype: Any, result: np.dtype[Any]) -> None:
    """There is none."""


def check() -> None:
    """array-api-compat has been imported."""


def report() -> dict[str, str]:
    """Nothing else."""
    return {}


def kernel(x: Any, axes: Axes, result: np.dtype[Any], out: Any) -> tuple[str, int]:
    """Functions of a library; how many threads it takes is not known."""
    known = like(x)
    return f"functions of {known.xp.__name__} on device {known.device}", 1


def to_numpy(x: Any, *, copy: bool) -> np.ndarray[Any, Any]:
    """`x` as a new NumPy array, or a view of the CPU's memory."""
    if isinstance(x, (np.ndarray, np.generic)):
        found = np.asarray(x)
    else:
        try:
            found = _read(x, copy)
        except Exception as error:  # what libraries raise differs
            raise TypeError(
                f"x: the values of this {type(x).__module__} array are not known or not in the "
                f"memory of the CPU, and nothing is moved unasked ({error})"
            ) from None
    return found.copy() if copy else found


def _read(x: Any, move: bool) -> np.ndarray[Any, Any]:
    try:
        return np.from_dlpack(x)
    except Exception:
        if not move:
            raise
        return np.asarray(array_api_compat.to_device(x, "cpu"))


def from_numpy(x: np.ndarray[Any, Any], like: Like | None = None) -> Any:
    """`x` as an array on the device of `like`; or as NumPy's own, for it is such a library too, in
    C order, for its sums depend on the order."""
    if like is None:
        return np.asarray(x, x.dtype.newbyteorder("="), order="C")
    # With its dtype, for array-api-strict 2.6.0 gives that of the device where none is named.
    return like.xp.asarray(x, dtype=like.own(x.dtype), device=like.device)


def default_float() -> np.dtype[Any]:
    """What integers become in NumPy; elsewhere `Like` says so."""
    return np.dtype(np.float64)
