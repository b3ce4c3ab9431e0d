"""A stopped command: only work that goes on says that it does; that of extraction is in extract/test_shards.py."""

import signal
from pathlib import Path

import pytest

from pipeline import predict
from tests import command


def test_what_begins_anew_does_not_say_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # a shell's background jobs inherit that SIGINT is ignored

    monkeypatch.setattr(predict, "predict", interrupted)
    done = command.percept("predict", "digits", "1.png", home=tmp_path)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "percept: stopped by Ctrl-C\n")
