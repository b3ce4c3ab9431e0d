"""k-means: the means of clusters."""

import torch
from torch import Tensor

ROUNDS = 10
PART = 10_000  # samples whose nearest mean is looked for at a time: all at once would take gigabytes


def k_means(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The means float32 (k, d) of k clusters of x, float32 (n, d), k ≤ n, after ROUNDS of Lloyd's algorithm (1982).

    They begin at samples drawn at random, as does a cluster that has lost all of its samples. The same x and generator
    give the same means on one thread.

    >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    >>> k_means(x, 2, torch.Generator().manual_seed(0)).sort(0).values.tolist()
    [[1.0], [11.0]]
    """
    means = x[torch.randperm(len(x), generator=generator)[:k].to(x.device)]
    for _ in range(ROUNDS):
        half = means.square().sum(1) / 2
        nearest = torch.cat([(part @ means.T - half).argmax(1) for part in torch.split(x, PART)])
        counts = torch.bincount(nearest, minlength=k)
        means = torch.zeros_like(means).index_add_(0, nearest, x) / counts.clamp(min=1)[:, None]
        empty = counts == 0
        means[empty] = x[torch.randint(len(x), (int(empty.sum()),), generator=generator).to(x.device)]
    return means
