"""Hooks for tests and benchmarks; nothing else of the library uses them."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from l2multi import _backends

# The blocks of `general_path` that have been entered, by any threads.
_blocks: list[None] = []
_lock = threading.Lock()
_kept: dict[Any, Any] = _backends.fast_paths


class _Nothing(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""


@contextlib.contextmanager
def general_path() -> Iterator[None]:
    """Within this block, calls of all threads go the general path."""
    with _lock:
        if not _blocks:
            _backends.fast_paths = _Nothing()
        _blocks.append(None)
    try:
        yield
    finally:
        with _lock:
            _blocks.pop()
            if not _blocks:
                _backends.fast_paths = _kept


def busy() -> bool:
    """Whether a backend is still at work on what it needs, such as importing LLVM."""
    return any(getattr(one, "busy", bool)() for one in list(_backends._loaded.values()))


def machine_code(backend: str) -> dict[str, str]:
    """The assembly of the kernels that a backend has linked by now, if it compiles ahead."""
    loaded = _backends.load(_backends.first(backend))
    return dict(getattr(loaded, "machine_code", dict)())
