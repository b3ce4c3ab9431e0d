"""Search over hyperparameters by cross-validation: what a trial is worth, the table and `search.json`."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from models.card import Kind
from models.mlp import MLP
from models.targets import TARGETS
from pipeline import train
from pipeline.engine import LOCAL, Engine
from pipeline.extract import Features
from pipeline.report import search
from pipeline.report.style import shown
from pipeline.run import Run, write_json
from pipeline.task import Task, UserError, digest
from pipeline.train import State
from pipeline.tune import stacks
from pipeline.tune.folds import assign_folds, make_folds
from pipeline.tune.space import FIXED, check_space, n_trials, with_parameters
from pipeline.tune.stacks import Fold, Training
from pipeline.tune.study import MAX_RETRY, Judge, Outcome, open_study, slots, work


def tune(task: Task, run: Run, storage: str | None = None, engine: Engine = LOCAL) -> dict[str, Any]:
    """Search `task.tune.space` on `run/features.npz`; write `run/search.json` and its figures, print the table.

    Each trial trains the network once for every fold of the train and validation samples and is judged by the parts
    held out: by accuracy, or by the squared error of a regression. The test split is never read. If
    `train.early_stopping` is on, the part held out also says when to stop; then the score is as optimistic as the
    validation accuracy of a training run, and else it is that of the last epoch. The networks are trained by PyTorch,
    whatever `train.framework` says: the mathematics is the same. `search.json` holds the best so far all the while.

    Parameters
    ----------
    storage : Optuna's storage as a URL; `run/search.db` (SQLite) by default. The same search started again takes up
        what is there, and several processes may search at once. A trial whose process died is taken again.
    engine : where the networks are trained; with Ray a group of trials on each core, or GPU, of the cluster. This
        process alone uses the storage.

    Returns
    -------
    What `search.json` holds.

    Raises
    ------
    UserError : nothing to search, an unknown or impossible hyperparameter, no features, a storage that cannot be used
    """
    check_space(task)
    features = Features.of(run)
    study = open_study(task, _name(task, features), storage or f"sqlite:///{(run.search_database).resolve()}")
    with engine.running():
        judge, at_once = (_on_ray if engine.is_ray else _here)(task, features)
        work(task, study, judge, at_once, lambda: write_json(run.search, _result(task, features, study)))
    result = _result(task, features, study)
    write_json(run.search, result)
    print_table(result)
    n = len(search.draw(run))
    print(f"{task.name}: {len(result['trials'])} trials → {run.search}, {n} figures → {run.search_figures}")
    return result


def _here(task: Task, features: Features) -> tuple[Judge, int]:
    """What trains a group of trials in this process, one after the other."""
    folds = make_folds(task, features, train.choose_device(task.train.device))

    def judge(chosen: Sequence[dict[str, Any]]) -> Future[list[Outcome]]:
        done: Future[list[Outcome]] = Future()
        done.set_result(_outcomes(task, chosen, features, folds))
        return done

    return judge, 1


def _on_ray(task: Task, features: Features) -> tuple[Judge, int]:
    """What trains a group of trials on a core or a GPU of the cluster, and how many there are.

    A group whose worker or node died is trained again elsewhere.
    """
    import ray

    assign_folds(task, features)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(resources.get("GPU", 0)) if task.train.device != "cpu" else 0
    if task.train.device == "cuda" and not gpus:
        raise UserError("device cuda: no node of the cluster has a GPU")
    device = "cuda" if gpus else "cpu"
    shared = ray.put((task, features, device))
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=MAX_RETRY)(_in_worker)

    def judge(chosen: Sequence[dict[str, Any]]) -> Future[list[Outcome]]:
        outcomes: Future[list[Outcome]] = remote.remote([shared], list(chosen)).future()
        return outcomes

    return judge, gpus or max(1, int(resources["CPU"]))


def _in_worker(shared: list[Any], chosen: Sequence[dict[str, Any]]) -> list[Outcome]:
    task, features, folds = _prepared(shared[0])
    return _outcomes(task, chosen, features, folds)


@lru_cache(maxsize=1)
def _prepared(shared: Any) -> tuple[Task, Features, list[Fold]]:
    """Task, features and folds, once in every process."""
    import ray

    task, features, device = ray.get(shared)
    return task, features, make_folds(task, features, train.choose_device(device))


def _outcomes(task: Task, chosen: Sequence[dict[str, Any]], features: Features, folds: Sequence[Fold]) -> list[Outcome]:
    results = evaluate([with_parameters(task, parameters) for parameters in chosen], features, folds)
    return [r if isinstance(r, UserError) else (r, _judged(r)) for r in results]


def best(task: Task, run: Run) -> Task:
    """The task with the hyperparameters of the best trial of its search.

    Raises
    ------
    UserError : no search, or one of another task, or none of its trials succeeded
    """
    result = run.json(run.search, "tune")
    if result["study"] != _name(task, Features.of(run)):
        raise UserError(f"{run.search} is of another task or other data; run `percept tune` again")
    if not result["trials"] or result["trials"][0]["score"] is None:
        raise UserError(f"{run.search}: no trial succeeded; search other values")
    return with_parameters(task, result["trials"][0]["parameters"])


def train_best(task: Task, run: Run) -> Task:
    """Train the best trial's network into `run` on all samples but the test split; the task that it was trained by.

    Where early stopping is on, no samples are left to say when: the number of epochs is the mean over the folds.
    """
    chosen = best(task, run)
    if chosen.train.early_stopping:
        epochs = max(1, round(run.json(run.search, "tune")["trials"][0]["best_epoch"]["mean"]))
        chosen = with_parameters(chosen, {"train.epochs": epochs, "train.early_stopping": 0})
    train.train(chosen, run, with_validation=True)
    return chosen


def _name(task: Task, features: Features) -> str:
    """Name of the study: the task's, and a digest of all that its results depend on."""
    kept = ~features.rows("test")
    samples = sorted(zip(features.digest[kept].tolist(), features.y[kept].tolist(), strict=True))
    sections = task.resolved()
    tuned = {name: sections["tune"][name] for name in ("space", "sampler", "folds")}  # more trials: the same search
    for key in task.tune.space:
        section, _, name = key.partition(".")
        del sections[section][name]
    fixed = {name: value for name, value in sections["train"].items() if f"train.{name}" not in FIXED}
    parts = [tuned, sections["model"], fixed, task.data.seed, features.key, features.labels, samples]
    return f"{task.name}-{digest(parts)[:16]}"


