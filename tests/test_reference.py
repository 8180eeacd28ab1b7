"""The oracle of the shared suite, and what compares bits, against slower and simpler ways."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from tests import cases, reference


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
    assert repr(reference.same_bits(one, -one)) == (
        "2 of 2 differ, the first at (0,): np.float64(0.0), not np.float64(-0.0)"
    )
    assert (
        repr(reference.same_bits(one, one[:1]))
        == "float64 of shape (2,), not float64 of shape (1,)"
    )
    assert reference.same_bits(one[:0], one[1:1])
    assert reference.same_bits(np.float32(1), np.array(1, "f4"))
