"""A learning curve extends to twice the samples, with an interval that holds what happens then."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.tune import subsets
from pipeline.validate.learning_curve import Errors, _curve, fit
from tests.pipeline.runs import validated

SAMPLES = np.array([100.0, 200, 400, 800, 1600])
ALONG = np.geomspace(100, 3200, 5)


def test_a_power_law_is_recovered() -> None:
    for a, b, c in ((0.2, 0.5, 0.0), (0.1, 1.0, 0.02), (0.0, 1.0, 0.1)):
        law = fit(SAMPLES, np.array([c + a * (SAMPLES / 100) ** -b]), np.ones(5))
        expected = c + a * 32.0**-b
        assert law.at(np.array([3200.0]))[0, 0] == pytest.approx(expected, abs=1e-3)


def answers(rng: np.random.Generator, errors: np.ndarray, n: int, size: int) -> np.ndarray:
    """Right answers (S, 2, n · size) that miss these errors: groups of that size are right or wrong together, hard
    ones at all sizes, and two trainings differ a little."""
    hardness = rng.uniform(size=n).repeat(size)
    return np.stack([[hardness + rng.normal(0, 0.02, n * size) > e for _ in range(2)] for e in errors])


@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_holds_what_twice_as_many_bring(size: int) -> None:
    rng, held, wide = np.random.default_rng(0), 0, []
    for _ in range(40):
        b = rng.uniform(0.2, 0.8)
        law = 0.3 * (np.append(SAMPLES, 3200) / 100) ** -b
        found = answers(rng, law, 400, size)
        curve = _curve(SAMPLES, found[:-1], found[-2, 0], np.arange(400).repeat(size), ALONG)
        low, high = curve["doubled_interval"]
        assert low <= curve["doubled"] <= high
        held += low <= found[-1, 0].mean() <= high
        wide.append(high - low)
    assert held >= 36  # of 40, where 38 are promised
    assert np.mean(wide) < 0.08


def test_samples_of_one_group_are_one_trial() -> None:
    found = answers(np.random.default_rng(0), np.array([0.3, 0.2, 0.1]), 100, 10)
    alone, together = (Errors.of(found, group).trials() for group in (np.arange(1000), np.arange(100).repeat(10)))
    assert (together < 0.2 * alone).all()


def test_no_mistakes_leave_nothing_to_gain() -> None:
    right = np.ones((5, 2, 200), bool)
    curve = _curve(SAMPLES, right, right[0, 0], np.arange(200), ALONG)
    assert (curve["now"], curve["doubled"]) == (1.0, 1.0)
    assert all(end is not None and np.isfinite(end).all() for end in curve["intervals"])


def test_the_report_says_what_more_data_would_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "STEPS", 50)
    report = validated(tmp_path, "regions", "train.epochs=5")
    found = report["learning_curve"]
    assert found is not None
    assert found["samples"][-1] == report["samples"]["train"]
    assert found["along"][-1] == pytest.approx(2 * report["samples"]["train"])
    assert found["accuracy"]["now"] == report["test"]["accuracy"]
    assert json.loads((tmp_path / "report.json").read_text())["learning_curve"] == found
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Twice the training samples: accuracy " in page
    assert (tmp_path / "plots" / "learning_curve.svg").is_file()
