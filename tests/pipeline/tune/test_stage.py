"""Search: every combination once, whoever does it and however often it is killed; the test split stays unread."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline import extract, task, train
from pipeline.extract.features import Features
from pipeline.report import search as figures
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.train import weights
from pipeline.tune import folds, objective, study
from pipeline.tune import stage as tune

RATES = 'tune.space={"train.learning_rate"=[0.003, 0.03]}'
QUICK = ("train.epochs=3", "tune.folds=2")
PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from pipeline import task, tune
from pipeline.run import Run
from pipeline.tune import study
study.BATCH_SIZE = 1
tune.tune(task.load("regions", overrides=sys.argv[2:]), Run(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory for each of the two small tasks."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("regions", "sine"):
        extract.extract(task.load(name), Run(folder / name))
    return folder


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
    """Until one of the trials fulfils it."""
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


def test_a_grid_tries_every_combination_once(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = 'tune.space={"model.hidden"=[[2], [4, 3], []], "train.l2"=[0, 1e-3, 0]}'
    result = search(prepared(features, tmp_path), space)
    expected = [(hidden, l2) for hidden in ("[2]", "[4, 3]", "[]") for l2 in ("0", "0.001")]
    assert tried(result, "model.hidden", "train.l2") == sorted(expected)
    scores = [trial["score"] for trial in result["trials"]]
    assert scores == sorted(scores, reverse=True)
    for trial in result["trials"]:
        assert trial["validation_accuracy"]["mean"] == pytest.approx(np.mean(trial["validation_accuracy"]["folds"]))
        assert len(trial["validation_loss"]["folds"]) == 2
        assert len(trial["curves"]["validation_loss"]) == len(trial["trace"]) == 3
        loss = {name: trial[f"{name}_loss"]["mean"] for name in ("train", "validation")}
        assert trial["gap"]["mean"] == pytest.approx(loss["validation"] - loss["train"])
    printed = capsys.readouterr().out
    assert "model.hidden  train.l2" in printed
    assert "4-3" in printed
    best = tune.best(task.load("regions", overrides=[*QUICK, space]), Run(tmp_path))
    assert list(best.model.hidden) == result["trials"][0]["parameters"]["model.hidden"]


def test_figures_are_drawn_from_the_saved_results_alone(features: Path, tmp_path: Path) -> None:
    search(
        prepared(features, tmp_path), 'tune.space={"train.l2"=[0, 1e-4, 1e-2], "train.schedule"=["constant", "step"]}'
    )
    names = {"losses", "noise", "regularisation-l2", "score-train-l2", "score-train-schedule"}
    drawn = {path.stem: path.read_bytes() for path in (tmp_path / "search").iterdir()}
    assert drawn.keys() == names
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "search.json").write_bytes((tmp_path / "search.json").read_bytes())
    assert {path.stem: path.read_bytes() for path in figures.draw(Run(copy))} == drawn


def test_a_killed_search_goes_on_and_repeats_nothing(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "GRACE", 1)
    monkeypatch.setattr(study, "BATCH_SIZE", 1)
    space = ('tune.space={"train.learning_rate"=[0.01, 0.02, 0.03, 0.04]}', "train.epochs=300")
    prepared(features, tmp_path)
    process = start(tmp_path, *space)
    wait_for(process, tmp_path, "number = 1 AND state = 'RUNNING'")
    time.sleep(0.1)  # into it
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = trials(tmp_path)
    before = {trial.number: trial.datetime_complete for trial in left if trial.state.is_finished()}
    assert 0 < len(before) < len(left)  # killed within a trial
    result = search(tmp_path, *space)
    assert tried(result, "train.learning_rate") == [("0.01",), ("0.02",), ("0.03",), ("0.04",)]
    after = {trial.number: trial for trial in trials(tmp_path)}
    assert all(after[number].datetime_complete == moment for number, moment in before.items())
    assert len(after) == 4 + 1
    assert without_seconds(search(prepared(features, tmp_path / "undisturbed"), *space)) == without_seconds(result)


def test_trials_trained_together_are_worth_what_each_is_alone(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes that cannot share a stack, rates, penalties, seeds and early stopping; autograd is the judge."""
    space = """tune.space={"model.hidden"=[[4], [3, 2]], "train.learning_rate"=[0.01, 0.1], "train.l2"=[0, 1e-3],
        "train.seed"=[0, 1], "train.early_stopping"=[0, 3]}""".replace("\n", "")
    together = search(prepared(features, tmp_path / "together"), space, "train.epochs=8")
    monkeypatch.setattr(study, "BATCH_SIZE", 1)
    alone = search(prepared(features, tmp_path / "alone"), space, "train.epochs=8", "train.gradients=autograd")
    of = {str(trial["parameters"]): trial for trial in alone["trials"]}
    assert len(of) == 32
    for trial in together["trials"]:
        expected = of[str(trial["parameters"])]
        assert trial["best_epoch"] == expected["best_epoch"]
        for name in ("validation_loss", "train_loss", "weight_norm", "validation_accuracy"):
            assert trial[name]["folds"] == pytest.approx(expected[name]["folds"], rel=1e-3), name


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
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[0]
    assert tried(search(tmp_path, RATES), "train.learning_rate") == [("0.003",), ("0.03",)]


