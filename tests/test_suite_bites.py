"""Deliberately broken backends must fail the shared suite, by tests that are named here.

Each mutant is put where the registry keeps the loaded backend, and the test functions of the
conformance suite are called on it. The unbroken backend passes by the same route.
"""

import math
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from l2multi import _backends
from tests import cases, reference
from tests.conformance import (
    test_accuracy,
    test_bits,
    test_gradient,
    test_layouts,
    test_meaning,
    test_out,
    test_types,
)

F4, F8, C8 = np.dtype("f4"), np.dtype("f8"), np.dtype("c8")


class Mutant:
    """A backend that is another one but for a broken `normalize`."""

    def __init__(self, sound, broken):
        self._sound, self._broken = sound, broken

    def __getattr__(self, name):
        return getattr(self._sound, name)

    def normalize(self, x, axes, **keywords):
        """The broken form, of the sound one."""
        return self._broken(self._sound, x, axes, **keywords)


def naive(sound, x, axes, **keywords):
    """The textbook formula, in the input's dtype."""
    y, norms = sound.normalize(x, axes, **keywords)
    with np.errstate(all="ignore"):
        y[...] = x / np.sqrt(np.sum(x * x, axis=axes, keepdims=True))
    return y, norms


def leaks_nan(sound, x, axes, **keywords):
    """One NaN spoils the whole batch."""
    y, norms = sound.normalize(x, axes, **keywords)
    if np.isnan(y).any():
        y[...] = np.nan
    return y, norms


def two_ulp(sound, x, axes, **keywords):
    """Each element is off by two ulp."""
    y, norms = sound.normalize(x, axes, **keywords)
    one = y.view(cases.real(y.dtype))
    if one.dtype.kind == "f":
        one[...] = np.nextafter(np.nextafter(one, 0), 0)
    return y, norms


def last_bit(sound, x, axes, **keywords):
    """The last bit of one element of float64 is wrong, well within the bound."""
    y, norms = sound.normalize(x, axes, **keywords)
    if y.dtype == F8 and y.size > 3:
        y.reshape(-1)[3] = np.nextafter(y.reshape(-1)[3], 0)
    return y, norms


def by_layout(sound, x, axes, **keywords):
    """Columns that are not neighbours are summed in another order."""
    y, norms = sound.normalize(x, axes, **keywords)
    if not x.flags.c_contiguous:
        y[...] = np.nextafter(y, 0)
    return y, norms


def by_batch(sound, x, axes, **keywords):
    """A batch is summed in another order than a vector alone."""
    y, norms = sound.normalize(x, axes, **keywords)
    if x.ndim > 1 and y.dtype == F8:
        y[...] = np.nextafter(y, 0)
    return y, norms


def forgets_eps(sound, x, axes, *, eps, **keywords):
    """`eps` does nothing."""
    return sound.normalize(x, axes, eps=0.0, **keywords)


def loses_sign_of_zero(sound, x, axes, **keywords):
    """Negative zeros become positive."""
    y, norms = sound.normalize(x, axes, **keywords)
    y += 0
    return y, norms


def writes_before_it_reads(sound, x, axes, *, out, **keywords):
    """In place, a result is written while its input is still needed."""
    if out is not None:
        out[..., 0] = 0
    return sound.normalize(x, axes, out=out, **keywords)


def writes_to_x(sound, x, axes, **keywords):
    """Works in the caller's array where it may."""
    results = sound.normalize(x, axes, **keywords)
    if x.flags.writeable:
        x *= x.dtype.type(1)
        x[..., :1] = 0
    return results


MUTANTS = [
    (naive, test_accuracy.test_grid, F4),
    (naive, test_accuracy.test_grid, F8),
    (naive, test_accuracy.test_lengths, F4),
    (leaks_nan, test_meaning.test_nan_stays_home, F4),
    (leaks_nan, test_meaning.test_inf, F8),
    (two_ulp, test_accuracy.test_lengths, F4),
    (two_ulp, test_accuracy.test_grid, C8),
    (two_ulp, test_accuracy.test_long_vectors, F4),
    (last_bit, test_bits.test_specification, F8),
    (by_layout, test_layouts.test_layouts, F4),
    (by_layout, test_layouts.test_transposed, F8),
    (by_batch, test_bits.test_batch, F8),
    (forgets_eps, test_meaning.test_eps, F4),
    (loses_sign_of_zero, test_meaning.test_zero, F4),
    (writes_before_it_reads, test_out.test_in_place, F4),
    (writes_to_x, test_layouts.test_layouts, F8),
]
ARGUMENTS = {
    test_accuracy.test_long_vectors: {"n": 65537},
    test_layouts.test_layouts: {"layout": "fortran", "tmp_path": Path()},
    test_bits.test_batch: {"n": 129},
}


def run(test, backend, dtype):
    """Call a test of the shared suite."""
    test(backend=backend, dtype=dtype, **ARGUMENTS.get(test, {}))


