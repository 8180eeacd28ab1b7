"""Modules whose library is not installed have no examples to run."""

from importlib.util import find_spec

_NEEDS = {
    "array_api_compat": ("l2multi/backends/array_api.py",),
    "dask": ("l2multi/containers/dask_*",),
    "distributed": ("l2multi/dask.py",),
    "jax": ("l2multi/jax.py", "l2multi/backends/jax/*", "l2multi/containers/jax_*"),
    "polars": ("l2multi/polars.py", "l2multi/containers/polars_*"),
    "pyarrow": ("l2multi/polars.py", "l2multi/containers/polars_*", "l2multi/containers/arrow*"),
    "pandas": ("l2multi/containers/pandas_*",),
    "scipy": ("l2multi/containers/scipy_*", "l2multi/containers/torch_sparse.py"),
    "sklearn": ("l2multi/sklearn.py",),
    "torch": (
        "l2multi/backends/torch.py",
        "l2multi/containers/torch_*",
        "tests/backends/torch_*",
    ),
}
collect_ignore_glob = [
    path for library, paths in _NEEDS.items() if not find_spec(library) for path in paths
]
