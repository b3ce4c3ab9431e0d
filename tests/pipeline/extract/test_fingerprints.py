"""A fingerprint is that of the recording, whatever became of its file."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.audit.fingerprint import ALIKE, fingerprint, likeness

RATE = 22_050
Change = Callable[[np.ndarray], np.ndarray]


def melody(seed: int) -> np.ndarray:
    """Six tones with overtones that die away, float32 (T,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(0.4 * RATE)) / RATE
    tones = [
        sum(np.sin(2 * np.pi * f * k * t) / k for k in range(1, 6)) * np.exp(-2 * t)
        for f in rng.uniform(150, 900, 6)
    ]  # fmt: skip
    return np.float32(0.2 * np.concatenate(tones))


def encoded(x: np.ndarray, format: str, subtype: str) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, x, RATE, format=format, subtype=subtype)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


CHANGES: dict[str, Change] = {
    "MP3": lambda x: encoded(x, "MP3", "MPEG_LAYER_III"),
    "OGG": lambda x: encoded(x, "OGG", "VORBIS"),
    "telephone": lambda x: soxr.resample(soxr.resample(x, RATE, 8_000), 8_000, RATE),
    "trimmed": lambda x: x[4_000:-3_000],
    "quieter": lambda x: 0.1 * x,
    "noisy": lambda x: x + np.float32(5e-4) * np.random.default_rng(9).standard_normal(len(x), np.float32),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_recognised(change: Change) -> None:
    assert likeness(fingerprint(melody(0), RATE), fingerprint(change(melody(0)), RATE)) >= ALIKE


def test_another_recording_is_not() -> None:
    assert likeness(fingerprint(melody(0), RATE), fingerprint(melody(1), RATE)) < 0.9


def test_silence_and_a_click_have_one() -> None:
    nothing = fingerprint(np.zeros(5, np.float32), 8_000)
    assert likeness(nothing, nothing) == 0
    assert np.isfinite(fingerprint(np.ones(1, np.float32), 4_000)).all()
