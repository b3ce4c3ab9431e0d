"""Back-propagation by hand: forward pass, loss and closed-form gradients of the MLP in plain NumPy.

N samples, layers of n_0, n_1, … units; the last layer is the output O, those between are hidden:

    a_0 = X                      (N, n_0)
    z_l = a_{l-1} W_lᵀ + b_l     (N, n_l)    W_l (n_l, n_{l-1}) and b_l (n_l,), as torch.nn.Linear keeps them
    a_l = g(z_l)                 (N, n_l)    in the hidden layers; the output stays linear: z_O, the logits

Textbooks write z_H = X W_H + b_H for the one hidden layer: their W_H is W_1ᵀ, with a column for each unit, not a row.
The loss is a mean over the samples, so its gradients carry a factor 1/N. Everything is float64, and no exponential
overflows for any logits.

Rumelhart, Hinton & Williams (1986), Nature 323; Bishop (2006), Pattern Recognition and Machine Learning, section 5.3.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.card import Kind

Array = NDArray[np.float64]


class Network(NamedTuple):
    """W_l and b_l of every layer, the output last, and the name of g."""

    weights: list[Array]
    biases: list[Array]
    activation: Literal["sigmoid", "relu", "tanh", "linear"]


class Penalties(NamedTuple):
    """The factors of R(θ); see `penalty`."""

    l1: float = 0.0
    l2: float = 0.0
    activity_l1: float = 0.0
    activity_l2: float = 0.0


class Gradients(NamedTuple):
    """∂L/∂W_l and ∂L/∂b_l of every layer, in the shapes of W_l and b_l."""

    weights: list[Array]
    biases: list[Array]


def sigmoid(z: Array) -> Array:
    """σ(z) = 1 / (1 + e^-z), through its logarithm, which cannot overflow.

    >>> sigmoid(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """
    return np.exp(-np.logaddexp(0, -z))


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {  # g(z), and g'(z) given a = g(z)
    "sigmoid": (sigmoid, lambda a: a * (1 - a)),  # σ' = σ (1 - σ)
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(a.dtype)),  # relu' is 1 for z > 0, else 0
    "tanh": (np.tanh, lambda a: 1 - a**2),  # tanh' = 1 - tanh²
    "linear": (lambda z: z, np.ones_like),
}


def forward(network: Network, x: Array) -> list[Array]:
    """[a_0 = X, a_1, …, z_O]: the input and the output of every layer, each (N, n_l)."""
    weights, biases, activation = network
    g, _ = ACTIVATIONS[activation]
    outputs = [x]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        outputs.append(g(outputs[-1] @ w.T + b))  # a_l = g(z_l), z_l = a_{l-1} W_lᵀ + b_l
    outputs.append(outputs[-1] @ weights[-1].T + biases[-1])  # z_O
    return outputs


def loss(z: Array, y: NDArray[Any], kind: Kind) -> float:
    """Loss of the outputs z = z_O (N, K).

    binary, K = 1: -mean_n [y_n ln σ(z_n) + (1 - y_n) ln(1 - σ(z_n))], y (N,) 0 or 1. Some published slides lose the
    minus of one term or the index of the sample: both terms carry both.

    multiclass: -mean_n Σ_k y_nk ln p_nk, p = softmax(z), y_nk = 1 for the sample's class and 0 for any other, so that
    only one term of each sum remains; y (N,) holds the index of the class.

    regression: mean_{n,k} (z_nk - y_nk)², y (N, K).
    """
    if kind == "binary":  # -ln σ(z) = ln(1 + e^-z) and -ln(1 - σ(z)) = ln(1 + e^z)
        z = z[:, 0]
        return float(np.mean(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)))
    if kind == "multiclass":
        return float(-np.mean(log_softmax(z)[np.arange(len(y)), y]))
    return float(np.mean((z - y) ** 2))


def loss_gradient(z: Array, y: NDArray[Any], kind: Kind) -> Array:
    """∂L/∂z_O (N, K): output minus target, up to a factor, for every kind of target."""
    gradient: Array
    if kind == "binary":
        gradient = (sigmoid(z) - y[:, None]) / len(z)  # (σ(z_O) - y) / N
    elif kind == "multiclass":
        gradient = (np.exp(log_softmax(z)) - np.eye(z.shape[1])[y]) / len(z)  # (softmax(z_O) - y) / N
    else:
        gradient = 2 * (z - y) / z.size  # 2 (z_O - y) / (N K)
    return gradient


def log_softmax(z: Array) -> Array:
    """ln softmax(z) = z - ln Σ_k e^{z_k} of each row. A shift changes nothing, so the largest logit becomes 0."""
    z = z - z.max(axis=1, keepdims=True)
    log_p: Array = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return log_p


def penalty(weights: Sequence[Array], hidden: Sequence[Array], factors: Penalties) -> float:
    """R(θ) = l1 Σ|w| + l2 Σw² + activity_l1 mean_n Σ|a| + activity_l2 mean_n Σa², without any ½.

    Σ|w| and Σw² run over all weights and no bias. Σ|a| and Σa² run over the units of every hidden layer, whose outputs
    are `hidden`; their mean over the samples does not depend on the size of the batch, as their sum would.
    """
    l1, l2, activity_l1, activity_l2 = factors
    of_weights = sum(l1 * np.abs(w).sum() + l2 * (w**2).sum() for w in weights)
    of_outputs = sum(activity_l1 * np.abs(a).sum(1).mean() + activity_l2 * (a**2).sum(1).mean() for a in hidden)
    return float(of_weights + of_outputs)


def objective(network: Network, x: Array, y: NDArray[Any], kind: Kind, factors: Penalties) -> float:
    """The objective of training: loss + penalty."""
    _, *hidden, z = forward(network, x)
    return loss(z, y, kind) + penalty(network.weights, hidden, factors)


def gradients(network: Network, x: Array, y: NDArray[Any], kind: Kind, factors: Penalties) -> Gradients:
    """Gradients of the objective L, from the output back to the input, by δ_l = ∂L/∂z_l (N, n_l).

    At a kink, which ReLU and |·| have at 0, the derivative is taken as 0, as PyTorch does.
    """
    weights, _, activation = network
    l1, l2, activity_l1, activity_l2 = factors
    _, derivative = ACTIVATIONS[activation]
    *inputs, z = forward(network, x)  # inputs[l] is the input a_{l-1} of layer l
    result = Gradients([], [])
    delta = loss_gradient(z, y, kind)  # δ_O
    for layer in reversed(range(len(weights))):
        w, a = weights[layer], inputs[layer]
        result.weights.insert(0, delta.T @ a + l1 * np.sign(w) + 2 * l2 * w)  # ∂L/∂W_l = δ_lᵀ a_{l-1} + ∂R/∂W_l
        result.biases.insert(0, delta.sum(axis=0))  # ∂L/∂b_l = Σ_n δ_l
        if layer > 0:  # its input is a hidden layer's output
            above = delta @ w + (activity_l1 * np.sign(a) + 2 * activity_l2 * a) / len(a)  # δ_l W_l + ∂R/∂a_{l-1}
            delta = above * derivative(a)  # δ_{l-1} = ∂L/∂a_{l-1} ⊙ g'(z_{l-1}); without R, δ_H = (δ_O W_O) ⊙ g'(z_H)
    return result
