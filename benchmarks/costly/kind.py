"""A kind of request: a function that makes one, and the values that each of its parameters may have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.load import post

Values = dict[str, Any]  # parameter → value
MANY = (2**20, 2**12, 2**16, 2**22, 2**24)  # bytes of a body that is padded with something small, over and over


@dataclass(frozen=True)
class Kind:
    """The first of each parameter's values is where the search starts."""

    name: str
    make: Callable[..., bytes]  # parameters → the bytes of an HTTP request
    parameters: dict[str, tuple[Any, ...]]

    def start(self) -> Values:
        """The values with which a search starts."""
        return {name: values[0] for name, values in self.parameters.items()}


def closing(path: str, body: bytes, *headers: str) -> bytes:
    """A POST after whose answer the service closes the connection."""
    return post(path, body, "Connection: close", *headers)


def repeated(unit: bytes, size: int) -> bytes:
    """`unit` as often as fits into `size` bytes."""
    return unit * (size // len(unit))


def unknown(name: str, path: str, starts: dict[str, bytes]) -> Kind:
    """Random bytes after the first bytes of a file of some format."""

    def make(size: int, start: str) -> bytes:
        return closing(path, starts[start] + np.random.default_rng(0).bytes(size))

    return Kind(name, make, {"size": MANY, "start": tuple(starts)})
