"""How large a file may be."""

import os
from dataclasses import dataclass
from typing import Literal

from service.errors import TooLarge

Kind = Literal["image", "audio", "vector"]
# Default limits in bytes; 128 MiB are 12 minutes of a CD.
DEFAULT_BYTES: dict[Kind, int] = {"image": 32 * 2**20, "audio": 128 * 2**20, "vector": 32 * 2**20}


@dataclass(frozen=True)
class Limits:
    """How large one file may be, and how many samples one request may have.

    >>> Limits().bytes_of("image")
    33554432
    """

    bytes: int | None = None  # of a file; None: the default of its kind, see DEFAULT_BYTES; PERCEPT_MAX_BYTES
    pixels: int = 16 * 2**20  # width × height of an image, 4096 × 4096; PERCEPT_MAX_PIXELS
    seconds: int = 600  # length of a recording; PERCEPT_MAX_SECONDS
    batch: int = 2**15  # samples in one request of the Open Inference Protocol; PERCEPT_MAX_BATCH

    @classmethod
    def from_environment(cls, seconds: int = seconds) -> "Limits":
        """The limits that the variables PERCEPT_MAX_… set; `seconds` is the default for that of a recording.

        Raises ValueError unless each of them is a whole number above 0.
        """
        return cls(
            bytes=positive("PERCEPT_MAX_BYTES", 0) or None,
            pixels=positive("PERCEPT_MAX_PIXELS", cls.pixels),
            seconds=positive("PERCEPT_MAX_SECONDS", seconds),
            batch=positive("PERCEPT_MAX_BATCH", cls.batch),
        )

    def bytes_of(self, kind: Kind) -> int:
        """How many bytes a file of that kind may have."""
        return self.bytes or DEFAULT_BYTES[kind]


def positive(variable: str, default: int) -> int:
    """The whole number in an environment variable, or `default` if it is not set. Raises ValueError unless it is
    above 0."""
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{variable}={text}: expected a whole number above 0")
    return int(text)


def check_bytes(size: int, kind: Kind, limits: Limits) -> None:
    """Raises TooLarge if a file of `size` bytes exceeds the limit of its kind."""
    if size > limits.bytes_of(kind):
        raise TooLarge(f"the file has {size} bytes; at most {limits.bytes_of(kind)} are allowed")
