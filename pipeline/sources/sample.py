"""Sample: one labelled piece of media, known by its content and decoded only when asked."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Media(Protocol):
    def digest(self) -> str:
        """SHA-256 of the content, found without decoding."""

    def load(self) -> NDArray[np.generic]:
        """The decoded media as the graph takes it: uint8 (28, 28), float32 (T,) or float32 (D,).

        Raises MediaError if it cannot be used.
        """


Target = str | tuple[float, ...]  # the label of a class, or the values of a regression


@dataclass(frozen=True, slots=True)
class Sample:
    file: str  # path, or name within the source: what reports show
    label: Target
    split: Split | None  # None where the data does not name one
    media: Media


@dataclass(frozen=True, slots=True)
class Decoded:
    """Media that the source hands over as an array."""

    array: NDArray[np.generic]

    def digest(self) -> str:
        return sha256(np.ascontiguousarray(self.array).data).hexdigest()

    def load(self) -> NDArray[np.generic]:
        return self.array
