"""Deliberately broken backends and functions must fail the shared suite, by tests that are named
here; broken containers do in `test_containers_bite`.

Each mutant is put where the library keeps what it has loaded, and the test functions of the
conformance suite are called on it. What is unbroken passes by the same route.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

import l2multi as l2
from l2multi import _backends, _testing
from tests import cases
from tests.conformance import (
    test_accuracy,
    test_bits,
    test_gradient,
    test_layouts,
    test_meaning,
    test_out,
    test_rounding,
    test_types,
)

F4, F8, C8 = np.dtype("f4"), np.dtype("f8"), np.dtype("c8")
F2, C16 = np.dtype("f2"), np.dtype("c16")
BITES = (AssertionError, ValueError, pytest.fail.Exception)


class Mutant:
    """A backend that is another one but for some functions, which are given the sound one first."""

    def __init__(self, sound, **broken):
        self._sound, self._broken = sound, broken

    def __getattr__(self, name):
        if name in self._broken:
            return functools.partial(self._broken[name], self._sound)
        return getattr(self._sound, name)

    def fast_path(self, x, dtype, result):
        """None that would go past what is broken."""


def install(monkeypatch, name, **broken):
    """Have a backend broken for the length of a test."""
    row = _backends.first(name)
    monkeypatch.setitem(_backends._loaded, row.module, Mutant(_backends.load(row), **broken))


# Broken forms of `normalize`.


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


def forgets_out(sound, x, axes, *, out, **keywords):
    """`out` is not written."""
    return sound.normalize(x, axes, out=None, **keywords)


def norms_after_eps(sound, x, axes, *, eps, **keywords):
    """The norms returned are the divisors."""
    y, norms = sound.normalize(x, axes, eps=eps, **keywords)
    return y, None if norms is None else np.maximum(norms, norms.dtype.type(eps))


def norms_of_result(sound, x, axes, *, norm_dtype, **keywords):
    """The norms returned are of the unit vectors."""
    y, norms = sound.normalize(x, axes, norm_dtype=norm_dtype, **keywords)
    return y, None if norms is None else sound.norm(
        y, axes, keepdims=False, out=None, dtype=norm_dtype
    )


def norms_keep_axes(sound, x, axes, **keywords):
    """The norms returned have the axes of the vectors."""
    y, norms = sound.normalize(x, axes, **keywords)
    return y, None if norms is None else np.expand_dims(norms, axes)


def norms_as_narrow_as_x(sound, x, axes, **keywords):
    """The norms returned have been in the dtype of `x`, and may have overflowed."""
    y, norms = sound.normalize(x, axes, **keywords)
    with np.errstate(all="ignore"):
        return y, None if norms is None else norms.astype(x.real.dtype).astype(norms.dtype)[()]


# Broken forms of `norm`.


def norm_off(sound, x, axes, **keywords):
    """By two ulp."""
    norms = sound.norm(x, axes, **keywords)
    return np.nextafter(np.nextafter(norms, 0), 0)


def norm_overflows(sound, x, axes, *, keepdims, out, dtype):
    """The textbook formula, in the dtype of the norms."""
    with np.errstate(all="ignore"):
        return np.sqrt((np.abs(x).astype(dtype) ** 2).sum(axes, keepdims=keepdims))


def norm_of_inf_is_nan(sound, x, axes, **keywords):
    """As if inf were divided by inf."""
    norms = sound.norm(x, axes, **keywords)
    return np.where(np.isinf(np.abs(x).max(axes, keepdims=keywords["keepdims"])), np.nan, norms)


def norm_drops_axes(sound, x, axes, *, keepdims, **keywords):
    """`keepdims` does nothing."""
    return sound.norm(x, axes, keepdims=False, **keywords)


def norm_forgets_out(sound, x, axes, *, out, **keywords):
    """`out` is not written."""
    return sound.norm(x, axes, out=None, **keywords)


# Broken forms of `finite`.


def all_finite(sound, x, axes):
    """Nothing is refused."""
    return np.ones_like(sound.finite(x, axes))


def none_finite(sound, x, axes):
    """A norm that overflows is taken for an inf."""
    return np.zeros_like(sound.finite(x, axes))


def nan_is_finite(sound, x, axes):
    """Only inf is refused."""
    return ~np.isinf(x).any(axes)


def finite_elsewhere(sound, x, axes):
    """The answers are those of other vectors."""
    return np.roll(sound.finite(x, axes), 1)


TABLE = test_types.test_table
IS_NORM = test_meaning.test_return_norm_is_norm
MUTANTS = [
    ("normalize", naive, test_accuracy.test_grid, F4),
    ("normalize", naive, test_accuracy.test_grid, F8),
    ("normalize", naive, test_accuracy.test_lengths, F4),
    ("normalize", leaks_nan, test_meaning.test_nan_stays_home, F4),
    ("normalize", leaks_nan, test_meaning.test_inf, F8),
    ("normalize", two_ulp, test_accuracy.test_lengths, F4),
    ("normalize", two_ulp, test_accuracy.test_grid, C8),
    ("normalize", two_ulp, test_accuracy.test_long_vectors, F4),
    ("normalize", last_bit, test_bits.test_specification, F8),
    ("normalize", by_layout, test_layouts.test_layouts, F4),
    ("normalize", by_layout, test_layouts.test_transposed, F8),
    ("normalize", by_batch, test_bits.test_batch, F8),
    ("normalize", forgets_eps, test_meaning.test_eps, F4),
    ("normalize", loses_sign_of_zero, test_meaning.test_zero, F4),
    ("normalize", writes_before_it_reads, test_out.test_in_place, F4),
    ("normalize", writes_to_x, test_layouts.test_layouts, F8),
    ("normalize", forgets_out, test_out.test_in_place, F4),
    ("normalize", forgets_out, test_out.test_layouts_of_out, F8),
    ("normalize", norms_after_eps, test_meaning.test_eps, F4),
    ("normalize", norms_of_result, IS_NORM, F4),
    ("normalize", norms_keep_axes, test_accuracy.test_lengths, F8),
    ("normalize", norms_as_narrow_as_x, IS_NORM, F2),
    ("norm", norm_off, IS_NORM, F4),
    ("norm", norm_off, test_meaning.test_axes, C16),
    ("norm", norm_overflows, IS_NORM, F8),
    ("norm", norm_of_inf_is_nan, IS_NORM, F4),
    ("norm", norm_drops_axes, test_meaning.test_axes, F4),
    ("norm", norm_forgets_out, test_out.test_layouts_of_out, F4),
    ("finite", all_finite, test_meaning.test_raise, F4),
    ("finite", none_finite, test_meaning.test_raise_spares_what_is_fine, F8),
    ("finite", nan_is_finite, test_meaning.test_raise, F8),
    ("finite", finite_elsewhere, test_meaning.test_raise, F4),
]
NAN = dict(zip(("keyword", "value", "error"), test_meaning.REFUSALS[1], strict=True))
ARGUMENTS = {
    test_accuracy.test_long_vectors: {"n": 65537},
    test_layouts.test_layouts: {"layout": "fortran", "tmp_path": Path()},
    test_bits.test_batch: {"n": 129},
    test_meaning.test_axes: {"shape": (2, 3, 4), "axis": 1},
    test_meaning.test_raise: NAN,
    test_out.test_overlap: {"overlap": "one row down", "axis": -1},
    test_out.test_layouts_of_out: {"layout": "contiguous"},
}


def run(test, backend, dtype):
    """Call a test of the shared suite."""
    arguments = ARGUMENTS.get(test, {})
    test(backend=backend, **arguments if dtype is None else {"dtype": dtype, **arguments})


def bites(test, backend, dtype):
    """The test fails."""
    with pytest.raises(BITES):
        run(test, backend, dtype)


def named(value):
    """The name of a function, for the name of a test."""
    return getattr(value, "__name__", str(value))


@pytest.mark.only("is_reference")
@pytest.mark.parametrize(("of", "broken", "test", "dtype"), MUTANTS, ids=named)
def test_mutant(backend, monkeypatch, of, broken, test, dtype):
    """The test passes on the sound backend and fails on the broken one."""
    run(test, backend, dtype)
    install(monkeypatch, backend.name, **{of: broken})
    bites(test, backend, dtype)


def last_norm(sound, x, axes, **keywords):
    """The last bit of the norms of a batch that float64 holds is wrong."""
    y, norms = sound.normalize(x, axes, **keywords)
    if norms is not None and norms.ndim and norms.dtype == F8:
        norms = np.nextafter(norms, 0)
    return y, norms


def columns_in_another_order(sound, x, axes, **keywords):
    """The last bit is wrong where vectors are columns of a batch of 17."""
    y, norms = sound.normalize(x, axes, **keywords)
    if axes == (0,) and x.shape[1:] == (16,) and len(x) == 17 and y.dtype.kind == "f":
        y[...] = np.nextafter(y, 0)
    return y, norms


def long_in_another_order(sound, x, axes, **keywords):
    """The last bit is wrong beyond NumPy's parts."""
    y, norms = sound.normalize(x, axes, **keywords)
    if x.shape[-1] > 16384:
        y[..., -1] = np.nextafter(y[..., -1], 0)
    return y, norms


