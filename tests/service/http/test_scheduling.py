"""Where and when answers are computed."""

import asyncio
import os
import socket
import threading
import time
from collections import Counter
from functools import partial

import anyio
import pytest
from bentoml._internal.resource import CpuResource

from service.http.scheduling import INLINE, MEMORY, SHORT, SLICE, Scheduler
from service.media.work import Work


def test_connections_are_read_between_answers() -> None:
    """Data that arrives meanwhile does not wait for all answers of one iteration of the event loop."""
    events: list[object] = []

    async def all_at_once() -> None:
        scheduler, loop = Scheduler(), asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        def read() -> None:
            events.append(ours.recv(1))

        def answer(i: int) -> None:
            if not i:
                theirs.sendall(b"x")
            time.sleep(SLICE / 2)
            events.append(i)

        async def request(i: int) -> None:
            await scheduler.run(lambda: answer(i), Work(0))

        with ours, theirs:
            loop.add_reader(ours, read)
            await asyncio.gather(*map(request, range(20)))
            loop.remove_reader(ours)

    asyncio.run(all_at_once())
    assert events.index(b"x") < 10
    assert [event for event in events if event != b"x"] == list(range(20))


def test_a_flood_leaves_answers_half_of_the_time() -> None:
    """However long everything else takes between two slices."""
    spent = Counter[str]()

    def spend(on: str, seconds: float) -> None:
        start = time.monotonic()
        time.sleep(seconds)
        spent[on] += time.monotonic() - start

    async def flooded() -> None:
        scheduler, loop = Scheduler(), asyncio.get_running_loop()

        def flood() -> None:  # once in each iteration of the loop
            spend("flood", 10 * SLICE)
            if not answers.done():
                loop.call_soon(flood)

        requests = [scheduler.run(lambda: spend("answers", SLICE / 2), Work(0)) for _ in range(200)]
        answers = asyncio.gather(*requests)
        loop.call_soon(flood)
        await answers

    asyncio.run(flooded())
    assert spent["answers"] > 0.5 * spent["flood"]


def test_waiting_requests_are_not_overtaken() -> None:
    """Not even if a new request starts in every iteration of the event loop."""
    order: list[int] = []

    def answer(i: int) -> None:
        time.sleep(1.1 * SLICE)
        order.append(i)

    async def arriving() -> None:
        scheduler, loop = Scheduler(), asyncio.get_running_loop()
        body = loop.create_future()

        async def request(i: int) -> None:
            if i == 0:
                await body
            await scheduler.run(lambda: answer(i), Work(0))

        async with asyncio.TaskGroup() as group:
            group.create_task(request(0))
            await asyncio.sleep(0)
            body.set_result(None)
            await request(1)
            for i in range(2, 20):
                group.create_task(request(i))
                await asyncio.sleep(0)

    asyncio.run(arriving())
    assert order.index(0) <= 1


def test_little_work_overtakes_more() -> None:
    """A picture does not wait for all of another client's recordings."""
    order: list[str] = []

    def answer(name: str) -> None:
        time.sleep(1.1 * SLICE)
        order.append(name)

    async def arriving() -> None:
        scheduler = Scheduler()
        recordings = [scheduler.run(lambda: answer("recording"), Work(INLINE)) for _ in range(20)]
        await asyncio.gather(*recordings, scheduler.run(lambda: answer("picture"), Work(INLINE / 20)))

    asyncio.run(arriving())
    assert order.index("picture") <= 2


def test_short_work_in_threads_does_not_wait_for_long() -> None:
    async def arriving() -> None:
        scheduler, over = Scheduler(), threading.Event()
        long = [asyncio.create_task(scheduler.run(over.wait, Work(10))) for _ in range(100)]
        await asyncio.sleep(0)
        assert await scheduler.run(threading.get_ident, Work(SHORT)) != threading.get_ident()
        assert not any(task.done() for task in long)
        assert not scheduler.is_done(quiet=0)
        over.set()
        await asyncio.gather(*long)
        assert not scheduler.is_done()  # more may come
        assert scheduler.is_done(quiet=0)
        assert not scheduler.is_done(quiet=0)  # said once

    asyncio.run(arriving())


def cores(monkeypatch: pytest.MonkeyPatch, quota: float, n: int = 8) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n)))
    monkeypatch.setattr(CpuResource, "from_system", lambda: quota)


