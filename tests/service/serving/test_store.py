"""The model store: what is added is served, in one step, whatever the clock, the pointer or the disk say."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import pytest

from service.serving import store
from tests.command import full_disk, model_store, percept

FILES = {"model.onnx": b"graph", "card.json": b"{}"}


def add(*versions: str) -> None:
    for version in versions:
        store.add(bentoml.Tag("tones", version), "multiclass", FILES)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with model_store(tmp_path):
        add("v1", "v2")
        yield tmp_path


def left(home: Path) -> set[str]:
    """Every file and folder of the store."""
    return {path.relative_to(home).as_posix() for path in home.rglob("*")}


def test_what_an_exporter_with_a_slow_clock_adds_is_served_and_is_the_newest(home: Path) -> None:
    file = home / "models" / "tones" / "v2" / "model.yaml"
    file.write_text(re.sub(r"creation_time: '\d{4}", "creation_time: '2999", file.read_text()))
    add("v3", "v4")
    assert store.served("tones") == "v4"
    assert store.existing("tones") == ["v4", "v3", "v2", "v1"]
    assert bentoml.models.get("tones").tag.version == "v4"
    assert [store.roll_back("tones", None) for _ in range(3)] == ["v3", "v2", "v1"]
    model = bentoml.models.get("tones:v4")
    assert {name: Path(model.path_of(name)).read_bytes() for name in FILES} == FILES
    assert model.info.labels == {"percept": "multiclass"}


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"gone\n", None])
def test_an_unreadable_pointer_is_healed(home: Path, pointer: bytes | None) -> None:
    latest = home / "models" / "tones" / "latest"
    latest.unlink()
    if pointer is not None:
        latest.write_bytes(pointer)
    assert store.served("tones") == "v2"
    add("v3")
    assert latest.read_text() == "v3"
    latest.write_bytes(pointer or b"")
    assert store.roll_back("tones", None) == "v2"


def test_versions_that_are_added_at_the_same_moment_are_all_there(home: Path) -> None:
    names = [f"w{n}" for n in range(16)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, names))
    assert {*store.existing("tones")} == {"v1", "v2", *names}
    assert store.served("tones") in names
    folders = [path for path in (home / "models" / "tones").iterdir() if path.is_dir()]
    assert all(folder.stat().st_mode & 0o055 == 0o055 for folder in folders)  # for a service of another user
    assert [*(home / "tmp").iterdir()] == []


@pytest.mark.parametrize("n_bytes", [0, 3, 100])
def test_a_full_disk_leaves_the_store_as_it_was(home: Path, n_bytes: int) -> None:
    before = left(home)
    with full_disk(n_bytes), pytest.raises(OSError, match="File too large") as caught:
        add("v3")
    assert caught.value.filename == str(home / "models")
    assert left(home) - {"tmp"} == before - {"tmp"}
    assert store.served("tones") == "v2"


def test_what_is_added_while_the_last_version_is_removed_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = store._names

    def then_added(folder: Path) -> list[str]:
        found = names(folder)
        if folder.name == "tones" and not found:
            monkeypatch.undo()
            add("v3")
        return found

    monkeypatch.setattr(store, "_names", then_added)
    store.remove("tones", None)
    assert store.existing("tones") == ["v3"]
    assert store.served("tones") == "v3"


def test_remove_on_the_command_line(home: Path) -> None:
    def lines(*arguments: str) -> tuple[int, str, str]:
        done = percept("remove", *arguments, "--yes", home=home)
        return done.returncode, done.stdout, done.stderr

    add("v3", "v4")
    store.roll_back("tones", "v2")
    assert lines("tones", "v4") == (0, "tones: removed v4; serving v2\n", "")
    assert lines("tones", "v2") == (0, "tones: removed v2; serving v3\n", "")
    assert lines("tones", "v2") == (1, "", "percept: the model store holds no tones:v2; its versions are v3, v1\n")
    assert lines("tones", "..")[0] == 1
    with bentoml.models.create("other:v1"):
        pass
    assert lines("other") == (1, "", "percept: the model store holds no model 'other'\n")
    assert percept("remove", "tones", home=home).returncode == 1  # nobody is there to answer
    assert store.existing("tones") == ["v3", "v1"]
    assert lines("tones") == (0, "tones: removed v3, v1; no longer served\n", "")
    assert lines("tones") == (1, "", "percept: the model store holds no model 'tones'\n")
    assert [path.name for path in (home / "models").iterdir()] == ["other"]
    assert [*(home / "tmp").iterdir()] == []


def test_a_bento_takes_the_models_that_are_named(home: Path) -> None:
    store.add(bentoml.Tag("toy", "v1"), "multiclass", FILES)
    assert [str(model.tag) for model in store.chosen(["tones"])] == ["tones:v2"]
    assert [str(model.tag) for model in store.chosen([])] == ["tones:v2", "toy:v1"]
    with pytest.raises(ValueError, match="holds no model 'birds'; it holds tones, toy"):
        store.chosen(["tones", "birds"])


def test_versions_are_read_again_only_if_they_changed(home: Path) -> None:
    """Also where a file is written anew with the same size within one tick of the file system's clock."""
    names = [f"w{n:02}" for n in range(20)]
    add(*names)
    newest_first = ["v1", "v2", *names][::-1]
    files = {path.parent.name: path for path in (home / "models" / "tones").glob("*/model.yaml")}
    assert store.versions("tones") == newest_first
    last = files["w19"]
    text = re.sub(r"creation_time: '\d{4}", "creation_time: '1999", last.read_text())
    times = last.stat()
    last.write_text(text)
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.versions("tones") == [*newest_first[1:], "w19"]
    time.sleep(store.TICK)
    assert store.versions("tones") == store.versions("tones") == [*newest_first[1:], "w19"]
    assert all(is_cached(file) for file in files.values())
    before = store._read.cache_info().misses
    add("x")
    store.remove("tones", "w07")
    expected = ["x", *(name for name in newest_first[1:] if name != "w07"), "w19"]
    assert store.versions("tones") == expected
    assert store._read.cache_info().misses == before  # only the new one was read, and not kept


def is_cached(file: Path) -> bool:
    """Whether `model.yaml` is answered for without reading it: by its stamp."""
    hits, status = store._read.cache_info().hits, file.stat()
    store._read(str(file), (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    return store._read.cache_info().hits > hits


@pytest.mark.parametrize("name", ["tones", "other"])
def test_only_remove_marks_an_empty_store(home: Path, name: str) -> None:
    mark = home / "models" / store.REMOVED
    if name == "other":  # another model, ours or not, says that the store is there
        with bentoml.models.create("other:v1"):
            pass
    store.remove("tones", "v1")
    assert not mark.exists()
    store.remove("tones", None)
    assert mark.exists() == (name == "tones")
    assert not store.is_empty()
    add("v3")
    assert not mark.exists()
