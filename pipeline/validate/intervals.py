"""Confidence intervals of proportions over samples that come in groups: takes of one group are not independent."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.schema import Interval

DRAWS = 1000  # of the bootstrap
FEWEST = 10  # groups that are drawn from; of fewer, each counts as one trial, since draws of so few differ too little
WEIGHTS = 20_000_000  # counts of all draws together, at most, in memory
Z = 1.959963984540054  # quantile of the normal distribution: 95 % are within ± Z


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals of proportions of N samples.

    Where each sample is its own group, they are Wilson's (1927). Else groups are drawn with replacement (the cluster
    bootstrap, Field & Welsh 2007), always the same ones; fewer than `FEWEST` groups are as many trials for Wilson's.

    group : int64 (N,), index of each sample's group
    n_groups : how many there are

    Example
    -------
    >>> hits = np.arange(40) % 10 > 0
    >>> alone, together = Intervals.of(np.arange(40)), Intervals.of(np.repeat(np.arange(4), 10))
    >>> [f"{end:.2f}" for end in alone.among(hits)], [f"{end:.2f}" for end in together.among(np.arange(40) < 30)]
    (['0.77', '0.96'], ['0.30', '0.95'])
    """

    group: NDArray[np.int64]
    n_groups: int
    weights: NDArray[np.float32]  # (draws, groups), how often each group is in each draw; none where all are alone

    @staticmethod
    def of(group: NDArray[np.generic]) -> "Intervals":
        """The intervals of samples whose groups have these names (N,)."""
        names, index = np.unique(group, return_inverse=True)
        n = len(names)
        if n == len(group):
            return Intervals(index, n, np.empty((0, n), np.float32))
        rng, weights = np.random.default_rng(0), np.empty((min(DRAWS, max(100, WEIGHTS // n)), n), np.float32)
        for row in weights:
            row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
        return Intervals(index, n, weights)

    def among(self, hits: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None) -> Interval:
        """The interval of the share of hits (N,) among the samples that are counted (N,), by default all; None if none
        is."""
        if counted is None:
            counted = np.ones(len(hits), bool)
        trials = np.bincount(self.group, counted, self.n_groups)
        successes = np.bincount(self.group, hits & counted, self.n_groups)
        n, k, groups = trials.sum(), successes.sum(), int(np.count_nonzero(trials))
        if not n:
            return None
        if not len(self.weights) or k in (0, n) or groups < FEWEST:
            return wilson(float(k / n), groups)
        drawn = self.weights @ np.stack([successes, trials], 1)
        shares = drawn[drawn[:, 1] > 0]
        low, high = np.quantile(shares[:, 0] / shares[:, 1], [0.025, 0.975])
        return [float(low), float(high)]

    def wins(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
        """By how many samples the first is right more often than the second in each group, (groups,)."""
        lead = first.astype(np.float64) - second
        return np.bincount(self.group, lead, self.n_groups).astype(np.float64)


def wilson(share: float, trials: int) -> Interval:
    """95 % interval of a share of that many independent trials (Wilson 1927).

    Example
    -------
    >>> low, high = wilson(0.9, 10)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.596 to 0.982
    >>> wilson(1, 167)[1]
    1.0
    """
    centre = share + Z**2 / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / trials) for sign in (-1, 1))
    return [float(low) if share > 0 else 0.0, float(high) if share < 1 else 1.0]  # at both ends exactly
