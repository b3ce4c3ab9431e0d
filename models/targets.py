"""Targets: the kinds of prediction, each with its output layer, loss and answer.

`TARGETS` has one object for each kind, the `kind` of a card, of features and of a run.

>>> TARGETS["binary"].n_outputs(2)
1
>>> TARGETS["binary"].answer(torch.zeros(1, 1))
tensor([[0.5000, 0.5000]])
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.card import Kind


class Target(ABC):
    """One kind of target. N samples, K labels or values, n_outputs logits; y is an argument of `loss`.

    Attributes
    ----------
    has_classes : the answer is probabilities of classes, and can be right or wrong
    """

    kind: ClassVar[Kind]
    has_classes: ClassVar[bool] = True

    @abstractmethod
    def n_outputs(self, n_labels: int) -> int:
        """Width of the output layer for K labels or values."""

    @abstractmethod
    def answer(self, logits: Tensor) -> Tensor:
        """Output activation: logits float32 (N, n_outputs) → probabilities or values, float32 (N, K)."""

    @abstractmethod
    def loss(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        """Mean loss of the samples, in nats where there are classes; or its sum, weighted by w (N,).

        logits float32 (N, n_outputs); y int64 (N,), index of the label, or float32 (N, n_outputs): probabilities, or
        for a regression values.
        """

    @abstractmethod
    def delta(self, z: Tensor, t: Tensor, w: Tensor, out: Tensor) -> Tensor:
        """δ_O = ∂L/∂z of the mean loss, into `out`; z, t, w and out as columns, float32 (..., n_outputs, B).

        t: one-hot columns, 0 or 1 for a binary target, values of a regression; w (..., 1, B): each sample's weight.
        """

    @abstractmethod
    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Loss of each sample: logits as columns, float32 (..., n_outputs, B), y (..., B) or (..., B, K) → (..., B)."""

    @abstractmethod
    def hits(self, z: Tensor, y: Tensor) -> Tensor:
        """Which answers are right, bool (..., B), for the arguments of `losses`; float32 NaN for a regression."""


class Multiclass(Target):
    """One of K classes: softmax and cross entropy."""

    kind = "multiclass"

    def n_outputs(self, n_labels: int) -> int:
        return n_labels

    def answer(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 1)

    def loss(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        if w is not None:
            return (nn.functional.cross_entropy(logits, y, reduction="none") * w).sum()
        return nn.functional.cross_entropy(logits, y)

    def delta(self, z: Tensor, t: Tensor, w: Tensor, out: Tensor) -> Tensor:
        return torch.softmax(z, -2, out=out).sub_(t).mul_(w)

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        index = y.unsqueeze(-2).expand(*z.shape[:-2], 1, -1)
        return -torch.log_softmax(z, -2).gather(-2, index).squeeze(-2)

    def hits(self, z: Tensor, y: Tensor) -> Tensor:
        return z.max(-2).indices == y  # several times as fast as argmax


class Binary(Target):
    """One of two classes: one output, the log-odds of the second; the answer has both probabilities."""

    kind = "binary"

    def n_outputs(self, n_labels: int) -> int:
        return 1

    def answer(self, logits: Tensor) -> Tensor:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)

    def loss(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        reduction = "mean" if w is None else "sum"
        target = y.to(logits.dtype).view(-1)
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target, w, reduction=reduction)

    def delta(self, z: Tensor, t: Tensor, w: Tensor, out: Tensor) -> Tensor:
        return torch.sigmoid(z, out=out).sub_(t).mul_(w)

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        logits = z.squeeze(-2)
        truth = y.to(z.dtype).expand_as(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")

    def hits(self, z: Tensor, y: Tensor) -> Tensor:
        return (z.squeeze(-2) > 0) == (y > 0)


class Regression(Target):
    """K numbers: no output activation, the mean squared error over samples and values."""

    kind = "regression"
    has_classes = False

    def n_outputs(self, n_labels: int) -> int:
        return n_labels

    def answer(self, logits: Tensor) -> Tensor:
        return logits

    def loss(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        assert w is None  # there are no classes to balance
        return nn.functional.mse_loss(logits, y)

    def delta(self, z: Tensor, t: Tensor, w: Tensor, out: Tensor) -> Tensor:
        return torch.sub(z, t, out=out).mul_(w).mul_(2 / z.shape[-2])

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        return (z.mT - y).square().mean(-1)

    def hits(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(self.losses(z, y), math.nan)


TARGETS: dict[Kind, Target] = {target.kind: target for target in (Multiclass(), Binary(), Regression())}
