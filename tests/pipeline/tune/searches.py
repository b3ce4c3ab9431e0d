"""Searches on two small tasks, as the tests of this folder run and read them."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna

from pipeline import task
from pipeline.run import Run
from pipeline.tune import stage as tune

RATES = 'tune.space={"train.learning_rate"=[0.003, 0.03]}'
QUICK = ("train.epochs=3", "tune.folds=2")
PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from pipeline import task
from pipeline.run import Run
from pipeline.tune import stage as tune, study
study.BATCH_SIZE = 1
tune.tune(task.load("regions", overrides=sys.argv[2:]), Run(Path(sys.argv[1])))
"""


def prepared(features: Path, run: Path, name: str = "regions") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "features.npz").symlink_to(features / name / "features.npz")
    return run


def search(run: Path, *overrides: str, name: str = "regions", **options: Any) -> dict[str, Any]:
    tune.tune(task.load(name, overrides=[*QUICK, *overrides]), Run(run), **options)
    result: dict[str, Any] = json.loads((run / "search.json").read_text())
    return result


def start(run: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(run), *QUICK, *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trials(run: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{run / 'search.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def wait_for(process: subprocess.Popen[str], run: Path, condition: str) -> None:
    """Wait until a trial fulfils the condition."""
    while True:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(run / "search.db")) as database:
            if database.execute(f"SELECT 1 FROM trials WHERE {condition}").fetchone():
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def tried(result: dict[str, Any], *keys: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(str(trial["parameters"][key]) for key in keys) for trial in result["trials"])


def without_seconds(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in result["trials"]]
