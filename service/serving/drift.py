"""Whether what comes in still looks like what was trained on: the population stability index of groups of features."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import FeatureGroup

WINDOW = 1000  # samples that are compared with the training split
LEAST = 200  # samples before anything is said: of fewer, chance alone gives an index near 0.1
ROWS = 8  # of a batch that are looked at
EVERY = 4  # batches, one is looked at: a digit is answered in little more time than it takes to look
FLOOR = 1e-3  # of a proportion, at least: half a sample in the window


class Scores:
    """Features (N, D) → the score of each group, float64 (N, G), as FeatureGroup defines it.

    Parameters
    ----------
    spans : start and stop of each group; each begins where the one before it ends, and the last one ends at D
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._starts = np.array([start for start, _ in spans], np.intp)
        self._sizes = np.array([stop - start for start, stop in spans], np.float64)
        self._single = self._sizes == 1

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        x = features.astype(np.float64)
        rms = np.sqrt(np.add.reduceat(x * x, self._starts, axis=1) / self._sizes)
        return np.where(self._single, x[:, self._starts], rms) if self._single.any() else rms


def index(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The population stability index of two discrete distributions (B,): the sum of (p - q) ln(p / q), the symmetrised
    Kullback-Leibler divergence. Below 0.1 is usual, above 0.25 a population that has changed (Siddiqi 2006)."""
    p, q = np.maximum(found, FLOOR), np.maximum(expected, FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


class Drift:
    """The last WINDOW samples that a model was asked, as the bins that their groups fell into."""

    def __init__(self, groups: Sequence[FeatureGroup]) -> None:
        self.groups = groups
        self._scores = Scores([(group.start, group.stop) for group in groups])
        self._bins: deque[NDArray[np.intp]] = deque(maxlen=WINDOW)
        self._batches = 0
        width = max((len(group.edges) for group in groups), default=0)
        self._edges = np.full((len(groups), width), np.inf)
        for row, group in zip(self._edges, groups, strict=True):
            row[: len(group.edges)] = group.edges

    def add(self, features: NDArray[Any]) -> None:
        """Count the first ROWS samples of features (N, D), of the first of EVERY batches."""
        self._batches += 1
        if self._batches % EVERY != 1:
            return
        found = self._scores(features[:ROWS])
        self._bins.extend((found[:, :, np.newaxis] >= self._edges).sum(axis=2))

    def indices(self) -> dict[str, float]:
        """The population stability index of each group by its name; empty as long as fewer than LEAST samples were
        seen."""
        if len(self._bins) < LEAST:
            return {}
        bins = np.array(list(self._bins))  # copied first: other threads go on adding
        return {
            group.name: index(np.bincount(column, minlength=len(group.shares)) / len(bins), np.array(group.shares))
            for group, column in zip(self.groups, bins.T, strict=True)
        }
