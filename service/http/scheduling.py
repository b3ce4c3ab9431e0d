"""Where and when an answer is computed: in the event loop, which for little work is faster than handing it to a thread,
or in a thread."""

import asyncio
import heapq
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import anyio
from bentoml._internal.resource import CpuResource

from service.media.parallel import MapParts, one_by_one, shared
from service.media.work import Work

SLICE = 0.002  # seconds of computing, at least, between two polls of the connections by the event loop
INLINE = 0.002  # seconds: less work is done in the event loop; 2 s of a WAV at 22,050 Hz take 1.5 ms
PATIENCE = 100  # seconds that a computation may be overtaken for each second that it takes
SHORT = 0.1  # seconds: so short work in a thread never waits for longer one
QUIET = 10.0  # seconds without work in threads, after which what it left in memory is not kept for more of it
NICE = 5  # of 19: a third of the event loop's share of a core that both want
MEMORY = 512 * 2**20  # bytes that the threads may take together, beside the bodies of requests

T = TypeVar("T")


def behind(compute: Callable[[], T]) -> T:
    """What `compute` returns, in a thread to which Linux prefers that of the event loop where cores are few."""
    _step_back()
    return compute()


def _step_back() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def cores() -> int:
    """Cores that this process can keep busy: those of its affinity, as far as the CPU quota of its container goes. With
    more threads, the kernel would stop all of them for the rest of each period, the event loop's too.

    Example
    -------
    >>> 1 <= cores() <= len(os.sched_getaffinity(0))
    True
    """
    return min(len(os.sched_getaffinity(0)), math.ceil(CpuResource.from_system()))


def takes_thread(work: Work) -> bool:
    """Whether so much work is done in a thread."""
    return work.seconds > INLINE


class Scheduler:
    """Runs computations in threads, as many long ones and as many short ones at once as there are cores, or in the
    event loop: there in time slices, between which the loop polls its connections.

    Without slices, a body that arrives in several chunks would wait for all other answers once for each chunk. While
    computations are queued, a slice lasts as long as everything else took since the last one, so that they get half of
    the time even during a flood of requests that are refused.

    The queue is in order of arrival, but a computation may be overtaken by shorter ones for PATIENCE times its length:
    pictures do not wait for all of another client's recordings.
    """

    def __init__(self) -> None:
        self._cores = n = cores()
        self._lanes = anyio.CapacityLimiter(n), anyio.CapacityLimiter(n)
        self._threads = anyio.CapacityLimiter(2 * n)
        self._helpers = ThreadPoolExecutor(n // 2, "helper", _step_back) if n > 1 else None
        self._memory, self._freed = 0, asyncio.Condition()
        self._computed = self._said = 0.0  # when a thread last ended; the same at the last `is_done` that found so
        self._slice_end: float | None = None  # of the slice that has begun in this iteration of the loop
        self._queue: list[tuple[float, int, Callable[[], Any], asyncio.Future[Any]]] = []
        self._n = 0  # computations that were queued so far

    async def run(self, compute: Callable[[], T], work: Work) -> T:
        """What `compute` returns or raises; `work` is what it takes."""
        if takes_thread(work):
            return await self._in_thread(compute, work)
        loop, now = asyncio.get_running_loop(), time.monotonic()  # loop.time() is the same throughout an iteration
        if self._slice_end is None:
            self._slice_end = now + SLICE
            loop.call_soon(self._next_slice)
        elif now > self._slice_end:
            future: asyncio.Future[T] = loop.create_future()
            self._n += 1
            heapq.heappush(self._queue, (now + PATIENCE * work.seconds, self._n, compute, future))
            return await future
        return compute()

    async def _in_thread(self, compute: Callable[[], T], work: Work) -> T:
        def fits() -> bool:
            return not self._memory or self._memory + work.bytes <= MEMORY

        async with self._lanes[work.seconds > SHORT]:
            async with self._freed:
                await self._freed.wait_for(fits)
                self._memory += work.bytes
            try:
                return await anyio.to_thread.run_sync(partial(behind, compute), limiter=self._threads)
            finally:
                self._computed = time.monotonic()
                self._memory -= work.bytes
                async with self._freed:
                    self._freed.notify_all()

    def map_for(self, work: Work) -> MapParts:
        """How the parts of that work are computed: of long work, by a second thread too if there is a core for it."""
        is_alone = work.seconds <= SHORT or self._threads.borrowed_tokens >= self._cores
        return one_by_one if self._helpers is None or is_alone else partial(shared, self._helpers)

    def is_done(self, others: float = 0.0, quiet: float = QUIET) -> bool:
        """Whether threads have computed, or other work ended at the time `others`, since the last call that found so,
        and nothing has for `quiet` seconds."""
        last = max(self._computed, others)
        busy = self._threads.borrowed_tokens or time.monotonic() < last + quiet
        done = last > self._said and not busy
        self._said = last if done else self._said
        return done

    def _next_slice(self) -> None:
        """Called once the loop has polled its connections."""
        if not self._queue:
            self._slice_end = None
            return
        assert self._slice_end is not None
        now = time.monotonic()
        self._slice_end = now + max(SLICE, now - self._slice_end)
        while self._queue and time.monotonic() <= self._slice_end:
            *_, compute, future = heapq.heappop(self._queue)
            if future.done():  # cancelled
                continue
            try:
                future.set_result(compute())
            except Exception as error:
                future.set_exception(error)
        asyncio.get_running_loop().call_soon(self._next_slice)  # after the requests that now send their responses
