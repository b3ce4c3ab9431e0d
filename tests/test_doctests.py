"""Examples in docstrings run, and the functions that a newcomer calls have one; `python -m tests.test_doctests` runs
them all."""

import doctest
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
OPTIONAL = ("keras", "mirdata", "pyarrow", "ray", "triton")
NAMED = (
    "pipeline.engine.Engine.parse",
    "pipeline.extract.features.Features.load",
    "pipeline.extract.splits.assign_split",
    "pipeline.extract.stage.extract",
    "pipeline.run.Run",
    "pipeline.sources.load",
    "pipeline.sources.parse_data",
    "pipeline.sources.sample.Sample",
    "pipeline.task.load",
    "pipeline.task.Task",
    "pipeline.threads.ordered_map",
    "pipeline.workflow.Workflow",
)


def modules() -> Iterator[ModuleType]:
    """Every module of the three wings that can be imported here."""
    for wing in ("pipeline", "models", "service"):
        for found in pkgutil.walk_packages([str(ROOT / wing)], f"{wing}."):
            try:
                yield import_module(found.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] not in OPTIONAL:
                    raise


def run() -> int:
    """Run all examples and report those that fail; returns how many."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    failed = examples = 0
    for module in modules():
        results = doctest.testmod(module)
        failed, examples = failed + results.failed, examples + results.attempted
    print(f"{examples} examples, {failed} failed")
    return failed


def test_examples_in_docstrings_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_doctests"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMED)
def test_what_a_newcomer_calls_has_an_example(name: str) -> None:
    assert ">>> " in (pkgutil.resolve_name(name).__doc__ or ""), f"{name} has no example"


if __name__ == "__main__":
    sys.exit(run() > 0)
