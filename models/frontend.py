"""Front ends: decoded media → feature vector, as modules that are used for training and exported for serving."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.card import Input
from models.mfcc import Mfcc, Span

VERSION = 1  # raise it when features of the same media change: caches are keyed by it
IMAGE_SIZE = 28  # pixels
GROUPS = 32  # of a vector's features, at most


class Pixels(nn.Module):
    """Grey levels 0 … 255 → 0 … 1, one feature for each pixel."""

    input = Input(kind="image", name="image", dtype="uint8", shape=(None, IMAGE_SIZE, IMAGE_SIZE))
    n_features = IMAGE_SIZE * IMAGE_SIZE
    one_unit = True  # all features are grey levels: one mean and one deviation serve them all
    weights: Tensor | None = None  # (n_features,), how much each counts after standardisation; None: all alike

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, 28, 28) → float32 (N, 784)."""
        return image.flatten(1).to(torch.float32) / 255

    def groups(self) -> list[Span]:
        """Bands of four rows."""
        band = 4 * IMAGE_SIZE
        return [(f"rows {i}–{i + 3}", i * IMAGE_SIZE, i * IMAGE_SIZE + band) for i in range(0, IMAGE_SIZE, 4)]


class Vector(nn.Module):
    """Numbers as they are."""

    one_unit = False
    weights: Tensor | None = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input = Input(kind="vector", name="vector", dtype="float32", shape=(None, size))
        self.n_features = size

    def forward(self, vector: Tensor) -> Tensor:
        """float32 (N, size) → float32 (N, size)."""
        return vector

    def groups(self) -> list[Span]:
        """Each feature, or GROUPS runs of neighbours where there are more."""
        edges = [round(i * self.n_features / GROUPS) for i in range(GROUPS + 1)]
        if self.n_features <= GROUPS:
            edges = list(range(self.n_features + 1))
        return [(f"{a}" if b == a + 1 else f"{a}–{b - 1}", a, b) for a, b in itertools.pairwise(edges)]


FrontEnd = Pixels | Mfcc | Vector


def build(features: Mapping[str, Any]) -> FrontEnd:
    """The front end that a task's `[features]` describes: `kind` and the parameters of that kind."""
    parameters = {key: value for key, value in features.items() if key != "kind"}
    match features["kind"]:
        case "pixels":
            return Pixels(**parameters)
        case "mfcc":
            return Mfcc(**parameters)
        case _:
            return Vector(**parameters)
