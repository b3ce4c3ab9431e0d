"""Decoded media that are silent, clipped, cut off or blank."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SILENT = 1e-3  # of full scale: a peak below it is silence, -60 dB
QUIET = 1e-3  # of the peak
MOSTLY = 0.95  # share of the samples below QUIET that makes a recording mostly silence
FLAT = 0.98  # of the peak: what is above it is a flat top, if there is much of it
CLIPPED = 0.01  # share of the samples on flat tops
ENDING = 0.02  # seconds at the end whose level tells whether it was cut off
CUT = 0.5  # of the loudest such piece

Finding = tuple[float, str]  # score, reason


def sound(waveform: NDArray[np.float32], sample_rate: int) -> Finding | None:
    """What is wrong with a mono waveform (T,); None if nothing is.

    Example
    -------
    >>> sound(np.zeros(8000, np.float32), 8000)
    (1.0, 'silent')
    >>> tone = np.sin(np.linspace(0, 700, 8000)) * np.hanning(8000)
    >>> sound(tone.astype(np.float32), 8000), sound(np.sign(tone).astype(np.float32), 8000)
    (None, (0.7, 'clipped: 100.0 % of it is at the peak'))
    """
    size = np.abs(waveform)
    peak = float(size.max(initial=0))
    if peak < SILENT:
        return 1.0, "silent"
    flat = float((size > FLAT * peak).mean())
    if flat > CLIPPED:
        return 0.7, f"clipped: {100 * flat:.1f} % of it is at the peak"
    quiet = float((size < QUIET * peak).mean())
    if quiet > MOSTLY:
        return 0.6, f"{100 * quiet:.0f} % of it is silence"
    n = max(1, round(ENDING * sample_rate))
    whole = waveform[len(waveform) % n :] if len(waveform) > n else waveform
    level = np.sqrt(np.square(whole.reshape(-1, min(n, len(whole)))).mean(1))
    if len(level) > 1 and level[-1] > CUT * level.max():
        return 0.4, "ends abruptly: it may be cut off"
    return None


def picture(pixels: NDArray[np.uint8]) -> Finding | None:
    """What is wrong with grey levels (28, 28), or colours (H, W, 3).

    Example
    -------
    >>> picture(np.full((32, 32, 3), (9, 0, 255), np.uint8))
    (1.0, 'blank')
    """
    return (1.0, "blank") if (pixels == pixels[0, 0]).all() else None


def check(kind: str, sample_rate: int | None) -> Callable[[NDArray[np.generic]], Finding | None]:
    """The function that finds what is wrong with the media of a kind of input."""
    if kind == "audio" and sample_rate is not None:
        return lambda media: sound(np.asarray(media, np.float32), sample_rate)
    if kind == "image":
        return lambda media: picture(np.asarray(media, np.uint8))
    return lambda media: None
