"""The plain step: gradients equal the reference, training equals autograd, stacked networks do not affect each
other."""

import copy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mlp import MLP
from models.steps import reference
from models.steps.closed_form import Backprop, Setup
from models.steps.reference import Penalties
from pipeline.lessons.gradcheck import as_reference
from pipeline.task import Train
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.trainers import Autograd, ClosedForm

KINDS = ("multiclass", "binary", "regression")
ACTIVATIONS = ("sigmoid", "relu", "tanh")
OPTIMIZERS = {"sgd": 0.1, "momentum": 0.02, "adam": 0.01}  # and a learning rate for each
PENALTIES = [
    {"l1": 1e-3}, {"l2": 1e-3}, {"activity_l1": 1e-3}, {"activity_l2": 1e-3},
    {"l1": 1e-3, "l2": 2e-3, "activity_l1": 3e-3, "activity_l2": 4e-3},
]  # fmt: skip


def problem(kind: str, n: int = 70, n_inputs: int = 6, n_outputs: int = 3, seed: int = 0) -> Dataset:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_inputs, generator=draw)
    if kind == "regression":
        return Dataset(x, torch.randn(n, n_outputs, generator=draw))
    return Dataset(x, torch.randint(2 if kind == "binary" else n_outputs, (n,), generator=draw))


def network(data: Dataset, kind: str, hidden: tuple[int, ...] = (5, 4), activation: Any = "tanh", seed: int = 0) -> MLP:
    return MLP(data.x.shape[1], hidden, 1 if kind == "binary" else 3, activation, seed)


