"""Resampling of a recording that is read block by block."""

import numpy as np
import soxr
from numpy.typing import NDArray

HELD = 0.05  # seconds by which the last value is prolonged: longer than the resampler's filter


def resampled_length(n: int, rate: int, new_rate: int) -> int:
    """How many samples n of them are at the new rate, rounded."""
    return (2 * n * new_rate + rate) // (2 * rate)


class Resampler:
    """soxr's stream, for which a recording goes on beyond its ends at its first and its last value, not at zero.

    From zero, a constant offset would begin and end with a step, which the filter turns into a click of a quarter of
    its height.

    Parameters
    ----------
    rate, new_rate : Hz
    first : value at which the recording begins, if what is resampled is a later part of it

    Example
    -------
    >>> half = Resampler(44_100, 22_050)
    >>> chunks = half.resample_chunk(np.full(1000, 0.5, np.float32)), half.resample_chunk(np.float32([]), last=True)
    >>> len(np.concatenate(chunks)), set(np.concatenate(chunks).tolist())
    (500, {0.5})
    """

    def __init__(self, rate: int, new_rate: int, first: np.float32 | None = None) -> None:
        self.rate, self.new_rate = rate, new_rate
        self.stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32")
        self.taken = self.given = 0  # samples
        self.first, self.last = first, np.float32(0)

    def resample_chunk(self, chunk: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """float32 (T,) → what can be told of the result so far, float32 (T',); its rest with the `last` chunk."""
        if len(chunk):
            if self.first is None:
                self.first = chunk[0]
            self.last = chunk[-1]
            self.taken += len(chunk)
        if last:
            chunk = np.append(chunk, np.full(int(HELD * self.rate), self.last, np.float32))
        first = np.float32(0) if self.first is None else self.first
        result: NDArray[np.float32] = self.stream.resample_chunk(chunk - first, last=last)
        if last:
            result = result[: resampled_length(self.taken, self.rate, self.new_rate) - self.given]
        self.given += len(result)
        result += first
        return result
