"""Unit vectors and Euclidean norms, right for every representable input."""

try:
    from l2multi._api import backend, explain, is_normalized, norm, normalize
    from l2multi._contract import NonFiniteError, ZeroVectorError
    from l2multi._versions import show_versions
except KeyboardInterrupt:
    # NumPy is most of what a short command takes, and its own code does not run before.
    from l2multi.__main__ import interrupted, is_command

    if is_command():
        raise SystemExit(interrupted()) from None
    raise

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
