"""Time of a cross-validated grid search, beside scikit-learn's GridSearchCV: same grid, folds, epochs and features.

    python -m benchmarks.sweep [--epochs 150]

3 learning rates × 4 penalties × 5 folds on the embedded notes of `instruments`: 60 networks 823-256-13, sigmoid, Adam,
batches of 50. percept also evaluates every network on its held-out fold after every epoch. The bound is the time that
the matrix products of the 60 networks would take if every core did them at the speed of its largest ones. Takes more
than two minutes on two cores.
"""

import argparse
import os
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import extract, task
from pipeline.run import Run
from pipeline.task import Task
from pipeline.threads import threads
from pipeline.tune import folds as cross_validation
from pipeline.tune import objective

# Only what scikit-learn's network has too: no noise, no schedule, no varied copies.
PLAIN = (
    "augment.copies=0", "model.hidden=[256]", "model.activation=sigmoid", "model.init=default",
    "train.batch_size=50", "train.noise=0", "train.mix=0", "train.schedule=constant",
)  # fmt: skip
RATES, PENALTIES = (1e-4, 1e-3, 1e-2), (0.0, 1e-5, 1e-4, 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        base = task.load("instruments", overrides=[*PLAIN, f"train.epochs={epochs}"])
        features = extract.extract(base, Run(Path(folder)))
    folds = cross_validation.make_folds(base, features, torch.device("cpu"))
    tasks = [_with(base, {"learning_rate": rate, "l2": l2}) for rate, l2 in product(RATES, PENALTIES)]

    started = time.perf_counter()
    results = objective.evaluate(tasks, features, folds)
    ours = time.perf_counter() - started
    best = max(result["score"] for result in results if isinstance(result, dict))

    kept, fold = cross_validation.assign_folds(base, features)
    network = MLPClassifier(
        base.model.hidden, activation="logistic", batch_size=base.train.batch_size, random_state=0,
        max_iter=epochs, tol=0, n_iter_no_change=epochs,  # exactly as many epochs
    )  # fmt: skip
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), network),
        {"mlpclassifier__learning_rate_init": RATES, "mlpclassifier__alpha": PENALTIES},
        cv=PredefinedSplit(fold), n_jobs=os.cpu_count(), refit=False,
    )  # fmt: skip
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # in joblib's processes too
    started = time.perf_counter()
    grid.fit(features.x[kept], features.y[kept])
    theirs = time.perf_counter() - started

    samples = sum(len(fold.training.y) for fold in folds) * len(tasks) * epochs
    first, last = features.x.shape[1] * base.model.hidden[0], base.model.hidden[0] * len(features.labels)
    bound = samples * 2 * (2 * first + 3 * last) / _speed()
    print(f"{os.cpu_count()} cores, PyTorch {torch.__version__}, {len(tasks) * len(folds)} networks, {epochs} epochs")
    print(f"{'':<36}{'s':>8}{'ratio':>8}{'best':>8}")
    for name, seconds, score in (
        ("percept, stacks of networks", ours, f"{best:.3f}"),
        ("scikit-learn, GridSearchCV", theirs, f"{grid.best_score_:.3f}"),
        ("bound: the products at full speed", bound, ""),
    ):
        print(f"{name:<36}{seconds:>8.1f}{seconds / ours:>8.2f}{score:>8}")


def _with(base: Task, changed: dict[str, float]) -> Task:
    return base.model_copy(update={"train": base.train.model_copy(update=changed)})


def _speed() -> float:
    """Floating-point operations per second of all cores in a large matrix product."""
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    seconds = []
    with threads(torch.get_num_threads()):
        for _ in range(10):
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds.append(time.perf_counter() - started)
    return float(2 * 2048**3 / min(seconds))


if __name__ == "__main__":
    main()
