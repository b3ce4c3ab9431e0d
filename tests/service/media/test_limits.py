"""Limits, as the environment sets them."""

import pytest

from service.media import Limits


def test_from_environment(monkeypatch):
    assert Limits.from_environment() == Limits()
    assert Limits().pixels == 4096 * 4096
    assert Limits().bytes_of("image") == Limits().bytes_of("vector") == 32 * 2**20
    assert Limits().bytes_of("audio") > 600 * 44_100 * 4  # ten minutes of a CD
    assert Limits(bytes=1000).bytes_of("audio") == 1000
    monkeypatch.setenv("PERCEPT_MAX_BYTES", "1000")
    monkeypatch.setenv("PERCEPT_MAX_PIXELS", "2000")
    monkeypatch.setenv("PERCEPT_MAX_SECONDS", "3")
    assert Limits.from_environment() == Limits(bytes=1000, pixels=2000, seconds=3)


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1e6", "²"])
def test_nonsense_is_quoted(monkeypatch, text):
    monkeypatch.setenv("PERCEPT_MAX_BYTES", text)
    with pytest.raises(ValueError, match=f"PERCEPT_MAX_BYTES={text}: expected a whole number above 0"):
        Limits.from_environment()
