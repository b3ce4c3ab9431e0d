"""Sounds that are mere noise are made for the verdict on sounds."""

import numpy as np

from pipeline.train.noises import DURATIONS, make_noises

RATE = 8_000  # Hz


def test_noises_are_determined_by_the_seed() -> None:
    first, again, other = (list(make_noises(4, RATE, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_noises_are_finite_audible_and_of_many_lengths_and_levels() -> None:
    noises = list(make_noises(40, RATE, 0))
    lengths, peaks = [len(n) / RATE for n in noises], [float(np.abs(n).max()) for n in noises]
    assert all(np.isfinite(n).all() for n in noises)
    assert DURATIONS[0] - 0.01 < min(lengths) < 0.5
    assert 2 < max(lengths) <= DURATIONS[1]
    assert 0.0009 < min(peaks) < 0.01
    assert 0.5 < max(peaks) < 1.001


def test_a_quarter_each_are_noise_hum_clicks_and_tones() -> None:
    noises = list(make_noises(80, RATE, 0))
    crests = np.array([np.abs(n).max() / n.std() for n in noises])
    assert np.median(crests[2::4]) > 2 * np.median(crests[::4])
    flat, strongest = [], []
    for noise in noises:
        power = np.abs(np.fft.rfft(noise)) ** 2 + 1e-20
        flat.append(np.exp(np.log(power).mean()) / power.mean())
        strongest.append(power.argmax() / len(noise) * RATE)
    assert max(np.median(flat[1::4]), np.median(flat[3::4])) < 0.01 < np.median(flat[::4])
    assert np.median(strongest[1::4]) < 130 < np.median(strongest[3::4]) < 2_000
