"""The multilayer perceptron: fully connected layers with an activation between them; the last layer gives logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

Activation = Literal["sigmoid", "relu", "tanh"]
ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """z_l = a_{l-1} W_lᵀ + b_l and a_l = activation(z_l) for the hidden layers; the output is the last z.

    Parameters
    ----------
    n_inputs, n_outputs : width of the input and of the output layer
    hidden : width of each hidden layer; empty for a linear model
    activation : of every hidden layer
    seed : of PyTorch's default initialisation, U(-1/√fan_in, 1/√fan_in); the same weights on every device
    """

    def __init__(
        self, n_inputs: int, hidden: Sequence[int], n_outputs: int, activation: Activation, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = [n_inputs, *hidden, n_outputs]
        self.activation = activation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, n_inputs) → logits float32 (N, n_outputs)."""
        *hidden, output = self.layers
        activation = ACTIVATIONS[self.activation]
        for layer in hidden:
            x = activation(layer(x))
        return output(x)  # type: ignore[no-any-return]

    def weights(self) -> list[Tensor]:
        """The weight matrices, without the biases: what a penalty applies to."""
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    def n_parameters(self) -> int:
        """Trainable parameters; N_H (N_I + 1) + N_O (N_H + 1) for one hidden layer."""
        return sum(p.numel() for p in self.parameters())

    def summary(self) -> list[dict[str, Any]]:
        """One row for each layer: name, output shape (None = any batch), number of parameters."""
        names = [f"hidden {i} ({self.activation})" for i in range(1, len(self.layers))] + ["output"]
        return [
            {
                "name": name,
                "output": [None, layer.out_features],
                "parameters": sum(p.numel() for p in layer.parameters()),
            }
            for name, layer in zip(names, self.layers, strict=True)
        ]
