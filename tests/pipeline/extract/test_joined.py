"""Near duplicates are one group: no split divides them unless the data does, they are listed, and looked for once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import extract, task
from pipeline.errors import UserError
from pipeline.extract import near_duplicates
from pipeline.extract.features import Features
from pipeline.extract.splits import joined
from pipeline.run import Run
from pipeline.sources import Decoded, Sample

PER_CLASS, COPIED = 24, 6
NOTHING = Decoded(np.zeros(1))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Files of two classes, some of which are there a second time, smaller."""
    root, scans = tmp_path / "data", load_digits()
    for label in ("3", "8"):
        (root / label).mkdir(parents=True)
        for n, i in enumerate(np.flatnonzero(scans.target == int(label))[:PER_CLASS]):
            page = Image.fromarray(np.kron(255 - np.uint8(15.9 * scans.images[i]), np.ones((5, 5), np.uint8)))
            page.save(root / label / f"{n:02}.png")
            if n < COPIED:
                page.resize((31, 31)).save(root / label / f"copy of {n:02}.jpg")
    return root


def extracted(data: Path, folder: Path, *overrides: str) -> Features:
    extract.extract(task.load("digits", str(data), overrides), Run(folder))
    return Features.load(folder / "features.npz")


def files(found: Features) -> set[tuple[str, str]]:
    return {(min(pair), max(pair)) for pair in found.file[found.near].tolist()}


def test_no_split_divides_them_and_they_are_listed(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        found = extracted(digits, tmp_path / "run", f"data.seed={seed}")
        planted = {(f"{label}/{n:02}.png", f"{label}/copy of {n:02}.jpg") for label in "38" for n in range(COPIED)}
        assert files(found) == planted
        one, other = found.near.T
        assert (found.split[one] == found.split[other]).all()
        assert (found.group[one] == found.group[other]).all()
        assert len(set(found.group.tolist())) == 2 * PER_CLASS
        assert not found.has_groups  # groups of near duplicates have no names
    assert "12 pairs of near duplicates, which no split divides: 3/00.png = 3/copy of 00.jpg" in capsys.readouterr().out

    monkeypatch.setattr(near_duplicates, "find", None)  # what is known is not looked for again
    assert files(extracted(digits, tmp_path / "run", "data.seed=1")) == planted


def test_what_a_stopped_run_has_extracted_is_told_once(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although samples are extracted a second time where near duplicates have moved to another split."""
    (digits / "3" / "broken.png").touch()
    with pytest.raises(UserError, match=r"broken\.png"):
        extract.extract(task.load("digits", str(digits)), Run(tmp_path / "run"), strict=True)
    extracted(digits, tmp_path / "run")
    assert capsys.readouterr().out.count("were extracted by a run that was stopped") == 1


def test_splits_that_the_data_names_stay(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["path,label,split"]
    for path in sorted(digits.rglob("*.*")):
        split = "test" if path.suffix == ".jpg" else "validation" if path.stem > "18" else "train"
        rows.append(f"data/{path.parent.name}/{path.name},{path.parent.name},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = extracted(tmp_path / "list.csv", tmp_path / "run")
    assert (found.split[found.near[:, 0]] != found.split[found.near[:, 1]]).all()
    assert "12 pairs of near duplicates, in different splits, since the data names them" in capsys.readouterr().out


def test_a_class_of_which_near_duplicates_leave_two_groups_is_still_trained(tmp_path: Path, digits: Path) -> None:
    for path in (digits / "8").iterdir():
        if path.name not in ("00.png", "copy of 00.jpg", "20.png"):
            path.unlink()
    for seed in range(3):
        found = extracted(digits, tmp_path / "run", f"data.seed={seed}")
        assert "train" in found.split[found.y == 1]


def test_named_groups_are_joined_and_keep_a_name() -> None:
    samples = [Sample(f"{n}", "a", None, NOTHING, group) for n, group in enumerate((None, "x", None, "y", None))]
    digests = list("abcde")
    groups = ["a", "x", "c", "y", "e"]
    assert joined(samples, groups, digests, [("a", "b"), ("c", "e")]) == ["x", "x", "c", "y", "c"]
    assert joined(samples, groups, digests, [("b", "d"), ("a", "d")]) == ["x", "x", "c", "x", "e"]
    assert joined(samples, groups, digests, [("gone", "a")]) == groups
