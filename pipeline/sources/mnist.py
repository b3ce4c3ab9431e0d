"""MNIST (LeCun, Cortes & Burges) and its successors in the same four IDX files, as published or unpacked; torchvision
downloads them."""

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources import pens
from pipeline.sources.files import download_folder, expanded, stat, writable
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Decoded, Sample, Split

UNSIGNED_BYTE = 8  # code of an IDX file's type


@dataclass(frozen=True)
class IdxSet:
    """A data set of pictures uint8 (28, 28) in IDX files.

    name : of the source
    loader : torchvision's class, which names the folder too
    labels : of the classes, by number
    parts : of a file's name, for each split
    options : of torchvision's class
    transposed : rows are the columns of the pictures
    auxiliary : see `Source`
    """

    name: str
    loader: str
    labels: Sequence[str]
    parts: tuple[tuple[Split, str], ...] = (("train", "train"), ("test", "t10k"))
    options: tuple[tuple[str, str], ...] = ()
    transposed: bool = False
    auxiliary: Callable[[int, int], tuple[NDArray[np.uint8], list[str]]] | None = None

    def load(self, data: Data, sample_rate: int | None = None) -> list[Sample]:
        """The training and the test pictures, uint8 (28, 28).

        Parameters
        ----------
        data.path : folder that holds `MNIST/raw`, or that folder itself; the files may be .gz. None downloads into
            ~/.cache/percept

        Raises
        ------
        UserError : no complete data set at `path`, or it cannot be downloaded
        """
        folder = self._folder(data)
        if data.path is None and not all(_file(folder, name) for name in self._names()):
            download(self.name, self.loader, **dict(self.options))
        samples = []
        for split, part in self.parts:
            pictures, numbers = (self._read(data, folder, name) for name in _files_of(part))
            if (
                pictures.shape[1:] != (28, 28)
                or len(pictures) != len(numbers)
                or numbers.max(initial=0) >= len(self.labels)
            ):
                raise UserError(
                    f"{folder}: {len(numbers):,} labels for images {pictures.shape}; expected (N, 28, 28) of "
                    f"{len(self.labels)} classes"
                )
            if self.transposed:
                pictures = pictures.swapaxes(1, 2).copy()
            for i, (picture, number) in enumerate(zip(pictures, numbers.tolist(), strict=True)):
                samples.append(Sample(f"{self.name}/{split}/{i:05d}", self.labels[number], split, Decoded(picture)))
        return samples

    def fingerprint(self, data: Data) -> Any:
        folder = self._folder(data)
        return [stat(file) for name in self._names() if (file := _file(folder, name))] or None

    def source(self, help_: str) -> Source:
        return Source(
            self.name, "copy", ("pixels", "image"), help_, self.load, self.fingerprint, auxiliary=self.auxiliary
        )

    def _folder(self, data: Data) -> Path:
        """The folder with the files: MNIST/raw below the path that was given, or a folder on the way there."""
        root = download_folder(data.source) if data.path is None else expanded(data.path)
        places = [root / self.loader / "raw", root / "raw", root]
        return next((place for place in places if any(_file(place, name) for name in self._names())), places[0])

    def _names(self) -> list[str]:
        return [name for _, part in self.parts for name in _files_of(part)]

    def _read(self, data: Data, folder: Path, name: str) -> NDArray[np.uint8]:
        """The array in one of the IDX files."""
        file = _file(folder, name)
        if file is None:
            where = f"{self.name}:{data.path or folder}"
            raise UserError(f"{where}: Dataset not found; {folder / name} is missing, and .gz of it")
        try:
            content = file.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        n_axes = 3 if "images" in name else 1
        start = 4 + 4 * n_axes
        shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
        if content[:4] != bytes((0, 0, UNSIGNED_BYTE, n_axes)) or len(content) != start + math.prod(shape):
            raise UserError(f"{file}: not the IDX file of {self.loader}, or not complete")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _files_of(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _file(folder: Path, name: str) -> Path | None:
    """The file, unpacked or not; some copies have a dot in its name."""
    names = (name, name.replace("-idx", ".idx"))
    files = [folder / f"{spelled}{suffix}" for suffix in ("", ".gz") for spelled in names]
    return next((file for file in files if file.is_file()), None)


def download(source: str, loader: str, **options: str) -> None:
    """Download a data set with torchvision's class into ~/.cache/percept.

    Raises
    ------
    UserError : it cannot be downloaded, or not be kept there
    """
    folder = writable(download_folder(source), source)
    from torchvision import datasets

    try:
        getattr(datasets, loader)(folder, download=True, **options)  # checks MD5 sums
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].split(".")[0]
        raise UserError(f"{source}: the download failed ({reason}); give {source}:DIR") from None


CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
BALANCED = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"  # EMNIST's labels where letters that look alike are merged

MNIST = IdxSet("mnist", "MNIST", "0123456789", auxiliary=pens.printed)
FASHION = IdxSet("fashion-mnist", "FashionMNIST", CLOTHES)
KUZUSHIJI = IdxSet("kmnist", "KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))
EXTENDED = IdxSet(
    "emnist", "EMNIST", BALANCED, (("train", "emnist-balanced-train"), ("test", "emnist-balanced-test")),
    options=(("split", "balanced"),), transposed=True,
)  # fmt: skip

SOURCES = (
    MNIST.source("MNIST, 70,000 scanned digits"),
    FASHION.source("Fashion-MNIST, 70,000 pieces of clothing"),
    KUZUSHIJI.source("Kuzushiji-MNIST, 70,000 characters of cursive Japanese"),
    EXTENDED.source("EMNIST Balanced, 131,600 letters and digits"),
)
