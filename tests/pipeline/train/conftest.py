"""Fixtures of the training tests."""

from pathlib import Path

import pytest

from pipeline import extract, task
from pipeline.run import Run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the features of scikit-learn's scans."""
    run = tmp_path_factory.mktemp("digits")
    extract.extract(task.load("digits", "scans"), Run(run))
    return run
