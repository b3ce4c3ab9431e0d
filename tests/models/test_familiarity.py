import numpy as np
import torch

from models.familiarity import Density


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
