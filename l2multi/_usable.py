"""What can be used: what installs it, and whether a failure is for now or for ever.

For the tables and for backends, which know no table. Imports nothing but the standard library.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Whether the call at work only asks: it starts nothing, no compilation and no thread.
asking: ContextVar[bool] = ContextVar("l2multi_asking", default=False)


def asks(function: Callable[P, R]) -> Callable[P, R]:
    """Have calls of a function start nothing: no compilation, no thread."""

    @functools.wraps(function)
    def ask(*arguments: P.args, **keywords: P.kwargs) -> R:
        token = asking.set(True)
        try:
            return function(*arguments, **keywords)
        finally:
            asking.reset(token)

    return ask


INSTALL = {
    "numba": "pip install numba",
    "numpy": "pip install numpy",
    "jax": "pip install 'jax>=0.8' or, in a clone of l2multi, pip install '.[jax]'",
    "torch": "pip install 'torch>=2.6' 'ml_dtypes>=0.5'",
    "array_api": "pip install 'array-api-compat>=1.11'",
}

_PASSING = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EINTR}


def passes(error: BaseException) -> bool:
    """Whether a failure was for want of what may be there the next time: files, threads, memory.
    A loader of libraries tells of it in words only."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in _PASSING)
        or any(os.strerror(number) in str(error) for number in _PASSING)
        or (error.__cause__ is not None and passes(error.__cause__))
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have calls within this block use no threads of our own, where a scheduler has given a core to
    each task."""
    try:
        from l2multi.backends.numba import threads
    except ImportError:  # of what the kernels need, which NumPy does without
        yield
    else:
        with threads.force("serial"):
            yield


def told(error: object) -> str:
    """An error, or what has been told of one."""
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)


def unusable(name: str, why: object) -> ImportError:
    """The error that says that a backend is not usable, why, and what to install; a ValueError is
    about something that is installed."""
    cure = "" if isinstance(why, ValueError) else f"; try: {INSTALL[name]}"
    return ImportError(f"backend {name!r} cannot be loaded ({told(why)}){cure}")
