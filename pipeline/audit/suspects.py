"""Suspects: samples that someone should hear or see, each with what it resembles."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.audit.out_of_fold import FEW_SAMPLES, out_of_fold, standard
from pipeline.extract import Features, nearest, principal

NEIGHBOURS = 5
PRIOR = 0.1  # votes that every class has before the neighbours vote, so that none has probability 0
WEIGHT = 0.5  # of the neighbours' verdict, the networks' being 1
FAR = 4.0  # robust standard deviations of log distance beyond which a sample is unlike all others
PAIRS = 20  # of overlapping classes that are named, at most

Votes = NDArray[np.float64]  # (N, K)
Kind = Literal["label", "duplicate", "outlier", "media"]


class Suspect(TypedDict):
    """An entry of `audit.json`; `score`, 0 … 1, is how likely something has to be changed."""

    file: str
    kind: Kind
    label: str
    suggested: str | None  # the label to give it instead; None: there is no better one
    score: float
    reason: str
    resembles: list[str]  # files to compare it with
    split: str | None  # None: the file was not used


class Overlap(TypedDict):
    """Two classes that are often taken for each other; `share` of their samples."""

    labels: list[str]
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Space:
    """Where the samples lie.

    points : float32 (N, D), standardised features or their leading principal components
    index, distance : of each sample's `NEIGHBOURS` nearest, the nearest first
    """

    points: torch.Tensor
    index: NDArray[np.int64]
    distance: NDArray[np.float32]

    @staticmethod
    def of(features: Features, x: NDArray[np.float32]) -> "Space":
        """The space of the features x, float32 (N, D)."""
        z = standard(features, x)
        points = principal(z) if len(z) > FEW_SAMPLES else torch.from_numpy(z)
        return Space(points, *nearest(points, NEIGHBOURS))


def probabilities(features: Features, x: NDArray[np.float32], y: NDArray[np.int64], space: Space) -> Votes:
    """How likely each class is for each sample, whatever its own label says, as logarithms, float64 (N, K).

    Two judges that have not seen the label, multiplied: networks trained without the sample, and its nearest
    neighbours. They err on different samples.
    """
    votes = np.full((len(y), len(features.labels)), PRIOR)
    for neighbour in space.index.T:
        votes[np.arange(len(y)), y[neighbour]] += 1
    joint = out_of_fold(features, x, y) + WEIGHT * np.log(votes / votes.sum(1, keepdims=True))
    return np.asarray(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def wrong_labels(features: Features, y: NDArray[np.int64], log_p: Votes, space: Space) -> Iterator[Suspect]:
    """Samples for which another class is likelier than their label, the least likely label first.

    If labels are wrong at random, the probability of the given label ranks best (Northcutt et al. 2021 call it
    self-confidence): it is the posterior probability that the label is right, up to a factor that is the same for all.
    """
    given, best = log_p[np.arange(len(y)), y], log_p.argmax(1)
    suspected = np.flatnonzero(best != y)
    suspected = suspected[np.argsort(given[suspected], kind="stable")]
    of_best, of_own = (_nearest_of(space, suspected, y, labels[suspected], n) for labels, n in ((best, 2), (y, 1)))
    for i in suspected.tolist():
        label, other = features.labels[y[i]], features.labels[best[i]]
        near = of_best[i] + of_own[i]
        yield _suspect(
            features, i, "label", 1 - math.exp(given[i]),
            f"{other} is likelier than {label}: {_percent(log_p[i, best[i]])} to {_percent(given[i])}", near, other,
        )  # fmt: skip


def overlaps(features: Features, y: NDArray[np.int64], log_p: Votes) -> list[Overlap]:
    """Pairs of classes that are taken for each other most often, for their size."""
    k = len(features.labels)
    taken = np.zeros((k, k), int)
    np.add.at(taken, (y, log_p.argmax(1)), 1)
    sizes, both = np.bincount(y, minlength=k), taken + taken.T
    pairs = [
        Overlap(labels=[features.labels[a], features.labels[b]], count=int(both[a, b]), share=share)
        for a in range(k)
        for b in range(a)
        if (share := float(both[a, b] / max(1, sizes[a] + sizes[b]))) > 0
    ]
    return sorted(pairs, key=lambda pair: -pair["share"])[:PAIRS]


def outliers(features: Features, space: Space) -> Iterator[Suspect]:
    """Samples much farther from their neighbours than others are, in standard deviations of the logarithm.

    Their score is below 0.5: they are odd, and may well be right.
    """
    far = np.log(np.maximum(space.distance[:, min(NEIGHBOURS, len(space.points) - 1) - 1], 1e-12))
    middle = float(np.median(far))
    spread = 1.4826 * float(np.median(np.abs(far - middle))) or 1.0  # of a normal distribution
    deviations = (far - middle) / spread
    for i in np.flatnonzero(deviations > FAR).tolist():
        score = 0.5 * (1 - FAR / 2 / float(deviations[i]))
        yield _suspect(features, i, "outlier", score, "unlike all other samples", space.index[i, :3].tolist())


def duplicates(features: Features, y: NDArray[np.int64]) -> Iterator[Suspect]:
    """Near duplicates, as extraction has found them; one whose twin has another label is surely worth a look."""
    for i, j in features.near.tolist():
        same = y[i] == y[j]
        also = "" if same else f", which is labelled {features.labels[y[j]]}"
        reason = f"nearly identical to {features.file[j]}{also}"
        yield _suspect(features, i, "duplicate", 0.5 if same else 0.9, reason, [j])


def unused(features: Features) -> Iterator[Suspect]:
    """Files that extraction has skipped: identical to another, or not to be decoded."""
    known = set(features.file.tolist())
    for file, reason, content, label in features.skipped:
        twin = reason.removeprefix("identical to ") if not content else ""
        other = next((name for name in (twin, twin.rpartition(", which is labelled ")[0]) if name in known), None)
        yield {
            "file": file, "kind": "duplicate" if twin else "media", "label": label, "suggested": None,
            "score": 0.5 if other == twin else 0.95, "reason": reason, "resembles": [other] if other else [],
            "split": None,
        }  # fmt: skip


def damaged(features: Features, reasons: Mapping[int, tuple[float, str]]) -> Iterator[Suspect]:
    """Media that were decoded and are still not as they should be: row → score and reason."""
    for i, (score, reason) in reasons.items():
        yield _suspect(features, i, "media", score, reason, [])


def _suspect(
    features: Features, i: int, kind: Kind, score: float, reason: str, near: Sequence[int], suggested: str | None = None
) -> Suspect:
    return {
        "file": str(features.file[i]), "kind": kind, "label": features.labels[features.y[i]], "suggested": suggested,
        "score": score, "reason": reason, "resembles": [str(features.file[j]) for j in near],
        "split": str(features.split[i]),
    }  # fmt: skip


def _nearest_of(
    space: Space, rows: NDArray[np.int64], y: NDArray[np.int64], wanted: NDArray[np.int64], n: int
) -> dict[int, list[int]]:
    """The n nearest samples of the class that is wanted for each of those rows."""
    found: dict[int, list[int]] = {}
    for label in np.unique(wanted):
        asked = rows[wanted == label]
        index, distance = nearest(space.points, n, asked, np.flatnonzero(y == label))
        for row, others, distances in zip(asked.tolist(), index.tolist(), distance.tolist(), strict=True):
            found[row] = [j for j, d in zip(others, distances, strict=True) if math.isfinite(d)]
    return found


def _percent(log_p: float) -> str:
    """
    >>> _percent(math.log(0.9996)), _percent(math.log(0.0123)), _percent(-30)
    ('99.96 %', '1.2 %', 'below 0.01 %')
    """
    percent = 100 * math.exp(log_p)
    if percent < 0.01:
        return "below 0.01 %"
    return f"{min(percent, 99.99):.4g} %" if percent > 99 else f"{percent:.2g} %"
