"""Handwritten digits that need no download: scikit-learn's scans, alone or with digits by synthetic pens.

The scans are the test digits of Alpaydin & Kaynak (1998), 8 × 8 pixels of 0 … 16: fourteen people filled in the same
form, one after the other. On their own they say little about digits from elsewhere, since the writers are few and the
pixels coarse. The source `digits` adds copies of the training scans, as other hands would have written them, and
digits that synthetic pens draw. It names the splits: whole writers of the scans and whole shapes of the pens are held
out.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources import drawing, pens
from pipeline.sources.drawing import Array
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Decoded, Sample, Split
from service import media

VERSION = 2  # of the copies; raise it when they change
GRID = 8  # pixels, width and height of a scan
FIRST: dict[Split, int] = {"train": 0, "validation": 1287, "test": 1541}  # scan of a split: where a writer begins
COPIES = 6  # of each training scan
PENS: dict[Split, int] = {"train": 28_000, "validation": 1_500, "test": 1_500}  # digits by pens
VARIED = 0.7  # of the variation of pens: the scans vary by themselves
FAINT = 0.15  # of full ink: less is left out of the copies
# The shapes are few, so each picture is distorted anew in every epoch; a learning rate that falls then gains more.
TRAIN = {
    "learning_rate": 0.003, "schedule": "cosine",
    "augment": {"rotation": 10, "scale": 0.12, "shear": 0.15, "shift": 1},
}  # fmt: skip


def scans() -> list[Sample]:
    """The 1,797 scans in MNIST's form, 28 × 28 uint8; no split is named.

    Example
    -------
    >>> found = scans()
    >>> len(found), found[7].file, found[7].label
    (1797, 'scans/0007-7', '7')
    """
    return [
        Sample(f"scans/{i:04d}-{label}", label, None, Decoded(picture))
        for i, (picture, label) in enumerate(zip(_pictures(), _scanned()[1], strict=True))
    ]


@cache
def _pictures() -> list[NDArray[np.uint8]]:
    from service.media.image import to_mnist_form

    return [to_mnist_form(image) for image in _scanned()[0]]


@cache
def _scanned() -> tuple[NDArray[np.float64], list[str]]:
    """Images (1797, 8, 8), 0 … 16, and labels, from scikit-learn's file; scikit-learn takes a second to import."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, GRID, GRID), [f"{label:.0f}" for label in table[:, -1]]


def digits(seed: int) -> list[Sample]:
    """Scans, copies of the training scans, and digits by pens, 40,519 in all; pens and copies depend on the seed."""
    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(_copies, seed)
        drawn = {split: pens.digits(split, n, seed) for split, n in PENS.items()}
        samples = [Sample(s.file, s.label, _split(i), s.media) for i, s in enumerate(scans())] + copied.result()
    for split, of_split in drawn.items():
        samples += [
            Sample(f"pens/{split}/{i:04d}-{label}", label, split, Decoded(picture))
            for i, (picture, label) in enumerate(zip(*of_split, strict=True))
        ]
    return samples


def _split(scan: int) -> Split:
    return max((split for split in SPLITS if FIRST[split] <= scan), key=FIRST.__getitem__)


def _copies(seed: int) -> list[Sample]:
    images, labels = _scanned()
    images, labels = images[: FIRST["validation"]], labels[: FIRST["validation"]]
    pictures = rewritten(np.repeat(images / 16, COPIES, 0).astype(np.float32), np.random.default_rng([VERSION, seed]))
    return [
        Sample(f"scans/{i // COPIES:04d}-{label}/{i % COPIES}", label, "train", Decoded(picture))
        for i, (picture, label) in enumerate(zip(pictures, np.repeat(labels, COPIES).tolist(), strict=True))
    ]


def rewritten(images: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scans (n, 8, 8), 0 … 1, as other hands and pens would have written them: uint8 (n, 28, 28).

    Each pixel is a mark with its ink's weight; an edge of strokes is where the ink between the pixels, interpolated,
    falls below a level.
    """
    n = len(images)
    pixels = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).astype(np.float32) / GRID
    points = drawing.vary(np.broadcast_to(pixels.reshape(1, -1, 2), (n, GRID**2, 2)), VARIED, rng)
    moved = points.reshape(n, GRID, GRID, 2)
    along, down = np.gradient(moved, axis=2), np.gradient(moved, axis=1)
    area = np.abs(along[..., 0] * down[..., 1] - along[..., 1] * down[..., 0]).reshape(n, -1)  # of each pixel
    spot = (np.sqrt(area.mean(1)) * rng.uniform(0.45, 0.6, n)).astype(np.float32)
    ink = np.where(images > FAINT, images, 0).reshape(n, -1) * rng.uniform(0.65, 1.05, (n, 1)).astype(np.float32)
    weights = ink * area / (np.float32(np.sqrt(2 * np.pi)) * spot[:, None])
    edge = (0.5 + rng.random(n)).astype(np.float32)
    return drawing.draw(points, weights, np.float32(drawing.REACH) * spot, edge)


def _load_scans(data: Data, sample_rate: int | None) -> list[Sample]:
    return scans()


def _fingerprint_scans(data: Data) -> Any:
    return [media.VERSION]


def _load_digits(data: Data, sample_rate: int | None) -> list[Sample]:
    return digits(data.seed)


def _fingerprint_digits(data: Data) -> Any:
    return [media.VERSION, VERSION, pens.VERSION, data.seed]


SOURCES = (
    Source(
        "digits", "name", ("pixels", "image"), "1,797 scanned digits and 31,000 by synthetic pens", _load_digits,
        _fingerprint_digits, tested="scans by two people who wrote no training digit, and digits by synthetic pens in "
        "shapes that no training digit has", train=TRAIN,
    ),
    Source(
        "scans", "name", ("pixels", "image"), "the 1,797 scanned digits alone", _load_scans, _fingerprint_scans,
        tested="scans by the people who also wrote the training digits",
    ),
)  # fmt: skip
