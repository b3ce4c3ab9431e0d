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

from models import frontend, mfcc
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.sources.notes import FOLLOWED, FURTHER, INSTRUMENTS, LEAP, PER_CLASS, SAMPLE_RATE, Note, notes
from pipeline.sources.tones import Struck, Sustained, struck, sustained
from pipeline.train import weights
from tests.conftest import Trained
from tests.pipeline.runs import FEW_COPIES

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def rendered() -> list[tuple[Note, Array]]:
    return [(note, note.render().astype(np.float64)) for note in notes(seed=5, per_class=12)]


def spectrum(sound: Array) -> tuple[Array, Array]:
    """Frequencies in Hz and powers of the whole sound."""
    power = np.abs(np.fft.rfft(sound * np.hanning(sound.size))) ** 2
    return np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE), power


def brightness(sound: Array) -> float:
    """dB: power above 1 kHz in the first 0.3 s against all of it; later a plucked note sinks into the noise."""
    frequency, power = spectrum(sound[: int(0.3 * SAMPLE_RATE)])
    return float(10 * np.log10(power[frequency > 1000].sum() / power.sum()))


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
    assert len(set(names)) == len(names) == PER_CLASS * len(INSTRUMENTS)
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
        assert 0.2 <= sound.size / SAMPLE_RATE <= 4, note
        assert np.isfinite(sound).all(), note
        assert 0.05 < np.abs(sound).max() < 0.95, note
        assert np.abs(sound[:100]).max() < 0.01, f"{note} does not begin with silence"
        assert abs(sound[-1]) < 0.001, f"{note} ends in a click"


