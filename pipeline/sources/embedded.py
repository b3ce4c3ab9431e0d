"""Data that needs no network: scikit-learn's scanned digits and synthesised instrument notes."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.sources import notes as synthesis
from pipeline.sources.sample import Decoded, Sample
from service.media.image import to_mnist_form


def digits() -> list[Sample]:
    """The 1,797 digits of scikit-learn (Alpaydin & Kaynak 1998, 8 × 8, 0 … 16) in MNIST's form, 28 × 28 uint8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return [
        Sample(f"digits/{i:04d}-{label}", str(label), None, Decoded(to_mnist_form(image)))
        for i, (image, label) in enumerate(zip(data.images, data.target, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class SynthesisedNote:
    """A note that is rendered when asked; its recipe and the synthesis' version stand for its content."""

    note: synthesis.Note
    sample_rate: int  # Hz

    def digest(self) -> str:
        return sha256(f"{synthesis.VERSION} {self.note!r}".encode()).hexdigest()

    def load(self) -> NDArray[np.float32]:
        audio: NDArray[np.float32] = soxr.resample(self.note.render(), synthesis.SAMPLE_RATE, self.sample_rate)
        return audio


def notes(seed: int, sample_rate: int) -> list[Sample]:
    """Synthesised notes of every instrument, mono, at `sample_rate` Hz."""
    return [
        Sample(f"notes/{note.name}", note.instrument, None, SynthesisedNote(note, sample_rate))
        for note in synthesis.notes(seed)
    ]
