"""DataArrays of xarray: axes by name; dimensions, coordinates, attributes and names are kept."""

from typing import Any

from l2multi import _containers, _contract
from l2multi._opened import Inside, Opened


class DataArray(Inside):
    """An array whose dimensions have names; its data are opened in its place."""

    def __init__(self, inner: Opened, x: Any) -> None:
        super().__init__(inner)
        self.x = x

    def axes(self, request: _contract.Request) -> tuple[int, ...]:
        """By number, or by name: in `dim`, or in place of a number."""
        asked = request.axis if request.dim is None else request.dim
        if request.dim is not None and request.axis != -1:
            raise TypeError(f"dim: expected no axis= beside it, got {request.axis!r}")
        names = (asked,) if isinstance(asked, str) else asked
        if isinstance(names, (tuple, list)) and any(isinstance(name, str) for name in names):
            unknown = [name for name in names if name not in self.x.dims]
            if unknown:
                raise ValueError(f"dim: expected some of {self.x.dims}, got {asked!r}")
            asked = tuple(self.x.dims.index(name) for name in names)
        return self.inner.axes(request._replace(axis=asked, dim=None))

    def close(self, y: Any) -> Any:
        return self.x.copy(data=self.inner.close(y))

    def close_norms(self, norms: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        norms = self.inner.close_norms(norms, axes, keepdims)
        over = [self.x.dims[d] for d in axes]
        x = self.x
        if keepdims:  # coordinates along these name one place, and a norm is of all
            x = x.drop_vars([name for name, c in x.coords.items() if set(c.dims) & set(over)])
            norms = norms[tuple(0 if d in axes else slice(None) for d in range(x.ndim))]
        return x.reduce(lambda *_, **__: norms, over, keepdims=keepdims, keep_attrs=True)


def open(x: Any, request: _contract.Request) -> Opened:
    """Its data."""
    return DataArray(_containers.open(x.data, request), x)
