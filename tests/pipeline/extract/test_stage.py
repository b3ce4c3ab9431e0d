"""Extraction: splits, skipped files, duplicates, the cache, and classes that are too small."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from models import frontend
from pipeline import extract, sources, task, threads
from pipeline.extract.features import Features, targets_and_labels
from pipeline.run import Run
from pipeline.sources import Data
from pipeline.task import UserError
from tests.service.phone import PHONE_SOUNDS

RATE = 22_050


def tone(path: Path, seed: int, seconds: float = 0.3, level: float = 0.5) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(2 * np.pi * rng.uniform(200, 2000) * t), RATE)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    for k, label in enumerate(("high", "low", "mid")):
        for i in range(12):
            tone(root / label / f"{i:02d}.wav", 100 * k + i)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Features]:
    """Extract a source into one run directory; the result as the next stage reads it. Two copies of each clip do as
    well as the task's ten."""

    def extracted(data: Path, *overrides: str, strict: bool = False) -> Features:
        resolved = task.load("instruments", str(data), ["augment.copies=2", *overrides])
        extract.extract(resolved, Run(tmp_path / "run"), strict)
        return Features.load(tmp_path / "run" / "features.npz")

    return extracted


def test_features_of_every_sample(clips: Path, run: Callable[..., Features]) -> None:
    found = run(clips)
    assert found.x.shape == (36, 823)
    assert found.x.dtype == np.float32
    assert found.labels == ("high", "low", "mid")
    assert np.bincount(found.y).tolist() == [12, 12, 12]
    assert set(found.split) <= {"train", "validation", "test"}
    assert found.task["data"]["path"] == str(clips)


def test_unusable_files_are_skipped_with_a_reason(clips: Path, run: Callable[..., Features]) -> None:
    (clips / "low" / "notes.txt").write_text("not audio")
    for label in ("low", "high"):
        (clips / label / "empty.wav").write_bytes(b"")
    soundfile.write(clips / "low" / "no-frames.wav", np.zeros(0), RATE)
    soundfile.write(clips / "low" / "silent.wav", np.zeros(RATE), RATE)
    (clips / "low" / "cut.wav").write_bytes((clips / "low" / "00.wav").read_bytes()[:20])
    (clips / "low" / "gone.wav").symlink_to("nowhere")
    tone(clips / "low" / "long.wav", 7, seconds=121)
    found = run(clips)
    reasons = {file: reason for file, reason, *_ in found.skipped}
    assert len(found.x) == 36
    assert set(reasons) == {"high/empty.wav"} | {f"low/{name}" for name in (
        "notes.txt", "empty.wav", "no-frames.wav", "silent.wav", "cut.wav", "gone.wav", "long.wav")}  # fmt: skip
    assert reasons["high/empty.wav"] == reasons["low/empty.wav"]
    assert "silent" in reasons["low/silent.wav"]
    assert "empty" in reasons["low/no-frames.wav"]
    assert "longer than the 120 seconds" in reasons["low/long.wav"]
    with pytest.raises(UserError) as caught:
        run(clips, strict=True)
    assert len(str(caught.value).splitlines()) == 8


def test_a_file_that_a_manifest_names_but_is_not_there_is_skipped(clips: Path, run: Callable[..., Features]) -> None:
    rows = [f"{p.relative_to(clips)},{p.parent.name}" for p in sorted(clips.rglob("*.wav"))]
    (clips / "list.csv").write_text("\n".join(["path,label", *rows, "absent.wav,low", "also-absent.wav,low"]))
    found = run(clips / "list.csv")
    assert len(found.x) == 36
    assert [(file, reason) for file, reason, *_ in found.skipped] == [
        ("absent.wav", "cannot be read: No such file or directory"),
        ("also-absent.wav", "cannot be read: No such file or directory"),
    ]


