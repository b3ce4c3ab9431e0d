"""The unit of a regression's targets: the network learns standardised ones, and its output layer restores the unit."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.mlp import MLP


@dataclass(frozen=True, slots=True)
class TargetUnit:
    """Mean and standard deviation of the training targets, float32 (K,).

    Example
    -------
    >>> TargetUnit.of(torch.tensor([[100.0], [300.0]])).removed(torch.tensor([[400.0]]))
    tensor([[2.]])
    """

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(y: Tensor) -> "TargetUnit":
        """The unit of targets float32 (N, K)."""
        values = y.double()
        deviation = values.std(0, correction=0)
        return TargetUnit(values.mean(0).float(), torch.where(deviation > 0, deviation, 1.0).float())

    def removed(self, y: Tensor) -> Tensor:
        """Targets (N, K) in standard deviations from the mean."""
        return (y - self.mean) / self.deviation

    def restore(self, mlp: MLP, history: dict[str, list[Any]]) -> None:
        """Make a network that was trained on standardised targets answer in the unit, and its losses those of it."""
        output = mlp.linear()[-1]
        output.weight.data.mul_(self.deviation[:, None])
        output.bias.data.mul_(self.deviation).add_(self.mean)
        for name in ("train_loss", "validation_loss"):
            history[name] = [loss * float(self.deviation.double().square().mean()) for loss in history.get(name, [])]
