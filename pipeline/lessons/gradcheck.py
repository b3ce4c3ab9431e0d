"""Gradients in three ways, in float64: by hand, by central differences, by torch.autograd."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from models.card import Kind
from models.classifier import loss
from models.mlp import MLP
from models.steps import reference
from models.steps.reference import Array, Network, Penalties
from pipeline.extract import Features
from pipeline.run import Run
from pipeline.task import Task, Train, UserError
from pipeline.train import penalty, weights

TOLERANCE = 1e-7  # relative error between any two of the gradients
SAMPLES = 32  # of the training split, in the check of a task
COMPARED = 50  # entries of a tensor that are compared with central differences; autograd is compared with all
STEPS = (1e-3, 1e-4, 1e-5)  # of the central differences: the first that crosses no kink
ROUNDING = 1e-14  # of a gradient by back-propagation, where the objective is about 1
ROUNDING_OF_DIFFERENCES = 1e-12  # of a difference quotient with the first step, likewise


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of the network: how far its gradient by hand is from the two others, as relative errors."""

    name: str
    shape: tuple[int, ...]
    compared: int  # entries compared with central differences
    differences: float
    autograd: float


def gradcheck(task: Task, run: Run) -> None:
    """Print the table for the task's network at its initial weights, on training samples of `run/features.npz`.

    Raises
    ------
    UserError : no features, or two gradients differ by more than `TOLERANCE`
    """
    features = Features.of(run)
    facts = weights.begin(task, features, "cpu")
    classifier = weights.network(facts)
    rows = np.flatnonzero(features.rows("train"))
    classifier.standardize.fit(torch.from_numpy(features.x[rows]), classifier.frontend)
    chosen = np.random.default_rng(task.train.seed).permutation(rows)[:SAMPLES]
    x = classifier.standardize(torch.from_numpy(features.x[chosen]))
    with threadpool_limits(1, "blas"):  # the products are small: waiting for another thread outweighs its help
        table = check(classifier.mlp, x, torch.from_numpy(features.y[chosen]), facts.kind, task.train)
    print(f"{task.name}: gradients by hand on {len(chosen)} samples, and their relative errors")
    print_table(table)
    for row in table:
        for error, other in ((row.differences, "central differences"), (row.autograd, "torch.autograd")):
            if not error < TOLERANCE:  # NaN is wrong as well
                raise UserError(
                    f"{row.name}: the gradient by hand is {error:.1e} away from {other}, allowed are {TOLERANCE:g}; "
                    "models/steps/reference.py and the loss of training do not agree"
                )
    print(f"  all are below {TOLERANCE:g}")


def check(mlp: MLP, x: Tensor, y: Tensor, kind: Kind, options: Train) -> list[Row]:
    """Compare the gradients of loss + penalty for each tensor of `mlp`, which is left as it is.

    x (N, n_inputs); y (N,) or (N, n_outputs), as `models.classifier.loss` takes it.
    """
    mlp, x = copy.deepcopy(mlp).double(), x.double()
    y = y.double() if kind == "regression" else y
    z, activations = mlp.with_activations(x)
    objective = loss(z, y, kind) + penalty(mlp, activations, options)  # what the trainer minimises
    objective.backward()  # type: ignore[no-untyped-call]
    size = 1 + objective.item()
    network = as_reference(mlp)
    factors = Penalties(options.l1, options.l2, options.activity_l1, options.activity_l2)
    by_hand = reference.gradients(network, x.numpy(), y.numpy(), kind, factors)
    in_order = [g for layer in zip(by_hand.weights, by_hand.biases, strict=True) for g in layer]
    rows = []
    for (name, parameter), gradient in zip(mlp.named_parameters(), in_order, strict=True):
        assert parameter.grad is not None
        tensor = parameter.detach().numpy()  # the network's own array
        quotients = dict(central_differences(network, tensor, x.numpy(), y.numpy(), kind, factors))
        by_differences = np.array(list(quotients.values()))
        differences = relative_error(gradient.flat[list(quotients)], by_differences, ROUNDING_OF_DIFFERENCES * size)
        autograd = relative_error(gradient, parameter.grad.numpy(), ROUNDING * size)
        rows.append(Row(name, tensor.shape, len(quotients), differences, autograd))
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """One line for each tensor, as `check` gives them."""
    print(f"  {'parameter':<20} {'shape':<14} {'compared':>10} {'central differences':>20} {'autograd':>10}")
    for row in rows:
        compared = f"{row.compared}/{np.prod(row.shape)}"
        print(f"  {row.name:<20} {row.shape!s:<14} {compared:>10} {row.differences:>20.1e} {row.autograd:>10.1e}")


def as_reference(mlp: MLP) -> Network:
    """The network as the reference takes it; its arrays share their memory with `mlp`."""
    arrays: list[Array] = [parameter.detach().numpy() for parameter in mlp.parameters()]
    return Network(arrays[0::2], arrays[1::2], mlp.activation)  # weight and bias take turns


def central_differences(
    network: Network, tensor: Array, x: Array, y: NDArray[Any], kind: Kind, factors: Penalties
) -> Iterator[tuple[int, float]]:
    """Flat index and ∂L/∂θ of up to `COMPARED` entries θ of one of the network's own tensors, drawn at random.

    The difference quotient with five points, [8 (L(θ+h) - L(θ-h)) - (L(θ+2h) - L(θ-2h))] / 12h, whose error O(h⁴)
    allows a step large enough for rounding not to show (Abramowitz & Stegun 25.3.6).
    An entry with a kink within reach of the smallest step is passed over.
    """

    def at(index: int, value: float) -> tuple[Array, NDArray[np.bool_]]:
        """Loss and penalty with that entry changed, and the side of every kink on which the network then lies."""
        before = tensor.flat[index]
        tensor.flat[index] = value
        _, *hidden, z = reference.forward(network, x)
        parts = reference.loss(z, y, kind), reference.penalty(network.weights, hidden, factors)
        sides = np.concatenate([(a > 0).ravel() for a in (*hidden, *network.weights)])
        tensor.flat[index] = before
        return np.array(parts), sides

    found = 0
    for index in np.random.default_rng(0).permutation(tensor.size):
        value = tensor.flat[index]
        for h in STEPS:
            (far_below, left), (far_above, right) = at(index, value - 2 * h), at(index, value + 2 * h)
            if np.array_equal(left, right):
                difference = 8 * (at(index, value + h)[0] - at(index, value - h)[0]) - (far_above - far_below)
                yield int(index), float(difference.sum()) / (12 * h)  # summed last: a large penalty rounds no loss
                found += 1
                break
        if found == COMPARED:
            return


def relative_error(a: Array, b: Array, rounding: float) -> float:
    """‖a - b‖ / max(‖a‖, ‖b‖, rounding / TOLERANCE): of norms below the last, rounding alone could fail the check."""
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), rounding / TOLERANCE)
    return float(np.linalg.norm(a - b)) / scale