def evaluate(tasks: Sequence[Task], features: Features, folds: Sequence[Fold]) -> list[dict[str, Any] | UserError]:
    """Train the network of each task on every fold, those of one shape together.

    Returns
    -------
    What `search.json` says of each trial, or why it failed: the loss of a fold is no longer a number
    """
    started = time.perf_counter()
    trainings = [Training(_network(task, features, fold), task.train, fold) for task in tasks for fold in folds]
    states = stacks.train(trainings, features.kind)
    n = len(folds)
    judged = [_judge(t, state, features.kind) for t, state in zip(trainings, states, strict=True)]
    seconds = (time.perf_counter() - started) / len(tasks)
    return [_summary(judged[i : i + n], features.kind, seconds) for i in range(0, len(judged), n)]


def _summary(judged: Sequence[dict[str, Any] | UserError], kind: Kind, seconds: float) -> dict[str, Any] | UserError:
    """The folds of a trial together; `seconds` are its share of the time in which it was trained with others."""
    folds = []
    for fold in judged:
        if isinstance(fold, UserError):
            return fold
        folds.append(fold)
    columns = {name: [fold[name] for fold in folds] for name in folds[0]}
    histories = columns.pop("history")
    epochs = min(len(history["epoch"]) for history in histories)  # every fold has reached them
    result: dict[str, Any] = {
        "score": float(np.mean(columns["validation_loss" if kind == "regression" else "validation_accuracy"])),
        **{name: _spread(values) for name, values in columns.items() if not math.isnan(values[0])},
        "gap": _spread(np.subtract(columns["validation_loss"], columns["train_loss"]).tolist()),
        "seconds": seconds,
        "curves": {
            name: _rounded(np.mean([history[name][:epochs] for history in histories], axis=0))
            for name in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
            if histories[0][name]
        },
        # One fold's alone: the mean over folds would hide the noise of the gradient.
        "trace": _rounded(np.array(histories[0]["train_loss"])),
    }
    result["noise"] = noise(result["trace"])
    if kind == "regression":
        result["score"] *= -1
    return result


