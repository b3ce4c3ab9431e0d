"""Shifts change samples into others that the service reads."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import shifts
from benchmarks.robustness import Recording, Unavailable
from service.media import Limits
from service.media.audio import decode_audio
from service.media.image import to_mnist_form

PICTURES = np.stack([to_mnist_form(image) for image in load_digits().images[:5]])
RATE = 44_100
SOUND = (0.3 * np.sin(np.arange(3 * RATE) * 2 * np.pi * 440 / RATE)).astype(np.float32)


def test_no_measured_shift_is_one_of_development() -> None:
    assert not {*shifts.pictures()} & {*shifts.pictures_of_development()}
    assert not {*shifts.sounds()} & {*shifts.sounds_of_development()}


@pytest.mark.parametrize("table", [shifts.pictures, shifts.pictures_of_development])
def test_pictures(table) -> None:
    for name, change in table().items():
        found = shifts.changed(PICTURES, change, 0)
        assert (found.dtype, found.shape) == (np.uint8, PICTURES.shape), name
        assert (found != PICTURES).any(), name
        assert (found == shifts.changed(PICTURES, change, 0)).all(), name
        overlap = (found.astype(float) * PICTURES).sum() / (PICTURES.astype(float) ** 2).sum()
        assert overlap > 0.2, name


@pytest.mark.parametrize("table", [shifts.sounds, shifts.sounds_of_development])
def test_sounds(table) -> None:
    recording = Recording(SOUND, RATE, 1, (Recording(SOUND[::2].copy(), RATE, 2),) * 4)
    for name, condition in table().items():
        if name.startswith("rooms"):  # tests/benchmarks/test_rooms.py
            continue
        try:
            file = condition(recording)
        except Unavailable:
            continue
        sound = decode_audio(file, 22_050, Limits())
        assert 0.4 * 22_050 < len(sound) < 8 * 22_050, name
        assert np.isfinite(sound).all(), name
