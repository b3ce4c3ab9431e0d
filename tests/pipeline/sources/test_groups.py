"""Groups: a column of a manifest, folders inside class folders, or a regular expression on the paths."""

from pathlib import Path

import pytest

from pipeline.sources.groups import is_group
from pipeline.task import UserError
from tests.pipeline.sources.folders import samples, touch

SESSIONS = [f"{label}/session-{k}/{i}.png" for label in ("flute", "oboe") for k in (1, 2, 3) for i in (1, 2)]


def groups(data: Path, *overrides: str) -> dict[str, str | None]:
    return {sample.file: sample.group for sample in samples("digits", data, *overrides)}


def test_folders_inside_class_folders_are_groups_of_one_name_in_all_classes(tmp_path: Path) -> None:
    touch(tmp_path, *SESSIONS, "oboe/loose.png", "oboe/session-1/left/9.png")
    found = groups(tmp_path)
    assert found["flute/session-1/1.png"] == found["oboe/session-1/left/9.png"] == "session-1"
    assert found["oboe/loose.png"] is None
    assert len(set(found.values())) == 4
    assert {s.label for s in samples("digits", tmp_path)} == {"flute", "oboe"}


def test_below_folders_of_splits_they_are_groups_of_their_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{file}" for split in ("train", "test") for file in SESSIONS))
    found = groups(tmp_path)
    assert found["train/oboe/session-1/1.png"] == found["train/flute/session-1/1.png"] == "train/session-1"
    assert found["test/oboe/session-1/1.png"] == "test/session-1"


def test_a_folder_that_holds_all_of_its_class_is_no_group(tmp_path: Path) -> None:
    touch(tmp_path, "cat/images/1.png", "cat/images/2.png", "dog/images/3.png")
    assert set(groups(tmp_path).values()) == {None}


def test_where_the_inner_folders_may_be_the_classes_the_user_says_what_they_are(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{name}/{i}.png" for label in ("no", "yes") for name in ("anna", "ben") for i in (1, 2)))
    with pytest.raises(UserError, match=r"are no, yes the classes, or anna, ben.*--set data.group='\(") as caught:
        groups(tmp_path)
    pattern = str(caught.value).split("--set ")[1].split(" makes")[0].replace("'", "")
    assert groups(tmp_path, pattern)["yes/ben/2.png"] == "ben"


def test_the_column_group_of_a_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,group,label\n1.png,anna,yes\n2.png, ,yes\n3.png,anna,no\n")
    assert groups(manifest) == {"1.png": "anna", "2.png": None, "3.png": "anna"}


def test_a_regular_expression_on_the_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "flute/flute_A4_05.png", "flute/flute_A4_1.png", "flute/flute_B4_1.png", "flute/x.png")
    found = groups(tmp_path, "data.group=([^/]+_[A-G]s?[0-9])_")
    assert sorted(map(str, found.values())) == ["None", "flute_A4", "flute_A4", "flute_B4"]
    line = "data.group: not found in 1 of 4 paths, each a group of its own; the first: flute/x.png\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("abc", r"data.group: must have one capture, as in '\(.*', and has 0, not 'abc'"),
        ("(a)(b)", "and has 2"),
        ("(a", r"data.group: is no regular expression \(missing \)"),
        ("(zzz)", r"data.group = '\(zzz\)': found in none of 12 paths; the first: flute/session-1/1.png"),
    ],
)
def test_an_expression_that_makes_no_groups_is_one_line(tmp_path: Path, pattern: str, line: str) -> None:
    touch(tmp_path, *SESSIONS)
    with pytest.raises(UserError, match=line) as caught:
        groups(tmp_path, f"data.group={pattern}")
    assert len(str(caught.value).splitlines()) == 1


def test_which_names_are_of_groups() -> None:
    names = ("Session 2", "session2", "take_07", "Player B", "speaker-anna", "2024-05-17", "20240517", "mic.1", "day1")
    assert [name for name in names if not is_group(name)] == []
    assert [name for name in ("daisy", "oboe", "7", "bookcase", "rooms", "dayflower", "artist") if is_group(name)] == []
