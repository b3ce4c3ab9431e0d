"""Search over hyperparameters by cross-validation, with a storage through which processes share and resume it.

The number of a trial decides its hyperparameters (with `tpe`, together with the results before it), and trials are
numbered by the storage. So processes that search together need no other agreement, and a search that was killed
goes on as if it had not been.
"""

import difflib
import io
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from models.card import Kind
from models.classifier import Standardize, n_outputs
from models.frontend import build
from models.mlp import MLP
from pipeline import extract, search_plots, train
from pipeline.artifacts import read_json, write_json
from pipeline.extract import Features
from pipeline.task import Model, Range, Task, Train, UserError, digest, parse
from pipeline.threads import threads
from pipeline.train import Batch

FILE = "search.json"
DATABASE = "search.db"
HEARTBEAT, GRACE = 2, 15  # seconds between two signs of life, and of silence after which a process counts as dead
MAX_RETRY = 5  # of a trial whose process died; it may be the trial that kills it
SECTIONS: dict[str, type[Model] | type[Train]] = {"model": Model, "train": Train}
SURPLUS = "surplus"  # mark of a trial begun when another process had begun the last one at the same moment
FIXED = ("train.device", "train.framework")  # say where and with what, and change no result

Space = dict[str, list[Any] | Range]


@dataclass(frozen=True, slots=True)
class Fold:
    """One part held out, the others trained on; both standardised with the statistics of the training part."""

    training: Batch
    held_out: Batch


def tune(task: Task, run: Path, storage: str | None = None) -> dict[str, Any]:
    """Search `task.tune.space` on `run/features.npz`; write `run/search.json` and its figures, print the table.

    Each trial trains the network once for every fold of the train and validation samples and is judged by the parts
    held out: by accuracy, or by the squared error of a regression. The test split is never read. If
    `train.early_stopping` is on, the part held out also says when to stop; then the score is as optimistic as the
    validation accuracy of a training run, and else it is that of the last epoch. The networks are trained by PyTorch,
    whatever `train.framework` says: the mathematics is the same.

    Parameters
    ----------
    storage : Optuna's storage as a URL; `run/search.db` (SQLite) by default. The same search started again takes up
        what is there, and several processes may search at once. A trial whose process died is taken again.

    Returns
    -------
    What `search.json` holds.

    Raises
    ------
    UserError : nothing to search, an unknown or impossible hyperparameter, no features, a storage that cannot be used
    """
    check_space(task)
    features = Features.load(run / extract.FILE)
    study = _study(task, features, storage or f"sqlite:///{(run / DATABASE).resolve()}")
    _work(task, features, study)
    result = _result(task, features, study)
    write_json(run / FILE, result)
    print_table(result)
    n = len(search_plots.draw(run))
    print(f"{task.name}: {len(result['trials'])} trials → {run / FILE}, {n} figures → {run / search_plots.FOLDER}")
    return result


def best(task: Task, run: Path) -> Task:
    """The task with the hyperparameters of the best trial of its search.

    Raises
    ------
    UserError : no search, or one of another task, or none of its trials succeeded
    """
    result = read_json(run / FILE, "tune")
    if result["study"] != _name(task, Features.load(run / extract.FILE)):
        raise UserError(f"{run / FILE} is of another task or other data; run `percept tune` again")
    if not result["trials"] or result["trials"][0]["score"] is None:
        raise UserError(f"{run / FILE}: no trial succeeded; search other values")
    return _with(task, result["trials"][0]["parameters"])


def train_best(task: Task, run: Path) -> Task:
    """Train the best trial's network into `run` on all samples but the test split; the task that it was trained by.

    Where early stopping is on, no samples are left to say when: the number of epochs is the mean over the folds.
    """
    chosen = best(task, run)
    if chosen.train.early_stopping:
        epochs = max(1, round(read_json(run / FILE, "tune")["trials"][0]["best_epoch"]["mean"]))
        chosen = _with(chosen, {"train.epochs": epochs, "train.early_stopping": 0})
    train.train(chosen, run, with_validation=True)
    return chosen


