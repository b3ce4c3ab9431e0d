"""Baselines: three simpler models on the network's features, to show whether the network earns its place."""

import os
import pickle
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm

from pipeline.report.schema import Baseline, Regressor
from pipeline.train.data import Dataset, Rows
from pipeline.validate import metrics
from pipeline.validate.intervals import Intervals

LIMIT = 10_000  # samples that a baseline is fitted to, at most: an SVM's time grows with the square of their number
CHOICE = 3_000  # training samples, and as many validation samples, used to choose hyperparameters
FOREST = 300  # trees
TREES = 10  # of them that are in memory at a time
PREDICTED = 4 << 20  # bytes of features that a model is asked about at a time: an SVM copies them as float64
HYPERPARAMETERS = ("C", "gamma", "n_estimators")


def baselines(
    training: Rows | Dataset,
    validation: Rows | Dataset,
    test: Rows,
    right: NDArray[np.bool_],
    seed: int,
    intervals: Intervals | None = None,
    learned: Rows | Dataset | None = None,
    boosted: bool = False,
) -> list[Baseline]:
    """Fit scikit-learn's logistic regression, SVM with an RBF kernel and random forest, and test each.

    C, and γ of the SVM, are the best of four settings by accuracy on the validation rows. Where settings tie, or there
    are no validation rows, the earliest wins, and scikit-learn's defaults come first. The forest has only its defaults.
    Settings are compared on at most CHOICE training and CHOICE validation rows, and the final fit has at most LIMIT
    rows, drawn at random where there are more. The same rows and seed give the same models.

    Parameters
    ----------
    training, validation, test : standardised as the network sees them; classes are 0 … K - 1, and each has a training
        row; of a `Dataset`, which may be larger than memory, only the rows that are used are read
    right : bool (N,), whether the network's answer to each test row is right
    seed : of the forest and of the random rows
    intervals : of proportions of the test rows; by default each is its own group
    boosted : gradient-boosted trees too, with scikit-learn's defaults, which are strong on tables
    learned : rows of the final fit, if not the training rows alone: those that the network was trained on
    """
    available, intervals = learned or training, intervals or Intervals.of(np.arange(len(right)))
    fitted = _some(available, LIMIT, seed)
    choice = _some(training, CHOICE, seed), _some(validation, CHOICE, seed)
    results: list[Baseline] = []
    # Threads share the settings and the rows to predict. BLAS has one thread: more would wait for each other, and the
    # order of the sums, hence the model, would depend on their number.
    with ThreadPoolExecutor(os.cpu_count()) as pool, threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stops early is only regularised a little more
        all_settings = _settings(fitted.x, seed, boosted)
        for name, settings in tqdm(all_settings.items(), desc="baselines", unit="model", disable=None):
            started = time.perf_counter()
            model = _best(pool, settings, *choice)
            chosen = time.perf_counter() - started
            found, probabilities, seconds, n_bytes = _tested(pool, model, fitted, test)
            hits = found == test.y
            results.append(
                {
                    "name": name,
                    "hyperparameters": _hyperparameters(model),
                    "samples": len(fitted.y),
                    "available": len(available.y),
                    "accuracy": float(hits.mean()),
                    "accuracy_interval": intervals.among(hits),
                    "macro_recall": float(np.mean([hits[test.y == k].mean() for k in np.unique(test.y)])),
                    "log_loss": None if probabilities is None else _log_loss(probabilities, test.y),
                    "seconds": chosen + seconds,
                    "bytes": n_bytes,
                    "only_network": int((right & ~hits).sum()),
                    "only_baseline": int((hits & ~right).sum()),
                    "p_value": metrics.mcnemar(right, hits, intervals),
                }
            )
    return results


def _hyperparameters(model: Any) -> dict[str, Any]:
    parameters = model.get_params()
    return {key: parameters[key] for key in HYPERPARAMETERS if key in parameters}


def regressors(training: Rows | Dataset, test: Rows, predicted: NDArray[np.float32], seed: int) -> list[Regressor]:
    """Fit scikit-learn's linear regression, random forest and gradient-boosted trees, with its defaults, and test each.

    Parameters
    ----------
    training, test : y is float32 (N, K), the values; a model is fitted to the mean of several
    predicted : float32 (N, K), the network's answers to the test rows
    """
    fitted = _some(training, LIMIT, seed)
    truth, ours = test.y.mean(1), np.abs(predicted.mean(1) - test.y.mean(1))
    models = {
        "linear regression": LinearRegression(),
        "random forest": RandomForestRegressor(random_state=seed, n_jobs=-1),
        "gradient-boosted trees": HistGradientBoostingRegressor(random_state=seed),
    }
    results: list[Regressor] = []
    with threadpool_limits(1):
        for name, model in models.items():
            started = time.perf_counter()
            model.fit(fitted.x, fitted.y.mean(1))
            seconds = time.perf_counter() - started
            found = model.predict(test.x)
            measured, theirs = metrics.regression(found, truth), np.abs(found - truth)
            results.append(
                {
                    "name": name,
                    "samples": len(fitted.y),
                    "available": len(training.y),
                    "rmse": measured["rmse"],
                    "r2": measured["r2"],
                    "seconds": seconds,
                    "bytes": _size(model),
                    "closer": float((ours < theirs).mean()),
                    "p_value": float(wilcoxon(ours, theirs).pvalue) if (ours != theirs).any() else 1.0,
                }
            )
    return results


