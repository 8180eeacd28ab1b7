"""The estimators: scikit-learn's own checks, and what the contract promises beyond them."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
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
# Those of the array API need an environment of their own; see `test_array_api`.
PAIRS = [pair for pair in CHECKS.args[1] if "array_api" not in str(pair)]


@pytest.mark.parametrize(CHECKS.args[0], PAIRS, **CHECKS.kwargs)
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
@pytest.mark.parametrize(
    "cuts", [[3000], [1, 2999], [17, 100, 1024, 1859], [1024, 1024, 952], [30] * 100]
)
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


@pytest.mark.parametrize("scale", ["feature", "block"])
@pytest.mark.parametrize(
    ("dtype", "other"), [("f4", 1.0), ("f8", 1.0), ("f8", 1e-310), ("f8", 1e308)]
)
def test_what_was_zero_in_fit_stays(scale, dtype, other):
    """Where the norm is 0 nothing is divided, of samples that are not zero there either."""
    x = np.array([[0.0, other], [0.0, other]]).astype(dtype) * (scale == "feature")
    later = np.array([[3.0, 0.5], [-1e-40, 0.0]], dtype)
    for held in (np.asarray, sparse.csr_array, sparse.csc_array):
        scaler = L2Scaler(scale=scale, nonfinite="propagate").fit(held(x))
        assert scaler.norms_[0] == 0
        for call in (scaler.transform, scaler.inverse_transform):
            got = call(held(later))
            got = got if held is np.asarray else got.toarray()
            n = 1 if scale == "feature" else 2
            assert got[:, :n].tobytes() == later[:, :n].tobytes()


def test_skrubs_example():
    """A block's scale is learned by `fit`: the mean norm, 7.5."""
    scaler = L2Scaler(scale="block").fit([[3.0, 4.0], [6.0, 8.0]])
    assert (scaler.norms_ == 7.5).all()
    np.testing.assert_allclose(scaler.transform([[3.0, 4.0]]), [[0.4, 4 / 7.5]])
    assert clone(scaler).scale == "block"
    pipeline = make_pipeline(L2Scaler(), L2Normalizer())
    assert l2.is_normalized(pipeline.fit_transform([[3.0, 4.0], [6.0, 1.0]])).all()


def test_overwriting():
    """Only what was given as an array, and only if nothing is wrong with it."""
    eager = L2Normalizer(copy=False).fit(X)
    wrong = np.array([[3.0, 4.0, 0.0], [np.nan, 0.0, 0.0]])
    kept = wrong.copy()
    with pytest.raises(ValueError, match="NaN"):
        eager.transform(wrong)
    assert np.array_equal(wrong, kept, equal_nan=True)
    fixed = X.copy()
    fixed.flags.writeable = False
    whole = np.array([[3, 4, 0]])
    for a in (fixed, whole, X.tolist()):
        before = np.array(a)
        assert (eager.transform(a) == l2.normalize(before)).all()
        assert (np.array(a) == before).all()
    matrix = sparse.csr_matrix(X)
    assert eager.transform(matrix) is matrix
    assert (matrix.toarray() == l2.normalize(X)).all()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X)
    assert (eager.transform(frame) == l2.normalize(X)).all()
    assert (frame.to_numpy() == X).all()


X = np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, 5.0, 12.0], [1.0, 0.0, 0.0]])
SPARSE = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize(
    "estimator", [L2Normalizer(), L2Scaler(), L2Scaler(scale="block")], ids=str
)
def test_sparse(estimator, name, kind):
    """Stored entries become what they become in a dense array; CSR and CSC are kept."""
    x = getattr(sparse, f"{name}_{kind}")(X)
    got = estimator.fit(x).transform(x)
    want = estimator.fit(X).transform(X)
    assert got.format == (name if name in ("csr", "csc") else "csr")
    assert isinstance(got, sparse.sparray) == (kind == "array")
    assert got.toarray().tobytes() == want.tobytes()
    if name not in ("bsr", "dia"):  # which store zeros too
        assert got.nnz == x.nnz
    if isinstance(estimator, L2Scaler):
        np.testing.assert_allclose(estimator.inverse_transform(got).toarray(), X, rtol=1e-15)
    got.data[:] = 7
    got.indices[:] = 0
    assert (x.toarray() == X).all()


