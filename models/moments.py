"""Mean and variance of data in parts, on one machine or several, as accurate as from all of it at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

PART = 512 << 10  # bytes of features whose moments are computed at once


@dataclass(frozen=True, slots=True)
class Moments:
    """Of n values for each feature: mean and sum of squared deviations from it, float64 (D,), or () over all features.

    Parts are joined by the formula of Chan, Golub & LeVeque (1983, "Algorithms for computing the sample variance"),
    which subtracts no large sums, so a small variance keeps its digits next to a large mean. The same parts joined in
    the same order give the same bits, on any machines.

    >>> halves = [Moments.of(torch.tensor(part).view(-1, 1), one_unit=True) for part in ([1.0, 2.0], [3.0, 6.0])]
    >>> Moments.joined(halves).mean.item(), Moments.joined(halves).squares.item()
    (3.0, 14.0)
    """

    n: int
    mean: Tensor
    squares: Tensor

    @staticmethod
    def of(x: Tensor, one_unit: bool) -> "Moments":
        """The moments of one part, float32 (N, D), N ≥ 1, small enough for two copies in float64."""
        values = x.double().flatten() if one_unit else x.double()
        mean = values.mean(0)
        deviations = values.sub_(mean)
        # The second term would be 0 without rounding: it corrects the error of the mean (ibid., eq. 1.7).
        squares = deviations.square().sum(0) - deviations.sum(0).square() / len(values)
        return Moments(len(values), mean, squares)

    def join(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        return Moments(n, mean, self.squares + other.squares + delta.square() * (self.n / n * other.n))

    @staticmethod
    def joined(parts: Iterable["Moments"]) -> "Moments":
        return reduce(Moments.join, parts)

    @property
    def deviation(self) -> Tensor:
        """Population standard deviation: squares divided by n."""
        return torch.sqrt(self.squares / self.n)


def part_rows(n_features: int) -> int:
    """Samples in a part. It depends only on the number of features, so that a data set has the same parts
    everywhere."""
    return max(1, PART // (4 * n_features))
