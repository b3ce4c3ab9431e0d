"""Examples in docstrings run, and the functions that a newcomer calls have one."""

import doctest
import pkgutil
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
    """Every module of the three wings that has an example and can be imported here. Others are not imported: Keras and
    Ray take seconds."""
    for wing in ("pipeline", "models", "service"):
        for found in pkgutil.walk_packages([str(ROOT / wing)], f"{wing}."):
            spec = found.module_finder.find_spec(found.name, None)
            if ">>> " not in Path(str(spec and spec.origin)).read_text("utf-8"):
                continue
            try:
                yield import_module(found.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] not in OPTIONAL:
                    raise


def test_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fail are printed. In this process, which has imported nearly all of it already."""
    monkeypatch.chdir(tmp_path)
    results = [doctest.testmod(module) for module in modules()]
    assert sum(result.attempted for result in results) > 100
    assert sum(result.failed for result in results) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMED)
def test_what_a_newcomer_calls_has_an_example(name: str) -> None:
    assert ">>> " in (pkgutil.resolve_name(name).__doc__ or ""), f"{name} has no example"
