"""Runs that tests make with the stages themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pipeline import extract, task, train, validate
from pipeline.report.schema import Report
from pipeline.run import Run
from pipeline.sources import notes as synthesis
from pipeline.train import confidence

# Options of trainings that several tests share.
PLAIN = ("--set", "validate.baselines=false")
FEW_COPIES = (*PLAIN, "--set", "augment.copies=1", "--set", "augment.degrade=false")


@contextmanager
def few_outliers() -> Iterator[None]:
    """The network behind `known` learns from few pictures or noises, which otherwise takes most of the time of a short
    training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "PICTURES", (400, 400))
        patch.setattr(confidence, "NOISES", 20)
        yield


@contextmanager
def few_notes() -> Iterator[None]:
    """The embedded notes are the first half of each class: most of a training on them goes into their synthesis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "notes", partial(synthesis.notes, per_class=synthesis.PER_CLASS // 2))
        yield


def validated(folder: Path, name: str, *overrides: str) -> Report:
    """Extract, train with `few_outliers` and validate a built-in task in a run directory; its report."""
    resolved = task.load(name, overrides=overrides)
    extract.extract(resolved, Run(folder))
    with few_outliers():
        train.train(resolved, Run(folder))
    return validate.validate(resolved, Run(folder))
