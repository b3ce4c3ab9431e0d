"""Data that needs no network: scikit-learn's scanned digits and synthesised instrument notes."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources import notes as synthesis
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Decoded, Sample
from service import media


def digits() -> list[Sample]:
    """The 1,797 digits of scikit-learn (Alpaydin & Kaynak 1998, 8 × 8, 0 … 16) in MNIST's form, 28 × 28 uint8."""
    from service.media.image import to_mnist_form

    # Read from scikit-learn's file, without scikit-learn, which takes a second to import.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return [
        Sample(f"digits/{i:04d}-{row[-1]:.0f}", f"{row[-1]:.0f}", None, Decoded(to_mnist_form(row[:-1].reshape(8, 8))))
        for i, row in enumerate(table)
    ]


@dataclass(frozen=True, slots=True)
class SynthesisedNote:
    """A note that is synthesised on demand, float32 (T,); its parameters and the synthesis' version identify it."""

    note: synthesis.Note
    sample_rate: int  # Hz

    def digest(self) -> str:
        return sha256(f"{synthesis.VERSION} {self.note!r}".encode()).hexdigest()

    def load(self) -> NDArray[np.float32]:
        import soxr

        audio: NDArray[np.float32] = soxr.resample(self.note.render(), synthesis.SAMPLE_RATE, self.sample_rate)
        return audio


def notes(seed: int, sample_rate: int) -> list[Sample]:
    """Synthesised notes of every instrument, mono, at `sample_rate` Hz.

    Example
    -------
    >>> found = notes(seed=0, sample_rate=22_050)
    >>> len(found), found[0].label
    (1300, 'bassoon')
    """
    return [
        Sample(f"notes/{note.name}", note.instrument, None, SynthesisedNote(note, sample_rate))
        for note in synthesis.notes(seed)
    ]


def _load_digits(data: Data, sample_rate: int | None) -> list[Sample]:
    return digits()


def _fingerprint_digits(data: Data) -> Any:
    return [media.VERSION]


def _load_notes(data: Data, sample_rate: int | None) -> list[Sample]:
    assert sample_rate is not None
    return notes(data.seed, sample_rate)


def _fingerprint_notes(data: Data) -> Any:
    return [synthesis.VERSION, data.seed]


SOURCES = (
    Source("digits", "name", ("pixels",), "1,797 scanned digits", _load_digits, _fingerprint_digits),
    Source("notes", "name", ("mfcc",), "1,300 synthesised notes", _load_notes, _fingerprint_notes),
)
