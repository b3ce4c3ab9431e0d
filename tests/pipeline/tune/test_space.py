"""The search space: grids, ranges, and mistakes in it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import task
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.tune import stage as tune
from tests.pipeline.tune.searches import QUICK, prepared, search, tried, without_seconds

pytestmark = pytest.mark.usefixtures("without_figures")


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "tune.space is empty"),
        (['tune.space={"train.learning_rte"=[1]}'], "did you mean 'train.learning_rate'?"),
        (['tune.space={"data.seed"=[1]}'], "'data.seed' cannot be searched"),
        (['tune.space={"train.device"=["cpu"]}'], "'train.device' cannot be searched"),
        (['tune.space={"train.epochs"=[1, -3]}'], "train.epochs: must be at least 1, not -3"),
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
