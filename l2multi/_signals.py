"""Signals that end the command: the work stops where it is, and cleans up as after an interrupt."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from l2multi import _stream


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let what ends a process raise, so that the temporary file is removed as after an interrupt;
    not a hang-up that ``nohup`` has it ignore."""

    def leave(signum: int, frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    previous: dict[int, Any] = {}
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, leave)
    except ValueError:  # not in the main thread, which is the only one that signals reach
        pass
    before = sys.unraisablehook

    def keep(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt | SystemExit):
            _lost.append(what.exc_value)
        else:
            before(what)

    sys.unraisablehook = keep
    try:
        yield
        if _lost:
            raise _lost[0]
    finally:
        sys.unraisablehook = before
        _lost.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


# What a signal raised where Python would print it and go on: in a callback of a weak reference, of
# which h5py has many; there one of 25 interrupts was lost.
_lost: list[BaseException] = []


def heeding(draw: _stream.Progress | None) -> _stream.Progress:
    """Progress that raises what was lost."""

    def look(done: int, total: int) -> None:
        if _lost:
            raise _lost[0]
        if draw is not None:
            draw(done, total)

    return look
