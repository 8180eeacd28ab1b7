"""Calls of any kind, and what must come of them: what `test_any` and `benchmarks.soak` draw.

A call is drawn by a function that picks one of several, so that hypothesis can make it smaller, and
a generator of random numbers can make millions. What comes back is compared with exact integers,
and with the bits of the reference backend where those are promised.
"""

import math
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2
from tests import cases
from tests.reference import judge, parts, same_bits, vectors

ASKED = [np.dtype(t) for t in ("f2", "f4", "f8", "c8", "c16")]  # what ``dtype=`` is
SHAPES = (
    *((), (1,), (7,), (130,), (0, 3), (3, 0), (1, 5), (5, 1), (3, 5), (4, 17), (2, 33), (17, 3)),
    *((2, 3, 4), (1, 0, 2), (3, 1, 5), (2, 3, 2, 3), (2, 1, 1, 3, 2)),
)
FEW_SHAPES = ((3, 5), (2, 3, 4))  # where a shape costs a compilation
LARGE = ((300, 70), (2000, 33), (70, 300), (3, 20_000), (20, 30, 40))
VALUES = ("random", "huge", "tiny", "mixed", "any magnitude", "zeros", "infinite")


class Call(NamedTuple):
    """A call: the function, its array, and the keywords."""

    function: str
    dtype: np.dtype
    shape: tuple
    axis: Any
    values: str
    layout: str
    seed: int
    keywords: dict


def _unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = np.ndarray(a.shape, a.dtype, raw.data)
    view[...] = a
    return view


def _read_only(a):
    a.flags.writeable = False
    return a


def _every_other(a):
    room = np.ones([2 * n for n in a.shape], a.dtype)
    view = room[(*[slice(None, None, 2)] * a.ndim, ...)]
    view[...] = a
    return view


def _backwards(a):
    steps = (*[slice(None, None, -1)] * a.ndim, ...)
    return a[steps].copy()[steps]


# Each takes an array and gives the same values in another place.
LAYOUTS = {
    "contiguous": lambda a: a,
    "fortran": lambda a: np.asfortranarray(a).reshape(a.shape),
    "every other": _every_other,
    "backwards": _backwards,
    "turned": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) if a.ndim else a,
    "unaligned": lambda a: _unaligned(a) if a.dtype.isbuiltin == 1 else a,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": _read_only,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim and a.size else a,
}
WRITABLE = ("contiguous", "fortran", "every other", "backwards", "turned", "unaligned")


def drawn(pick, subject, large=False):
    """A call that a subject can answer; `pick` takes one of some. With `large`, also of shapes that
    take long."""
    dtypes = [d for d in cases.DTYPES if subject.why_not(d) is None]
    if subject.few is not None:
        dtypes = [d for d in dtypes if d in subject.few] or dtypes
    shapes = FEW_SHAPES if subject.compiles_shapes else (*SHAPES, *(LARGE if large else ()))
    places = [(shape, axis) for shape in shapes for axis in _axes(shape)]
    shape, axis = pick([place for place in places if subject.holds(*place)])
    dtype = pick(dtypes)
    function = pick(("normalize", "normalize", "norm", "is_normalized"))
    keywords = {}
    if function == "normalize":
        keywords["return_norm"] = pick((True, False))
        keywords["eps"] = pick((0.0, 0.0, 1e-300, 1e-3, 1.0, 1e30))
        raising = ("raise",) if subject.can_raise else ()
        keywords["zero"] = pick((*subject.zeros, *raising))
    elif function == "norm" and subject.keeps_axes:
        keywords["keepdims"] = pick((False, True))
    if function != "is_normalized":
        if subject.can_raise:
            keywords["nonfinite"] = pick(("propagate", "propagate", "raise"))
        if not subject.compiles_shapes and pick((False, False, True)):
            kind = "c" if function == "normalize" and dtype.kind == "c" else "f"
            asked = [d for d in ASKED if d.kind == kind and subject.why_not(d) is None]
            asked = [d for d in asked if (dtype, d) in cases.CONVERSIONS]  # each is compiled
            keywords["dtype"] = pick(asked) if asked else None
        if subject.holds_layouts and dtype in cases.FLOATS:
            keywords["out"] = pick((None, None, "in place", *WRITABLE))
    swaps = subject.holds_layouts and not subject.immutable  # JAX has no such arrays
    layouts = [one for one in LAYOUTS if swaps or one != "byte-swapped"]
    layout = pick(layouts) if subject.keeps_layouts else "contiguous"
    values = pick(VALUES) if dtype in cases.FLOATS else "random"
    return Call(function, dtype, shape, axis, values, layout, pick(range(1000)), keywords)


def _axes(shape):
    """Some of the axes that an array of this shape has vectors along."""
    n = len(shape)
    return [None, (), *(range(-1, n) if n else ()), *([(n - 1, 0), (0, 1)] if n > 1 else [])]


def array(call, subnormal=True):
    """The NumPy array of a call."""
    dtype, count = call.dtype, math.prod(call.shape)
    rng = np.random.default_rng(call.seed)
    kinds = ("random", "huge", "tiny", "mixed")
    index = kinds.index(call.values) if call.values in kinds else 0
    x = cases.vectors(dtype, count, call.seed, subnormal)[index].reshape(call.shape)
    if call.values == "any magnitude":
        sizes = cases.magnitudes(cases.real(dtype))
        if not subnormal:
            sizes = sizes[~cases.has_subnormal(sizes[:, None])]
        signs = rng.choice(np.array([-1, 1]), (count, 2)).astype(sizes.dtype)
        both = rng.choice(sizes, (count, 2)) * signs
        x = cases.joined(both if dtype.kind == "c" else both[:, :1], dtype).reshape(call.shape)
    elif call.values in ("zeros", "infinite") and x.ndim:
        x[rng.random(len(x)) < 0.5] = 0
        if call.values == "infinite" and x.size:
            bad = np.inf if np.isinf(cases.magnitudes(cases.real(dtype))).any() else np.nan
            x.reshape(-1)[rng.integers(x.size, size=2)] = bad, np.nan
    return LAYOUTS[call.layout](x)


