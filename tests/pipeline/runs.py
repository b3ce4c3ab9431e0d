"""Runs that tests make with the stages themselves."""

from pathlib import Path

import pytest

from pipeline import extract, task, train, validate
from pipeline.report.schema import Report
from pipeline.run import Run
from pipeline.train import confidence


def validated(folder: Path, name: str, *overrides: str) -> Report:
    """Extract, train and validate a built-in task in a run directory; its report.

    The network behind `known` learns from few pictures, which otherwise takes most of the time of a short training.
    """
    resolved = task.load(name, overrides=overrides)
    extract.extract(resolved, Run(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "PICTURES", (400, 400))
        train.train(resolved, Run(folder))
    return validate.validate(resolved, Run(folder))
