"""A second network for degraded recordings, and the gate that says how much it counts."""

from typing import Any

import torch
from torch import Tensor, nn

from models.mlp import MLP

GATE = (16,)  # hidden units of the gate


class Expert(nn.Module):
    """A mixture of two networks (Jacobs et al. 1991): the classifier's own, which has learned from recordings as they
    are, and a second one, which has learned from degraded copies too.

    One network for both is worse on clean recordings than one that has never seen noise. The gate has learned to tell
    degraded copies from the others, so each network answers what it is good at.

    Parameters
    ----------
    mlp : the second network, of the same shape as the first one
    """

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.mlp = mlp
        self.gate = MLP(mlp.linear()[0].in_features, GATE, 1, "relu", init="he")

    def summary(self) -> list[dict[str, Any]]:
        """One row for each layer, as `MLP.summary` has them."""
        parts = {"for degraded samples": self.mlp, "gate": self.gate}
        return [row | {"name": f"{name}: {row['name']}"} for name, mlp in parts.items() for row in mlp.summary()]

    def forward(self, x: Tensor, first: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Standardised features (N, D), and the logits (N, n_outputs) and last hidden layer (N, H) of the first
        network → both mixed with those of the second one, in shares that the gate gives for each sample."""
        share = torch.sigmoid(self.gate(x))
        logits, hidden = self.mlp.last_layer(x)
        return torch.lerp(first[0], logits, share), torch.lerp(first[1], hidden, share)