def answered(subject, call, sample=20):
    """Have a subject answer a call; an AssertionError if the answer is not what it must be."""
    keywords = {k: v for k, v in call.keywords.items() if v is not None}
    out = keywords.pop("out", None)
    a = array(call, subnormal=not subject.flushes(call.dtype))
    kept = a.copy()
    function = getattr(l2, call.function)
    refusal = _refusal(a, call)
    target = refused = None
    try:
        if out is None:
            got = subject.run(function, a, call.axis, **keywords)
        else:
            got, target = _into(subject, function, a, call.axis, out, keywords)
    except (l2.ZeroVectorError, l2.NonFiniteError) as error:
        refused = error
    if refused is not None:
        assert same_bits(a, kept), "the input of a call that was refused has changed"
        kind, message = refusal or (None, "")
        assert type(refused) is kind, refused
        assert message in str(refused), (refused, message)
        return
    assert refusal is None, refusal
    assert target is a or same_bits(a, kept), "the input has changed"
    compared(subject, call, kept, got, keywords, sample)


def _refusal(a, call):
    """The error that a policy asks for, and what it says."""
    rows = parts(np.ascontiguousarray(vectors(a, call.axis)[0]))
    if rows.dtype.itemsize < 8 and rows.dtype.kind not in "biu":
        rows = rows.astype("f8")
    some = np.isfinite(rows).all(axis=1) if call.dtype in cases.FLOATS else np.ones(len(rows), bool)
    zero = (rows == 0).all(axis=1) if rows.shape[1] else np.zeros(len(rows), bool)
    for asked, kind, what, bad in (
        ("nonfinite", l2.NonFiniteError, "x: inf or NaN", ~some),
        ("zero", l2.ZeroVectorError, "x: zero norm", zero),
    ):
        if call.keywords.get(asked) == "raise" and bad.any():
            alone = "in the only vector"
            return kind, f"{what} {f'in {bad.sum()} of {len(bad)}' if _batch(call) else alone}"
    return None


def _batch(call):
    """Whether norms have axes."""
    return bool(vectors(np.empty(call.shape, np.bool_), call.axis)[1])


def _into(subject, function, a, axis, out, keywords):
    """The same with ``out=``: what is returned, and the memory that it is in."""
    with subject.scope(a.dtype, keywords.get("dtype")):
        plain = keywords | {"backend": subject.name}
        likes = function(subject.hold(a.copy()), axis, **plain)
        like = np.asarray(likes[0] if isinstance(likes, tuple) else likes)
        in_place = function is l2.normalize and a.flags.writeable and a.dtype == like.dtype
        if out == "in place" and in_place:
            place = a
        else:
            layout = LAYOUTS["contiguous" if out == "in place" else out]
            place = layout(np.ones(like.shape, like.dtype))
        held = subject.hold(place)
        source = held if place is a else subject.hold(a)
        got = function(source, axis, out=held, **plain)
    assert (got[0] if isinstance(got, tuple) else got) is held
    if isinstance(got, tuple):
        return (np.asarray(place), np.asarray(got[1])), place
    return np.asarray(place), place


def compared(subject, call, a, got, keywords, sample):
    """An answer is what exact integers say, and has the bits of the reference."""
    rows, batch = vectors(a, call.axis)
    if call.function == "is_normalized":
        assert got.shape == batch
        if subject.same_bits:
            expected = l2.is_normalized(a, call.axis, backend=subject.reference)
            assert np.array_equal(got, expected)
        norms = np.asarray(l2.norm(a, call.axis, backend="numpy"))
        assert np.asarray(got)[norms == 1].all()
        assert call.dtype in cases.HALVES or not np.asarray(got)[~(abs(norms - 1) < 1e-5)].any()
        return
    reference = l2.normalize if call.function == "normalize" else l2.norm
    if subject.compared and call.dtype in cases.FLOATS:
        expected = reference(a, call.axis, backend=subject.reference, **keywords)
        pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
        for one, other in pairs:
            assert same_bits(one, other), "other bits than the reference's"
    if a.dtype.itemsize * a.size > 20_000:
        return  # exact integers take long
    y, norms = None, got
    if call.function == "normalize":
        y, norms = got if isinstance(got, tuple) else (got, None)
        assert y.shape == a.shape
        y = vectors(y, call.axis)[0]
    if norms is not None:
        if keywords.get("keepdims"):
            assert norms.ndim == a.ndim
            norms = norms.reshape(batch)
        assert norms.shape == batch
        norms = np.atleast_1d(norms.reshape(-1))
    policies = {k: v for k, v in keywords.items() if k in ("eps", "zero") and v != "raise"}
    verdict = judge(
        np.ascontiguousarray(rows), y, norms, sample=sample, flush=subject.flushes(call.dtype),
        **policies,
    )  # fmt: skip
    if y is not None:
        assert verdict.element <= subject.bound(y.dtype, "element"), verdict
    if norms is not None:
        assert verdict.norm <= subject.bound(norms.dtype, "norm"), verdict
