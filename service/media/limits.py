"""What one file may at most be."""

import os
from dataclasses import dataclass
from typing import Literal

from service.errors import MediaError

Kind = Literal["image", "audio", "vector"]
BYTES: dict[Kind, int] = {"image": 32 * 2**20, "audio": 128 * 2**20, "vector": 32 * 2**20}  # 12 minutes of a CD


@dataclass(frozen=True)
class Limits:
    """What one file may at most be; a larger one is refused with 413."""

    bytes: int | None = None  # of the file, None: what BYTES allows its kind; PERCEPT_MAX_BYTES
    pixels: int = 16 * 2**20  # width × height of an image, 4096 × 4096; PERCEPT_MAX_PIXELS
    seconds: int = 600  # length of a recording; PERCEPT_MAX_SECONDS
    batch: int = 2**15  # samples of one request of the Open Inference Protocol; PERCEPT_MAX_BATCH

    @classmethod
    def from_environment(cls, seconds: int = seconds) -> "Limits":
        """The limits as the PERCEPT_MAX_… variables set them; `seconds` where they leave the length of a recording.

        Raises ValueError for one that is not a number > 0.
        """
        return cls(
            bytes=positive("PERCEPT_MAX_BYTES", 0) or None,
            pixels=positive("PERCEPT_MAX_PIXELS", cls.pixels),
            seconds=positive("PERCEPT_MAX_SECONDS", seconds),
            batch=positive("PERCEPT_MAX_BATCH", cls.batch),
        )

    def bytes_of(self, kind: Kind) -> int:
        """How many bytes a file of that kind may have."""
        return self.bytes or BYTES[kind]


def positive(variable: str, default: int) -> int:
    """The whole number that an environment variable holds, or `default`. Raises ValueError unless it is above 0."""
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{variable}={text}: expected a whole number above 0")
    return int(text)


def check_bytes(size: int, kind: Kind, limits: Limits) -> None:
    """Raises MediaError if a file of `size` bytes is larger than the limits allow its kind."""
    if size > limits.bytes_of(kind):
        raise MediaError(413, f"the file has {size} bytes; at most {limits.bytes_of(kind)} are allowed")
