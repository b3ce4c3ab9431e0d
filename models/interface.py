"""The interface of the front ends."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from models import feature_groups
from models.card import Input
from models.familiarity import Outliers
from models.feature_groups import Span


class FrontEnd(Protocol):
    """The interface of a front end, implemented by `Pixels`, `Vector`, `Picture` (image.py), `Mfcc` and `Table`.

    Each is an nn.Module from decoded media (N, …) to features float32 (N, n_features). What stands here with a value
    holds for most of them.

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
    one_unit: bool = False
    least_deviation: float = 0.0
    scale: float | None = None
    outliers: Outliers | None = None
    has_strengths: bool = False
    exact_export: bool = True
    oracle_constant: str | None = None

    @property
    def weights(self) -> Tensor | None:
        return None

    def __call__(self, media: Tensor, /) -> Tensor:
        """Decoded media as `input` describes them → features float32 (N, D)."""

    def groups(self) -> list[Span]:
        """Groups of neighbouring features; drift is detected group by group."""
        return feature_groups.even(self.n_features)

    def example(self) -> Tensor:
        """Media of two samples, all zeros, to trace the export with."""

    def traced(self) -> Callable[[Tensor], Tensor]:
        """The module with no Python between its operators, for extraction in threads; bit for bit the same features."""
        return self

    def oracle(self, media: NDArray[Any]) -> NDArray[Any] | None:
        """Reference values from another library for the media of one sample; see `oracle_constant`."""
        return None

    def inside(self, weights: Tensor, media: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays by name, for figures of the first weights (H, D) of a network and of the media of samples."""
        return {}
