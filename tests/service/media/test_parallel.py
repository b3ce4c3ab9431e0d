"""Parts that two threads share are made when they are asked for; what goes wrong in making them is raised."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.media.parallel import AT_ONCE, shared


def test_parts_are_made_when_a_thread_is_free() -> None:
    made, done, most, both = 0, list[int](), 0, threading.Barrier(2)

    def parts() -> Iterator[int]:
        nonlocal made, most
        for i in range(40):
            made += 1
            most = max(most, made - len(done))
            yield i

    def compute(i: int) -> int:
        if i < 2:
            both.wait(10)  # until the other thread has a part too
        done.append(i)
        return -i

    with ThreadPoolExecutor(1) as helper:
        assert shared(helper, compute, parts()) == [-i for i in range(40)]
    assert most == AT_ONCE


def test_a_part_that_cannot_be_made_ends_it() -> None:
    def parts() -> Iterator[int]:
        yield from range(5)
        raise ValueError("no more can be decoded")

    for _ in range(20):  # whichever thread asks for it
        with ThreadPoolExecutor(1) as helper, pytest.raises(ValueError, match="decoded"):
            shared(helper, lambda i: time.sleep(0.0001 * i), parts())


def test_without_parts_there_are_no_results() -> None:
    with ThreadPoolExecutor(1) as helper:
        assert shared(helper, lambda _: 0, ()) == []
