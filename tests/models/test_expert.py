"""The mixture of two networks: each answers alone where the gate is sure, and both together where it is not."""

import pytest
import torch
from torch import Tensor

from models.classifier import Classifier, Standardize
from models.frontend import Vector
from models.mlp import MLP

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def mixture(logit: float, hidden: tuple[int, ...] = (6,)) -> Classifier:
    """Two networks with weights of their own, and a gate that gives every sample that logit."""
    classifier = Classifier(Vector(5), Standardize(5), MLP(5, hidden, 3, "relu", seed=1), "multiclass")
    expert = classifier.add_expert()
    expert.mlp.load_state_dict(MLP(5, hidden, 3, "relu", seed=2).state_dict())
    gate = expert.gate.linear()[-1]
    gate.weight.data.zero_()
    gate.bias.data.fill_(logit)
    return classifier


def alone(mlp: MLP) -> tuple[Tensor, Tensor]:
    return mlp.last_layer(X)


@pytest.mark.parametrize("hidden", [(6,), ()])
def test_the_gate_decides_which_network_answers(hidden: tuple[int, ...]) -> None:
    for logit, share in ((-30.0, 0.0), (30.0, 1.0), (0.0, 0.5)):
        classifier = mixture(logit, hidden)
        assert classifier.expert is not None
        first, second = alone(classifier.mlp), alone(classifier.expert.mlp)
        for found, a, b in zip(classifier.last_layer(X), first, second, strict=True):
            torch.testing.assert_close(found, (1 - share) * a + share * b)


def test_probabilities_are_those_of_the_mixture() -> None:
    classifier = mixture(1.0)
    torch.testing.assert_close(classifier.from_features(X), torch.softmax(classifier.last_layer(X)[0], 1))
    assert not torch.allclose(classifier.from_features(X), torch.softmax(classifier.mlp(X), 1))  # type: ignore[arg-type]


def test_a_classifier_counts_all_of_its_layers() -> None:
    classifier = mixture(0.0)
    assert classifier.expert is not None
    parts = classifier.mlp, classifier.expert.mlp, classifier.expert.gate
    assert classifier.n_parameters() == sum(part.n_parameters() for part in parts) == 54 + 3 + 54 + 3 + 17 * 6 + 11
    assert [row["name"] for row in classifier.summary()] == [
        "hidden 1 (relu)", "output", "for degraded samples: hidden 1 (relu)", "for degraded samples: output",
        "gate: hidden 1 (relu)", "gate: output",
    ]  # fmt: skip
