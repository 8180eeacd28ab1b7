"""Shapes, dtypes, layouts and magnitudes. Imports nothing from l2multi."""

import itertools

import ml_dtypes
import numpy as np

from tests.reference import format_of

HALVES = [
    np.dtype(t)
    for t in (
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e3m4,
        ml_dtypes.float8_e4m3,
        ml_dtypes.float8_e4m3b11fnuz,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
]
SINGLES = [np.dtype(t) for t in (np.float32, np.complex64)]
DOUBLES = [np.dtype(t) for t in (np.float64, np.complex128)]
LONGS = [np.dtype(t) for t in (np.longdouble, np.clongdouble)]
FLOATS = [*HALVES, *SINGLES, *DOUBLES, *LONGS]
INTEGERS = [np.dtype(t) for t in ("?", "b", "B", "h", "H", "i", "I", "q", "Q", ml_dtypes.int4)]
DTYPES = [*FLOATS, *INTEGERS]

# One of each kind of arithmetic: all that backends which compile go through in most tests.
FEW = [np.dtype(t) for t in ("f2", ml_dtypes.bfloat16, "f4", "c8", "f8", "c16", "i4", "g")]

# Input and `dtype=`, each pair a compilation.
CONVERSIONS = [
    (np.dtype(a), np.dtype(b))
    for a, b in (
        *(("f2", "f4"), ("f2", "f8"), ("f4", "f2"), ("f4", "f8"), ("f8", "f4"), ("i4", "f4")),
        *((HALVES[1], "f2"), ("f8", HALVES[1]), ("f4", HALVES[5])),
        *(("c8", "c16"), ("c16", "c8"), ("f4", "g"), ("g", "f4"), ("c8", "G"), ("i4", "g")),
    )
]

# Lanes are 16 wide, the Numba kernels' blocks hold 128 elements, NumPy's parts 16384.
SHORT = [*range(41), 127, 128, 129, 130, 255, 256, 257, 1000, 1023, 1024, 1025]
LONG = [16383, 16384, 16385, 65537, 10**6]
FEW_LENGTHS = [0, 1, 3, 17, 128, 1000]

# Shapes and axes: ints, tuples in any order, all, none, middle ones.
AXES = [
    ((5,), -1),
    ((3, 4), 0),
    ((3, 4), 1),
    ((3, 4), ()),
    ((2, 3, 4), 1),
    ((2, 3, 4), (0, -1)),
    ((2, 3, 4, 5), (2, 1)),
    ((2, 3, 4, 5), (3, 0, 1)),
    ((2, 3, 4), None),
    ((), None),
    ((), ()),
    ((3, 0), -1),
    ((0, 3), -1),
    ((0, 3), 0),
    ((2, 0, 3), (0, 1)),
]


def real(dtype):
    """The dtype of the parts."""
    return np.zeros((), dtype).real.dtype if dtype.kind == "c" else dtype


def joined(a, dtype):
    """Reals of an even last axis as `dtype`: in pairs if that is complex."""
    return np.ascontiguousarray(a.astype(real(dtype))).view(dtype)


def is_float(dtype):
    """Whether `dtype` is a floating one, complex included."""
    return dtype in FLOATS


def magnitudes(dtype):
    """Each size that matters in a real floating dtype, ascending, inf (if there is one), NaN."""
    wide = np.longdouble if dtype == np.longdouble else np.float64
    form = format_of(dtype)
    tiny, ulp = np.ldexp(wide(1), form.minexp), np.ldexp(wide(1), -form.nmant)
    top = wide(ml_dtypes.finfo(dtype).max)
    sizes = [0, tiny * ulp, tiny - tiny * ulp, tiny, np.sqrt(tiny), 1 - ulp / 2, 1, 1 + ulp]
    sizes += [np.sqrt(top), top, wide(np.inf), wide(np.nan)]
    with np.errstate(all="ignore"):
        values = np.array(sizes, wide).astype(dtype)
    nan = np.isnan(values)
    return np.concatenate([np.unique(values[~nan]), values[nan][:1]])


def grid(dtype):
    """The magnitudes crossed: all signed pairs, and all triples. Rows are vectors."""
    sizes = magnitudes(real(dtype))
    signed = np.concatenate([sizes, -sizes])
    pairs = np.array(list(itertools.product(signed, repeat=2)), signed.dtype)
    triples = np.array(list(itertools.product(sizes, repeat=3)), signed.dtype)
    signs = np.random.default_rng(3).choice(np.array([-1, 1]), triples.shape).astype(triples.dtype)
    triples = triples * signs
    if dtype.kind != "c":
        return [pairs, triples]
    fourth = np.roll(triples[:, :1], 7, axis=0)
    return [pairs.view(dtype), np.concatenate([triples, fourth], axis=1).view(dtype)]


def has_subnormal(x):
    """Which vectors hold a subnormal number."""
    x = np.atleast_2d(x)
    x = x.view(real(x.dtype))
    least = np.ldexp(np.float64(1), format_of(x.dtype).minexp)
    return ((x != 0) & (np.abs(x.astype(np.float64)) < least)).any(axis=1)


def vectors(dtype, n, seed=0, subnormal=True):
    """Four vectors of length n: random, huge, tiny and of mixed magnitudes (or four of ints)."""
    rng = np.random.default_rng([seed, n])
    if not is_float(dtype):
        if dtype.kind == "b":
            return rng.random((4, n)) < 0.5
        info = ml_dtypes.iinfo(dtype)
        x = (
            rng.integers(int(info.min), int(info.max), (4, n), np.int64, endpoint=True)
            if dtype != np.uint64
            else rng.integers(0, 2**64, (4, n), np.uint64)
        )
        x[1] = int(info.max)
        x[2] = int(info.min)
        return x.astype(dtype)
    one = real(dtype)
    wide = np.longdouble if one == np.longdouble else np.float64
    form = format_of(one)
    n *= 2 if dtype.kind == "c" else 1
    x = np.empty((4, n), wide)
    x[0] = rng.standard_normal(n)
    x[1] = wide(ml_dtypes.finfo(one).max) * rng.uniform(-1, 1, n)
    low = form.minexp - (form.nmant if subnormal else 0)
    x[2] = np.ldexp(rng.choice(np.array([-3, -2, -1, 1, 2, 3], wide), n), low)
    spread = rng.integers(low, form.maxexp, n)
    x[3] = np.ldexp(rng.choice(np.array([-1, 1], wide), n), spread)
    return joined(x, dtype)


def sample(dtype, shape, seed=0):
    """Moderate values of `dtype`: random, nonzero, with signs where there are any."""
    rng = np.random.default_rng([seed, len(shape), *shape])
    if not is_float(dtype):
        return rng.integers(1, 2 if dtype.kind == "b" else 7, shape).astype(dtype)
    x = rng.uniform(0.5, 2, (*shape, 2)) * rng.choice([-1, 1], (*shape, 2))
    return joined(x if dtype.kind == "c" else x[..., :1], dtype)[..., 0]


def _unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype) if a.dtype.itemsize == 1 else np.ndarray(a.shape, a.dtype, raw.data)
    view = view.reshape(a.shape)
    view[...] = a
    return view


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _wider(a, index, shape):
    room = np.ones(shape, a.dtype)
    room[index] = a
    return room[index]


def _mapped(a, path):
    mapped = np.memmap(path, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    mapped.flush()
    return np.memmap(path, a.dtype, "r", shape=a.shape)


# Each takes a matrix and a path, and gives the same values in another place.
LAYOUTS = {
    "contiguous": lambda a, p: a.copy(),
    "fortran": lambda a, p: np.asfortranarray(a),
    "row slices": lambda a, p: _wider(a, np.s_[::2], (2 * len(a), a.shape[1])),
    "wide rows": lambda a, p: _wider(a, np.s_[:, 1:-1], (len(a), a.shape[1] + 2)),
    "column slices": lambda a, p: _wider(a, np.s_[:, ::3], (len(a), 3 * a.shape[1])),
    "negative strides": lambda a, p: a[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": lambda a, p: _unaligned(a),
    "byte-swapped": lambda a, p: a.astype(a.dtype.newbyteorder("S")),
    "read-only": lambda a, p: _read_only(a),
    "memory map": _mapped,
}
