"""What models take, and how a file becomes that.

What decodes a file is imported when the first one is decoded: it loads Pillow or libsndfile.
"""

import io
import json
import wave
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from service.media.limits import Kind, Limits, check_bytes
from service.media.parallel import MapParts, one_by_one
from service.media.table import TableRow


class Decoder(Protocol):
    """Decodes the files of one kind of model."""

    kind: ClassVar[Kind]

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[Any]:
        """A file's bytes as one sample, without the axis N. Raises MediaError."""

    def example(self) -> bytes:
        """A small file that can be decoded, and is neither blank nor silent."""


class _Image:
    kind: ClassVar[Kind] = "image"

    def example(self) -> bytes:
        """One stroke."""
        from PIL import Image

        file, pixels = io.BytesIO(), np.zeros((28, 28), np.uint8)
        pixels[6:22, 13:15] = 255
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Symbol(_Image):
    """One symbol in MNIST's form: uint8 (28, 28)."""

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[np.uint8]:
        from service.media.image import decode_image

        return decode_image(data, limits)


@dataclass(frozen=True, slots=True)
class Picture(_Image):
    """A picture in colour: uint8 (size, size, 3)."""

    size: int

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[np.uint8]:
        from service.media.picture import decode_picture

        return decode_picture(data, self.size, limits)


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording, mono at a sampling rate in Hz: float32 (T,)."""

    kind: ClassVar[Kind] = "audio"
    sample_rate: int

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[np.float32]:
        from service.media.audio import decode_audio

        return decode_audio(data, self.sample_rate, limits, map_parts)

    def example(self) -> bytes:
        """A second of noise."""
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(-9999, 9999, 44_100, np.int16)
        with wave.open(file, "wb") as recording:
            recording.setparams((1, 2, 44_100, 0, "NONE", ""))
            recording.writeframes(noise.tobytes())
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Vector:
    """So many numbers, or any number for None: float32 (D,)."""

    kind: ClassVar[Kind] = "vector"
    size: int | None

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[np.float32]:
        from service.media.vector import decode_vector

        check_bytes(len(data), "vector", limits)
        return decode_vector(data, self.size)

    def example(self) -> bytes:
        """Ones."""
        return json.dumps([1] * (self.size or 1)).encode()


@dataclass(frozen=True, slots=True)
class Row:
    """The row of a table: float32 (D,)."""

    kind: ClassVar[Kind] = "vector"
    row: TableRow

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[np.float32]:
        check_bytes(len(data), "vector", limits)
        return self.row.decode(data)

    def example(self) -> bytes:
        """The first category of each column, or one."""
        return json.dumps([next(iter(column.categories), 1) for column in self.row.columns]).encode()


def decoder(card: ModelCard) -> Decoder:
    """The decoder for the model with this card."""
    form = card.input
    match form.kind:
        case "image":
            size = form.shape[1] if len(form.shape) == 4 else None
            return Symbol() if size is None else Picture(size)
        case "audio":
            assert form.sample_rate is not None
            return Sound(form.sample_rate)
        case "vector":
            columns, tells_unknown = form.columns, card.known_threshold is not None
            return Row(TableRow(columns, tells_unknown)) if columns else Vector(form.shape[-1])
