"""The study: every trial runs once, in any process, however often one is killed."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline import task
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.tune import objective, study
from pipeline.tune import stage as tune
from tests.pipeline.tune.searches import QUICK, RATES, prepared, search, start, trials, tried, wait_for, without_seconds

pytestmark = pytest.mark.usefixtures("without_figures")


def test_a_killed_search_continues_and_repeats_nothing(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "GRACE", 1)
    monkeypatch.setattr(study, "BATCH_SIZE", 1)
    space = ('tune.space={"train.learning_rate"=[0.01, 0.02, 0.03, 0.04]}', "train.epochs=150")
    prepared(features, tmp_path)
    process = start(tmp_path, *space)
    wait_for(process, tmp_path, "number = 1 AND state = 'RUNNING'")
    time.sleep(0.1)  # into it
    process.send(signal.SIGKILL)
    process.end()
    left = trials(tmp_path)
    before = {trial.number: trial.datetime_complete for trial in left if trial.state.is_finished()}
    assert 0 < len(before) < len(left)  # killed within a trial
    result = search(tmp_path, *space)
    assert tried(result, "train.learning_rate") == [("0.01",), ("0.02",), ("0.03",), ("0.04",)]
    after = {trial.number: trial for trial in trials(tmp_path)}
    assert all(after[number].datetime_complete == moment for number, moment in before.items())
    assert len(after) == 4 + 1
    assert without_seconds(search(prepared(features, tmp_path / "undisturbed"), *space)) == without_seconds(result)


def test_an_interrupted_trial_is_done_when_the_search_goes_on(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    prepared(features, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, RATES)
    assert tried(search(tmp_path, RATES), "train.learning_rate") == [("0.003",), ("0.03",)]


def test_ctrl_c_ends_a_search_at_once(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    process = start(tmp_path, RATES, "train.epochs=1000000")
    wait_for(process, tmp_path, "state = 'RUNNING'")
    time.sleep(1)  # into it
    process.send(signal.SIGINT)
    assert "KeyboardInterrupt" in process.end()
    assert tried(search(tmp_path, RATES), "train.learning_rate") == [("0.003",), ("0.03",)]


def test_a_trial_whose_process_died_at_once_is_repeated(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "GRACE", 1)
    prepared(features, tmp_path)
    chosen = task.load("regions", overrides=[*QUICK, RATES])
    name = tune.study_name(chosen, Features.load(tmp_path / "features.npz"))
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    optuna.create_study(study_name=name, storage=storage, direction="maximize").ask()
    assert tried(search(tmp_path, RATES), "train.learning_rate") == [("0.003",), ("0.03",)]


def test_two_processes_share_a_search(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "BATCH_SIZE", 1)
    prepared(features, tmp_path)
    space = ('tune.space={"train.learning_rate"=[0.01, 0.02, 0.03], "train.l2"=[0, 1e-4]}', "train.epochs=60")
    process = start(tmp_path, *space)
    wait_for(process, tmp_path, "number = 0")
    result = search(tmp_path, *space)
    output = process.end()
    assert process.process.exitcode == 0, output
    done = [trial for trial in trials(tmp_path) if study.SURPLUS not in trial.user_attrs]
    assert sorted(str(trial.user_attrs["parameters"]) for trial in done) == sorted(
        str({"train.learning_rate": rate, "train.l2": l2}) for rate in (0.01, 0.02, 0.03) for l2 in (0, 1e-4)
    )
    shares = [printed.count("  trial ") for printed in (output, capsys.readouterr().out)]
    assert sum(shares) == 6
    assert min(shares) >= 1
    assert without_seconds(json.loads((tmp_path / "search.json").read_text())) == without_seconds(result)


def test_another_task_does_not_mix(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    first = search(tmp_path, RATES)
    second = search(tmp_path, RATES, "model.hidden=[2]")
    assert first["study"] != second["study"]
    with pytest.raises(UserError, match="another task"):
        tune.best(task.load("regions", overrides=[*QUICK, RATES]), Run(tmp_path))


def test_a_storage_that_cannot_be_used_is_one_line(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    for storage in (f"sqlite:///{tmp_path}/none/search.db", "nonsense"):
        with pytest.raises(UserError, match=r"storage .* cannot be used") as caught:
            search(tmp_path, RATES, storage=storage)
        assert "\n" not in str(caught.value)
