"""The tasks of docs/unit.md from extraction to HTTP: the accuracies that they must reach, and their answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import percept, ran
from tests.service.in_process import application


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("home"), "regions", "sine")


def read(home: Path, task: str, file: str) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = json.loads((home / "runs" / task / file).read_text())
    return result


def test_regions_are_learned_by_four_units_and_not_by_a_line(home: Path) -> None:
    history = json.loads((home / "runs/regions/history.json").read_text())
    assert history["epoch"][-1] == 500
    assert history["train_accuracy"][-1] >= 0.91
    assert read(home, "regions", "report.json")["test"]["roc_auc"] > 0.95
    linear = percept("run", "regions", "--set", "model.hidden=[]", "--set", "name=linear", home=home)
    assert "gate: min_accuracy" in linear.stderr
    assert read(home, "linear", "report.json")["test"]["accuracy"] < 0.7


def test_sine_is_fitted_within_half_of_its_noise(home: Path) -> None:
    test = read(home, "sine", "report.json")["test"]
    assert test["rmse"] <= 0.05  # the test samples are of the noiseless curve
    assert test["mse"] == pytest.approx(test["rmse"] ** 2)
    assert test["r2"] > 0.99
    assert test["mae"] < test["rmse"]


def test_train_prints_the_layers(home: Path) -> None:
    printed = percept("train", "regions", "--set", "train.epochs=1", "--set", "name=linear", home=home).stdout
    assert [line.split()[-1] for line in printed.splitlines()[:3]] == ["12", "5", "17"]
    assert "hidden 1 (sigmoid)   (None, 4)" in printed


def test_gradcheck_prints_a_table_below_its_limit(home: Path) -> None:
    for task in ("regions", "sine"):
        options = ("--set", "train.l2=0.01", "--set", "train.activity_l1=0.01")
        printed = percept("gradcheck", task, *options, home=home).stdout
        assert printed.splitlines()[-1] == "  all are below 1e-07"


def test_both_are_served(home: Path) -> None:
    with application(home) as client:
        for x in (0.1, 0.25, 0.8):
            answer = client.post("/predict/sine", json=[x]).raise_for_status().json()
            assert answer.keys() == {"model", "version", "value"}
            assert answer["value"]["y"] == pytest.approx(np.sin(2 * np.pi * x), abs=0.15)
        centre = client.post("/predict/regions", json=[0.5, 0.5]).raise_for_status().json()
        corner = client.post("/predict/regions", json=[0.02, 0.97]).raise_for_status().json()
        assert (centre["label"], corner["label"]) == ("inside", "outside")
        assert client.post("/predict/regions", json=[0.5]).status_code == 422
    ranges = np.array(json.loads((home / "runs/regions/card.json").read_text())["ranges"])
    np.testing.assert_allclose(ranges, [[0, 1], [0, 1]], atol=0.02)  # the unit square, for the page's plot
    file = home / "point.json"
    file.write_text("[0.5, 0.5]")
    [line] = percept("predict", "regions", file, "--json", home=home).stdout.splitlines()
    assert json.loads(line)["probabilities"] == centre["probabilities"]


def test_plots_are_drawn_again_from_saved_results(home: Path) -> None:
    run = home / "runs" / "regions"
    before = {path.name for path in (run / "plots").iterdir()}
    assert {"regions.svg", "units.svg", "roc.svg", "precision_recall.svg", "loss.svg", "accuracy.svg"} <= before
    for path in (run / "plots").iterdir():
        path.unlink()
    (run / "features.npz").rename(home / "kept.npz")
    printed = percept("plot", "regions", home=home).stdout.splitlines()
    (home / "kept.npz").rename(run / "features.npz")
    assert {Path(line).name for line in printed} == before | {"report.html"}
    run.rename(run.with_name("squares"))
    again = percept("plot", "squares", home=home)  # by the name of its folder
    run.with_name("squares").rename(run)
    assert len(again.stdout.splitlines()) == len(printed), again.stderr
    assert "circles" in percept("plot", "circles", home=home).stderr


def test_exercises_draw_their_figures(home: Path) -> None:
    printed = percept("exercises", "--out", "by-hand", home=home).stdout.splitlines()
    assert {Path(line).name for line in printed if line.endswith(".svg")} >= {"three-units.svg", "least-squares.svg"}


def test_the_best_of_a_search_is_exported(home: Path) -> None:
    options = ("--set", "name=best", "--set", "tune.folds=2", "--set", "train.epochs=150",
               "--set", "tune.space={model.hidden=[[1], [6]]}")  # fmt: skip
    percept("extract", "regions", *options, home=home)
    done = percept("tune", "regions", *options, "--export", home=home)
    assert done.returncode == 0, done.stderr
    card = json.loads((home / "runs/best/card.json").read_text())
    assert card["parameters"] == 6 * 3 + 7
    assert "Search for hyperparameters" in (home / "runs/best/report.html").read_text()
