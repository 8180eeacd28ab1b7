"""Writing in another thread, while what comes next is read and computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class WriteBehind:
    """A thread that does one job at a time. Its owner hands over the next one when the last is
    done, and so has at most two of whatever a job needs in memory."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.pending: Future[Any] | None = None

    def begin(self, job: Callable[..., Any], *args: Any) -> None:
        """Wait for the last job, and begin another."""
        self.wait()
        if self.pool is None:
            self.pool = ThreadPoolExecutor(1)
        self.pending = self.pool.submit(job, *args)

    def wait(self) -> None:
        """Wait for the last job, and raise what it has raised."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread; what its job raises is lost."""
        if self.pool is not None:
            self.pool.shutdown()
