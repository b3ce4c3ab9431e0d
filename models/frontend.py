"""Front ends: modules from decoded media to feature vectors, used in training and exported for serving.

Raise `FEATURES_VERSION` in `__init__.py` when the features of the same media change.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import feature_groups
from models.card import Input
from models.familiarity import Outliers
from models.feature_groups import Span
from models.image import Picture
from models.mfcc import Mfcc
from models.table import Table

IMAGE_SIZE = 28  # pixels


class FrontEnd(Protocol):
    """The interface of a front end, implemented by `Pixels`, `Vector`, `Picture` (image.py), `Mfcc` and `Table`.

    Each is an nn.Module from decoded media (N, …) to features float32 (N, n_features).

    Attributes
    ----------
    input : the module's input, as in the card
    n_features : D
    one_unit : all features share one unit, so that one mean and one deviation standardise them all
    weights : float32 (D,), how much each feature counts after standardisation; None: all alike
    least_deviation : what standardisation divides a feature by, at least, as a share of the root mean square of its
        group; 0: no least, since the features of a group differ in unit or size
    scale : features are the flattened media divided by this number. The exported graph then folds it and the
        standardisation into its first layer, and drift is detected on the media. None: features are computed otherwise;
        drift is detected on the standardised features, which the graph returns too
    outliers : which out-of-distribution inputs can be made for it (pipeline/train/outliers.py and noises.py), if any
    has_strengths : unusual strengths of its groups of features show that an input is out-of-distribution
    exact_export : the exported graph computes features with the operators used in training, so its answers differ only
        by rounding in the network
    oracle_constant : name of the module's constant whose matrix product in the exported graph must equal `oracle`;
        None: no oracle
    """

    input: Input
    n_features: int
    one_unit: bool
    least_deviation: float
    scale: float | None
    outliers: Outliers | None
    has_strengths: bool
    exact_export: bool
    oracle_constant: str | None

    @property
    def weights(self) -> Tensor | None: ...

    def __call__(self, media: Tensor, /) -> Tensor:
        """Decoded media as `input` describes them → features float32 (N, D)."""

    def groups(self) -> list[Span]:
        """Groups of neighbouring features; drift is detected group by group."""

    def example(self) -> Tensor:
        """Media of two samples, all zeros, to trace the export with."""

    def traced(self) -> Callable[[Tensor], Tensor]:
        """The module with no Python between its operators, for extraction in threads; bit for bit the same features."""

    def oracle(self, media: NDArray[Any]) -> NDArray[np.float32] | None:
        """Reference values from another library for the media of one sample; see `oracle_constant`."""

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Arrays by name, for figures of the first weights (H, D) of a network and of the media of samples."""


class Pixels(nn.Module):
    """Grey levels 0 … 255 → 0 … 1, one feature for each pixel."""

    input = Input(kind="image", name="image", dtype="uint8", shape=(None, IMAGE_SIZE, IMAGE_SIZE))
    n_features = IMAGE_SIZE * IMAGE_SIZE
    one_unit = True
    weights: Tensor | None = None
    least_deviation = 0.0
    scale: float | None = 255.0
    outliers: Outliers | None = "images"
    has_strengths = False
    exact_export = True
    oracle_constant: str | None = None

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, 28, 28) → float32 (N, 784).

        >>> Pixels()(torch.full((1, 28, 28), 51, dtype=torch.uint8))[0, :3]
        tensor([0.2000, 0.2000, 0.2000])
        """
        return image.flatten(1).to(torch.float32) / 255

    def example(self) -> Tensor:
        return torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)

    def traced(self) -> Callable[[Tensor], Tensor]:
        return self

    def oracle(self, media: NDArray[Any]) -> None:
        return None

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """`weights` (H, 28, 28), each unit's weights as an image."""
        return {"weights": weights.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).numpy()}

    def groups(self) -> list[Span]:
        """Bands of four rows."""
        band = 4 * IMAGE_SIZE
        return [(f"rows {i}–{i + 3}", i * IMAGE_SIZE, i * IMAGE_SIZE + band) for i in range(0, IMAGE_SIZE, 4)]


class Vector(nn.Module):
    """Numbers, passed on unchanged."""

    one_unit = False
    weights: Tensor | None = None
    least_deviation = 0.0
    scale: float | None = None
    outliers: Outliers | None = None
    has_strengths = False
    exact_export = True
    oracle_constant: str | None = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input = Input(kind="vector", name="vector", dtype="float32", shape=(None, size))
        self.n_features = size

    def forward(self, vector: Tensor) -> Tensor:
        """float32 (N, size) → float32 (N, size)."""
        return vector

    def example(self) -> Tensor:
        return torch.zeros(2, self.n_features)

    def traced(self) -> Callable[[Tensor], Tensor]:
        return self

    def oracle(self, media: NDArray[Any]) -> None:
        return None

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Nothing: figures of a few numbers show the network's answers over their range."""
        return {}

    def groups(self) -> list[Span]:
        return feature_groups.even(self.n_features)


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
