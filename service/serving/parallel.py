"""How the parts of a long recording are computed; apart from the predictor, which takes long to import."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

AT_ONCE = 2  # parts, at most

T = TypeVar("T")
R = TypeVar("R")


class MapParts(Protocol):
    """`compute` of each part, in their order; AT_ONCE at a time, at most."""

    def __call__(self, compute: Callable[[T], R], parts: Sequence[T], /) -> list[R]: ...


def one_by_one(compute: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    return [compute(part) for part in parts]
