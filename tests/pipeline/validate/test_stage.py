"""Validation: metrics against scikit-learn and by hand, the gate, the files that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss

from pipeline import extract, task, train, validate
from pipeline.run import Run
from pipeline.task import UserError, Validate
from pipeline.validate import metrics
from pipeline.validate.intervals import Intervals, wilson
from service.media import Limits
from service.media.image import decode_image


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 500).astype(np.float32)
    y = np.array([rng.choice(4, p=row / row.sum()) for row in p.astype(float)])
    p /= p.sum(1, keepdims=True)
    found = metrics.classification(p, y, ("a", "b", "c", "d"))
    assert found["accuracy"] == accuracy_score(y, p.argmax(1))
    exact = p.astype(float)
    assert found["log_loss"] == pytest.approx(log_loss(y, exact / exact.sum(1, keepdims=True)), rel=1e-5)
    assert found["ece"] < 0.1  # the classes were drawn with these probabilities
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 500
    assert matrix.trace() / 500 == found["accuracy"]
    for k, row in enumerate(found["per_class"]):
        assert row["recall"] == pytest.approx(matrix[k, k] / matrix[k].sum())
        assert row["precision"] == pytest.approx(matrix[k, k] / matrix[:, k].sum())
        low, high = row["recall_interval"]
        assert low < row["recall"] < high


def test_expected_calibration_error_by_hand() -> None:
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, np.float32)
    y = np.array([0] * 9 + [1] + [0] * 4 + [1] * 6)  # 90 % right at 0.9, 40 % right at 0.6
    assert metrics.classification(p, y, ("a", "b"))["ece"] == pytest.approx(0.1, abs=1e-6)


def test_reliability_has_the_interval_of_each_bin() -> None:
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, np.float32)
    y = np.array([0] * 9 + [1] + [0] * 4 + [1] * 6)
    low, high = metrics.classification(p, y, ("a", "b"))["reliability"]
    assert (low["count"], low["interval"]) == (10, wilson(0.4, 10))
    assert (high["count"], high["interval"]) == (10, wilson(0.9, 10))


def test_a_class_without_test_samples_has_no_recall() -> None:
    found = metrics.classification(np.array([[0.8, 0.1, 0.1]], np.float32), np.array([0]), ("a", "b", "c"))
    assert found["per_class"][1]["recall"] is None
    assert found["per_class"][1]["precision"] is None
    assert found["per_class"][0]["recall"] == 1


def test_two_classes_have_curves_with_their_areas() -> None:
    p = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    found = metrics.classification(np.stack([1 - p, p], 1), np.array([0, 0, 1, 1]), ("no", "yes"))
    assert found["roc_auc"] == pytest.approx(0.75)
    assert found["average_precision"] == pytest.approx(0.8333, abs=1e-4)
    assert found["roc"]["fpr"][0] == 0
    assert found["roc"]["tpr"][-1] == 1


def test_regression_metrics_by_hand() -> None:
    y, values = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([[1.0], [2.0], [6.0]], np.float32)
    expected = {"mse": 3.0, "rmse": 3**0.5, "mae": 1.0, "r2": 1 - 9 / 2}
    assert metrics.regression(values, y) == pytest.approx(expected)
    scaled = metrics.regression(values * np.float32(1e30), y * np.float32(1e30))
    assert scaled == pytest.approx({"mse": 3e60, "rmse": 3**0.5 * 1e30, "mae": 1e30, "r2": expected["r2"]})


def test_intervals_and_comparisons_are_over_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 10)
    right = np.repeat(rng.uniform(size=30) < 0.8, 10)  # a group is right as a whole
    y, chosen = np.zeros(300, int), (~right).astype(int)
    p = np.eye(2, dtype=np.float32)[chosen]
    alone = metrics.classification(p, y, ("a", "b"))
    together = metrics.classification(p, y, ("a", "b"), Intervals.of(group))
    assert together["accuracy"] == alone["accuracy"]
    width, wider = (np.ptp(found["accuracy_interval"]) for found in (alone, together))
    assert wider == pytest.approx(10**0.5 * width, rel=0.15)
    every = np.ones(300, bool)
    assert Intervals.of(group).among(every) == pytest.approx(wilson(1.0, 30))
    assert Intervals.of(np.zeros(300)).among(right) == pytest.approx(wilson(right.mean(), 1), abs=0.01)
    two, most = np.repeat([0, 1], 150), np.arange(300) % 40 > 0  # 97 % of each of two groups
    assert Intervals.of(two).among(most) == pytest.approx(wilson(most.mean(), 2))
    wins = int((~right).sum() // 10)
    assert metrics.mcnemar(every, right, Intervals.of(group)) == metrics.mcnemar(
        np.ones(wins, bool), np.zeros(wins, bool)
    )


def test_macro_recall_counts_each_class_alike() -> None:
    y = np.array([0] * 98 + [1] * 2)
    found = metrics.classification(np.tile(np.float32([0.9, 0.1]), (100, 1)), y, ("common", "rare"))
    assert (found["accuracy"], found["macro_recall"]) == (0.98, 0.5)


def test_wilson_interval() -> None:
    assert wilson(0.9, 10) == pytest.approx([0.5958, 0.9821], abs=1e-4)


def test_gate() -> None:
    test = {"accuracy": 0.9, "ece": 0.04, "log_loss": 0.3}
    assert validate.gate(test, Validate())["passed"]
    assert validate.gate(test, Validate(min_accuracy=0.9, max_ece=0.05))["passed"]
    assert validate.gate(test, Validate(baselines=True))["checks"] == []
    failed = validate.gate(test, Validate(min_accuracy=0.95, max_log_loss=0.5))
    assert not failed["passed"]
    assert [check["passed"] for check in failed["checks"]] == [False, True]


def test_a_threshold_of_another_kind_of_target_is_one_line() -> None:
    with pytest.raises(UserError, match=r"validate\.max_rmse: this kind of target has no rmse"):
        validate.gate({"accuracy": 0.9}, Validate(max_rmse=1.0))


def test_report_has_what_the_contract_names(short_run: Path) -> None:
    report = json.loads((short_run / "report.json").read_text())
    assert (report["name"], report["kind"]) == ("digits", "multiclass")
    samples = report["samples"]
    assert samples["train"] + samples["validation"] + samples["test"] + len(samples["skipped"]) == 1797
    assert {"accuracy", "log_loss", "ece", "per_class", "confusion_matrix"} <= report["test"].keys()
    assert report["test"]["accuracy"] > 0.8
    assert report["gate"]["checks"][0]["name"] == "min_accuracy"
    assert report["task"]["train"]["epochs"] == 3
    assert report["model"]["parameters"] == 79_510
    assert report["weights"]


def test_the_worst_mistakes_are_shown_with_their_media(short_run: Path) -> None:
    mistakes = json.loads((short_run / "report.json").read_text())["mistakes"]
    assert mistakes
    assert [m["confidence"] for m in mistakes] == sorted((m["confidence"] for m in mistakes), reverse=True)
    assert all(m["label"] != m["predicted"] and m["file"].endswith(m["label"]) for m in mistakes)
    with np.load(short_run / "mistakes.npz") as media:
        assert all(media[str(i)].shape == (28, 28) for i in range(len(mistakes)))
    assert (short_run / "report.html").stat().st_size > 10_000


def test_samples_of_the_test_split_are_kept_as_files(short_run: Path) -> None:
    files = sorted((short_run / "samples").iterdir())
    assert [f.name for f in files] == [f"{d}.png" for d in range(10)]
    for file in files:  # the service decodes the samples of the test split
        assert np.array_equal(decode_image(file.read_bytes(), Limits()), np.asarray(Image.open(file)))


@pytest.mark.usefixtures("few_outliers")
def test_features_that_changed_since_training_are_refused(tmp_path: Path) -> None:
    resolved = task.load("digits", "scans", ["train.epochs=1"])
    extract.extract(resolved, Run(tmp_path))
    train.train(resolved, Run(tmp_path))
    extract.extract(task.load("digits", "scans", ["data.seed=1"]), Run(tmp_path))
    with pytest.raises(UserError, match="features have changed since the network was trained; run `percept train`"):
        validate.validate(resolved, Run(tmp_path))


@pytest.mark.usefixtures("few_outliers")
def test_a_label_that_the_model_does_not_know_is_one_line(tmp_path: Path) -> None:
    for label, frequencies in {"low": range(200, 400, 10), "high": range(2000, 2200, 10)}.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for f in frequencies:
            tone = 0.3 * np.sin(2 * np.pi * f * np.arange(6000) / 22_050)
            soundfile.write(tmp_path / "data" / label / f"{f}.wav", tone, 22_050)
    few = ["train.epochs=2", "train.early_stopping=0", "augment.copies=1"]
    resolved = task.load("instruments", str(tmp_path / "data"), few)
    extract.extract(resolved, Run(tmp_path / "run"))
    train.train(resolved, Run(tmp_path / "run"))
    for file in (tmp_path / "data" / "high").iterdir():
        file.rename(file.with_suffix(".moved"))
    with pytest.raises(UserError, match=r"high/.*\.wav: no longer in the source; run `percept extract` again"):
        validate.validate(resolved, Run(tmp_path / "run"))
    (tmp_path / "data" / "low").rename(tmp_path / "data" / "tuba")
    extract.extract(resolved, Run(tmp_path / "run"))
    with pytest.raises(UserError, match="label 'tuba' is unknown to the model, which knows high, low"):
        validate.validate(resolved, Run(tmp_path / "run"))
