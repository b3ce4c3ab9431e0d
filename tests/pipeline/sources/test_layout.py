"""Folders of classes and of splits under the names that people give them, and one line where they are not clear."""

from pathlib import Path

import pytest

from pipeline import sources
from pipeline.sources import Data
from pipeline.task import UserError
from tests.pipeline.sources.folders import samples, touch


def in_each(outer: str, *inner: str) -> list[str]:
    """One file for each outer folder in each inner one."""
    return [f"{a}/{b}/1.png" for a in outer.split() for b in inner]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("training", "", "testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("train", "dev", "test"),
        ("train", "eval", "test"),
        ("train", "val", "eval"),
        ("train", "", "evaluation"),
        ("train_set", "validation-set", "test data"),
        ("TrainingSet", "development", "testset"),
    ],
)
def test_usual_names_of_splits_in_any_case(tmp_path: Path, train: str, validation: str, test: str) -> None:
    for name in filter(None, (train, validation, test)):
        touch(tmp_path, f"{name}/cat/1.png", f"{name}/dog/2.png")
    found = samples("digits", tmp_path)
    assert {(s.file.split("/")[0], s.split) for s in found} == {
        (name, split) for name, split in ((train, "train"), (validation, "validation"), (test, "test")) if name
    }
    assert {s.label for s in found} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (in_each("fold1 fold2 fold3", "cat", "dog"), r"fold1, fold2, fold3 look like folds .*\.csv manifest"),
        (["Fold_01/1.png", "Fold_02/2.png"], "folds of a cross-validation"),
        (in_each("cat dog", "fold1", "fold2"), "cat: fold1, fold2 look like splits inside a class.*one fold as test"),
        (in_each("cat dog", "train", "test"), r"cat: test, train look like splits inside a class.*\(train/CLASS\)"),
        (["cat/1.png", "dog/Train/1.png", "dog/Test/1.png"], "dog: Test, Train look like splits inside a class"),
        (in_each("anna ben", "no", "yes"), "are anna, ben the classes, or no, yes, which each of them holds"),
        ([*in_each("anna ben", "no", "yes"), "ben/maybe/2.png"], "are anna, ben the classes, or no, yes, which"),
        (in_each("train/no train/yes test/no test/yes", "a", "b"), "train: are no, yes the classes, or a, b, which"),
        (in_each("data", "cat", "dog"), "only one folder, which holds cat, dog; did you mean --data .*/data"),
        (in_each("data", "train", "test"), "which holds test, train; did you mean --data .*/data"),
        (["test/1.png", "cat/1.png"], r"class folders \(cat\) are next to folders of splits \(test\).*folder train/"),
        (in_each("train bus", "cat", "dog"), r"class folders \(bus\) are next to folders of splits \(train\)"),
        (["train/1.png", "test/2.png"], "train: files, but no class folders.*If it is a class, put all class folders"),
        (in_each("train val validation", "cat", "dog"), ": val and validation both mean the validation split"),
        (in_each("val test", "cat", "dog"), "test, val would be splits, and none is for training"),
        (["x_train/cat/1.png", "x_train/dog/1.png", "x_test/cat/1.png"], "x_test, x_train look like splits; call them"),
        (in_each("seg_train/seg_train seg_test/seg_test", "cat", "dog"), "seg_test, seg_train look like splits"),
        (in_each("01-Train2017 02-Val2018", "cat"), "01-Train2017, 02-Val2018 look like splits"),
        (["cat/1.png", "dog/.hidden"], "dog: no files of this class"),
    ],
)  # fmt: skip
def test_an_unclear_layout_is_one_line(tmp_path: Path, files: list[str], line: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=line) as caught:
        samples("digits", tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_class_names_that_are_words_for_splits_are_classes_below_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/bus/1.png", "train/train/2.png")
    assert [(s.label, s.split) for s in samples("digits", tmp_path)] == [("bus", "train"), ("train", "train")]


def test_one_folder_of_the_same_name_in_each_class_is_clear(tmp_path: Path) -> None:
    touch(tmp_path, *in_each("cat dog", "images"))
    assert [s.label for s in samples("digits", tmp_path)] == ["cat", "dog"]


def test_spellings_of_one_word_are_one_split(tmp_path: Path) -> None:
    touch(tmp_path, *in_each("train Train TEST", "cat", "dog"))
    assert [s.split for s in samples("digits", tmp_path)] == ["train"] * 4 + ["test"] * 2


def test_an_empty_folder_of_a_split_names_no_split(tmp_path: Path) -> None:
    touch(tmp_path, *in_each("train test", "cat", "dog"))
    (tmp_path / "validation" / "cat").mkdir(parents=True)
    assert {s.split for s in samples("digits", tmp_path)} == {"train", "test"}


def test_recordings_and_pictures_outside_class_folders_are_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *in_each("train test", "cat", "dog"), "train/stray.PNG", "test/other.wav", "README.md")
    assert len(samples("digits", tmp_path)) == 4
    assert "2 files left out, since in no class folder; the first: " in capsys.readouterr().out
    sources.fingerprint(Data(source="folder", path=str(tmp_path)))
    assert not capsys.readouterr().out


def test_manifest_with_other_words_for_splits(tmp_path: Path) -> None:
    rows = [("TRAIN", "07"), ("Training", "7"), ("", "007"), ("dev", "7"), ("Testing", "7")]
    lines = [f"{i}.png,{label},{split}\n" for i, (split, label) in enumerate(rows)]
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label,split\n" + "".join(lines[:1] + lines[2:]))
    assert [(s.label, s.split) for s in samples("digits", manifest)] == [
        ("07", "train"), ("007", None), ("7", "validation"), ("7", "test"),
    ]  # fmt: skip
    manifest.write_text("path,label,split\n" + "".join(lines))
    with pytest.raises(UserError, match=r"list\.csv: TRAIN and Training both mean the train split"):
        samples("digits", manifest)
    manifest.write_text("path,label,split\n1.png,a,train\n2.png,a,fold3\n")
    with pytest.raises(UserError, match=r"line 3: split 'fold3' is not train, .*folds, name one test"):
        samples("digits", manifest)
