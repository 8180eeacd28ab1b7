"""Slow, exact oracle for norms and unit vectors. Imports nothing from l2multi.

Every float is an integer times a power of two, so a sum of squares is a big integer times a power
of two, and its root an `math.isqrt` with 200 bits to spare. Errors come in ulp of the result's
dtype at the exact value (the spacing of the subnormals where that value is subnormal).
"""

import functools
import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

LIMB = 20  # bits: products of two limbs leave room for 2**23 of them in an int64
ROOT = 200  # bits of a root
FRACTION = 64  # bits behind the binary point of an error in ulp


class Verdict(NamedTuple):
    """The worst errors in ulp, inf for what is not even of the right kind, and where they are."""

    element: float
    norm: float
    where: str


class Format(NamedTuple):
    """A binary floating format: bits behind the point, smallest normal and overflow exponents."""

    nmant: int
    minexp: int
    maxexp: int


@functools.cache
def format_of(dtype):
    """The format of a real dtype."""
    info = ml_dtypes.finfo(dtype)
    _, maxexp = math.frexp(float(info.max)) if dtype.itemsize <= 8 else (0, int(info.maxexp))
    return Format(int(info.nmant), int(info.minexp), maxexp)


def parts(a):
    """The elements as real numbers: a complex one as two, along the last axis."""
    a = np.ascontiguousarray(a, a.dtype.newbyteorder("="))
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a


def vectors(x, axis):
    """The vectors along `axis` as the rows of a matrix, and the shape of the batch."""
    axes = tuple(range(x.ndim)) if axis is None else np.atleast_1d(np.array(axis, int)) % x.ndim
    axes = sorted(int(d) for d in axes)
    kept = [d for d in range(x.ndim) if d not in axes]
    batch = tuple(x.shape[d] for d in kept)
    n = math.prod(x.shape[d] for d in axes)
    return x.transpose(*kept, *axes).reshape(math.prod(batch), n), batch


def _limbs(a):
    """Limbs and exponents: ``|a|`` is the sum of ``limb[j] * 2**(e - 20 * (j + 1))``."""
    if not _floating(a.dtype):
        wide = a.astype(np.uint64 if a.dtype.kind in "bu" else np.int64)
        size = np.where(wide < 0, np.uint64(0) - wide.astype(np.uint64), wide.astype(np.uint64))
        limbs = [(size >> np.uint64(s)) & np.uint64(2**LIMB - 1) for s in (60, 40, 20, 0)]
        return [limb.astype(np.int64) for limb in limbs], np.full(a.shape, 80)
    rest, exponents = np.frexp(np.abs(a.astype(np.float64) if a.dtype.itemsize < 8 else a))
    limbs = []
    while rest.any():
        rest = np.ldexp(rest, LIMB)
        whole = np.floor(rest)
        limbs.append(whole.astype(np.int64))
        rest = rest - whole
    return limbs, exponents.astype(np.int64)


def _floating(dtype):
    return dtype.kind == "f" or dtype.name.startswith(("float", "bfloat"))


def exactly(a):
    """The sizes of finite reals as ``m * 2**e``: nested lists of Python ints."""
    limbs, exponents = _limbs(a)
    m = np.zeros(a.shape, object)
    for limb in limbs:
        m = (m << LIMB) + limb.astype(object)
    return m.tolist(), (exponents - LIMB * len(limbs)).tolist()


def sum_of_squares(row):
    """The exact sum of squares of finite reals, as ``N * 2**q`` with an even ``q``."""
    if row.size <= 256:
        m, e = exactly(row)
        low = min(e, default=0)
        return sum(a * a << 2 * (b - low) for a, b in zip(m, e, strict=True)), 2 * low
    limbs, exponents = _limbs(row)
    order = np.argsort(exponents.astype(np.int16), kind="stable")  # by digits: in linear time
    exponents, limbs = exponents[order], [limb[order] for limb in limbs]
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    values = exponents[starts].tolist()
    low, count = values[0], len(limbs)
    total = 0
    for i in range(count):
        for j in range(i + 1):
            sums = np.add.reduceat(limbs[i] * limbs[j], starts)
            twice = LIMB * (2 * count - 2 - i - j) + (i != j)
            for e, s in zip(values, sums.tolist(), strict=True):
                total += s << (2 * (e - low) + twice)
    return total, 2 * low - 2 * LIMB * count


