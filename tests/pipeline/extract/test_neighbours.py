"""Neighbours found by blocks of a matrix are those of a comparison of all pairs."""

import numpy as np
import torch

from pipeline.extract import neighbours
from pipeline.extract.neighbours import nearest, principal


def test_they_are_those_of_all_pairs() -> None:
    points = torch.randn(1100, 6, generator=torch.Generator().manual_seed(0))
    pairs = torch.cdist(points, points).fill_diagonal_(float("inf"))
    distance, index = pairs.topk(5, 1, largest=False)
    assert len(points) > neighbours.ROWS
    found_index, found_distance = nearest(points, 5)
    assert (found_index == index.numpy()).all()
    assert np.allclose(found_distance, distance.numpy(), atol=1e-4)


def test_only_the_samples_asked_for_count_as_neighbours() -> None:
    points = torch.tensor([[0.0], [1.0], [1.5], [7.0]])
    index, distance = nearest(points, 2, np.array([1, 3]), np.array([0, 3]))
    assert index[0].tolist() == [0, 3]
    assert distance[0].tolist() == [1.0, 6.0]
    assert distance[1].tolist() == [7.0, np.inf]  # besides itself, there is only one


def test_the_leading_components_are_those_of_a_full_decomposition() -> None:
    generator = np.random.default_rng(0)
    falling = np.arange(1, 301) ** -0.5  # slowly, as those of pictures do
    turned = np.linalg.qr(generator.normal(size=(300, 300)))[0]
    z = (generator.normal(size=(900, 300)) * falling @ turned + 3).astype(np.float32)
    centred = torch.from_numpy(z - z.mean(0))
    exact = centred @ torch.linalg.svd(centred, full_matrices=False)[2][: neighbours.COMPONENTS].T
    assert torch.allclose(torch.cdist(principal(z), principal(z)), torch.cdist(exact, exact), atol=0.02)
    assert torch.equal(principal(z), principal(z))
