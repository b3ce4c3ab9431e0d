"""Media for later stages: decoded once in a command within a budget, and again beyond it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import extract, sources, task
from pipeline.audit import audit
from pipeline.extract import media
from pipeline.run import Run
from pipeline.sources import embedded
from pipeline.task import Task, UserError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the embedded notes has been decoded."""
    counts: Counter[str] = Counter()
    load = embedded.SynthesisedNote.load

    def counted(note: embedded.SynthesisedNote) -> np.ndarray:
        counts[f"notes/{note.note.name}"] += 1
        return load(note)

    notes = embedded.synthesis.notes

    def fewer(seed: int) -> list[embedded.synthesis.Note]:
        return notes(seed, 6)

    monkeypatch.setattr(embedded.SynthesisedNote, "load", counted)
    monkeypatch.setattr(embedded.synthesis, "notes", fewer)
    return counts


@pytest.fixture
def few() -> Task:
    return task.load("instruments", overrides=["augment.copies=0"])


def test_test_media_are_decoded_once_in_a_command(tmp_path: Path, decoded: Counter[str], few: Task) -> None:
    run = Run(tmp_path)
    features = extract.extract(few, run)
    files = features.file[features.rows("test")].tolist()
    found = extract.load_media(run, files)
    assert list(found) == files
    assert set(decoded.values()) == {1}
    later = Run(tmp_path)  # another command
    again = extract.load_media(later, files)
    assert all(np.array_equal(found[file], again[file]) for file in files)
    extract.load_media(later, files)
    assert {decoded[file] for file in files} == {2}


def test_the_source_is_loaded_once_where_all_is_cached(
    tmp_path: Path, decoded: Counter[str], few: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract.extract(few, Run(tmp_path))
    run, loads, load = Run(tmp_path), [], sources.load
    monkeypatch.setattr(sources, "load", lambda *args: loads.append(args) or load(*args))
    features = extract.extract(few, run)
    extract.load_media(run, features.file[features.rows("test")].tolist())
    assert len(loads) == 1


def test_beyond_the_budget_media_are_decoded_again(
    tmp_path: Path, decoded: Counter[str], few: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "BUDGET", 100_000)
    run = Run(tmp_path)
    features = extract.extract(few, run)
    files = features.file[features.rows("test")].tolist()
    assert len(dict(extract.load_media(run, files))) == len(files)
    assert set(decoded.values()) == {1, 2}
    assert 0 < media.MediaCache.of(run).n_bytes <= 100_000


def test_a_file_that_the_source_does_not_have_is_one_line(tmp_path: Path, decoded: Counter[str], few: Task) -> None:
    run = Run(tmp_path)
    extract.extract(few, run)
    with pytest.raises(UserError, match="notes/kazoo: no longer in the source; run `percept extract` again"):
        extract.load_media(run, ["notes/kazoo"])


def test_features_of_an_earlier_version_give_media(tmp_path: Path, few: Task, decoded: Counter[str]) -> None:
    """Their section [features] says `lifter` where later ones say `cepstral_decay`."""
    run = Run(tmp_path)
    features = extract.extract(few, run)
    sections = dict(features.task["features"])
    sections["lifter"] = sections.pop("cepstral_decay")
    replace(features, task=features.task | {"features": sections}).save(run.features)
    name = str(features.file[0])
    assert media.load_media(Run(tmp_path), [name])[name].size


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (lambda rows: rows[::-1], r"t\.csv:\d+: has changed since extraction"),
        (lambda rows: [*rows, "1,t,0", "2,t,0"], "columns have changed since extraction"),  # the first category now
        (lambda rows: rows[:9], r"t\.csv:\d+: no longer in the source"),
    ],
    ids=["sorted", "a category more", "fewer rows"],
)
def test_what_has_changed_since_extraction_is_not_taken_for_what_was_extracted(
    tmp_path: Path, rows: Callable[[list[str]], list[str]], reason: str
) -> None:
    table, before = tmp_path / "t.csv", [f"{i},{'vw'[i % 2]},{i // 15}" for i in range(30)]
    table.write_text("\n".join(["a,b,y", *before]))
    run = Run(tmp_path / "run")
    features = extract.extract(task.load("table", str(table), ["data.target=y"]), run)
    table.write_text("\n".join(["a,b,y", *rows(before)]))
    files = features.file[features.rows("test")].tolist()
    assert extract.load_media(run, files)[files[0]].size  # of this command
    with pytest.raises(UserError, match=reason):
        dict(extract.load_media(Run(run.folder), files))
    with pytest.raises(UserError, match=r"since extraction|no longer"):
        audit(Run(run.folder))
