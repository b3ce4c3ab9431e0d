"""Fixtures of the training tests."""

from pathlib import Path

import pytest

from pipeline import extract, task
from pipeline.run import Run
from pipeline.train import confidence


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the features of scikit-learn's scans."""
    run = tmp_path_factory.mktemp("digits")
    extract.extract(task.load("digits", "scans"), Run(run))
    return run


@pytest.fixture
def few_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the network behind `known` on few pictures: it takes most of the time of a short training."""
    monkeypatch.setattr(confidence, "PICTURES", (400, 400))
