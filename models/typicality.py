"""Typicality: whether each kind of an input's features is as strong as it usually is.

In many dimensions the likeliest point of a density is nowhere near its samples, so an input without any contrast can
have a high density and still be unlike all of them (Nalisnick et al. 2019, "Detecting out-of-distribution inputs to
deep generative models using typicality").
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

FREEDOM = 4.0  # degrees of freedom of Student's t
LEAST = 1e-6  # added under square roots and to variances


class Typicality(nn.Module):
    """Log-density of the groups' strengths, the log of the root mean square and the mean of each, as Student's t.

    A Gaussian would let one unusual strength outweigh all that the last hidden layer says.

    Parameters
    ----------
    groups : start and stop of each group of features
    """

    centre: Tensor  # (2 G,)
    precision: Tensor  # (2 G, 2 G), the inverse of the covariance

    def __init__(self, groups: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.register_buffer("centre", torch.zeros(2 * len(self.groups)))
        self.register_buffer("precision", torch.eye(2 * len(self.groups)))

    def strengths(self, x: Tensor) -> Tensor:
        """Standardised features float32 (N, D) → float32 (N, 2 G)."""
        found = []
        for start, stop in self.groups:
            part = x[:, start:stop]
            found += [torch.log(torch.sqrt((part * part).mean(1) + LEAST)), part.mean(1)]
        return torch.stack(found, 1)

    def fit_parts(self, parts: Iterable[Tensor]) -> None:
        """Fit it to standardised features, in parts float32 (n, D)."""
        strengths = torch.cat([self.strengths(part) for part in parts]).double()
        centred = strengths - strengths.mean(0)
        covariance = centred.T @ centred / len(strengths)
        least = LEAST * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        self.centre.copy_(strengths.mean(0))
        self.precision.copy_(torch.linalg.inv(covariance + 1e-3 * torch.diag(covariance.diagonal()) + least))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features float32 (N, D) → float32 (N, 1), in nats, without the constant."""
        away = self.strengths(x) - self.centre
        distance = ((away @ self.precision) * away).sum(1, keepdim=True)
        return torch.log(1 + distance / FREEDOM) * (-(FREEDOM + len(self.centre)) / 2)
