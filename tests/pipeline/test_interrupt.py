"""A stopped command: only work that goes on says that it does; that of extraction is in extract/test_shards.py."""

import signal
from pathlib import Path

import pytest

from pipeline import predict
from tests import command


def test_what_begins_anew_does_not_say_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "predict", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background jobs
    try:
        done = command.percept("predict", "digits", "1.png", home=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "percept: stopped by Ctrl-C\n")
