"""An extraction that is stopped keeps what it has finished, wherever and however it was stopped."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import extract, task
from pipeline.extract import shards
from pipeline.extract.recipe import Extracted
from pipeline.interrupt import Stopped, stoppable
from pipeline.run import Run
from pipeline.sources import embedded
from pipeline.task import Task, UserError
from service.errors import Unusable
from tests import command

FEW = 6  # notes of each instrument


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Task:
    notes = embedded.synthesis.notes
    monkeypatch.setattr(embedded.synthesis, "notes", lambda seed: notes(seed, FEW))
    return task.load("instruments", overrides=["augment.copies=1"])


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and Ray, where another test has started it, has a handler of its own."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_after(n: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Send this process a signal after n notes have been decoded; counts how often each is."""
    counts: Counter[str] = Counter()
    load = embedded.SynthesisedNote.load

    def counted(note: embedded.SynthesisedNote) -> np.ndarray:
        counts[note.note.name] += 1
        if counts.total() == n:
            os.kill(os.getpid(), number)
        return load(note)

    monkeypatch.setattr(embedded.SynthesisedNote, "load", counted)
    return counts


def test_a_stopped_extraction_goes_on_where_it_was(
    few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "stopped")
    counts = stop_after(30, signal.SIGTERM, monkeypatch)
    with pytest.raises(Stopped) as stopped, stoppable():
        extract.extract(few, run)
    assert stopped.value.status == 128 + signal.SIGTERM
    assert not run.features.exists()
    (folder,) = run.shards.iterdir()
    kept = sum(len(shards.read(path)) for path in folder.iterdir())
    assert kept >= 25  # all but those in progress
    features = extract.extract(few, run)
    assert f"  {kept} samples were extracted by a run that was stopped" in capsys.readouterr().out
    assert sum(n > 1 for n in counts.values()) <= 1  # the one in progress
    assert not run.shards.exists()
    monkeypatch.undo()
    monkeypatch.setattr(embedded.synthesis, "notes", lambda seed, notes=embedded.synthesis.notes: notes(seed, FEW))
    whole = Run(tmp_path / "whole")
    extract.extract(few, whole)
    assert run.features.read_bytes() == whole.features.read_bytes()
    assert len(features.copies) == len(few.augment.forms) * np.count_nonzero(features.split != "test")


def test_ctrl_c_is_one_line_and_130(few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(5, signal.SIGINT, monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    done = command.percept("extract", "instruments", home=tmp_path)
    assert done.returncode == 130
    assert done.stderr == (
        "percept: stopped by Ctrl-C; what is finished is kept, and the same command goes on from there\n"
    )
    assert signal.getsignal(signal.SIGINT) is before


def test_other_parameters_do_not_use_the_shards(
    few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(30, signal.SIGINT, monkeypatch)
    with pytest.raises(Stopped), stoppable():
        extract.extract(few, Run(tmp_path))
    extract.extract(task.load("instruments", overrides=["augment.copies=0", "features.n_mfcc=20"]), Run(tmp_path))
    assert "were extracted by a run that was stopped" not in capsys.readouterr().out


def test_a_shard_that_was_cut_off_is_as_if_it_were_not_there(few: Task, tmp_path: Path) -> None:
    run = Run(tmp_path)
    recipe = extract.Recipe.of(few)
    store = shards.Shards(run, recipe)
    row = np.ones(823, np.float32)
    store.add("one", Extracted(row, np.stack([2 * row, 3 * row]), np.array([1, 2], np.int8)))
    store.add("none", Extracted(None, np.empty((0, 823), np.float32), np.empty(0, np.int8), "silent"))
    store.flush()
    again = shards.Shards(run, recipe)
    assert again.before["none"].reason == "silent"
    with shards.reading() as reader:
        assert np.array_equal(np.frombuffer(reader.row(again.before["one"]), np.float32), row)
        copies = np.frombuffer(reader.copies(again.before["one"], 2), np.float32).reshape(2, -1)
    assert np.array_equal(copies, [2 * row, 3 * row])
    (path,) = store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert shards.Shards(run, recipe).before == {}
    path.unlink()
    with pytest.raises(UserError, match="another extraction into this folder has ended"), shards.reading() as reader:
        reader.row(again.before["one"])


def test_what_a_refusal_had_decoded_is_not_decoded_again(
    few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = embedded.SynthesisedNote.load
    decoded: Counter[str] = Counter()

    def without_oboes(note: embedded.SynthesisedNote) -> np.ndarray:
        decoded[note.note.name] += 1
        if note.note.instrument == "oboe":
            raise Unusable("silent")
        return load(note)

    monkeypatch.setattr(embedded.SynthesisedNote, "load", without_oboes)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^class 'oboe': none of its 6 files can be used \(the first: notes/"):
            extract.extract(few, Run(tmp_path))
    assert set(decoded.values()) == {1}
