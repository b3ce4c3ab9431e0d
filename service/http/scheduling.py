"""Where and when an answer is computed: in the event loop, which for small files is faster than handing them to a
thread, or in a thread."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

SLICE = 0.002  # seconds of computing, at least, between two polls of the connections by the event loop

T = TypeVar("T")


class Scheduler:
    """Runs computations in threads, as many at once as there are cores, or in the event loop: there in order of
    arrival and in time slices, between which the loop polls its connections.

    Without slices, a body that arrives in several chunks would wait for all other answers once for each chunk. While
    computations are queued, a slice lasts as long as everything else took since the last one, so that they get half of
    the time even during a flood of requests that are refused.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(len(os.sched_getaffinity(0)))
        self._slice_end: float | None = None  # of the slice that has begun in this iteration of the loop
        self._queue: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    async def run(self, compute: Callable[[], T], in_thread: bool) -> T:
        """What `compute` returns or raises."""
        if in_thread:
            return await anyio.to_thread.run_sync(compute, limiter=self._threads)
        loop, now = asyncio.get_running_loop(), time.monotonic()  # loop.time() is the same throughout an iteration
        if self._slice_end is None:
            self._slice_end = now + SLICE
            loop.call_soon(self._next_slice)
        elif now > self._slice_end:
            future: asyncio.Future[T] = loop.create_future()
            self._queue.append((compute, future))
            return await future
        return compute()

    def _next_slice(self) -> None:
        """Called once the loop has polled its connections."""
        if not self._queue:
            self._slice_end = None
            return
        assert self._slice_end is not None
        now = time.monotonic()
        self._slice_end = now + max(SLICE, now - self._slice_end)
        while self._queue and time.monotonic() <= self._slice_end:
            compute, future = self._queue.popleft()
            if future.done():  # cancelled
                continue
            try:
                future.set_result(compute())
            except Exception as error:
                future.set_exception(error)
        asyncio.get_running_loop().call_soon(self._next_slice)  # after the requests that now send their responses
