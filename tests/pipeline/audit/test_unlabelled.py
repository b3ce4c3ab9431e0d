"""Unlabelled files are ranked by what a label is worth, and those that get one join the training samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import extract, sources, task
from pipeline.audit import audit, out_of_fold, unlabelled
from pipeline.extract import Features
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.train.data import Rows
from tests import vectors
from tests.command import percept
from tests.pipeline.audit.test_stage import data_of

CLASSES, LABELLED, WAITING = 3, 12, 8  # files of each class


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller networks, which are enough for these samples."""
    monkeypatch.setattr(out_of_fold, "HIDDEN", 16)
    monkeypatch.setattr(out_of_fold, "EPOCHS", (20, 20))
    monkeypatch.setattr(unlabelled, "STEPS", 60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of scikit-learn as files: `data` with class folders, and `waiting` without, where one is also in `data`,
    one is there twice and one is no picture."""
    root = tmp_path_factory.mktemp("digits")
    (root / "waiting" / "more").mkdir(parents=True)
    digits = load_digits()
    for label in range(CLASSES):
        (root / "data" / str(label)).mkdir(parents=True)
        for n, i in enumerate(np.flatnonzero(digits.target == label)[: LABELLED + WAITING]):
            pixels = np.kron(255 - np.uint8(digits.images[i] * 15.9), np.ones((6, 6), np.uint8))
            folder = root / "data" / str(label) if n < LABELLED else root / "waiting" / "more"
            Image.fromarray(pixels).save(folder / f"{label}-{n:02}.png")
    (root / "waiting" / "known.png").write_bytes((root / "data" / "0" / "0-00.png").read_bytes())
    (root / "waiting" / "twice.png").write_bytes((root / "waiting" / "more" / "1-12.png").read_bytes())
    (root / "waiting" / "torn.png").write_bytes((root / "data" / "1" / "1-00.png").read_bytes()[:60])
    return root


def labelled(page: Any, wanted: dict[str, str]) -> str:
    """The manifest that the page saves when these files have been labelled."""
    rows = page["rows"]
    lines = [
        rows["columns"],
        *([path, wanted.get(f, label), *rest] for f, (path, label, *rest) in rows["rows"].items()),
    ]
    return "".join(",".join(line) + "\n" for line in lines if line[1])


def test_what_gets_a_label_joins_the_training_samples_and_the_test_stays(folders: Path, tmp_path: Path) -> None:
    named = "--data", folders / "data", "--set", "name=growing"
    done = percept("audit", "digits", *named, "--unlabelled", folders / "waiting", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "24 unlabelled files, without 1 that are labelled already and 1 that cannot be used (the first: " in done.stdout
    )
    run = Run(tmp_path / "runs" / "growing")
    found = json.loads(run.audit.read_text())
    files = [one["file"] for one in found["unlabelled"]]
    assert len(set(files)) == len(files) == CLASSES * WAITING
    assert [one["file"] for one in found["unusable"]] == [str(folders / "waiting" / "torn.png")]
    assert all(one["resembles"][0].startswith(f"{one['likely'][0]}/") for one in found["unlabelled"])

    page = data_of(run.audit_page)
    assert [s["file"] for s in page["suspects"] if s["kind"] == "unlabelled"] == files
    assert page["media"][files[0]]["picture"].startswith("data:image/png;base64,")
    before = Features.of(run)
    wanted = {file: Path(file).name[0] for file in files[:5]}
    (tmp_path / "audit.csv").write_text(labelled(page, wanted))
    after = extract.extract(task.load("digits", str(tmp_path / "audit.csv")), Run(tmp_path / "grown"))
    assert len(after.x) == len(before.x) + 5
    split_of = dict(zip(after.file.tolist(), after.split.tolist(), strict=True))
    assert {split_of[file] for file in wanted} == {"train"}
    for split in ("validation", "test"):
        assert set(after.digest[after.rows(split)]) == set(before.digest[before.rows(split)])


def test_the_first_are_doubtful_new_and_different(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = (0.3 * rng.standard_normal((80, 2)) + 4 * y[:, None]).astype(np.float32)
    vectors.write(tmp_path, x, y, ["train"] * 60 + ["test"] * 20, 2)
    between = np.float32([[2, 2]] * 5 + [[-1, 5]]) + 0.01 * rng.standard_normal((6, 2)).astype(np.float32)
    clear = (0.3 * rng.standard_normal((20, 2))).astype(np.float32)
    features = Features.load(tmp_path / "features.npz")
    known = Rows(np.asarray(features.x[:]), features.y)
    first = unlabelled.worth(features, known, np.concatenate([clear, between]), 2).tolist()
    assert {i >= 20 for i in first} == {True}  # none of which the networks are sure
    assert sum(i < 25 for i in first) == 1  # one of five that are nearly the same, and the other


def test_all_are_ranked_even_if_only_some_are_chosen_one_by_one() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    order = unlabelled.in_order(np.linspace(0, 1, 40), points, n_known=10, greedy=7)
    assert sorted(order.tolist()) == list(range(40))


def test_doubt_counts_where_many_files_are_as_known_ones() -> None:
    points = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    points[20:28] = points[:8]
    order = unlabelled.in_order(np.linspace(0.5, 0.9, 20), points, n_known=20)
    assert order[0] > 15
    assert sorted(order[-8:]) == [*range(8)]


def test_a_group_that_is_known_keeps_its_split(folders: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "grouped")
    options = [r"data.group=-(\d\d)\.png$", "data.seed=1"]  # files of one number belong together
    extract.extract(task.load("digits", str(folders / "data"), options), run)
    features = Features.of(run)
    group = str(features.group[features.rows("test")][0])
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    for name in (f"a-{group}.png", "b-77.png"):
        pixels = np.full((40, 40), 255, np.uint8)
        pixels[5:30, ord(name[0]) - 90 : ord(name[0]) - 80] = 0  # an upright stroke, elsewhere in each
        pixels[5:10, 5:30] = 0
        Image.fromarray(pixels).save(waiting / name)
    audit(run, waiting)
    rows = data_of(run.audit_page)["rows"]["rows"]
    assert rows[str(waiting / f"a-{group}.png")][2:] == ["test", group]
    assert rows[str(waiting / "b-77.png")][2:] == ["train", "77"]


def test_folders_that_cannot_be_labelled_are_one_line(tmp_path: Path) -> None:
    pixels, numbers = task.load("digits").features, task.load("regions").features
    with pytest.raises(UserError, match="nowhere: no such folder"):
        sources.unlabelled(tmp_path / "nowhere", pixels)
    with pytest.raises(UserError, match="no files to label"):
        sources.unlabelled(tmp_path, pixels)
    with pytest.raises(UserError, match=r"unlabelled files are pictures or sounds, and features\.kind is 'vector'"):
        sources.unlabelled(tmp_path, numbers)
