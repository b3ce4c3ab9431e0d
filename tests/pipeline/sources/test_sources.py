"""Sources: embedded digits, MNIST, folders and manifests, and the line that each mistake gets."""

import gzip
import os
from hashlib import sha256
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline import sources, task
from pipeline.task import UserError
from service.errors import MediaError
from tests.pipeline.sources.folders import idx, samples, touch


def test_scans_have_the_form_of_mnist() -> None:
    found = samples("digits", "scans")
    assert len(found) == 1797
    images = np.stack([s.media.load() for s in found])
    assert images.shape == (1797, 28, 28)
    assert images.dtype == np.uint8
    assert (images.reshape(1797, -1).max(1) >= 254).all()
    assert not images[:, 0].any()  # a dark border
    assert not images[:, :, -1].any()
    rows = np.nonzero(images.any(2).any(0))[0]
    assert rows.size > 20  # moved by mass, so not always the same rows
    heights = images.any(2).sum(1)
    assert np.median(heights) == 20


def test_embedded_notes_keep_their_names_and_digests() -> None:
    first, second = samples("instruments", "notes"), samples("instruments", "notes")
    assert len({s.label for s in first}) >= 10
    assert [s.media.digest() for s in first] == [s.media.digest() for s in second]
    assert len({s.file for s in first}) == len(first)


def test_notes_are_resampled_to_the_rate_of_the_task() -> None:
    full, half = (samples("instruments", "notes", f"features.sample_rate={rate}")[0] for rate in (22_050, 11_025))
    assert half.media.load().size == pytest.approx(full.media.load().size / 2, abs=2)
    assert full.media.digest() != half.media.digest() or full.media != half.media


def write_mnist(raw: Path, images: NDArray[np.uint8], dot: bool = False) -> None:
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, content in (
            ("images-idx3", idx(*images.shape, values=images.tobytes())),
            ("labels-idx1", idx(5, values=bytes([3, 1, 4, 1, 5]))),
        ):
            (raw / f"{part}-{kind.replace('-idx', '.idx') if dot else kind}-ubyte").write_bytes(content)


@pytest.mark.parametrize("form", ["plain", "dot", "gz"])
def test_mnist_is_read_from_a_local_copy(tmp_path: Path, form: str) -> None:
    images = np.random.default_rng(0).integers(256, size=(5, 28, 28), dtype=np.uint8)
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, images, dot=form == "dot")
    if form == "gz":  # as downloaded
        for file in list(raw.iterdir()):
            (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    for folder in (tmp_path, tmp_path / "MNIST", raw):
        found = samples("digits", f"mnist:{folder}")
        assert [s.split for s in found] == ["train"] * 5 + ["test"] * 5
        assert [s.label for s in found[:5]] == ["3", "1", "4", "1", "5"]
        assert np.array_equal(found[2].media.load(), images[2])
    before = sources.fingerprint(task.load("digits", f"mnist:{raw}").data)
    next(raw.glob("t10k-labels*")).write_bytes(b"")
    assert sources.fingerprint(task.load("digits", f"mnist:{raw}").data) != before


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t10k-labels-idx1-ubyte", None, "t10k-labels-idx1-ubyte is missing"),
        ("t10k-labels-idx1-ubyte", idx(5, values=b"123"), "t10k-labels-idx1-ubyte: .*not complete"),
        ("train-images-idx3-ubyte", b"", "train-images-idx3-ubyte: .*not complete"),
        ("train-images-idx3-ubyte", gzip.compress(b"1234", mtime=0)[:-9], "train-images-idx3-ubyte: cannot be read"),
        ("train-images-idx3-ubyte", idx(5, 2, 2, values=bytes(20)), r"5 labels for images \(5, 2, 2\)"),
    ],
)
def test_a_damaged_mnist_is_one_line(tmp_path: Path, name: str, content: bytes | None, line: str) -> None:
    write_mnist(tmp_path / "raw", np.zeros((5, 28, 28), np.uint8))
    file = tmp_path / "raw" / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        samples("digits", f"mnist:{tmp_path}")
    assert len(str(caught.value).splitlines()) == 1


def test_real_mnist(real_data: Path) -> None:
    found = samples("digits", f"mnist:{real_data}")
    assert len(found) == 70_000
    assert found[0].label == "5"