def _settings(x: NDArray[np.float32], seed: int, boosted: bool) -> dict[str, list[Any]]:
    """Name → unfitted models to choose from, scikit-learn's defaults first.

    γ is tried at scikit-learn's "scale", 1 / (D · variance), and at a tenth of that with C ten times as large: for
    small γ, an SVM depends on the product C γ alone (Keerthi & Lin 2003).
    """
    scale = 1 / (x.shape[1] * (float(x.var(dtype=np.float64)) or 1.0))
    costs = ((1.0, scale), (10.0, scale), (10.0, scale / 10), (100.0, scale / 10))
    return {
        "logistic regression": [LogisticRegression(C=c, max_iter=1000) for c in (1.0, 0.1, 0.01, 10.0)],
        "SVM": [SVC(C=c, gamma=gamma) for c, gamma in costs],
        "random forest": [RandomForestClassifier(FOREST, random_state=seed, n_jobs=-1)],
        **({"gradient-boosted trees": [HistGradientBoostingClassifier(random_state=seed)]} if boosted else {}),
    }


def _best(pool: ThreadPoolExecutor, settings: list[Any], training: Rows, validation: Rows) -> Any:
    """The setting, unfitted, that has the most validation rows right when fitted to the training rows."""
    if len(settings) == 1 or not len(validation.y):
        return settings[0]
    models = pool.map(lambda setting: clone(setting).fit(*training), settings)
    hits = [int((_predict(pool, model, validation.x) == validation.y).sum()) for model in models]
    return settings[int(np.argmax(hits))]


def _some(rows: Rows | Dataset, limit: int, seed: int) -> Rows:
    """At most `limit` of the rows, drawn at random."""
    n = len(rows.y)
    drawn = np.random.default_rng(seed).choice(n, limit, replace=False) if n > limit else np.arange(n)
    if isinstance(rows, Rows):
        return rows.of(drawn)
    chosen = torch.from_numpy(drawn)
    x = rows.x[chosen] if isinstance(rows.x, Tensor) else rows.x.read(chosen)
    return Rows(x.numpy(), rows.y[chosen].numpy())


class _Counter:
    """A file that counts the bytes written to it, and keeps none."""

    n_bytes = 0

    def write(self, data: Any) -> None:
        self.n_bytes += memoryview(data).nbytes


def _size(model: Any) -> int:
    """Bytes of the pickled model; hundreds of MB for a forest on many classes."""
    counter = _Counter()
    pickle.dump(model, counter)
    return counter.n_bytes


def _predict(pool: ThreadPoolExecutor, model: Any, x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of each row, predicted on all cores: an SVM needs milliseconds for one MNIST digit."""
    n_parts = max(os.cpu_count() or 1, -(-x.nbytes // PREDICTED))
    parts = np.array_split(x, max(1, min(n_parts, len(x))))
    return np.concatenate(list(pool.map(model.predict, parts)))


def _tested(
    pool: ThreadPoolExecutor, model: Any, fitted: Rows, test: Rows
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None, float, int]:
    """The model fitted and tested: its classes (N,); their probabilities (N, K), if it gives any, K beyond all classes;
    the seconds of fitting; and its bytes."""
    n_classes = 1 + max(int(test.y.max()), int(fitted.y.max()))  # fitted rows may have none of a rare class
    p, n_parts, seconds, n_bytes = np.zeros((len(test.y), n_classes)), 0, 0.0, 0
    for part in _parts(model):
        started = time.perf_counter()
        part.fit(*fitted)
        seconds += time.perf_counter() - started
        n_parts, n_bytes = n_parts + 1, n_bytes + _size(part)
        if not hasattr(part, "predict_proba"):
            return _predict(pool, part, test.x), None, seconds, n_bytes
        p[:, part.classes_] += part.predict_proba(test.x)
    return p.argmax(axis=1), p / n_parts, seconds, n_bytes


def _parts(model: Any) -> Iterator[Any]:
    """The model, unfitted; a random forest in parts of few trees, whose mean is the whole: one generator gives them its
    trees, and all at once would take hundreds of MB where there are many classes."""
    if not isinstance(model, RandomForestClassifier):
        yield model
        return
    generator = np.random.RandomState(model.random_state)
    for _ in range(0, model.n_estimators, TREES):
        yield clone(model).set_params(n_estimators=TREES, random_state=generator)


def _log_loss(p: NDArray[np.float64], y: NDArray[np.int64]) -> float | None:
    """The mean log loss of probabilities (N, K); None if one is 0."""
    given = p[np.arange(len(y)), y]
    return float(-np.log(given).mean()) if given.all() else None