@pytest.mark.parametrize("size", [1.0, 1e-170, 1e170])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sparse_in_any_split(dtype, size):
    """The same bits as dense, in any mixture of both; nothing is filled."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3001, 7)) * (rng.random((3001, 7)) < 0.2)
    x = (x * np.where(dtype == "f4", 1.0, size)).astype(dtype)
    x[:, 5] = 0
    x[7, 3], x[9, 4] = np.inf, np.nan
    for scale in ("feature", "block"):
        made = L2Scaler(scale=scale, nonfinite="propagate")
        dense = clone(made).fit(x)
        assert dense.norms_.tobytes() == made.fit(sparse.csc_matrix(x)).norms_.tobytes()
        for rounds in range(3):
            made = clone(made)
            for i, part in enumerate(np.split(x, np.sort(rng.integers(0, 3001, 4)))):
                if len(part):
                    made.partial_fit(part if i % 3 == rounds else sparse.csr_array(part))
            assert made.norms_.tobytes() == dense.norms_.tobytes()
        many = clone(made)
        for part in np.array_split(x, 100):
            many.partial_fit(sparse.csr_array(part))
        assert pickle.loads(pickle.dumps(many)).norms_.tobytes() == dense.norms_.tobytes()
        y = made.transform(sparse.csr_array(x))
        stored = x != 0
        assert np.array_equal(y.toarray()[stored], dense.transform(x)[stored], equal_nan=True)


def test_sparse_details():
    """Repeats are added first; index dtypes of two kinds; millions of features."""
    parts = (np.array([3.0, 1.0, 3.0]), np.array([0, 0, 1]), np.array([0, 3]))
    x = sparse.csr_array(parts, shape=(1, 2))
    assert L2Scaler().fit(x).norms_.tolist() == [4.0, 3.0]
    assert L2Normalizer().fit_transform(x).toarray().tolist() == [[0.8, 0.6]]
    assert x.data.tolist() == [3.0, 1.0, 3.0]
    for kind in (sparse.csr_array, sparse.csc_array):
        x = kind(X)
        x.data, x.indices = np.append(x.data, np.nan), np.append(x.indices, 0)
        for estimator in (L2Normalizer(nonfinite="propagate"), L2Scaler(nonfinite="propagate")):
            got = estimator.fit(x).transform(x).toarray()
            assert (got == clone(estimator).fit_transform(X)).all()
    x = sparse.csr_array(X)
    x.indptr = x.indptr.astype(np.int64)
    for copy in (True, False):
        assert (L2Normalizer(copy=copy).fit_transform(x).toarray() == l2.normalize(X)).all()
    wide = sparse.csr_array(([3, 4], ([0, 2000], [1, 10**6])), shape=(2001, 10**6 + 1))
    scaler = L2Scaler().fit(wide)
    assert np.flatnonzero(scaler.norms_).tolist() == [1, 10**6]
    assert scaler.transform(wide).data.tolist() == [1.0, 1.0]
    assert all(sparse.issparse(lanes) for tree in scaler._sums.trees for _, lanes in tree._done)
    for estimator in (L2Normalizer(), L2Scaler()):
        with pytest.raises(ValueError, match="NaN"):
            estimator.fit_transform(sparse.csr_array([[np.nan, 1.0]]))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    """`set_output`, and names of features, on the frames of the same library."""
    module = pytest.importorskip(library)
    if library == "polars":  # 2 is not known to earlier ones
        pytest.importorskip("sklearn", minversion="1.9")
    frame = module.DataFrame({"a": [3.0, 0.0], "b": [4.0, 0.0]})
    if library == "pandas":
        frame.index = ["x", "y"]
    for estimator in (L2Normalizer(), L2Scaler(), L2Scaler(scale="block")):
        plain = estimator.fit_transform(frame)
        assert type(plain) is np.ndarray
        assert estimator.get_feature_names_out().tolist() == ["a", "b"]
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            assert (estimator.transform(plain * 0 + [3.0, 4.0]) > 0).all()
        with pytest.raises(ValueError, match="feature names"):
            estimator.transform(module.DataFrame({"b": [3.0], "a": [4.0]}))
        got = clone(estimator).set_output(transform=library).fit_transform(frame)
        assert type(got) is module.DataFrame
        assert list(got.columns) == ["a", "b"]
        assert (got.to_numpy() == plain).all()
        if library == "pandas":
            assert list(got.index) == ["x", "y"]


def test_what_is_known_needs_no_check():
    """An array like that of `fit` passes as it is; what scikit-learn refuses is refused."""
    x = np.float32(X)
    for estimator in (L2Normalizer().fit(x), L2Scaler(nonfinite="propagate").fit(x)):
        assert estimator._known(x, False)
        for wrong in (x[:, :2], x[0], x[:0], x[None]):
            assert not estimator._known(wrong, False)
            with pytest.raises(ValueError, match=r"features|2D|dim|sample"):
                estimator.transform(wrong)
        assert not estimator._known(x.astype("c8"), True)
        with pytest.raises(ValueError, match="Complex"):
            estimator.transform(x.astype("c8"))
    pandas = pytest.importorskip("pandas")
    named = L2Normalizer().fit(pandas.DataFrame({"a": [1.0]}))
    assert named.fit_transform(x).shape == x.shape
    assert named.get_feature_names_out().tolist() == ["x0", "x1", "x2"]


def test_metadata_routing():
    """They ask for none, so a pipeline routes past them."""
    with sklearn.config_context(enable_metadata_routing=True):
        last = LogisticRegression().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(L2Scaler(), L2Normalizer(), last)
        pipeline.fit(X, [0, 1, 0, 1], sample_weight=np.ones(4))
        assert pipeline.predict(X).shape == (4,)


def test_array_api():
    """Tensors stay tensors, and scikit-learn's checks for them pass, but for the one that has
    `transform` refuse arrays of another library than that of `fit`: these take any."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn", minversion="1.6")
    code = """
import numpy as np, sklearn, torch
from unittest import SkipTest
from sklearn.utils.estimator_checks import estimator_checks_generator
from l2multi.sklearn import L2Normalizer, L2Scaler
x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [5.0, 12.0]])
passed = 0
for estimator in (L2Normalizer(), L2Scaler(), L2Scaler(scale="block")):
    for _, check in estimator_checks_generator(estimator):
        if "array_namespace='torch'" in str(check) and "same_namespace" not in str(check):
            try:
                check(estimator)
            except SkipTest:
                continue
            passed += 1
    want = estimator.fit_transform(x.numpy())
    with sklearn.config_context(array_api_dispatch=True):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            y = estimator.fit_transform(x.to(dtype))
            assert y.dtype == dtype and np.allclose(y.float(), want, rtol=1e-2)
        assert (estimator.fit_transform(x).numpy() == want).all()
        assert estimator.transform(x.int()).is_floating_point()
        if isinstance(estimator, L2Scaler):
            assert isinstance(estimator.norms_, torch.Tensor)
            assert torch.allclose(estimator.inverse_transform(torch.tensor(want)), x)
            try:
                estimator.transform(x.clone().requires_grad_())
            except (TypeError, UserWarning):
                pass
            else:
                raise AssertionError("a gradient was lost")
        for wrong in (torch.nan, torch.inf):
            try:
                estimator.transform(x * wrong)
            except ValueError:
                continue
            raise AssertionError("not finite")
assert passed >= 6, passed
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["add", "root", "half of it"])
@pytest.mark.parametrize("scale", ["feature", "block"])
def test_an_interrupted_call_changes_nothing(monkeypatch, scale, place):
    """Wherever Ctrl-C comes: afterwards the same samples are taken in once."""
    x = np.random.default_rng(5).standard_normal((4000, 3)) * 7
    want = L2Scaler(scale=scale).fit(x)
    scaler = L2Scaler(scale=scale).fit(x[:1500])
    kind, norms = type(scaler._sums), scaler.norms_
    names = {"add": "add", "root": "root", "half of it": "_lanes" if scale == "feature" else "_add"}
    true, calls = getattr(kind, names[place]), []

    def late(*given):
        found = true(*given)
        calls.append(given)
        if len(calls) == (2 if place == "half of it" and scale == "feature" else 1):
            raise KeyboardInterrupt
        return found

    for call in (scaler.partial_fit, scaler.fit):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(kind, names[place], late)
            with pytest.raises(KeyboardInterrupt):
                call(x[1500:])
        assert scaler.n_samples_seen_ == 1500
        assert scaler.norms_ is norms
    scaler.partial_fit(x[1500:])
    assert scaler.n_samples_seen_ == 4000
    assert scaler.norms_.tobytes() == want.norms_.tobytes()


@pytest.mark.parametrize("scale", ["feature", "block"])
def test_a_refused_fit_changes_nothing(scale):
    """Names and counts neither."""
    pandas = pytest.importorskip("pandas")
    fitted = L2Scaler(scale=scale).fit(pandas.DataFrame(X, columns=list("abc")))
    known = vars(fitted).copy()
    wrong = pandas.DataFrame({"d": [1.0, np.nan]})
    for refused in (wrong, np.array([[np.inf]]), np.empty((0, 3)), "no"):
        with pytest.raises(ValueError, match=r"NaN|inf|minimum of 1|array"):
            fitted.fit(refused)
        assert vars(fitted) == known
    assert fitted.partial_fit(pandas.DataFrame(X, columns=list("abc"))).n_samples_seen_ == 2 * len(
        X
    )
    new = L2Scaler(scale=scale)
    with pytest.raises(ValueError, match="NaN"):
        new.fit([[np.nan]])
    assert vars(new) == vars(clone(new))


@pytest.mark.parametrize("estimator", [L2Normalizer(), L2Normalizer(copy=False), L2Scaler()])
def test_masks_and_units(estimator):
    """scikit-learn would drop them, and `copy=False` write below a mask."""
    masked = np.ma.MaskedArray(X.copy(), X == 5.0)
    calls = [estimator.fit, estimator.fit_transform, clone(estimator).fit(X).transform]
    if isinstance(estimator, L2Scaler):
        calls += [estimator.partial_fit, clone(estimator).fit(X).inverse_transform]
    for call in calls:
        with pytest.raises(TypeError, match=r"X: L2.* lose the mask; l2multi.normalize\(X\) keeps"):
            call(masked)
    assert (masked.data == X).all()
    astropy = pytest.importorskip("astropy.units")
    for call in calls:
        with pytest.raises(TypeError, match=r"X: .*Quantity means more than its numbers"):
            call(X * astropy.m)


def test_refusals():
    for wrong in ({"zero": "null"}, {"eps": -1.0}, {"nonfinite": "no"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            L2Normalizer(**wrong).fit([[1.0]])
    with pytest.raises(ValueError, match="scale: expected one of 'feature', 'block'"):
        L2Scaler(scale="rows").fit([[1.0]])
    with pytest.raises(ValueError, match="nonfinite: expected"):
        L2Scaler(nonfinite="no").fit([[1.0]])
    code = "import sys; sys.modules['sklearn'] = None; import l2multi.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "l2multi.sklearn needs scikit-learn" in done.stderr


@pytest.mark.parametrize("keys", [None, ("transform",)])
def test_a_class_made_of_ours_has_its_own_transform(keys):
    """Whatever it takes, and whether scikit-learn wraps it."""

    class Twice(L2Normalizer, auto_wrap_output_keys=keys):
        def transform(self, X, times=2):
            return times * super().transform(X)

    x = np.float32([[3, 4]])
    assert np.array_equal(Twice().fit(x).transform(x), np.float32([[1.2, 1.6]]))
    assert np.array_equal(Twice().fit(x).transform(x, times=5), np.float32([[3, 4]]))


def test_an_unknown_choice_changes_nothing():
    for estimator in (L2Normalizer(nonfinite="skip"), L2Scaler(nonfinite="skip")):
        for call in (estimator.fit, estimator.fit_transform):
            with pytest.raises(ValueError, match="nonfinite: expected one of"):
                call(np.ones((3, 2)))
        assert not hasattr(estimator, "n_features_in_")
