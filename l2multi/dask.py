"""Zarr stores on a cluster: window by window, each by one worker of Dask.

Arrays of Dask need nothing from here: `l2multi.normalize` takes them. Needs distributed and zarr:
from a clone, ``pip install '.[dask,zarr]'``.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from l2multi import _file_arguments, _formats, _stream, _usable, files
from l2multi._contract import Axis, NonFinite, Zero
from l2multi._formats import Block
from l2multi._replacing import replacing, told
from l2multi.formats import zarr

try:
    import distributed
except ImportError as error:
    raise ImportError(
        f"l2multi.dask needs distributed ({error}); try: pip install distributed or, in a clone of "
        "l2multi, pip install '.[dask]'"
    ) from error

__all__ = ["normalize_zarr"]

# How long workers that write are waited for when all is given up, in seconds.
_PATIENCE = 60


class _Job(NamedTuple):
    """What is the same for all windows."""

    source: str
    selection: _formats.Selection
    dims: int | None
    written: str | None
    target: str
    axes: tuple[int, ...]
    dtype: Any
    policies: dict[str, Any]
    backend: str | None
    norms: bool

    def opened(self) -> Any:
        """The source."""
        opened = _file_arguments.open_file(self.source, self.selection)
        if self.dims is not None:
            _file_arguments.cut(opened, self.axes, self.dims)
        return opened

    def one(self, opened: Any) -> _stream.Pass:
        """What is met."""
        return _stream.Pass(opened, self.source, self.axes, self.dtype, self.policies, self.backend)


def normalize_zarr(
    source: files.Path,
    target: files.Path,
    axis: Axis = -1,
    *,
    tensor: str | None = None,
    dims: int | None = None,
    dtype: Any = None,
    dtype_in: Any = None,
    eps: float = 0.0,
    zero: Zero = "keep",
    nonfinite: NonFinite = "propagate",
    norms: files.Path | None = None,
    dry_run: bool = False,
    backend: str | None = None,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> files.Report:
    """Scale the vectors of a ``.zarr`` store to unit Euclidean length, on the workers of a cluster.

    As `l2multi.files.normalize_file` does on one machine, and with the same bytes: the store is
    written beside its final place and renamed when it is complete. A worker reads some chunks,
    whole vectors of them, and writes those of the result, with one thread; so it holds a chunk
    along each axis but those of the vectors, or 16 MiB, whichever is more. What a worker that dies
    had not reported is done again by another.

    Parameters
    ----------
    source, target : path
        Folders that all workers see by these paths.
    axis, tensor, dims, dtype, dtype_in, eps, zero, nonfinite, norms, dry_run, backend, progress
        As for `l2multi.files.normalize_file`; `zero` is "keep", "nan" or "raise". This process
        writes the norms, which workers send to it.
    client : distributed.Client or str, optional
        Of the cluster; or the address of its scheduler; or "local", for a cluster of processes on
        this machine and for this call; by default the client that this process made last.

    Returns
    -------
    l2multi.files.Report
        Paths, shape, counts, smallest and largest norm, backend, time.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        As for `l2multi.files.normalize_file`; OSError too where workers keep dying. `target` is
        what it was then.

    Examples
    --------
    >>> from l2multi.dask import normalize_zarr
    >>> normalize_zarr("a.zarr", "b.zarr", client="tcp://10.0.0.1:8786")  # doctest: +SKIP
    """
    start = time.perf_counter()
    given = _file_arguments.path("source", source)
    wanted = _file_arguments.path("target", target)
    norms = None if norms is None else _file_arguments.path("norms", norms)
    source, target = os.path.abspath(given), os.path.abspath(wanted)
    row = _formats.find(source)
    if row.module != zarr.__name__:
        raise ValueError(f"source: expected a .zarr folder, got {given!r}")
    selection = _file_arguments.selection(tensor, None, dtype_in)
    opened: Any = _file_arguments.open_file(source, selection)
    with told("target", target):
        path = _file_arguments.check_target(source, target, made=dry_run)
    axes, result = _file_arguments.prepare(opened, source, axis, dims, dtype, zero)
    policies = {"eps": eps, "zero": zero, "nonfinite": nonfinite}
    with ExitStack() as stack:
        found = stack.enter_context(_client(client))
        wanted_norms = norms is not None and not dry_run
        job = _Job(
            source, selection, dims, None, target, axes, result, policies, backend, wanted_norms
        )  # fmt: skip
        total = job.one(opened)
        keep_norms = None
        if not dry_run:
            temporary = stack.enter_context(replacing(path, target, folder=True))
            if norms is not None:
                keep_norms = files.norms_writer(stack, norms, (given, wanted), total)
            with told("target", target):
                opened.begin(temporary, result)
            job = job._replace(written=os.path.join(temporary, opened.name))
        done = 0
        if progress:
            progress(0, total.vectors)
        for vectors, part, block, lengths in _parts(found, job, opened.cuts(axes)):
            _add(total, part)
            if keep_norms is not None:
                keep_norms(block, lengths)
            done += vectors
            if progress:
                progress(done, total.vectors)
        total.refuse()
        if not dry_run:
            zarr.tidy(source, temporary, opened.name)
    return files.report_of(total, given, wanted, result, start, written=not dry_run)


@contextlib.contextmanager
def _client(client: Any) -> Iterator[Any]:
    """The client that is meant, closed if it was made here."""
    if client is None:
        yield distributed.default_client()
    elif isinstance(client, str):
        made = distributed.Client() if client == "local" else distributed.Client(client)
        with made:
            yield made
    else:
        with client.as_current():  # it may be nobody's default
            yield client


def _parts(client: Any, job: _Job, windows: Iterator[Any]) -> Iterator[Any]:
    """What workers met in the windows, as they are done; few are asked for at once, so that there
    are few to wait for when all is given up: who writes to a folder that is removed makes it."""
    most = 2 * max(1, sum(client.nthreads().values()))
    running = set()
    completed = distributed.as_completed()

    def submit(count: int) -> None:
        for window in itertools.islice(windows, count):
            future = client.submit(_normalize, job, window, pure=False)
            running.add(future)
            completed.add(future)

    try:
        submit(most)
        for future in completed:
            yield future.result()
            running.discard(future)
            submit(1)
    except BaseException as error:
        with contextlib.suppress(TimeoutError, distributed.TimeoutError):
            distributed.wait(list(running), timeout=_PATIENCE)
        if isinstance(error, distributed.KilledWorker):
            raise OSError(f"client: workers died, maybe for want of memory ({error})") from None
        raise


def _normalize(job: _Job, window: tuple[slice, ...]) -> tuple[int, dict[str, Any], Block, Any]:
    """On a worker: the unit vectors of a window are written, if any shall be; how many, what was
    met, where they are, and their norms if those are wanted."""
    with _usable.one_thread():
        opened = job.opened()
        one = job.one(opened)
        starts = tuple(part.start for d, part in enumerate(window) if d not in job.axes)
        with told("source", job.source):
            block = Block(opened.array[window], starts, window)
        unit, norms = (None, one.norms(block)) if job.written is None else one.unit(block)
        plain: Any = one.count(block, norms, unit)[0]
        if job.written is not None:
            with told("target", job.target):
                zarr.Target(job.written)[window] = np.asarray(unit)
        names = ("zeros", "unbound", "infinite", "elements", "smallest", "largest", "used")
        met = {name: getattr(one, name) for name in names}
        return plain.size, met, block._replace(values=None), plain if job.norms else None


def _add(total: _stream.Pass, part: dict[str, Any]) -> None:
    """Count what was met in one window in the whole."""
    for name in ("zeros", "unbound", "infinite"):
        met, more = getattr(total, name), part[name]
        met.count += more.count
        met.first = sorted([*met.first, *more.first])[: _stream.SHOWN]
    total.elements += part["elements"]
    total.used |= part["used"]
    for name, of in (("smallest", min), ("largest", max)):
        known = [n for n in (getattr(total, name), part[name]) if n is not None]
        setattr(total, name, of(known, default=None))