def rounds_twice(sound, x, axes, *, dtype, **keywords):
    """By way of float32."""
    if dtype.itemsize > 2:
        return sound.normalize(x, axes, dtype=dtype, **keywords)
    y, norms = sound.normalize(x, axes, **{**keywords, "dtype": F4, "out": None})
    with np.errstate(all="ignore"):
        return y.astype(dtype), norms


BITS = test_bits.TestReference()
NUMBA_MUTANTS = [
    (last_bit, BITS.test_batches_and_axes, F8),
    (last_norm, BITS.test_rows, F8),
    (last_norm, BITS.test_policies, F8),
    (columns_in_another_order, BITS.test_batches_and_axes, F4),
    (long_in_another_order, BITS.test_rows, F8),
    (by_layout, BITS.test_layouts, F4),
    (by_batch, BITS.test_policies, F8),
    (rounds_twice, test_rounding.test_once, F8),
    (last_bit, test_bits.test_specification, F8),
]


@pytest.mark.only("compared")
@pytest.mark.only("direct")
@pytest.mark.only("by_name")
@pytest.mark.parametrize(("broken", "test", "dtype"), NUMBA_MUTANTS, ids=named)
def test_mutant_of_bits(backend, monkeypatch, tmp_path, broken, test, dtype):
    """A compiled backend with another bit than the readable one has."""
    if test == BITS.test_layouts:
        test = functools.partial(test, tmp_path=tmp_path)
    with _testing.general_path():
        install(monkeypatch, backend.name, normalize=broken)
        bites(test, backend, dtype)


