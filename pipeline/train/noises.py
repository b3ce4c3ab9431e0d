"""Out-of-distribution sounds, on which the network behind `known` is trained, together with the training samples.

They hold nothing but noise of many colours, hum, clicks and the tones of devices: what a microphone gives where nobody
plays. A network that was trained on noisy copies takes noise alone for one of its classes otherwise (outlier exposure;
Hendrycks, Mazeika & Dietterich 2019).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.extract import log_uniform

Waveform = NDArray[np.float32]  # (T,), mono

DURATIONS = (0.3, 3.0)  # seconds, shortest and longest
COLOURS = (-1.0, 3.0)  # power of noise falls with frequency to a power between these: blue to darker than brown
LOWEST = 20.0  # Hz: below it the power is constant
GAIN = 6.0  # decibels: standard deviation of the gain of each octave, of half of the noises
HUM = (40.0, 130.0)  # Hz
TONE = (100.0, 2_000.0)  # Hz
HARMONICS = 40  # of a tone, at most
FALL = (1.0, 3.0)  # of the amplitude of harmonics with their number, as a power of it
CLICKS = (1.0, 60.0)  # a second
FAINT = (-80.0, -20.0)  # decibels of the noise under hum and clicks
SWELL = (0.2, 4.0)  # Hz: how fast the level of half of the sounds changes
KINDS = 4  # noise, hum, clicks, tones


def make_noises(n: int, sample_rate: int, seed: int) -> Iterator[Waveform]:
    """`n` sounds of noise, hum, clicks or tones, float32 (T,) each, of any level that recordings have.

    >>> [noise.dtype.name for noise in make_noises(2, 8000, 0)]
    ['float32', 'float32']
    """
    rng = np.random.default_rng(seed)
    for i in range(n):
        length = int(log_uniform(rng, *DURATIONS) * sample_rate)
        noise = _coloured(rng, length, sample_rate)
        if i % KINDS:
            sound = (_hum, _clicks, _tone)[i % KINDS - 1](rng, length, sample_rate)
            noise = sound + 10 ** (rng.uniform(*FAINT) / 20) * noise
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


def _clicks(rng: np.random.Generator, length: int, sample_rate: int) -> NDArray[np.float64]:
    """Single samples (length,), at random."""
    some = rng.random(length) < log_uniform(rng, *CLICKS) / sample_rate
    return np.where(some, rng.uniform(0.2, 1, length), 0.0)


def _hum(rng: np.random.Generator, length: int, sample_rate: int) -> NDArray[np.float64]:
    """A few harmonics of a low frequency (length,)."""
    return _harmonics(rng, log_uniform(rng, *HUM), np.arange(1, 1 + rng.integers(1, 12)), length, sample_rate)


def _tone(rng: np.random.Generator, length: int, sample_rate: int) -> NDArray[np.float64]:
    """A steady tone (length,): a sine, or all harmonics below half of the sampling rate, or the odd ones of them."""
    hertz = log_uniform(rng, *TONE)
    most = 1 if rng.random() < 0.3 else max(1, int(min(HARMONICS, sample_rate / 2 / hertz)))
    return _harmonics(rng, hertz, np.arange(1, most + 1, rng.integers(1, 3)), length, sample_rate)


def _harmonics(
    rng: np.random.Generator, hertz: float, numbers: NDArray[np.int64], length: int, sample_rate: int
) -> NDArray[np.float64]:
    """Harmonics of a frequency (length,), each fainter than the one before it."""
    time, phases = np.arange(length) * hertz / sample_rate, rng.random((len(numbers), 1))
    amplitudes = numbers.astype(np.float64) ** -rng.uniform(*FALL)
    return np.asarray(amplitudes @ np.sin(2 * np.pi * (np.outer(numbers, time) + phases)))
