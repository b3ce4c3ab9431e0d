"""MNIST (LeCun, Cortes & Burges) through torchvision, which downloads it and checks its MD5 sums."""

from pathlib import Path

from pipeline.sources.sample import Decoded, Sample, Split
from pipeline.task import UserError

HOME = Path.home() / ".cache" / "percept"


def load(path: str | None) -> list[Sample]:
    """60,000 training and 10,000 test digits, uint8 (28, 28).

    Parameters
    ----------
    path : folder that holds `MNIST/raw`; None downloads into ~/.cache/percept

    Raises
    ------
    UserError : no complete MNIST at `path`, or it cannot be downloaded
    """
    from torchvision.datasets import MNIST

    samples = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        try:
            data = MNIST(path or HOME, train=split == "train", download=path is None)
        except (RuntimeError, OSError) as error:
            if path is None:
                raise UserError(f"mnist: the download failed ({_first_line(error)}); give mnist:DIR") from None
            raise UserError(f"mnist:{path}: {_first_line(error)} (looked for {path}/MNIST/raw)") from None
        for i, (image, label) in enumerate(zip(data.data.numpy(), data.targets.tolist(), strict=True)):
            samples.append(Sample(f"mnist/{split}/{i:05d}", str(label), split, Decoded(image)))
    return samples


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(".")[0]
