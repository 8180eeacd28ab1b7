"""The estimators: scikit-learn's own checks, and what the contract promises beyond them."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import l2multi as l2
from l2multi.sklearn import L2Normalizer, L2Scaler

ESTIMATORS = [
    L2Normalizer(),
    L2Normalizer(nonfinite="propagate"),
    L2Scaler(),
    L2Scaler(nonfinite="propagate"),
    L2Scaler(scale="block"),
]


CHECKS = parametrize_with_checks(ESTIMATORS)


@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_drop_in():
    """Where scikit-learn's squares stay in range, its values; elsewhere, right ones."""
    x = np.random.default_rng(0).standard_normal((50, 7))
    for dtype in (np.float32, np.float64):
        a = x.astype(dtype)
        got = L2Normalizer().fit_transform(a)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, Normalizer().fit_transform(a), rtol=1e-6)
        for size in (np.finfo(dtype).max / 8, np.finfo(dtype).tiny):
            huge = (a / np.abs(a).max() * size).astype(dtype)
            assert l2.is_normalized(L2Normalizer().fit_transform(huge), tol=1e-6).all()
    kept = a.copy()
    assert L2Normalizer(copy=False).fit_transform(a) is a
    assert (L2Normalizer().fit_transform(kept) == a).all()
    with pytest.raises(l2.ZeroVectorError):
        L2Normalizer(zero="raise").fit_transform(np.zeros((2, 2)))
    assert np.isnan(L2Normalizer(nonfinite="propagate").fit_transform([[np.nan, 1.0]])).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("cuts", [[3000], [1, 2999], [17, 100, 1024, 1859], [1024, 1024, 952]])
def test_any_split_gives_the_same_bits(dtype, cuts):
    """Those of `l2multi.norm` of all; and the mean norm is exact."""
    x = np.random.default_rng(1).standard_normal((3000, 5)) * np.logspace(-3, 2, 5)
    x = x.astype(dtype)
    scaler, block = L2Scaler(), L2Scaler(scale="block")
    for part in np.split(x, np.cumsum(cuts)[:-1]):
        scaler.partial_fit(part)
        block.partial_fit(part)
    assert scaler.norms_.tobytes() == l2.norm(x, axis=0, dtype=np.float64).tobytes()
    whole = L2Scaler(scale="block").fit(x)
    assert block.norms_.tobytes() == whole.norms_.tobytes()
    np.testing.assert_allclose(whole.norms_, l2.norm(x, dtype=np.float64).mean(), rtol=1e-15)
    assert scaler.n_samples_seen_ == 3000
    assert pickle.loads(pickle.dumps(scaler)).partial_fit(x).n_samples_seen_ == 6000
    unit = scaler.transform(x)
    assert unit.dtype == dtype
    np.testing.assert_allclose(l2.norm(unit, axis=0), 1, rtol=1e-3 if dtype == "f2" else 1e-6)


@pytest.mark.parametrize("scale", ["feature", "block"])
@pytest.mark.parametrize("size", [1e308, 1e-310, 1.0])
def test_any_magnitude(scale, size):
    """Also where no float64 holds the norm; and back again."""
    x = np.array([[1.0, 0.5], [1.0, 0.25], [1.0, -0.5], [0.75, 0.125]]) * size
    scaler = L2Scaler(scale=scale).fit(x)
    got = scaler.transform(x)
    assert (scaler.fit(x * 0).transform(x * 0) == 0).all()
    scaler.fit(x)
    if scale == "feature":
        np.testing.assert_allclose(l2.norm(got, axis=0), 1, rtol=1e-12)
    else:
        np.testing.assert_allclose(l2.norm(got).mean(), 1, rtol=1e-12)
    np.testing.assert_allclose(scaler.inverse_transform(got), x, rtol=1e-12)


def test_skrubs_example():
    """A block's scale is learned by `fit`: the mean norm, 7.5."""
    scaler = L2Scaler(scale="block").fit([[3.0, 4.0], [6.0, 8.0]])
    assert (scaler.norms_ == 7.5).all()
    np.testing.assert_allclose(scaler.transform([[3.0, 4.0]]), [[0.4, 4 / 7.5]])
    assert clone(scaler).scale == "block"
    pipeline = make_pipeline(L2Scaler(), L2Normalizer())
    assert l2.is_normalized(pipeline.fit_transform([[3.0, 4.0], [6.0, 1.0]])).all()


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [3.0, 0.0], "b": [4.0, 0.0]}, index=["x", "y"])
    for estimator in (L2Normalizer(), L2Scaler(), L2Scaler(scale="block")):
        got = estimator.set_output(transform="pandas").fit_transform(frame)
        assert list(got.columns) == ["a", "b"]
        assert list(got.index) == ["x", "y"]


def test_refusals():
    with pytest.raises(ValueError, match="scale: expected one of 'feature', 'block'"):
        L2Scaler(scale="rows").fit([[1.0]])
    with pytest.raises(ValueError, match="nonfinite: expected"):
        L2Scaler(nonfinite="no").fit([[1.0]])
    code = "import sys; sys.modules['sklearn'] = None; import l2multi.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "l2multi.sklearn needs scikit-learn" in done.stderr
