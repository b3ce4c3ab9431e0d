"""A trained network's probabilities, corrected: a temperature makes confidence match accuracy; another prior."""

import math

import torch
from torch import Tensor

from models.card import Kind
from models.mlp import MLP

RANGE = 20.0  # a temperature lies between 1 / RANGE and RANGE
HALVINGS = 40  # of that range of log T, to 5e-12


def fit_temperature(logits: Tensor, target: Tensor, kind: Kind) -> float:
    """The T > 0 that minimises the mean log loss of logits / T (Guo et al. 2017).

    The loss is convex in 1/T, so bisection of its derivative finds its only minimum. Targets are smoothed much as in
    Platt (1999): one case in N + 2 counts as the most likely other label. Otherwise a few samples without a mistake
    would push every confidence to 1.

    Parameters
    ----------
    logits : float (N, n_outputs), N ≥ 1, of samples that the network was not trained on
    target : int64 (N,), index of the label

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # 88 % confident, right 3 times in 4
    >>> fit_temperature(logits, torch.tensor([0, 0, 0, 0]), "multiclass") > 1
    True
    """
    columns = logits.double()
    if kind == "binary":
        columns = torch.cat([torch.zeros_like(columns), columns], 1)
    right = target[:, None]
    other = columns.scatter(1, right, -torch.inf).argmax(1, keepdim=True)
    wrong = 1 / (len(target) + 2)
    soft = torch.zeros_like(columns).scatter_(1, right, 1 - wrong).scatter_(1, other, wrong)
    low, high = -math.log(RANGE), math.log(RANGE)  # of log T, between which the minimum lies
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The derivative of the loss with respect to 1/T, times N; 1/T falls where log T rises.
        slope = ((torch.softmax(columns * math.exp(-middle), 1) - soft) * columns).sum().item()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def move_prior(network: MLP, before: float, after: float) -> None:
    """Let a network that tells 1 from 0, trained on a share `before` of 1, take `after` for the probability of 1 before
    a sample is seen (Saerens, Latinne & Decaestecker 2002).

    >>> network = MLP(1, [], 1, "relu")
    >>> logit = network(torch.zeros(1, 1))
    >>> move_prior(network, 1 / 2, 3 / 4)
    >>> (network(torch.zeros(1, 1)) - logit).exp().round(decimals=4).item()
    3.0
    """
    network.linear()[-1].bias.data += math.log(after / (1 - after)) - math.log(before / (1 - before))
