"""Temperature scaling: the exact optimum, also with few samples, and in the exported graph."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.calibration import fit_temperature
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.train import confidence, weights
from pipeline.train.data import Dataset
from tests.conftest import Trained


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(kind: str, true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 1 if kind == "binary" else 5, generator=generator)
    p = torch.softmax((torch.cat([0 * logits, logits], 1) if kind == "binary" else logits) / true, 1)
    y = torch.multinomial(p, 1, generator=generator)[:, 0]
    assert fit_temperature(logits, y, kind) == pytest.approx(true, rel=0.05)  # type: ignore[arg-type]


def test_few_samples_without_a_mistake_do_not_give_certainty() -> None:
    logits = 5 * torch.eye(4).repeat(5, 1)
    t = fit_temperature(logits, torch.arange(4).repeat(5), "multiclass")
    first, second = torch.softmax(logits / t, 1).sort(1, descending=True).values[:, :2].T.numpy()
    assert t > 1 / 20
    assert first.min() < 0.97
    assert (second / (first + second)).max() == pytest.approx(1 / 22, rel=0.7)  # of 22 cases as if one were the other


def test_without_enough_validation_samples_nothing_is_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    classifier = weights.network(
        weights.Facts(("a", "b", "c"), "multiclass", {"kind": "vector", "size": 2},
                      task.Model().model_dump(), task.Train().model_dump(), "", 0, 0, 0.0, "cpu")
    )  # fmt: skip
    few = Dataset(torch.randn(9, 2), torch.arange(9) % 3)
    assert confidence.calibrate(classifier, few, few, 0) is None
    assert capsys.readouterr().out == "  not calibrated: 9 validation samples, at least 10 are needed\n"
    assert classifier.temperature.item() == 1
    assert classifier.familiarity is None


def test_the_test_split_is_better_calibrated(trained: Trained, tmp_path: Path) -> None:
    run = trained(tmp_path, "digits", "--data", "scans", outliers=False) / "runs" / "digits"
    report = json.loads((run / "report.json").read_text())
    before, after = report["calibration"]["uncalibrated"], report["test"]
    assert after["ece"] <= 0.03 < before["ece"]
    assert after["log_loss"] < before["log_loss"]
    assert report["calibration"]["temperature"] != 1
    history = json.loads((run / "history.json").read_text())
    classifier, facts = weights.load(run / "weights.pt")
    features = extract.Features.load(run / "features.npz")
    rows = np.flatnonzero(features.rows("validation"))
    x, y = torch.from_numpy(features.x[rows]), torch.from_numpy(features.y[rows])
    loss, _ = train.evaluate(classifier.mlp, Dataset(classifier.standardize(x), y), facts.kind)
    assert loss == pytest.approx(history["validation_loss"][-1], rel=1e-5)  # the network's own, before the temperature


def test_no_validation_samples_are_left_after_training_on_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = task.load("regions", overrides=["train.epochs=2"])
    extract.extract(resolved, Run(tmp_path))
    train.train(resolved, Run(tmp_path), with_validation=True)
    assert "not calibrated: 0 validation samples" in capsys.readouterr().out
    classifier, facts = weights.load(tmp_path / "weights.pt")
    assert classifier.temperature.item() == 1
    assert facts.known is None
