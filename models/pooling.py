"""Statistics of a clip's coefficients over the frames that are not silence."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LOUD_DB = 20.0  # frames this far below the loudest hardly count in means and standard deviations
QUANTILES = (0.1, 0.5, 0.9)
LAGS = (1, 2, 4, 8, 16)  # distances in frames over which differences are features
SHARES_DB = (-10.0, -20.0, -40.0)  # levels above which the share of frames is a feature
NAMES = ("mean", "deviation", "loudest", *(f"quantile {q}" for q in QUANTILES), *(f"lag {n}" for n in LAGS), "course")
STATISTICS = len(NAMES)  # of each coefficient
LEVELS = 2 + len(SHARES_DB)  # features of the level
VIEW_STATISTICS = 3  # of each coefficient of another view of the spectrum
ORDERS = (1, 2, 3, 4, 5, 6)  # of the cosines that follow a coefficient through the clip
FOLLOWED = 13  # coefficients that are followed: the customary number, for the shape of the vocal tract
FOLLOWED_WEIGHT = 0.7  # how much their features count, as few clips cannot teach much about them


def pool(values: Tensor, level: Tensor, active: Tensor, views: Sequence[Tensor]) -> Tensor:
    """Statistics of each coefficient over the frames that are not silence, of their level, and of the views'
    coefficients.

    values float32 (N, M, frames); level (N, 1, frames), in decibels relative to the loudest frame; active (N, 1,
    frames), 1 for each frame that is not silence, as the loudest never is, else 0; V views, each (N, E, frames).
    → float32 (N, STATISTICS · M + LEVELS + VIEW_STATISTICS · V · E + orders · F), where F = min(FOLLOWED, M):

    - mean and standard deviation, weighted by how far a frame's level is above -LOUD_DB
    - value in the loudest frame
    - QUANTILES, with linear interpolation between neighbouring values
    - root mean square of the difference between frames LAGS apart (the structure function; Kolmogorov 1941)
    - mean of the first third of the frames minus that of the last third
    - of the level: mean, standard deviation, and the shares of frames above SHARES_DB
    - of each view: mean and standard deviation, weighted as above, and value in the loudest frame
    - of the first F coefficients, the cosine transform of their course in time: see `_followed`
    """
    n = active.sum(-1, keepdim=True)  # ≥ 1: the loudest frame counts
    weights, loudest = active * (torch.relu(level + LOUD_DB) / LOUD_DB + 1e-3), level.argmax(2, keepdim=True)
    rank, third = active.cumsum(-1), (n / 3).floor().clamp(min=1)
    course = active * ((rank <= third).to(values.dtype) - (rank > n - third).to(values.dtype))
    above = active * (level > torch.tensor(SHARES_DB).view(-1, 1))
    statistics = [
        *_moments(values, weights),
        values.gather(2, loudest.expand(-1, values.shape[1], -1)),
        _quantiles(values, active, n),
        _structure(values, active),
        values @ course.transpose(1, 2) / third,
        *_moments(level, active),
        above.sum(-1, keepdim=True) / n,
    ]
    for view in views:
        statistics += [*_moments(view, weights), view.gather(2, loudest.expand(-1, view.shape[1], -1))]
    statistics.append(_followed(values[:, :FOLLOWED] - statistics[0][:, :FOLLOWED], weights))
    return torch.cat(statistics, 1).squeeze(-1)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M, frames), (N, 1, frames) → mean and standard deviation, (N, M, 1)."""
    total = weights.sum(-1, keepdim=True)
    mean = values @ weights.transpose(1, 2) / total
    centred = values - mean
    return mean, torch.sqrt((centred * centred) @ weights.transpose(1, 2) / total)


def _quantiles(values: Tensor, active: Tensor, n: Tensor) -> Tensor:
    """The quantiles of all coefficients, quantile by quantile, (N, quantiles · M, 1)."""
    ordered = torch.where(active > 0, values, 1e9).sort(-1).values  # silence goes to the end
    position = (n - 1) * torch.tensor(QUANTILES)
    lower, upper = (p.expand(-1, values.shape[1], -1) for p in (position.floor(), position.ceil()))
    low, high = (ordered.gather(2, p.to(torch.int64)) for p in (lower, upper))
    return (low + (position - lower) * (high - low)).transpose(1, 2).flatten(1).unsqueeze(-1)


def _structure(values: Tensor, active: Tensor) -> Tensor:
    """The structure function of all coefficients, lag by lag, (N, lags · M, 1)."""
    frames = values.shape[-1]
    padded = (nn.functional.pad(x, (0, LAGS[-1])).unsqueeze(1) for x in (values, active))
    later, both = (torch.cat([x[..., lag : lag + frames] for lag in LAGS], 1) for x in padded)
    change, both = later - values.unsqueeze(1), both * active.unsqueeze(1)
    return torch.sqrt((change * change) @ both.transpose(2, 3) / both.sum(-1, keepdim=True).clamp(min=1)).flatten(1, 2)


def _followed(values: Tensor, weights: Tensor) -> Tensor:
    """The course in time of values (N, M, frames), less their mean, as coefficients of a cosine transform, order by
    order, (N, orders · M, 1): in which order the sounds of a word follow each other, or how a tone begins and ends,
    however long they last. Time is the share of `weights` (N, 1, frames) that has gone by, so that frames that hardly
    count hardly take time either.

    Source: the cepstral-time matrix; Ariki, Mizuta, Nagata and Sakai 1989, "Spoken-word recognition using dynamic
    features analysed by two-dimensional cepstrum"; Milner and Vaseghi 1995.
    """
    total = weights.sum(-1, keepdim=True)
    time = (weights.cumsum(-1) - weights / 2) / total
    cosines = weights * torch.cos(torch.pi * torch.tensor(ORDERS).view(-1, 1) * time)  # (N, orders, frames)
    return (2 / total * cosines @ values.transpose(1, 2)).flatten(1).unsqueeze(-1)
