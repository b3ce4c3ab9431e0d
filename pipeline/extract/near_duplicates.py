"""Near duplicates: samples of which one was made from the other, re-encoded, resampled, trimmed, resized, shifted.

Candidates are the nearest neighbours of descriptions that hardly change in a copy. Sounds and pictures in colour are
then compared by the phases of their fingerprints (`coherence.py`). Symbols, of which two may be nearly alike and yet no
copies, must be much nearer to each other than to the rest.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.card import Input
from pipeline.extract import descriptions, fingerprints
from pipeline.extract.coherence import match, repeated
from pipeline.extract.fingerprints import RATE
from pipeline.extract.neighbours import nearest, principal

NEIGHBOURS = 8  # of each sample that may be copies of it
MANY = 10_000  # samples from which on not all are compared with all
PER_LANDMARK = 200  # of them, which have that landmark for their nearest
LANDMARKS = 3  # nearest ones of each sample
BLOCK = 1_024  # fingerprints that are described at a time
COMPARED = 64  # pairs whose fingerprints are compared at a time
SCALES = (0.95, 0.975, 1.0, 1.025, 1.05)  # of a symbol's height and width: the box around its ink may have changed
SCALED = 2.2  # times as far as a copy may be, at most, before its scale is looked for

Pairs = NDArray[np.int64]  # (M, 2), the smaller index first, in order
Read = Callable[[NDArray[np.int64]], NDArray[np.int8]]  # indices (n,) → fingerprints (n, P)
Signals = Callable[[NDArray[np.int64]], Tensor]  # indices (n,) → the same as signals, float32 (n, *shape)


@dataclass(frozen=True, slots=True)
class Medium(ABC):
    """How copies are recognised among the fingerprints of one kind of media.

    describe : fingerprints as signals, float32 (n, *shape) → float32 (n, D), which hardly changes in a copy
    reach : the largest distance of a candidate
    ratio : of the distance to the farthest of NEIGHBOURS, the most that a copy has; 1 = whatever the others
    """

    describe: Callable[[Tensor], Tensor]
    reach: float
    ratio: float

    @abstractmethod
    def are_copies(
        self, pairs: Pairs, distance: Tensor, most: Tensor, points: Tensor, signals: Signals
    ) -> NDArray[np.bool_]:
        """Which of the candidates are copies; each pair has its distance, and at most `most` as a copy."""


@dataclass(frozen=True, slots=True)
class Coherent(Medium):
    """Of which a copy has the same phases.

    band : frequencies, in cycles for each sample, that are compared
    alike : the least coherence of a copy
    overlap : the least share of the smaller signal that both have in common
    may_repeat : signals may repeat themselves, as hum and beeps do; a copy is then more alike than these repetitions
    framed : signals as they are compared
    """

    band: tuple[float, float]
    alike: float
    overlap: float
    may_repeat: bool = False
    framed: Callable[[Tensor], Tensor] = lambda signals: signals

    def are_copies(
        self, pairs: Pairs, distance: Tensor, most: Tensor, points: Tensor, signals: Signals
    ) -> NDArray[np.bool_]:
        near = (distance <= most).numpy()
        rows = np.flatnonzero(near)
        for first in range(0, len(rows), COMPARED):
            part = rows[first : first + COMPARED]
            one, other = (self.framed(signals(side)) for side in pairs[part].T)
            score, overlap = match(one, other, self.band)
            found = (score >= self.alike) & (overlap >= self.overlap)
            if self.may_repeat and found.any():
                found[found.clone()] = repeated(one[found], self.band) < score[found]
            near[part] = found.numpy()
        return near


class Crowded(Medium):
    """Of which two may look alike and yet be no copies."""

    def are_copies(
        self, pairs: Pairs, distance: Tensor, most: Tensor, points: Tensor, signals: Signals
    ) -> NDArray[np.bool_]:
        distance = distance.clone()
        near = np.flatnonzero((distance <= SCALED * most).numpy())
        for first in range(0, len(near), BLOCK):
            part = near[first : first + BLOCK]
            others, symbols = points[pairs[part, 0]], signals(pairs[part, 1])
            for scale in product(SCALES, SCALES):
                found = (others - descriptions.rings(symbols, scale)).norm(dim=1)
                distance[part] = torch.minimum(distance[part], found)
        return (distance <= most).numpy()


SOUND = Coherent(
    descriptions.spectrum, 2.5, 1.0, band=(60 / RATE, 3_500 / RATE), alike=0.94, overlap=0.4, may_repeat=True
)
PICTURE = Coherent(
    descriptions.magnitudes, 0.4, 0.5, band=(0.03, 0.2), alike=0.9, overlap=0.6, framed=descriptions.framed
)
SYMBOL = Crowded(descriptions.rings, 0.4, 0.33)


@torch.inference_mode()
def find(form: Input, n: int, read: Read) -> Pairs:
    """The pairs of near duplicates among n samples, whose fingerprints `read` gives."""
    shape = fingerprints.shape(form)
    if n < 2 or not shape[0]:
        return np.empty((0, 2), np.int64)
    medium = SOUND if form.sample_rate is not None else PICTURE if len(form.shape) == 4 else SYMBOL

    sample, part = _signals(n, read, shape)

    def signals(rows: NDArray[np.int64]) -> Tensor:
        prints = read(sample[rows]).reshape(len(rows), -1, math.prod(shape))
        return torch.tensor(prints[np.arange(len(rows)), part[rows]], dtype=torch.float32).view(-1, *shape)

    def most_of(pairs: Pairs, rows: NDArray[np.int64], distances: Tensor) -> Tensor:
        farthest = torch.full((n,), math.inf)
        farthest[rows] = distances.amax(1)  # of each row from its neighbours, (rows, k)
        return (medium.ratio * farthest[pairs].amin(1)).clamp(max=medium.reach)

    n = len(sample)
    points = torch.empty(n, medium.describe(signals(np.arange(1))).shape[1])
    for rows in np.split(np.arange(n), range(BLOCK, n, BLOCK)):
        points[rows[0] : rows[-1] + 1] = medium.describe(signals(rows))
    reduced = principal(points.numpy())
    rows, index = _candidates(reduced)
    distances = _distances(points, rows, index)
    inside = (distances <= medium.reach).numpy().reshape(-1)
    pairs = np.sort(np.stack([np.repeat(rows, index.shape[1]), index.reshape(-1)], 1), 1)
    pairs, first = np.unique(pairs[inside], axis=0, return_index=True)
    distance = distances.reshape(-1)[inside][first]
    if medium.ratio == 1 or n <= NEIGHBOURS:
        most = torch.full((len(pairs),), medium.reach * medium.ratio)
    else:
        most = most_of(pairs, rows, distances)
        if n >= MANY:  # some neighbours share no landmark: they are found where they can make a difference
            likely = (distance <= SCALED * most).numpy()
            pairs, distance = pairs[likely], distance[likely]
            rows = np.unique(pairs)
            exact = _distances(points, rows, nearest(reduced, NEIGHBOURS, rows)[0])
            most = most_of(pairs, rows, exact)
    pairs = np.sort(sample[pairs[medium.are_copies(pairs, distance, most, points, signals)]], 1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _signals(n: int, read: Read, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sample of each signal of the fingerprints, and its place in the fingerprint; without second ones that are
    zeros. Where a fingerprint is one signal, none is read for that."""
    if read(np.arange(1)).shape[1] == math.prod(shape):
        return np.arange(n), np.zeros(n, np.int64)
    found = [np.empty((0, 2), np.int64)]
    for rows in np.split(np.arange(n), range(BLOCK, n, BLOCK)):
        there: NDArray[np.bool_] = np.asarray(read(rows).reshape(len(rows), -1, math.prod(shape)).any(2))
        there[:, 0] = True
        found.append(np.argwhere(there) + np.array([rows[0], 0]))
    sample, part = np.concatenate(found).T
    return sample, part


