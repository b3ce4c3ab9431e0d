"""The Optuna study behind a search: its storage lets processes share a search and continue it.

A trial's number decides its hyperparameters (with `tpe`, together with the results before it), and the storage numbers
the trials. So processes that search together need no other coordination, and a search that was killed continues as if
nothing had happened.
"""

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread  # what Study.optimize uses, for several trials at a time
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from pipeline.report.style import shown
from pipeline.task import Range, Task, UserError, digest
from pipeline.tune.objective import MAX_RETRY, Hyperparameters, Objective, Outcome, describe
from pipeline.tune.space import categories, combinations, decode, n_trials, number_type

HEARTBEAT, GRACE = 2, 15  # seconds between heartbeats, and without any until a process counts as dead
BATCH_SIZE = 16  # trials that a process trains at a time, at most, and repeats if it dies
SURPLUS = "surplus"  # attribute of a trial too many, when two processes began the last one at once


def open_study(task: Task, name: str, storage: str) -> optuna.Study:
    """The study of that name in a storage, created if it does not exist.

    Raises
    ------
    UserError : the storage cannot be used
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage")  # `_begin_batch` starts one for every trial
    # Other processes write too: a locked database is no error, nor are tables that another one has just created.
    engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 0):
        try:
            database = RDBStorage(
                storage, engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRY),
            )  # fmt: skip
            return optuna.create_study(
                storage=database, study_name=name, direction="maximize", load_if_exists=True,
                sampler=Sampler(task),
            )  # fmt: skip
        except (SQLAlchemyError, StorageInternalError, ImportError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            if not any(word in reason for word in ("exists", "locked", "UNIQUE")):
                break
            time.sleep(pause)
    raise UserError(f"storage {storage}: cannot be used: {reason}")


class Sampler(BaseSampler):
    """Chooses every hyperparameter from the trial's number and, with `tpe`, the results so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.grid = combinations(task) if task.tune.sampler == "grid" else []
        self._slots: dict[int, int] = {}  # by trial, since to find one reads all trials from the storage

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        slot = self._slots.get(trial.number)
        if slot is None:
            slot = self._slots[trial.number] = _slot(study, trial)
        if self.grid:
            return self.grid[slot][param_name]
        seed = int(digest([self.task.train.seed, slot, param_name])[:8], 16)
        sampler = (
            RandomSampler(seed)
            if self.task.tune.sampler == "random"
            else TPESampler(seed=seed, constant_liar=True)  # avoids what other processes are trying
        )
        return sampler.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Batch:
    """Trials whose networks are trained together, and their heartbeats."""

    trials: list[tuple[Trial, Hyperparameters]]
    heartbeats: ExitStack


def optimize(
    task: Task, study: optuna.Study, objective: Objective, at_once: int, after_batch: Callable[[], Any]
) -> None:
    """Run trials until this process and others have finished the search.

    Parameters
    ----------
    objective : trains a batch of trials; it may return before they are finished
    at_once : batches that it may train at a time
    after_batch : called when the storage has the results of a batch
    """
    total = n_trials(task)
    # What `tpe` tries next depends on the results so far.
    size = 1 if task.tune.sampler == "tpe" else max(1, min(BATCH_SIZE, math.ceil(total / at_once)))
    running: dict[Future[list[Outcome]], Batch] = {}
    waiting = False
    with tqdm(total=total, desc="tune", unit="trial", disable=None) as bar:
        try:
            while True:
                fail_stale_trials(study)
                _fail_never_started(study)
                while len(running) < at_once and (batch := _begin_batch(task, study, size)):
                    running[_evaluated(study, objective, batch)] = batch
                trials = study.get_trials(deepcopy=False)
                begun = slots(trials)[:total]
                bar.n = sum(slot[-1].state.is_finished() for slot in begun)
                bar.refresh()
                if running:
                    for future in wait(running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED).done:
                        _end_batch(study, running[future], future.result(), bar)
                        del running[future]
                        after_batch()
                elif any(t.state == TrialState.RUNNING for slot in begun for t in slot):
                    if not waiting:
                        bar.write("  waiting for the trials of other processes", file=sys.stdout)
                    waiting = True
                    time.sleep(0.5)
                elif len(begun) == total and not any(t.state == TrialState.WAITING for t in trials):
                    return
        except BaseException:  # Ctrl-C: a search that continues has to repeat these trials
            for batch in running.values():
                _give_up(study, batch)
            raise


