"""Data sets of torchvision by name, from small copies in the published formats."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pipeline import sources, task
from pipeline.task import UserError
from tests.pipeline.sources.folders import samples
from tests.pipeline.sources.test_sources import idx

RNG = np.random.default_rng(0)


def write_cifar(folder: Path, n: int = 3) -> np.ndarray:
    """Each batch with the same pictures (n, 32, 32, 3)."""
    pictures = RNG.integers(0, 256, (n, 32, 32, 3), np.uint8)
    rows = pictures.transpose(0, 3, 1, 2).reshape(n, -1)
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [3, 0, 9][:n]}, protocol=2))
    return pictures


def test_cifar_is_read_from_a_local_copy(tmp_path: Path) -> None:
    pictures = write_cifar(tmp_path / "cifar-10-batches-py")
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        found = samples("pictures", f"cifar10:{folder}")
        assert [(s.label, s.split) for s in found[:3]] == [("cat", "train"), ("airplane", "train"), ("truck", "train")]
        assert [s.split for s in found].count("test") == 3
        np.testing.assert_array_equal(found[1].media.load(), pictures[1])
    assert samples("pictures", f"cifar10:{tmp_path}", "features.size=24")[0].media.load().shape == (24, 24, 3)
    with pytest.raises(UserError, match="does not give what features"):
        samples("digits", f"cifar10:{tmp_path}")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path.joinpath("ran").write_text, ("",))

    write_cifar(tmp_path / "here")
    (tmp_path / "here" / "data_batch_3").write_bytes(pickle.dumps({"data": Harmful(), "labels": []}))
    with pytest.raises(UserError, match=r"data_batch_3: not a file of cifar10"):
        samples("pictures", f"cifar10:{tmp_path / 'here'}")
    assert not (tmp_path / "ran").exists()


def test_svhn_is_read_from_a_local_copy(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    for part in ("train", "test"):
        labels = np.uint8([[1], [10], [9], [10]])
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pictures.transpose(1, 2, 3, 0), "y": labels})
    found = samples("pictures", f"svhn:{tmp_path}")
    assert [s.label for s in found] == ["1", "0", "9", "0"] * 2
    np.testing.assert_array_equal(found[2].media.load(), pictures[2])
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB")
    with pytest.raises(UserError, match=r"test_32x32.mat: not a file of svhn"):
        samples("pictures", f"svhn:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "folder", "parts", "label"),
    [
        ("fashion-mnist", "FashionMNIST", ("train", "t10k"), "Trouser"),
        ("kmnist", "KMNIST", ("train", "t10k"), "ki"),
        ("emnist", "EMNIST", ("emnist-balanced-train", "emnist-balanced-test"), "1"),
    ],
)
def test_successors_of_mnist_are_read_from_local_copies(
    tmp_path: Path, name: str, folder: str, parts: tuple[str, str], label: str
) -> None:
    images = RNG.integers(0, 256, (2, 28, 28), np.uint8)
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for part in parts:
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(2, 28, 28, values=images.tobytes()))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(2, values=bytes((1, 0))))
    found = samples("digits", f"{name}:{tmp_path}")
    assert [(s.label, s.split) for s in found[::2]] == [(label, "train"), (label, "test")]
    upright = images.swapaxes(1, 2) if name == "emnist" else images
    np.testing.assert_array_equal([s.media.load() for s in found[:2]], upright)
    assert samples("pictures", f"{name}:{tmp_path}")[0].media.load().shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "fashion-mnist"])
def test_a_data_set_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}:.*Dataset not found") as caught:
        samples("pictures", f"{name}:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert sources.fingerprint(task.load("pictures", f"{name}:{tmp_path}").data) is None
