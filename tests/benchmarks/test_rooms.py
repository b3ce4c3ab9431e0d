"""Impulse responses of rooms have the reverberation time that they claim."""

import numpy as np
import pytest

from benchmarks.rooms import impulse_response

RATE = 8_000  # Hz


@pytest.mark.parametrize("rt60", [0.2, 0.4])
def test_the_energy_falls_as_the_reverberation_time_says(rt60: float) -> None:
    """Schroeder's integral, from -5 to -25 dB, times three; a box with even walls decays somewhat more slowly than
    Eyring's diffuse field."""
    for seed in range(3):
        response = impulse_response(rt60, RATE, np.random.default_rng(seed))
        energy = np.cumsum(response[::-1] ** 2)[::-1]
        decibels = 10 * np.log10(energy / energy[0])
        falling = np.argmax(decibels < -25) - np.argmax(decibels < -5)
        assert 0.8 < 3 * falling / RATE / rt60 < 1.5


def test_the_first_arrival_is_the_loudest_sample_of_the_direct_path() -> None:
    response = impulse_response(0.2, RATE, np.random.default_rng(0))
    first = np.flatnonzero(np.abs(response) > 1e-6)[0]
    assert np.abs(response).argmax() - first < 2
