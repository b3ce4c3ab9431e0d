"""Arrays in NumPy's files: the form in which a course hands out its features, and one line for each mistake."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import extract, sources, task
from pipeline.run import Run
from pipeline.sources import Sample
from pipeline.task import UserError
from tests.pipeline.sources.folders import samples

WIDTH = 120


def write(folder: Path, prefix: str = "uiowa_", **arrays: Any) -> Path:
    """The four arrays of a course's lab, or others in their places, as `train_data` and so on; None: no such file."""
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "train_data": rng.normal(size=(60, WIDTH)),
        "train_labels": np.arange(60) % 11,
        "test_data": rng.normal(size=(11, WIDTH)).astype(np.float32),
        "test_labels": np.arange(11),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (given | arrays).items():
        if array is not None:
            np.save(folder / f"{prefix}{name}.npy", array, allow_pickle=True)
    return folder


def load(folder: Path, *overrides: str) -> list[Sample]:
    return samples("instruments-lab", f"npy:{folder}", *overrides)


@pytest.mark.parametrize("prefix", ["uiowa_", "", "my course_"])
def test_the_four_arrays_are_samples_in_their_splits(tmp_path: Path, prefix: str) -> None:
    found = load(write(tmp_path, prefix))
    assert [s.split for s in found] == ["train"] * 60 + ["test"] * 11
    assert [s.label for s in found[:12]] == [str(k % 11) for k in range(12)]
    row = np.load(tmp_path / f"{prefix}train_data.npy")[7]
    assert found[7].media.load().dtype == np.float32
    np.testing.assert_array_equal(found[7].media.load(), row.astype(np.float32))
    assert found[7].file == f"{prefix}train_data/000007"


@pytest.mark.parametrize(
    "change",
    [
        lambda data, labels: (np.asfortranarray(data), labels[:, None]),
        lambda data, labels: (data.astype(">f4"), labels.astype(float)),
        lambda data, labels: (data.astype(np.float16), labels.astype(np.uint8)),
        lambda data, labels: ((100 * data).astype(np.int16), labels - 5),
        lambda data, labels: (data, np.array([f"kind {k}" for k in labels])),
    ],
)
def test_any_type_of_numbers_is_read(tmp_path: Path, change: Callable[..., Any]) -> None:
    data, labels = change(np.random.default_rng(1).normal(size=(60, WIDTH)), np.arange(60) % 11)
    found = load(write(tmp_path, train_data=data, train_labels=labels, test_data=None, test_labels=None))
    assert [s.label for s in found] == [str(label) for label in labels.ravel().astype(labels.dtype)] or (
        [s.label for s in found] == [str(int(label)) for label in labels.ravel()]
    )
    np.testing.assert_array_equal(np.stack([s.media.load() for s in found]), data.astype(np.float32))


