"""Search over hyperparameters by cross-validation: the table, `search.json`, and training the best."""

from typing import Any

import optuna

from models.targets import TARGETS
from pipeline import train
from pipeline.engine import LOCAL, Engine
from pipeline.errors import counted
from pipeline.extract import Features
from pipeline.report import search
from pipeline.report.style import shown
from pipeline.run import Run, write_json
from pipeline.task import Task, UserError, digest
from pipeline.threads import subnormals_flushed
from pipeline.tune.objective import local_objective, plus_minus, ray_objective
from pipeline.tune.space import FIXED, check_space, n_trials, with_hyperparameters
from pipeline.tune.study import open_study, optimize, slots


@subnormals_flushed()
def tune(task: Task, run: Run, storage: str | None = None, engine: Engine = LOCAL) -> dict[str, Any]:
    """Search `task.tune.space` on the run's features; write its `search.json` and its figures, print the table.

    Each trial trains the network once for every fold of the train and validation samples, and its score is measured on
    the folds held out: the accuracy, or the negative squared error of a regression. The test split is never read. With
    `train.early_stopping` the fold held out also decides when to stop, so the score is as optimistic as the validation
    accuracy of a training run; without it, the score is of the last epoch. PyTorch trains the networks for any
    `train.framework`: the mathematics is the same. `search.json` always holds the results so far.

    Parameters
    ----------
    storage : Optuna's storage as a URL; by default `search.db` (SQLite) in the run directory. The same search started
        again continues from it, and several processes may search at once. A trial whose process died is repeated.
    engine : where the networks are trained; with Ray, a batch of trials on each core, or GPU, of the cluster. Only this
        process uses the storage.

    Returns
    -------
    The content of `search.json`

    Raises
    ------
    UserError : nothing to search, an unknown or impossible hyperparameter, no features, a storage that cannot be used
    """
    check_space(task)
    features = Features.of(run)
    study = open_study(task, study_name(task, features), storage or f"sqlite:///{run.search_database.resolve()}")
    with engine.running():
        objective, at_once = (ray_objective if engine.is_ray else local_objective)(task, features)
        optimize(task, study, objective, at_once, lambda: write_json(run.search, _result(task, features, study)))
    result = _result(task, features, study)
    write_json(run.search, result)
    _print_table(result)
    n = len(search.draw(run))
    print(f"{task.name}: {counted(len(result['trials']), 'trial')} → {run.search}, {n} figures → {run.search_figures}")
    return result


def best(task: Task, run: Run) -> Task:
    """The task with the hyperparameters of the best trial of its search.

    Raises
    ------
    UserError : no search, a search of another task, or none of its trials succeeded
    """
    result = run.json(run.search, "tune")
    if result["study"] != study_name(task, Features.of(run)):
        raise UserError(f"{run.search} is of another task or other data; run `percept tune` again")
    if not result["trials"] or result["trials"][0]["score"] is None:
        raise UserError(f"{run.search}: no trial succeeded; search other values")
    return with_hyperparameters(task, result["trials"][0]["parameters"])


def train_best(task: Task, run: Run) -> Task:
    """Train the best trial's network into `run`, on all samples except the test split.

    With early stopping, no samples are left to decide when to stop: the number of epochs is the mean over the folds.

    Returns
    -------
    The task that the network was trained by

    Raises
    ------
    UserError : see `best` and `train`
    """
    chosen = best(task, run)
    if chosen.train.early_stopping:
        epochs = max(1, round(run.json(run.search, "tune")["trials"][0]["best_epoch"]["mean"]))
        chosen = with_hyperparameters(chosen, {"train.epochs": epochs, "train.early_stopping": 0})
    train.train(chosen, run, with_validation=True)
    return chosen


def study_name(task: Task, features: Features) -> str:
    """Name of the search in the storage: the task's, and a digest of everything that its results depend on."""
    kept = ~features.rows("test")
    samples = sorted(zip(features.digest[kept].tolist(), features.y[kept].tolist(), strict=True))
    sections = task.resolved()
    # Without the number of trials: a search for more of them continues this one.
    tuned = {name: sections["tune"][name] for name in ("space", "sampler", "folds")}
    for key in task.tune.space:
        section, _, name = key.partition(".")
        del sections[section][name]
    fixed = {name: value for name, value in sections["train"].items() if f"train.{name}" not in FIXED}
    parts = [tuned, sections["model"], fixed, task.data.seed, features.key, features.labels, samples]
    return f"{task.name}-{digest(parts)[:16]}"


def _result(task: Task, features: Features, study: optuna.Study) -> dict[str, Any]:
    """The content of `search.json`: all finished trials, the best first, those that failed last."""
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
        "score": "accuracy" if TARGETS[features.kind].has_classes else "negative squared error",
        "samples": int((~features.rows("test")).sum()),
        "tune": task.tune.model_dump(mode="json"),
        "train": task.train.model_dump(mode="json"),
        "model": task.model.model_dump(mode="json"),
        "trials": trials,
    }


def _print_table(result: dict[str, Any]) -> None:
    """Print one line for each trial, the best first: mean ± standard deviation over the folds."""
    keys = list(result["tune"]["space"])
    accuracy = ["accuracy"] if TARGETS[result["kind"]].has_classes else []
    head = [*keys, *accuracy, "loss", "gap", "|w|", "epochs", "s"]
    rows = []
    for trial in result["trials"]:
        values = [shown(trial["parameters"].get(key, "?")) for key in keys]
        if trial["score"] is None:
            rows.append([*values, trial["reason"]])
            continue
        numbers = [plus_minus(trial["validation_accuracy"], 3)] if accuracy else []
        numbers += [plus_minus(trial["validation_loss"], 4), f"{trial['gap']['mean']:.4f}"]
        numbers += [f"{trial['weight_norm']['mean']:.2f}", f"{trial['best_epoch']['mean']:.0f}"]
        rows.append([*values, *numbers, f"{trial['seconds']:.1f}"])
    whole = [head, *(row for row in rows if len(row) == len(head))]
    widths = [max(len(row[i]) for row in whole) for i in range(len(head))]
    for row in [head, *rows]:
        print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)))
