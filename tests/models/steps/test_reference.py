"""Back-propagation by hand, against torch.autograd and against numbers worked out on paper."""

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from models.steps import reference
from models.steps.reference import Network, Penalties

NONE = Penalties()
FACTOR = st.sampled_from([0.0, 1e-3, 0.5])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Network, Any, Any, Any, Penalties]:
    """A network of any depth, a batch x and y, the kind of target, and penalties."""
    kind = draw(st.sampled_from(["binary", "multiclass", "regression"]))
    n, n_inputs, n_outputs = draw(st.integers(1, 9)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    sizes = [n_inputs, *draw(st.lists(st.integers(1, 7), max_size=4)), 1 if kind == "binary" else n_outputs]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    network = Network(
        [rng.normal(size=(n_out, n_in)) for n_in, n_out in pairwise(sizes)],
        [rng.normal(size=n_out) for n_out in sizes[1:]],
        draw(st.sampled_from(["sigmoid", "relu", "tanh"])),
    )
    targets = {
        "binary": rng.integers(2, size=n),
        "multiclass": rng.integers(n_outputs, size=n),
        "regression": rng.normal(size=(n, n_outputs)),
    }
    return network, rng.normal(size=(n, n_inputs)), targets[kind], kind, draw(st.builds(Penalties, *[FACTOR] * 4))


def torch_objective(
    weights: list[Tensor], biases: list[Tensor], activation: str, x: Tensor, y: Tensor, kind: str, factors: Penalties
) -> Tensor:
    """The same objective in PyTorch's own functions."""
    l1, l2, activity_l1, activity_l2 = factors
    total = sum(l1 * w.abs().sum() + l2 * w.square().sum() for w in weights)
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = getattr(torch, activation)(F.linear(x, w, b))
        total = total + activity_l1 * x.abs().sum(1).mean() + activity_l2 * x.square().sum(1).mean()
    z = F.linear(x, weights[-1], biases[-1])
    if kind == "binary":
        return total + F.binary_cross_entropy_with_logits(z[:, 0], y.double())
    return total + (F.cross_entropy(z, y) if kind == "multiclass" else F.mse_loss(z, y))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(problems())
def test_objective_and_gradients_equal_autograd(problem: tuple[Network, Any, Any, Any, Penalties]) -> None:
    network, x, y, kind, factors = problem
    weights, biases = ([torch.tensor(p, requires_grad=True) for p in ps] for ps in network[:2])
    expected = torch_objective(weights, biases, network.activation, torch.tensor(x), torch.tensor(y), kind, factors)
    assert reference.objective(network, x, y, kind, factors) == pytest.approx(expected.item(), rel=1e-12)
    expected.backward()
    by_hand = reference.gradients(network, x, y, kind, factors)
    for a, b in zip([*by_hand.weights, *by_hand.biases], [p.grad.numpy() for p in [*weights, *biases]], strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= 1e-10 * np.linalg.norm(b) + 1e-14  # the latter where a gradient cancels out


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problems())
def test_a_repeated_batch_changes_nothing(problem: tuple[Network, Any, Any, Any, Penalties]) -> None:
    network, x, y, kind, factors = problem
    twice = np.concatenate([x, x]), np.concatenate([y, y])
    assert reference.objective(network, *twice, kind, factors) == pytest.approx(
        reference.objective(network, x, y, kind, factors), rel=1e-12
    )
    once = reference.gradients(network, x, y, kind, factors)
    again = reference.gradients(network, *twice, kind, factors)
    for a, b in zip([*once.weights, *once.biases], [*again.weights, *again.biases], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def test_binary_by_hand() -> None:
    network = Network([np.array([[0.0]]), np.array([[2.0]])], [np.array([0.0]), np.array([-1.0])], "sigmoid")
    x, y = np.array([[3.0]]), np.array([1])
    a_0, a_h, z_o = reference.forward(network, x)
    assert (a_0.item(), a_h.item(), z_o.item()) == (3, 0.5, 0)
    assert reference.objective(network, x, y, "binary", NONE) == pytest.approx(math.log(2))
    (of_w_h, of_w_o), (of_b_h, of_b_o) = reference.gradients(network, x, y, "binary", NONE)
    assert of_b_o.item() == -0.5  # δ_O = σ(0) - 1
    assert of_w_o.item() == -0.25  # δ_O a_H
    assert of_b_h.item() == -0.25  # δ_H = δ_O · 2 · ½ (1 - ½)
    assert of_w_h.item() == -0.75  # δ_H x


def test_multiclass_by_hand() -> None:
    network = Network([np.zeros((4, 1))], [np.zeros(4)], "relu")  # a linear model
    x, y = np.array([[1.0], [3.0]]), np.array([2, 0])
    assert reference.objective(network, x, y, "multiclass", NONE) == pytest.approx(math.log(4))
    (of_w,), (of_b,) = reference.gradients(network, x, y, "multiclass", NONE)
    np.testing.assert_allclose(of_b, [-1 / 4, 1 / 4, -1 / 4, 1 / 4])  # ½ ((¼, ¼, -¾, ¼) + (-¾, ¼, ¼, ¼))
    np.testing.assert_allclose(of_w[:, 0], [-1, 1 / 2, 0, 1 / 2])  # ½ (1 (¼, ¼, -¾, ¼) + 3 (-¾, ¼, ¼, ¼))


def test_regression_and_every_penalty_by_hand() -> None:
    network = Network([np.array([[2.0], [-1.0]]), np.array([[1.0, 4.0]])], [np.zeros(2), np.array([1.0])], "relu")
    x, y = np.array([[1.0], [-3.0]]), np.array([[1.0], [10.0]])  # a_H = (2, 0) and (0, 3); z_O = 3 and 13
    factors = Penalties(l1=0.5, l2=0.1, activity_l1=0.2, activity_l2=0.3)
    mse = (2**2 + 3**2) / 2
    of_weights = 0.5 * (2 + 1 + 1 + 4) + 0.1 * (4 + 1 + 1 + 16)
    of_outputs = (0.2 * (2 + 3) + 0.3 * (4 + 9)) / 2
    assert reference.objective(network, x, y, "regression", factors) == pytest.approx(mse + of_weights + of_outputs)
    (of_w_h, of_w_o), (of_b_h, of_b_o) = reference.gradients(network, x, y, "regression", factors)
    assert of_b_o.item() == 5  # δ_O = 2 (2, 3) / 2
    np.testing.assert_allclose(of_w_o, [[2 * 2 + 0.5 + 0.2 * 1, 3 * 3 + 0.5 + 0.2 * 4]])
    delta_h = [2 * 1 + (0.2 + 0.6 * 2) / 2, 3 * 4 + (0.2 + 0.6 * 3) / 2]  # of sample 1 in unit 1, of sample 2 in unit 2
    np.testing.assert_allclose(of_b_h, delta_h)
    np.testing.assert_allclose(of_w_h[:, 0], [1 * delta_h[0] + 0.5 + 0.2 * 2, -3 * delta_h[1] - 0.5 - 0.2 * 1])


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_give_finite_losses_and_gradients(size: float) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        z = np.array([[size], [-size]])
        for y, value in ((np.array([1, 0]), max(-size, 0)), (np.array([0, 1]), max(size, 0))):
            assert reference.loss(z, y, "binary") == value
            assert np.abs(reference.loss_gradient(z, y, "binary")).max() == (0.5 if value else 0)
        z = np.array([[size, 0, -size], [-size, 0, size]])
        assert reference.loss(z, np.array([0, 2]), "multiclass") == max(-2 * size, 0)
        assert np.isfinite(reference.loss_gradient(z, np.array([0, 1]), "multiclass")).all()
        assert reference.loss(z, np.zeros((2, 3)), "regression") == pytest.approx(2 / 3 * size**2)
        for g, derivative in reference.ACTIVATIONS.values():
            assert np.isfinite(derivative(g(z))).all()


def test_small_probabilities_keep_their_digits() -> None:
    assert reference.sigmoid(np.array(-40.0)) == pytest.approx(math.exp(-40), rel=1e-12)
    assert reference.loss(np.array([[-40.0]]), np.array([0]), "binary") == pytest.approx(math.exp(-40), rel=1e-12)


def test_the_derivative_at_a_kink_is_zero() -> None:
    network = Network([np.zeros((1, 1)), np.ones((1, 1))], [np.zeros(1), np.zeros(1)], "relu")
    factors = Penalties(l1=1.0, activity_l1=1.0)
    (of_w_h, _), (of_b_h, _) = reference.gradients(network, np.ones((1, 1)), np.ones((1, 1)), "regression", factors)
    assert of_w_h.item() == of_b_h.item() == 0


def test_the_reference_does_not_import_torch() -> None:
    program = "import sys, models.steps.reference; print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
