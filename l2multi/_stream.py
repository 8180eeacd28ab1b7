"""The vectors of a file on their way, block by block: what serves them, and what is met."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from l2multi import _backends, _contract, _formats, _usable
from l2multi._api import explain, norm, normalize
from l2multi._formats import Array, Block, OpenFile, Writer
from l2multi._replacing import told

Progress = Callable[[int, int], None]

# How many positions of zero or not finite vectors are kept.
SHOWN = 10


class Met:
    """Vectors that a policy is about: how many, and where the first are in the whole batch."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, ...]] = []

    def add(self, bad: Array, starts: tuple[int, ...]) -> None:
        """Those of a block, whose first vector is at `starts`."""
        if bad.any():
            local = np.argwhere(bad)[:SHOWN]
            here = [tuple(map(int, position)) for position in local + np.array(starts, int)]
            self.first = sorted([*self.first, *here])[:SHOWN]
            self.count += int(np.count_nonzero(bad))

    def refuse(self, error: type[ValueError], what: str, vectors: int) -> None:
        """Raise if there are any."""
        if self.count:
            raise error(_contract.met(f"source: {what}", self.count, vectors, self.first[0]))


class Pass:
    """One way through the vectors of a file.

    Attributes
    ----------
    vectors, length : int
        How many vectors, of how many elements; a length of None where they differ.
    elements : int
        How many elements were read.
    zeros, unbound, nulls : Met
        The zero vectors, those whose norm is inf or NaN, and those that are null.
    infinite : Met
        Those that have an inf or a NaN.
    smallest, largest : floating scalar or None
        Of the finite norms.
    used : dict of str
        The backends that served, and why.
    """

    def __init__(
        self, opened: OpenFile, path: str, axes: tuple[int, ...], dtype: np.dtype[Any],
        policies: dict[str, Any], backend: str | None, norm_dtype: np.dtype[Any] | None = None,
    ) -> None:  # fmt: skip
        self.opened, self.path, self.axes, self.dtype = opened, path, axes, dtype
        # That of the norms that `normalize` returns, unless wider ones are asked for.
        self.norm_dtype = norm_dtype or _contract.rule(opened.dtype).norm
        self.axis = opened.check_axes(axes)
        self.policies = policies
        batch = [n for d, n in enumerate(opened.shape) if d not in axes]
        along = [opened.shape[d] for d in axes]
        self.vectors = math.prod(batch)
        self.length = None if None in along else math.prod(along)
        self.elements = 0
        self.zeros, self.unbound, self.nulls, self.infinite = Met(), Met(), Met(), Met()
        empty = self.length == 0 and self.vectors > 0  # empty vectors have norm 0
        self.smallest: Any = 0.0 if empty else None
        self.largest: Any = self.smallest
        self.named = _backends.named(backend) is not None
        first = explain(
            opened.sample(axes), self.axis, dtype=dtype, backend=backend, **self._asked("nonfinite")
        )
        self.used = {first.backend: first.why}

    def _asked(self, *more: str) -> dict[str, Any]:
        """What `normalize` is asked: it never raises, so that positions count from the first."""
        asked = {name: self.policies[name] for name in ("eps", "zero", *more)}
        if asked["zero"] in ("raise", "drop"):
            asked["zero"] = "keep"
        return asked

    def blocks(self) -> Iterator[Block]:
        """All blocks; what the system refuses names the file."""
        with told("source", self.path):
            yield from self.opened.blocks(self.axes)

    def _serve(
        self, function: Callable[..., Any], values: Any, dtype: np.dtype[Any], **keywords: Any
    ) -> Any:
        """Call a function by the backend that serves. Where it has no kernel, NumPy goes on, unless
        the backend was named."""
        backend = list(self.used)[-1]
        try:
            return function(values, self.axis, dtype=dtype, backend=backend, **keywords)
        except ImportError as error:
            if self.named or backend == "numpy":
                raise
            self.used["numpy"] = str(error)
            return self._serve(function, values, dtype, **keywords)

    def unit(self, block: Block, room: Array | None = None) -> tuple[Any, Any]:
        """The unit vectors of a block, and the norms of its vectors."""
        unit, norms = self._serve(
            normalize, block.values, self.dtype, out=room, return_norm=True, **self._asked()
        )
        if self.policies["zero"] == "null":  # which has made null what is to be counted
            norms = self.norms(block)
        return unit, norms

    def norms(self, block: Block) -> Any:
        """The norms of the vectors of a block."""
        return self._serve(norm, block.values, self.norm_dtype)

    def count(self, block: Block, norms: Any, unit: Any = None) -> tuple[Array, Array | None]:
        """Count what was met in a block, whose unit vectors may be known. Return its norms as a
        NumPy array, NaN where a vector is null, and which vectors stay, or None for all."""
        self.elements += self.opened.elements(block)
        plain, valid = self.opened.plain(norms)
        zero, finite = _contract.are_zero(plain), np.isfinite(plain)
        if self.length == 0:  # to no policy are empty vectors zero vectors
            zero = np.zeros_like(zero)
        if valid is not None:
            self.nulls.add(~valid, block.starts)
            zero, plain = zero & valid, np.where(valid, plain, plain.dtype.type(np.nan))
        self.zeros.add(zero, block.starts)
        bad = ~finite if valid is None else ~finite & valid
        if bad.any():
            self.unbound.add(bad, block.starts)
            if self.policies["nonfinite"] == "raise":
                # A norm of inf may be that of a finite vector, whose unit vector has no NaN.
                unit = self.unit(block)[0] if unit is None else unit
                lengths, _ = self.opened.plain(self._serve(norm, unit, self.norm_dtype))
                self.infinite.add(bad & np.isnan(lengths), block.starts)
        known = plain[finite] if valid is None else plain[finite & valid]
        if known.size:
            lo, hi = known.min(), known.max()
            self.smallest = lo if self.smallest is None else min(self.smallest, lo)
            self.largest = hi if self.largest is None else max(self.largest, hi)
        return plain, ~zero if self.policies["zero"] == "drop" else None

    def refuse(self) -> None:
        """Raise if a policy says so."""
        self.infinite.refuse(_contract.NonFiniteError, "inf or NaN", self.vectors)
        if self.policies["zero"] == "raise":
            self.zeros.refuse(_contract.ZeroVectorError, "zero norm", self.vectors)

    def run(
        self,
        writer: Writer | None = None,
        target: str = "",
        keep_norms: Callable[[Block, Array], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Count what is met in all blocks, and hand the unit vectors to a writer and their norms to
        `keep_norms`, where they are wanted."""
        if progress:
            progress(0, self.vectors)
        with self._threads(writer):
            self._run(writer, target, keep_norms, progress)
        self.refuse()

    def _threads(self, writer: Writer | None) -> contextlib.AbstractContextManager[None]:
        """Leave the other cores to who writes behind: with a helper there a .npy took half as long
        again. What computes a vector longer than any window has no such thread."""
        longest = (self.length or 0) * self.opened.dtype.itemsize
        if writer is None or longest > 4 * _formats.WINDOW:
            return contextlib.nullcontext()
        return _usable.one_thread()

    def _run(
        self, writer: Writer | None, target: str,
        keep_norms: Callable[[Block, Array], None] | None, progress: Progress | None,
    ) -> None:  # fmt: skip
        done = 0
        for block in self.blocks():
            if writer is None:
                unit, norms = None, self.norms(block)
            else:
                unit, norms = self.unit(block, writer.room(block))
            plain, keep = self.count(block, norms, unit)
            if writer is not None:
                with told("target", target):
                    writer.put(block, unit, keep)
            if keep_norms is not None:
                keep_norms(block, plain)
            done += plain.size
            if progress:
                progress(done, self.vectors)


class Histogram:
    """How many norms there are of which size, in intervals of less than a hundredth."""

    _KEPT = 45  # bits of a float64 that are dropped: seven of its fraction stay

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, norms: Array) -> None:
        """Count these."""
        with np.errstate(over="ignore"):  # a longdouble
            bits = np.ascontiguousarray(norms, np.float64).view(np.int64) >> self._KEPT
        for key, count in zip(
            *(a.tolist() for a in np.unique(bits, return_counts=True)), strict=True
        ):
            self._counts[key] = self._counts.get(key, 0) + count

    def counts(self) -> dict[float, int]:
        """Where intervals begin, and how many norms are in each."""
        keys = sorted(self._counts)
        begins = (np.array(keys, np.int64) << self._KEPT).view(np.float64).tolist()
        return dict(zip(begins, (self._counts[key] for key in keys), strict=True))
