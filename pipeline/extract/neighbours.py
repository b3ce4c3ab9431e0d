"""The nearest neighbours of samples, by products of blocks of a matrix."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

COMPONENTS = 48  # principal components in which neighbours are looked for
MARGIN = 16  # components beyond these, and rounds, that make them as good as exact (Halko et al. 2011, §1.6 and §4.5)
ITERATIONS = 12
PART = 2 << 20  # numbers that are centred at a time: a copy of all could take as much memory as everything else
GROUP = 32  # neighbours of which only the nearest is compared with other groups
ROWS = 1024  # samples whose distances to all others are in memory at a time, at most,
SCORES = 8 << 20  # and so many distances


def principal(z: NDArray[np.float32]) -> torch.Tensor:
    """The leading principal components of standardised features (N, D), float32 (N, at most COMPONENTS).

    Distances between samples are mostly in these few, and neighbours found in them cost a tenth of the time.
    """
    mean, parts = torch.from_numpy(z.mean(0)), torch.split(torch.from_numpy(z), max(1, PART // z.shape[1]))
    if z.shape[1] <= COMPONENTS:
        return torch.cat([part - mean for part in parts])
    products = torch.zeros(z.shape[1], z.shape[1])
    for part in parts:
        x = part - mean
        products.addmm_(x.T, x)
    with torch.random.fork_rng(devices=[]):  # all components of thousands of features would take half a minute
        torch.manual_seed(0)
        basis = torch.svd_lowrank(products, COMPONENTS + MARGIN, niter=ITERATIONS)[0][:, :COMPONENTS]
    projected = torch.empty(len(z), COMPONENTS)
    for part, out in zip(parts, torch.split(projected, len(parts[0])), strict=True):
        torch.matmul(part - mean, basis, out=out)
    return projected


@torch.inference_mode()
def nearest(
    points: torch.Tensor, k: int, queries: NDArray[np.int64] | None = None, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index and distance of the k nearest of the other points, the nearest first: int64 and float32 (n, k).

    Parameters
    ----------
    points : float32 (N, D)
    queries : indices of the points whose neighbours are wanted; None for all
    among : indices of the points that count as neighbours; None for all. Where there are fewer than k, the distance
        is infinite

    Example
    -------
    >>> index, distance = nearest(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    >>> index[:, 0].tolist(), distance[:, 0].tolist()
    ([1, 0, 1], [1.0, 1.0, 2.0])
    """
    asked = torch.arange(len(points)) if queries is None else torch.from_numpy(queries)
    others = torch.arange(len(points)) if among is None else torch.from_numpy(among)
    known = points[others]
    place = torch.full((len(points),), -1)  # of each point in `known`
    place[others] = torch.arange(len(others))
    index = torch.zeros(len(asked), k, dtype=torch.int64)
    distance = torch.full((len(asked), k), math.inf)
    taken = min(k, len(others))
    padding = -len(known) % GROUP
    half = torch.nn.functional.pad(known.square().sum(1) / 2, (0, padding), value=math.inf)
    columns = torch.nn.functional.pad(known, (0, 0, 0, padding)).T.contiguous()
    size = max(1, min(ROWS, SCORES // max(1, len(known))))
    scores = torch.empty(min(size, len(asked)), len(half))
    for start in range(0, len(asked), size):
        rows = asked[start : start + size]
        score = scores[: len(rows)]  # half the squared distance, less a constant
        torch.addmm(half, points[rows], columns, alpha=-1, out=score)
        itself = place[rows]
        score[torch.arange(len(rows))[itself >= 0], itself[itself >= 0]] = math.inf
        found = _lowest(score, taken)
        is_other = score.gather(1, found) < math.inf  # where too few are left, itself and padding are not
        found = found.where(is_other, 0)
        exact = (points[rows].unsqueeze(1) - known[found]).square().sum(2).sqrt().where(is_other, math.inf)
        distance[start : start + size, :taken], order = exact.sort(1)
        index[start : start + size, :taken] = others[found].gather(1, order)
    return index.numpy(), distance.numpy()


def _lowest(score: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the k lowest values of each row, int64 (n, k); of a matrix whose width is a multiple of GROUP.

    They are in the k groups of columns with the lowest minima. Minima are found many times as fast as `topk`.
    """
    groups = score.view(len(score), -1, GROUP)
    if groups.shape[1] <= k:
        return score.topk(k, 1, largest=False).indices
    best = groups.amin(2).topk(k, 1, largest=False).indices
    inside = groups.gather(1, best.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)
    column = inside.topk(k, 1, largest=False).indices
    return best.gather(1, column // GROUP) * GROUP + column % GROUP
