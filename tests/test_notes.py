"""The synthesised notes: reproducible, in tune, clean, and too hard for a linear classifier."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline import extract, task, train, validate
from pipeline.extract import Features
from pipeline.sources.notes import INSTRUMENTS, SAMPLE_RATE, Note, notes


def test_the_set() -> None:
    found = notes(seed=0, per_class=20)
    assert len(INSTRUMENTS) >= 10
    assert len(found) == 20 * len(INSTRUMENTS)
    assert {note.instrument for note in found} == set(INSTRUMENTS)
    assert len({note.name for note in found}) == len(found)
    assert found == notes(seed=0, per_class=20)
    assert found != notes(seed=1, per_class=20)


def test_a_note_is_the_same_in_every_thread() -> None:
    chosen = notes(seed=0, per_class=2)
    alone = [note.render() for note in chosen]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(Note.render, chosen), strict=True):
            assert np.array_equal(a, b)


def test_notes_are_clean_sound() -> None:
    for note in notes(seed=3, per_class=8):
        wave = note.render()
        assert wave.dtype == np.float32
        assert wave.ndim == 1
        assert 0.3 * SAMPLE_RATE < wave.size < 4 * SAMPLE_RATE
        assert np.isfinite(wave).all()
        assert 1e-3 < np.abs(wave).max() < 1, note.name  # neither silent nor clipped


@pytest.mark.parametrize("instrument", ["clarinet", "flute", "guitar", "oboe", "trumpet", "violin"])
def test_notes_are_in_tune(instrument: str) -> None:
    chosen = [n for n in notes(seed=0, per_class=30) if n.instrument == instrument and 50 <= n.pitch <= 84][:6]
    off = []
    for note in chosen:
        f0 = librosa.yin(note.render(), fmin=60, fmax=2000, sr=SAMPLE_RATE)
        off.append(abs(np.median(librosa.hz_to_midi(f0)) - note.pitch))
    assert len(chosen) == 6
    assert np.median(off) < 0.5  # semitones


def test_louder_notes_are_brighter() -> None:
    correlations = []
    for instrument in ("bassoon", "piano", "violin"):
        chosen = [n for n in notes(seed=0, per_class=60) if n.instrument == instrument]
        relative = [_centroid(n.render()) / np.sqrt(librosa.midi_to_hz(n.pitch)) for n in chosen]
        correlations.append(spearmanr(relative, [n.dynamic for n in chosen]).statistic)
    assert np.mean(correlations) > 0.2


def _centroid(wave: NDArray[np.float32]) -> float:
    """Centre of mass of the power spectrum in Hz, which the noise floor of a quiet note does not move."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float(power @ np.fft.rfftfreq(wave.size, 1 / SAMPLE_RATE) / power.sum())


def test_a_linear_classifier_does_not_solve_them(tmp_path: Path) -> None:
    resolved = task.load("instruments")
    extract.extract(resolved, tmp_path)
    train.train(resolved, tmp_path)
    accuracy = validate.validate(resolved, tmp_path)["test"]["accuracy"]
    features = Features.load(tmp_path / extract.FILE)
    x = StandardScaler().fit(features.x[features.rows("train")]).transform(features.x)
    linear = max(
        LogisticRegression(C=c, max_iter=2000)
        .fit(x[features.rows("train")], features.y[features.rows("train")])
        .score(x[features.rows("test")], features.y[features.rows("test")])
        for c in (0.1, 1)
    )
    assert accuracy > 0.95
    assert linear < accuracy - 0.03
