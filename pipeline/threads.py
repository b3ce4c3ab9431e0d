"""PyTorch's threads: how many, in a block, in a pool, or whichever number is faster; and without subnormal numbers."""

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

# MKL then sums in the same order for any number of threads; it reads this at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import torch

from pipeline.ordered import ordered
from pipeline.profile import WAITING, step

REPEAT = 16  # uses of the faster choice for each trial of the slower, times how much slower it was
CHUNK = 16  # items that a thread takes at a time in `ordered_map`
AHEAD = 32  # chunks that are begun or wait at a time, so that a long list does not fill the memory with results
QUICK = 5e-4  # seconds per item; faster items stay in one thread, since several would only compete for Python's lock
FIRST = 0.1  # seconds more for the first items, which also load and compile

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let PyTorch's operators use at most `n` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(n, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take subnormal numbers as 0 inside the block, in this thread and in all threads that are started in it.

    An l2 penalty shrinks the weights of dead ReLU units for ever. Below 2⁻¹²⁶ they would be subnormal, and on many
    processors arithmetic with subnormal numbers takes tens of times as long. The mode belongs to a thread and is
    inherited by the threads that it starts (MXCSR of Intel: flush to zero and denormals are zero; FPCR of Arm).
    PyTorch's own threads start with its first large operation, so whatever trains enters this block first.

    Example
    -------
    >>> with subnormals_flushed():
    ...     print(float(torch.tensor(1e-30) * 1e-10))
    0.0
    """
    before = not bool(torch.tensor(2.0**-130))
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def pool(n: int | None = None) -> ThreadPoolExecutor:
    """A pool of `n` threads, or of one for each core, whose operators use one thread each.

    PyTorch keeps that number per thread. A new thread starts with as many as there are cores, and the sums of small
    products depend on the number, even with MKL_CBWR.
    """
    return ThreadPoolExecutor(n or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))


def ordered_map(function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """`function` of each item, in their order: in this thread while that is fast, then in a pool of threads.

    Closing the iterator ends after the items that are in progress.

    Example
    -------
    >>> list(ordered_map(abs, [-3, 1, -2]))
    [3, 1, 2]
    """
    done, until = 0, time.perf_counter() + FIRST
    with threads(1):  # as in the pool
        while done < len(items) and time.perf_counter() < until:
            yield function(items[done])
            done, until = done + 1, until + QUICK
    ended = Event()

    def results(chunk: Sequence[T]) -> list[R]:
        return [function(item) for item in chunk if not ended.is_set()]

    chunks = (items[i : i + CHUNK] for i in range(done, len(items), CHUNK))
    with pool() as workers:
        done_chunks = ordered(workers, results, chunks, AHEAD)
        try:
            while True:
                with step(WAITING):
                    found = next(done_chunks, None)
                if found is None:
                    break
                yield from found
        finally:
            ended.set()
            done_chunks.close()


class Pace:
    """One thread or all, whichever was faster recently on pieces of work of one size.

    The products of a small network are done in a tenth of a millisecond. With a second, idle core they run a third
    faster on two threads; if that core is busy, or shares no cache, waiting costs many times that. Both happen on the
    same machine within a minute, so the choice is measured, not fixed; the results must not depend on it.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((1, torch.get_num_threads()), 0.0)
        self.uses = 0  # of the faster choice before the slower is tried again

    @contextmanager
    def piece(self) -> Iterator[int]:
        """Do one piece of work in the block; yields the number of threads that it may use."""
        faster, *others = sorted(self.seconds, key=lambda n: self.seconds[n])
        tried = bool(others) and not self.uses
        chosen = others[0] if tried and self.seconds[faster] else faster
        started = time.perf_counter()
        with threads(chosen):
            yield chosen
        self.seconds[chosen] = time.perf_counter() - started
        if chosen != faster:
            self.uses = math.ceil(REPEAT * self.seconds[chosen] / self.seconds[faster])
        elif self.uses:
            self.uses -= 1
