"""The synthesised notes: reproducible, clean, in tune, and as different from each other as they claim."""

import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import mfcc
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.sources import notes as synthesis
from pipeline.sources.notes import INSTRUMENTS, SAMPLE_RATE, Fm, Note, Plucked, Sustained, notes
from pipeline.train import weights
from tests.conftest import Trained

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def rendered() -> list[tuple[Note, Array]]:
    return [(note, note.render().astype(np.float64)) for note in notes(seed=5, per_class=12)]


def spectrum(sound: Array) -> tuple[Array, Array]:
    """Frequencies in Hz and powers of the whole sound."""
    power = np.abs(np.fft.rfft(sound * np.hanning(sound.size))) ** 2
    return np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE), power


def centroid(sound: Array) -> float:
    """Spectral centroid in Hz of the first 0.3 s; later a plucked note sinks into the microphone's noise."""
    frequency, power = spectrum(sound[: int(0.3 * SAMPLE_RATE)])
    return float((frequency * power).sum() / power.sum())


def periodicity(sound: Array, period: Array) -> Array:
    """Autocorrelation of the first 0.7 s at `period` samples, which may be fractional, against that at 0."""
    power = np.abs(np.fft.rfft(sound[: 2**14], 2**15)) ** 2
    correlation = np.fft.irfft(power, 2**18)  # eight times finer than the sound
    return np.interp(8 * period, np.arange(correlation.size), correlation) / correlation[0]


def test_a_note_sounds_the_same_bit_for_bit_also_from_many_threads() -> None:
    batch = [note for note in notes(per_class=1) for _ in range(4)]
    alone = [note.render() for note in batch]
    with ThreadPoolExecutor(8) as pool:
        for first, second in zip(alone, pool.map(Note.render, batch), strict=True):
            np.testing.assert_array_equal(first, second)


def test_a_note_sounds_the_same_in_another_process() -> None:
    """Python salts str hashes, and BLAS has other threads there."""
    program = (
        "import zlib; from pipeline.sources.notes import notes;"
        "print(zlib.crc32(b''.join(n.render().tobytes() for n in notes(per_class=1))))"
    )
    here = zlib.crc32(b"".join(note.render().tobytes() for note in notes(per_class=1)))
    root = Path(__file__).parents[3]
    there = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=True).stdout
    assert int(there) == here


def test_the_set_depends_on_its_seed_alone() -> None:
    assert notes(seed=3, per_class=4) == notes(seed=3, per_class=4)
    assert notes(seed=3, per_class=4) != notes(seed=4, per_class=4)
    assert set(notes(seed=3, per_class=4)) < set(notes(seed=3, per_class=9))


def test_names_are_unique_and_readable() -> None:
    names = [note.name for note in notes()]
    assert len(set(names)) == len(names) == 100 * len(INSTRUMENTS)
    assert Note("violin", 69, 1.0, 31).name == "violin-A4-ff-0031"
    assert Note("cello", 36, 0.0, 7).name == "cello-C2-pp-0007"


def test_every_instrument_is_played_over_its_range_and_all_dynamics() -> None:
    assert list(INSTRUMENTS) == sorted(INSTRUMENTS)
    assert len(INSTRUMENTS) >= 10
    for name, instrument in INSTRUMENTS.items():
        pitches = [note.pitch for note in notes() if note.instrument == name]
        dynamics = [note.dynamic for note in notes() if note.instrument == name]
        assert instrument.low <= min(pitches) <= instrument.low + 4
        assert instrument.high - 4 <= max(pitches) <= instrument.high
        assert 0 <= min(dynamics) < 0.1 < 0.9 < max(dynamics) <= 1


def test_sounds_are_finite_audible_unclipped_and_short(rendered: list[tuple[Note, Array]]) -> None:
    for note, sound in rendered:
        assert sound.ndim == 1, note
        assert 0.5 <= sound.size / SAMPLE_RATE <= 2.5, note
        assert np.isfinite(sound).all(), note
        assert 0.05 < np.abs(sound).max() < 0.95, note
        assert np.abs(sound[:100]).max() < 0.01, f"{note} does not begin with silence"
        assert abs(sound[-1]) < 0.001, f"{note} ends in a click"


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_notes_are_in_tune(name: str) -> None:
    """The period is the pitch's, to 30 cents, and no shorter one fits as well."""
    for seed in range(3):
        sound = Note(name, 64, 0.6, seed).render().astype(np.float64)
        period = SAMPLE_RATE / (440 * 2 ** ((64 - 69) / 12))  # samples
        cents = np.arange(-150, 151, 2)
        fit = periodicity(sound, period * 2 ** (cents / 1200))
        assert abs(cents[np.argmax(fit)]) <= 30, seed
        assert fit.max() > periodicity(sound, period / np.arange(2, 6)).max() + 0.05, seed