class Path:
    """A fast path that takes all calls to the readable backend, but for what it does wrong."""

    backend = "numba"

    def __init__(self, wrong):
        self.wrong = wrong

    def normalize(self, x, axis, eps, zero, nonfinite, out, dtype, return_norm):
        """As `l2multi.normalize`."""
        keywords = {"axis": axis, "eps": eps, "zero": zero, "nonfinite": nonfinite, "out": out}
        keywords |= {"dtype": dtype, "return_norm": return_norm, **self.wrong.get("keywords", {})}
        y = l2.normalize(x, backend="numpy", **keywords)
        return self.wrong.get("y", lambda y: y)(y)

    def norm(self, x, axis, keepdims, nonfinite, out, dtype):
        """As `l2multi.norm`."""
        keywords = {"axis": axis, "keepdims": keepdims, "nonfinite": nonfinite, "out": out}
        keywords |= {"dtype": dtype, **self.wrong.get("of_norm", {})}
        return l2.norm(x, backend="numpy", **keywords)


def next_to(y):
    """Arrays like these with other last bits."""
    return tuple(map(next_to, y)) if isinstance(y, tuple) else np.nextafter(y, 0)


PATHS = {
    "another bit": ({"y": next_to}, test_bits.test_specification, F8),
    "another bit of norms": ({"y": lambda y: (y[0], next_to(y[1]))}, BITS.test_policies, F8),
    "no eps": ({"keywords": {"eps": 0.0}}, test_meaning.test_eps, F4),
    "zero vectors kept": ({"keywords": {"zero": "keep"}}, test_meaning.test_zero, F4),
    "NaN kept": ({"keywords": {"nonfinite": "propagate"}}, test_meaning.test_raise, F4),
    "NaN let through by norm": (
        {"of_norm": {"nonfinite": "propagate"}},
        test_meaning.test_raise,
        F4,
    ),
    "out not written": ({"keywords": {"out": None}}, test_out.test_in_place, F4),
    "out of norms not written": ({"of_norm": {"out": None}}, test_out.test_layouts_of_out, F4),
    "last axis": ({"keywords": {"axis": -1}}, test_meaning.test_axes, F4),
    "axes not kept": ({"of_norm": {"keepdims": False}}, test_meaning.test_axes, F4),
    "no dtype": ({"keywords": {"dtype": None}}, test_types.test_dtype_argument, F4),
    "no dtype of norms": ({"of_norm": {"dtype": None}}, test_types.test_dtype_argument, F4),
    "no norms": ({"keywords": {"return_norm": False}}, IS_NORM, F4),
}


