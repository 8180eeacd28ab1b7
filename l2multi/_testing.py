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


BACKENDS = _backends.NAMES


def busy() -> bool:
    """Whether any backend is still preparing something, such as the import of LLVM."""
    return any(getattr(one, "busy", bool)() for one in list(_backends._loaded.values()))


def machine_code() -> dict[str, str]:
    """The assembly of the kernels that backends have linked by now, by the kernel's name."""
    found: dict[str, str] = {}
    for one in list(_backends._loaded.values()):
        found |= getattr(one, "machine_code", dict)()
    return found
