"""Density of vectors: many small Gaussians at the training samples' places, and the range of each number."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.kmeans import k_means
from models.moments import part_rows

NUMBERS = 2**16  # in all centres together, about: the exported graph stays small
CENTRES = (32, 256)  # at least and at most
NEIGHBOURS = 5  # whose distance is the width of a Gaussian
LEAST = 1e-3  # lower bound of its variance, in squared standard deviations of a number: samples may be identical
DRAWN = 20_000  # training samples that it is fitted to, at most
DRAWN_NUMBERS = 4_000_000  # in all of them together, about
BEYOND = 20.0  # nats for each range that a number lies outside of its own
CONSTANT = 1e-3  # range of a number that never differed, so that any other value of it is far away
FARTHEST = 1e4  # standard deviations from the mean; farther inputs count as this far, so that nothing overflows
NONE = -1e9  # log-weight of a Gaussian that is not used


class Mixture(nn.Module):
    """Log-density of standardised features, in nats: a mixture of isotropic Gaussians, each with a weight and a width
    of its own, minus what a feature's lying outside of the training samples' range costs.

    The centres are those of k-means, or the samples themselves where there are few; the width of each is
    the distance of the training samples next to it, as in a kernel density estimate of variable bandwidth (Breiman,
    Meisel & Purcell 1977). Density alone would not notice one number out of hundreds that is far away.
    """

    centre: Tensor  # (M, D)
    precision: Tensor  # (M,), 1 / variance
    offset: Tensor  # (M,), log-weight without the exponent
    low: Tensor  # (D,), least value of the training samples
    high: Tensor  # (D,), greatest
    span: Tensor  # (D,), their difference; `CONSTANT` where there is none

    def __init__(self, n_features: int) -> None:
        super().__init__()
        n = max(CENTRES[0], min(CENTRES[1], NUMBERS // n_features))
        self.register_buffer("centre", torch.zeros(n, n_features))
        self.register_buffer("precision", torch.ones(n))
        self.register_buffer("offset", torch.full((n,), NONE))
        for name in ("low", "high", "span"):
            self.register_buffer(name, torch.ones(n_features))

    def fit(self, drawn: Tensor, parts: Iterable[Tensor], generator: torch.Generator) -> "Mixture":
        """Fit the Gaussians to the training samples `drawn`, float32 (n, D), and the ranges to all of them in parts.

        Example
        -------
        >>> x = torch.cat([torch.linspace(-1, -0.9, 20), torch.linspace(0.9, 1, 20)])[:, None]
        >>> density = Mixture(1).fit(x, [x], torch.Generator().manual_seed(0))
        >>> bool(density(torch.tensor([[0.95]])) > density(torch.tensor([[0.0]])))
        True
        """
        self._fit_ranges(parts)
        centres = drawn if len(drawn) <= len(self.centre) else k_means(drawn, len(self.centre), generator)
        n, dimensions = len(centres), drawn.shape[1]
        few = torch.split(drawn, part_rows(dimensions))  # `cdist` copies what it is given
        distances = torch.cat([torch.cdist(centres, part) for part in few], 1)
        near = distances.topk(min(NEIGHBOURS + 1, len(drawn)), largest=False).values[:, 1:]  # without itself
        width = near.square().mean(1) if near.shape[1] else torch.ones(n, device=drawn.device)
        variance = (width / dimensions).clamp(min=LEAST)
        shares = torch.bincount(distances.argmin(0), minlength=n).float() + 0.5
        self.centre[:n] = centres
        self.precision[:n] = 1 / variance
        self.offset[:n] = (shares / shares.sum()).log() - dimensions / 2 * variance.log()
        return self

    def _fit_ranges(self, parts: Iterable[Tensor]) -> None:
        """In a function of its own, so that no part stays in memory."""
        self.low.fill_(torch.inf)
        self.high.fill_(-torch.inf)
        for part in parts:
            torch.minimum(self.low, part.amin(0), out=self.low)
            torch.maximum(self.high, part.amax(0), out=self.high)
        self.span.copy_(torch.where(self.high > self.low, self.high - self.low, CONSTANT))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features float32 (N, D) → float32 (N, 1)."""
        beyond = ((self.low - x).clamp(min=0) + (x - self.high).clamp(min=0)) / self.span
        x, centre = x.clamp(-FARTHEST, FARTHEST).double(), self.centre.double()
        # In float64, since far away the terms of the distance nearly cancel.
        squared = (x * x).sum(1, keepdim=True) - 2 * (x @ centre.T) + (centre * centre).sum(1)
        log_part = self.offset - (squared * self.precision.double()).float() / 2
        largest = log_part.amax(1, keepdim=True)
        density = largest + (log_part - largest).exp().sum(1, keepdim=True).log()
        return density - BEYOND * beyond.sum(1, keepdim=True).clamp(max=FARTHEST)
