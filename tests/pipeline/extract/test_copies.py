"""Varied copies of clips: kind and size of the changes; extraction makes copies of training clips only."""

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.card import Input
from models.image import Picture
from pipeline import extract, task, train
from pipeline.extract import copies, mirror
from pipeline.extract.copies import vary, vary_picture
from pipeline.extract.features import Features
from pipeline.extract.recipe import Recipe
from pipeline.run import Run
from pipeline.task import Task, UserError, Variation
from pipeline.train import weights
from pipeline.train.data import load_copies, load_datasets
from pipeline.tune.folds import make_folds

RATE = 22_050
CONTENT = "0123456789abcdef" * 4  # a SHA-256
OFF = {"copies": 1, "pitch": 0, "gain": 0, "shift": 0}  # the others are off by default


def tone(frequency: float, seconds: float = 1.0) -> NDArray[np.float32]:
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def varied(clip: NDArray[np.float32], /, **changes: float) -> list[NDArray[np.float32]]:
    return [vary(clip, RATE, Variation(**OFF | changes), CONTENT, n) for n in range(60)]


def pitch(clip: NDArray[np.float32]) -> float:
    """Semitones above 1 kHz."""
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip)), 1 << 18))
    return float(12 * np.log2(spectrum.argmax() * RATE / (1 << 18) / 1000))


def test_nothing_is_changed_where_everything_is_off() -> None:
    assert all(np.array_equal(copy, tone(440)) for copy in varied(tone(440)))


def test_pitches_fill_their_range() -> None:
    pitches = [pitch(copy) for copy in varied(tone(1000), pitch=1.5)]
    assert -1.55 < min(pitches) < -1.2
    assert 1.2 < max(pitches) < 1.55


def test_excerpts_are_parts_of_the_clip_that_are_not_silent() -> None:
    clip = np.concatenate([np.arange(1, RATE + 1, dtype=np.float32), np.zeros(2 * RATE, np.float32)])
    parts = [part for part in varied(clip, excerpt=0.1, share=1) if len(part) < len(clip)]
    assert all(np.array_equal(part[part > 0], np.arange(part[0], part.max() + 1)) for part in parts)
    seconds = [len(part) / RATE for part in parts]
    assert 0.1 <= min(seconds) < 0.2 < 2 < max(seconds)
    assert min(part.max() for part in parts) > 0.03 * RATE
    assert all(np.array_equal(copy, clip) for copy in varied(clip, excerpt=5, share=1))  # longer than the clip
    assert 5 < sum(len(copy) < len(clip) for copy in varied(clip, excerpt=0.1, share=0.25)) < 25
    assert Variation(excerpt=0.4).degraded.excerpt == 0


def test_gains_fill_their_range() -> None:
    decibels = [20 * np.log10(np.abs(copy).max() / 0.1) for copy in varied(tone(1000), gain=12)]
    assert -12 <= min(decibels) < -10
    assert 10 < max(decibels) <= 12.01


def test_a_part_of_the_beginning_is_cut_off() -> None:
    lengths = [len(copy) / RATE for copy in varied(tone(1000), shift=0.1)]
    assert 0.9 <= min(lengths) < 0.92
    assert 0.98 < max(lengths) <= 1
    assert all(len(copy) >= 5 for copy in varied(tone(1000)[:10], shift=10))  # a short clip keeps its half


def test_a_share_goes_through_a_lower_sampling_rate() -> None:
    clip = tone(1000) + tone(7000)
    spectra = np.abs([np.fft.rfft(copy, RATE) for copy in varied(clip, rate=8000, share=0.5)])
    low, high = spectra[:, 1000], spectra[:, 7000]
    assert low.min() > 0.99 * low.max()
    assert 0.1 < np.mean(high < 0.01 * low) < 0.45  # half the copies; six tenths of the rates, by octaves, are too low
    assert np.mean(high > 0.99 * low) > 0.5


def test_noise_keeps_its_signal_to_noise_ratio() -> None:
    clip = tone(1000)
    copies = [copy - clip for copy in varied(clip, noise=20, share=1)]
    decibels = [20 * np.log10(clip.std() / noise.std()) for noise in copies]
    assert 19.8 < min(decibels) < 25
    assert 55 < max(decibels) < 60.2