def _network(task: Task, features: Features, fold: Fold) -> MLP:
    model, outputs = task.model, TARGETS[features.kind].n_outputs(len(features.labels))
    mlp = MLP(features.x.shape[1], model.hidden, outputs, model.activation, task.train.seed, model.init)
    return mlp.to(fold.training.x.device)


def _judge(training: Training, state: State | UserError, kind: Kind) -> dict[str, Any] | UserError:
    """Training on one fold: its history, and losses and weights of the epoch kept."""
    if isinstance(state, UserError):
        return state
    mlp, fold = training.mlp, training.fold
    train_loss, train_accuracy = train.evaluate(mlp, fold.training, kind)
    loss, accuracy = train.evaluate(mlp, fold.held_out, kind)
    if not (math.isfinite(train_loss) and math.isfinite(loss)):
        return UserError(
            f"the loss is no longer a number after the last epoch; "
            f"lower train.learning_rate, now {training.options.learning_rate:g}"
        )
    return {
        "history": state.history,
        "train_loss": train_loss, "train_accuracy": train_accuracy,
        "validation_loss": loss, "validation_accuracy": accuracy,
        "weight_norm": math.sqrt(sum(float(w.detach().double().square().sum()) for w in mlp.weights())),
        "best_epoch": state.best_epoch,
    }  # fmt: skip


def noise(trace: Sequence[float]) -> float | None:
    """Root mean square of the relative change of the loss from epoch to epoch, over the last quarter of them."""
    tail = np.log(np.maximum(trace[-max(3, len(trace) // 4) :], 1e-300))
    return float(np.sqrt(np.mean(np.diff(tail) ** 2))) if len(tail) > 1 else None


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over the folds, and the values of each."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "folds": list(values)}


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]  # two dozen bytes less for each, in a database's cell


def _result(task: Task, features: Features, study: optuna.Study) -> dict[str, Any]:
    """All that the search has found, the best trial first, those that failed last."""
    trials = []
    for number, slot in enumerate(slots(study.get_trials(deepcopy=False))[: n_trials(task)], start=1):
        if not slot[-1].state.is_finished():
            continue
        attributes = slot[-1].user_attrs
        result = attributes.get("result", {"score": None})
        reason = {} if "result" in attributes else {"reason": attributes.get("reason", "its process died each time")}
        trials.append({"number": number, "parameters": attributes.get("parameters", {})} | result | reason)
    trials.sort(key=lambda t: (t["score"] is None, -(t["score"] or 0), t.get("validation_loss", {}).get("mean", 0)))
    return {
        "study": study.study_name,
        "name": task.name,
        "kind": features.kind,
        "score": "negative squared error" if features.kind == "regression" else "accuracy",
        "samples": int((~features.rows("test")).sum()),
        "tune": task.tune.model_dump(mode="json"),
        "train": task.train.model_dump(mode="json"),
        "model": task.model.model_dump(mode="json"),
        "trials": trials,
    }


def print_table(result: dict[str, Any]) -> None:
    """One line for each trial, the best first: mean ± standard deviation over the folds."""
    keys = list(result["tune"]["space"])
    regression = result["kind"] == "regression"
    head = [*keys, *([] if regression else ["accuracy"]), "loss", "gap", "|w|", "epochs", "s"]
    rows = []
    for trial in result["trials"]:
        values = [shown(trial["parameters"].get(key, "?")) for key in keys]
        if trial["score"] is None:
            rows.append([*values, trial["reason"]])
            continue
        numbers = [] if regression else [_plus_minus(trial["validation_accuracy"], 3)]
        numbers += [_plus_minus(trial["validation_loss"], 4), f"{trial['gap']['mean']:.4f}"]
        numbers += [f"{trial['weight_norm']['mean']:.2f}", f"{trial['best_epoch']['mean']:.0f}"]
        rows.append([*values, *numbers, f"{trial['seconds']:.1f}"])
    whole = [head, *(row for row in rows if len(row) == len(head))]
    widths = [max(len(row[i]) for row in whole) for i in range(len(head))]
    for row in [head, *rows]:
        print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)))


def _plus_minus(spread: dict[str, Any], digits: int) -> str:
    return f"{spread['mean']:.{digits}f} ± {spread['std']:.{digits}f}"


def _judged(result: dict[str, Any]) -> str:
    accuracy = result.get("validation_accuracy")
    loss = f"loss {_plus_minus(result['validation_loss'], 4)}"
    return f"accuracy {_plus_minus(accuracy, 3)}, {loss}" if accuracy else loss
