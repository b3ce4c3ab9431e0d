"""Reading the model store, which may lie on a network share that hangs: in daemon threads, one at a time.

A read that hangs can be neither interrupted nor waited for. So its thread is left to it: another one goes on with the
rest, and the process can end meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from service.errors import StoreBlocked

logger = logging.getLogger("bentoml.percept")

HANGING_SECONDS = 5.0  # at one place, after which a read counts as hanging; a request waits as long
CHECK = 0.5  # seconds between two looks at whether a read hangs
WAITING = 64  # calls that may wait for their turn; further ones are refused
HANGING = 8  # reads that may hang; while there are as many, nothing else is read

T = TypeVar("T")


class _Thread(threading.Thread):
    """Does what is queued, until there is nothing more, or it is left to a read that hangs."""

    future: Future[Any]

    def __init__(self, reader: "Reader") -> None:
        super().__init__(name="model store", daemon=True)
        self.reader, self.place, self.since, self.is_left = reader, "", time.monotonic(), False

    def run(self) -> None:
        """Called by `start`."""
        while (function := self.reader._next(self)) is not None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            self.reader._done(self, result, error)


class Reader:
    """Runs calls that read the model store.

    Attributes
    ----------
    hanging : where reads hang
    """

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self._queue: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._thread: _Thread | None = None
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], T], seconds: float | None = HANGING_SECONDS) -> T:
        """What `function` returns or raises. With None for `seconds` it may take any time, as long as no read hangs.

        Raises StoreBlocked if it is not done after so many seconds, or a read of it hangs, or too many calls wait.
        """
        end = None if seconds is None else time.monotonic() + seconds
        future = asyncio.wrap_future(self._submit(function))
        try:
            while not future.done():
                left = CHECK if end is None else min(CHECK, end - time.monotonic())
                if left <= 0:
                    raise StoreBlocked(_message(""))
                await asyncio.wait([future], timeout=left)
                self._leave_hanging()
            return future.result()
        finally:
            future.cancel()  # if it is still queued, it is not done any more

    def run_here(self, function: Callable[[], T]) -> T:
        """Like `run` without a limit, for a thread that may wait."""
        future = self._submit(function)
        while not wait([future], CHECK).done:
            self._leave_hanging()
        return future.result()

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """What the block reads, to be named wherever a call reads the store.

        Raises StoreBlocked if another read hangs there, or this thread was left to the read before.
        """
        thread = threading.current_thread()
        if not isinstance(thread, _Thread):  # the command line waits for what hangs
            yield
            return
        with self._lock:
            if thread.is_left or place in self.hanging:
                raise StoreBlocked(_message(place))
            thread.place, thread.since = place, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                thread.since = time.monotonic()
                if thread.is_left:
                    self.hanging.discard(place)
                    logger.info("%s: the model store has answered", place)

    def trouble(self) -> str | None:
        """Where reads hang, in words; None if none does."""
        return _message(", ".join(sorted(self.hanging))) if self.hanging else None

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._leave_hanging()
        with self._lock:
            if len(self._queue) >= WAITING or len(self.hanging) >= HANGING:
                raise StoreBlocked(_message(""))
            self._queue.append((function, future))
            self._start()
        return future

    def _start(self) -> None:
        if self._thread is None and self._queue:
            self._thread = _Thread(self)
            self._thread.start()

    def _next(self, thread: _Thread) -> Callable[[], Any] | None:
        with self._lock:
            while self._queue and not thread.is_left:
                function, thread.future = self._queue.popleft()
                if thread.future.set_running_or_notify_cancel():
                    thread.place, thread.since = "", time.monotonic()
                    return function
            if self._thread is thread:
                self._thread = None
            return None

    def _done(self, thread: _Thread, result: Any, error: BaseException | None) -> None:
        with self._lock:
            if thread.is_left:  # whoever waited has been told
                self.hanging.discard(thread.place)
                return
            thread.since = time.monotonic()
        if error is None:
            thread.future.set_result(result)
        else:
            thread.future.set_exception(error)

    def _leave_hanging(self) -> None:
        """Leave the thread to its read if that hangs: whoever waits for it gets StoreBlocked, and another thread does
        what is queued."""
        with self._lock:
            thread = self._thread
            if thread is None or time.monotonic() - thread.since < HANGING_SECONDS:
                return
            logger.error("%s; what is open goes on being served", _message(thread.place))
            self.hanging.add(thread.place)
            thread.is_left, self._thread = True, None
            self._start()
        with suppress(Exception):  # it has just been answered
            thread.future.set_exception(StoreBlocked(_message(thread.place)))


def _message(place: str) -> str:
    return f"the model store does not answer{place and f': reading {place} hangs'}"
