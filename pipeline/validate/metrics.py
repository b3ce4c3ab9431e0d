"""Metrics of a network's answers on one split.

scikit-learn and scipy.stats take a second to import, so only the functions that need them import them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.validate.intervals import Intervals

ECE_BINS = 15  # of equal width; Guo et al. 2017


def classification(
    p: NDArray[np.float32], y: NDArray[np.int64], labels: tuple[str, ...], intervals: Intervals | None = None
) -> dict[str, Any]:
    """Metrics of a classifier: section `test` of the report.

    Parameters
    ----------
    p : float32 (N, K), probabilities
    y : int64 (N,), index of the true class
    labels : names of the K classes
    intervals : of proportions of these samples; by default each is its own group

    Returns
    -------
    `accuracy`, `macro_recall` (the mean recall of the classes, whatever their sizes), `log_loss`, `ece`, `per_class`
    (precision, recall and F1), `confusion_matrix` (true class in rows) and `reliability` (bins of confidence).
    Proportions come with their 95 % interval. Two classes have ROC and precision-recall curves and the areas under
    them too; the second class is the positive one.

    Example
    -------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    >>> result = classification(p, np.array([0, 1, 1]), ("cat", "dog"))
    >>> result["confusion_matrix"]
    [[1, 0], [1, 1]]
    >>> [f"{row['label']}: recall {row['recall']:.2f}" for row in result["per_class"]]
    ['cat: recall 1.00', 'dog: recall 0.50']
    """
    chosen, k = p.argmax(1), len(labels)
    confusion = np.bincount(k * y + chosen, minlength=k * k).reshape(k, k)
    hits, support, guesses = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    recall = [hits[i] / support[i] if support[i] else None for i in range(k)]
    right, interval = chosen == y, (intervals or Intervals.of(np.arange(len(y)))).among
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": interval(right),
        "macro_recall": float(np.mean([share for share in recall if share is not None])),
        **calibration(p, y),
        "per_class": [
            {
                "label": labels[i],
                "support": support[i],
                "precision": hits[i] / guesses[i] if guesses[i] else None,
                "precision_interval": interval(right, chosen == i),
                "recall": recall[i],
                "recall_interval": interval(right, y == i),
                "f1": 2 * hits[i] / max(1, guesses[i] + support[i]),
            }
            for i in range(k)
        ],
        "confusion_matrix": confusion.tolist(),
        "reliability": [
            {
                "confidence": confidence,
                "accuracy": accuracy,
                "interval": interval(right, rows),
                "count": int(rows.sum()),
            }
            for rows, confidence, accuracy in _binned(p.max(1), right)
        ],
        **(_binary(p[:, 1], y) if k == 2 and all(support) else {}),
    }


def calibration(p: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, float]:
    """How good the probabilities (N, K) themselves are: `log_loss`, the mean cross entropy in nats, and `ece`, the
    expected calibration error of the predicted class (Naeini et al. 2015)."""
    bins = _binned(p.max(1), p.argmax(1) == y)
    return {
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean()),
        "ece": sum(int(rows.sum()) * abs(accuracy - confidence) for rows, confidence, accuracy in bins) / len(y),
    }


def regression(values: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Mean squared error, its root, mean absolute error, and R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)².

    values, y : float32 (N, K); every number is the mean over the K values
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    y, values = y.astype(np.float64), values.astype(np.float64)  # the squares of large float32 are infinite
    mse = float(mean_squared_error(y, values))
    return {
        "rmse": float(np.sqrt(mse)),
        "mse": mse,
        "mae": float(mean_absolute_error(y, values)),
        "r2": float(r2_score(y, values)),
    }


def _binary(score: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    fpr, tpr, _ = roc_curve(y, score)
    precision, recall, _ = precision_recall_curve(y, score)
    return {
        "roc_auc": float(roc_auc_score(y, score)),
        "average_precision": float(average_precision_score(y, score)),
        "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()},
        "precision_recall": {"precision": precision.tolist(), "recall": recall.tolist()},
    }


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], intervals: Intervals | None = None) -> float:
    """Two-sided p-value of McNemar's exact test (1947): are two classifiers right equally often?

    Only samples count that exactly one of the two has right: if both are equally good, each of these goes to either
    with probability one half. Samples in groups are not independent, so each group goes to the one that has more of
    its samples right.

    Parameters
    ----------
    first, second : bool (N,), whether each is right on the same N samples
    intervals : tells the groups; by default each sample is its own

    Example
    -------
    >>> mcnemar(np.array([True, True, True, True]), np.array([True, False, False, False]))  # 3 to 0
    0.25
    """
    from scipy.stats import binomtest

    wins = (intervals or Intervals.of(np.arange(len(first)))).wins(first, second)
    only_first, only_second = int((wins > 0).sum()), int((wins < 0).sum())
    different = only_first + only_second
    return float(binomtest(only_first, different).pvalue) if different else 1.0


def _binned(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], float, float]]:
    """Of each bin of confidence with samples: which samples are in it, their mean confidence, and their accuracy."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    inside = [bins == b for b in np.unique(bins)]
    return [(rows, float(confidence[rows].mean()), float(correct[rows].mean())) for rows in inside]