def test_no_mnist_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mnist:.*Dataset not found") as caught:
        samples("digits", f"mnist:{tmp_path}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("home", ["", "/proc/nowhere", "file"])
def test_where_nothing_can_be_downloaded_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    touch(tmp_path, "file")
    monkeypatch.chdir(tmp_path)
    if home:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user id without an entry
    with pytest.raises(UserError, match=r"^mnist: .*HOME.*or give a copy as mnist:DIR$"):
        samples("digits", "mnist")
    touch(tmp_path, "cat/1.png")
    assert [s.file for s in samples("digits", str(tmp_path))] == ["cat/1.png"]


def test_folder_of_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a b/1.wav", "a b/deep/2.wav", "c/3.wav", "c/.hidden", ".cache/x/4.wav", "README.txt")
    found = samples("instruments", str(tmp_path))
    assert [(s.file, s.label, s.split) for s in found] == [
        ("a b/1.wav", "a b", None), ("a b/deep/2.wav", "a b", None), ("c/3.wav", "c", None),
    ]  # fmt: skip


def test_recordings_for_training_are_limited_more_than_those_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("a", 120), ("b", 121)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "1.wav", np.tile(np.repeat([-0.5, 0.5], 10), seconds * 400), 8000)
    usable, long = samples("instruments", str(tmp_path))
    assert usable.media.load().size == 120 * 22_050
    with pytest.raises(MediaError, match="longer than the 120 seconds"):
        long.media.load()
    monkeypatch.setenv("PERCEPT_MAX_SECONDS", "121")
    assert samples("instruments", str(tmp_path))[1].media.load().size == 121 * 22_050


def test_a_file_name_that_is_no_utf8_can_be_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav")
    (tmp_path / "a" / os.fsdecode(b"\xff.wav")).write_bytes(b"x")
    names = [s.file for s in samples("instruments", str(tmp_path))]
    assert names == ["a/1.wav", "a/\\xff.wav"]
    assert "\n".join(names).encode()


def test_folder_that_names_its_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    assert [(s.label, s.split) for s in samples("digits", str(tmp_path))] == [
        ("a", "train"), ("b", "train"), ("a", "test"),
    ]  # fmt: skip
    touch(tmp_path, "c/4.png")
    with pytest.raises(UserError, match=r"class folders \(c\) are next to folders of splits"):
        samples("digits", str(tmp_path))


def test_empty_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="no files; expected one sub-folder for each class"):
        samples("digits", str(tmp_path))
    touch(tmp_path, "1.png", "2.png", ".DS_Store")
    with pytest.raises(UserError, match="2 files, none in a class folder; expected one sub-folder"):
        samples("digits", str(tmp_path))


def test_class_names_that_look_alike_are_one_class(tmp_path: Path) -> None:
    """macOS writes ö as o and dots."""
    for folder in ("train/M\u00f6we", "test/Mo\u0308we"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").touch()
    assert {(s.label, s.split) for s in samples("instruments", str(tmp_path))} == {
        ("M\u00f6we", "train"), ("M\u00f6we", "test"),
    }  # fmt: skip


def test_files_and_groups_of_a_manifest_are_found_with_accents_composed_or_apart(tmp_path: Path) -> None:
    """As where a spreadsheet lists files that came from a Mac."""
    files = ["M\u00f6we.wav", "mo\u0308we.wav"]
    for name in files:
        (tmp_path / name).touch()
    rows = [f"{normalize(form, name)},gull,Z{normalize(form, 'ö')}" for name in files for form in ("NFC", "NFD")]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]), "utf-8")
    found = samples("instruments", str(tmp_path / "list.csv"))
    assert [s.file for s in found] == [files[0], files[0], files[1], files[1]]
    assert {s.group for s in found} == {"Z\u00f6"}
    for form in ("NFC", "NFD"):
        found = samples("instruments", str(tmp_path / "list.csv"), f"data.group={normalize(form, '(ö)we')}")
        assert {s.group for s in found} == {"\u00f6"}


def test_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "\ufefflabel,path,split,comment\ncat,x/1.wav,train,'ok'\ndog,2\u2028.wav,,'two\nlines'\n".replace("'", '"'),
        "utf-8",
    )
    found = samples("instruments", str(manifest))
    assert [(s.file, s.label, s.split) for s in found] == [("x/1.wav", "cat", "train"), ("2\u2028.wav", "dog", None)]
    assert "columns that are not read: comment; each file is one sample, whole\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "cp1252"), (", ", "utf-8"), ("|", "utf-8"), (" ", "utf-8")],
)
def test_manifests_of_any_program(tmp_path: Path, delimiter: str, encoding: str) -> None:
    (tmp_path / "list.csv").write_text(f"Path{delimiter}Label\r\nMöwe.wav{delimiter}gull\r\n", encoding, newline="")
    assert [(s.file, s.label) for s in samples("instruments", str(tmp_path / "list.csv"))] == [("Möwe.wav", "gull")]


def test_paths_of_windows_in_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "flute/a.wav", "oboe\\b.wav")  # the latter is one name here
    (tmp_path / "list.csv").write_text(
        "path,label\r\nflute\\a.wav,x\r\n.\\oboe\\c.wav,y\r\noboe\\b.wav,y\r\n", "utf-8-sig"
    )
    found = samples("instruments", str(tmp_path / "list.csv"))
    assert [s.file for s in found] == ["flute/a.wav", "./oboe/c.wav", "oboe\\b.wav"]
    assert found[0].digest() == sha256(b"flute/a.wav").hexdigest()
    (tmp_path / "list.csv").write_text(f"path,label\nflute\\{300 * 'a'}.wav,x\n")  # longer than a name can be
    assert [s.file[:7] for s in samples("instruments", str(tmp_path / "list.csv"))] == ["flute/a"]


