"""The multilayer perceptron: fully connected layers with an activation between them; the last layer gives logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Activation = Literal["sigmoid", "relu", "tanh"]
Init = Literal["default", "xavier", "he", "uniform"]
ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """z_l = a_{l-1} W_lᵀ + b_l and a_l = activation(z_l) for the hidden layers; the output is the last z.

    Parameters
    ----------
    n_inputs, n_outputs : width of the input and of the output layer
    hidden : width of each hidden layer; empty for a linear model
    activation : of every hidden layer
    seed : of the initialisation, which gives the same weights on every device
    init : `default`, PyTorch's U(-1/√fan_in, 1/√fan_in) for weights and biases; `xavier`, U(±√(6/(fan_in + fan_out)))
        (Glorot & Bengio 2010); `he`, N(0, 2/fan_in) (He et al. 2015); `uniform`, U(-0.7, 0.7) (Hastie, Tibshirani &
        Friedman 2009, §11.5.1), for weights and biases. `xavier` and `he` start with biases of zero.

    >>> network = MLP(784, [100], 10, "sigmoid")
    >>> network(torch.zeros(5, 784)).shape, network.n_parameters()
    (torch.Size([5, 10]), 79510)
    """

    def __init__(
        self,
        n_inputs: int,
        hidden: Sequence[int],
        n_outputs: int,
        activation: Activation,
        seed: int = 0,
        init: Init = "default",
    ) -> None:
        super().__init__()
        sizes = [n_inputs, *hidden, n_outputs]
        self.activation = activation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
            if init != "default":
                for layer in self.layers:
                    _initialise(layer, init)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, n_inputs) → logits float32 (N, n_outputs)."""
        return self.with_activations(x)[0]

    def with_activations(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """float32 (N, n_inputs) → logits and the outputs of every hidden layer, float32 (N, width) each."""
        *hidden, output = self.layers
        activations = [x]
        for layer in hidden:
            activations.append(ACTIVATIONS[self.activation](layer(activations[-1])))
        return output(activations[-1]), activations[1:]

    def last_layer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (N, n_inputs) → logits, and the input of the output layer: the outputs (N, width) of the last hidden
        layer, or x where there is none."""
        logits, hidden = self.with_activations(x)
        return logits, hidden[-1] if hidden else x

    def weights(self) -> list[Tensor]:
        """The weight matrices, without the biases: the penalties l1 and l2 apply to these."""
        return [layer.weight for layer in self.linear()]

    def linear(self) -> list[nn.Linear]:
        """The layers, the output last."""
        return cast(list[nn.Linear], list(self.layers))

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


def _initialise(layer: nn.Module, init: Init) -> None:
    assert isinstance(layer, nn.Linear)
    if init == "uniform":
        nn.init.uniform_(layer.weight, -0.7, 0.7)
        nn.init.uniform_(layer.bias, -0.7, 0.7)
        return
    if init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
