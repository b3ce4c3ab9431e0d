"""Being stopped from outside: by Ctrl-C, by a job's time limit, by a terminal that is closed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Never

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Stopped(BaseException):
    """The command is to end; like KeyboardInterrupt, nothing but the command itself should catch it.

    status : of the process, 128 and the number of the signal, as shells have it
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status, self.is_resumable = 128 + number, False
        self._by = NAMES[signal.Signals(number)]

    def __str__(self) -> str:
        kept = "; what is finished is kept, and the same command goes on from there" if self.is_resumable else ""
        return f"stopped by {self._by}{kept}"


@contextmanager
def resumable() -> Iterator[None]:
    """Work that goes on where it was stopped, if the same command is given again.

    Example
    -------
    >>> try:
    ...     with resumable():
    ...         raise Stopped(signal.SIGTERM)
    ... except Stopped as stop:
    ...     print(stop)
    stopped by SIGTERM; what is finished is kept, and the same command goes on from there
    """
    try:
        yield
    except Stopped as stop:
        stop.is_resumable = True
        raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals that would end the process raise `Stopped` in the block, so that work can be put away first.

    A signal that is ignored, as under `nohup`, stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in NAMES}
    ending = (signal.SIG_DFL, signal.default_int_handler)
    changed = {number: handler for number, handler in before.items() if handler in ending}
    for number in changed:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> Never:
    raise Stopped(number)
