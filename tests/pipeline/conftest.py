"""Fixtures of the tests of all stages."""

from collections.abc import Iterator

import pytest

from tests.pipeline import runs


@pytest.fixture
def few_outliers() -> Iterator[None]:
    """Train the network behind `known` on few pictures and noises, which otherwise takes most of a short training."""
    with runs.few_outliers():
        yield
