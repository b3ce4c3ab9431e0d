"""Targets: answers, losses and their gradient agree with each other."""

import math
from typing import Any

import pytest
import torch

from models.targets import TARGETS


@pytest.mark.parametrize(("kind", "labels"), [("multiclass", 3), ("binary", 2)])
def test_probabilities_have_one_column_for_each_label_and_add_up(kind: Any, labels: int) -> None:
    target = TARGETS[kind]
    logits = 5 * torch.randn(6, target.n_outputs(labels), generator=torch.Generator().manual_seed(0))
    p = target.answer(logits)
    assert p.shape == (6, labels)
    assert torch.allclose(p.sum(1), torch.ones(6))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_are_finite_for_huge_logits(size: float) -> None:
    for kind, width in (("binary", 1), ("multiclass", 3), ("regression", 3)):
        logits = torch.full((2, width), size, requires_grad=True)
        y = torch.zeros(2, width) if kind == "regression" else torch.tensor([0, 1])
        value = TARGETS[kind].loss(logits * torch.arange(1, width + 1), y)
        value.backward()
        assert math.isfinite(value.item())
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_binary_loss_is_the_cross_entropy_of_its_probabilities() -> None:
    logits, y = torch.tensor([[0.3], [-1.2], [2.0]]), torch.tensor([1, 0, 0])
    p = TARGETS["binary"].answer(logits)
    expected = -p[torch.arange(3), y].log().mean().item()
    assert TARGETS["binary"].loss(logits, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
def test_delta_is_the_gradient_of_the_loss_and_losses_are_its_terms(kind: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, TARGETS[kind].n_outputs(3), generator=draw, requires_grad=True)
    y = torch.randn(6, 3, generator=draw) if kind == "regression" else torch.tensor([0, 1, 1, 0, 1, 0])
    columns = {"multiclass": lambda: torch.eye(3)[y].T, "binary": lambda: y[None].float(), "regression": lambda: y.T}
    value = TARGETS[kind].loss(logits, y)
    value.backward()
    z = logits.detach().T
    delta = TARGETS[kind].delta(z, columns[kind](), torch.full((1, 6), 1 / 6), torch.empty_like(z))
    torch.testing.assert_close(delta.T, logits.grad)
    torch.testing.assert_close(TARGETS[kind].losses(z, y).mean(), value.detach())


def test_hits_are_the_right_answers_and_a_regression_has_none() -> None:
    z = torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 0.0]])  # three samples of two classes
    assert TARGETS["multiclass"].hits(z, torch.tensor([0, 1, 1])).tolist() == [True, True, False]
    assert TARGETS["binary"].hits(z[:1] - 1.5, torch.tensor([1, 0, 1])).tolist() == [True, True, False]
    assert TARGETS["regression"].hits(z, z.T).isnan().all()
