"""Sums over samples that come part by part, for `l2multi.sklearn`: the same bits in any parts."""

import copy
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import sparse

import l2multi as l2
from l2multi._summation import LANES, RowTree, rescue, sum_rows

Array = np.ndarray[Any, Any]


class RowNorms:
    """The exact sum of the norms of samples: an integer, in units of the least float64."""

    UNIT = 1074  # of 2**-1074

    def __init__(self) -> None:
        self.total = 0
        self.special = 0.0  # the sum of what is not finite

    def add(self, X: Array) -> None:
        """Take in the norms of more samples."""
        norms = l2.norm(X, dtype=np.float64)
        finite = np.isfinite(norms)
        if not finite.all():
            lowered = l2.norm(X[~finite] * 2.0**-64, dtype=np.float64)
            beyond = np.isfinite(lowered)  # float64 could not hold these
            self._add(lowered[beyond], 64)
            self.special += float(norms[~finite][~beyond].sum())
        self._add(norms[finite], 0)

    def _add(self, norms: Array, scale_down: int) -> None:
        digits, exponents = np.frexp(norms)
        whole = np.ldexp(digits, 53).astype(np.int64)
        for exponent in np.unique(exponents).tolist():
            # The least normal number has the exponent -1021; below, digits end in zeros.
            by = exponent - 53 + self.UNIT + scale_down
            same = sum(whole[exponents == exponent].tolist())
            self.total += same << by if by >= 0 else same >> -by

    def root(self, samples: int) -> tuple[Array, Array, Array]:
        """The mean norm, and powers of two that it is to be divided by: 1 where it is 0."""
        one = np.array(1.0)
        if self.special != 0.0:
            return np.array(self.special), one, one
        mean = Fraction(self.total, samples << self.UNIT)
        factor = 2.0**600 if 0 < mean < 2.0**-600 else 2.0**-600 if mean > 2.0**600 else 1.0
        root = np.array(float(mean * Fraction(factor)))
        return root, np.array(max(factor, 1.0)), np.array(min(factor, 1.0))


class Squares:
    """The sum of squares of each feature, by the tree of `l2multi._summation`.

    Whole parts of `PART` samples are summed as they come, those that are left over wait. Squares of
    float64 may leave the range, so they are summed times two powers of two as well; those of
    narrower dtypes stay far inside it. Sums of sparse samples are sparse: zeros change no bit.
    """

    PART = 64 * LANES

    def __init__(self, features: int) -> None:
        safe = rescue(np.dtype(np.float64))
        self.lowest, self.factors = safe.lowest, (1.0, float(safe.scale_up), float(safe.scale_down))
        self.trees = [RowTree() for _ in self.factors]
        self.waiting: Any = np.empty((0, features), np.float16)

    def add(self, X: Any) -> None:
        """Take in more samples."""
        if sparse.issparse(X):
            X = _canonical(X)
        if self.waiting.shape[0]:
            if sparse.issparse(X):
                X = sparse.vstack([sparse.csr_array(self.waiting), X], "csr")
            else:
                some = self.waiting.toarray() if sparse.issparse(self.waiting) else self.waiting
                X = np.concatenate([some, X])
        samples = X.shape[0]
        whole = samples - samples % self.PART
        self.trees = copy.deepcopy(self.trees) if whole else self.trees
        for start in range(0, whole, self.PART):
            sums = self._lanes(X[start : start + self.PART])
            for tree, lanes in zip(self.trees, sums, strict=True):
                tree.add(lanes)
        self.waiting = X[whole:].copy()

    def _lanes(self, X: Any) -> list[Any]:
        """The sums of the squares of up to `PART` samples, for each factor, by lane and feature."""
        sum_up = _sparse_lanes if sparse.issparse(X) else _dense_lanes
        with np.errstate(all="ignore"):
            plain, *others = (
                sum_up(X, factor) for factor in (self.factors if X.dtype == np.float64 else (1.0,))
            )
        none = sparse.csr_array(plain.shape) if sparse.issparse(plain) else np.zeros_like(plain)
        return [plain, *(others or [none] * 2)]

    def root(self, samples: int) -> tuple[Array, Array, Array]:
        """The square roots, and powers of two that they are to be divided by: 1 for roots of 0."""
        rest = self._lanes(self.waiting) if self.waiting.shape[0] else []
        trees = copy.deepcopy(self.trees)
        for tree, lanes in zip(trees, rest, strict=False):
            tree.add(lanes)
        with np.errstate(all="ignore"):
            plain, raised, lowered = (_over_lanes(tree.total()) for tree in trees)
            small, large = plain < self.lowest, plain == np.inf
            total = np.where(small, raised, np.where(large, lowered, plain))
            _, scale_up, scale_down = self.factors
            small &= total != 0
            return np.sqrt(total), np.where(small, scale_up, 1.0), np.where(large, scale_down, 1.0)


def _canonical(X: Any) -> Any:
    """Sparse samples by rows, entries for one place added as `l2multi.norm` adds them."""
    X = sparse.csr_array(X)
    if X.has_canonical_format:
        return X
    wide = X.astype(np.float64)
    wide.sum_duplicates()
    return wide.astype(X.dtype)


def _dense_lanes(X: Array, factor: float) -> Array:
    rows = -(-len(X) // LANES)
    x = np.zeros((rows * LANES, X.shape[1]))
    x[: len(X)] = X
    return sum_rows(np.square(x * factor if factor != 1.0 else x).reshape(rows, -1)).reshape(
        LANES, -1
    )


def _sparse_lanes(X: Any, factor: float) -> Any:
    samples, features = X.shape
    # What one sum is of is to stand together: by features, then lanes, then rows.
    order = np.concatenate([np.arange(lane, samples, LANES) for lane in range(LANES)])
    X = X[order].tocsc()
    sample, rows = order[X.indices], Squares.PART // LANES
    feature = np.repeat(np.arange(features), np.diff(X.indptr))
    place = (feature * LANES + sample % LANES) * rows + sample // LANES
    sums = np.square(X.data.astype(np.float64) * factor)
    while rows > 1:  # neighbours are added in pairs
        place, rows = place // 2, rows // 2
        first = np.flatnonzero(np.append(True, place[1:] != place[:-1])[: len(place)])
        if len(first) < len(place):
            place, sums = place[first], np.add.reduceat(sums, first)
    return sparse.csr_array((sums, (place % LANES, place // LANES)), shape=(LANES, features))


def _over_lanes(lanes: Any) -> Array:
    while (half := lanes.shape[0] // 2) > 0:
        lanes = lanes[:half] + lanes[half:]
    found: Array = lanes.toarray()[0] if sparse.issparse(lanes) else lanes[0]
    return found