def _begin_batch(task: Task, study: optuna.Study, size: int) -> Batch | None:
    """Begin up to `size` trials; None if none is left."""
    batch = Batch([], ExitStack())
    try:
        while len(batch.trials) < size and (trial := _begin(task, study)):
            batch.heartbeats.enter_context(get_heartbeat_thread(trial._trial_id, study._storage))  # type: ignore[arg-type]
            parameters = {key: _suggest(trial, key, choices) for key, choices in task.tune.space.items()}
            trial.set_user_attr("parameters", parameters)
            batch.trials.append((trial, parameters))
    except BaseException:
        _give_up(study, batch)
        raise
    return batch if batch.trials else None


def _evaluated(study: optuna.Study, objective: Objective, batch: Batch) -> Future[list[Outcome]]:
    try:
        return objective([parameters for _, parameters in batch.trials])
    except BaseException:
        _give_up(study, batch)
        raise


def _end_batch(study: optuna.Study, batch: Batch, outcomes: Sequence[Outcome], bar: tqdm) -> None:
    with batch.heartbeats:
        for (trial, parameters), outcome in zip(batch.trials, outcomes, strict=True):
            with suppress(UpdateFinishedTrialError):  # this process slept so long that another one repeated the trial
                _end(study, trial, parameters, outcome, bar)


def _give_up(study: optuna.Study, batch: Batch) -> None:
    """Mark the trials as failed, so that they are repeated."""
    with batch.heartbeats:
        for trial, _ in batch.trials:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            _repeat(study, trial.number)


def _begin(task: Task, study: optuna.Study) -> Trial | None:
    """The next trial; None if none is left."""
    trials = study.get_trials(deepcopy=False)
    if len(slots(trials)) >= n_trials(task) and not any(t.state == TrialState.WAITING for t in trials):
        return None
    trial = study.ask()
    if _slot(study, study.get_trials(deepcopy=False)[trial.number]) < n_trials(task):
        return trial
    trial.set_user_attr(SURPLUS, True)
    study.tell(trial, state=TrialState.PRUNED)
    return None


def _end(study: optuna.Study, trial: Trial, parameters: Hyperparameters, outcome: Outcome, bar: tqdm) -> None:
    if isinstance(outcome, UserError):
        trial.set_user_attr("reason", str(outcome))
        bar.write(f"  trial {trial.number + 1}: {words(parameters)}: {outcome}", file=sys.stdout)
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        return
    trial.set_user_attr("result", outcome)
    study.tell(trial, outcome["score"], skip_if_finished=True)
    if bar.disable:
        print(f"  trial {trial.number + 1}/{bar.total}: {words(parameters)}: {describe(outcome)}", flush=True)


def _fail_never_started(study: optuna.Study) -> None:
    """Repeat trials whose process died before their first heartbeat: Optuna would wait for them forever."""
    for trial in study.get_trials(deepcopy=False):
        silent = trial.state == TrialState.RUNNING and "parameters" not in trial.user_attrs
        if silent and trial.datetime_start and datetime.now() - trial.datetime_start > timedelta(seconds=GRACE):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            _repeat(study, trial.number)


def _repeat(study: optuna.Study, number: int) -> None:
    trial = study.get_trials()[number]
    if trial.state == TrialState.FAIL:
        RetryHeartbeatStaleTrialCallback(MAX_RETRY)(study, trial)


def _suggest(trial: Trial, key: str, choices: list[Any] | Range) -> Any:
    if isinstance(choices, list):
        return json.loads(trial.suggest_categorical(key, categories(choices)))
    if number_type(key) is int:
        low, high = math.ceil(choices.low), math.floor(choices.high)
        return decode(key, trial.suggest_int(key, low, high, log=choices.log))
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)


def _root(trial: FrozenTrial) -> int:
    """Number of the trial, or of the trial that it repeats because its process died."""
    number: int = trial.system_attrs.get("failed_trial", trial.number)
    return number


def _slot(study: optuna.Study, trial: FrozenTrial) -> int:
    """Rank of a trial among those that repeat no other, counted from 0."""
    trials = study.get_trials(deepcopy=False)
    return sum(_root(t) == t.number < _root(trial) and SURPLUS not in t.user_attrs for t in trials)


def slots(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """The trials grouped by what they try, in the order of their numbers: each first one and its repetitions."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if SURPLUS not in trial.user_attrs:
            found.setdefault(_root(trial), []).append(trial)
    return [found[root] for root in sorted(found)]


def words(parameters: Hyperparameters) -> str:
    """Hyperparameters as text.

    Example
    -------
    >>> words({"train.l2": 0.001, "model.hidden": [128, 64]})
    'train.l2 = 0.001, model.hidden = 128-64'
    """
    return ", ".join(f"{key} = {shown(value)}" for key, value in parameters.items())
