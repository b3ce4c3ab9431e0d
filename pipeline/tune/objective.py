"""The objective of a search: the cross-validation score of a trial's hyperparameters.

A batch of trials is evaluated at once: their networks are trained side by side, in this process or on a Ray cluster.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from models.card import Kind
from models.mlp import MLP
from models.targets import TARGETS
from pipeline import train
from pipeline.extract import Features
from pipeline.task import Task, UserError
from pipeline.threads import subnormals_flushed
from pipeline.train import State, choose_device
from pipeline.tune import stacks
from pipeline.tune.folds import assign_folds, make_folds
from pipeline.tune.space import with_hyperparameters
from pipeline.tune.stacks import Fold, Training

MAX_RETRY = 5  # of a trial whose process died; the trial may be the cause


class Spread(TypedDict):
    """A quantity over the folds; std: the standard deviation with n - 1."""

    mean: float
    std: float
    folds: list[float]


class TrialResult(TypedDict):
    """A successful trial in `search.json`."""

    score: float  # validation accuracy, or the negative squared error of a regression
    train_loss: Spread
    train_accuracy: NotRequired[Spread]  # not of a regression
    validation_loss: Spread
    validation_accuracy: NotRequired[Spread]
    weight_norm: Spread
    best_epoch: Spread
    gap: Spread  # validation loss minus training loss
    seconds: float  # this trial's share of its batch
    curves: dict[str, list[float]]  # columns of the history, means over the folds
    trace: list[float]  # training loss of the first fold only: a mean would hide the noise of the gradient
    noise: float | None  # see `noise`


Hyperparameters = dict[str, Any]  # such as {"train.l2": 1e-3}
Outcome = TrialResult | UserError  # UserError: why the trial failed
Objective = Callable[[Sequence[Hyperparameters]], Future[list[Outcome]]]  # one outcome for each trial of a batch


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Training on one fold: its history, and losses and weights of the epoch kept."""

    history: dict[str, list[float]]
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    weight_norm: float
    best_epoch: int


def local_objective(task: Task, features: Features) -> tuple[Objective, int]:
    """The objective that trains in this process; and the number of batches that it trains at a time, 1."""
    folds = make_folds(task, features, choose_device(task.train.device))

    def objective(batch: Sequence[Hyperparameters]) -> Future[list[Outcome]]:
        done: Future[list[Outcome]] = Future()
        done.set_result(evaluate([with_hyperparameters(task, values) for values in batch], features, folds))
        return done

    return objective, 1


def ray_objective(task: Task, features: Features) -> tuple[Objective, int]:
    """The objective that trains each batch on a core, or a GPU, of the Ray cluster; and how many it trains at a time.

    A batch whose worker or node died is trained again elsewhere.

    Raises
    ------
    UserError : a fold is empty, or there is no GPU and train.device asks for one
    """
    import ray

    assign_folds(task, features)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(resources.get("GPU", 0)) if task.train.device != "cpu" else 0
    if task.train.device == "cuda" and not gpus:
        raise UserError("device cuda: no node of the cluster has a GPU")
    data = ray.put((task, features, "cuda" if gpus else "cpu"))
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=MAX_RETRY)(_in_worker)

    def objective(batch: Sequence[Hyperparameters]) -> Future[list[Outcome]]:
        outcomes: Future[list[Outcome]] = remote.remote([data], list(batch)).future()
        return outcomes

    return objective, gpus or max(1, int(resources["CPU"]))


def _in_worker(data: list[Any], batch: Sequence[Hyperparameters]) -> list[Outcome]:
    task, features, folds = _prepared(data[0])
    return evaluate([with_hyperparameters(task, values) for values in batch], features, folds)


@lru_cache(maxsize=1)
def _prepared(data: Any) -> tuple[Task, Features, list[Fold]]:
    """Task, features and folds, once in every worker process."""
    import ray

    task, features, device = ray.get(data)
    return task, features, make_folds(task, features, choose_device(device))


