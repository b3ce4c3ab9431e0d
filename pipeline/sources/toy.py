"""Small problems made of numbers: two classes in the unit square, and a noisy sine."""

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Decoded, Label, Sample, Split

VERSION = 1  # raise it when the samples of the same seed change

SIZES: dict[Split, int] = {"train": 400, "validation": 200, "test": 1000}  # points of `regions`
BOUNDARY_NOISE = 0.03  # standard deviation of the boundary between the regions, in sides of the square
SINE_POINTS = 100  # noisy samples to train on, and as many to validate on
SINE_NOISE = 0.1  # standard deviation of their noise
SINE_GRID = 201  # noiseless test samples: the curve itself, evenly spaced


def regions(seed: int) -> list[Sample]:
    """Two classes in the unit square that no line separates; binary, inputs (x1, x2).

    The class "inside" is a disc around the centre, and "outside" is the rest; the boundary is blurred, so that no
    classifier can be expected to be right more often than about 95 %.
    """
    samples = []
    for split, rng in zip(SIZES, np.random.default_rng(seed).spawn(3), strict=True):
        points = rng.uniform(size=(SIZES[split], 2)).astype(np.float32)
        radius = np.hypot(*(points - 0.5).T) + BOUNDARY_NOISE * rng.standard_normal(len(points))
        for i, (point, r) in enumerate(zip(points, radius, strict=True)):
            samples.append(_sample("regions", split, i, point, "inside" if r < 0.38 else "outside"))
    return samples


def sine(seed: int) -> list[Sample]:
    """y = sin(2πx) + N(0, 0.1²) over [0, 1]; the test samples are on the noiseless curve.

    Example
    -------
    >>> [x.split for x in sine(0)].count("test")
    201
    """
    samples = []
    for split, rng in zip(SPLITS, np.random.default_rng(seed).spawn(3), strict=True):
        x = np.linspace(0, 1, SINE_GRID) if split == "test" else rng.uniform(size=SINE_POINTS)
        noise = 0.0 if split == "test" else SINE_NOISE
        y = np.sin(2 * np.pi * x) + noise * rng.standard_normal(x.size)
        for i in range(x.size):
            samples.append(_sample("sine", split, i, x[i : i + 1].astype(np.float32), (float(y[i]),)))
    return samples


def _sample(source: str, split: Split, i: int, x: NDArray[np.float32], target: Label) -> Sample:
    return Sample(f"{source}/{split}/{i:04d}", target, split, Decoded(x))


def _load_regions(data: Data, sample_rate: int | None) -> list[Sample]:
    return regions(data.seed)


def _load_sine(data: Data, sample_rate: int | None) -> list[Sample]:
    return sine(data.seed)


def _fingerprint(data: Data) -> list[int]:
    return [VERSION, data.seed]


SOURCES = (
    Source(
        "regions", "name", ("vector",), "points of two regions", _load_regions, _fingerprint, synthetic="measurements"
    ),
    Source("sine", "name", ("vector",), "a noisy sine", _load_sine, _fingerprint, True, "measurements"),
)
