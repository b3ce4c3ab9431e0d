"""MNIST (LeCun, Cortes & Burges) through torchvision, which downloads it and checks its MD5 sums."""

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.sources.files import stats
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Decoded, Sample, Split

HOME = Path.home() / ".cache" / "percept"


def load(data: Data, sample_rate: int | None = None) -> list[Sample]:
    """60,000 training and 10,000 test digits, uint8 (28, 28).

    Parameters
    ----------
    data.path : folder that holds `MNIST/raw`; None downloads into ~/.cache/percept

    Raises
    ------
    UserError : no complete MNIST at `path`, or it cannot be downloaded
    """
    from torchvision.datasets import MNIST

    path, samples = data.path, []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        try:
            part = MNIST(path or HOME, train=split == "train", download=path is None)
        except (RuntimeError, OSError) as error:
            if path is None:
                raise UserError(f"mnist: the download failed ({_first_line(error)}); give mnist:DIR") from None
            raise UserError(f"mnist:{path}: {_first_line(error)} (looked for {path}/MNIST/raw)") from None
        for i, (image, label) in enumerate(zip(part.data.numpy(), part.targets.tolist(), strict=True)):
            samples.append(Sample(f"mnist/{split}/{i:05d}", str(label), split, Decoded(image)))
    return samples


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(".")[0]


def _fingerprint(data: Data) -> Any:
    raw = Path(data.path or HOME, "MNIST", "raw")
    return stats(raw) if raw.is_dir() else None


SOURCES = (Source("mnist", "copy", ("pixels",), "MNIST, 70,000 scanned digits", load, _fingerprint),)
