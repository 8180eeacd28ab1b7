"""What zero, NaN, infinite and empty vectors become, `eps`, axes and the policies that raise."""

import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.conformance.test_accuracy import check
from tests.reference import judge, same_bits, vectors

F4 = np.dtype("f4")


@pytest.mark.only("keeps_axes")
@pytest.mark.dtypes(np.dtype("f4"), np.dtype("c16"))
@pytest.mark.parametrize(("shape", "axis"), cases.AXES, ids=str)
@pytest.mark.where(cases=lambda backend, shape, axis: backend.holds(shape, axis))
def test_axes(backend, dtype, shape, axis):
    """Any axis, tuple in any order, None, 0-d and empty arrays."""
    x = cases.sample(dtype, shape)
    y, norms = backend.normalize(x, axis, return_norm=True)
    assert y.shape == x.shape
    rows, batch = vectors(x, axis)
    assert norms.shape == batch
    verdict = judge(rows, vectors(y, axis)[0], norms.reshape(-1))
    assert verdict.element <= backend.bound(y.dtype, "element"), verdict
    assert verdict.norm <= backend.bound(norms.dtype, "norm"), verdict
    kept = backend.norm(x, axis, keepdims=True)
    axes = range(x.ndim) if axis is None else [d % x.ndim for d in np.atleast_1d(axis).astype(int)]
    assert kept.shape == tuple(1 if d in axes else n for d, n in enumerate(shape))
    assert same_bits(kept.reshape(batch), norms)
    assert backend.run(l2.is_normalized, y, axis).tolist() == (norms > 0).tolist()


@pytest.mark.dtypes(*cases.DTYPES)
def test_return_norm_is_norm(backend, dtype):
    """The second result has the bits of `norm`, whatever `dtype` and `eps` say."""
    x = cases.vectors(dtype, 20)
    if cases.is_float(dtype):
        x[0, 3:5] = np.inf, -np.inf
        x = np.concatenate([x, x[:1], x[1:2] * 0])
        x[-2, 7] = np.nan
    norms = backend.norm(x)
    assert norms.dtype == backend.norm_dtype(dtype)
    assert same_bits(backend.normalize(x, return_norm=True)[1], norms)
    other = np.dtype("c8" if dtype.kind == "c" else "f4")
    other = backend.unit_dtype(dtype) if backend.why_not(other) else other
    with np.errstate(all="raise"):
        y, wide = backend.normalize(x, return_norm=True, dtype=other, eps=2.0)
    assert y.dtype == other
    assert same_bits(wide, norms)


@pytest.mark.dtypes(*cases.FLOATS)
def test_zero(backend, dtype):
    """The zero vector stays zero, signs kept, or becomes NaN; its neighbours do not care."""
    x = cases.sample(dtype, (4, 5))
    x[1], x[3] = 0, -x[3] * 0
    for zero in backend.zeros:
        for eps in (0.0, 0.5):
            check(backend, x, zero=zero, eps=eps)
    assert not backend.norm(x)[[1, 3]].any()


@pytest.mark.dtypes(*cases.FLOATS)
def test_nan_stays_home(backend, dtype):
    """A vector with a NaN becomes all NaN, and its neighbours keep every bit."""
    x = cases.sample(dtype, (7, 19))
    clean = backend.normalize(x)
    x[2, 3] = x[4, 0] = np.nan
    y, norms = backend.normalize(x, return_norm=True)
    bad = np.isin(np.arange(7), [2, 4])
    assert np.isnan(y[bad]).all()
    assert np.array_equal(np.isnan(norms), bad)
    assert same_bits(y[~bad], clean[~bad])


@pytest.mark.dtypes(*(d for d in cases.FLOATS if np.isinf(cases.magnitudes(cases.real(d))).any()))
def test_inf(backend, dtype):
    """A vector with inf has norm inf; inf becomes NaN, finite entries zero with their sign."""
    x = cases.sample(dtype, (5, 18))
    clean = backend.normalize(x)
    x[1, 4], x[3, 0], x[3, 1], x[4, 2], x[4, 3] = np.inf, -np.inf, np.inf, np.inf, np.nan
    if dtype.kind == "c":
        x[1, 4], x[3, 0] = complex(np.inf, 1), complex(0, -np.inf)
    check(backend, x)
    y = backend.normalize(x)
    assert same_bits(y[[0, 2]], clean[[0, 2]])


EPS = [1e-300, 1e-12, 0.75, 1.0, 3, 1e30, 1e300, np.inf]


@pytest.mark.dtypes(*cases.FEW, np.dtype("u1"))
def test_eps(backend, dtype):
    """The divisor is ``max(norm, eps)``."""
    x = cases.sample(dtype, (6, 3))
    if cases.is_float(dtype):
        x[1:4] *= np.array([2.0**-6, 2.0**-3, 2.0**4]).astype(dtype)[:, None]
    x[4] = 0
    for eps in EPS[2::5] if backend.compiles_shapes else EPS:
        check(backend, x, eps=eps)


@pytest.mark.parametrize("keyword", ["eps", "tol"])
def test_bad_sizes(backend, keyword):
    """A negative or NaN `eps` or `tol` is a ValueError that names it; no number, a TypeError."""
    function = l2.normalize if keyword == "eps" else l2.is_normalized
    for value, error in [(-1.0, ValueError), (np.nan, ValueError), (-np.inf, ValueError)] + [
        (one, TypeError) for one in ("1", b"1", 1j, [1.0])
    ]:
        with pytest.raises(error, match=rf"^{keyword}: .*non-negative.*got") as info:
            function(np.ones(3, F4), backend=backend.name, **{keyword: value})
        assert repr(value) in str(info.value)
    with pytest.raises(ValueError, match=rf"^{keyword}: expected a float64, got an integer"):
        function(np.ones(3, F4), backend=backend.name, **{keyword: 10**400})