def _candidates(points: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (n,), and the indices (n, k) of the nearest neighbours of each.

    Where there are many points, one is compared with those only that share one of its nearest landmarks, which are some
    of the points. A copy is much nearer to a point than any landmark.
    """
    k, n = min(NEIGHBOURS, len(points) - 1), len(points)
    if n < MANY:
        return np.arange(n), nearest(points, k)[0]
    lists, _ = nearest(points, LANDMARKS, among=np.arange(n // PER_LANDMARK))
    order = np.argsort(lists.reshape(-1), kind="stable")
    of_each = np.split(order // LANDMARKS, np.searchsorted(lists.reshape(-1)[order], np.arange(1, n // PER_LANDMARK)))
    rows, index, done = np.empty(n, np.int64), np.empty((n, k), np.int64), 0  # small results would break up the heap
    for landmark, among in enumerate(of_each):
        asked = among[lists[among, 0] == landmark]
        if len(asked) and len(among) > k:
            part = np.s_[done : done + len(asked)]
            rows[part], index[part] = asked, nearest(points, k, asked, among)[0]
            done += len(asked)
    return rows[:done], index[:done]


def _distances(points: Tensor, rows: NDArray[np.int64], index: NDArray[np.int64]) -> Tensor:
    """Distances (n, k) of points to others, in all dimensions."""
    found = torch.empty(index.shape)
    parts = (torch.split(which, BLOCK) for which in (torch.from_numpy(rows), torch.from_numpy(index), found))
    for a, b, out in zip(*parts, strict=True):  # as above
        out.copy_((points[a].unsqueeze(1) - points[b]).norm(dim=2))
    return found
