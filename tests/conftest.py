"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

os.environ["BENTOML_DO_NOT_TRACK"] = "True"  # before bentoml is imported, which the next line does

from tests import nodes
from tests.serving import Server, fill_store, serving


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


@pytest.fixture(scope="session")
def all_nodes() -> Iterator[nodes.Cluster]:
    yield from nodes.started()


@pytest.fixture
def cluster(all_nodes: nodes.Cluster) -> nodes.Cluster:
    """Three nodes of a Ray cluster, whatever a test before has killed."""
    all_nodes.fill()
    return all_nodes