def root(total, q):
    """The square root of ``total * 2**q`` as ``R * 2**k``, with at least `ROOT` bits."""
    extra = max(0, ROOT - total.bit_length() // 2)
    return math.isqrt(total << 2 * extra), q // 2 - extra


def _shift(m, by):
    return m << by if by >= 0 else m >> -by


def _error(got, m, e, form):
    """By how many ulp ``got = (m, e)`` misses ``m * 2**e``."""
    spacing = min(max(m.bit_length() + e - 1, form.minexp), form.maxexp - 1) - form.nmant
    gap = _shift(got[0], got[1] - spacing + FRACTION) - _shift(m, e - spacing + FRACTION)
    return min(abs(gap), 2**1000) / 2**FRACTION  # what is farther off would be no float


def _norm_error(got, length, form):
    """The error of a norm in ulp; past the largest finite number inf is the right answer."""
    m, e = length
    if np.isnan(got) or np.signbit(got):
        return math.inf
    if np.isinf(got):
        return 0.0 if m.bit_length() + e > form.maxexp else _error((1, form.maxexp), m, e, form)
    (value,), (exponent,) = exactly(np.atleast_1d(got))
    return _error((value, exponent), m, e, form)


def _pick(row, sample):
    """The positions to look at: all, or the largest, the smallest and a random `sample`."""
    if row.size <= sample:
        return np.arange(row.size)
    size = np.abs(row)
    ends = [int(size.argmax()), int(np.where(size > 0, size, np.inf).argmin())]
    rng = np.random.default_rng(row.size)
    return np.unique([*ends, *rng.integers(0, row.size, sample)])


def _special(row, unit, width, zero):
    """Whether the unit vector of a zero, NaN or infinite vector is right."""
    if np.isnan(row).any():
        return np.isnan(unit).all()
    infinite = np.isinf(row)
    if infinite.any():
        hit = infinite.reshape(-1, width).any(axis=1)
        rest = np.repeat(~hit, width)
        zeros = (unit[rest] == 0).all() and _same_signs(unit[rest], row[rest])
        return np.isnan(unit.reshape(-1, width)[hit]).any(axis=1).all() and zeros
    if zero == "nan":
        return np.isnan(unit).all()
    return (unit == 0).all() and _same_signs(unit, row)


def _same_signs(a, b):
    """Whether the signs agree; a format without a negative zero cannot show that of zero."""
    negative = np.signbit(b)
    if a.dtype.name.endswith("fnuz"):
        negative = negative & (a != 0)
    return (np.signbit(a) == negative).all()


def judge(x, unit=None, norms=None, *, eps=0.0, zero="keep", sample=200, flush=False):
    """Judge the unit vectors and norms of the rows of `x`.

    With `flush`, results below the smallest normal number may be zero.
    """
    width = 2 if x.dtype.kind == "c" else 1
    x = parts(x)
    if unit is not None:
        unit = parts(unit)
        form = format_of(unit.dtype)
    worst = {"element": (0.0, ""), "norm": (0.0, "")}

    def note(kind, error, where):
        if error > worst[kind][0]:
            worst[kind] = (error, where)

    if np.float64(eps) == np.inf:
        bound = None
    else:
        (m,), (e,) = exactly(np.array([eps]))
        bound = (m, e)
    finite = np.isfinite(x).all(axis=1) if _floating(x.dtype) else np.ones(len(x), bool)
    for i, row in enumerate(x):
        ordinary = finite[i] and row.size > 0
        if not finite[i]:
            length = None
            if norms is not None:
                right = np.isnan(norms[i]) if np.isnan(row).any() else np.isposinf(norms[i])
                note("norm", 0.0 if right else math.inf, f"vector {i}")
        else:
            length = root(*sum_of_squares(row)) if ordinary else (0, 0)
            if norms is not None:
                error = _norm_error(norms[i], length, format_of(norms.dtype))
                note("norm", error, f"vector {i}")
        if unit is None or row.size == 0:
            continue
        if length is None or length[0] == 0:
            right = _special(row, unit[i], width, zero)
            note("element", 0.0 if right else math.inf, f"vector {i}")
            continue
        picks = _pick(row, sample)
        chosen, got = row[picks], unit[i][picks]
        if bound is None or not np.isfinite(got).all():
            right = bound is None and (got == 0).all()
            note("element", 0.0 if right else math.inf, f"vector {i}")
            continue
        if not _same_signs(got, chosen):
            note("element", math.inf, f"sign in vector {i}")
        divisor, k = _larger(length, bound)
        extra = ROOT + divisor.bit_length()
        for j, m, e, gm, ge in zip(picks, *exactly(chosen), *exactly(got), strict=True):
            quotient, exponent = (m << extra) // divisor, e - k - extra
            if flush and gm == 0 and quotient.bit_length() + exponent <= form.minexp:
                continue
            note("element", _error((gm, ge), quotient, exponent, form), f"vector {i}[{j}]")
    return Verdict(
        worst["element"][0], worst["norm"][0], f"{worst['element'][1]}; norm {worst['norm'][1]}"
    )


def _larger(a, b):
    """The larger of two numbers ``m * 2**e``."""
    low = min(a[1], b[1])
    return a if a[0] << (a[1] - low) >= b[0] << (b[1] - low) else b


class Same:
    """Whether two arrays agree to the last bit; where not, its repr says where first."""

    def __init__(self, why):
        self.why = why

    def __bool__(self):
        return not self.why

    def __repr__(self):
        return self.why or "the same bits"


def same_bits(a, b):
    """Whether two arrays agree to the last bit, NaNs and signs of zero included."""
    a, b = parts(np.asarray(a)), parts(np.asarray(b))
    if a.dtype != b.dtype or a.shape != b.shape:
        return Same(f"{a.dtype} of shape {a.shape}, not {b.dtype} of shape {b.shape}")
    if a.dtype.itemsize > 8:  # longdouble has bytes of padding
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        same &= np.signbit(a) == np.signbit(b)
    else:
        same = (as_bytes(a) == as_bytes(b)).all(-1)
    if same.all():
        return Same("")
    first = tuple(int(i) for i in np.argwhere(~same)[0])
    return Same(
        f"{np.count_nonzero(~same)} of {same.size} differ, the first at {first}: "
        f"{a[first]!r}, not {b[first]!r}"
    )


def as_bytes(a):
    """The bytes of each element."""
    return np.frombuffer(a.tobytes(), np.uint8).reshape(*a.shape, a.dtype.itemsize)
