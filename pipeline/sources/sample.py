"""Sample: one labelled piece of media, identified by its content and decoded only on demand."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import MediaError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Media(Protocol):
    """A picture, a recording or a vector that may not be decoded yet."""

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal, found without decoding.

        Raises MediaError if it cannot be read.
        """

    def load(self) -> NDArray[np.generic]:
        """The decoded media, as the input of the graph: uint8 (28, 28), float32 (T,) or float32 (D,).

        Raises MediaError if it cannot be used.
        """


UNREADABLE = "unreadable: "  # what the digest of a sample that cannot be read starts with

Label = str | tuple[float, ...]  # the label of a class, or the values of a regression


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled piece of media.

    Example
    -------
    >>> sample = Sample("squares/1", "square", "train", Decoded(np.ones((28, 28), np.uint8)))
    >>> sample.media.load().shape, len(sample.digest())
    ((28, 28), 64)
    """

    file: str  # path, or name within the source: what reports show
    label: Label
    split: Split | None  # None where the data does not name one
    media: Media
    group: str | None = None  # what no split may divide: a session, a player; None where it is a group of its own

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal; for an unreadable sample a text that no other sample has, so that it
        does not count as a duplicate."""
        try:
            return self.media.digest()
        except MediaError as error:
            return f"{UNREADABLE}{error} ({self.file})"


@dataclass(frozen=True, slots=True)
class Decoded:
    """Media that the source gives as an array."""

    array: NDArray[np.generic]

    def digest(self) -> str:
        return sha256(np.ascontiguousarray(self.array).data).hexdigest()

    def load(self) -> NDArray[np.generic]:
        return self.array
