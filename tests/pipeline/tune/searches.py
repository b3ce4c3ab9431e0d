"""Searches on two small tasks, as the tests of this folder run and read them."""

import json
import os
import signal
import sqlite3
import time
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna

from pipeline import task
from pipeline.run import Run
from pipeline.tune import stage as tune
from pipeline.tune import study

RATES = 'tune.space={"train.learning_rate"=[0.003, 0.03]}'
QUICK = ("train.epochs=3", "tune.folds=2")
# Processes are forks of one that has imported what takes seconds.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["pipeline.tune.stage"])


def prepared(features: Path, run: Path, name: str = "regions") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "features.npz").symlink_to(features / name / "features.npz")
    return run


def search(run: Path, *overrides: str, name: str = "regions", **options: Any) -> dict[str, Any]:
    tune.tune(task.load(name, overrides=[*QUICK, *overrides]), Run(run), **options)
    result: dict[str, Any] = json.loads((run / "search.json").read_text())
    return result


class Started:
    """A search in a process of its own, which prints into a file."""

    def __init__(self, run: Path, overrides: tuple[str, ...]) -> None:
        self.output = run / "output.txt"
        self.process = PROCESSES.Process(target=_search, args=(run, (*QUICK, *overrides), self.output))
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process.pid
        os.kill(self.process.pid, number)

    def end(self) -> str:
        """Wait until it ends; what it printed."""
        self.process.join(120)
        assert self.process.exitcode is not None
        return self.output.read_text()


def _search(run: Path, overrides: tuple[str, ...], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    study.BATCH_SIZE = 1
    tune.tune(task.load("regions", overrides=overrides), Run(run))


def start(run: Path, *overrides: str) -> Started:
    return Started(run, overrides)


def trials(run: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{run / 'search.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def wait_for(search: Started, run: Path, condition: str) -> None:
    """Wait until a trial fulfils the condition."""
    while True:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(run / "search.db")) as database:
            if database.execute(f"SELECT 1 FROM trials WHERE {condition}").fetchone():
                return
        assert search.process.is_alive(), search.end()
        time.sleep(0.02)


def tried(result: dict[str, Any], *keys: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(str(trial["parameters"][key]) for key in keys) for trial in result["trials"])


def without_seconds(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in result["trials"]]
