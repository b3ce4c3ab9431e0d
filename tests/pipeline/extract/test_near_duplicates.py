"""Near duplicates are found whatever became of a file, and what only looks or sounds alike is not among them."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from models.frontend import Pixels
from models.image import Picture
from models.mfcc import Mfcc
from pipeline.extract import fingerprints, near_duplicates
from service.media import Limits
from service.media.image import decode_image

RATE = 22_050
Array = NDArray[Any]


def found(form: Any, media: list[Array]) -> set[tuple[int, int]]:
    prints = np.stack([fingerprints.of(form)(one) for one in media])
    return {(i, j) for i, j in near_duplicates.find(form, len(media), lambda rows: prints[rows]).tolist()}


def melody(seed: int, seconds: float = 1.8) -> Array:
    """Tones with overtones that die away, a little breath in them, float32 (T,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(0.3 * RATE)) / RATE
    tones = [
        sum(np.sin(2 * np.pi * f * k * t + 6 * rng.random()) / k for k in range(1, 6)) * np.exp(-rng.uniform(1, 5) * t)
        for f in rng.uniform(150, 900, round(seconds / 0.3))
    ]
    return np.float32(0.2 * np.concatenate(tones) + 0.003 * rng.standard_normal(len(t) * len(tones)))


def encoded(x: Array, format: str, subtype: str, rate: int = RATE) -> Array:
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(x, RATE, rate), rate, format=format, subtype=subtype)
    file.seek(0)
    return soxr.resample(soundfile.read(file, dtype="float32")[0], rate, RATE)


SOUNDS: dict[str, Callable[[Array], Array]] = {
    "MP3": lambda x: encoded(x, "MP3", "MPEG_LAYER_III"),
    "MP3 at 8 kHz": lambda x: encoded(x, "MP3", "MPEG_LAYER_III", 8_000),
    "OGG at 48 kHz": lambda x: encoded(x, "OGG", "VORBIS", 48_000),
    "trimmed": lambda x: x[4_000:-3_000],
    "quieter": lambda x: np.float32(0.1) * x,
    "noisy": lambda x: x + np.float32(5e-3) * np.random.default_rng(9).standard_normal(len(x), np.float32),
    "the other polarity": lambda x: -x,
}


def test_sounds_and_their_copies() -> None:
    media = [melody(seed) for seed in range(8)] + [melody(8, 0.3), melody(9, 6.0)]
    copies = {name: (n, change(media[n])) for n, (name, change) in enumerate(SOUNDS.items())}
    copies["short, at 8 kHz"] = 8, SOUNDS["MP3 at 8 kHz"](media[8])
    copies["long, trimmed"] = 9, media[9][2_000:-20_000]
    wanted = {(n, 10 + k) for k, (n, _) in enumerate(copies.values())}
    assert found(Mfcc().input, media + [copy for _, copy in copies.values()]) == wanted


def test_takes_of_one_note_are_no_copies() -> None:
    t = np.arange(RATE) / RATE

    def take(seed: int) -> Array:
        """The same pitch and overtones, in other phases, with another vibrato."""
        rng = np.random.default_rng(seed)
        phase = 2 * np.pi * 440 * t + rng.uniform(1, 3) * np.sin(2 * np.pi * rng.uniform(4, 7) * t + 6 * rng.random())
        return np.float32(0.1 * sum(np.sin(k * phase + 6 * rng.random()) / k for k in range(1, 8)))

    assert found(Mfcc().input, [take(seed) for seed in range(12)]) == set()


def test_recordings_with_the_same_hum_are_no_copies() -> None:
    """Of most it is all that the second fingerprint holds."""
    t = np.arange(3 * RATE) / RATE
    phases = np.random.default_rng(99).uniform(0, 6, 39)

    def recording(seed: int) -> Array:
        rng = np.random.default_rng(seed)
        place = t + rng.uniform(0, 0.02)
        hum = sum(np.sin(2 * np.pi * 50 * (k + 1) * place + phase) / (k + 1) for k, phase in enumerate(phases))
        call = np.sin(2 * np.pi * rng.uniform(1500, 1800) * t + 3 * np.sin(2 * np.pi * rng.uniform(4, 9) * t))
        around = np.exp(-(((t - rng.uniform(0.5, 1.2)) / 0.2) ** 2))
        return np.float32(0.1 * hum + 0.3 * call * around + 0.005 * rng.standard_normal(len(t)))

    media = [recording(seed) for seed in range(20)]
    assert found(Mfcc().input, [*media, SOUNDS["quieter"](media[3])]) == {(3, 20)}


def jpeg(pixels: Array, quality: int = 60) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def resized(pixels: Array, side: int) -> Array:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def test_digits_and_their_copies() -> None:
    limits = Limits.from_environment()
    large = [np.kron(np.uint8(one * 15.9), np.ones((4, 4), np.uint8)) for one in load_digits().images[:300]]

    def decoded(pixels: Array) -> Array:
        return decode_image(jpeg(pixels, 95), limits)

    changes: list[Callable[[Array], Array]] = [
        lambda x: decode_image(jpeg(resized(x, 48)), limits),
        lambda x: decoded(resized(x, 90)),
        lambda x: decoded(np.pad(x, ((9, 2), (0, 5)))),
        lambda x: decoded(255 - x),
        lambda x: np.roll(decoded(x), (1, -2), (0, 1)),
    ]
    copies = [changes[n % len(changes)](large[n]) for n in range(50)]
    pairs = found(Pixels.input, [decoded(x) for x in large] + copies)
    planted = {(n, 300 + n) for n in range(50)}
    assert len(pairs & planted) >= 48
    assert len(pairs - planted) <= 1


def scene(seed: int) -> Array:
    """A picture of random blots, uint8 (48, 48, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (7, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC))


def test_pictures_and_their_copies() -> None:
    changes: list[Callable[[Array], Array]] = [
        lambda x: np.asarray(Image.open(io.BytesIO(jpeg(x, 40)))),
        lambda x: resized(x, 33),
        lambda x: resized(x, 200),
        lambda x: np.pad(x[3:, :-3], ((0, 3), (3, 0), (0, 0)), "edge"),
        lambda x: np.uint8(0.8 * x + 20),
        lambda x: x[1:-2, 2:-1],
    ]
    media = [scene(seed) for seed in range(60)]
    copies = [changes[n % len(changes)](media[n]) for n in range(30)]
    negatives = [255 - x for x in media[30:]]  # are none
    sides = [resized(x, 32) for x in media + copies + negatives]
    assert found(Picture(size=32, atoms=1).input, sides) == {(n, 60 + n) for n in range(30)}


def test_many_are_compared_by_landmarks_as_if_all_were_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    media = list(rng.integers(0, 128, (400, 28, 28), np.uint8))
    media += [x // 2 + 3 for x in media[::10]]
    pairs = found(Pixels.input, media)
    assert pairs == {(10 * n, 400 + n) for n in range(40)}
    monkeypatch.setattr(near_duplicates, "MANY", 100)
    monkeypatch.setattr(near_duplicates, "PER_LANDMARK", 20)
    assert found(Pixels.input, media) == pairs


def test_few_samples_silence_and_vectors() -> None:
    assert found(Mfcc().input, [np.zeros(1, np.float32)]) == set()
    assert found(Mfcc().input, [np.zeros(9, np.float32), np.ones(1, np.float32), melody(1)]) == set()
    assert found(Pixels.input, [np.zeros((28, 28), np.uint8)] * 2) == {(0, 1)}
