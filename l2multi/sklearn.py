"""Estimators for scikit-learn: unit rows, and features or a block of them scaled by their norm.

Needs scikit-learn: from a clone, ``pip install '.[sklearn]'``.
"""

import copy
import functools
from typing import Any, Literal, Self, TypeVar

import numpy as np

import l2multi as l2
from l2multi import _containers, _contract
from l2multi.containers import numpy_array

try:
    from scipy import sparse
    from sklearn import get_config
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils import assert_all_finite
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError(
        f"l2multi.sklearn needs scikit-learn ({error}); try: pip install 'scikit-learn>=1.5' or, "
        "in a clone of l2multi, pip install '.[sklearn]'"
    ) from error

from l2multi._samples import RowNorms, Squares  # which needs SciPy

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, X: Any, **keywords: Any) -> Any:
        """As scikit-learn's function of this name."""
        keywords["force_all_finite"] = keywords.pop("ensure_all_finite")
        return estimator._validate_data(X, **keywords)


__all__ = ["L2Normalizer", "L2Scaler"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")

_FORMATS = ("csr", "csc")  # that are kept; other sparse ones become the first


class _Base(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both have: how input is validated, and what tags say of it."""

    nonfinite: _contract.NonFinite

    def _validated(self, X: Any, reset: bool, finite: bool | None = None) -> Any:
        """X as numbers: an array, a sparse one, or under array-API dispatch a tensor. Finite unless
        they may be what they like, or it is looked at later."""
        _contract.check_choice("nonfinite", self.nonfinite, _contract.NONFINITE)
        finite = self.nonfinite == "raise" if finite is None else finite
        if not finite and self._known(X, reset):
            if reset:
                self.n_features_in_ = X.shape[1]
            return X
        if isinstance(X, np.ndarray) and type(X) is not np.ndarray:
            self._check_class(X)
        return validate_data(
            self, X, reset=reset, dtype="numeric", accept_sparse=_FORMATS, ensure_all_finite=finite
        )

    def _check_class(self, X: Array) -> None:
        """Refuse a subclass of ndarray of which scikit-learn would drop a mask or a unit."""
        if isinstance(X, np.ma.MaskedArray):
            raise TypeError(
                f"X: {type(self).__name__} would lose the mask; l2multi.normalize(X) keeps it, "
                "X.filled(0.0) has zeros in its place"
            )
        numpy_array.base("X", X)

    def _known(self, X: Any, reset: bool) -> bool:
        """Whether X is an array that scikit-learn would pass on; it takes 50 us to say so. Where
        caches are full of what the last call wrote, each line here takes some, too."""
        if type(X) is not np.ndarray or X.dtype.kind != "f" or len(shape := X.shape) != 2:
            return False
        learned = self.__dict__
        if "feature_names_in_" in learned or 0 in shape:  # of the former there would be a warning
            return False
        return bool(reset or shape[1] == learned.get("n_features_in_"))

    def _check_finite(self, X: Any) -> None:
        assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nonfinite == "propagate"
        tags.input_tags.sparse = True
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before scikit-learn 1.6
        return {
            "allow_nan": self.nonfinite == "propagate",
            "X_types": ["2darray", "sparse"],
            "array_api_support": True,
            "preserves_dtype": [np.float64, np.float32, np.float16],
        }


def _heeds_output_if_set(cls: type[T]) -> type[T]:
    """Have the `transform` of a class heed `set_output` where somebody has called it. To find that
    nobody has takes scikit-learn 20 us after a call whose arrays fill the caches."""
    wrapped: Any = cls.transform  # type: ignore[attr-defined] # by scikit-learn, when the class was made
    plain = wrapped.__wrapped__

    @functools.wraps(wrapped)
    def transform(self: Any, X: Any) -> Any:
        set_here = "_sklearn_output_config" in self.__dict__
        if set_here or get_config()["transform_output"] != "default":
            return wrapped(self, X)
        return plain(self, X)

    cls.transform = transform  # type: ignore[attr-defined]
    return cls


@_heeds_output_if_set
class L2Normalizer(_Base):
    """Scale each sample to unit length, at every magnitude.

    What ``sklearn.preprocessing.Normalizer()`` does, whose squares overflow for float32 from 2e19
    and float64 from 1e154 on, and underflow likewise; here `norm` is no parameter. Stateless: `fit`
    validates. CSR and CSC stay what they are, and other sparse formats become CSR; the stored
    entries alone change. Under scikit-learn's array-API dispatch, a PyTorch tensor stays a tensor
    on its device. Frames become arrays by scikit-learn, which makes float64 of dtypes with nulls,
    and NaN of nulls; `l2multi.normalize` keeps both. Masked arrays, and those with a unit, are a
    TypeError.

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
        False overwrites X where it is a writable array or sparse array of floating numbers; frames
        are never written to.
    backend : {None, "numpy", "numba"}, optional
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
        _contract.check_choice("zero", self.zero, _contract.ZERO)
        _contract.check_size("eps", self.eps)
        self._validated(X, reset=True)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit` and `transform`."""
        self._validated(X, reset=True, finite=False)
        return self.transform(X)

    def transform(self, X: Any) -> Any:
        """The unit vectors of the samples, in the dtype of X if it is a floating one."""
        given, X = X, self._validated(X, reset=False, finite=False)
        out = X if not self.copy and _may_be_overwritten(given, X) else None
        try:
            return l2.normalize(
                X, eps=self.eps, zero=self.zero, nonfinite=self.nonfinite, out=out,
                backend=self.backend,
            )  # fmt: skip
        except l2.NonFiniteError:
            self._check_finite(X)  # which has scikit-learn's words for it
            raise

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _more_tags(self) -> dict[str, Any]:
        return {**super()._more_tags(), "stateless": True}


def _may_be_overwritten(given: Any, X: Any) -> bool:
    """Whether X, as validated, is floating numbers that its owner gave as an array."""
    if not (isinstance(given, np.ndarray) or sparse.issparse(given)):
        return False
    values = X.data if sparse.issparse(X) else X
    return bool(values.dtype.kind == "f" and values.flags.writeable)


@_heeds_output_if_set
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
    norms_ : array, shape (n_features,)
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
    ``l2multi.norm(X, axis=0, dtype="float64")`` for all of them at once, dense or sparse. Between
    calls it keeps up to 1023 samples, and 16 sums for each feature and each doubling of their
    number, of sparse samples only those that are not zero. Mean norms are exact sums, rounded once.
    Two fitted scalers cannot be merged: what is added to what follows from the places of samples
    among all of them, and sums of a later part, taken by themselves, would give other bits.

    CSR and CSC stay what they are, and other sparse formats become CSR; the stored entries alone
    change. Under scikit-learn's array-API dispatch, PyTorch tensors in the memory of the CPU stay
    tensors; those on other devices, and those that need a gradient, are refused. So are masked
    arrays, and those with a unit. Where `fit` or `partial_fit` fails, what was learned is kept.

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
        return self._learn(X, first=True)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more samples."""
        return self._learn(X, first=not hasattr(self, "n_samples_seen_"))

    def _learn(self, X: Any, first: bool) -> Self:
        """Take in samples; where that fails, or is interrupted, nothing has changed."""
        _contract.check_choice("scale", self.scale, ("feature", "block"))
        before = vars(self).copy()
        try:
            X, close = _opened(self._validated(X, reset=first))
            if first:
                self.n_samples_seen_ = 0
                self._sums = RowNorms() if self.scale == "block" else Squares(X.shape[1])
            else:
                self._sums = copy.copy(self._sums)  # which replace what they hold
            self._sums.add(X)
            self.n_samples_seen_ += X.shape[0]
            self._by = root, scale_up, scale_down = self._sums.root(self.n_samples_seen_)
            with np.errstate(over="ignore"):
                norms = root / scale_up / scale_down
            self.norms_ = close(np.broadcast_to(norms, X.shape[1:]).copy())
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def transform(self, X: Any) -> Any:
        """X over the norms, in the dtype of X if it is a floating one."""
        return self._scaled(
            X, np.divide, lambda x, root, scale_up, scale_down: x * scale_up / root * scale_down
        )

    def inverse_transform(self, X: Any) -> Any:
        """X times the norms."""
        return self._scaled(
            X, np.multiply, lambda x, root, scale_up, scale_down: x / scale_down * root / scale_up
        )

    def _scaled(self, X: Any, one_step: Any, steps: Any) -> Any:
        check_is_fitted(self)
        X, close = _opened(self._validated(X, reset=False))
        root, *powers = self._by
        by = [np.where(root == 0, 1.0, root), *powers]
        values, plain = X, all((factor == 1.0).all() for factor in by[1:])
        if sparse.issparse(X):
            values, of = X.data[: X.indptr[-1]], X.indices[: X.indptr[-1]]
            if X.format == "csc":
                of = np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))
            by = [np.broadcast_to(factor, X.shape[1])[of] for factor in by[: 1 if plain else 3]]
        y = np.empty_like(values)
        with np.errstate(all="ignore"):
            if plain:
                one_step(values, by[0], out=y, casting="same_kind")
            else:
                y[...] = steps(values.astype(np.float64), *by)
        if values is X:
            return close(y)
        made = X.copy()
        made.data, made.indices = y, made.indices[: len(y)]
        return made


def _opened(X: Any) -> tuple[Any, Any]:
    """X, as validated, with floating numbers of at most 64 bits, as an array of NumPy or a sparse
    one; and the way back for a NumPy array like it."""
    close: Any = np.asarray
    if not (isinstance(X, np.ndarray) or sparse.issparse(X)):
        if getattr(X, "requires_grad", False):
            raise TypeError("X: gradients do not pass through L2Scaler; try X.detach()")
        opened = _containers.open(X, _contract.Request())
        if opened.library != "numpy":
            opened = opened.moved("numpy", "numpy")
        close, X = opened.close, opened.values((1,), False)
    dtype = _contract.rule(X.dtype).result
    return X.astype(min(dtype, np.dtype(np.float64), key=lambda d: d.itemsize), copy=False), close
