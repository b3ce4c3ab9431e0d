"""An audit finds what was planted in real files, and its page holds what a decision needs."""

import base64
import csv
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import extract, task
from pipeline.audit import audit, out_of_fold
from pipeline.audit.stage import find_labels
from pipeline.run import Run
from pipeline.task import UserError
from tests import vectors
from tests.command import percept

PER_CLASS = 25
CLASSES = 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller networks, which are enough for these samples."""
    monkeypatch.setattr(out_of_fold, "HIDDEN", 16)
    monkeypatch.setattr(out_of_fold, "EPOCHS", (40, 60))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of scikit-learn as files: one in the wrong folder, one blank, one twice, one that is no picture."""
    root = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    for label in range(CLASSES):
        (root / str(label)).mkdir()
        for n, i in enumerate(np.flatnonzero(digits.target == label)[:PER_CLASS]):
            pixels = 255 - np.uint8(digits.images[i] * 15.9)
            Image.fromarray(np.kron(pixels, np.ones((6, 6), np.uint8))).save(root / str(label) / f"{n:02}.png")
    (root / "0" / "07.png").rename(root / "2" / "wrong.png")
    (root / "1" / "again.png").write_bytes((root / "1" / "03.png").read_bytes())
    (root / "1" / "torn.png").write_bytes((root / "1" / "04.png").read_bytes()[:60])
    return root


