"""Out-of-distribution sounds, on which the network behind `known` is trained, together with the training samples.

They hold nothing but noise of many colours, hum and clicks: what a microphone gives where nobody plays. A network that
was trained on noisy copies takes noise alone for one of its classes otherwise (outlier exposure; Hendrycks, Mazeika &
Dietterich 2019).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.extract import log_uniform

Waveform = NDArray[np.float32]  # (T,), mono

SECONDS = (0.3, 3.0)
COLOURS = (-1.0, 3.0)  # power of noise falls with frequency to a power between these: blue to darker than brown
LOWEST = 20.0  # Hz: below it the power is constant
GAIN = 6.0  # decibels: standard deviation of the gain of each octave, of half of the noises
HUM = (40.0, 130.0)  # Hz
CLICKS = (1.0, 60.0)  # a second
FAINT = (-80.0, -20.0)  # decibels of the noise under hum and clicks
SWELL = (0.2, 4.0)  # Hz: how fast the level of half of the sounds changes


def make_noises(n: int, sample_rate: int, seed: int) -> Iterator[Waveform]:
    """`n` sounds of noise, hum or clicks, float32 (T,) each, of any level that recordings have.

    >>> [noise.dtype.name for noise in make_noises(2, 8000, 0)]
    ['float32', 'float32']
    """
    rng = np.random.default_rng(seed)
    for i in range(n):
        length = int(log_uniform(rng, *SECONDS) * sample_rate)
        noise = _coloured(rng, length, sample_rate)
        if i % 4 == 1:
            noise = _hum(rng, length, sample_rate) + 10 ** (rng.uniform(*FAINT) / 20) * noise
        elif i % 4 == 3:
            clicks = (rng.random(length) < log_uniform(rng, *CLICKS) / sample_rate) * rng.uniform(0.2, 1, length)
            noise = clicks + 10 ** (rng.uniform(*FAINT) / 20) * noise
        if rng.random() < 0.5:
            phase = 2 * np.pi * (np.arange(length) / sample_rate * log_uniform(rng, *SWELL) + rng.random())
            noise = noise * (1 + rng.random() * np.cos(phase))
        yield (noise * (log_uniform(rng, 1e-3, 1) / max(np.abs(noise).max(), 1e-9))).astype(np.float32)


def _coloured(rng: np.random.Generator, length: int, sample_rate: int) -> NDArray[np.float64]:
    """Noise (length,) of deviation 1, half of it filtered by octaves."""
    from scipy import fft  # takes a while to import

    size = fft.next_fast_len(length, real=True)
    hertz = np.maximum(fft.rfftfreq(size, 1 / sample_rate), LOWEST)
    decibels = -10 * rng.uniform(*COLOURS) * np.log10(hertz)
    if rng.random() < 0.5:
        octaves = np.arange(np.log2(LOWEST), np.log2(sample_rate / 2) + 1)
        decibels += np.interp(np.log2(hertz), octaves, rng.normal(0, GAIN, len(octaves)))
    spectrum = fft.rfft(rng.standard_normal(size)) * 10 ** ((decibels - decibels.max()) / 20)
    noise: NDArray[np.float64] = fft.irfft(spectrum, size)[:length]
    noise /= noise.std()
    return noise


def _hum(rng: np.random.Generator, length: int, sample_rate: int) -> NDArray[np.float64]:
    """The harmonics of a low frequency (length,), each fainter than the one before it."""
    hertz, fall = log_uniform(rng, *HUM), rng.uniform(1, 3)
    harmonics = np.arange(1, 1 + rng.integers(1, 12))
    phases = (
        2 * np.pi * (np.outer(harmonics, np.arange(length)) * hertz / sample_rate + rng.random((len(harmonics), 1)))
    )
    hum: NDArray[np.float64] = (1 / harmonics**fall) @ np.sin(phases)
    return hum
