"""Learning curves: training as `percept train` does it, with the test samples evaluated after every epoch."""

import json
from pathlib import Path

import pytest

from pipeline import extract, task
from pipeline.lessons import curves
from pipeline.run import Run
from pipeline.task import UserError
from tests.command import percept


def extracted(folder: Path, name: str, *overrides: str) -> tuple[task.Task, Run]:
    asked, run = task.load(name, overrides=overrides), Run(folder)
    extract.extract(asked, run)
    return asked, run


def test_the_training_is_that_of_train_and_the_last_test_accuracy_that_of_validate(tmp_path: Path) -> None:
    options = ("--set", "train.epochs=60", "--set", "train.learning_rate=0.3")
    for command in ("extract", "train", "validate", "curves"):
        done = percept(command, "regions", *options, home=tmp_path)
        assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "regions"
    history = json.loads((run / "history.json").read_text())
    (found,) = json.loads((run / "lessons" / "curves.json").read_text()).values()
    for column in ("epoch", "train_loss", "train_accuracy"):
        assert found[column] == history[column]
    assert found["test_loss"] != history["validation_loss"]
    report = json.loads((run / "report.json").read_text())
    assert found["test_accuracy"][-1] == pytest.approx(report["test"]["accuracy"])
    assert f"epoch 60/60, loss {history['train_loss'][-1]:.4f}, training accuracy" in done.stdout
    assert 20 < len(done.stdout.splitlines()) < 40


def test_three_rates_are_three_curves_on_one_split_in_one_figure(tmp_path: Path) -> None:
    asked, run = extracted(tmp_path, "regions", "train.epochs=3", "train.early_stopping=1")
    options = [asked.train.model_copy(update={"learning_rate": rate}) for rate in (0.1, 0.01, 0.001)]
    found = curves.curves(asked, run, options)
    assert list(found) == ["0.1", "0.01", "0.001"]
    assert all(len(column) == 3 for columns in found.values() for column in columns.values())
    assert found["0.1"] == curves.trained(asked, extract.Features.of(run), options[0])
    drawn = (run.lessons / "curves.svg").read_text()
    assert all(f">rate {rate}<" in drawn for rate in found)
    assert not run.weights.exists()


def test_a_regression_has_losses_only(tmp_path: Path) -> None:
    asked, run = extracted(tmp_path, "sine", "train.epochs=2")
    (found,) = curves.curves(asked, run, [asked.train]).values()
    assert found["train_accuracy"] == []
    assert len(found["test_loss"]) == 2


def test_a_loss_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    asked, run = extracted(tmp_path, "sine", "train.optimizer=sgd", "train.learning_rate=1e30")
    with pytest.raises(UserError, match="no longer a number"):
        curves.curves(asked, run, [asked.train])
    assert not (run.lessons / "curves.json").exists()


def test_a_rate_that_is_too_high_leaves_the_curves_of_the_others(tmp_path: Path) -> None:
    asked, run = extracted(tmp_path, "sine", "train.optimizer=sgd", "train.epochs=2")
    options = [asked.train.model_copy(update={"learning_rate": rate}) for rate in (0.1, 1e30, 0.01)]
    with pytest.raises(UserError, match=r"no longer a number.*now 1e\+30"):
        curves.curves(asked, run, options)
    assert list(json.loads((run.lessons / "curves.json").read_text())) == ["0.1", "0.01"]
    assert ">rate 0.01<" in (run.lessons / "curves.svg").read_text()


def test_a_lesson_extracts_what_it_needs_and_keeps_what_is_there(tmp_path: Path) -> None:
    first = percept("gradcheck", "regions", home=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "1600 newly extracted" in first.stdout
    for command in ("gradcheck", "backprop"):
        again = percept(command, "regions", home=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "extracted" not in again.stdout
    other = percept("gradcheck", "regions", "--set", "data.seed=1", home=tmp_path)
    assert other.returncode == 1
    assert "was made with another [data]; run `percept extract`" in other.stderr


def test_rates_that_are_none_are_one_line(tmp_path: Path) -> None:
    for rate, line in (("0", "must be more than 0"), ("nan", "must be a finite number"), ("-1", "more than 0")):
        done = percept("curves", "regions", "--learning-rate", rate, home=tmp_path)
        assert done.returncode == 1
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""  # nothing was extracted before
