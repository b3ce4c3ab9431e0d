import numpy as np
import pytest
import torch

from models.familiarity import Density, Familiarity, Outliers


def test_density_of_many_features_in_a_plane_is_exact():
    """The last layer of a network with two inputs: nearly all of its directions have the least variance."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    plane = rng.normal(size=(600, 2)) + 3 * y[:, np.newaxis]
    x = torch.from_numpy(np.tanh(plane @ rng.normal(size=(2, 100))).astype(np.float32))
    density = Density(100, 2).fit(x, torch.from_numpy(y))
    found = density.forward(x)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))  # other order of sums
    density.centre, density.mean, density.basis = density.centre[order], density.mean[:, order], density.basis[order]
    assert (density.forward(x[:, order]) - found).abs().max() < 1e-4  # nats


def test_the_largest_density_is_that_of_the_class():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 3, 300))
    x = torch.from_numpy(rng.normal(size=(300, 5)).astype(np.float32)) + 4 * torch.eye(5)[y]
    density = Density(5, 3).fit(x, y)
    of_each = density.of_each(x)
    assert of_each.shape == (300, 3)
    assert (of_each.amax(1, keepdim=True) == density.forward(x)).all()
    assert (of_each.argmax(1) == y).float().mean() > 0.97


@pytest.mark.parametrize(
    ("outliers", "vectors", "n_labels", "reads"),
    [("images", False, 3, True), ("noises", False, 3, True), ("noises", False, 2, True), (None, True, 3, False)],
)
def test_a_second_reading_of_the_classes(outliers: Outliers | None, vectors: bool, n_labels: int, reads: bool) -> None:
    familiarity = Familiarity(7, 5, n_labels, outliers, vectors)
    x, hidden, probabilities = torch.ones(4, 7), torch.ones(4, 5), torch.full((4, n_labels), 1 / n_labels)
    rank, second = familiarity.readings(x, hidden, probabilities)
    assert rank.shape == (4,)
    assert familiarity.reads_classes == reads
    assert (None if second is None else second.shape) == ((4, n_labels) if reads else None)