@pytest.mark.only("any_axis")
@pytest.mark.parametrize("keyword", ["zero", "nonfinite"])
def test_bad_policy(backend, keyword):
    """An unknown choice is a ValueError that lists the choices."""
    with pytest.raises(ValueError, match=rf"^{keyword}: .*'raise'.*'bad'"):
        backend.normalize(np.ones(3, F4), **{keyword: "bad"})


@pytest.mark.only("any_axis")
@pytest.mark.parametrize(
    ("shape", "axis", "error"),
    [
        ((3,), 1, np.exceptions.AxisError),
        ((3,), -2, np.exceptions.AxisError),
        ((), -1, np.exceptions.AxisError),
        ((), 0, np.exceptions.AxisError),
        ((2, 3), (0, 2), np.exceptions.AxisError),
        ((2, 3), (0, -2), ValueError),
        ((2, 3), 1.0, TypeError),
        ((2, 3), "0", TypeError),
        ((2, 3), (0, None), TypeError),
        ((2, 3), True, TypeError),
        ((2, 3), (0, np.True_), TypeError),
    ],
)
@pytest.mark.where(cases=lambda backend, axis: axis != "0" or not backend.names_axes)
def test_bad_axis(backend, shape, axis, error):
    """A wrong axis is refused by name."""
    for function in (l2.normalize, l2.norm, l2.is_normalized):
        with pytest.raises(error, match="axis"):
            backend.run(function, np.ones(shape, F4), axis)


REFUSALS = [
    ("zero", 0.0, l2.ZeroVectorError),
    ("nonfinite", np.nan, l2.NonFiniteError),
    ("nonfinite", np.inf, l2.NonFiniteError),
]


HAVE = {"zero": ("normalize",), "nonfinite": ("normalize", "norm")}


@pytest.mark.only("can_raise")
@pytest.mark.dtypes(*cases.FEW)
@pytest.mark.parametrize(("keyword", "value", "error"), REFUSALS)
@pytest.mark.where(cases=lambda dtype, value: cases.is_float(dtype) or value == 0)
def test_raise(backend, dtype, keyword, value, error):
    """A policy of "raise" tells how many vectors and where the first is; x keeps its values."""
    x = cases.sample(dtype, (2, 3, 4))
    for function in (getattr(l2, name) for name in HAVE[keyword]):
        backend.run(function, x, **{keyword: "raise"})
        bad = x.copy()
        bad[0, 2, 1] = bad[1, 1, 3] = value
        if keyword == "zero":
            bad[0, 2] = bad[1, 1] = value
        before = bad.copy()
        with pytest.raises(error, match=r"^x: .* 2 of 6 .*\(0, 2\)") as info:
            backend.run(function, bad, **{keyword: "raise"})
        assert isinstance(info.value, ValueError)
        assert same_bits(bad, before)


@pytest.mark.only("traced")
@pytest.mark.parametrize("keyword", HAVE)
def test_raise_under_tracing(backend, keyword):
    """Without values, a policy of "raise" is refused by name."""
    for function in (getattr(l2, name) for name in HAVE[keyword]):
        with pytest.raises(TypeError, match=f"{keyword}=.*trac"):
            backend.run(function, np.ones((2, 3), F4), **{keyword: "raise"})


@pytest.mark.only("can_raise")
@pytest.mark.dtypes(F4, np.dtype("f8"))
def test_raise_spares_what_is_fine(backend, dtype):
    """A finite vector whose norm overflows is finite; a tiny or an empty one is not zero."""
    form = np.finfo(dtype)
    huge = np.full((2, 3), form.max)
    backend.norm(huge, nonfinite="raise")
    backend.normalize(huge, nonfinite="raise", zero="raise")
    least = form.tiny if backend.flushes(dtype) else form.smallest_subnormal
    backend.normalize(np.full((2, 3), least), zero="raise", eps=1.0)
    for shape in (s for s in ((2, 0), (0, 2)) if backend.holds(s, -1)):
        backend.normalize(np.zeros(shape, dtype), zero="raise", nonfinite="raise")


@pytest.mark.dtypes(*cases.FEW)
def test_is_normalized(backend, dtype):
    """Unit vectors are, others are not, nor are zero, NaN, infinite and empty ones."""
    x = cases.sample(dtype, (6, 50))
    unit = backend.normalize(x)
    assert backend.run(l2.is_normalized, unit).tolist() == [True] * 6
    assert backend.run(l2.is_normalized, x).tolist() == [False] * 6
    unit[1:4, 0] = 0, np.inf, np.nan
    unit[4] = 0
    unit[1, 1:] = 0
    unit[1, 7] = -1
    expected = [True, True, False, False, False, True]
    assert backend.run(l2.is_normalized, unit).tolist() == expected
    for empty in (e for e in [unit[:, :0]] if backend.holds(e.shape, -1)):
        assert backend.run(l2.is_normalized, empty).tolist() == [False] * 6
    wide = unit[[0, 5]] * unit.dtype.type(1.25)
    assert backend.run(l2.is_normalized, wide, tol=0.3).all()
    assert not backend.run(l2.is_normalized, wide, tol=0.2).any()