def test_a_helper_shares_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts that wait for each other end, in their order, only if both are computed at once."""
    cores(monkeypatch, 2)
    barrier = threading.Barrier(2)

    def part(i: int) -> tuple[int, str]:
        barrier.wait(10)
        time.sleep(0.02 * (i % 2))
        return i, threading.current_thread().name

    found = Scheduler().map_for(Work(2 * SHORT))(part, range(6))
    assert [i for i, _ in found] == [*range(6)]
    assert Counter(name for _, name in found) == {"MainThread": 3, "helper_0": 3}


def test_a_helper_that_is_busy_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    map_parts, began, done = Scheduler().map_for(Work(2 * SHORT)), threading.Event(), threading.Event()
    other = threading.Thread(target=map_parts, args=[lambda _: began.set() or done.wait(10), range(2)])
    other.start()
    assert began.wait(10)
    time.sleep(0.05)  # now both threads of the other work wait
    assert map_parts(lambda i: -i, range(3)) == [0, -1, -2]
    done.set()
    other.join()


def test_what_a_part_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)

    def part(i: int) -> None:
        raise ValueError(f"part {i}")

    with pytest.raises(ValueError, match="part"):
        Scheduler().map_for(Work(2 * SHORT))(part, range(4))


def test_after_a_part_that_fails_no_more_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By neither thread, whichever computes it."""
    cores(monkeypatch, 2)
    for thread in ("MainThread", "helper_0"):
        barrier, began = threading.Barrier(2), list[int]()

        def part(i: int, thread: str = thread, barrier: threading.Barrier = barrier, began: list[int] = began) -> None:
            began.append(i)
            if i < 2:
                barrier.wait(10)
            if threading.current_thread().name == thread:
                raise ValueError(f"part {i}")
            time.sleep(0.1)

        with pytest.raises(ValueError, match="part"):
            Scheduler().map_for(Work(2 * SHORT))(part, range(20))
        assert sorted(began) == [0, 1]


def test_short_work_and_a_single_core_have_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, work in ((8, Work(SHORT)), (1, Work(600))):
        cores(monkeypatch, n)
        names = Scheduler().map_for(work)(lambda _: threading.current_thread().name, range(4))
        assert {*names} == {"MainThread"}


def test_no_helper_where_all_cores_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more threads than a quota allows, the kernel would stop all of them."""
    cores(monkeypatch, 2)
    barrier, names = threading.Barrier(2), set[str]()

    async def arriving() -> None:
        scheduler, work = Scheduler(), Work(2 * SHORT)

        def compute() -> None:
            barrier.wait(10)
            names.update(scheduler.map_for(work)(lambda _: threading.current_thread().name, range(9)))
            barrier.wait(10)

        await asyncio.gather(*(scheduler.run(compute, work) for _ in range(2)))

    asyncio.run(arriving())
    assert names == {"AnyIO worker thread"}


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (64.0, 3)])
def test_no_more_threads_than_cores_and_quota(quota: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On three cores. tests/test_image.py sets a real quota."""
    cores(monkeypatch, quota, n=3)
    at_once: list[int] = []

    async def arriving() -> None:
        def compute() -> None:
            at_once.append(scheduler._threads.borrowed_tokens)
            time.sleep(0.005)

        scheduler = Scheduler()
        await asyncio.gather(*(scheduler.run(compute, Work(10)) for _ in range(8)))

    asyncio.run(arriving())
    assert max(at_once) == expected


def test_memory_of_all_threads_is_bounded() -> None:
    sizes, taken, most = [0.6, 0.5, 0.4, 2.0, 0.1], 0.0, 0.0

    async def arriving() -> None:
        def answer(size: float) -> None:
            nonlocal taken, most
            taken += size
            most = max(most, taken if size <= 1 else 0)
            time.sleep(0.01)
            assert size <= 1 or taken == size  # alone
            taken -= size

        scheduler = Scheduler()
        scheduler._lanes = anyio.CapacityLimiter(5), anyio.CapacityLimiter(5)
        await asyncio.gather(
            *(scheduler.run(partial(answer, size), Work(10, int(size * MEMORY))) for size in sizes * 2)
        )
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(lambda: 1 / 0, Work(10, MEMORY))
        await scheduler.run(lambda: None, Work(10, MEMORY))  # what failed has given its own back

    asyncio.run(arriving())
    assert 0.6 <= most <= 1.01
