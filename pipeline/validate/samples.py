"""Decoded media as files that the service accepts: one test sample of each class, to try the service with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import soundfile
from numpy.typing import NDArray
from PIL import Image

from models.card import Input
from pipeline.run import replacing


def save(folder: Path, name: str, media: NDArray[Any], form: Input) -> Path:
    """Write one sample as `folder/name` with the ending of its kind, `.png`, `.wav` or `.json`; returns the path.

    media : uint8 (28, 28), float32 (T,) or float32 (D,), one sample of what `form` describes
    """
    ending, write = WRITERS[form.kind]
    path = folder / f"{name.replace('/', '_')}.{ending}"
    with replacing(path) as temporary:
        write(temporary, media, form)
    return path


def _write_png(path: Path, pixels: NDArray[Any], form: Input) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def _write_wav(path: Path, waveform: NDArray[Any], form: Input) -> None:
    soundfile.write(path, waveform, form.sample_rate, format="WAV")


def _write_json(path: Path, vector: NDArray[Any], form: Input) -> None:
    path.write_text(f"{vector.tolist()}\n", "utf-8")


Writer = Callable[[Path, NDArray[Any], Input], None]
WRITERS: dict[Literal["image", "audio", "vector"], tuple[str, Writer]] = {
    "image": ("png", _write_png),
    "audio": ("wav", _write_wav),
    "vector": ("json", _write_json),
}