def test_a_file_of_names_names_the_classes(tmp_path: Path) -> None:
    names = [f"instrument {k}" for k in range(11)]
    (write(tmp_path) / "uiowa_names.txt").write_text("\n".join(names) + "\n")
    assert [s.label for s in load(tmp_path)[:11]] == names
    (tmp_path / "uiowa_names.txt").write_text("\n".join(names[:3]))
    with pytest.raises(UserError, match="labels 0 to 10, but 3 names"):
        load(tmp_path)
    (tmp_path / "uiowa_names.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="one name a line, each of them different"):
        load(tmp_path)


def holding(value: float) -> np.ndarray:
    rows = np.zeros((60, WIDTH))
    rows[17, 3] = value
    return rows


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"train_data": np.zeros(60)}, r"train_data.npy: shape \(60,\), expected \(N, D\)"),
        ({"train_data": np.zeros((60, 40, 3))}, r"shape \(60, 40, 3\), expected \(N, D\)"),
        ({"train_data": np.zeros((60, 0))}, r"uiowa_train_data.npy: "),
        ({"train_data": np.zeros((0, WIDTH)), "train_labels": np.zeros(0, int)}, "uiowa_train_data.npy: "),
        ({"train_data": holding(np.nan)}, r"1 of 60 rows hold a value.* the first is \[17, 3\] = nan"),
        ({"train_data": holding(-np.inf)}, r"\[17, 3\] = -inf"),
        ({"train_data": holding(1e300)}, r"no finite float32 number; the first is \[17, 3\] = 1e\+300"),
        ({"train_data": np.zeros((60, WIDTH), complex)}, "complex128 values, expected numbers"),
        ({"train_data": np.full((60, WIDTH), "1.5")}, "<U3 values, expected numbers"),
        ({"train_data": np.full((60, WIDTH), None)}, "not an array of numbers in NumPy's format: .*Python objects"),
        ({"train_labels": np.full(60, None)}, "train_labels.npy: not an array of numbers in NumPy's format"),
        ({"train_labels": np.arange(59)}, "train_labels.npy: 59 labels for the 60 rows of uiowa_train_data.npy"),
        ({"train_labels": np.eye(60)}, r"train_labels.npy: shape \(60, 60\), expected \(N,\)"),
        ({"train_labels": np.arange(60) / 7}, "float64 values, expected whole numbers"),
        ({"train_labels": np.full(60, np.inf)}, "float64 values, expected whole numbers"),
        ({"train_labels": np.array(3)}, r"shape \(\), expected \(N,\)"),
        ({"train_labels": np.array([" "] * 60)}, "expected whole numbers or names"),
        ({"train_labels": None}, "uiowa_train_labels.npy: no such file"),
        ({"test_data": None}, "uiowa_test_data.npy: no such file"),
        ({"test_data": np.zeros((11, 40))}, "uiowa_test_data.npy: 40 features a row, and 120 in the training data"),
        ({"train_data": None}, "no train_data.npy, nor any file …_train_data.npy"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path: Path, arrays: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        load(write(tmp_path, **arrays))
    assert len(str(caught.value).splitlines()) == 1


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1,2,3\n", pickle.dumps(Explosive()), b"PK\x03\x04 an archive", b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x01\x00\x56\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 120), }".ljust(96),
    ],
)  # fmt: skip
def test_what_is_no_array_is_one_line_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("uiowa_train_data.npy", "uiowa_train_labels.npy"):
        before = (write(tmp_path) / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not an array of numbers in NumPy's format: .") as caught:
            load(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        (tmp_path / name).write_bytes(before)
    assert not Path("exploded").exists()


def test_a_truncated_array_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path) / "uiowa_train_data.npy"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not an array of numbers"):
        load(tmp_path)


def test_several_sets_and_no_folder_are_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "mine_")
    with pytest.raises(UserError, match=r"mine_train_data.npy, uiowa_train_data.npy: several sets"):
        load(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="'npy' needs a path"):
        task.load("instruments-lab", overrides=["data={source='npy'}"])
    with pytest.raises(UserError, match=r"--data npy: .*, npy:DIR"):
        task.load("instruments-lab", "npy")


def test_another_number_of_features_and_another_kind_are_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"^npy: 120 numbers a sample, and features.size is 40; set it to 120$"):
        load(tmp_path, "features.size=40")
    with pytest.raises(UserError, match=r"does not give what features.kind = 'mfcc' takes, but 'vector'"):
        samples("instruments", f"npy:{tmp_path}")
    with pytest.raises(UserError, match=r"^regions: 2 numbers a sample, and features.size is 3; set it to 2$"):
        samples("regions", "regions", "features.size=3")


def test_they_are_extracted_and_extracted_again_when_they_change(tmp_path: Path) -> None:
    resolved = task.load("instruments-lab", f"npy:{write(tmp_path / 'data')}")
    features = extract.extract(resolved, Run(tmp_path / "run"))
    assert features.labels == tuple(map(str, range(11)))
    assert features.rows("test").sum() == 11
    before = sources.fingerprint(resolved.data)
    write(tmp_path / "data", train_labels=np.arange(60) % 10)
    assert sources.fingerprint(resolved.data) != before
