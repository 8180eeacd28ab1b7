"""Unit vectors and Euclidean norms, right for every representable input."""

from l2multi._api import backend, explain, is_normalized, norm, normalize, show_versions
from l2multi._contract import NonFiniteError, ZeroVectorError

__version__ = "0.1.0"

__all__ = [
    "NonFiniteError",
    "ZeroVectorError",
    "__version__",
    "backend",
    "explain",
    "is_normalized",
    "norm",
    "normalize",
    "show_versions",
]
