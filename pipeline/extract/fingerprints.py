"""Fingerprints: of each sound or picture the few bytes by which copies of it are recognised without decoding it again.

A fingerprint is a small piece of the signal itself: a second of a sound about its loudest place, at a telephone's
sampling rate, or a picture's grey levels on a small grid. `near.py` compares them. Raise `FINGERPRINTS_VERSION` in
pipeline/task.py when the fingerprint of the same media changes: caches of features are keyed by it.
"""

from collections.abc import Callable

import numpy as np
import soxr
from numpy.typing import NDArray
from PIL import Image

from models.card import Input

RATE = 8_000  # Hz: the lowest sampling rate at which copies are recognised
LENGTH = 8_192  # samples of a sound, a second
LEVELS = 40  # a second, at which the loudness of a sound is looked at
SMOOTHED = 0.5  # seconds over which it is averaged, so that the loudest place is the same in a trimmed copy
BEFORE = 0.3  # of the fingerprint lie before the loudest place
SIDE = 32  # pixels of a picture in colour
PEAK = 127  # int8

Print = NDArray[np.int8]  # (P,), flattened


def of(form: Input) -> Callable[[NDArray[np.generic]], Print]:
    """The function that makes the fingerprint of decoded media; of vectors, which have none, an empty one."""
    rate = form.sample_rate
    if rate is not None:
        return lambda media: sound(np.asarray(media, np.float32), rate)
    if form.kind == "image":
        return lambda media: picture(np.asarray(media, np.uint8))
    return lambda media: np.empty(0, np.int8)


def shape(form: Input) -> tuple[int, ...]:
    """The shape of a fingerprint as a signal."""
    if form.sample_rate is not None:
        return (LENGTH,)
    if form.kind == "image":
        return (SIDE, SIDE) if len(form.shape) == 4 else form.shape[1:]  # type: ignore[return-value]
    return (0,)


def sound(waveform: NDArray[np.float32], sample_rate: int) -> Print:
    """A second of a waveform (T,) about its loudest place, int8 (LENGTH,); a shorter one as a whole, then zeros.

    >>> sound(np.float32([0, 0.5, 0, -0.5]), 8000)[:5].tolist()
    [0, 127, 0, -127, 0]
    """
    found = soxr.resample(waveform, sample_rate, RATE) if len(waveform) > 1 else waveform
    if len(found) > LENGTH:
        hop = RATE // LEVELS
        level = np.add.reduceat(np.square(found), np.arange(0, len(found), hop))
        loudest = int(np.convolve(level, np.hanning(round(SMOOTHED * LEVELS) + 2), "same").argmax()) * hop
        first = min(max(0, loudest - round(BEFORE * LENGTH)), len(found) - LENGTH)
        found = found[first : first + LENGTH]
    peak = float(np.abs(found).max(initial=0)) or 1.0
    levels = np.rint(found * (PEAK / peak)).astype(np.int8)
    return np.pad(levels, (0, LENGTH - len(levels)))


def picture(pixels: NDArray[np.uint8]) -> Print:
    """Half the grey levels of a picture (H, W), or of one in colour (S, S, 3) on a grid of SIDE × SIDE.

    >>> picture(np.full((64, 64, 3), 200, np.uint8))[:3].tolist()
    [100, 100, 100]
    """
    if pixels.ndim == 2:
        return (pixels >> 1).astype(np.int8).reshape(-1)
    grey = Image.fromarray(pixels).convert("L")
    return (np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)) >> 1).astype(np.int8).reshape(-1)