@pytest.mark.only("auto")
@pytest.mark.only("direct")
@pytest.mark.parametrize(("wrong", "test", "dtype"), PATHS.values(), ids=PATHS)
def test_mutant_of_the_fast_path(backend, monkeypatch, wrong, test, dtype):
    """Calls that name no backend, as users make them."""
    for path in ({}, wrong):
        monkeypatch.setattr(_backends, "fast_paths", {dtype: Path(path)})
        if path:
            bites(test, backend, dtype)
        else:
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
        except l2.NonFiniteError:
            raise l2.NonFiniteError("x: there are such vectors") from None

    return normalize


def always(answer):
    """An `is_normalized` that does not look."""

    def broken(sound):
        return lambda *args, **keywords: np.full_like(sound(*args, **keywords), answer)

    broken.__name__ = f"always_{answer}"
    return broken


def forgets_tol(sound):
    """`tol` does nothing."""
    return lambda *args, tol=None, **keywords: sound(*args, **keywords)


def too_strict(sound):
    """Without a tolerance."""
    return lambda *args, tol=0.0, **keywords: sound(*args, tol=tol, **keywords)


def too_lax(sound):
    """Any norm up to 2 will do, that of the zero vector too."""
    return lambda *args, tol=1.0, **keywords: sound(*args, tol=tol, **keywords)


def all_or_nothing(sound):
    """One answer for all vectors."""

    def is_normalized(*args, **keywords):
        found = sound(*args, **keywords)
        return np.full_like(found, found.all())

    return is_normalized


def numbers_for_bools(sound):
    """The answers are 0 and 1."""
    return lambda *args, **keywords: np.multiply(sound(*args, **keywords), 1)


IS_UNIT = test_meaning.test_is_normalized
API_MUTANTS = [
    ("normalize", drops_mask, test_types.test_masked, F4),
    ("normalize", names_no_position, test_meaning.test_raise, F4),
    ("is_normalized", always(True), IS_UNIT, F4),
    ("is_normalized", always(False), IS_UNIT, F4),
    ("is_normalized", always(False), test_meaning.test_axes, F4),
    ("is_normalized", forgets_tol, IS_UNIT, F8),
    ("is_normalized", too_strict, IS_UNIT, F4),
    ("is_normalized", too_lax, IS_UNIT, F4),
    ("is_normalized", all_or_nothing, IS_UNIT, F4),
    ("is_normalized", numbers_for_bools, TABLE, F4),
    ("is_normalized", drops_mask, test_types.test_masked, F4),
]


@pytest.mark.only("is_reference")
@pytest.mark.parametrize(("name", "broken", "test", "dtype"), API_MUTANTS, ids=named)
def test_api_mutant(backend, monkeypatch, name, broken, test, dtype):
    """The same for a broken public function."""
    run(test, backend, dtype)
    monkeypatch.setattr(l2, name, broken(getattr(l2, name)))
    bites(test, backend, dtype)


@pytest.mark.only("is_reference")
def test_api_mutant_that_writes(backend, monkeypatch):
    """The same for one that raises when it has written."""
    test = functools.partial(
        test_out.test_nothing_is_written_before_an_error, keywords={"zero": "raise"}
    )
    run(test, backend, None)
    monkeypatch.setattr(l2, "normalize", raises_too_late(l2.normalize))
    bites(test, backend, None)


@pytest.mark.only("immutable")
@pytest.mark.only("by_name")
def test_nan_gradient(backend, monkeypatch):
    """A ``where`` behind a division by zero is right in value and NaN in its gradient."""

    def broken(sound, x, axes, **keywords):
        length = ((x * x).sum(axes, keepdims=True)) ** 0.5
        return backend.jax.numpy.where(length > 0, x / length, 0), None

    test = test_gradient.test_zero_vector
    run(test, backend, F4)
    install(monkeypatch, backend.name, normalize=broken)
    bites(test, backend, F4)
