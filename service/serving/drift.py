"""The last samples that a model answered: whether they still look like the training data, by the population stability
index of feature groups, and how sure the answers were, from which estimate.py estimates their accuracy."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.card import FeatureGroup

WINDOW = 1000  # samples that are compared with the training split
MIN_SAMPLES = 200  # samples before an index is given: with fewer, chance alone gives one near 0.1
COUNTED = 8  # samples of a batch that are counted
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
        self._any_single = bool(self._single.any())

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        x = features.astype(np.float64)
        rms = np.sqrt(np.add.reduceat(x * x, self._starts, axis=1) / self._sizes)
        return np.where(self._single, x[:, self._starts], rms) if self._any_single else rms


def index(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The population stability index of two discrete distributions (B,): the sum of (p - q) ln(p / q), the symmetrised
    Kullback-Leibler divergence. Below 0.1 is usual; above 0.25 the population has changed (Siddiqi 2006).

    >>> index(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    0.0
    """
    p, q = np.maximum(found, FLOOR), np.maximum(expected, FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


class Sample(NamedTuple):
    """What is kept of a sample: the scores of its groups (G,), the largest of its answers, its familiarity, and whether
    the graph's second reading has the same label; both NaN if they were not asked for."""

    scores: NDArray[np.float64]
    confidence: float
    familiarity: float = math.nan
    agrees: float = math.nan


class Drift:
    """The last WINDOW samples that a model answered."""

    def __init__(self, groups: Sequence[FeatureGroup]) -> None:
        self.groups = groups
        self._scores = Scores([(group.start, group.stop) for group in groups])
        self._samples: deque[Sample] = deque(maxlen=WINDOW)
        self._batches = 0
        self._known: tuple[int, dict[str, float]] = -1, {}  # batches, and the indices after so many
        width = max((len(group.edges) for group in groups), default=0)
        self._edges = np.full((len(groups), width), np.inf)
        for row, group in zip(self._edges, groups, strict=True):
            row[: len(group.edges)] = group.edges

    def add(
        self,
        features: NDArray[Any],
        answers: NDArray[np.float32],
        familiarity: NDArray[np.float32] | None = None,
        second: NDArray[np.float32] | None = None,
    ) -> None:
        """Count the first COUNTED samples of a batch: features (N, D), answers (N, K), familiarity (N,), second reading
        (N, K); only one batch in EVERY, and no sample whose answer is not finite, which is refused."""
        self._batches += 1
        if self._batches % EVERY != 1:
            return
        scores = self._scores(features[:COUNTED])
        answers, nothing = answers[:COUNTED], [math.nan] * len(scores)
        familiar = nothing if familiarity is None else familiarity[:COUNTED].tolist()
        agrees = nothing if second is None else (second[:COUNTED].argmax(axis=1) == answers.argmax(axis=1)).tolist()
        found = map(Sample, scores, answers.max(axis=1).tolist(), familiar, agrees)
        self._samples.extend(sample for sample in found if math.isfinite(sample.confidence))

    def samples(self) -> list[Sample]:
        """Those that are counted, copied, since other threads keep adding; none until there are MIN_SAMPLES."""
        return list(self._samples) if len(self._samples) >= MIN_SAMPLES else []

    def indices(self) -> dict[str, float]:
        """Name of each group → its population stability index; empty until MIN_SAMPLES samples were counted."""
        batches = self._batches
        if self._known[0] != batches:
            self._known = batches, self._computed()
        return self._known[1]

    def _computed(self) -> dict[str, float]:
        samples = self.samples()
        if not samples:
            return {}
        scores = np.array([sample.scores for sample in samples])
        bins = (scores[:, :, np.newaxis] >= self._edges).sum(axis=2)
        return {
            group.name: index(np.bincount(column, minlength=len(group.shares)) / len(bins), np.array(group.shares))
            for group, column in zip(self.groups, bins.T, strict=True)
        }
