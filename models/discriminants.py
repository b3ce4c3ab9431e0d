"""In which direction from the middle of all classes an input lies, seen in Fisher's linear discriminants."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

SHRINKAGE = 0.1  # share of the mean variance in the covariance within classes; several hundred features need some
# Least mean variance within the classes, of features whose variance in all is 1: where each class has one sample, or
# the same one several times, there is none, and the rounding of float32 would be taken for it.
LEAST_VARIANCE = 1e-2
LEAST = 1e-6  # of the length of a direction, so that the middle itself has one


class Discriminants(nn.Module):
    """The K - 1 directions that tell K classes apart best, as a point on the unit sphere (Fisher 1936).

    The features are made white within the classes, with a covariance that is shrunk (Friedman 1989), and projected
    onto the span of the classes' means. Their length is dropped: an unusual sample of a known class lies far out, but
    in the direction of its class, whereas one of a class never taught lies between the directions. Speakers are told
    apart by the same cosine (Dehak et al. 2011, "Front-end factor analysis for speaker verification").

    Parameters
    ----------
    n_features, n_labels : number D of features and K of classes, at least 3: of two classes there is only a sign
    """

    centre: Tensor  # (D,), the mean over all samples
    basis: Tensor  # (D, K - 1)

    def __init__(self, n_features: int, n_labels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("basis", torch.zeros(n_features, n_labels - 1))

    def fit_parts(self, parts: Iterable[tuple[Tensor, Tensor]]) -> "Discriminants":
        """Fit to standardised features x, float32 (N, D), of classes y, int64 (N,), in parts; each class needs some.

        Example
        -------
        >>> x = torch.eye(3).repeat(4, 1) + torch.linspace(-0.1, 0.1, 36).view(12, 3)
        >>> direction = Discriminants(3, 3).fit_parts([(x, torch.arange(12) % 3)])
        >>> direction(5 * x - 4 * x.mean(0)).sub(direction(x)).abs().max() < 1e-5  # five times as far out
        tensor(True)
        """
        n_features, k = self.basis.shape[0], self.basis.shape[1] + 1
        sums = torch.zeros(k, n_features, dtype=torch.float64, device=self.basis.device)
        squares = torch.zeros(n_features, n_features, dtype=torch.float64, device=self.basis.device)
        counts = torch.zeros(k, 1, dtype=torch.float64, device=self.basis.device)
        for x, y in parts:
            sums.index_add_(0, y, x.double())
            squares += x.T @ x  # in float32: the shrinkage is far greater than its rounding
            counts += torch.bincount(y, minlength=k).unsqueeze(1)
        means, n = sums / counts, counts.sum()
        within = (squares - sums.T @ means) / n
        mean_variance = within.trace() / n_features
        within.mul_(1 - SHRINKAGE).diagonal().add_(SHRINKAGE * mean_variance.clamp(min=LEAST_VARIANCE))
        centre = sums.sum(0) / n
        root = torch.linalg.cholesky(within)
        white = torch.linalg.solve_triangular(root, (means - centre).T, upper=False)  # (D, K)
        directions = torch.linalg.svd(white, full_matrices=False).U[:, : k - 1]
        basis = torch.linalg.solve_triangular(root.T, directions, upper=True)
        self.centre.copy_(centre)
        self.basis[:, : basis.shape[1]] = basis.to(self.basis)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features float32 (N, D) → float32 (N, K - 1), of length 1."""
        projected = (x - self.centre) @ self.basis
        return projected / projected.square().sum(1, keepdim=True).sqrt().clamp(min=LEAST)
