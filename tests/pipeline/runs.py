"""Runs that tests make with the stages themselves."""

from pathlib import Path

from pipeline import extract, task, train, validate
from pipeline.report.schema import Report
from pipeline.run import Run


def validated(folder: Path, name: str, *overrides: str) -> Report:
    """Extract, train and validate a built-in task in a run directory; its report."""
    resolved = task.load(name, overrides=overrides)
    extract.extract(resolved, Run(folder))
    train.train(resolved, Run(folder))
    return validate.validate(resolved, Run(folder))
