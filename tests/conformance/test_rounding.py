"""From wide to narrow in one rounding: midpoints of the narrow dtype and their neighbours."""

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.reference import same_bits

pytestmark = [pytest.mark.only("same_bits"), pytest.mark.only("direct")]

WIDE = [np.dtype(d) for d in ("g", "f8", "f4")]
NARROW = [*cases.HALVES, np.dtype("f4"), np.dtype("f8")]


def ladder(narrow, wide):
    """Numbers of a wide dtype, and what each is when rounded to a narrow one: numbers of the narrow
    one, what lies in the middle of two neighbours, and what lies next to that on either side."""
    bits = np.dtype(f"u{narrow.itemsize}")
    top = int(np.array(ml_dtypes.finfo(narrow).max, narrow).view(bits))
    some = np.random.default_rng(1).integers(0, top, 2000)
    lower = np.arange(top + 1) if top < len(some) else np.r_[0, 1, some, top - 1, top]
    low, high = (k.astype(bits).view(narrow) for k in (lower, lower + 1))
    x = low.astype(wide)
    # The number after the largest would be as far away as the one before it.
    step = np.where(lower < top, high.astype(wide), x) - x
    step[lower == top] = x[lower == top] - (lower[lower == top] - 1).astype(bits).view(narrow)
    middle = x + step / 2
    assert ((middle - x == step / 2) & (step > 0)).all()
    values = [x, np.nextafter(middle, x), middle, np.nextafter(middle, np.array(np.inf, wide))]
    return np.stack(values), np.stack([low, low, np.where(lower % 2 == 0, low, high), high])


@pytest.mark.dtypes(*WIDE, every=True)
def test_once(backend, dtype):
    """Norms of single numbers, which are these numbers, and unit vectors where `eps` divides."""
    for narrow in (d for d in NARROW if d.itemsize < dtype.itemsize):
        x, want = ladder(narrow, dtype)
        fits = x <= 1
        out = np.empty(x.shape, narrow)
        masked = np.ma.MaskedArray(
            np.stack([x, x], axis=-1), [False, True] * np.ones((*x.shape, 1))
        )
        keywords = {"dtype": narrow, "backend": backend.name}
        with backend.scope(dtype, narrow):
            assert same_bits(l2.norm(x[..., None], **keywords), want), narrow
            assert same_bits(l2.norm(-x[..., None], out=out, **keywords), want), narrow
            assert same_bits(l2.norm(masked, **keywords).data, want), narrow
            units = l2.normalize(x[..., None], eps=1.0, **keywords)
            assert same_bits(units[fits][..., 0], want[fits]), narrow
            units, lengths = l2.normalize(masked, eps=1.0, return_norm=True, **keywords)
            assert same_bits(units.data[fits][..., 0], want[fits]), narrow
            assert same_bits(lengths.data, x), narrow
