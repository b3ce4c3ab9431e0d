"""Augmentation of sound at extraction: copies of a clip as another instrument, player or room might have given it."""

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.task import Variation

LOWEST = 60.0  # Hz: centre of the first octave that is filtered
NOISE_RANGE = 40.0  # decibels: between the most noise and the least

Waveform = NDArray[np.float32]  # (T,), mono


def vary(clip: Waveform, sample_rate: int, variation: Variation, content: str, number: int) -> Waveform:
    """Copy `number` of a clip (T,): a pure function of the clip's digest, the number and the parameters.

    Pitch is shifted by resampling, as a faster tape would, so that the formants move with it (Salamon & Bello 2017
    compare such augmentations); then a part of the beginning is cut off. A share of the copies is filtered, with a gain
    per octave drawn from a normal distribution and interpolated; a share goes through a lower sampling rate, which
    removes high frequencies; and a share gets white noise.
    """
    rng = np.random.default_rng([int(content[:16], 16), number])
    drawn = rng.uniform(-1, 1, 3)
    filtered, noisy, limited = rng.uniform(size=3) < variation.share
    speed = 2 ** (drawn[0] * variation.pitch / 12)
    varied: Waveform = soxr.resample(clip, sample_rate * speed, sample_rate) if speed != 1 else clip
    cut = int(abs(drawn[1]) * variation.shift * sample_rate)
    varied = varied[min(cut, len(varied) // 2) :]
    if variation.filter and filtered:
        varied = _equalise(varied, sample_rate, variation.filter, rng)
    if variation.rate and limited:
        rate = np.exp(rng.uniform(np.log(variation.rate), np.log(max(variation.rate, sample_rate))))
        varied = soxr.resample(soxr.resample(varied, sample_rate, rate), rate, sample_rate)
    varied = varied * np.float32(10 ** (drawn[2] * variation.gain / 20))
    if variation.noise and noisy:
        decibels = rng.uniform(variation.noise, variation.noise + NOISE_RANGE)
        deviation = np.sqrt(np.mean(varied**2)) * 10 ** (-decibels / 20)
        varied = varied + np.float32(deviation) * rng.standard_normal(len(varied), np.float32)
    return np.ascontiguousarray(varied, np.float32)


def _equalise(clip: Waveform, sample_rate: int, decibels: float, rng: np.random.Generator) -> Waveform:
    import scipy.fft  # only where there are copies: it takes a quarter of a second to import

    octaves = np.log2(np.geomspace(LOWEST, sample_rate / 2, max(2, round(np.log2(sample_rate / 2 / LOWEST)))))
    size = scipy.fft.next_fast_len(len(clip), real=True)
    frequency = np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate), LOWEST)
    gain = np.interp(np.log2(frequency), octaves, rng.normal(0, decibels, len(octaves)))
    spectrum = scipy.fft.rfft(clip, size) * (10 ** (gain / 20)).astype(np.float32)
    equalised: Waveform = scipy.fft.irfft(spectrum, size)[: len(clip)]
    return equalised
