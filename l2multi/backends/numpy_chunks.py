"""The readable form for arrays in chunks: each by itself, so that a vector has its bits."""

from l2multi._chunks import ByChunk
from l2multi.backends import numpy, numpy_ragged

_served = ByChunk(numpy, numpy_ragged)
check, report, fast_path, traced = numpy.check, numpy.report, numpy.fast_path, numpy.traced
normalize, norm, finite = _served.normalize, _served.norm, _served.finite
unsupported, unready, kernel = _served.unsupported, _served.unready, _served.kernel
