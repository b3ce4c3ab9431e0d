"""Synthesised instrument notes, which need no network."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources import notes as synthesis
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Sample


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
    (3900, 'bassoon')
    """
    return [
        Sample(f"notes/{note.name}", note.instrument, None, SynthesisedNote(note, sample_rate))
        for note in synthesis.notes(seed)
    ]


def _load_notes(data: Data, sample_rate: int | None) -> list[Sample]:
    assert sample_rate is not None
    return notes(data.seed, sample_rate)


def _fingerprint_notes(data: Data) -> Any:
    return [synthesis.VERSION, data.seed]


SOURCES = (
    Source(
        "notes",
        "name",
        ("mfcc",),
        "3,900 synthesised notes",
        _load_notes,
        _fingerprint_notes,
        synthetic="recordings",
        copies=False,
    ),
)
