"""The score of a trial: classes and numbers, early stopping, noise, a loss that is no longer a number."""

from pathlib import Path

import pytest

from pipeline import task
from pipeline.report import search as figures
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.tune import stage as tune
from tests.pipeline.tune.searches import QUICK, RATES, prepared, search


def test_regression_is_scored_by_its_error(features: Path, tmp_path: Path) -> None:
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
