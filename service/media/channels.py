"""Several channels → mono: their mean, or the loudest where they cancel each other."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

CANCELLED = 0.25  # energy of the mean, 1 where channels are unrelated: 9 dB below each of two that are equally loud

Block = NDArray[np.float32]  # (T, channels)


def mean(block: Block) -> NDArray[np.float32]:
    """float32 (T, channels) → (T,), the mean; spelled out for mono and stereo: NumPy's takes ten times as long.

    >>> mean(np.float32([[0.5, 0.25], [-0.5, 0.5]])).tolist()
    [0.375, 0.0]
    """
    if block.shape[1] == 1:
        return block[:, 0]
    stereo = block.shape[1] == 2
    mono: NDArray[np.float32] = np.float32(0.5) * (block[:, 0] + block[:, 1]) if stereo else block.mean(axis=1)
    return mono


class Mix:
    """The mean of the channels of a recording, block by block, and whether `loudest_if_cancelled` needs to look at it:
    that takes sums over single channels, which would slow down every other recording."""

    def __init__(self) -> None:
        self._total, self._sum, self._of_mean, self._of_all = 0, 0.0, 0.0, 0.0
        self._ones = np.ones(0, np.float32)

    def __call__(self, block: Block) -> NDArray[np.float32]:
        """The mean of float32 (T, channels)."""
        mono = mean(block)
        if block.shape[1] > 1:
            if len(self._ones) < len(mono):
                self._ones = np.ones(len(mono), np.float32)
            self._total += len(mono)
            self._sum += float(np.dot(mono, self._ones[: len(mono)]))  # mono.sum() takes longer
            self._of_mean += float(np.dot(mono, mono))
            flat = block.reshape(-1)
            self._of_all += float(np.dot(flat, flat)) / block.shape[1] ** 2
        return mono

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
