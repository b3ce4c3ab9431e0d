"""The mel scale and hearing's B-weighting, as `librosa` defines them, which takes a second and 150 MB to import.

Values are equal to librosa's, bit for bit, which a test compares.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LINEAR = 200 / 3  # Hz for each mel up to KNEE
KNEE = 1000.0  # Hz, from which on the scale is logarithmic
STEP = np.log(6.4) / 27  # natural logarithm of the ratio of frequencies that are one mel apart there
B_POLES = np.array([12194.217, 20.598997, 158.48932]) ** 2  # Hz², IEC 61672 and its predecessor


def hz_to_mel(hertz: Sequence[float]) -> Array:
    """Frequencies in Hz (n,) on Slaney's mel scale (Auditory Toolbox, 1998). (n,)

    >>> hz_to_mel([0, 500, 1000, 6400]).round(2).tolist()
    [0.0, 7.5, 15.0, 42.0]
    """
    mels: Array = np.asarray(hertz, np.float64) / LINEAR
    above = mels >= KNEE / LINEAR
    mels[above] = KNEE / LINEAR + np.log(np.asarray(hertz, np.float64)[above] / KNEE) / STEP
    return mels


def mel_frequencies(n: int, fmin: float, fmax: float) -> Array:
    """`n` frequencies in Hz from `fmin` to `fmax` that are equally far apart on the mel scale. (n,)

    >>> mel_frequencies(4, 0, 3000).round(1).tolist()
    [0.0, 688.4, 1475.0, 3000.0]
    """
    first, last = hz_to_mel([fmin, fmax])
    mels, knee = np.linspace(first, last, n), KNEE / LINEAR
    hertz: Array = LINEAR * mels
    above = mels >= knee
    hertz[above] = KNEE * np.exp(STEP * (mels[above] - knee))
    return hertz


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None = None) -> Array:
    """Triangular filters of equal area for the bins of a transform's power, from `fmin` to `fmax` Hz, by default half
    of the sample rate. (n_mels, n_fft/2 + 1)"""
    edges = mel_frequencies(n_mels + 2, fmin, fmax or sample_rate / 2)
    widths = np.diff(edges)[:, np.newaxis]
    slopes = np.subtract.outer(edges, np.fft.rfftfreq(n_fft, 1 / sample_rate))
    triangles: Array = np.maximum(0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    triangles *= (2 / (edges[2:] - edges[:-2]))[:, np.newaxis]
    if not ((edges[:-2] == 0) | (triangles.max(axis=1) > 0)).all():
        warnings.warn(
            "some mel filters lie between two bins and are always 0; use fewer, or a larger n_fft", stacklevel=2
        )
    return triangles


def b_weighting(hertz: Array) -> Array:
    """How much louder or softer than at 1 kHz a tone of each frequency is heard, in decibels, at least -80.

    >>> b_weighting(np.array([50.0, 1000.0])).round(1).tolist()
    [-11.6, 0.0]
    """
    squared = hertz**2
    with np.errstate(divide="ignore"):
        decibels: Array = 0.17 + 20 * (
            np.log10(B_POLES[0]) + 1.5 * np.log10(squared)
            - np.log10(squared + B_POLES[0]) - np.log10(squared + B_POLES[1]) - 0.5 * np.log10(squared + B_POLES[2])
        )  # fmt: skip
    audible: Array = np.maximum(-80.0, decibels)
    return audible
