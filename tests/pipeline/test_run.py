"""Run: files are read once as long as they stay the same, and written as a whole or not at all."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.run import Run, file_name, replacing, write_json
from pipeline.task import UserError, digest


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    run, read = Run(tmp_path), []

    def load(path: Path) -> str:
        read.append(path)
        return path.read_text()

    with pytest.raises(UserError, match=r"report\.json: not there yet; run `percept validate` first"):
        run.load(run.report, "validate", load)
    write_json(run.report, 1)
    assert run.load(run.report, "validate", load) == run.load(run.report, "validate", load) == "1\n"
    assert len(read) == 1
    write_json(run.report, 2)
    assert run.load(run.report, "validate", load) == "2\n"
    run.put(run.report, load, "kept")
    assert run.load(run.report, "validate", load) == "kept"
    write_json(run.report, 3)
    assert run.load(run.report, "validate", load) == "3\n"
    assert len(read) == 3


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    run = Run(tmp_path / "made" / "here")
    write_json(run.report, 1)
    with suppress(ZeroDivisionError), replacing(run.report) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert run.report.read_text() == "1\n"
    assert [file.name for file in run.folder.iterdir()] == ["report.json"]


def test_any_text_names_a_file(tmp_path: Path) -> None:
    """Classes may be sentences, and recordings called after all that was recorded."""
    texts = ["oboe", "a/b", "a_b", "a\0b", 99 * "ö\n", 99 * "ö\n" + "!", os.fsdecode(b"caf\xe9")]
    names = [file_name(text, "png") for text in texts]
    for name in names:
        with replacing(tmp_path / name) as temporary:
            temporary.touch()
    assert {file.name for file in tmp_path.iterdir()} == {*names}
    assert len({*names}) == len(texts)
    assert names[0] == "oboe.png"


def test_names_that_are_no_text_are_written_and_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"path": name}
    assert digest(name) != digest("caf")
