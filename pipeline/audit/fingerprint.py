"""Fingerprints of sounds: nearly the same when a recording is re-encoded, resampled, trimmed or made louder."""

import numpy as np
from numpy.typing import NDArray

FRAMES = 20  # a second
WIDTH = 2  # steps from frame to frame in the length of a frame
BANDS = 24  # between LOW and HIGH, of equal ratio: what a telephone's bandwidth keeps
LOW, HIGH = 120.0, 3400.0  # Hz
FLOOR = 6.0  # nats of power below the loudest, beneath which noise may differ
SECONDS = 30  # at the beginning, that are looked at
ALIKE = 0.98  # correlation of two fingerprints of one recording, at least
SHORTEST = 0.6  # of the longer one's frames, that the shorter must have

Print = NDArray[np.float32]  # (frames, BANDS)


def fingerprint(waveform: NDArray[np.float32], sample_rate: int) -> Print:
    """Logarithms of the power in the bands of each frame, above FLOOR, float32 (frames, BANDS)."""
    hop = max(1, sample_rate // FRAMES)
    x = np.asarray(waveform[: SECONDS * sample_rate], np.float32)
    width = WIDTH * hop
    x = np.pad(x, (0, -len(x) % hop + width - hop))
    frames = np.lib.stride_tricks.sliding_window_view(x, width)[::hop] * np.hanning(width).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.geomspace(LOW, min(HIGH, 0.45 * sample_rate), BANDS + 1) * width / sample_rate
    first = np.minimum(np.maximum.accumulate(np.round(edges).astype(int)), power.shape[1] - 1)
    sums = np.add.reduceat(power, first, axis=1)[:, :BANDS]
    level = np.log(np.maximum(sums, sums.max(initial=1e-20) * np.exp(-FLOOR)))
    return np.asarray(level - level.max(), np.float32)


def likeness(a: Print, b: Print) -> float:
    """Correlation of the shorter one with the best part of the longer; 0 if their lengths differ too much."""
    shorter, longer = sorted((a, b), key=len)
    n = len(shorter)
    if n < SHORTEST * len(longer):
        return 0.0
    y = shorter.ravel() - shorter.mean()
    best = 0.0
    for start in range(len(longer) - n + 1):
        part = longer[start : start + n].ravel()
        part = part - part.mean()
        size = float(np.sqrt((part @ part) * (y @ y)))
        best = max(best, float(part @ y) / size if size else 0.0)
    return best
