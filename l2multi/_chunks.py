"""Arrays in chunks: what containers open as that hold many arrays as one, and how a backend serves
them, chunk by chunk into one result. Imports no backend.
"""

from typing import Any

import numpy as np

from l2multi._ragged import Ragged

Array = np.ndarray[Any, Any]


class Chunks:
    """Arrays of one dtype, all dense or all ragged, whose vectors come one after another along the
    first axis."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.dtype, self.size = parts[0].dtype, sum(part.size for part in parts)
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


class ByChunk:
    """The functions of a backend for chunks, of its modules for dense and for ragged arrays."""

    def __init__(self, dense: Any, ragged: Any) -> None:
        self.dense, self.ragged = dense, ragged

    def _by(self, part: Any) -> Any:
        return self.ragged if isinstance(part, Ragged) else self.dense

    def normalize(
        self,
        x: Chunks,
        axes: tuple[int, ...],
        *,
        eps: float,
        zero_nan: bool,
        out: Array | None,
        dtype: np.dtype[Any],
        norm_dtype: np.dtype[Any] | None,
    ) -> tuple[Array, Any]:
        """The unit vectors, and the norms where asked for."""
        y = np.empty(x.shape, dtype) if out is None else out
        norms, ends = [], np.cumsum([0] + [part.shape[0] for part in x.parts]).tolist()
        for part, first, last in zip(x.parts, ends, ends[1:], strict=False):
            _, lengths = self._by(part).normalize(
                part,
                axes,
                eps=eps,
                zero_nan=zero_nan,
                out=y[first:last],
                dtype=dtype,
                norm_dtype=norm_dtype,
            )
            norms.append(lengths)
        return y, None if norm_dtype is None else np.concatenate(norms)

    def norm(
        self, x: Chunks, axes: tuple[int, ...], *, keepdims: bool, out: Any, dtype: np.dtype[Any]
    ) -> Any:
        """The norms."""
        return np.concatenate(
            [
                self._by(part).norm(part, axes, keepdims=keepdims, out=None, dtype=dtype)
                for part in x.parts
            ],
            out=out,
        )

    def finite(self, x: Chunks, axes: tuple[int, ...]) -> Any:
        """Whether each vector is free of inf and NaN."""
        return np.concatenate([self._by(part).finite(part, axes) for part in x.parts])

    def unsupported(self, x: Chunks, result: np.dtype[Any]) -> str | None:
        """As of the first chunk, for all are of one dtype."""
        why: str | None = self._by(x.parts[0]).unsupported(x.parts[0], result)
        return why

    def unready(
        self, x: Chunks, axes: tuple[int, ...], result: np.dtype[Any], look: bool
    ) -> str | None:
        """As of the chunks."""
        found = (self._by(part).unready(part, axes, result, look) for part in x.parts)
        return next((why for why in found if why is not None), None)

    def kernel(
        self, x: Chunks, axes: tuple[int, ...], result: np.dtype[Any], out: Any
    ) -> tuple[str, int]:
        """That of the largest chunk, and its number of threads."""
        largest = max(x.parts, key=lambda part: part.size)
        found: tuple[str, int] = self._by(largest).kernel(largest, axes, result, out)
        return found