def trained(
    trainer: Any, networks: list[MLP], data: list[Dataset], kind: Any, options: list[Train], epochs: int = 3
) -> list[torch.Tensor]:
    """Losses and accuracies (2, M) of every epoch; the networks are trained in place."""
    feed = Feed(data, [o.seed for o in options], options[0].batch_size, mix=options[0].mix)
    running = trainer(networks, feed, kind, options)
    return [torch.stack(running.epoch(epoch, 1 / (1 + epoch))) for epoch in range(epochs)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 7), max_size=3),
    size=st.integers(1, 20),
    factors=st.fixed_dictionaries(dict.fromkeys(Penalties._fields, st.sampled_from([0.0, 1e-3, 0.5]))),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_equal_the_reference(
    kind: Any, activation: Any, hidden: list[int], size: int, factors: dict[str, float], seed: int
) -> None:
    data = problem(kind, size, seed=seed)
    mlp = network(data, kind, tuple(hidden), activation, seed)
    penalties = Penalties(**factors)
    by_hand = reference.gradients(
        as_reference(copy.deepcopy(mlp).double()), data.x.double().numpy(), data.y.numpy(), kind, penalties
    )
    feed = Feed([data], [seed], size)
    order = feed.order(0)[0]
    step = Backprop(Setup([mlp], kind, size, "sgd", [1.0], [penalties]))
    z = torch.empty(1 if kind == "binary" else 3, size)
    before = step.parameters.clone()
    step.step(data.x[order], feed.targets(data.y[order][None], len(z))[0], feed.weights[0], z, (True,))
    taken = before - step.parameters  # plain descent with a learning rate of 1: the gradient itself
    expected = np.concatenate([g.ravel() for g in (*by_hand.weights, *by_hand.biases)])
    np.testing.assert_allclose(taken.numpy(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("penalties", [{}, *PENALTIES], ids=lambda p: "+".join(p) or "none")
@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_autograd(kind: Any, penalties: dict[str, float]) -> None:
    """Same batches, same losses and weights, for every activation, optimiser and depth."""
    data = problem(kind)
    for activation, (optimizer, rate), hidden in product(ACTIVATIONS, OPTIMIZERS.items(), ((), (7,), (5, 4))):
        options = Train(batch_size=16, optimizer=optimizer, learning_rate=rate, **penalties)
        ours = network(data, kind, hidden, activation)
        theirs = copy.deepcopy(ours)
        found = trained(ClosedForm, [ours], [data], kind, [options])
        expected = trained(Autograd, [theirs], [data], kind, [options])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_training_equals_autograd(kind: Any) -> None:
    data, losses = problem(kind), []
    for mix in (0.0, 0.5):
        options = Train(batch_size=16, learning_rate=0.01, mix=mix)
        ours = network(data, kind)
        theirs = copy.deepcopy(ours)
        found = trained(ClosedForm, [ours], [data], kind, [options])
        expected = trained(Autograd, [theirs], [data], kind, [options])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
        losses.append(found[-1][0].item())
    assert losses[0] != losses[1]


def test_samples_and_targets_are_mixed_alike() -> None:
    data = problem("multiclass")
    feed = Feed([Dataset(torch.nn.functional.one_hot(data.y, 3).to(torch.float32), data.y)], [0], 16, mix=0.5)
    order, shares = feed.order(2), feed.partner_shares(2)
    assert shares is not None
    assert 0 <= shares.min() < 0.1
    assert 0.4 < shares.max() <= 0.5
    x = torch.empty(feed.n_steps, 16, 3)
    for start in (0, 2, 4):  # two batches at a time, one at the end
        some = slice(start, start + 2)
        feed.fill(order[some], x[some], feed.randomness(2), shares[some])
    torch.testing.assert_close(x.mT, feed.targets(data.y[order], 3, shares))
    torch.testing.assert_close(x.sum(-1), torch.ones(feed.n_steps, 16))
    assert not torch.equal(shares, feed.partner_shares(3))
    assert torch.equal(shares, feed.partner_shares(2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_networks_are_trained_as_each_alone(kind: Any, optimizer: str) -> None:
    """Their learning rates, penalties, seeds and samples differ, and so does the number of their batches."""
    sets = [problem(kind, n, seed=n) for n in (70, 45)]
    settings = list(product(sets, (0.5, 1.0), PENALTIES, (0, 1)))
    options = [
        Train(batch_size=16, optimizer=optimizer, learning_rate=OPTIMIZERS[optimizer] * factor, seed=seed, **penalties)
        for _, factor, penalties, seed in settings
    ]
    data = [batch for batch, *_ in settings]
    together = [network(batch, kind, seed=o.seed) for batch, o in zip(data, options, strict=True)]
    alone = copy.deepcopy(together)
    found = torch.stack(trained(ClosedForm, together, data, kind, options), 0)
    for m, (mlp, batch, option) in enumerate(zip(alone, data, options, strict=True)):
        expected = torch.stack(trained(ClosedForm, [mlp], [batch], kind, [option]), 0)
        torch.testing.assert_close(found[..., m], expected[..., 0], rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(together[m].parameters(), mlp.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("hidden", [(), (7,), (5, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_that_share_their_batches_are_trained_as_each_alone(kind: Any, hidden: tuple[int, ...]) -> None:
    data = problem(kind)
    assert Feed([data, data], [0, 0], 16).order(0).shape == (5, 16)
    options = [Train(batch_size=16, learning_rate=rate, **p) for rate, p in product((0.001, 0.01), PENALTIES)]
    together = [network(data, kind, hidden) for _ in options]
    alone = copy.deepcopy(together)
    found = torch.stack(trained(ClosedForm, together, [data] * len(options), kind, options))
    for m, option in enumerate(options):
        expected = torch.stack(trained(ClosedForm, [alone[m]], [data], kind, [option]))
        torch.testing.assert_close(found[..., m], expected[..., 0], rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(together[m].parameters(), alone[m].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_nothing_is_allocated_inside_a_step() -> None:
    data = problem("multiclass", 64)
    options = Train(l1=1e-3, l2=1e-3, activity_l1=1e-3, activity_l2=1e-3)
    mlp = network(data, "multiclass", (50, 40))
    penalties = Penalties(options.l1, options.l2, 1e-3, 1e-3)
    step = Backprop(Setup([mlp], "multiclass", 64, "adam", [0.01], [penalties]))
    feed = Feed([data], [0], 64)
    targets, z = feed.targets(data.y[None], 3)[0], torch.empty(3, 64)
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        step.step(data.x, targets, feed.weights[0], z, (True,))
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated < 512  # bytes: a few scalars of the operators' own; one δ of the hidden layer has 12,800


def test_a_feed_gives_every_sample_once_and_pads_with_weight_zero() -> None:
    data = problem("multiclass", 70)
    feed = Feed([data], [3], 16)
    for epoch in range(2):
        order = feed.order(epoch)[feed.weights.squeeze(-2) > 0]
        assert sorted(order.tolist()) == list(range(70))
    assert not torch.equal(feed.order(0), feed.order(1))
    assert torch.equal(feed.order(1), Feed([data], [3], 16).order(1))
    torch.testing.assert_close(feed.weights.sum((1, 2)), torch.ones(5))


def test_a_trained_network_can_be_evaluated_and_loaded() -> None:
    data = problem("multiclass")
    mlp = network(data, "multiclass")
    before = copy.deepcopy(mlp)
    trained(ClosedForm, [mlp], [data], "multiclass", [Train(batch_size=16)])
    assert not torch.equal(mlp(data.x), before(data.x))
    mlp.load_state_dict(before.state_dict())
    assert torch.equal(mlp(data.x), before(data.x))