@subnormals_flushed()
def evaluate(tasks: Sequence[Task], features: Features, folds: Sequence[Fold]) -> list[Outcome]:
    """Train the network of each task on every fold, those of one shape together.

    Returns
    -------
    The result of each task, or why it failed: the loss of a fold is no longer a number
    """
    started = time.perf_counter()
    n = sum(len(fold.held_out.y) for fold in folds) * (len(folds) - 1) // len(folds)  # samples without copies
    options = [task.train.for_samples(n) for task in tasks]
    networks = [(task, train, fold) for task, train in zip(tasks, options, strict=True) for fold in folds]
    trainings = [Training(_network(task, features, fold), train, fold) for task, train, fold in networks]
    states = stacks.train(trainings, features.kind)
    results = [_fold_result(t, state, features.kind) for t, state in zip(trainings, states, strict=True)]
    seconds = (time.perf_counter() - started) / len(tasks)
    n = len(folds)
    return [_trial_result(results[i : i + n], features.kind, seconds) for i in range(0, len(results), n)]


def _network(task: Task, features: Features, fold: Fold) -> MLP:
    model, n_outputs = task.model, TARGETS[features.kind].n_outputs(len(features.labels))
    mlp = MLP(features.x.shape[1], model.hidden, n_outputs, model.activation, task.train.seed, model.init)
    return mlp.to(fold.training.y.device)


def _fold_result(training: Training, state: State | UserError, kind: Kind) -> FoldResult | UserError:
    if isinstance(state, UserError):
        return state
    mlp, fold = training.mlp, training.fold
    train_loss, train_accuracy = train.evaluate(mlp, fold.training, kind)
    validation_loss, validation_accuracy = train.evaluate(mlp, fold.held_out, kind)
    if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
        return UserError(
            f"the loss is no longer a number after the last epoch; "
            f"lower train.learning_rate, now {training.options.learning_rate:g}"
        )
    norm = math.sqrt(sum(float(w.detach().double().square().sum()) for w in mlp.weights()))
    return FoldResult(
        state.history, train_loss, train_accuracy, validation_loss, validation_accuracy, norm, state.best_epoch
    )


def _trial_result(results: Sequence[FoldResult | UserError], kind: Kind, seconds: float) -> Outcome:
    """The result of a trial from those of its folds."""
    folds = []
    for fold in results:
        if isinstance(fold, UserError):
            return fold
        folds.append(fold)
    histories = [fold.history for fold in folds]
    epochs = min(len(history["epoch"]) for history in histories)  # that every fold has reached
    spreads = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "weight_norm", "best_epoch"]
    columns = {name: [getattr(fold, name) for fold in folds] for name in spreads}
    trace = _rounded(np.array(histories[0]["train_loss"]))
    scores = columns["validation_accuracy"] if TARGETS[kind].has_classes else np.negative(columns["validation_loss"])
    result: dict[str, Any] = {
        "score": float(np.mean(scores)),
        **{name: _spread(values) for name, values in columns.items() if not math.isnan(values[0])},
        "gap": _spread(np.subtract(columns["validation_loss"], columns["train_loss"]).tolist()),
        "seconds": seconds,
        "curves": {
            name: _rounded(np.mean([history[name][:epochs] for history in histories], axis=0))
            for name in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
            if histories[0][name]
        },
        "trace": trace,
        "noise": noise(trace),
    }
    return cast(TrialResult, result)


def noise(trace: Sequence[float]) -> float | None:
    """Noise of the gradient in a training: root mean square of the relative change of the loss from epoch to epoch,
    over the last quarter of the epochs.

    Example
    -------
    >>> noise([1.0, 1.0, 1.0, 1.0]), noise([1.0])
    (0.0, None)
    """
    tail = np.log(np.maximum(trace[-max(3, len(trace) // 4) :], 1e-300))
    return float(np.sqrt(np.mean(np.diff(tail) ** 2))) if len(tail) > 1 else None


def _spread(values: Sequence[float]) -> Spread:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "folds": list(values)}


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]  # saves two dozen bytes per number in the database


def describe(result: TrialResult) -> str:
    """Accuracy and loss as text.

    Example
    -------
    >>> describe({"validation_loss": {"mean": 0.5, "std": 0.1, "folds": []}})
    'loss 0.5000 ± 0.1000'
    """
    loss = f"loss {plus_minus(result['validation_loss'], 4)}"
    accuracy = result.get("validation_accuracy")
    return f"accuracy {plus_minus(accuracy, 3)}, {loss}" if accuracy else loss


def plus_minus(spread: Spread, digits: int) -> str:
    return f"{spread['mean']:.{digits}f} ± {spread['std']:.{digits}f}"
