"""Fixtures of the search tests."""

from pathlib import Path

import pytest

from pipeline import extract, task
from pipeline.report import search
from pipeline.run import Run


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory for each of the two small tasks."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("regions", "sine"):
        extract.extract(task.load(name), Run(folder / name))
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search without drawing, which otherwise takes most of the time of a short search; test_stage.py looks at the
    figures."""
    monkeypatch.setattr(search, "draw", lambda run: [])
