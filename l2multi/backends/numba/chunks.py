"""The Numba backend for arrays in chunks."""

from l2multi._chunks import ByChunk
from l2multi.backends import numba, numpy
from l2multi.backends.numba import ragged

_served = ByChunk(numba, ragged)
check, report, fast_path, traced = numba.check, numba.report, numpy.fast_path, numpy.traced
normalize, norm, finite = _served.normalize, _served.norm, _served.finite
unsupported, unready, kernel = _served.unsupported, _served.unready, _served.kernel