@pytest.mark.only("is_reference")
@pytest.mark.parametrize(
    ("broken", "test", "dtype"), MUTANTS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_mutant(backend, monkeypatch, broken, test, dtype):
    """The test passes on the sound backend and fails on the broken one."""
    run(test, backend, dtype)
    sound = _backends.load(_backends.first(backend.name))
    monkeypatch.setitem(
        _backends._loaded, _backends.first(backend.name).module, Mutant(sound, broken)
    )
    with pytest.raises(AssertionError):
        run(test, backend, dtype)


def raises_too_late(sound):
    """The policies that raise are looked at after the work is done."""

    def normalize(x, *args, zero="keep", nonfinite="propagate", out=None, **keywords):
        held = x.copy()
        y = sound(x, *args, out=out, **keywords)
        sound(held, *args, zero=zero, nonfinite=nonfinite, **keywords)
        return y

    return normalize


def drops_mask(sound):
    """The data of a masked array without the mask."""
    return lambda x, *args, **keywords: sound(np.asarray(x), *args, **keywords)


def names_no_position(sound):
    """An error that does not say where."""

    def normalize(*args, **keywords):
        try:
            return sound(*args, **keywords)
        except l2.ZeroVectorError:
            raise l2.ZeroVectorError("x: there are zero vectors") from None

    return normalize


API_MUTANTS = [
    (
        raises_too_late,
        test_out.test_nothing_is_written_before_an_error,
        {"keywords": {"zero": "raise"}},
    ),
    (drops_mask, test_types.test_masked, {"dtype": F4}),
    (
        names_no_position,
        test_meaning.test_raise,
        {
            "dtype": F4,
            **dict(zip(("keyword", "value", "error"), test_meaning.REFUSALS[0], strict=True)),
        },
    ),
]


@pytest.mark.only("is_reference")
@pytest.mark.parametrize(
    ("broken", "test", "arguments"), API_MUTANTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_api_mutant(backend, monkeypatch, broken, test, arguments):
    """The same for a broken public function."""
    test(backend=backend, **arguments)
    monkeypatch.setattr(l2, "normalize", broken(l2.normalize))
    with pytest.raises((AssertionError, ValueError)):
        test(backend=backend, **arguments)


@pytest.mark.only("differentiable")
def test_nan_gradient(backend, monkeypatch):
    """A ``where`` behind a division by zero is right in value and NaN in its gradient."""

    def broken(sound, x, axes, **keywords):
        length = ((x * x).sum(axes, keepdims=True)) ** 0.5
        return backend.jax.numpy.where(length > 0, x / length, 0), None

    test = test_gradient.test_zero_vector
    run(test, backend, F4)
    sound = _backends.load(_backends.first(backend.name))
    monkeypatch.setitem(
        _backends._loaded, _backends.first(backend.name).module, Mutant(sound, broken)
    )
    with pytest.raises(AssertionError):
        run(test, backend, F4)


@pytest.mark.parametrize("dtype", [d for d in cases.DTYPES if d.kind != "c"], ids=str)
def test_oracle(dtype):
    """The oracle's integers agree with fractions: the values, the sums, the roots."""
    for n in (1, 2, 200, 300):  # both ways of summing
        for row in cases.vectors(dtype, n):
            m, e = reference.exactly(row)
            values = [a * Fraction(2) ** b for a, b in zip(m, e, strict=True)]
            assert values == [abs(Fraction(*v.as_integer_ratio())) for v in row.astype(object)]
            total, q = reference.sum_of_squares(row)
            assert total * Fraction(2) ** q == sum(v * v for v in values)
            r, k = reference.root(total, q)
            error = r * r * Fraction(2) ** (2 * k) - total * Fraction(2) ** q
            assert abs(error) <= total * Fraction(2) ** (q - reference.ROOT + 3)


def test_oracle_counts_ulp():
    """Errors are in ulp of the result's dtype: at 1, below 1, in the subnormals, past the end."""
    x = np.array([[3.0, 4.0]])
    for ulps in (0, 1, 7):
        unit = np.array([[0.6, 0.8]])
        for _ in range(ulps):
            unit = np.nextafter(unit, 2)
        exact = (Fraction(3, 5), Fraction(4, 5))
        expected = max(abs(Fraction(u) - e) for u, e in zip(unit[0].tolist(), exact, strict=True))
        got = reference.judge(x, unit, np.array([5.0]))
        assert math.isclose(got.element, expected * 2**53)
        assert got.norm == 0
    assert reference.judge(x, None, np.array([5 + 2**-50])).norm == 1
    one = np.array([[1.0, 2.0**-1073]])
    for first, second in ((1, 2.0**-1074), (1 - 2.0**-52, 2.0**-1073), (1 + 2.0**-52, 2.0**-1073)):
        assert math.isclose(reference.judge(one, np.array([[first, second]])).element, 1)
    huge = np.full((1, 2), np.finfo("f8").max)
    unit = np.full((1, 2), 0.5**0.5)
    assert reference.judge(huge, unit, np.array([np.inf])).norm == 0
    assert reference.judge(huge, unit, np.array([np.finfo("f8").max])).norm > 2**50
    brink = np.array([[np.finfo("f8").max, 0]])
    assert reference.judge(brink, None, np.array([np.inf])).norm == 1
    assert reference.judge(huge, unit * 0).element > 2**52
    for bad in (np.nan, np.inf, -(0.5**0.5)):
        assert reference.judge(huge, np.full((1, 2), bad)).element == math.inf
    assert reference.judge(np.array([[0.0, -0.0]]), np.array([[0.0, -0.0]])).element == 0
    assert reference.judge(np.array([[0.0, -0.0]]), np.array([[0.0, 0.0]])).element == math.inf
    narrow = np.array([[1, 1]], ml_dtypes.bfloat16)
    off = np.array([[0.7109375, 0.70703125]], ml_dtypes.bfloat16)
    assert round(reference.judge(narrow, off).element, 2) == 0.98


def test_same_bits_bites():
    """Signs of zero, payloads of NaN, dtypes and shapes count."""
    one = np.array([0.0, np.nan])
    assert reference.same_bits(one, one.copy())
    for other in (-one, np.array([0.0, -np.nan]), one.astype("f4"), one[None], one[:1]):
        assert not reference.same_bits(one, other)
