"""Where an answer is found: at once, in the event loop, as long as a thread would not be sooner; or in a thread."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

SLICE = 0.002  # seconds of answers between two looks of the loop at its connections, at least

T = TypeVar("T")


class Turns:
    """Lets answers be found: in threads, as many at once as there are cores; in the event loop, in slices of time,
    between which it looks at the connections, and in the order in which they were asked for.

    Otherwise a body that comes in several pieces would wait for the answers of all others with each of them. While
    answers wait, a slice lasts as long as all else since the one before it: a flood of requests to refuse leaves them
    half of the time, however many there are.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(len(os.sched_getaffinity(0)))
        self._until: float | None = None  # when the slice ends that has begun in this turn of the loop
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()  # for the next slice

    async def take(self, answer: Callable[[], T], in_thread: bool) -> T:
        """What `answer` gives."""
        if in_thread:
            return await anyio.to_thread.run_sync(answer, limiter=self._threads)
        loop, now = asyncio.get_running_loop(), time.monotonic()  # loop.time() stands still during a turn
        if self._until is None:
            self._until = now + SLICE
            loop.call_soon(self._next_slice)
        elif now > self._until:
            found: asyncio.Future[T] = loop.create_future()
            self._waiting.append((answer, found))
            return await found
        return answer()

    def _next_slice(self) -> None:
        """The loop has looked at its connections."""
        if not self._waiting:
            self._until = None
            return
        assert self._until is not None
        now = time.monotonic()
        self._until = now + max(SLICE, now - self._until)
        while self._waiting and time.monotonic() <= self._until:
            answer, found = self._waiting.popleft()
            if found.done():  # cancelled
                continue
            try:
                found.set_result(answer())
            except Exception as error:
                found.set_exception(error)
        asyncio.get_running_loop().call_soon(self._next_slice)  # after those who wait have sent what was found
