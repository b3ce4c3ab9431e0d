"""Where an answer is found: at once, in the event loop, as long as a thread would not be sooner; or in a thread."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import TypeVar

import anyio

SLICE = 0.002  # seconds of answers between two looks of the loop at its connections

T = TypeVar("T")


class Turns:
    """Lets answers be found: in threads, as many at once as there are cores; in the event loop, for no longer than
    `SLICE` without a look at the connections.

    Otherwise a body that comes in several pieces would wait for the answers of all others with each of them.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(len(os.sched_getaffinity(0)))
        self._until: float | None = None  # when the slice ends that has begun in this turn of the loop

    async def take(self, answer: Callable[[], T], in_thread: bool) -> T:
        """What `answer` gives."""
        if in_thread:
            return await anyio.to_thread.run_sync(answer, limiter=self._threads)
        loop = asyncio.get_running_loop()
        while self._until is not None and time.monotonic() > self._until:  # loop.time() stands still during a turn
            await asyncio.sleep(0)
        if self._until is None:
            self._until = time.monotonic() + SLICE
            loop.call_soon(self._begin)
        return answer()

    def _begin(self) -> None:
        """The loop has looked at its connections."""
        self._until = None