def data_of(page: Path) -> Any:
    """What the page's program reads."""
    text = page.read_text("utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


@pytest.mark.usefixtures("quick")
def test_it_finds_what_was_planted_in_pictures(pictures: Path, tmp_path: Path) -> None:
    done = percept("audit", "digits", "--data", pictures, "--set", "name=planted", home=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / "planted")
    found = json.loads(run.audit.read_text())
    by_kind = {kind: [s for s in found["suspects"] if s["kind"] == kind] for kind in ("label", "duplicate", "media")}
    assert by_kind["label"][0]["file"] == "2/wrong.png"
    assert by_kind["label"][0]["suggested"] == "0"
    assert by_kind["label"][0]["resembles"][0].startswith("0/")
    assert {(s["file"], *s["resembles"]) for s in by_kind["duplicate"]} >= {("1/again.png", "1/03.png")}
    assert "1/torn.png" in [s["file"] for s in by_kind["media"]]
    scores = [s["score"] for s in found["suspects"]]
    assert scores == sorted(scores, reverse=True)

    data = data_of(run.audit_page)
    assert [s["file"] for s in data["suspects"]] == [s["file"] for s in found["suspects"]]
    assert data["media"]["2/wrong.png"]["picture"].startswith("data:image/png;base64,")
    rows = data["rows"]["rows"]
    assert "1/torn.png" not in rows
    assert rows["2/wrong.png"][:2] == [str(pictures / "2" / "wrong.png"), "2"]

    # The manifest that the page saves, after the wrong label was mended, is what `--data` reads.
    rows["2/wrong.png"][1] = "0"
    lines = [data["rows"]["columns"], *rows.values()]
    (tmp_path / "audit.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    again = extract.extract(task.load("digits", str(tmp_path / "audit.csv")), Run(tmp_path / "mended"))
    assert len(again.x) == CLASSES * PER_CLASS
    assert again.labels[again.y[again.file.tolist().index(rows["2/wrong.png"][0])]] == "0"


@pytest.mark.usefixtures("quick")
def test_pictures_in_colour_are_shown_in_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, colour in (("red", (200, 40, 30)), ("blue", (30, 40, 200))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(8):
            pixels = np.uint8(np.clip(colour + rng.normal(0, 20, (40, 40, 3)), 0, 255))
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{n}.png")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "data" / "red" / "blank.png")
    run = Run(tmp_path / "colours")
    extract.extract(task.load("pictures", str(tmp_path / "data"), ["features.atoms=4", "augment.copies=0"]), run)
    assert "blank.png" in " ".join(s["file"] for s in audit(run) if s["kind"] == "media")
    shown = data_of(run.audit_page)["media"]["red/blank.png"]["picture"]
    picture = Image.open(io.BytesIO(base64.b64decode(shown.split(",")[1]))).convert("RGB")
    assert (picture.size, picture.getpixel((0, 0))) == ((128, 128), (255, 0, 0))


@pytest.mark.usefixtures("quick")
def test_sounds_are_heard_from_the_users_files_and_damage_is_named(tmp_path: Path) -> None:
    root, rng, rate = tmp_path / "sounds", np.random.default_rng(0), 8_000
    for label, frequency in (("low", 200), ("high", 1500)):
        (root / label).mkdir(parents=True)
        for n in range(6):
            tone = np.sin(2 * np.pi * (frequency + 9 * n) * np.arange(4_000) / rate) * np.hanning(4_000)
            soundfile.write(root / label / f"{n} #.wav", 0.4 * tone + 1e-4 * rng.standard_normal(4_000), rate)
    loud = np.clip(6 * soundfile.read(root / "low" / "0 #.wav")[0], -0.99, 0.99)
    clipped = os.fsdecode(b"clipped \xff.wav")
    with (root / "low" / clipped).open("wb") as file:
        soundfile.write(file, loud, rate, format="WAV")
    options = ["features.sample_rate=8000", "features.n_mels=32", "features.n_mfcc=13", "augment.copies=0"]
    run = Run(tmp_path / "runs" / "sounds")
    extract.extract(task.load("instruments", str(root), [*options, "augment.rate=0"]), run)
    found = audit(run)
    assert (r"low/clipped \xff.wav", "media") in [(s["file"], s["kind"]) for s in found]
    page = data_of(run.audit_page)
    link = page["media"][r"low/clipped \xff.wav"]["sound"]
    assert (run.folder / os.fsdecode(unquote_to_bytes(link))).resolve() == root / "low" / clipped
    assert not Path(link).is_absolute()

    manifest = tmp_path / "audit.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([page["rows"]["columns"], *page["rows"]["rows"].values()])
    again = Run(tmp_path / "runs" / "again")
    extract.extract(task.load("instruments", str(manifest), [*options, "augment.rate=0"]), again)
    assert len(extract.Features.of(again).skipped) == 0


def features_of(folder: Path, wrong: int) -> tuple[Run, list[int]]:
    """Two clouds of points, some of whose labels are wrong."""
    rng = np.random.default_rng(0)
    truth = np.arange(160) % 2
    x = (rng.standard_normal((160, 6)) + 5 * truth[:, None]).astype(np.float32)
    rows = rng.choice(160, wrong, replace=False).tolist()
    y = truth.copy()
    y[rows] = 1 - y[rows]
    vectors.write(folder, x, y, ["train"] * 120 + ["test"] * 40, 2)
    return Run(folder), rows


@pytest.mark.usefixtures("quick")
def test_wrong_labels_of_two_classes_come_first(tmp_path: Path) -> None:
    run, wrong = features_of(tmp_path, 8)
    features = extract.Features.of(run)
    first = find_labels(features, features.y)[:8]
    assert sorted(int(s["file"]) for s in first) == sorted(wrong)
    assert all(s["suggested"] != s["label"] for s in first)
    assert [s["file"] for s in find_labels(features, features.y)[:8]] == [s["file"] for s in first]


def test_numbers_have_no_wrong_labels(tmp_path: Path) -> None:
    run = Run(tmp_path)
    extract.extract(task.load("sine"), run)
    with pytest.raises(UserError, match="targets are numbers"):
        audit(run)


@pytest.mark.usefixtures("quick")
def test_pictures_in_colour_whatever_their_files_are_called(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for k, label in enumerate(("a  cat", "<b>")):
        (data / label).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(12 * k + i).integers(0, 40, (20, 20, 3), np.uint8)
            pixels[..., k] += 150
            Image.fromarray(pixels).save(os.fsencode(data / label) + b"/\xff \"'%d.png" % i)
    Image.new("RGB", (20, 20), "purple").save(data / "<b>" / "blank.png")
    small = (
        "--set",
        "name=colours",
        "--set",
        "features.atoms=1",
        "--set",
        "features.size=16",
        "--set",
        "augment.copies=0",
    )
    done = percept("audit", "pictures", "--data", data, *small, home=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / "colours")
    found = json.loads(run.audit.read_text("utf-8"))["suspects"]
    assert [s["reason"] for s in found if s["kind"] == "media"] == ["blank"]
    page = data_of(run.audit_page)
    encoded = page["media"]["<b>/blank.png"]["picture"].partition(",")[2]
    shown = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    assert shown.getpixel((0, 0)) == (128, 0, 128)
    assert r"a  cat/\xff " + "\"'0.png" in page["rows"]["rows"]
