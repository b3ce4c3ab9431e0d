"""What a network's answers on a split are worth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_curve,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    roc_curve,
)

ECE_BINS = 15  # of equal width; Guo et al. 2017


def classification(p: NDArray[np.float32], y: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, Any]:
    """What a classifier's probabilities (N, K) are worth against the true classes (N,).

    Proportions come with their 95 % interval (Wilson 1927). Two classes get their ROC and precision-recall curves with
    the areas, the second class taken as the positive one.
    """
    chosen, k = p.argmax(1), len(labels)
    classes = list(range(k))
    precision, recall, f1, support = precision_recall_fscore_support(y, chosen, labels=classes, zero_division=0)
    hits = np.bincount(y[y == chosen], minlength=k)
    guesses = np.bincount(chosen, minlength=k)
    return {
        "accuracy": float((chosen == y).mean()),
        "accuracy_interval": interval(int((chosen == y).sum()), len(y)),
        **calibration(p, y),
        "per_class": [
            {
                "label": labels[i],
                "support": int(support[i]),
                "precision": float(precision[i]) if guesses[i] else None,
                "precision_interval": interval(int(hits[i]), int(guesses[i])),
                "recall": float(recall[i]) if support[i] else None,
                "recall_interval": interval(int(hits[i]), int(support[i])),
                "f1": float(f1[i]),
            }
            for i in classes
        ],
        "confusion_matrix": confusion_matrix(y, chosen, labels=classes).tolist(),
        "reliability": _reliability(p.max(1), chosen == y),
        **(_binary(p[:, 1], y) if k == 2 and support.all() else {}),
    }


def calibration(p: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, float]:
    """What the probabilities (N, K) themselves are worth: `log_loss`, the mean cross entropy in nats, and `ece`, the
    expected calibration error of the winning class (Naeini et al. 2015)."""
    reliability = _reliability(p.max(1), p.argmax(1) == y)
    return {
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean()),
        "ece": sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in reliability) / len(y),
    }


def regression(values: NDArray[np.float32], y: NDArray[np.float32]) -> dict[str, Any]:
    """Mean squared error, its root, mean absolute error, and R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)².

    values, y : float32 (N, K); every number is the mean over the K values
    """
    mse = float(mean_squared_error(y, values))
    return {
        "rmse": float(np.sqrt(mse)),
        "mse": mse,
        "mae": float(mean_absolute_error(y, values)),
        "r2": float(r2_score(y, values)),
    }


def _binary(score: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, Any]:
    fpr, tpr, _ = roc_curve(y, score)
    precision, recall, _ = precision_recall_curve(y, score)
    return {
        "roc_auc": float(roc_auc_score(y, score)),
        "average_precision": float(average_precision_score(y, score)),
        "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()},
        "precision_recall": {"precision": precision.tolist(), "recall": recall.tolist()},
    }


def interval(successes: int, trials: int) -> list[float] | None:
    """Wilson's 95 % interval of a proportion; None without trials."""
    if not trials:
        return None
    bounds = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(bounds.low), float(bounds.high)]


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided p-value of McNemar's exact test (1947): are two classifiers right equally often?

    first, second : bool (N,), whether each is right on the same N samples. Only those count that one alone has right;
    were both equally good, either would have each of them with probability one half.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    different = only_first + only_second
    return float(binomtest(only_first, different).pvalue) if different else 1.0


def _reliability(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of the samples in each bin of confidence that has any."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(correct[bins == b].mean()),
            "count": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]