@pytest.mark.parametrize("frequency", [82.41, 440.0, 987.77, 1046.5])
def test_a_plucked_string_is_in_tune_to_a_fraction_of_a_sample(frequency: float) -> None:
    """To 3 cents; without its all-pass, the loop would be up to 40 cents off at 1 kHz."""
    technique = Plucked(10.0, (5500, 8200), (-300, 2.0), ())
    cents = np.arange(-50, 51)
    for seed in range(4):
        tone = synthesis._plucked(technique, frequency, 0.5, SAMPLE_RATE, np.random.default_rng(seed))
        fit = periodicity(tone, 10 * SAMPLE_RATE / frequency * 2 ** (cents / 1200))
        assert abs(cents[np.argmax(fit)]) <= 3, seed


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_nothing_is_folded_back_from_above_nyquist(name: str) -> None:
    """Without noise and vibrato, nothing stands between the harmonics of the highest note: 50 dB below the tone."""
    frequency = 440 * 2 ** ((INSTRUMENTS[name].high - 69) / 12) * 1.01  # so that folded partials miss the harmonics
    for technique in INSTRUMENTS[name].techniques:
        rng = np.random.default_rng(0)
        if isinstance(technique, Sustained):
            clean = replace(technique, noise=-300, vibrato=(0, 0), tremolo=0)
            tone = synthesis._sustained(clean, frequency, 1.0, SAMPLE_RATE, rng)
        elif isinstance(technique, Fm):
            tone = synthesis._fm(replace(technique, noise=-300, vibrato=(0, 0)), frequency, 1.0, SAMPLE_RATE, rng)
        else:
            continue  # modes are left out above Nyquist, and a string is a filter: neither folds
        bins, power = spectrum(tone)
        distance = bins / frequency % 1
        between = np.minimum(distance, 1 - distance) > 0.1
        assert power[between].sum() < 1e-5 * power.sum(), technique


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_louder_is_brighter(name: str) -> None:
    changes = []
    for seed in range(6):
        soft, loud = (Note(name, 60, dynamic, seed).render().astype(np.float64) for dynamic in (0.0, 1.0))
        assert np.abs(loud).max() > 4 * np.abs(soft).max()
        changes.append(centroid(loud) / centroid(soft))
    assert np.median(changes) > 1.05


def test_plucked_and_struck_notes_die_away_and_blown_ones_last(rendered: list[tuple[Note, Array]]) -> None:
    for note, sound in rendered:
        quarters = [np.square(part).sum() for part in np.array_split(sound, 4)]
        if note.instrument in ("guitar", "harp", "marimba", "piano"):
            assert quarters[0] > 1.2 * quarters[2], note
        else:
            assert quarters[2] > 0.1 * quarters[0], note


def test_clarinet_lacks_even_harmonics() -> None:
    for seed in range(6):
        frequency, power = spectrum(Note("clarinet", 50, 0.5, seed).render().astype(np.float64))
        first, second, third = (power[np.abs(frequency / (146.83 * k) - 1) < 0.04].sum() for k in (1, 2, 3))
        assert second < 0.05 * first
        assert second < 0.05 * third


def coarse(features: extract.Features, resolved: task.Task) -> extract.Features:
    """The features with fewer cepstral coefficients, as `resolved` has them, and without copies."""
    x = features.x[:]
    pooled, levels = x[:, : -mfcc.LEVELS], x[:, -mfcc.LEVELS :]
    first = pooled.reshape(len(x), mfcc.STATISTICS, -1)[:, :, : resolved.features.n_mfcc].reshape(len(x), -1)
    x = np.concatenate([first, levels], 1)
    return replace(features, x=x, copies=x[:0], copy_of=features.copy_of[:0], task=resolved.origin())


@pytest.mark.usefixtures("few_outliers")
def test_a_linear_classifier_does_not_solve_them(trained: Trained, tmp_path: Path) -> None:
    trained(tmp_path, "instruments", "--set", "validate.baselines=false", "--set", "augment.copies=1")
    whole, run, accuracy = extract.Features.of(Run(tmp_path / "runs" / "instruments")), Run(tmp_path / "coarse"), {}
    for hidden in ([256], []):
        overrides = [f"model.hidden={hidden}", "train.refit=false", "train.noise=0.1", "augment.copies=0"]
        resolved = task.load("instruments", overrides=[*overrides, "features.n_mfcc=6"])
        features = coarse(whole, resolved)
        features.save(run.features)
        train.train(resolved, run)
        classifier, _ = weights.load(run.weights)
        test = features.rows("test")
        answers = classifier.mlp(classifier.standardize(torch.from_numpy(features.x[test]))).argmax(1)
        accuracy[len(hidden)] = np.mean(answers.numpy() == features.y[test])
    assert accuracy[1] > 0.95
    assert accuracy[0] < accuracy[1] - 0.05
