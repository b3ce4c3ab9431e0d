"""Which task fits a user's files, and the line for pictures that are no symbols."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline import choice, extract, task
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.sources.appearance import Appearance
from tests.pipeline.sources.folders import touch

RNG = np.random.default_rng(0)


def symbol(ink: str = "black", paper: str = "white") -> Image.Image:
    page = Image.new("RGB", (90, 90), paper)
    points = [tuple(point) for point in RNG.uniform(20, 70, (5, 2))]
    ImageDraw.Draw(page).line(points, fill=ink, width=5, joint="curve")
    return page


def clothing() -> Image.Image:
    """A filled shape on black, in uneven grey."""
    shade = RNG.integers(120, 220, (28, 28), np.uint8)
    shade[:, :7] = shade[:, 21:] = 0
    return Image.fromarray(shade)


def photo() -> Image.Image:
    coarse = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


def fill(folder: Path, make: object, n: int = 12) -> Path:
    for i in range(n):
        file = folder / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        make().save(file)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (symbol, "digits"),
        (lambda: symbol("white", "black"), "digits"),
        (lambda: symbol("navy", "ivory"), "digits"),
        (clothing, "pictures"),
        (photo, "pictures"),
    ],
)
def test_pictures_choose_by_what_they_look_like(tmp_path: Path, make: object, expected: str) -> None:
    found, reason = choice.choose(fill(tmp_path, make))
    assert found == expected
    assert "12 of 12 files are pictures" in reason


def test_endings_tell_sound_and_numbers(tmp_path: Path) -> None:
    touch(tmp_path / "sound", "a/1.wav", "a/2.flac", "b/notes.txt", "b/3.mp3")
    assert choice.choose(tmp_path / "sound")[0] == "instruments"
    touch(tmp_path / "arrays", "train_data.npy", "train_labels.npy")
    with pytest.raises(UserError, match=r"a table is one file.*/train_data.npy`; .* --data npy:"):
        choice.choose(tmp_path / "arrays")
    (tmp_path / "table.csv").write_text("age,height\n1,2\n")
    assert choice.choose(tmp_path / "table.csv")[0] == "table"
    (tmp_path / "list.csv").write_text("path,label\nsound/a/1.wav,a\n")
    assert choice.choose(tmp_path / "list.csv")[0] == "instruments"
    touch(tmp_path / "recorder", "a/1.BWF", "a/2.mp2", "b/3.mka", "b/4.3g2")
    assert choice.choose(tmp_path / "recorder")[0] == "instruments"
    touch(tmp_path / "web", "a/1.jfif", "a/2.HIF", "b/notes.txt", "b/3.jpe", "b/4.MPO")
    assert choice.choose(tmp_path / "web")[0] == "pictures"
    touch(tmp_path / "texts", "a/1.txt")
    with pytest.raises(UserError, match="no pictures, sound or numbers"):
        choice.choose(tmp_path / "texts")


def test_only_data_is_taken_for_data(tmp_path: Path) -> None:
    touch(tmp_path, "own.toml", "list.csv", "list.tsv")
    taken = {name: choice.is_data(str(tmp_path / name)) for name in ("own.toml", "list.csv", "list.tsv", "absent", ".")}
    assert taken == {"own.toml": False, "list.csv": True, "list.tsv": True, "absent": False, ".": True}


def test_whoever_takes_photos_for_symbols_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for make, is_told in ((photo, True), (symbol, False)):
        folder = fill(tmp_path / make.__name__, make, 30)
        extract.extract(task.load("digits", str(folder)), Run(tmp_path / "run"))
        assert ("do not look like symbols" in capsys.readouterr().out) == is_told


def test_files_that_cannot_be_decoded_look_like_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    assert Appearance.of([tmp_path / "1.png", tmp_path / "absent.png"]) is None


def test_a_pipe_and_a_table_of_another_encoding(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path / "pictures", symbol, 3) / "class0" / "pipe.png")
    assert choice.choose(tmp_path / "pictures")[0] == "digits"
    (tmp_path / "latin.csv").write_bytes("größe,ort\n1,Köln\n".encode("latin-1"))
    assert choice.choose(tmp_path / "latin.csv")[0] == "table"