def test_a_second_run_decodes_nothing(
    clips: Path, run: Callable[..., Features], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "low" / "notes.txt").write_text("not audio")
    first = run(clips)
    assert "36 newly extracted, 1 skipped" in capsys.readouterr().out
    second = run(clips)
    assert "0 newly extracted, 1 skipped" in capsys.readouterr().out
    assert np.array_equal(first.x, second.x)
    tone(clips / "low" / "new.wav", 999)
    shutil.move(clips / "low" / "00.wav", clips / "low" / "renamed.wav")
    run(clips)
    assert "1 newly extracted" in capsys.readouterr().out
    run(clips, "features.n_mfcc=20")
    assert "37 newly extracted" in capsys.readouterr().out
    run(clips)
    capsys.readouterr()
    monkeypatch.setenv("PERCEPT_MAX_BYTES", "1000")  # a file that was usable under another limit is not usable now
    with pytest.raises(UserError, match="at most 1000 are allowed"):
        run(clips)


def test_a_file_that_needed_an_extra_is_read_once_that_is_installed(
    clips: Path, run: Callable[..., Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    label = next(path for path in clips.iterdir() if path.is_dir())
    (label / "phone.m4a").write_bytes(PHONE_SOUNDS["m4a"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        assert [file for file, *_ in run(clips).skipped] == [f"{label.name}/phone.m4a"]
    assert run(clips).skipped == ()


def test_a_sample_never_changes_its_split_when_data_is_added(clips: Path, run: Callable[..., Features]) -> None:
    before = dict(zip(*(getattr(run(clips), name).tolist() for name in ("digest", "split")), strict=True))
    for i in range(20):
        tone(clips / "new" / f"{i}.wav", 5000 + i)
    found = run(clips)
    after = dict(zip(found.digest.tolist(), found.split.tolist(), strict=True))
    assert len(after) == 56
    assert before.items() <= after.items()
    assert run(clips, "data.seed=1").split.tolist() != found.split.tolist()


def test_the_shares_of_the_splits() -> None:
    data = Data(source="notes")
    drawn = [extract.assign_split(None, {None}, str(i), data) for i in range(20_000)]
    assert drawn.count("train") / 20_000 == pytest.approx(0.7, abs=0.015)
    assert drawn.count("test") / 20_000 == pytest.approx(0.15, abs=0.015)
    carved = [extract.assign_split("train", {"train", "test"}, str(i), data) for i in range(20_000)]
    assert carved.count("validation") / 20_000 == pytest.approx(0.15 / 0.85, abs=0.015)
    assert "test" not in carved
    assert extract.assign_split("test", {"train", "test"}, "x", data) == "test"


def test_identical_content_never_stands_in_two_splits(clips: Path, run: Callable[..., Features]) -> None:
    named = clips.parent / "named"
    for split, files in (("train", range(9)), ("validation", (9, 10)), ("test", (11,))):
        for label in ("high", "low"):
            for i in files:
                target = named / split / label / f"{i:02d}.wav"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(clips / label / f"{i:02d}.wav", target)
    shutil.copy(named / "test/high/11.wav", named / "train/high/copy.wav")
    shutil.copy(named / "train/low/00.wav", named / "train/high/other-label.wav")
    found = run(named)
    reasons = {file: reason for file, reason, *_ in found.skipped}
    assert reasons == {
        "train/high/copy.wav": "identical to test/high/11.wav",
        "train/low/00.wav": "identical to train/high/other-label.wav, which is labelled 'high'",
    }
    assert len(set(found.digest)) == len(found.digest)
    assert np.count_nonzero(found.rows("test")) == 2


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ({"a": 12, "b": 2}, "class 'b' has 2 usable samples; at least 3 are needed to split"),
        ({"a": 12}, "only one class, 'a'; at least two are needed"),
    ],
)
def test_a_class_that_is_too_small_is_one_line(
    tmp_path: Path, run: Callable[..., Features], classes: dict[str, int], line: str
) -> None:
    for label, n in classes.items():
        for i in range(n):
            tone(tmp_path / "small" / label / f"{i}.wav", len(label) + 31 * i + ord(label))
    with pytest.raises(UserError, match=line):
        run(tmp_path / "small")


def test_a_class_that_is_too_small_for_its_unusable_files_says_so(clips: Path, run: Callable[..., Features]) -> None:
    few = sorted(clips.glob("mid/*.wav"))[2:]
    for path in few:
        path.write_bytes(b"no sound")
    rows = []
    for i, path in enumerate(sorted(clips.rglob("*.wav"))):
        split = "train" if path in few else ("train", "test", "validation")[i % 3]
        rows.append(f"{path.relative_to(clips)},{path.parent.name},{split}")
    (clips / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    line = r"class 'mid' has 2 usable samples \(and \d+ that cannot be used, the first: mid/.*\); at least 3 are needed"
    with pytest.raises(UserError, match=line):
        run(clips / "list.csv")


def test_a_label_that_only_the_test_split_has_is_one_line(clips: Path, run: Callable[..., Features]) -> None:
    rows = [f"{p.relative_to(clips)},{p.parent.name},{'test' if p.parent.name == 'mid' else 'train'}"
            for p in sorted(clips.rglob("*.wav"))]  # fmt: skip
    (clips / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(UserError, match="class 'mid' has no training sample"):
        run(clips / "list.csv")


def test_features_of_a_clip_do_not_depend_on_the_other_clips(clips: Path, run: Callable[..., Features]) -> None:
    whole = run(clips)
    shutil.rmtree(clips.parent / "run")
    for file in sorted((clips / "low").iterdir())[:5]:
        file.unlink()
    part = run(clips)
    rows = dict(zip(whole.digest, whole.x, strict=True))
    assert all(np.array_equal(rows[digest], x) for digest, x in zip(part.digest, part.x, strict=True))


@pytest.mark.parametrize(
    "features",
    [{"kind": "mfcc", "preemphasis": 0.97}, {"kind": "mfcc", "n_mels": 20, "n_mfcc": 13}, {"kind": "pixels"}],
)
def test_features_are_those_of_the_front_end_bit_for_bit_in_several_threads(features: dict[str, Any]) -> None:
    module, rng = frontend.build(features), np.random.default_rng(0)
    media: list[NDArray[Any]] = [rng.integers(256, size=(28, 28), dtype=np.uint8) for _ in range(20)]
    if features["kind"] == "mfcc":
        seconds = [1 / RATE, 0.01, 0.09, 0.3, 1, 1, 1, 1, 2.7, 8]
        media = [rng.standard_normal(round(s * RATE), np.float32) / 10 for s in seconds]
        media += [np.zeros(RATE, np.float32), np.concatenate([media[-1], np.zeros(3 * RATE, np.float32)])]
    with torch.inference_mode(), threads.threads(1):
        expected = [module(torch.from_numpy(m).unsqueeze(0))[0].numpy() for m in media]
    row = extract.row_of(module)
    for _ in range(20):  # a traced graph is rewritten in its first calls, and a new thread has settings of its own
        with threads.pool(3) as pool:
            assert all(map(np.array_equal, expected, pool.map(row, media)))


def test_a_broken_features_file_is_one_line_and_extraction_replaces_it(
    clips: Path, run: Callable[..., Features], tmp_path: Path
) -> None:
    run(clips)
    path = tmp_path / "run" / "features.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="run `percept extract` again"):
        Features.load(path)
    assert len(run(clips).x) == 36


def test_labels_have_one_order_even_if_they_are_equal_as_numbers() -> None:
    """Sorted by value alone, their order would be that of a set of strings, which differs between processes."""
    labels = ["10", "9", *("0" * zeros + "7" for zeros in (4, 0, 2, 5, 1, 3)), "0" * 5_000]
    y, ordered = targets_and_labels(labels)
    assert ordered == ("0" * 5_000, "000007", "00007", "0007", "007", "07", "7", "9", "10")
    assert [ordered[k] for k in y] == labels


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    digits = task.load("digits", "scans")
    for sample in sources.load(digits.data, digits.features)[:60]:
        folder = tmp_path / "pictures" / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(255 - sample.media.load()).resize((90, 90)).convert("RGB")
        picture.save(folder / f"{sample.file.split('/')[1]}.jpg")
    found = extract.extract(task.load("digits", str(tmp_path / "pictures")), Run(tmp_path / "run"))
    assert found.x.shape == (60, 784)
    assert found.labels == tuple("0123456789")
    assert found.x[:].max() == 1
