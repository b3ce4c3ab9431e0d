"""What is below a folder: hidden entries, links, and what cannot be read."""

import os
from pathlib import Path

import pytest

from pipeline import sources, task
from pipeline.sources import Sample
from pipeline.sources.files import readable, stats, walk
from service.errors import MediaError
from tests.pipeline.sources.folders import samples, touch


def names(data: Path) -> list[str]:
    return [s.file for s in samples("digits", data)]


def reason(sample: Sample) -> str:
    with pytest.raises(MediaError) as caught:
        sample.media.load()
    return str(caught.value)


def test_hidden_entries_are_left_out_at_every_depth(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/1.png", "cat/.thumbnails/1.png", "cat/a/.git/b/2.png", "cat/a/.DS_Store", "cat/Thumbs.db",
        "cat/a/b/3.png", "dog/desktop.ini", "dog/@eaDir/1.png", "dog/4.png", "__MACOSX/cat/._1.png", ".cache/x/5.png",
    )  # fmt: skip
    assert names(tmp_path) == ["cat/1.png", "cat/a/b/3.png", "dog/4.png"]
    before = sources.fingerprint(task.load("digits", str(tmp_path)).data)
    touch(tmp_path, "cat/.thumbnails/6.png")
    assert sources.fingerprint(task.load("digits", str(tmp_path)).data) == before


def test_links_without_a_target_are_samples_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "cat" / "0.png").symlink_to("/gone/0.png")
    (tmp_path / "cat" / "self.png").symlink_to("self.png")
    (tmp_path / "fox").symlink_to("/gone/fox")
    (tmp_path / "labels.csv").symlink_to("/gone/labels.csv")  # not a class
    found = {s.file: s for s in samples("digits", tmp_path)}
    assert list(found) == ["cat/0.png", "cat/1.png", "cat/self.png", "dog/2.png", "fox"]
    assert reason(found["cat/0.png"]) == reason(found["fox"]) == "cannot be read: No such file or directory"
    assert reason(found["cat/self.png"]) == "cannot be read: Too many levels of symbolic links"
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\ncat/0.png,cat\ncat/self.png,cat\ncat,cat\n")
    assert [reason(s).partition(": ")[2] for s in samples("digits", manifest)] == [
        "No such file or directory", "Too many levels of symbolic links", "Is a directory",
    ]  # fmt: skip


def test_links_to_folders_are_followed_without_circles(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(tmp_path, "pool/cats/1.png", "pool/cats/2.png", "pool/dogs/3.png", "data/cat/0.png", "data/cat/deep/4.png")
    (root / "dog").symlink_to(tmp_path / "pool" / "dogs")  # a class
    (root / "loop").symlink_to(root)  # not a class
    for name, target in (
        ("fold1", tmp_path / "pool" / "cats"), ("again", tmp_path / "pool" / "cats"), ("loop", root / "cat"),
        ("up", root), ("top", "/"), ("dog", root / "dog"), ("a", root / "cat" / "deep"),
    ):  # fmt: skip
        (root / "cat" / name).symlink_to(target)
    (tmp_path / "pool" / "cats" / "back").symlink_to(root / "cat")
    assert names(root) == ["cat/0.png", "cat/again/1.png", "cat/again/2.png", "cat/deep/4.png", "dog/3.png"]


def test_a_linked_file_is_read_and_its_fingerprint_follows_the_target(tmp_path: Path) -> None:
    touch(tmp_path, "pool/1.png", "data/cat/2.png")
    (tmp_path / "data" / "cat" / "1.png").symlink_to(tmp_path / "pool" / "1.png")
    before = stats(tmp_path / "data")
    (tmp_path / "pool" / "1.png").write_bytes(b"other")
    assert stats(tmp_path / "data") != before
    assert samples("digits", tmp_path / "data")[0].digest() == samples("digits", tmp_path / "data")[0].digest()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png")
    os.mkfifo(tmp_path / "cat" / "0.png")
    assert reason(samples("digits", tmp_path)[0]) == "cannot be read: not a regular file"


def test_a_folder_that_cannot_be_listed_is_among_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind root, as whom tests may run."""
    touch(tmp_path, "cat/1.png", "cat/locked/2.png")
    scandir = os.scandir

    def refuse(path: str | os.PathLike[str]) -> object:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [readable(path.relative_to(tmp_path)) for path in walk(tmp_path)] == ["cat/1.png", "cat/locked"]