def check_space(task: Task) -> None:
    """Hold every hyperparameter and each of its values against what a task may say.

    Raises
    ------
    UserError : nothing to search; one line for every other mistake
    """
    space = task.tune.space
    if not space:
        raise UserError(
            "tune.space is empty; say what to search, as in "
            """--set 'tune.space={"train.learning_rate"=[1e-4, 1e-3, 1e-2], "model.hidden"=[[64], [128, 64]]}'"""
        )
    known = [f"{section}.{name}" for section, fields in SECTIONS.items() for name in fields.model_fields]
    known = [key for key in known if key not in FIXED]
    problems = []
    for key, choices in space.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; only keys of model and train can be"
            problems.append(f"tune.space: {key!r} cannot be searched{hint}")
        elif isinstance(choices, Range):
            problems += _range_problems(key, choices, task)
        elif not choices:
            problems.append(f"tune.space: {key!r} has no values; give at least one")
        else:
            problems += [line for value in choices for line in _value_problems(task, key, value)]
    if problems:
        raise UserError("\n".join(problems))


def _range_problems(key: str, range_: Range, task: Task) -> list[str]:
    where = f"tune.space: {key!r}"
    if task.tune.sampler == "grid":
        return [f"{where} is a range, and a grid needs a list; list values, or use tune.sampler = random or tpe"]
    if not (math.isfinite(range_.low) and math.isfinite(range_.high) and range_.low < range_.high):
        return [f"{where} needs low < high, not {range_.low:g} and {range_.high:g}"]
    if range_.log and range_.low <= 0:
        return [f"{where} needs low > 0 for log = true, not {range_.low:g}"]
    number = _number(key)
    if number is None:
        return [f"{where} is not a number; list its values"]
    return [line for end in (range_.low, range_.high) for line in _value_problems(task, key, _decode(key, number(end)))]


def _value_problems(task: Task, key: str, value: Any) -> list[str]:
    try:
        _with(task, {key: value})
    except UserError as error:
        return str(error).splitlines()
    return []


def _number(key: str) -> Callable[[float], float | int] | None:
    """The type of a numeric hyperparameter; `model.hidden` counts as one, the units of a single hidden layer."""
    section, _, name = key.partition(".")
    if key == "model.hidden":
        return int
    annotation = SECTIONS[section].model_fields[name].annotation
    return int if annotation is int else float if annotation is float else None


def _decode(key: str, value: Any) -> Any:
    """A number of a range → the value of the task."""
    return [value] if key == "model.hidden" else value


def _with(task: Task, parameters: dict[str, Any]) -> Task:
    table = task.resolved()
    for key, value in parameters.items():
        section, _, name = key.partition(".")
        table[section][name] = value
    return parse(table, "tune.space")


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


