"""Estimators for scikit-learn: unit rows, and features or a block of them scaled by their norm.

Needs scikit-learn: from a clone, ``pip install '.[sklearn]'``.
"""

import copy
from fractions import Fraction
from typing import Any, Literal, Self

import numpy as np

import l2multi as l2
from l2multi import _contract
from l2multi._summation import LANES, RowTree, rescue, sum_lanes, sum_rows

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError(
        f"l2multi.sklearn needs scikit-learn ({error}); try: pip install 'scikit-learn>=1.5' or, "
        "in a clone of l2multi, pip install '.[sklearn]'"
    ) from error

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, X: Any, **keywords: Any) -> Any:
        """As scikit-learn's function of this name."""
        keywords["force_all_finite"] = keywords.pop("ensure_all_finite")
        return estimator._validate_data(X, **keywords)


__all__ = ["L2Normalizer", "L2Scaler"]

Array = np.ndarray[Any, Any]

_DTYPES = (np.float64, np.float32, np.float16)


class _Base(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both have: how input is validated, and what tags say of it."""

    nonfinite: str

    def _validated(self, X: Any, reset: bool) -> Array:
        """A copy or view of X as floating numbers, finite unless they may be what they like."""
        _contract.check_choice("nonfinite", self.nonfinite, _contract.NONFINITE)
        finite = self.nonfinite == "raise"
        found: Array = validate_data(self, X, reset=reset, dtype=_DTYPES, ensure_all_finite=finite)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nonfinite == "propagate"
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before scikit-learn 1.6
        return {
            "allow_nan": self.nonfinite == "propagate",
            "preserves_dtype": [np.float64, np.float32, np.float16],
        }


class L2Normalizer(_Base):
    """Scale each sample to unit length, at every magnitude.

    A drop-in for ``sklearn.preprocessing.Normalizer(norm="l2")``, whose squares overflow for
    float32 from 2e19 and float64 from 1e154 on, and underflow likewise. Stateless: `fit` validates.

    Parameters
    ----------
    eps : float, default 0.0
        A lower bound of the divisor.
    zero : {"keep", "nan", "raise"}, default "keep"
        What becomes of a sample of zeros.
    nonfinite : {"raise", "propagate"}, default "raise"
        Whether NaN and inf are refused, as scikit-learn's estimators do, or stay what
        `l2multi.normalize` makes of them.
    copy : bool, default True
        False overwrites X where it is an array of float16, float32 or float64.
    backend : {"numpy", "numba"}, optional
        As for `l2multi.normalize`.

    Examples
    --------
    >>> from l2multi.sklearn import L2Normalizer
    >>> L2Normalizer().fit_transform([[3e200, 4e200], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]])
    """

    def __init__(
        self,
        *,
        eps: float = 0.0,
        zero: Literal["keep", "nan", "raise"] = "keep",
        nonfinite: Literal["raise", "propagate"] = "raise",
        copy: bool = True,
        backend: str | None = None,
    ) -> None:
        self.eps = eps
        self.zero = zero
        self.nonfinite = nonfinite
        self.copy = copy
        self.backend = backend

    def fit(self, X: Any, y: Any = None) -> Self:
        """Validate X, of shape (n_samples, n_features); there is nothing to learn."""
        self._validated(X, reset=True)
        return self

    def transform(self, X: Any) -> Array:
        """The unit vectors of the samples, in the dtype of X if it is a floating one."""
        X = self._validated(X, reset=False)
        unit: Array = l2.normalize(
            X,
            eps=self.eps,
            zero=self.zero,
            out=None if self.copy or not X.flags.writeable else X,
            backend=self.backend,
        )
        return unit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _more_tags(self) -> dict[str, Any]:
        return {**super()._more_tags(), "stateless": True}


class L2Scaler(_Base):
    """Divide features by their norm, or a block of features by the mean norm of its samples.

    With ``scale="feature"`` each feature of the training data gets unit length. With
    ``scale="block"`` samples have the mean length 1: features that belong together, such as an
    embedding, get a common weight beside others and keep their proportions.

    Parameters
    ----------
    scale : {"feature", "block"}, default "feature"
        One norm for each feature, or one for all.
    nonfinite : {"raise", "propagate"}, default "raise"
        Whether NaN and inf are refused. Else a norm is NaN or inf with them.

    Attributes
    ----------
    norms_ : ndarray, shape (n_features,)
        The norms of the features seen in `fit` and `partial_fit`, in float64 and in the unit of X;
        or the mean norm of a sample, once for each feature. Where it is 0 nothing is divided. It is
        inf where float64 cannot hold it; features are divided rightly all the same.
    n_features_in_ : int
        The number of features.
    n_samples_seen_ : int
        The number of samples.

    Notes
    -----
    However samples are divided among calls of `partial_fit`, the norms have the same bits: those of
    ``l2multi.norm(X, axis=0, dtype="float64")`` for all of them at once. Between calls it keeps up
    to 1023 samples, and 16 sums for each feature and each doubling of their number. Mean norms are
    exact sums, rounded once.

    Examples
    --------
    >>> from l2multi.sklearn import L2Scaler
    >>> scaler = L2Scaler().partial_fit([[3.0, 1.0]]).partial_fit([[4.0, 0.0]])
    >>> scaler.norms_
    array([5., 1.])
    >>> scaler.transform([[3.0, 1.0], [4.0, 0.0]])
    array([[0.6, 1. ],
           [0.8, 0. ]])
    >>> L2Scaler(scale="block").fit([[3.0, 4.0], [6.0, 8.0]]).transform([[3.0, 4.0]])
    array([[0.4       , 0.53333333]])
    """

    def __init__(
        self,
        *,
        scale: Literal["feature", "block"] = "feature",
        nonfinite: Literal["raise", "propagate"] = "raise",
    ) -> None:
        self.scale = scale
        self.nonfinite = nonfinite

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the norms of X, of shape (n_samples, n_features)."""
        for name in ("n_samples_seen_", "_sums"):
            if hasattr(self, name):
                delattr(self, name)
        return self.partial_fit(X)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more samples."""
        _contract.check_choice("scale", self.scale, ("feature", "block"))
        first = not hasattr(self, "n_samples_seen_")
        X = self._validated(X, reset=first)
        if first:
            self.n_samples_seen_ = 0
            self._sums = _RowNorms() if self.scale == "block" else _Squares(X.shape[1])
        self.n_samples_seen_ += len(X)
        self._sums.add(X)
        self._root, self._up, self._down = self._sums.root(self.n_samples_seen_)
        with np.errstate(over="ignore"):
            norms = self._root / self._up / self._down
        self.norms_ = np.broadcast_to(norms, X.shape[1:]).copy()
        return self

    def transform(self, X: Any) -> Any:
        """X over the norms, in the dtype of X if it is a floating one."""
        return self._scaled(X, np.divide, lambda x, root: x * self._up / root * self._down)

    def inverse_transform(self, X: Any) -> Any:
        """X times the norms."""
        return self._scaled(X, np.multiply, lambda x, root: x / self._down * root / self._up)

    def _scaled(self, X: Any, one_step: Any, steps: Any) -> Any:
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        root, y = np.where(self._root == 0, 1.0, self._root), np.empty_like(X)
        with np.errstate(all="ignore"):
            if (self._up == 1.0).all() and (self._down == 1.0).all():
                y = one_step(X, root, out=y, casting="same_kind")
            else:
                y[...] = steps(X.astype(np.float64), root)
        return y


class _RowNorms:
    """The exact sum of the norms of samples: an integer, in units of the least float64."""

    UNIT = 1074  # of 2**-1074

    def __init__(self) -> None:
        self.total = 0
        self.special = 0.0  # the sum of what is not finite

    def add(self, X: Array) -> None:
        """Take in the norms of more samples."""
        norms = l2.norm(X, dtype=np.float64)
        finite = np.isfinite(X).all(axis=-1)
        if not finite.all():
            self.special += float(norms[~finite].sum())
            X, norms = X[finite], norms[finite]
        beyond = np.isinf(norms)
        if beyond.any():  # of float64, for its norms are larger
            self._add(l2.norm(X[beyond] * 2.0**-64), 64)
            norms = norms[~beyond]
        self._add(norms, 0)

    def _add(self, norms: Array, down: int) -> None:
        digits, exponents = np.frexp(norms)
        whole = np.ldexp(digits, 53).astype(np.int64)
        for exponent in np.unique(exponents).tolist():
            # The least normal number has the exponent -1021; below, digits end in zeros.
            by = exponent - 53 + self.UNIT + down
            same = sum(whole[exponents == exponent].tolist())
            self.total += same << by if by >= 0 else same >> -by

    def root(self, samples: int) -> tuple[Array, Array, Array]:
        """The mean norm, and powers of two that it is to be divided by."""
        one = np.array(1.0)
        if self.special != 0.0:
            return np.array(self.special), one, one
        mean = Fraction(self.total, samples << self.UNIT)
        factor = 2.0**600 if mean < 2.0**-600 else 2.0**-600 if mean > 2.0**600 else 1.0
        root = np.array(float(mean * Fraction(factor)))
        return root, np.array(max(factor, 1.0)), np.array(min(factor, 1.0))


class _Squares:
    """The sum of squares of each feature, by the tree of `l2multi._summation`.

    Whole parts of `PART` samples are summed as they come, those that are left over wait. Squares of
    float64 may leave the range, so they are summed times two powers of two as well; those of
    narrower dtypes stay far inside it.
    """

    PART = 64 * LANES

    def __init__(self, features: int) -> None:
        safe = rescue(np.dtype(np.float64))
        self.lowest, self.factors = safe.lowest, (1.0, float(safe.up), float(safe.down))
        self.trees = [RowTree() for _ in self.factors]
        self.waiting = np.empty((0, features), np.float16)

    def add(self, X: Array) -> None:
        """Take in more samples."""
        if len(self.waiting):
            X = np.concatenate([self.waiting, X])
        whole = len(X) - len(X) % self.PART
        for start in range(0, whole, self.PART):
            sums = self._lanes(X[start : start + self.PART])
            for tree, lanes in zip(self.trees, sums, strict=True):
                tree.add(lanes)
        self.waiting = X[whole:].copy()

    def _lanes(self, X: Array) -> list[Array]:
        """The sums over lanes of the squares of up to `PART` samples, for each factor: those of the
        first lane for all features, and so on."""
        rows = -(-len(X) // LANES)
        x = np.zeros((rows * LANES, X.shape[1]))
        x[: len(X)] = X
        with np.errstate(all="ignore"):
            plain, *others = (
                sum_rows(np.square(x * factor if factor != 1.0 else x).reshape(rows, -1))
                for factor in (self.factors if X.dtype == np.float64 else (1.0,))
            )
        return [plain, *(others or [np.zeros_like(plain)] * 2)]

    def root(self, samples: int) -> tuple[Array, Array, Array]:
        """The square roots, and powers of two that they are to be divided by."""
        rest = self._lanes(self.waiting) if len(self.waiting) else []
        trees = copy.deepcopy(self.trees)
        for tree, lanes in zip(trees, rest, strict=False):
            tree.add(lanes)
        with np.errstate(all="ignore"):
            plain, raised, lowered = (
                sum_lanes(tree.total().reshape(LANES, -1).T) for tree in trees
            )
            small, large = plain < self.lowest, plain == np.inf
            total = np.where(small, raised, np.where(large, lowered, plain))
            _, up, down = self.factors
            return np.sqrt(total), np.where(small, up, 1.0), np.where(large, down, 1.0)