def test_others_follow_some_notes_in_the_range_of_the_instrument(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {note.further for note in notes()} == set(range(FURTHER + 1))
    assert np.mean([note.further > 0 for note in notes()]) == pytest.approx(FOLLOWED, abs=0.03)
    played: list[int] = []

    def play(note: Note, pitch: int, n: int, rng: np.random.Generator) -> Array:
        played.append(pitch)
        return np.ones(n)

    monkeypatch.setattr(Note, "_played", play)
    for seed in range(20):
        Note("oboe", 58, 0.5, seed, FURTHER).render()
    assert played[:: 1 + FURTHER] == 20 * [58]
    assert min(played) == INSTRUMENTS["oboe"].low < max(played) == 58 + LEAP


@pytest.mark.parametrize("name", [name for name in INSTRUMENTS if name != "marimba"])
def test_notes_are_in_tune(name: str) -> None:
    """The period is the pitch's, to 30 cents, and no shorter one fits as well.

    A marimba's second mode, nearly two octaves above the first, is as loud.
    """
    for seed in range(3):
        sound = Note(name, 64, 0.6, seed).render().astype(np.float64)
        period = SAMPLE_RATE / (440 * 2 ** ((64 - 69) / 12))  # samples
        cents = np.arange(-150, 151, 2)
        fit = periodicity(sound, period * 2 ** (cents / 1200))
        assert abs(cents[np.argmax(fit)]) <= 30, seed
        assert fit.max() > periodicity(sound, period / np.arange(2, 6)).max() + 0.05, seed


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_nothing_is_folded_back_from_above_nyquist(name: str) -> None:
    """Without noise and vibrato, nothing stands between the harmonics of the highest note: 50 dB below the tone."""
    frequency = 440 * 2 ** ((INSTRUMENTS[name].high - 69) / 12) * 1.01  # so that folded partials miss the harmonics
    voice, rng = INSTRUMENTS[name].voice, np.random.default_rng(0)
    if isinstance(voice, Struck):
        return  # modes are left out above Nyquist
    clean = replace(voice, noise_level=(-300, -300), chiff=(-300, -300), vibrates=0, tremolo=0)
    bins, power = spectrum(sustained(clean, 1.0, frequency, 1.0, SAMPLE_RATE, rng))
    distance = bins / frequency % 1
    between = np.minimum(distance, 1 - distance) > 0.1
    assert power[between].sum() < 1e-5 * power.sum()


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_louder_is_brighter(name: str) -> None:
    changes = []
    for seed in range(6):
        soft, loud = (Note(name, 60, dynamic, seed).render().astype(np.float64) for dynamic in (0.0, 1.0))
        assert np.abs(loud).max() > 4 * np.abs(soft).max()
        changes.append(brightness(loud) - brightness(soft))
    assert np.median(changes) > 0.02


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_plucked_and_struck_notes_die_away_and_blown_ones_last(name: str) -> None:
    voice, lasting = INSTRUMENTS[name].voice, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        play = sustained if isinstance(voice, Sustained) else struck
        tone = play(voice, 0.5, 440.0, 0.5, 2 * SAMPLE_RATE, rng)  # type: ignore[operator]
        quarters = [np.square(part).sum() for part in np.array_split(tone, 4)]
        lasting.append(quarters[2] / quarters[0])
    assert (np.median(lasting) > 0.4) == isinstance(voice, Sustained), lasting


@pytest.mark.parametrize("name", ["bassoon", "horn", "oboe"])
def test_formants_stay_when_the_pitch_moves(name: str) -> None:
    """Two notes a fifth apart: their partials follow one curve over frequency better than one over their numbers."""
    voice = INSTRUMENTS[name].voice
    over_hertz, over_number = [], []
    for seed in range(12):
        levels = []
        for frequency in (200.0, 300.0):
            tone = sustained(voice, 0.3, frequency, 0.5, SAMPLE_RATE, np.random.default_rng(seed))  # type: ignore[arg-type]
            bins, power = spectrum(tone)
            levels.append([10 * np.log10(power[np.abs(bins - k * frequency) < 20].sum()) for k in range(1, 13)])
        same = np.array([levels[0][3 * k - 1] - levels[1][2 * k - 1] for k in range(1, 5)])  # 600, 1200, … Hz
        over_hertz.append(same.std())
        over_number.append((np.array(levels[0][:12]) - levels[1][:12])[2:].std())
    assert np.median(over_hertz) < 0.8 * np.median(over_number)


def test_clarinet_lacks_even_harmonics() -> None:
    ratios = []
    for seed in range(12):
        frequency, power = spectrum(Note("clarinet", 50, 0.5, seed).render().astype(np.float64))
        first, second, third = (power[np.abs(frequency / (146.83 * k) - 1) < 0.04].sum() for k in (1, 2, 3))
        assert second < 0.05 * first
        ratios.append(second / third)
    assert np.median(ratios) < 0.05


def coarse(features: extract.Features, resolved: task.Task) -> extract.Features:
    """The features with fewer cepstral coefficients, as `resolved` has them, and without copies."""
    whole, few = (frontend.build(one["features"]) for one in (features.task, resolved.origin()))
    assert isinstance(whole, mfcc.Mfcc)
    assert isinstance(few, mfcc.Mfcc)
    chosen = []
    for name, start, stop in whole.groups():
        n, kept = (whole.n_view, few.n_view) if name in mfcc.VIEWS else (whole.n_mfcc, few.n_mfcc)
        chosen += [i for i in range(start, stop) if name == "level" or (i - start) % n < kept]
    x = np.ascontiguousarray(features.x[:][:, chosen])
    return replace(features, x=x, copies=x[:0], copy_of=features.copy_of[:0], task=resolved.origin())


@pytest.mark.parametrize(("notes", "least"), [(False, 0.86), pytest.param(True, 0.88, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("few_outliers")
def test_a_linear_classifier_does_not_solve_them(trained: Trained, tmp_path: Path, notes: bool, least: float) -> None:
    trained(tmp_path, "instruments", *FEW_COPIES, notes=notes)
    whole, run, accuracy = extract.Features.of(Run(tmp_path / "runs" / "instruments")), Run(tmp_path / "coarse"), {}
    for hidden in ([256], []):
        overrides = [f"model.hidden={hidden}", "train.refit=false", "train.noise=0.1"]
        resolved = task.load("instruments", overrides=[*overrides, "features.n_mfcc=6"])
        features = coarse(whole, resolved)
        features.save(run.features)
        train.train(resolved, run)
        classifier, _ = weights.load(run.weights)
        test = features.rows("test")
        answers = classifier.mlp(classifier.standardize(torch.from_numpy(features.x[test]))).argmax(1)
        accuracy[len(hidden)] = np.mean(answers.numpy() == features.y[test])
    assert accuracy[1] > least
    assert accuracy[0] < accuracy[1] - 0.05
