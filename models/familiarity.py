"""Familiarity: a score from 0 to 1 of how well an input fits what the classifier was trained on.

An input that does not fit is *out-of-distribution*: given a photo of a cat, a classifier of digits still answers with a
digit. An input whose familiarity reaches the threshold in the card is *known*, any other is *unknown*.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.discriminants import Discriminants
from models.mixture import Mixture
from models.mlp import MLP
from models.typicality import Typicality

RANK = 20  # directions in which each class has its own variance
LEAST = 1e-3  # lower bound of the variance in all other directions, as a share of the mean variance; float32 needs one
Outliers = Literal["images", "noises", "scenes"]  # out-of-distribution inputs that can be made
CONTRAST = {
    "images": (128,),
    "noises": (100,),
    "scenes": (64,),
}  # hidden units of the network that tells them
DENSITY, NETWORK = 0.5, 2.0  # how much these terms of sound vary, relative to log p(k | x)
STEPS = 500  # quantiles of the validation scores, which turn a score into a rank
LEAST_SPREAD = 1e-2  # nats: lower bound of the spread of scores over the validation samples


class Density(nn.Module):
    """Log-density of the likeliest class, each a Gaussian fitted by probabilistic principal component analysis.

    Each class has its own variance in each of `RANK` directions, and one variance in all others (Tipping & Bishop
    1999). Such densities detect out-of-distribution inputs better on the last hidden layer than on the input (Lee et
    al. 2018).

    Parameters
    ----------
    n_features, n_labels : width H of the layer, number K of classes
    """

    centre: Tensor  # (H,), the mean over all classes
    mean: Tensor  # (K, H), of each class, relative to the centre
    basis: Tensor  # (H, K · R), orthonormal for each class
    offset: Tensor  # (K · R,), the mean in that basis
    gain: Tensor  # (K, R), 1 / residual variance - 1 / variance in that direction
    precision: Tensor  # (K,), 1 / residual variance
    log_volume: Tensor  # (K,), log-determinant of the covariance

    def __init__(self, n_features: int, n_labels: int) -> None:
        super().__init__()
        rank = min(RANK, max(1, n_features - 1))
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("mean", torch.zeros(n_labels, n_features))
        self.register_buffer("basis", torch.zeros(n_features, n_labels * rank))
        self.register_buffer("offset", torch.zeros(n_labels * rank))
        self.register_buffer("gain", torch.zeros(n_labels, rank))
        self.register_buffer("precision", torch.ones(n_labels))
        self.register_buffer("log_volume", torch.zeros(n_labels))

    def fit(self, x: Tensor, y: Tensor) -> "Density":
        """Fit means and covariances to x, float32 (N, H), of classes y, int64 (N,); every class needs samples."""
        return self.fit_parts([(x, y)])

    def fit_parts(self, parts: Iterable[tuple[Tensor, Tensor]]) -> "Density":
        """Like `fit`, for x and y in parts; covariances are joined as `models.moments` joins variances."""
        (k, rank), n_features = self.gain.shape, len(self.centre)
        like: dict[str, Any] = {"dtype": torch.float64, "device": self.centre.device}
        counts, means = [0] * k, torch.zeros(k, n_features, **like)
        products = torch.zeros(k, n_features, n_features, **like)  # Σ (x - mean)(x - mean)ᵀ of each class
        for x, y in parts:
            for i in set(y.tolist()):
                own = x[y == i].double()
                mean, n = own.mean(0), counts[i] + len(own)
                delta = mean - means[i]
                products[i] += (own - mean).T @ (own - mean) + torch.outer(delta, delta) * (counts[i] / n * len(own))
                means[i] += delta * (len(own) / n)
                counts[i] = n
        sizes = torch.tensor(counts, **like)
        centre = sizes @ means / sum(counts)
        total = products.diagonal(dim1=1, dim2=2).sum() + sizes @ (means - centre).square().sum(1)
        least = LEAST * (total / (sum(counts) * n_features)).clamp(min=1e-12)
        bases = torch.zeros(k, n_features, rank, **like)
        for i, n in enumerate(counts):
            mean = means[i] - centre
            values, vectors = torch.linalg.eigh(products[i] / n)
            values, vectors = values.flip(0), vectors.flip(1)
            r = min(rank, n_features - 1, n // 3)  # few samples do not determine many directions
            residual = (values[r:].clamp(min=0).mean()).clamp(min=least)
            variance = values[:r].clamp(min=residual)
            bases[i, :, :r] = vectors[:, :r]
            self.mean[i] = mean
            self.gain[i, :r] = 1 / residual - 1 / variance
            self.precision[i] = 1 / residual
            self.log_volume[i] = variance.log().sum() + (n_features - r) * residual.log()
        self.centre.copy_(centre)
        self.basis.copy_(bases.permute(1, 0, 2).flatten(1))
        self.offset.copy_((self.mean.double().unsqueeze(1) @ bases).flatten())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, H) → float32 (N, 1), in nats, without the constant of the normal distribution."""
        return self.of_each(x).amax(1, keepdim=True)

    def of_each(self, x: Tensor) -> Tensor:
        """float32 (N, H) → float32 (N, K), the log-density of each class, as `forward` gives the largest."""
        # In float64: with many features and few directions, the two terms of `distance` nearly cancel.
        x = (x - self.centre).double()
        mean, gain = self.mean.double(), self.gain.double()
        squared = (x * x).sum(1, keepdim=True) - 2 * x @ mean.T + (mean * mean).sum(1)
        inside = (x @ self.basis.double() - self.offset.double()).view(-1, *gain.shape)
        distance = squared * self.precision - (inside * inside * gain).sum(2)
        return (distance + self.log_volume).float() / -2


