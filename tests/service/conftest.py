"""The application in this process, for tests that need no server."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.in_process import application


@pytest.fixture(scope="module")
def local(home: Path) -> Iterator[httpx.Client]:
    """A client of the application in this process, with the models of tests/serving.py."""
    with application(home) as client:
        yield client
