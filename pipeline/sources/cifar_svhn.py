"""CIFAR-10 (Krizhevsky 2009) and SVHN (Netzer et al. 2011): pictures in colour, 32 × 32, as published; torchvision
downloads them."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources.files import download_folder, expanded, stat
from pipeline.sources.mnist import download
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Decoded, Sample, Split

SIDE = 32  # pixels
CIFAR = "cifar-10-batches-py"  # folder of the Python version
BATCHES: dict[str, Split] = {**dict.fromkeys((f"data_batch_{i}" for i in range(1, 6)), "train"), "test_batch": "test"}
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOUSES: dict[str, Split] = {"train_32x32.mat": "train", "test_32x32.mat": "test"}
# What the pickled files may name; any other function or class in them is refused, since calling it may do anything.
HARMLESS = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode"),
}  # fmt: skip

Part = tuple[Split, NDArray[np.uint8], list[str]]  # split, pictures (N, 32, 32, 3), labels


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _cifar(file: Path, split: Split) -> Part:
    batch = _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    pictures = np.asarray(batch["data"], np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return split, np.ascontiguousarray(pictures), [THINGS[number] for number in batch["labels"]]


def _svhn(file: Path, split: Split) -> Part:
    from scipy.io import loadmat

    content = loadmat(file)
    pictures = np.asarray(content["X"], np.uint8).transpose(3, 0, 1, 2)
    if pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"pictures of {pictures.shape[1:]}")
    return split, np.ascontiguousarray(pictures), [str(int(number) % 10) for number in content["y"].ravel()]


def _load_cifar(data: Data, sample_rate: int | None) -> list[Sample]:
    if data.path is None and not _found(data, BATCHES, CIFAR):
        download("cifar10", "CIFAR10")
    return _samples(data, BATCHES, CIFAR, _cifar)


def _load_svhn(data: Data, sample_rate: int | None) -> list[Sample]:
    if data.path is None and not _found(data, HOUSES, ""):
        for split in ("train", "test"):
            download("svhn", "SVHN", split=split)
    return _samples(data, HOUSES, "", _svhn)


def _root(data: Data) -> Path:
    return download_folder(data.source) if data.path is None else expanded(data.path)


def _found(data: Data, files: dict[str, Split], folder: str) -> list[Path]:
    """The files of the data set, in that folder below the given path or in that path itself; none if one is missing."""
    root = _root(data)
    places = [[place / name for name in files] for place in (root / folder, root)]
    return next((paths for paths in places if all(path.is_file() for path in paths)), [])


def _samples(data: Data, files: dict[str, Split], folder: str, read: Any) -> list[Sample]:
    paths = _found(data, files, folder)
    if not paths:
        raise UserError(f"{data.source}:{_root(data)}: Dataset not found; expected {', '.join(files)}")
    samples = []
    for path in paths:
        try:
            split, pictures, labels = read(path, files[path.name])
            pairs = list(zip(pictures, labels, strict=True))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception as error:  # damaged files make the readers of both formats raise nearly anything
            raise UserError(f"{path}: not a file of {data.source} ({' '.join(str(error).split())[:80]})") from None
        name = f"{data.source}/{path.name.split('.')[0]}"
        samples += [
            Sample(f"{name}/{i:05d}", label, split, Decoded(picture)) for i, (picture, label) in enumerate(pairs)
        ]
    return samples


def _fingerprint_cifar(data: Data) -> Any:
    return [stat(path) for path in _found(data, BATCHES, CIFAR)] or None


def _fingerprint_svhn(data: Data) -> Any:
    return [stat(path) for path in _found(data, HOUSES, "")] or None


SOURCES = (
    Source("cifar10", "copy", ("image",), "CIFAR-10, 60,000 small photos", _load_cifar, _fingerprint_cifar),
    Source("svhn", "copy", ("image",), "SVHN, 99,289 house numbers", _load_svhn, _fingerprint_svhn),
)
