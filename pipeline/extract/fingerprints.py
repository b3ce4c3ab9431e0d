"""Fingerprints: of each sound or picture the few bytes by which copies of it are recognised without decoding it again.

A fingerprint is a small piece of the signal itself: a second or two of a sound about its loudest places, at the
sampling rate of a telephone, or a picture's grey levels on a small grid. `near_duplicates.py` compares them. Raise
`FINGERPRINTS_VERSION` in pipeline/versions.py when the fingerprint of the same media changes: caches of features are
keyed by it.
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
QUIET = 0.03  # of the peak: a piece with a lower one tells nothing but of the room
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
    return none


def none(media: NDArray[np.generic]) -> Print:
    """No fingerprint, of media that are not compared."""
    return np.empty(0, np.int8)


def shape(form: Input) -> tuple[int, ...]:
    """The shape of the signals of which a fingerprint has one or more."""
    if form.sample_rate is not None:
        return (LENGTH,)
    if form.kind == "image":
        return (SIDE, SIDE) if len(form.shape) == 4 else form.shape[1:]  # type: ignore[return-value]
    return (0,)


def sound(waveform: NDArray[np.float32], sample_rate: int) -> Print:
    """Two pieces of a waveform (T,), int8 (2 * LENGTH,): a second about its loudest place, and one about the loudest of
    its second half, since the loudest may have been cut off in a copy.

    A waveform that is no longer than a second is the first piece, followed by zeros. The second piece is zeros where it
    would be too quiet, or mostly the first.

    >>> sound(np.float32([0, 0.5, 0, -0.5]), 8000)[:5].tolist()
    [0, 127, 0, -127, 0]
    """
    found = soxr.resample(waveform, sample_rate, RATE) if len(waveform) > 1 else waveform
    hop = RATE // LEVELS
    level = np.add.reduceat(np.square(found), np.arange(0, len(found), hop))
    smooth = np.convolve(level, np.hanning(round(SMOOTHED * LEVELS) + 2), "same")[: len(level)]
    half = len(smooth) // 2
    firsts = [
        max(0, min(place * hop - round(BEFORE * LENGTH), len(found) - LENGTH))
        for place in (int(smooth.argmax()), half + int(smooth[half:].argmax()))
    ]
    one, other = (found[first : first + LENGTH] for first in firsts)
    peak, later = (float(np.abs(piece).max(initial=0)) for piece in (one, other))
    if firsts[1] - firsts[0] < LENGTH // 2 or later < QUIET * peak:
        other, later = other[:0], 0.0
    pieces = ((one, peak), (other, later))
    levels = [np.rint(piece * (PEAK / (top or 1.0))).astype(np.int8) for piece, top in pieces]
    return np.concatenate([np.pad(piece, (0, LENGTH - len(piece))) for piece in levels])


def picture(pixels: NDArray[np.uint8]) -> Print:
    """Half the grey levels of a picture (H, W), or of one in colour (S, S, 3) on a grid of SIDE × SIDE.

    >>> picture(np.full((64, 64, 3), 200, np.uint8))[:3].tolist()
    [100, 100, 100]
    """
    if pixels.ndim == 2:
        return (pixels >> 1).astype(np.int8).reshape(-1)
    grey = Image.fromarray(pixels).convert("L")
    return (np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)) >> 1).astype(np.int8).reshape(-1)
