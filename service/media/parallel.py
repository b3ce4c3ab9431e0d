"""How the parts of long work are computed; apart from what computes them, which takes long to import."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

AT_ONCE = 2  # parts, at most

T = TypeVar("T")
R = TypeVar("R")


class MapParts(Protocol):
    """`compute` of each part, in their order; AT_ONCE at a time, at most. Of parts that are made when they are asked
    for, as of a file that is being decoded, there are no more at a time either."""

    def __call__(self, compute: Callable[[T], R], parts: Iterable[T], /) -> list[R]: ...


def one_by_one(compute: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    return [compute(part) for part in parts]


def shared(helpers: Executor, compute: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """See `MapParts`: by this thread, and by one of the `helpers`, which takes a part whenever it is free. If all are
    busy, nobody waits for one. Where a part fails, those that are left are not computed."""
    found: dict[int, R] = {}
    left, lock, failed = enumerate(parts), threading.Lock(), False

    def next_part() -> tuple[int, T] | None:
        with lock:
            return None if failed else next(left, None)

    def take() -> None:
        nonlocal failed
        try:
            for i, part in iter(next_part, None):
                found[i] = compute(part)
        except BaseException:
            failed = True
            raise

    helper = helpers.submit(take)
    try:
        take()
    finally:
        if not helper.cancel():
            helper.result()
    return [found[i] for i in range(len(found))]
