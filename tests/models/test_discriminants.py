import pytest
import torch
from torch import Tensor

from models.discriminants import Discriminants
from models.familiarity import Familiarity

K, D = 5, 60


def drawn(means: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of classes at `means`, and their classes; each sample lies nearer or farther out than the others."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % len(means)
    far = 0.3 + 1.7 * torch.rand(n, 1, generator=generator)
    return far * means[y] + 0.3 * torch.randn(n, D, generator=generator), y


def test_directions_are_those_of_the_means_in_the_metric_within_the_classes() -> None:
    """x P xᵀ is the same by the formula of the projection, which needs no basis."""
    x, y = drawn(3 * torch.eye(K, D), 160, 0)
    found = Discriminants(D, K).fit_parts([(x[:90], y[:90]), (x[90:], y[90:])])(x)
    x = x.double()
    means = torch.stack([x[y == k].mean(0) for k in range(K)])
    covariance = (x - means[y]).T @ (x - means[y]) / len(x)
    shrunk = 0.9 * covariance + 0.1 * covariance.trace() / D * torch.eye(D)
    x, means = x - x.mean(0), means - x.mean(0)
    toward = torch.linalg.solve(shrunk, means.T)
    products = x @ toward @ torch.linalg.pinv(means @ toward) @ toward.T @ x.T
    lengths = products.diagonal().sqrt()
    assert found.square().sum(1).numpy() == pytest.approx(1)
    assert (found @ found.T).double().numpy() == pytest.approx(
        (products / torch.outer(lengths, lengths)).numpy(), abs=1e-3
    )


def test_a_sound_of_no_class_is_less_familiar_than_one_far_out() -> None:
    """The networks say nothing here, so that only the direction tells them apart."""
    familiarity = Familiarity(D, 8, K, outliers="noises").requires_grad_(False)
    assert familiarity.discriminants is not None
    assert familiarity.contrast is not None
    familiarity.contrast.weights()[-1].zero_()
    means = 3 * torch.eye(K, D)
    x, y = drawn(means, 500, 0)
    familiarity.discriminants.fit_parts([(x, y)])
    familiarity.of_direction.fit(familiarity.discriminants(x), y)

    def asked(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, torch.zeros(len(x), 8), torch.full((len(x), K), 1 / K) + 1e-3 * torch.rand(len(x), 1)

    familiarity.fit_scale([asked(drawn(means, 200, 1)[0])])
    far_out = familiarity(*asked(2.5 * means))
    between = familiarity(*asked(means + means.roll(1, 0)))
    assert between.max() < 0.05 < far_out.min()


@pytest.mark.parametrize("n_labels", [2, 3])
def test_only_three_classes_or_more_have_directions(n_labels: int) -> None:
    assert (Familiarity(D, 8, n_labels, outliers="noises").discriminants is None) == (n_labels == 2)


@pytest.mark.parametrize("n", [1, 7])
def test_classes_whose_samples_are_all_the_same_have_directions(n: int) -> None:
    """Within the classes nothing varies but what float32 rounds off."""
    y = torch.arange(3).repeat(n)
    x = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))[y]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    found = Discriminants(1000, 3).fit_parts([(x, y)])(x)
    assert found.square().sum(1).numpy() == pytest.approx(1)
    assert (found @ found.T).numpy() == pytest.approx((y[:, None] == y).double().mul(1.5).sub(0.5).numpy(), abs=0.6)
