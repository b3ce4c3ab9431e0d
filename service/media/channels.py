"""Several channels → mono: their mean, or the loudest where they cancel each other."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANCELLED = 0.25  # energy of the mean, 1 where channels are unrelated: 9 dB below each of two that are equally loud

Block = NDArray[np.float32]  # (T, channels)


def as_floats(block: NDArray[Any], out: Block | None = None) -> Block:
    """int16 or float32 (T, channels) → float32 in [-1, 1]: of 16 bits the same numbers as libsndfile's, in a third of
    its time, and in `out` if that is given.

    >>> as_floats(np.int16([[-(2**15)], [2**14]])).tolist()
    [[-1.0], [0.5]]
    """
    if block.dtype != np.int16:
        return block
    floats = np.empty(block.shape, np.float32) if out is None else out
    floats[:] = block
    floats *= np.float32(2**-15)
    return floats


def mean(block: Block, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """float32 (T, channels) → (T,), the mean, in `out` if that is given; spelled out for mono and stereo: NumPy's takes
    ten times as long.

    >>> mean(np.float32([[0.5, 0.25], [-0.5, 0.5]])).tolist()
    [0.375, 0.0]
    """
    mono: NDArray[np.float32] = block[:, 0]
    if block.shape[1] == 2:
        mono = np.add(block[:, 0], block[:, 1], out=out)
        mono *= np.float32(0.5)
    elif block.shape[1] > 2:
        mono = block.mean(axis=1, out=out)
    elif out is not None:
        out[:] = mono
        mono = out
    return mono


@lru_cache(4)
def _ones(n: int) -> NDArray[np.float32]:
    return np.ones(n, np.float32)


class Mix:
    """The mean of the channels of a recording, block by block, and whether `loudest_if_cancelled` needs to look at it:
    that takes sums over single channels, which would slow down every other recording."""

    def __init__(self) -> None:
        self._total, self._sum, self._of_mean, self._of_all = 0, 0.0, 0.0, 0.0

    def __call__(self, block: Block, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The mean of float32 (T, channels), in `out` if that is given."""
        mono = mean(block, out)
        if block.shape[1] > 1:
            self._total += len(mono)
            self._sum += float(np.dot(mono, _ones(len(mono))))  # mono.sum() takes longer
            self._of_mean += float(np.dot(mono, mono))
            flat = block.reshape(-1)
            self._of_all += float(np.dot(flat, flat)) / block.shape[1] ** 2
        return mono

    def add(self, other: "Mix") -> None:
        """Count what the other one has mixed too."""
        self._total += other._total
        self._sum += other._sum
        self._of_mean += other._of_mean
        self._of_all += other._of_all

    def may_be_cancelled(self) -> bool:
        """Whether the mean has far less energy than if the channels were unrelated. Constant offsets of single channels
        still count as energy here."""
        return self._total > 0 and self._of_mean - self._sum**2 / self._total < CANCELLED * self._of_all


def loudest_if_cancelled(blocks: Iterable[Block]) -> int | None:
    """The loudest channel of a recording, if the mean of all has far less energy than if they were unrelated, as in
    stereo with one wire swapped; else None. Constant offsets do not count.

    >>> left = np.float32([[0.5], [-0.5], [0.1]])
    >>> loudest_if_cancelled([np.hstack([left, -0.9 * left])])
    0
    >>> loudest_if_cancelled([np.hstack([left, 0.9 * left])])
    """
    total, sums, products = 0, np.zeros(1), np.zeros((1, 1))
    for block in blocks:
        total += len(block)
        sums = sums + np.ones(len(block), np.float32) @ block
        products = products + block.T @ block
    if not total:
        return None
    covariance = products / total - np.outer(sums, sums) / total**2
    energies = covariance.diagonal()
    return int(energies.argmax()) if covariance.sum() < CANCELLED * energies.sum() else None
