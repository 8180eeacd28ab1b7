"""What is installed, and what of it can be used."""

import os
import sys

from l2multi import _backends, _usable

# Whose versions `show_versions` tells.
_DISTRIBUTIONS = (
    "numpy", "numba", "llvmlite", "jax", "jaxlib", "ml_dtypes", "torch", "array-api-compat",
    "scipy", "scikit-learn", "pyarrow", "polars", "pandas", "xarray", "dask", "pint", "astropy",
)  # fmt: skip


def show_versions() -> None:
    """Print what is installed and which backends are usable, and why one is not.

    Backends are loaded, and nothing is compiled: "usable" is what can be told without. Of the Numba
    backend it says how many kernels came with the package, for which level of CPU features, and how
    many more are in the user's cache.

    Examples
    --------
    >>> import l2multi as l2
    >>> l2.show_versions()  # doctest: +ELLIPSIS
    l2multi ...
    """
    found = versions()
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")


@_usable.asks
def versions() -> dict[str, str]:
    """What `show_versions` prints, line by line."""
    import platform
    from importlib import metadata  # 20 ms, more than all of `import l2multi` may take

    lines = {"l2multi": sys.modules["l2multi"].__version__, "python": platform.python_version()}
    lines["platform"] = f"{platform.system()} {platform.machine()}"
    for name in _DISTRIBUTIONS:
        try:
            lines[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines[name] = "not installed"
    for name in _backends.NAMES:
        row = _backends.first(name)
        try:
            _backends.load(row).check()
        except ImportError as error:
            lines[f"backend {name}"] = f"not usable: {error}"
        else:
            lines[f"backend {name}"] = "usable"
            lines |= _backends.load(row).report()
    asked = _backends.named_in_environment()
    if asked is not None and asked not in _backends.NAMES:
        asked = f"{asked}: unknown, so calls fail; known are {', '.join(_backends.NAMES)}"
    lines[f"${_backends.ENVIRONMENT}"] = asked or "not set"
    kernels = os.environ.get("L2MULTI_JAX_KERNELS") or "not set"
    if kernels not in ("not set", "0", "1"):
        kernels += ": unknown, so it counts as 1; known are 0, 1"
    lines["$L2MULTI_JAX_KERNELS"] = kernels
    return lines
