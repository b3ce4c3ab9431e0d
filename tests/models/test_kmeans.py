"""k-means: what its means are, and what becomes of clusters without samples."""

import torch

from models.kmeans import k_means


def means(x: torch.Tensor, k: int) -> torch.Tensor:
    return k_means(x, k, torch.Generator().manual_seed(0))


def test_each_mean_is_that_of_the_samples_next_to_it() -> None:
    x = torch.cat([torch.randn(50, 2, generator=torch.Generator().manual_seed(i)) + 20 * i for i in range(3)])
    found = means(x, 3)
    nearest = torch.cdist(x, found).argmin(1)
    torch.testing.assert_close(found, torch.stack([x[nearest == i].mean(0) for i in range(3)]))
    assert torch.equal(found, means(x, 3))


def test_a_cluster_without_samples_begins_anew_at_one() -> None:
    """Of equal samples, one cluster gets all."""
    x = torch.cat([torch.zeros(90, 1), torch.full((10, 1), 5.0)])
    assert {*means(x, 8).flatten().tolist()} == {0.0, 5.0}
    assert means(torch.ones(4, 3), 4).tolist() == torch.ones(4, 3).tolist()