def test_noise_has_colours_from_white_to_brown() -> None:
    clip = tone(1000, 1)
    falls = []
    for copy in varied(clip, noise=1, share=1)[:20]:
        power = np.abs(np.fft.rfft(copy - clip)) ** 2
        falls.append(np.log10(power[50:200].mean() / power[1600:6400].mean()) / np.log10(32))  # five octaves apart
    assert -0.1 < min(falls) < 0.5
    assert 1.5 < max(falls) < 2.1


def test_rooms_reverberate_and_keep_the_peak() -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 0.5
    times = []
    for copy in varied(click, room=1.2, share=1):
        energy = np.cumsum(copy[:0:-1] ** 2)[::-1]
        decibels = 10 * np.log10(energy / energy[0] + 1e-12)
        times.append(3 * (np.argmax(decibels < -25) - np.argmax(decibels < -5)) / RATE)
        assert np.abs(copy).max() == pytest.approx(0.5)
    assert 0.13 < min(times) < 0.25
    assert 0.8 < max(times) < 1.3


def test_a_share_of_the_samples_is_clipped() -> None:
    clip = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    shares = [np.mean(np.abs(copy) == np.abs(copy).max()) for copy in varied(clip, clip=0.1, share=1)]
    assert 0.0019 < min(shares) < 0.004
    assert 0.07 < max(shares) < 0.101


def test_low_frequencies_are_cut() -> None:
    clip = tone(100) + tone(1000)
    spectra = np.abs([np.fft.rfft(copy, RATE) for copy in varied(clip, low_cut=400, share=1)])
    low, high = spectra[:, 100], spectra[:, 1000]
    assert 0.9 * high.max() < high.min()
    assert low.min() < 0.02 * high.min()
    assert low.max() > 0.5 * high.max()


def test_samples_are_rounded_to_a_few_bits() -> None:
    levels = [len(np.unique(copy)) for copy in varied(tone(1000.1), bits=4, share=1)]
    assert 15 <= min(levels) < 30
    assert 256 < max(levels) <= 2**9 + 1


def test_a_telephone_has_a_narrow_band_and_a_coarse_codec() -> None:
    clip = tone(100) + tone(1000) + tone(7000)
    errors = []
    for copy in varied(clip, telephone=True, share=1):
        assert len(copy) == len(clip)
        spectrum = np.abs(np.fft.rfft(copy)) / np.abs(np.fft.rfft(tone(1000)))[1000]
        assert spectrum[1000] == pytest.approx(1, abs=0.2)
        assert spectrum[7000] < 0.01
        assert spectrum[100] < 0.1
        errors.append(np.sum(spectrum[[*range(300, 900), *range(1100, 3400)]] ** 2) ** 0.5)
    coarse = np.array(errors) > 0.03  # GSM, one codec of three
    assert 10 < coarse.sum() < 30
    assert min(errors) > 0.01  # A-law and μ-law


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
def test_the_shortest_clips_can_be_degraded_at_every_rate(n: int) -> None:
    clip = np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else np.ones(1, np.float32)
    degraded = Variation(degrade=True).degraded.model_copy(update={"share": 0.7})
    for number in range(60):
        for rate in (4_000, RATE, 192_000):
            copy = vary(clip, rate, degraded, CONTENT, number)
            assert len(copy) >= 1
            assert np.isfinite(copy).all()


def test_silence_stays_silent() -> None:
    for copy in varied(
        np.zeros(1000, np.float32), filter=3, noise=10, rate=8000, room=1, clip=0.1, low_cut=300, bits=4,
        telephone=True, share=1,
    ):  # fmt: skip
        assert not copy.any()


def test_a_filter_changes_octaves_by_their_gains() -> None:
    white = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    gains = []
    for copy in varied(white, filter=4, share=1):
        ratio = np.abs(np.fft.rfft(copy)) / np.abs(np.fft.rfft(white))
        gains += [20 * np.log10(ratio[500]), 20 * np.log10(ratio[4000])]
    assert 2.5 < np.std(gains) < 5


