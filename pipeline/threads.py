"""How many threads PyTorch may use, inside a block or in a pool of threads, and how many pay."""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

# MKL then sums in the same order whatever the number of threads; read at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import torch

REPEAT = 16  # uses of the faster choice for each try of the slower, times how much slower it was


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let PyTorch's operators use at most `n` threads of those that it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(n, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pool(n: int | None = None) -> ThreadPoolExecutor:
    """`n` threads, or one for each core, whose operators use one thread each.

    That is a setting of every thread. A new one starts with as many as there are cores, and the sums of small products
    depend on their number, MKL_CBWR or not.
    """
    return ThreadPoolExecutor(n or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))


class Pace:
    """One thread or all, whichever was faster of late on pieces of work of one size.

    The products of a small network are done in a tenth of a millisecond. Beside an idle core they gain a third from a
    second thread; beside a busy one, or one that shares no cache, they lose many times that in waiting. Both happen on
    the same machine within a minute, so the choice is measured, not fixed; the results must not depend on it.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((1, torch.get_num_threads()), 0.0)
        self.uses = 0  # of the faster choice before the slower is tried again

    @contextmanager
    def piece(self) -> Iterator[int]:
        """Do one piece of work, with that many threads."""
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
