"""Expressions for Polars: ``pl.col("embedding").l2.normalize()``, once this module is imported.

Needs Polars: from a clone, ``pip install '.[polars]'``.
"""

from typing import Any

import l2multi as l2

try:
    import polars as pl
except ImportError as error:
    raise ImportError(
        f"l2multi.polars needs Polars ({error}); try: pip install polars or, in a clone of "
        "l2multi, pip install '.[polars]'"
    ) from error

from l2multi.containers.polars_series import inner

__all__ = ["L2Namespace"]


@pl.api.register_expr_namespace("l2")
class L2Namespace:
    """What ``expr.l2`` is, for columns of vectors (`polars.Array`, `polars.List`).

    Each row is a vector, in eager and lazy frames, streaming, in ``group_by`` and ``over``. The
    schema is known without running. A null row stays null, a null element makes its row null.

    Examples
    --------
    >>> import polars as pl, l2multi.polars
    >>> kind = pl.Array(pl.Float32, 2)
    >>> frame = pl.DataFrame({"v": [[3.0, 4.0], [0.0, 0.0], None]}, schema={"v": kind})
    >>> out = frame.lazy().select(pl.col("v").l2.normalize(zero="null"), n=pl.col("v").l2.norm())
    >>> out.collect_schema()["v"] == kind
    True
    >>> out.collect()["n"].to_list()
    [5.0, 0.0, None]
    """

    def __init__(self, expr: Any) -> None:
        self._expr = expr

    def normalize(
        self,
        *,
        eps: float = 0.0,
        zero: str = "keep",
        nonfinite: str = "propagate",
        backend: str | None = None,
    ) -> Any:
        """The unit vectors: a column of the same type, of Float64 for integers. Parameters as for
        `l2multi.normalize`, with ``zero="null"`` besides."""
        keywords: dict[str, Any] = {"eps": eps, "zero": zero, "nonfinite": nonfinite}

        def normalize(series: Any) -> Any:
            return l2.normalize(series, backend=backend, **keywords)

        return self._by(normalize, _unit)

    def norm(self, *, nonfinite: str = "propagate", backend: str | None = None) -> Any:
        """The norms: a column of Float32 for Float32 and narrower, else of Float64."""

        def norm(series: Any) -> Any:
            return l2.norm(series, nonfinite=nonfinite, backend=backend)  # type: ignore[arg-type]

        return self._by(norm, _norm)

    def is_normalized(self, *, tol: float | None = None, backend: str | None = None) -> Any:
        """Which vectors have unit length: a column of Boolean."""

        def is_normalized(series: Any) -> Any:
            return l2.is_normalized(series, tol=tol, backend=backend)

        return self._by(is_normalized, lambda dtype: pl.Boolean)

    def _by(self, function: Any, dtype_of: Any) -> Any:
        return self._expr.pipe_with_dtype(
            lambda expr, dtype: expr.map_batches(
                function, return_dtype=dtype_of(dtype), is_elementwise=True
            )
        )


def _unit(dtype: Any) -> Any:
    unit = inner(dtype) if inner(dtype).is_float() else pl.Float64
    return pl.List(unit) if isinstance(dtype, pl.List) else pl.Array(unit, dtype.shape)


def _norm(dtype: Any) -> Any:
    return pl.Float32 if inner(dtype) in (pl.Float32, pl.Float16) else pl.Float64
