"""Sets of labels that hold the true one as often as promised: split conformal prediction."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def least_probability(scores: Sequence[Sequence[float]], coverage: float) -> float | None:
    """The probability from which a label belongs to the set, so that sets hold the true label of a new sample with
    probability `coverage` or more (Sadinle, Lei & Wasserman 2019); None where there are too few samples to promise it.

    The promise holds on average over samples, not for each class. Samples of one group are not independent: each group
    counts as one, by the weights of its samples (Dunn, Wasserman & Ramdas 2023, pooled).

    Parameters
    ----------
    scores : of each sample that the network was not trained on, the probability of its true label, and its weight: one
        divided by the number of samples in its group

    Example
    -------
    >>> scores = [(0.3 + k / 100, 1.0) for k in range(39)]
    >>> f"{least_probability(scores, 0.95):.3f}", least_probability(scores[:18], 0.95)
    ('0.305', None)
    """
    if not len(scores):
        return None
    found = np.array(scores, np.float64)
    p, weight = found[np.argsort(-found[:, 0], kind="stable")].T
    wanted = math.ceil((round(weight.sum()) + 1) * coverage - 1e-9)
    reached = np.flatnonzero(np.cumsum(weight) >= wanted - 1e-9)
    if not len(reached):
        return None
    lower = p[p < p[reached[0]]]
    return float((p[reached[0]] + (lower[0] if len(lower) else 0.0)) / 2)  # so that rounding loses none


def members(p: NDArray[np.floating], least: float) -> NDArray[np.bool_]:
    """Which labels are in each set, (N, K), for probabilities (N, K): those of `least` or more, and the likeliest."""
    found = p >= least
    found[np.arange(len(p)), p.argmax(1)] = True
    return np.asarray(found)
