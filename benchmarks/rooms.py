"""Impulse responses of rooms by the image-source method (Allen & Berkley 1979), for benchmarks.robustness."""

import numpy as np
import scipy.signal
from numpy.typing import NDArray

SOUND = 343.0  # metres per second
SMALLEST, LARGEST = (3.0, 3.0, 2.4), (8.0, 6.0, 3.5)  # metres
WALL = 0.2  # share of each side that source and microphone keep away from the walls
LOWEST = 50.0  # Hz: images all have the same sign, so that their sum holds too much of lower frequencies


def impulse_response(rt60: float, rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Impulse response float32 (T,) of a box of random size, between two random points in it.

    Its six walls reflect alike, at all frequencies, by Eyring's formula for the reverberation time.

    Parameters
    ----------
    rt60 : seconds in which the sound falls by 60 decibels; also the length of the response
    rate : Hz

    >>> impulse_response(0.3, 8000, np.random.default_rng(0)).shape
    (2400,)
    """
    sides = rng.uniform(SMALLEST, LARGEST)
    source, microphone = sides * rng.uniform(WALL, 1 - WALL, (2, 3))
    surface = 2 * (sides.prod() / sides).sum()
    amplitude = np.exp(-0.161 * sides.prod() / (surface * rt60) / 2)  # √(1 - absorption)
    squares, walls = [], []  # along each axis: squared distances of the images, and how many walls each comes by
    for side, a, b in zip(sides, source, microphone, strict=True):
        n = np.arange(-(rounds := int(SOUND * rt60 / (2 * side)) + 1), rounds + 1)
        squares.append(np.concatenate([2 * n * side + a - b, 2 * n * side - a - b]) ** 2)
        walls.append(np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)]))
    distance = np.sqrt(sum(np.ix_(*squares)))
    samples = distance * rate / SOUND
    length = int(rt60 * rate)
    reached = samples < length - 1
    at, strength = samples[reached], (amplitude ** sum(np.ix_(*walls)) / distance)[reached]
    first, part = at.astype(int), at % 1  # an image between two samples counts in both
    response = np.bincount(first, strength * (1 - part), length) + np.bincount(first + 1, strength * part, length)
    high_pass = scipy.signal.butter(2, LOWEST, "high", fs=rate, output="sos")
    heard: NDArray[np.float32] = scipy.signal.sosfilt(high_pass, response).astype(np.float32)
    return heard
