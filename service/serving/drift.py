"""Drift: whether requests still look like the training data, by the population stability index of feature groups."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import FeatureGroup

WINDOW = 1000  # samples that are compared with the training split
LEAST = 200  # samples before an index is given: with fewer, chance alone gives one near 0.1
ROWS = 8  # samples of a batch that are counted
EVERY = 4  # one batch in four is counted: counting takes nearly as long as answering a digit
FLOOR = 1e-3  # least proportion, half a sample in the window: keeps the logarithm finite


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
    Kullback-Leibler divergence. Below 0.1 is usual; above 0.25 the population has changed (Siddiqi 2006).

    >>> index(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    0.0
    """
    p, q = np.maximum(found, FLOOR), np.maximum(expected, FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


class Drift:
    """The last WINDOW samples that a model answered, as the bins into which the scores of their groups fell."""

    def __init__(self, groups: Sequence[FeatureGroup]) -> None:
        self.groups = groups
        self._scores = Scores([(group.start, group.stop) for group in groups])
        self._bins: deque[NDArray[np.intp]] = deque(maxlen=WINDOW)
        self._batches = 0
        self._known: tuple[int, dict[str, float]] = -1, {}  # batches, and the indices after so many
        width = max((len(group.edges) for group in groups), default=0)
        self._edges = np.full((len(groups), width), np.inf)
        for row, group in zip(self._edges, groups, strict=True):
            row[: len(group.edges)] = group.edges

    def add(self, features: NDArray[Any]) -> None:
        """Count the first ROWS samples of features (N, D); only one batch in EVERY."""
        self._batches += 1
        if self._batches % EVERY != 1:
            return
        found = self._scores(features[:ROWS])
        self._bins.extend((found[:, :, np.newaxis] >= self._edges).sum(axis=2))

    def indices(self) -> dict[str, float]:
        """Name of each group → its population stability index; empty until LEAST samples were counted."""
        batches = self._batches
        if self._known[0] != batches:
            self._known = batches, self._computed()
        return self._known[1]

    def _computed(self) -> dict[str, float]:
        if len(self._bins) < LEAST:
            return {}
        bins = np.array(list(self._bins))  # copied first: other threads keep adding
        return {
            group.name: index(np.bincount(column, minlength=len(group.shares)) / len(bins), np.array(group.shares))
            for group, column in zip(self.groups, bins.T, strict=True)
        }
