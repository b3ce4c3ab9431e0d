"""Fixtures of the tests of all stages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Trained
from tests.pipeline import runs


@pytest.fixture
def few_outliers() -> Iterator[None]:
    """Train the network behind `known` on few pictures and noises, which otherwise takes most of a short training."""
    with runs.few_outliers():
        yield


@pytest.fixture(scope="module")
def short_run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the scanned digits, trained too shortly to be free of mistakes, with baselines."""
    keys = ("train.epochs=3", "validate.min_accuracy=0.5", "validate.baselines=true")
    options = (option for key in keys for option in ("--set", key))
    home = trained(tmp_path_factory.mktemp("short"), "digits", "--data", "scans", *options, outliers=False)
    return home / "runs" / "digits"
