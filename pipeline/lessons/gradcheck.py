"""Gradients computed in three ways, in float64: closed form, central differences, torch.autograd."""

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
from models.classifier import Classifier
from models.mlp import MLP
from models.steps import reference
from models.steps.reference import Array, Network, Penalties
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.run import Run
from pipeline.task import Task, Train, UserError
from pipeline.train import penalty, weights

TOLERANCE = 1e-7  # relative error allowed between the closed form and either other gradient
SAMPLES = 32  # training samples that a task is checked on, at most
COMPARED = 50  # entries of a tensor that are compared with central differences, at most; autograd: all
STEPS = (1e-3, 1e-4, 1e-5)  # of the central differences; the first that crosses no kink is used
ROUNDING = 1e-14  # rounding error of a gradient by back-propagation, for an objective of about 1
ROUNDING_OF_DIFFERENCES = 1e-12  # the same of a difference quotient with the first step


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of the network: relative errors between its closed-form gradient and the two others."""

    name: str
    shape: tuple[int, ...]
    compared: int  # entries compared with central differences
    differences: float
    autograd: float


def gradcheck(task: Task, run: Run) -> None:
    """Check the task's network at its initial weights on training samples of `run/features.npz`; print the table.

    Raises
    ------
    UserError : there are no features, or two gradients differ by more than `TOLERANCE`
    """
    features = Features.of(run)
    facts, classifier, rows = initial(task, features)
    chosen = np.random.default_rng(task.train.seed).permutation(rows)[:SAMPLES]
    x = classifier.standardize(torch.from_numpy(features.x[chosen]))
    with threadpool_limits(1, "blas"):  # the products are too small for a second thread to pay
        table = check(classifier.mlp, x, torch.from_numpy(features.y[chosen]), facts.kind, task.train)
    print(f"{task.name}: closed-form gradients on {len(chosen)} samples, and their relative errors")
    _print_table(table)
    for row in table:
        for error, other in ((row.differences, "central differences"), (row.autograd, "torch.autograd")):
            if not error < TOLERANCE:  # NaN fails too
                raise UserError(
                    f"{row.name}: the closed-form gradient is {error:.1e} away from {other}, allowed is {TOLERANCE:g}; "
                    "models/steps/reference.py and the loss of training disagree"
                )
    print(f"  all are below {TOLERANCE:g}")


def initial(task: Task, features: Features) -> tuple[weights.Facts, Classifier, NDArray[np.int64]]:
    """The facts before training; the task's network at its initial weights, and its standardisation as fitted to the
    training samples; their rows."""
    facts = weights.begin(task, features, "cpu")
    classifier = weights.network(facts)
    rows = np.flatnonzero(features.rows("train"))
    classifier.standardize.fit(torch.from_numpy(features.x[rows]), classifier.frontend)
    return facts, classifier, rows


def check(mlp: MLP, x: Tensor, y: Tensor, kind: Kind, options: Train) -> list[Row]:
    """Compare the gradients of loss + penalty for each tensor of `mlp`, which is not changed.

    x : (N, n_inputs)
    y : (N,) or (N, n_outputs), as in `Target.loss`
    options : the penalties to add

    Example
    -------
    >>> x, y = torch.tensor([[0.0, 1.0], [1.0, 0.5]]), torch.tensor([0, 1])
    >>> rows = check(MLP(2, [3], 1, "tanh"), x, y, "binary", Train(l2=0.01))
    >>> all(row.differences < TOLERANCE and row.autograd < TOLERANCE for row in rows)
    True
    """
    target = TARGETS[kind]
    mlp, x = copy.deepcopy(mlp).double(), x.double()
    y = y if target.has_classes else y.double()
    z, activations = mlp.with_activations(x)
    objective = target.loss(z, y) + penalty(mlp, activations, options)  # what training minimises
    objective.backward()  # type: ignore[no-untyped-call]
    size = 1 + objective.item()
    network = as_reference(mlp)
    factors = Penalties(options.l1, options.l2, options.activity_l1, options.activity_l2)
    closed_form = reference.gradients(network, x.numpy(), y.numpy(), kind, factors)
    gradients = [g for layer in zip(closed_form.weights, closed_form.biases, strict=True) for g in layer]
    rows = []
    for (name, parameter), gradient in zip(mlp.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        tensor = parameter.detach().numpy()  # the network's own array
        quotients = dict(_central_differences(network, tensor, x.numpy(), y.numpy(), kind, factors))
        by_differences = np.array(list(quotients.values()))
        differences = _relative_error(gradient.flat[list(quotients)], by_differences, ROUNDING_OF_DIFFERENCES * size)
        autograd = _relative_error(gradient, parameter.grad.numpy(), ROUNDING * size)
        rows.append(Row(name, tensor.shape, len(quotients), differences, autograd))
    return rows


def _print_table(rows: Sequence[Row]) -> None:
    """Print one line for each tensor."""
    print(f"  {'parameter':<20} {'shape':<14} {'compared':>10} {'central differences':>20} {'autograd':>10}")
    for row in rows:
        compared = f"{row.compared}/{np.prod(row.shape)}"
        print(f"  {row.name:<20} {row.shape!s:<14} {compared:>10} {row.differences:>20.1e} {row.autograd:>10.1e}")


def as_reference(mlp: MLP) -> Network:
    """The network in the form of `models.steps.reference`; its arrays share memory with `mlp`."""
    arrays: list[Array] = [parameter.detach().numpy() for parameter in mlp.parameters()]
    return Network(arrays[0::2], arrays[1::2], mlp.activation)  # weight and bias alternate


def _central_differences(
    network: Network, tensor: Array, x: Array, y: NDArray[Any], kind: Kind, factors: Penalties
) -> Iterator[tuple[int, float]]:
    """Flat index and ∂L/∂θ of up to `COMPARED` entries θ, drawn at random, of `tensor`, one of the network's own.

    The five-point difference quotient, [8 (L(θ+h) - L(θ-h)) - (L(θ+2h) - L(θ-2h))] / 12h, has an error of O(h⁴), which
    allows a step so large that rounding does not matter (Abramowitz & Stegun 25.3.6).
    Entries with a kink (of ReLU or |θ|) within reach of the smallest step are skipped.
    """

    def at(index: int, value: float) -> tuple[Array, NDArray[np.bool_]]:
        """Loss and penalty with one entry changed, and on which side of every kink the network then is."""
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
                yield (
                    int(index),
                    float(difference.sum()) / (12 * h),
                )  # summed last: a large penalty rounds no loss
                found += 1
                break
        if found == COMPARED:
            return


def _relative_error(a: Array, b: Array, rounding: float) -> float:
    """‖a - b‖ / max(‖a‖, ‖b‖, rounding / TOLERANCE); with smaller norms, rounding alone could fail the check.

    Example
    -------
    >>> round(_relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5]), ROUNDING), 3)
    0.092
    """
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), rounding / TOLERANCE)
    return float(np.linalg.norm(a - b)) / scale
