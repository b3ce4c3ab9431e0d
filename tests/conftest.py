"""Fixtures that several test modules share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

os.environ["BENTOML_DO_NOT_TRACK"] = "True"  # before bentoml is imported, which the next line does

from tests.serving import Server, fill_store, serving

LONGEST = ("test_ray", "test_end_to_end", "test_unknown")  # first, so that two processes end at about the same time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of what was imported, which every collection would walk


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it are skipped where there is none."""
    folder = os.environ.get("PERCEPT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PERCEPT_DATA does not name a folder of real data")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME whose store holds the small models of tests/serving.py."""
    folder = tmp_path_factory.mktemp("bentoml")
    fill_store(folder)
    return folder


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as connection:
        yield connection