def test_a_trial_whose_process_died_at_once_is_taken_again(
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
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    done = [trial for trial in trials(tmp_path) if study.SURPLUS not in trial.user_attrs]
    assert sorted(str(trial.user_attrs["parameters"]) for trial in done) == sorted(
        str({"train.learning_rate": rate, "train.l2": l2}) for rate in (0.01, 0.02, 0.03) for l2 in (0, 1e-4)
    )
    shares = [printed.count("  trial ") for printed in (output, capsys.readouterr().out)]
    assert sum(shares) == 6
    assert min(shares) >= 1
    assert without_seconds(json.loads((tmp_path / "search.json").read_text())) == without_seconds(result)


@pytest.mark.parametrize(("sampler", "n"), [("random", 4), ("tpe", 12)])  # the first 10 of tpe are random
def test_ranges(features: Path, tmp_path: Path, sampler: str, n: int) -> None:
    space = """tune.space={"train.learning_rate"={low=1e-3, high=1e-1, log=true}, "model.hidden"={low=2, high=8},
        "model.activation"=["tanh", "relu"]}""".replace("\n", "")
    overrides = (space, f"tune.sampler={sampler}", f"tune.trials={n}", "train.epochs=1")
    result = search(prepared(features, tmp_path / "one"), *overrides)
    assert len(result["trials"]) == n
    for trial in result["trials"]:
        values = trial["parameters"]
        assert 1e-3 <= values["train.learning_rate"] <= 1e-1
        assert 2 <= values["model.hidden"][0] <= 8
        assert values["model.activation"] in ("tanh", "relu")
    assert len({trial["parameters"]["train.learning_rate"] for trial in result["trials"]}) == n
    again = prepared(features, tmp_path / "again")
    search(again, *overrides, "tune.trials=3")  # and then more of the same search
    assert without_seconds(search(again, *overrides)) == without_seconds(result)


def test_regression_is_judged_by_its_error(features: Path, tmp_path: Path) -> None:
    result = search(prepared(features, tmp_path, "sine"), RATES, name="sine")
    best = result["trials"][0]
    assert best["score"] == -best["validation_loss"]["mean"] == max(trial["score"] for trial in result["trials"])
    assert "validation_accuracy" not in best


def test_a_diverging_trial_is_reported_and_the_search_goes_on(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ('tune.space={"train.learning_rate"=[1e6, 0.01]}', "train.optimizer=sgd", "model.activation=relu")
    result = search(prepared(features, tmp_path, "sine"), *overrides, name="sine")
    good, bad = result["trials"]
    assert good["parameters"]["train.learning_rate"] == 0.01
    assert bad["score"] is None
    assert "no longer a number" in bad["reason"]
    assert "1e+06  the loss is no longer a number" in capsys.readouterr().out
    hopeless = (overrides[0].replace("0.01", "1e7"), *overrides[1:])
    assert [trial["score"] for trial in search(tmp_path, *hopeless, name="sine")["trials"]] == [None, None]
    assert figures.draw(Run(tmp_path)) == []
    with pytest.raises(UserError, match="no trial succeeded"):
        tune.best(task.load("sine", overrides=[*QUICK, *hopeless]), Run(tmp_path))


def test_the_test_split_is_never_read(features: Path, tmp_path: Path) -> None:
    whole = search(prepared(features, tmp_path / "whole"), RATES)
    known = Features.load(features / "regions" / "features.npz")
    x = known.x.copy()
    x[known.rows("test")] = np.nan
    (tmp_path / "spoiled").mkdir()
    replace(known, x=x).save(tmp_path / "spoiled" / "features.npz")
    spoiled = search(tmp_path / "spoiled", RATES)
    assert spoiled["study"] == whole["study"]
    assert without_seconds(spoiled) == without_seconds(whole)


def test_a_fold_depends_on_content_and_seed_alone(features: Path) -> None:
    known = Features.load(features / "regions" / "features.npz")
    device = train.choose_device("cpu")
    made = folds.make_folds(task.load("regions"), known, device)
    assert sum(len(fold.held_out.y) for fold in made) == (~known.rows("test")).sum()
    for fold in made:
        assert len(fold.held_out.y) + len(fold.training.y) == (~known.rows("test")).sum()
        assert fold.training.x.mean(0).abs().max() < 1e-5  # standardised by itself
    assert [folds.assign_fold(f"{i}", 5, 0) for i in range(8)] != [folds.assign_fold(f"{i}", 5, 1) for i in range(8)]


def test_early_stopping_keeps_the_best_epoch_of_each_fold(features: Path, tmp_path: Path) -> None:
    result = search(
        prepared(features, tmp_path), 'tune.space={"train.learning_rate"=[0.5]}', "train.epochs=40",
        "train.early_stopping=3",
    )  # fmt: skip
    (trial,) = result["trials"]
    assert all(1 <= epoch < 40 for epoch in trial["best_epoch"]["folds"])
    assert trial["validation_loss"]["mean"] <= min(trial["curves"]["validation_loss"]) + 1e-6


def test_noise_of_the_gradient_averages_out_as_the_step_decreases(features: Path, tmp_path: Path) -> None:
    result = search(
        prepared(features, tmp_path, "sine"), 'tune.space={"train.schedule"=["constant", "step", "cosine"]}',
        "train.optimizer=sgd", "train.learning_rate=0.3", "train.batch_size=10", "train.epochs=120", name="sine",
    )  # fmt: skip
    noise = {trial["parameters"]["train.schedule"]: trial["noise"] for trial in result["trials"]}
    assert noise["step"] < noise["constant"] / 5
    assert noise["cosine"] < noise["constant"] / 5


def test_another_task_does_not_mix(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    first = search(tmp_path, RATES)
    second = search(tmp_path, RATES, "model.hidden=[2]")
    assert first["study"] != second["study"]
    with pytest.raises(UserError, match="another task"):
        tune.best(task.load("regions", overrides=[*QUICK, RATES]), Run(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "tune.space is empty"),
        (['tune.space={"train.learning_rte"=[1]}'], "did you mean 'train.learning_rate'?"),
        (['tune.space={"data.seed"=[1]}'], "'data.seed' cannot be searched"),
        (['tune.space={"train.device"=["cpu"]}'], "'train.device' cannot be searched"),
        (['tune.space={"train.epochs"=[1, -3]}'], "train.epochs: Input should be greater than or equal to 1, not -3"),
        (['tune.space={"train.l2"=[]}'], "has no values"),
        (['tune.space={"train.l2"={low=0, high=1}}'], "a grid needs a list"),
        (['tune.space={"train.l2"={low=1, high=0}}', "tune.sampler=tpe"], "needs low < high"),
        (['tune.space={"train.l2"={low=0, high=1, log=true}}', "tune.sampler=tpe"], "needs low > 0"),
        (['tune.space={"train.schedule"={low=0, high=1}}', "tune.sampler=random"], "is not a number"),
    ],
)
def test_a_mistake_in_the_space_is_one_line(features: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        search(prepared(features, tmp_path), *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_storage_that_cannot_be_used_is_one_line(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    for storage in (f"sqlite:///{tmp_path}/none/search.db", "nonsense"):
        with pytest.raises(UserError, match=r"storage .* cannot be used") as caught:
            search(tmp_path, RATES, storage=storage)
        assert "\n" not in str(caught.value)


def test_the_best_is_trained_on_all_samples_but_the_test_split(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    search(tmp_path, RATES)
    chosen = tune.train_best(task.load("regions", overrides=[*QUICK, RATES]), Run(tmp_path))
    history = json.loads((tmp_path / "history.json").read_text())
    assert not history["validation_loss"]
    assert len(history["train_loss"]) == chosen.train.epochs
    assert weights.load(tmp_path / "weights.pt")[1].with_validation