def _study(task: Task, features: Features, storage: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    # Other processes write too: waiting for the database's lock is no error, nor is finding tables just made.
    engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 0):
        try:
            database = RDBStorage(
                storage, engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRY),
            )  # fmt: skip
            return optuna.create_study(
                storage=database, study_name=_name(task, features), direction="maximize", load_if_exists=True,
                sampler=Sampler(task),
            )  # fmt: skip
        except (SQLAlchemyError, StorageInternalError, ImportError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            if not any(word in reason for word in ("exists", "locked", "UNIQUE")):
                break
            time.sleep(pause)
    raise UserError(f"storage {storage}: cannot be used: {reason}")


class Sampler(BaseSampler):
    """The choice of every hyperparameter, from the trial's number and, with `tpe`, the results so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.grid = combinations(task) if task.tune.sampler == "grid" else []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        slot = _slot(study, trial)
        if self.grid:
            return self.grid[slot][param_name]
        seed = int(digest([self.task.train.seed, slot, param_name])[:8], 16)
        sampler = (
            RandomSampler(seed)
            if self.task.tune.sampler == "random"
            else TPESampler(seed=seed, constant_liar=True)  # keeps away from what other processes try at the moment
        )
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def combinations(task: Task) -> list[dict[str, str]]:
    """Every combination of the lists of the space, each once, its values as Optuna holds them: JSON."""
    lists = [dict.fromkeys(_choices(values)) for values in task.tune.space.values() if isinstance(values, list)]
    return [dict(zip(task.tune.space, values, strict=True)) for values in product(*lists)]


def _choices(values: list[Any]) -> list[str]:
    """A list's values as JSON, since Optuna's categories are plain: [128, 64] is none."""
    return list(dict.fromkeys(json.dumps(value) for value in values))


def _root(trial: FrozenTrial) -> int:
    """Number of the trial, or of the one that it does again because its process died."""
    number: int = trial.system_attrs.get("failed_trial", trial.number)
    return number


def _slot(study: optuna.Study, trial: FrozenTrial) -> int:
    """Rank of a trial among those that do no other again, counted from 0."""
    trials = study.get_trials(deepcopy=False)
    return sum(_root(t) == t.number < _root(trial) and SURPLUS not in t.user_attrs for t in trials)


def _slots(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Trials of every slot, in the order of their numbers."""
    slots: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if SURPLUS not in trial.user_attrs:
            slots.setdefault(_root(trial), []).append(trial)
    return [slots[root] for root in sorted(slots)]


def n_trials(task: Task) -> int:
    """How many trials the search has: every combination of a grid, else as many as the task says."""
    return len(combinations(task)) if task.tune.sampler == "grid" else task.tune.trials


def _work(task: Task, features: Features, study: optuna.Study) -> None:
    """Do trials until all are done, whoever does them."""
    device = train.choose_device(task.train.device)
    folds = make_folds(task, features, device)
    wanted = n_trials(task)
    waiting = False
    running: list[Trial] = []

    def objective(trial: Trial) -> float:
        running[:] = [trial]
        if _slot(study, study.get_trials(deepcopy=False)[trial.number]) >= wanted:
            trial.set_user_attr(SURPLUS, True)
            raise TrialPruned
        parameters = {key: _suggest(trial, key, choices) for key, choices in task.tune.space.items()}
        trial.set_user_attr("parameters", parameters)
        try:
            result = evaluate(_with(task, parameters), features, folds)
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            bar.write(f"  trial {trial.number + 1}: {_words(parameters)}: {error}", file=sys.stdout)
            raise TrialPruned(str(error)) from None
        trial.set_user_attr("result", result)
        if bar.disable:
            print(f"  trial {trial.number + 1}/{wanted}: {_words(parameters)}: {_judged(result)}", flush=True)
        score: float = result["score"]
        return score

    with threads(1), tqdm(total=wanted, desc="tune", unit="trial", disable=None) as bar:
        while True:
            fail_stale_trials(study)
            _fail_stillborn(study)
            trials = study.get_trials(deepcopy=False)
            slots = _slots(trials)[:wanted]
            bar.n = sum(slot[-1].state.is_finished() for slot in slots)
            bar.refresh()
            if len(slots) < wanted or any(t.state == TrialState.WAITING for t in trials):
                try:
                    study.optimize(objective, n_trials=1)
                except UpdateFinishedTrialError:
                    pass  # this process slept so long that another took the trial for dead and did it again
                except BaseException:  # Ctrl-C: the trial is to be done when the search goes on
                    for trial in running:
                        _again(study, trial.number)
                    raise
            elif any(t.state == TrialState.RUNNING for slot in slots for t in slot):
                if not waiting:
                    bar.write("  waiting for the trials of other processes", file=sys.stdout)
                waiting = True
                time.sleep(0.5)
            else:
                return


def _fail_stillborn(study: optuna.Study) -> None:
    """Take again what a process began and died before its first heartbeat, which Optuna would wait for forever."""
    for trial in study.get_trials(deepcopy=False):
        silent = trial.state == TrialState.RUNNING and "parameters" not in trial.user_attrs
        if silent and trial.datetime_start and datetime.now() - trial.datetime_start > timedelta(seconds=GRACE):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            _again(study, trial.number)


def _again(study: optuna.Study, number: int) -> None:
    trial = study.get_trials()[number]
    if trial.state == TrialState.FAIL:
        RetryHeartbeatStaleTrialCallback(MAX_RETRY)(study, trial)


def _suggest(trial: Trial, key: str, choices: list[Any] | Range) -> Any:
    if isinstance(choices, list):
        return json.loads(trial.suggest_categorical(key, _choices(choices)))
    if _number(key) is int:
        low, high = math.ceil(choices.low), math.floor(choices.high)
        return _decode(key, trial.suggest_int(key, low, high, log=choices.log))
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)