def test_a_cell_too_many_in_a_manifest_and_names_of_rows(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    for row in ("{}.wav,x,a remark", "{},{}.wav,x"):
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *(row.format(n, n) for n in "ab")]))
        assert [(s.file, s.label) for s in samples("instruments", str(tmp_path / "list.csv"))] == [
            ("a.wav", "x"), ("b.wav", "x"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "delimiter", "encoding"),
    [("sep=;", ";", "utf-8-sig"), ("\nSEP=,", ",", "utf-16"), ('"sep=\t"', "\t", "utf-8"), ("sep=|||", "|", "cp1252")],
)
def test_the_first_line_may_name_the_delimiter(tmp_path: Path, first: str, delimiter: str, encoding: str) -> None:
    """Excel reads and writes such lines. The other delimiter, in each cell, would divide all rows as well."""
    other = "," if delimiter != "," else ";"
    (tmp_path / "list.csv").write_text(
        f"{first}\npath{delimiter}label\nMöwe{other}1.wav{delimiter}a{other}b\n", encoding
    )
    found = samples("instruments", str(tmp_path / "list.csv"))
    assert [(s.file, s.label) for s in found] == [(f"Möwe{other}1.wav", f"a{other}b")]
    with (tmp_path / "list.csv").open("a", encoding=encoding.removesuffix("-sig").replace("16", "16-le")) as file:
        file.write(f"b.wav{delimiter}\n")
    with pytest.raises(UserError, match=f"line {4 + first.count(chr(10))}: label is empty"):
        samples("instruments", str(tmp_path / "list.csv"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,class\na.wav,x\n", "column 'label' is missing; expected path,label"),
        ("", "list.csv: empty"),
        ("path,label\n", "no rows"),
        ("path,label\na.wav,\n", "line 2: label is empty"),
        ("path,label,split\na.wav,x,late\n", "line 2: split 'late' is not train, validation, test"),
        ("path,label\na\0.wav,x\n", "holds zero bytes"),
        ("path,label\n" + "a.wav,x\n" * 300 + "a\0.wav,x\n", "line 302: a zero byte in the path"),
        ('path,label\nc.wav,x\na.wav,"x\n' + "b.wav,y\n" * 20_000, "line 3: .*; is a quote not closed"),
        ('path,label\nc.wav,x\na.wav,"x\nb.wav,y\n', "line 3: a quote is not closed"),
        ('path,label\nc.wav,x\na.wav,"', "line 3: a quote is not closed"),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=line):
        samples("instruments", str(tmp_path / "list.csv"))


def test_source_and_features_must_fit() -> None:
    for name, data in (("digits", "notes"), ("instruments", "digits"), ("instruments", "mnist")):
        with pytest.raises(UserError, match=r"does not give what features\.kind"):
            samples(name, data)


def test_data_option_names_each_kind_of_source(tmp_path: Path) -> None:
    assert sources.parse_data("mnist") == {"source": "mnist"}
    assert sources.parse_data("mnist:some/dir") == {"source": "mnist", "path": "some/dir"}
    assert sources.parse_data("clips.csv") == {"source": "csv", "path": "clips.csv"}
    with pytest.raises(UserError, match="no such folder"):
        sources.parse_data(str(tmp_path / "absent"))
    touch(tmp_path, "clips.zip")
    with pytest.raises(
        UserError, match=r"clips.zip: expected a \.csv manifest, or a folder .*; unpack an archive first"
    ):
        sources.parse_data(str(tmp_path / "clips.zip"))


def test_a_source_that_is_not_registered_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^task digits: data\.source: must be 'cifar10', .*'csv' or 'table', not 'cifar'$"
    ):
        task.load("digits", overrides=["data.source=cifar"])


def test_a_fingerprint_changes_with_the_files_and_with_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav", "b/2.wav")
    folder = task.load("instruments", str(tmp_path)).data
    before = sources.fingerprint(folder)
    assert sources.fingerprint(folder) == before
    (tmp_path / "b" / "2.wav").write_bytes(b"other")
    changed = sources.fingerprint(folder)
    assert changed != before
    touch(tmp_path, "b/3.wav")
    assert sources.fingerprint(folder) != changed
    (tmp_path / "list.csv").write_text("path,label\na/1.wav,a\nabsent.wav,b\n")
    manifest = task.load("instruments", str(tmp_path / "list.csv")).data
    before = sources.fingerprint(manifest)
    os.utime(tmp_path / "list.csv", (0, 0))
    assert sources.fingerprint(manifest) == before
    touch(tmp_path, "absent.wav")
    assert sources.fingerprint(manifest) != before


def test_the_fingerprint_of_embedded_samples_depends_on_the_seed() -> None:
    notes, other = (task.load("instruments", overrides=[f"data.seed={seed}"]).data for seed in (0, 1))
    assert sources.fingerprint(notes) != sources.fingerprint(other)
    assert sources.fingerprint(task.load("digits", "mnist:nowhere").data) is None
