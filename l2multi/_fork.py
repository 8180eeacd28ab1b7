"""The locks that a fork waits for: one that another thread holds would stay closed in the child,
and the first call there hang. All that imports, compiles and links is done under `loading`.

The hook is registered when l2multi is imported: one registered by a backend while a fork waits for
its import would miss its first half.
"""

import os
import sys
import threading
from typing import Any

loading = threading.RLock()
_waited_for: list[Any] = [loading]
_held: list[Any] = []


def hold(lock: Any) -> None:
    """Have forks take this re-entrant lock too; for backends, while they are imported."""
    _waited_for.append(lock)


def _before() -> None:
    """Take the locks, and let go of that of `logging` meanwhile: its own hook has taken it before
    this one, if `logging` was imported later, and what holds `loading` may want to log."""
    lock: Any = getattr(sys.modules.get("logging"), "_lock", None)
    owned = lock is not None and lock._is_owned()
    state = lock._release_save() if owned else None
    for one in _waited_for:
        one.acquire()
        _held.append(one)
    if owned:
        lock._acquire_restore(state)


def _after() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
