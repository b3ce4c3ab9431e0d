"""MNIST (LeCun, Cortes & Burges): the four IDX files, as published or unpacked; torchvision downloads them."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources.files import download_folder, expanded, stat, writable
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Decoded, Sample, Split

PARTS: dict[Split, str] = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
UNSIGNED_BYTE = 8  # code of an IDX file's type


def load(data: Data, sample_rate: int | None = None) -> list[Sample]:
    """60,000 training and 10,000 test digits, uint8 (28, 28).

    Parameters
    ----------
    data.path : folder that holds `MNIST/raw`, or that folder itself; the files may be .gz. None downloads into
        ~/.cache/percept

    Raises
    ------
    UserError : no complete MNIST at `path`, or it cannot be downloaded
    """
    folder = _folder(data)
    if data.path is None and not all(_file(folder, name) for name in _names()):
        _download()
    samples = []
    for split, part in PARTS.items():
        images, labels = _read(data, folder, IMAGES.format(part), 3), _read(data, folder, LABELS.format(part), 1)
        if images.shape[1:] != (28, 28) or len(images) != len(labels):
            raise UserError(f"{folder}: {len(labels):,} labels for images {images.shape}; expected (N, 28, 28)")
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            samples.append(Sample(f"mnist/{split}/{i:05d}", str(label), split, Decoded(image)))
    return samples


def _folder(data: Data) -> Path:
    """The folder with the files: MNIST/raw below the path that was given, or a folder on the way there."""
    root = download_folder(data.source) if data.path is None else expanded(data.path)
    places = [root / "MNIST" / "raw", root / "raw", root]
    return next((place for place in places if any(_file(place, name) for name in _names())), places[0])


def _names() -> list[str]:
    return [name.format(part) for part in PARTS.values() for name in (IMAGES, LABELS)]


def _file(folder: Path, name: str) -> Path | None:
    """The file, unpacked or not; some copies have a dot in its name."""
    names = (name, name.replace("-idx", ".idx"))
    files = [folder / f"{spelled}{suffix}" for suffix in ("", ".gz") for spelled in names]
    return next((file for file in files if file.is_file()), None)


def _read(data: Data, folder: Path, name: str, n_axes: int) -> NDArray[np.uint8]:
    """The array in one of the IDX files."""
    file = _file(folder, name)
    if file is None:
        raise UserError(f"mnist:{data.path or folder}: Dataset not found; {folder / name} is missing, and .gz of it")
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    start = 4 + 4 * n_axes
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if content[:4] != bytes((0, 0, UNSIGNED_BYTE, n_axes)) or len(content) != start + math.prod(shape):
        raise UserError(f"{file}: not the IDX file of MNIST, or not complete")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _download() -> None:
    folder = writable(download_folder("mnist"), "mnist")
    from torchvision.datasets import MNIST

    try:
        MNIST(folder, download=True)  # checks MD5 sums
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].split(".")[0]
        raise UserError(f"mnist: the download failed ({reason}); give mnist:DIR") from None


def _fingerprint(data: Data) -> Any:
    folder = _folder(data)
    return [stat(file) for name in _names() if (file := _file(folder, name))] or None


SOURCES = (Source("mnist", "copy", ("pixels", "image"), "MNIST, 70,000 scanned digits", load, _fingerprint),)
