"""Decoded media as files that the service accepts: one test sample of each class, to try the service with."""

import base64
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile
from numpy.typing import NDArray
from PIL import Image

from models.card import Input
from pipeline.run import file_name, replacing
from service.media.table import named

MOST, LARGEST = 24, 2**18  # samples on the service's page, and bytes of each, at most


@dataclass(frozen=True, slots=True)
class MediaKind:
    """How samples of one kind of input are written and shown.

    Attributes
    ----------
    ending : of the file's name
    write : path, one sample and the input it is for
    shows_mistakes : the page shows the samples that the network got wrong
    shows_clips : the page shows a sample of each class as the front end sees it
    """

    ending: str
    write: Callable[[Path, NDArray[Any], Input], None]
    shows_mistakes: bool
    shows_clips: bool


def save(folder: Path, name: str, sample: NDArray[Any], form: Input) -> Path:
    """Write one sample as `folder/name` with the ending of its kind, `.png`, `.wav` or `.json`; returns the path.

    sample : uint8 (28, 28), float32 (T,) or float32 (D,), as `form` describes it
    """
    kind = MEDIA_KINDS[form.kind]
    path = _path(folder, name, form)
    with replacing(path) as temporary:
        kind.write(temporary, sample, form)
    return path


def packed(folder: Path, names: Iterable[str], form: Input) -> bytes:
    """The samples of that folder as JSON, by name: the file's name, and its bytes in Base64. Those that are too large
    for a page to load, and more than a page shows, are left out."""
    found: dict[str, dict[str, str]] = {}
    for name in islice(names, MOST):
        path = _path(folder, name, form)
        if path.is_file() and path.stat().st_size <= LARGEST:
            found[name] = {"file": path.name, "data": base64.b64encode(path.read_bytes()).decode()}
    return json.dumps(found, ensure_ascii=False).encode()


def _path(folder: Path, name: str, form: Input) -> Path:
    return folder / file_name(name, MEDIA_KINDS[form.kind].ending)


def _write_png(path: Path, pixels: NDArray[Any], form: Input) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def _write_wav(path: Path, waveform: NDArray[Any], form: Input) -> None:
    stream = io.BytesIO()  # libsndfile itself does not say that a disk is full
    soundfile.write(stream, waveform, form.sample_rate, format="WAV")
    path.write_bytes(stream.getbuffer())


def _write_json(path: Path, vector: NDArray[Any], form: Input) -> None:
    values = named(vector, form.columns) if form.columns else vector.tolist()
    path.write_text(f"{json.dumps(values, ensure_ascii=False)}\n", "utf-8")


MEDIA_KINDS = {
    "image": MediaKind("png", _write_png, shows_mistakes=True, shows_clips=False),
    "audio": MediaKind("wav", _write_wav, shows_mistakes=True, shows_clips=True),
    "vector": MediaKind("json", _write_json, shows_mistakes=False, shows_clips=False),
}
