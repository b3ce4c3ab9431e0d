"""Progress without a terminal: a line now and then."""

import pytest

from pipeline.progress import Progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress("extract", 1000, "sample") as progress:
        for _ in range(1000):
            now += 0.3
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extract: 50 of 1,000 samples (5 %), about 5 min left"
    assert 18 <= len(lines) <= 20  # one for each 15 s, which are 5 %
    with Progress("extract", 10_000, "sample") as progress:
        for _ in range(600):
            now += 0.3
            progress.update()
    assert len(capsys.readouterr().err.splitlines()) == 3  # one a minute, where 5 % take longer


def test_short_work_leaves_a_log_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("extract", 3, "sample") as progress:
        progress.update(3)
    assert capsys.readouterr().err == ""