def make_folds(task: Task, features: Features, device: torch.device) -> list[Fold]:
    """The train and validation samples in `task.tune.folds` folds; none of the test split.

    A sample's fold is a pure function of its content's digest and the seed of the data, like its split.

    Raises
    ------
    UserError : a fold is empty
    """
    n = task.tune.folds
    rows = np.flatnonzero(~features.rows("test"))
    fold = np.array([assign_fold(features.digest[row], n, task.data.seed) for row in rows])
    one_unit = build(features.task["features"]).one_unit
    folds = []
    for k in range(n):
        inside, outside = rows[fold == k], rows[fold != k]
        if not len(inside) or not len(outside):
            raise UserError(f"tune.folds = {n}: {len(rows)} samples do not fill them; use fewer folds")
        standardize = Standardize(features.x.shape[1]).fit(torch.from_numpy(features.x[outside]), one_unit)
        folds.append(
            Fold(_batch(features, outside, standardize, device), _batch(features, inside, standardize, device))
        )
    return folds


def assign_fold(content: str, folds: int, seed: int) -> int:
    """Fold of a sample, counted from 0; independent of its split."""
    return int.from_bytes(sha256(f"fold:{seed}:{content}".encode()).digest()[:8], "big") % folds


def _batch(features: Features, rows: NDArray[np.int64], standardize: Standardize, device: torch.device) -> Batch:
    x = standardize(torch.from_numpy(features.x[rows]))
    return Batch(x.to(device), torch.from_numpy(features.y[rows]).to(device))


def evaluate(task: Task, features: Features, folds: Sequence[Fold]) -> dict[str, Any]:
    """Train the task's network on every fold; what `search.json` says of a trial.

    Raises
    ------
    UserError : the loss of a fold is no longer a number
    """
    started = time.perf_counter()
    judged = [_judge(task, features, fold) for fold in folds]
    columns = {name: [fold[name] for fold in judged] for name in judged[0]}
    histories = columns.pop("history")
    epochs = min(len(history["epoch"]) for history in histories)  # every fold has reached them
    kind = features.kind
    result: dict[str, Any] = {
        "score": float(np.mean(columns["validation_loss" if kind == "regression" else "validation_accuracy"])),
        **{name: _spread(values) for name, values in columns.items() if not math.isnan(values[0])},
        "gap": _spread(np.subtract(columns["validation_loss"], columns["train_loss"]).tolist()),
        "seconds": time.perf_counter() - started,
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


def _judge(task: Task, features: Features, fold: Fold) -> dict[str, Any]:
    """Training on one fold: its history, and losses and weights of the epoch kept."""
    kind: Kind = features.kind
    model, options = task.model, task.train
    outputs = n_outputs(kind, len(features.labels))
    mlp = MLP(features.x.shape[1], model.hidden, outputs, model.activation, options.seed, model.init)
    mlp = mlp.to(fold.training.x.device)
    # The bar and the lines of a single training would drown those of the search.
    silence = io.StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(silence), redirect_stderr(silence):
        state = train.fit(mlp, fold.training, fold.held_out, kind, options, Path(folder) / train.CHECKPOINT, "")
    train_loss, train_accuracy = train.evaluate(mlp, fold.training, kind)
    loss, accuracy = train.evaluate(mlp, fold.held_out, kind)
    if not (math.isfinite(train_loss) and math.isfinite(loss)):
        raise UserError(
            f"the loss is no longer a number after the last epoch; "
            f"lower train.learning_rate, now {options.learning_rate:g}"
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
    """All that the search found, the best trial first, those that failed last."""
    trials = []
    for number, slot in enumerate(_slots(study.get_trials(deepcopy=False))[: n_trials(task)], start=1):
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
        values = [_value(trial["parameters"].get(key, "?")) for key in keys]
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


def _words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {_value(value)}" for key, value in parameters.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