class Familiarity(nn.Module):
    """The share of validation samples that fit no better than this one, 0 … 1: a calibrated score.

    Such a rank is the p-value of the hypothesis that the input comes from the training distribution, as in conformal
    anomaly detection (Laxhammar & Falkman 2015). For vectors their log-density (`Mixture`) is ranked. For others it is
    the sum of two, in nats: log p(k | x) of the likeliest class k, without the temperature, which would leave hardly
    any difference between confident answers; and a log-likelihood of x. For images this is log p(x) / q(x), where q
    generates out-of-distribution images, learned by a network that separates the two (Hastie, Tibshirani & Friedman
    2009, §14.2.4), and the classes of p from each other, so that it learns what makes each of them. Other media have no
    such q: there it is the `Density` of the last hidden layer, scaled to vary as much as log p(k | x) does among the
    validation samples, or for sound `DENSITY` times as much. For sound, a third term is the log-probability, by such a
    network, that x is of any class, and not noise or like copies made to be of no class; it varies `NETWORK` times as
    much. And with three classes or more, a fourth is the `Density` of the direction of x in its `Discriminants`, which
    varies as much: it sees all features, of which the network has learned to ignore what its own classes have in
    common.
    For pictures in colour the `Typicality` of the strengths of their features takes the place of log p(k | x), which is
    often high for noise and text, and a third term is log p(h) / q(h) of the last hidden layer h, by such a network.
    All three are scaled so that their middle validation samples vary alike.

    Parameters
    ----------
    n_features, n_hidden, n_labels : of the classifier: inputs, width of the last hidden layer, classes
    outliers : which out-of-distribution inputs can be generated, `FrontEnd.outliers`
    vectors : the inputs are vectors of the user's numbers
    groups : start and stop of the groups of features whose strengths count; none: they do not
    """

    unit: Tensor  # (), the density is divided by it
    other_units: Tensor  # (n,), likewise the terms after it; of sound all but the last
    scale: Tensor  # (STEPS + 1,), scores of the validation samples at evenly spaced ranks

    def __init__(
        self,
        n_features: int,
        n_hidden: int,
        n_labels: int,
        outliers: Outliers | None,
        vectors: bool = False,
        groups: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.typicality = Typicality(groups) if groups else None
        seen = n_hidden if outliers == "scenes" else n_features
        n_outputs = 1 if outliers == "scenes" else n_labels + 1  # the last of several: out-of-distribution
        self.contrast = MLP(seen, CONTRAST[outliers], n_outputs, "relu", init="he") if outliers else None
        self.mixture = Mixture(n_features) if vectors else None
        self.density = None if outliers == "images" or vectors else Density(n_hidden, n_labels)
        self.discriminants: Discriminants | None = None
        if outliers == "noises" and n_labels > 2:
            self.discriminants = Discriminants(n_features, n_labels)
            self.of_direction = Density(n_labels - 1, n_labels)
        self.register_buffer("unit", torch.ones(()))
        n_units = 2 if groups or self.discriminants else 1 if outliers == "noises" else 0
        self.register_buffer("other_units", torch.ones(n_units), persistent=n_units > 0)
        self.register_buffer("scale", torch.linspace(0, 1, STEPS + 1))

    @property
    def reads_classes(self) -> bool:
        """Whether it has a second reading of the classes, see `readings`."""
        return self.mixture is None

    def _terms(self, x: Tensor, hidden: Tensor, probabilities: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The terms of the score, each (N, 1): first those that are divided by a unit; and the second reading."""
        if self.mixture is not None:
            return [self.mixture.forward(x)], None
        of_answers = torch.log(probabilities.amax(1, keepdim=True))
        if self.density is None:
            assert self.contrast is not None
            logits = self.contrast.forward(x)
            return [_log_odds(logits), of_answers], logits[:, :-1]
        of_classes = self.density.of_each(hidden)
        terms = [of_classes.amax(1, keepdim=True)]
        if self.typicality is not None:
            assert self.contrast is not None
            return [*terms, self.typicality.forward(x), self.contrast.forward(hidden)], of_classes
        if self.discriminants is not None:
            of_classes = self.of_direction.of_each(self.discriminants.forward(x))
            terms.append(of_classes.amax(1, keepdim=True))
        if self.contrast is not None:
            terms.append(logsigmoid(_log_odds(self.contrast.forward(x))))
        return [*terms, of_answers], of_classes

    def _sum(self, terms: Sequence[Tensor]) -> Tensor:
        """The score before it becomes a rank: (N, 1), in nats."""
        total, n = terms[0] / self.unit.to(terms[0]), len(self.other_units)
        for i, term in enumerate(terms[1:]):
            total = total + (term / self.other_units[i].to(term) if i < n else term)
        return total

    def fit_scale(self, samples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Fit unit and scale to the validation samples, at least one, in parts: arguments of `forward`."""
        parts = zip(*(self._terms(*part)[0] for part in samples), strict=True)
        terms = [torch.cat(part).double().cpu() for part in parts]
        if self.typicality is not None:
            # By quartiles: a few samples far below the others would leave a term next to no weight.
            spreads = torch.stack([(term.median() - term.quantile(0.25)).clamp(min=LEAST_SPREAD) for term in terms])
            self.unit.copy_(spreads[0])
            self.other_units.copy_(spreads[1:])
        elif self.density is not None:
            spreads = torch.stack([term.std(correction=0).clamp(min=LEAST_SPREAD) for term in terms])
            units = spreads[:-1] / spreads[-1]
            if self.contrast is not None:
                units[0] /= DENSITY
                units[-1] /= NETWORK
            self.unit.copy_(units[0])
            self.other_units.copy_(units[1:])
        ranks = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
        self.scale.copy_(torch.quantile(self._sum(terms), ranks))

    def forward(self, x: Tensor, hidden: Tensor, probabilities: Tensor) -> Tensor:
        """Standardised features (N, D), last hidden layer (N, H), probabilities (N, K) → rank float32 (N,): linear
        between quantiles, and exponential below the first."""
        return self.readings(x, hidden, probabilities)[0]

    def readings(self, x: Tensor, hidden: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor | None]:
        """Like `forward`, and a second reading: float32 (N, K), how well the input fits each class by itself; None for
        vectors.

        It learned from the same samples, but otherwise than the classifier: the contrast's logits for images, the
        discriminants' or else the last hidden layer's densities for other media. On inputs unlike those of training the
        two agree less often; how much less tells how many answers have become wrong (Baek et al. 2022, "Agreement-on-
        the-line").
        """
        terms, of_classes = self._terms(x, hidden, probabilities)
        value = self._sum(terms)
        low, high = self.scale[:-1], self.scale[1:]
        rank = ((value - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).sum(1, keepdim=True)
        typical = (self.scale[STEPS // 2] - self.scale[0]).clamp(min=1e-6)
        tail = torch.exp(((value - self.scale[0]) / typical).clamp(max=0))
        return ((rank + tail) / (STEPS + 1)).squeeze(1), of_classes


def _log_odds(logits: Tensor) -> Tensor:
    """Of any class against none, the last of the logits (N, K + 1). (N, 1)"""
    return torch.logsumexp(logits[:, :-1], 1, keepdim=True) - logits[:, -1:]
