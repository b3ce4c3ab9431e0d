"""Front ends: modules from decoded media to feature vectors, used in training and exported for serving.

Raise `FEATURES_VERSION` in `__init__.py` when the features of the same media change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.card import Input
from models.familiarity import Outliers
from models.feature_groups import Span
from models.image import Picture
from models.interface import FrontEnd as FrontEnd  # re-exported
from models.mfcc import Mfcc
from models.table import Table

IMAGE_SIZE = 28  # pixels


class Pixels(nn.Module, FrontEnd):
    """Grey levels 0 … 255 → 0 … 1, one feature for each pixel."""

    input = Input(kind="image", name="image", dtype="uint8", shape=(None, IMAGE_SIZE, IMAGE_SIZE))
    n_features = IMAGE_SIZE * IMAGE_SIZE
    one_unit = True
    scale = 255.0
    outliers: Outliers | None = "images"

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, 28, 28) → float32 (N, 784).

        >>> Pixels()(torch.full((1, 28, 28), 51, dtype=torch.uint8))[0, :3]
        tensor([0.2000, 0.2000, 0.2000])
        """
        return image.flatten(1).to(torch.float32) / 255

    def example(self) -> Tensor:
        return torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """`weights` (H, 28, 28), each unit's weights as an image."""
        return {"weights": weights.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).numpy()}

    def groups(self) -> list[Span]:
        """Bands of four rows."""
        band = 4 * IMAGE_SIZE
        return [(f"rows {i}–{i + 3}", i * IMAGE_SIZE, i * IMAGE_SIZE + band) for i in range(0, IMAGE_SIZE, 4)]


class Vector(nn.Module, FrontEnd):
    """Numbers, passed on unchanged."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input = Input(kind="vector", name="vector", dtype="float32", shape=(None, size))
        self.n_features = size

    def forward(self, vector: Tensor) -> Tensor:
        """float32 (N, size) → float32 (N, size)."""
        return vector

    def example(self) -> Tensor:
        return torch.zeros(2, self.n_features)


def build(features: Mapping[str, Any], state: Mapping[str, NDArray[np.float32]] | None = None) -> FrontEnd:
    """The front end that a task's `[features]` describes: `kind` and the parameters of that kind.

    state : what it has learned from training samples, by name, as `state_of` gives it: the dictionary and the share of
        a `Picture`

    >>> build({"kind": "vector", "size": 3}).n_features
    3
    """
    parameters = {key: value for key, value in features.items() if key != "kind"}
    front: FrontEnd
    match features["kind"]:
        case "pixels":
            front = Pixels(**parameters)
        case "image":
            front = Picture(**parameters)
        case "mfcc":
            front = Mfcc(**parameters)
        case "table":
            front = Table(**parameters)
        case _:
            front = Vector(**parameters)
    if state:
        assert isinstance(front, nn.Module)
        front.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return front


def state_of(front: FrontEnd) -> dict[str, NDArray[np.float32]]:
    """What a front end has learned, as `build` takes it; empty for most."""
    assert isinstance(front, nn.Module)
    return {name: tensor.cpu().numpy() for name, tensor in front.state_dict().items()}
