"""The network, its output activations and losses."""

import pytest
import torch

from models.classifier import Classifier, Standardize
from models.frontend import Pixels, Vector
from models.mlp import MLP


def test_parameter_count_of_one_hidden_layer() -> None:
    n_i, n_h, n_o = 5, 20, 3
    assert MLP(n_i, [n_h], n_o, "sigmoid").n_parameters() == n_h * (n_i + 1) + n_o * (n_h + 1) == 183


def test_summary_names_every_layer_and_adds_up() -> None:
    mlp = MLP(784, [100, 30], 10, "relu")
    rows = mlp.summary()
    assert [row["name"] for row in rows] == ["hidden 1 (relu)", "hidden 2 (relu)", "output"]
    assert [row["output"] for row in rows] == [[None, 100], [None, 30], [None, 10]]
    assert sum(row["parameters"] for row in rows) == mlp.n_parameters()


def test_forward_is_the_formula() -> None:
    mlp, x = MLP(4, [3], 2, "tanh"), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    (w1, w2), (b1, b2) = mlp.weights(), [layer.bias for layer in mlp.layers]
    assert torch.allclose(mlp(x), torch.tanh(x @ w1.T + b1) @ w2.T + b2, atol=1e-6)


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second, other = (MLP(4, [3], 2, "relu", seed) for seed in (7, 7, 8))
    assert torch.rand(1) == expected
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_initialisations() -> None:
    n_in, n_out = 300, 200
    draws = {
        init: MLP(n_in, [n_out], 1, "relu", init=init).layers[0] for init in ("default", "xavier", "he", "uniform")
    }
    bound = {"default": n_in**-0.5, "xavier": (6 / (n_in + n_out)) ** 0.5, "uniform": 0.7}
    for init, largest in bound.items():
        found = draws[init].weight.abs().max().item()
        assert 0.99 * largest < found <= largest, init
    assert draws["he"].weight.std().item() == pytest.approx((2 / n_in) ** 0.5, rel=0.02)
    assert not draws["xavier"].bias.any()
    assert not draws["he"].bias.any()
    assert draws["uniform"].bias.abs().max() > 0.6


def test_activations_are_the_outputs_of_the_hidden_layers() -> None:
    mlp, x = MLP(4, [3, 2], 1, "sigmoid"), torch.ones(5, 4)
    logits, activations = mlp.with_activations(x)
    assert torch.equal(logits, mlp(x))
    assert [tuple(a.shape) for a in activations] == [(5, 3), (5, 2)]
    assert torch.equal(activations[0], torch.sigmoid(mlp.layers[0](x)))


def test_a_linear_model_has_no_hidden_layer() -> None:
    assert MLP(784, [], 10, "sigmoid").n_parameters() == 7850


def test_standardisation_centres_and_scales() -> None:
    x = torch.tensor([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]])
    each = Standardize(3).fit(x, Vector(3))
    assert each(x).tolist() == [[-1, -1, 0], [1, 1, 0]]  # the constant feature is only centred
    together = Standardize(3).fit(x, Pixels())
    assert together.mean.tolist() == [9, 9, 9]
    assert together(x).std(correction=0).item() == pytest.approx(1)


def test_a_classifier_composes_its_parts() -> None:
    classifier = Classifier(Pixels(), Standardize(784), MLP(784, [5], 3, "sigmoid"), "multiclass")
    image = torch.randint(256, (2, 28, 28), dtype=torch.uint8)
    assert torch.equal(classifier(image), classifier.from_features(classifier.frontend(image)))