def test_a_share_of_the_copies_is_filtered() -> None:
    clip = tone(1000)
    changed = sum(not np.array_equal(copy, clip) for copy in varied(clip, filter=4, share=0.25))
    assert 5 < changed < 25  # of 60


def test_copies_are_a_pure_function_of_content_and_number() -> None:
    variation = Variation(copies=2, filter=3, noise=30, share=1)
    one = vary(tone(440), RATE, variation, CONTENT, 0)
    assert np.array_equal(one, vary(tone(440), RATE, variation, CONTENT, 0))
    assert not np.array_equal(one, vary(tone(440), RATE, variation, CONTENT, 1))
    assert not np.array_equal(one, vary(tone(440), RATE, variation, "f" * 64, 0))


def arrows(n: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Bright wedges that point to the left or to the right, somewhere: uint8 (n, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    wedge = np.tri(8, dtype=np.uint8) * 180
    pictures, labels = np.zeros((n, 16, 16, 3), np.uint8), []
    for i, picture in enumerate(pictures):
        y, x = rng.integers(0, 9, 2)
        picture[y : y + 8, x : x + 8] = (wedge if i % 2 else wedge[:, ::-1])[..., None]
        labels.append("right" if i % 2 else "left")
    return pictures + rng.integers(0, 40, pictures.shape, np.uint8), labels


def test_copies_of_a_picture_are_near_it_and_every_other_one_is_mirrored() -> None:
    picture = arrows(1, 0)[0][0]
    weak = Variation(copies=4, crop=0, turn=0, light=0)
    np.testing.assert_array_equal(vary_picture(picture, weak, CONTENT, 1), picture)
    np.testing.assert_array_equal(vary_picture(picture, weak, CONTENT, 0), picture[:, ::-1])
    never = [vary_picture(picture, Variation(copies=4, mirror="never"), CONTENT, k) for k in range(6)]
    for copy in never:
        assert copy.shape == picture.shape
        assert (
            np.corrcoef(copy.ravel(), picture.ravel())[0, 1] > np.corrcoef(copy.ravel(), picture[:, ::-1].ravel())[0, 1]
        )
    assert len({copy.tobytes() for copy in never}) == 6
    again = vary_picture(picture, Variation(copies=9, mirror="never"), CONTENT, 2)
    np.testing.assert_array_equal(again, never[2])


def test_the_validation_samples_decide_whether_mirror_images_teach() -> None:
    front = Picture(size=16, atoms=4)
    (training, labels), (held_out, expected) = arrows(60, 1), arrows(30, 2)
    assert not mirror.helps(front, training, labels, held_out, expected)
    both = np.where(np.arange(60)[:, None, None, None] % 4 < 2, training, training[:, :, ::-1])
    kinds = ["dark" if i % 2 else "bright" for i in range(60)]
    both = np.where(np.arange(60)[:, None, None, None] % 2, both // 3, both)
    assert mirror.helps(front, both[:40], kinds[:40], both[40:, :, ::-1], kinds[40:])


def test_keys_for_sound_and_for_pictures_are_told_apart() -> None:
    wrong = (
        ("pictures", "augment.pitch=3"),
        ("pictures", "augment.degrade=true"),
        ("instruments", "augment.mirror=never"),
    )
    for name, key in wrong:
        with pytest.raises(UserError, match=rf"{key.split('=')[0]} is of "):
            task.load(name, overrides=[key])


def write_clips(folder: Path, per_class: int = 8) -> None:
    rng = np.random.default_rng(0)
    for label, frequency in (("high", 2000), ("low", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            samples = tone(frequency * rng.uniform(0.9, 1.1), 0.3) + 0.01 * rng.standard_normal(int(0.3 * RATE))
            with wave.open(str(folder / label / f"{i}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes((samples * 32767).astype(np.int16).tobytes())


def clips(folder: Path, *overrides: str) -> Task:
    keys = ["augment.copies=3", "augment.degrade=false", "augment.foreign=false", "features.n_mfcc=8", "train.epochs=3"]
    return task.load("instruments", str(folder), [*keys, "model.hidden=[4]", *overrides])


def test_only_clips_that_may_be_trained_on_have_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(tmp_path / "clips")
    features = extract.extract(clips(tmp_path / "clips"), Run(tmp_path / "run"))
    of_test = features.rows("test")
    assert of_test.any()
    assert np.bincount(features.copy_of, minlength=len(features.x)).tolist() == np.where(of_test, 0, 3).tolist()
    assert features.copies.shape == (3 * (~of_test).sum(), features.x.shape[1])
    assert not (features.copies == features.x[features.copy_of]).all(axis=1).any()
    loaded = Features.load(tmp_path / "run" / "features.npz")
    assert np.array_equal(loaded.copies, features.copies)

    capsys.readouterr()
    extract.extract(clips(tmp_path / "clips"), Run(tmp_path / "run"))
    assert " 0 newly extracted" in capsys.readouterr().out
    fewer = extract.extract(clips(tmp_path / "clips", "augment.copies=2"), Run(tmp_path / "run"))
    assert np.array_equal(
        fewer.copies, features.copies[:].reshape(-1, 3, features.x.shape[1])[:, :2].reshape(-1, features.x.shape[1])
    )
    assert np.array_equal(fewer.x, features.x)


def test_another_split_makes_the_copies_that_are_missing(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    extract.extract(clips(tmp_path / "clips"), Run(tmp_path / "run"))
    found = extract.extract(clips(tmp_path / "clips", "data.seed=1"), Run(tmp_path / "run"))
    alone = extract.extract(clips(tmp_path / "clips", "data.seed=1"), Run(tmp_path / "alone"))
    assert np.array_equal(found.copies, alone.copies)
    assert np.array_equal(found.copy_of, alone.copy_of)


def test_copies_follow_their_clips_into_folds(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    resolved = clips(tmp_path / "clips", "tune.folds=3")
    features = extract.extract(resolved, Run(tmp_path / "run"))
    kept = int((~features.rows("test")).sum())
    for fold in make_folds(resolved, features, train.choose_device("cpu")):
        held_out = len(fold.held_out.y)
        assert len(fold.training.y) == 4 * (kept - held_out)


def test_rows_with_copies(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    features = extract.extract(clips(tmp_path / "clips"), Run(tmp_path / "run"))
    rows = np.flatnonzero(features.rows("train"))[:2]
    x, y = features.with_copies(rows)
    assert np.array_equal(x[:2], features.x[rows])
    assert y.tolist() == [*features.y[rows], *np.repeat(features.y[rows], 3)]
    x, _ = replace(features, copies=features.copies[:0], copy_of=features.copy_of[:0]).with_copies(rows)
    assert len(x) == 2


def test_every_second_copy_is_degraded(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    plain = extract.extract(clips(tmp_path / "clips"), Run(tmp_path / "plain"))
    both = extract.extract(clips(tmp_path / "clips", "augment.degrade=true"), Run(tmp_path / "run"))
    assert np.bincount(both.copy_of).max() == 6
    degraded = both.forms == "degraded"
    assert degraded.sum() == len(plain.copies) == len(both.copies) - degraded.sum()
    assert set(plain.forms) == {"plain"}
    assert np.array_equal(both.copies[np.flatnonzero(~degraded)], plain.copies)
    assert not np.isclose(both.copies[np.flatnonzero(degraded)], plain.copies).all(axis=1).any()
    # All but the second network learn from the others.
    rows = both.rows("train")
    for one, other in zip(both.with_copies(rows), plain.with_copies(rows), strict=True):
        assert np.array_equal(one, other)
    for forms, n in ((["plain"], 4), (["plain", "degraded"], 7)):
        assert len(load_datasets(both, False, forms).training.y) == n * rows.sum()
    fewer = extract.extract(
        clips(tmp_path / "clips", "augment.degrade=true", "augment.copies=2"), Run(tmp_path / "run")
    )
    width = both.x.shape[1]
    assert np.array_equal(fewer.copies, both.copies[:].reshape(-1, 6, width)[:, :4].reshape(-1, width))


@pytest.mark.parametrize(("degrade", "n_foreign"), [("false", 2), ("true", 4)])
def test_foreign_copies_follow_the_others_which_stay_the_same(tmp_path: Path, degrade: str, n_foreign: int) -> None:
    write_clips(tmp_path / "clips")
    keys = f"augment.degrade={degrade}", "augment.foreign=true"
    without = extract.extract(clips(tmp_path / "clips", keys[0]), Run(tmp_path / "without"))
    features = extract.extract(clips(tmp_path / "clips", *keys), Run(tmp_path / "run"))
    foreign = features.forms == "foreign"
    n = int((~features.rows("test")).sum())
    assert np.array_equal(features.forms, np.tile(features.forms[: len(foreign) // n], n))
    assert foreign.reshape(n, -1).tolist() == n * [(len(foreign) // n - n_foreign) * [False] + n_foreign * [True]]
    assert np.array_equal(features.copies[np.flatnonzero(~foreign)], without.copies)
    # No network of the classes learns from them.
    rows = features.rows("train")
    for one, other in zip(features.with_copies(rows), without.with_copies(rows), strict=True):
        assert np.array_equal(one, other)
    all_but_foreign = load_datasets(features, False, ["plain", "degraded"]).training
    assert len(all_but_foreign.y) == rows.sum() * (len(foreign) // n - n_foreign + 1)
    loaded = load_copies(features, False, "foreign").x
    assert not isinstance(loaded, torch.Tensor)
    of_training = np.flatnonzero(foreign & rows[features.copy_of])
    assert np.array_equal(loaded.read(torch.arange(loaded.shape[0])), features.copies[of_training])
    no_copies = extract.extract(clips(tmp_path / "clips", *keys, "augment.copies=0"), Run(tmp_path / "run"))
    assert len(no_copies.copies) == 0


def test_a_foreign_copy_is_shifted_beyond_plain_ones_or_has_another_envelope() -> None:
    form = Input(kind="audio", name="audio", dtype="float32", shape=(None, None), sample_rate=RATE)
    clip = tone(440)
    variation = Variation(copies=1, pitch=2.0, foreign=True)
    shifts, levels = [], []
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(RATE).astype(np.float32)
    for i in range(40):
        content = f"{i:016x}" + 48 * "0"
        shifted = copies.copy(clip, form, variation, content, 1)
        spectrum = np.abs(np.fft.rfft(shifted))
        shifts.append(12 * np.log2(spectrum.argmax() * RATE / len(shifted) / 440))
        filtered = copies.copy(noise, form, variation, content, 2)
        assert filtered.shape == noise.shape
        power = np.abs(np.fft.rfft(filtered)) ** 2 / np.abs(np.fft.rfft(noise)) ** 2
        levels.append([10 * np.log10(power[low : 2 * low].mean()) for low in (250, 500, 1000, 2000)])
    assert 3.4 < min(shifts) < max(shifts) < 9.6  # 2 semitones and 1.5 to 7.5
    assert 4 < np.std(levels) < 12


def test_other_degradation_makes_other_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.of(task.load("instruments"))
    plain = Recipe.of(task.load("instruments", overrides=["augment.degrade=false"]))
    before, of_plain = recipe.copies_key, plain.copies_key
    monkeypatch.setattr(Variation, "DEGRADED", Variation.DEGRADED | {"noise": 10.0})
    assert recipe.copies_key != before
    assert plain.copies_key == of_plain != before


@pytest.mark.usefixtures("few_outliers")
def test_refitting_learns_from_the_validation_samples_too(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    run, once = tmp_path / "run", clips(tmp_path / "clips", "train.refit=false")
    extract.extract(once, Run(run))

    def trained(resolved: Task, with_validation: bool = False) -> NDArray[np.float32]:
        train.train(resolved, Run(run), with_validation)
        return weights.load(run / "weights.pt")[0].mlp.weights()[0].detach().numpy()

    of_all, of_training = trained(once, with_validation=True), trained(once)
    history = json.loads((run / "history.json").read_text())
    refitted = trained(clips(tmp_path / "clips", "train.refit=true"))
    assert np.array_equal(refitted, of_all)
    assert not np.array_equal(refitted, of_training)
    shown = json.loads((run / "history.json").read_text())  # the history of the first training, which was validated
    assert shown["validation_loss"] == history["validation_loss"]


def test_pictures_have_no_copies() -> None:
    with pytest.raises(UserError, match="copies are of sound"):
        task.load("digits", None, ["augment.copies=3"])
