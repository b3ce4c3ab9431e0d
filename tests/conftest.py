"""Fixtures that several test modules share."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:  # else the process that starts the workers would spend four seconds on it before it does
    from tests.serving import Server

gc.disable()  # until all tests are imported, which takes a quarter longer with it
os.environ["BENTOML_DO_NOT_TRACK"] = "True"  # before bentoml is imported
# Before NumPy is. On several threads a product of small matrices may take OpenBLAS eighty times as long while other
# workers have the cores: its threads wait for each other actively.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Files that start first, the slowest first, so that all workers end at about the same time.
LONGEST = (
    "tests/pipeline/test_engine.py", "tests/pipeline/train/test_confidence.py", "tests/test_end_to_end.py",
    "tests/test_monitoring.py",
    "tests/service/http/test_faults.py", "tests/service/test_page.py", "tests/service/http/test_clients.py",
    "tests/pipeline/report/test_timeline.py", "tests/test_unit_page.py", "tests/pipeline/train/test_on_keras.py",
    "tests/pipeline/validate/test_baselines.py", "tests/models/steps/test_cpu.py", "tests/pipeline/test_cli.py",
    "tests/benchmarks/test_benchmarks.py", "tests/models/steps/test_gpu.py", "tests/pipeline/tune/test_study.py",
    "tests/service/serving/test_repository.py", "tests/pipeline/extract/test_stage.py",
    "tests/pipeline/sources/test_recordings.py", "tests/pipeline/test_workflow.py", "tests/service/http/test_app.py",
    "tests/pipeline/report/test_curves.py", "tests/models/steps/test_closed_form.py",
    "tests/pipeline/train/test_data.py", "tests/test_unit.py", "tests/service/http/test_oip.py",
    "tests/pipeline/tune/test_stacks.py", "tests/test_bento.py",
)  # fmt: skip

NAMED = 40  # bytes of a parameter that a test's name may show


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        file = item.path.relative_to(config.rootpath).as_posix()
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=rank)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A file is no part of a test's name: it may hold the second in which it was made, and workers of pytest-xdist,
    which do not start in the same one, must find the same names."""
    return argname if isinstance(val, bytes) and len(val) > NAMED else None


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # else every collection walks the million objects that were imported
    gc.set_threshold(20_000)  # new objects until the next collection; after 700, the default, they took 10 seconds


def pytest_sessionfinish() -> None:
    gc.collect()
    gc.freeze()  # else pytest collects them all five times more, a second for each worker


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it are skipped where there is none."""
    folder = os.environ.get("PERCEPT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PERCEPT_DATA does not name a folder of real data")
    return Path(folder).resolve()


Trained = Callable[..., Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(home, task, *options)`: `home`, with a finished `percept run` of a built-in task in its runs and store.

    The first caller trains; all others, in any worker, get copies, which they may change. With `outliers=False`, for
    tests that are not about `known`, see `few_outliers`; with `notes=False`, see `few_notes`.
    """
    from tests import command  # imports PyTorch and more, which a worker may never need
    from tests.pipeline.runs import few_notes, few_outliers

    folder = tmp_path_factory.getbasetemp()  # a worker's own lies in the session's
    shared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "trained"
    shared.mkdir(exist_ok=True)

    def run(home: Path, task: str, *options: str, outliers: bool = True, notes: bool = True) -> Path:
        kept = shared / f"{task}-{sha256(repr((options, outliers, notes)).encode()).hexdigest()[:8]}"
        with kept.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                begun = kept.with_suffix(".begun")
                begun.mkdir()
                with nullcontext() if outliers else few_outliers(), nullcontext() if notes else few_notes():
                    command.ran(begun, task, options=options)
                begun.rename(kept)
        shutil.copytree(kept, home, dirs_exist_ok=True)
        return home

    return run


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME whose store holds the small models of tests/serving.py."""
    from tests.serving import fill_store

    folder = tmp_path_factory.mktemp("bentoml")
    fill_store(folder)
    return folder


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    from tests.serving import serving

    with serving(home) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as connection:
        yield connection
