"""The module that is exported: front end ∘ standardisation ∘ MLP ∘ temperature ∘ output activation, and familiarity."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from models.card import Kind
from models.expert import Expert
from models.familiarity import Familiarity
from models.frontend import FrontEnd
from models.mlp import MLP
from models.moments import Moments, part_rows
from models.targets import TARGETS


class Standardize(nn.Module):
    """(x - mean) / deviation, with the statistics of the training split.

    Features that share one unit (pixels) share one mean and one deviation; a constant feature is only centred. To make
    a feature count less than others, its deviation is enlarged; so is that of a feature that hardly ever varied, where
    the front end names a least deviation.

    >>> from models.frontend import Vector
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> Standardize(1).fit(x, Vector(1))(x).tolist()
    [[-1.0], [1.0]]
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))

    def fit(self, x: Tensor, front: FrontEnd) -> "Standardize":
        """Compute the statistics of x, float32 (N, D), the features of `front`, part by part: x is not copied."""
        parts = torch.split(x, part_rows(x.shape[1]))
        return self.use(Moments.joined(Moments.of(part, front.one_unit) for part in parts), front)

    def use(self, moments: Moments, front: FrontEnd) -> "Standardize":
        """Use these moments of the features of `front`, joined in order from parts of `part_rows` samples."""
        deviation = moments.deviation
        if front.least_deviation:
            for _, start, stop in front.groups():
                group = deviation[start:stop]
                group.clamp_(min=front.least_deviation * group.square().mean().sqrt())
        self.mean.copy_(moments.mean.expand_as(self.mean))
        self.deviation.copy_(torch.where(deviation > 1e-8, deviation, 1.0).expand_as(self.deviation))
        if front.weights is not None:
            self.deviation.div_(front.weights)
        return self

    def apply_(self, x: Tensor) -> Tensor:
        """Like `forward`, in place."""
        return x.sub_(self.mean).div_(self.deviation)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, D) → float32 (N, D)."""
        return (x - self.mean) / self.deviation


class Classifier(nn.Module):
    """Decoded media → probabilities float32 (N, K), K ≥ 2, in the order of the labels; the K values of a regression.

    With a `familiarity`, it returns the familiarity of each input too, float32 (N,). The logits are divided by the
    temperature (models/calibration.py), 1 if none was fitted, except for a regression, where they are the answer.
    """

    temperature: Tensor  # ()

    def __init__(self, frontend: FrontEnd, standardize: Standardize, mlp: MLP, kind: Kind) -> None:
        super().__init__()
        self.frontend, self.standardize, self.mlp, self.target = frontend, standardize, mlp, TARGETS[kind]
        self.register_buffer("temperature", torch.ones(()))
        self.familiarity: Familiarity | None = None
        self.expert: Expert | None = None

    @property
    def kind(self) -> Kind:
        return self.target.kind

    def add_familiarity(self) -> Familiarity:
        """Add a `Familiarity` of matching sizes, to be fitted or loaded, and return it."""
        output, n_labels = self.mlp.linear()[-1], max(2, self.mlp.linear()[-1].out_features)
        front = self.frontend
        groups = [(start, stop) for _, start, stop in front.groups()] if front.has_strengths else []
        self.familiarity = Familiarity(
            front.n_features, output.in_features, n_labels, front.outliers, front.input.kind == "vector", groups
        )
        return self.familiarity

    def forward(self, media: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Decoded media → probabilities or values, and the familiarity if there is one."""
        return self.from_features(self.frontend(media))

    def add_expert(self) -> Expert:
        """Add an `Expert` with initial weights, to be trained or loaded, and return it."""
        self.expert = Expert(deepcopy(self.mlp))
        return self.expert

    def summary(self) -> list[dict[str, Any]]:
        """One row for each layer that an answer comes from, as `MLP.summary` has them."""
        return self.mlp.summary() + (self.expert.summary() if self.expert else [])

    def n_parameters(self) -> int:
        """Trainable parameters of these layers."""
        return sum(row["parameters"] for row in self.summary())

    def last_layer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised features float32 (N, D) → logits, and the input of the output layer, of the network or, mixed,
        of both; see `MLP.last_layer` and `Expert`."""
        found = self.mlp.last_layer(x)
        return found if self.expert is None else self.expert(x, found)

    def from_features(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Features float32 (N, D) → probabilities or values, float32 (N, K), and the familiarity if there is one."""
        readings = self.readings(self.standardize(x))
        return readings[0] if len(readings) == 1 else (readings[0], readings[1])

    @property
    def has_second_reading(self) -> bool:
        """Whether `readings` has a third part."""
        return self.target.has_classes and self.familiarity is not None and self.familiarity.reads_classes

    def readings(self, x: Tensor) -> tuple[Tensor, ...]:
        """Standardised features float32 (N, D) → probabilities or values, float32 (N, K); the familiarity (N,) if there
        is one; and the second reading (N, K) if there is one, see `Familiarity.readings`."""
        logits, hidden = self.last_layer(x)
        answers = self.answers(logits)
        if self.familiarity is None:
            return (answers,)
        familiarity, second = self.familiarity.readings(x, hidden, self.target.answer(logits))
        if second is None or not self.target.has_classes:
            return answers, familiarity
        return answers, familiarity, second

    def answers(self, logits: Tensor) -> Tensor:
        """Logits of the network float32 (N, n_outputs) → probabilities or values, float32 (N, K)."""
        return self.target.answer(logits / self.temperature if self.target.has_classes else logits)
