"""Work of many items in a pool of threads, whose results come in the items' order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """`function` of each item, in their order, where at most `ahead` of them are begun, wait or are done and not yet
    taken: a long list does not fill the memory with results.

    Closing the iterator leaves the items undone that have not begun.

    Example
    -------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(ordered(pool, abs, [-3, 1, -2], ahead=2))
    [3, 1, 2]
    """
    remaining = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(remaining, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
