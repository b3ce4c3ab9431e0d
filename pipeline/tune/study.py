"""The study behind a search: Optuna's storage, through which processes share a search and take it up again.

The number of a trial decides its hyperparameters (with `tpe`, together with the results before it), and trials are
numbered by the storage. So processes that search together need no other agreement, and a search that was killed
goes on as if it had not been.
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
from pipeline.tune.space import _choices, combinations, decode, n_trials, number_type

HEARTBEAT, GRACE = 2, 15  # seconds between two signs of life, and of silence after which a process counts as dead
TOGETHER = 16  # trials that a process does at a time, and begins again if it dies
MAX_RETRY = 5  # of a trial whose process died; it may be the trial that kills it
SURPLUS = "surplus"  # mark of a trial begun when another process had begun the last one at the same moment


def open_study(task: Task, name: str, storage: str) -> optuna.Study:
    """The study of that name in a storage, made if it is not there.

    Raises
    ------
    UserError : the storage cannot be used
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage")  # ours beats for every trial that it asks for
    # Other processes write too: waiting for the database's lock is no error, nor is finding tables just made.
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


Outcome = tuple[dict[str, Any], str] | UserError  # a result with a score, and its words; or why there is none
Judge = Callable[[Sequence[dict[str, Any]]], Future[list[Outcome]]]  # hyperparameters of trials → what became of each


@dataclass(frozen=True)
class Group:
    """Trials begun together, whose networks are trained together; alive: their heartbeats."""

    trials: list[tuple[Trial, dict[str, Any]]]
    alive: ExitStack


def work(task: Task, study: optuna.Study, judge: Judge, at_once: int, noted: Callable[[], Any]) -> None:
    """Do trials until all are done, whoever does them; several at a time, whose networks are trained together.

    Parameters
    ----------
    judge : what trains a group of trials; it may return before they are done
    at_once : groups that it may train at a time
    noted : called when the storage has the results of a group
    """
    wanted = n_trials(task)
    # What `tpe` tries next depends on the results so far.
    most = 1 if task.tune.sampler == "tpe" else max(1, min(TOGETHER, math.ceil(wanted / at_once)))
    running: dict[Future[list[Outcome]], Group] = {}
    waiting = False
    with tqdm(total=wanted, desc="tune", unit="trial", disable=None) as bar:
        try:
            while True:
                fail_stale_trials(study)
                _fail_stillborn(study)
                while len(running) < at_once and (group := _begin_group(task, study, most)):
                    running[_judged(study, judge, group)] = group
                trials = study.get_trials(deepcopy=False)
                begun = slots(trials)[:wanted]
                bar.n = sum(slot[-1].state.is_finished() for slot in begun)
                bar.refresh()
                if running:
                    for future in wait(running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED).done:
                        _end_group(study, running[future], future.result(), bar, wanted)
                        del running[future]
                        noted()
                elif any(t.state == TrialState.RUNNING for slot in begun for t in slot):
                    if not waiting:
                        bar.write("  waiting for the trials of other processes", file=sys.stdout)
                    waiting = True
                    time.sleep(0.5)
                elif len(begun) == wanted and not any(t.state == TrialState.WAITING for t in trials):
                    return
        except BaseException:  # Ctrl-C: the trials are to be done when the search goes on
            for group in running.values():
                _give_up(study, group)
            raise


def _begin_group(task: Task, study: optuna.Study, most: int) -> Group | None:
    """Begin up to `most` trials, if there are any to be done."""
    group = Group([], ExitStack())
    try:
        while len(group.trials) < most and (trial := _begin(task, study)):
            group.alive.enter_context(get_heartbeat_thread(trial._trial_id, study._storage))  # type: ignore[arg-type]
            parameters = {key: _suggest(trial, key, choices) for key, choices in task.tune.space.items()}
            trial.set_user_attr("parameters", parameters)
            group.trials.append((trial, parameters))
    except BaseException:
        _give_up(study, group)
        raise
    return group if group.trials else None


def _judged(study: optuna.Study, judge: Judge, group: Group) -> Future[list[Outcome]]:
    try:
        return judge([parameters for _, parameters in group.trials])
    except BaseException:
        _give_up(study, group)
        raise


def _end_group(study: optuna.Study, group: Group, outcomes: Sequence[Outcome], bar: tqdm, wanted: int) -> None:
    with group.alive:
        for (trial, parameters), outcome in zip(group.trials, outcomes, strict=True):
            with suppress(UpdateFinishedTrialError):  # so long asleep that others took it for dead and did it again
                _end(study, trial, parameters, outcome, bar, wanted)


def _give_up(study: optuna.Study, group: Group) -> None:
    with group.alive:
        for trial, _ in group.trials:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            _again(study, trial.number)


def _begin(task: Task, study: optuna.Study) -> Trial | None:
    """The next trial, if there is one to be done."""
    trials = study.get_trials(deepcopy=False)
    if len(slots(trials)) >= n_trials(task) and not any(t.state == TrialState.WAITING for t in trials):
        return None
    trial = study.ask()
    if _slot(study, study.get_trials(deepcopy=False)[trial.number]) < n_trials(task):
        return trial
    trial.set_user_attr(SURPLUS, True)
    study.tell(trial, state=TrialState.PRUNED)
    return None


def _end(
    study: optuna.Study, trial: Trial, parameters: dict[str, Any], outcome: Outcome, bar: tqdm, wanted: int
) -> None:
    if isinstance(outcome, UserError):
        trial.set_user_attr("reason", str(outcome))
        bar.write(f"  trial {trial.number + 1}: {words(parameters)}: {outcome}", file=sys.stdout)
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        return
    result, verdict = outcome
    trial.set_user_attr("result", result)
    study.tell(trial, result["score"], skip_if_finished=True)
    if bar.disable:
        print(f"  trial {trial.number + 1}/{wanted}: {words(parameters)}: {verdict}", flush=True)


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
    if number_type(key) is int:
        low, high = math.ceil(choices.low), math.floor(choices.high)
        return decode(key, trial.suggest_int(key, low, high, log=choices.log))
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)


def _root(trial: FrozenTrial) -> int:
    """Number of the trial, or of the one that it does again because its process died."""
    number: int = trial.system_attrs.get("failed_trial", trial.number)
    return number


def _slot(study: optuna.Study, trial: FrozenTrial) -> int:
    """Rank of a trial among those that do no other again, counted from 0."""
    trials = study.get_trials(deepcopy=False)
    return sum(_root(t) == t.number < _root(trial) and SURPLUS not in t.user_attrs for t in trials)


def slots(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Trials of every slot, in the order of their numbers."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if SURPLUS not in trial.user_attrs:
            found.setdefault(_root(trial), []).append(trial)
    return [found[root] for root in sorted(found)]


def words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {shown(value)}" for key, value in parameters.items())
