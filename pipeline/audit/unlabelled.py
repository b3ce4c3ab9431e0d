"""Which unlabelled files are worth a label: those that a committee of networks is unsure of, unlike what is known, and
unlike each other.

A file scores by how little the committee prefers its likeliest class to the second (margin sampling, Scheffer et al.
2001), and less if it is near to a file that is known or was ranked before, so that one batch does not ask the same
question many times. Distance alone, as in Sener & Savarese 2018, asks for oddities first; here it counts up to a limit
that most files reach at first, so that it only keeps like ones apart.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import sources
from pipeline.audit.out_of_fold import TRAIN, committee, standard
from pipeline.errors import counted
from pipeline.extract import Features, Job, Recipe, nearest, principal
from pipeline.progress import Progress
from pipeline.sources import Sample
from pipeline.sources.groups import captures
from pipeline.threads import ordered_map, subnormals_flushed
from pipeline.train.data import Rows

MEMBERS = 3  # networks of the committee
STEPS = 200  # of their training, about
EPOCHS = 6, 400  # at least, and at most
SHARPNESS = 1.5  # power of the hesitation in the score
REACHED = 0.8  # share of the files that are so far from all that is known that no more counts
GREEDY = 1000  # files that are chosen one after the other; the rest follow by their uncertainty
LIKELY = 3  # classes that are offered for a file
Floats = NDArray[np.float32]


class Unlabelled(TypedDict):
    """An entry of `unlabelled` in `audit.json`, the one most worth a label first."""

    file: str
    score: float  # 0 … 1, how unsure the committee is
    likely: list[str]  # classes, the likeliest first
    reason: str
    resembles: list[str]  # the nearest known file of each of these classes


@dataclass(frozen=True, slots=True)
class Pool:
    """Unlabelled files, each content once, without those that are known.

    samples : called by their absolute paths, with an empty label
    x : float32 (M, D), their features
    unusable : `file` and `reason` of those that cannot be used
    known : how many were left out since the same content is among the samples, labelled
    """

    samples: list[Sample]
    x: Floats
    unusable: list[dict[str, str]]
    known: int


def read(features: Features, folder: Path) -> Pool:
    """Extract the features of the files below a folder, as those of the samples were.

    Raises
    ------
    UserError : no such folder, no files in it, or the samples are no pictures or sounds
    """
    origin = features.origin()
    seen, by_content = set(features.digest.tolist()), dict[str, Sample]()
    for sample in sources.unlabelled(folder, origin.features):
        by_content.setdefault(sample.digest(), sample)  # of identical ones the first
    fresh = {content: sample for content, sample in by_content.items() if content not in seen}
    extract = replace(Recipe.of(origin), state=features.state).extractor()
    jobs = [Job(sample, content, content, "test") for content, sample in fresh.items()]  # without copies
    usable, rows, unusable = [], [], []
    with closing(ordered_map(extract, jobs)) as done, Progress("unlabelled", len(jobs), "file") as progress:
        for job, found in zip(jobs, done, strict=True):
            progress.update()
            if found.row is None:
                unusable.append({"file": job.sample.file, "reason": found.reason})
            else:
                usable.append(job.sample)
                rows.append(found.row)
    x = np.stack(rows) if rows else np.empty((0, features.x.shape[1]), np.float32)
    return Pool(usable, x, unusable, len(by_content) - len(fresh))


def ranked(features: Features, pool: Pool) -> list[Unlabelled]:
    """The files of the pool, the one most worth a label first.

    The samples of the test split have no part in this: what is chosen with their help would flatter the test.
    """
    if not len(pool.x):
        return []
    rows = np.flatnonzero(~features.rows("test"))
    known = Rows(np.asarray(features.x[rows]), features.y[rows])
    p = probabilities(features, known, pool.x)
    points = principal(standard(features, np.concatenate([known.x, pool.x])))
    order = in_order(hesitation(p), points, len(rows))
    likely = np.argsort(-p, axis=1, kind="stable")[:, :LIKELY]
    near = _nearest_of_each(points, known.y, likely)
    return [_entry(features, pool.samples[i].file, p[i], likely[i], rows[near[i]]) for i in order.tolist()]


def worth(features: Features, known: Rows, x: Floats, n: int) -> NDArray[np.int64]:
    """Indices of the n of x (M, D) that are most worth a label, given known samples."""
    points = principal(standard(features, np.concatenate([known.x, x])))
    return in_order(hesitation(probabilities(features, known, x)), points, len(known.y), n)[:n]


def probabilities(features: Features, known: Rows, x: Floats) -> NDArray[np.float64]:
    """Mean probabilities of the classes for x (M, D), by networks trained on known samples, float64 (M, K)."""
    epochs = int(np.clip(round(STEPS / math.ceil(len(known.y) / TRAIN.batch_size)), *EPOCHS))
    options = TRAIN.model_copy(update={"epochs": epochs})
    with subnormals_flushed():
        found = committee(features, Rows(known.x.copy(), known.y), x.copy(), options, range(MEMBERS))
    return np.asarray(np.exp(found).mean(0))


def hesitation(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the lead of the likeliest class over the second, 0 … 1, of probabilities (M, K).

    Example
    -------
    >>> hesitation(np.array([[0.5, 0.5, 0.0], [0.1, 0.0, 0.9]])).round(1).tolist()
    [1.0, 0.2]
    """
    second, first = np.sort(p, axis=1)[:, -2:].T
    return np.asarray(1 - (first - second))


def in_order(
    unsure: NDArray[np.float64], points: torch.Tensor, n_known: int, greedy: int = GREEDY
) -> NDArray[np.int64]:
    """Indices of the points (M, D) after the known ones, the one most worth a label first, int64 (M,).

    Each is the one with the largest product of two: its hesitation, `unsure` (M,), to the power of SHARPNESS, and its
    distance to what is known or came before. A distance counts no further than that which REACHED of the points have
    at first. After `greedy` points, the others follow as they are.

    Example
    -------
    >>> points = torch.tensor([[0.0], [2.0], [2.1], [3.0]])
    >>> in_order(np.array([0.9, 0.8, 0.6]), points, n_known=1).tolist()
    [0, 2, 1]
    """
    weight, new = torch.from_numpy(unsure).float() ** SHARPNESS, points[n_known:]
    _, far = nearest(points, 1, np.arange(n_known, len(points)), np.arange(n_known))
    distance, order, free = torch.from_numpy(far[:, 0]), list[int](), torch.ones(len(new), dtype=torch.bool)
    if (distance > 0).any():  # without files that only the bytes tell from a known one
        distance = distance.clamp(max=float(distance[distance > 0].quantile(1 - REACHED)))
    for _ in range(min(greedy, len(new))):
        i = int(torch.where(free, weight * distance, -1.0).argmax())
        order.append(i)
        free[i] = False
        torch.minimum(distance, (new - new[i]).square().sum(1).sqrt(), out=distance)
    others = torch.where(free, weight * distance, -1.0).argsort(descending=True, stable=True)
    return np.array(order + others[: len(new) - len(order)].tolist(), np.int64)


def _nearest_of_each(points: torch.Tensor, y: NDArray[np.int64], likely: NDArray[np.int64]) -> NDArray[np.int64]:
    """The known point, of the first len(y), that is nearest to each other point in each of its likely classes,
    int64 (M, L)."""
    near = np.zeros(likely.shape, np.int64)
    for k in np.unique(likely):
        of_class = np.flatnonzero(y == k)
        asked, place = np.nonzero(likely == k)
        near[asked, place] = nearest(points, 1, len(y) + asked, of_class)[0][:, 0]
    return near


def _entry(
    features: Features, file: str, p: NDArray[np.float64], likely: NDArray[np.int64], near: NDArray[np.int64]
) -> Unlabelled:
    return {
        "file": file,
        "score": float(hesitation(p[None])[0]),
        "likely": [features.labels[k] for k in likely],
        "reason": "perhaps " + " or ".join(f"{features.labels[k]} ({100 * p[k]:.0f} %)" for k in likely),
        "resembles": [str(features.file[i]) for i in near],
    }


def groups(features: Features, pool: Pool, known: Mapping[str, str]) -> dict[str, str]:
    """File → name of its group, where `data.group` finds one in its path.

    known : the same for the samples; a group of near duplicates has one name
    """
    pattern = features.task["data"].get("group")
    if pattern is None:
        return {}
    pairs = zip(features.file.tolist(), features.group.tolist(), strict=True)
    now = {group: known[file] for file, group in pairs if file in known}
    files = [one.file for one in pool.samples]
    found = zip(files, captures(pattern, files), strict=True)
    return {file: now.get(group, group) for file, group in found if group}


def lines(pool: Pool, found: Sequence[Unlabelled], most: int) -> Iterator[str]:
    """What the console says."""
    left_out = [f"{pool.known:,} that are labelled already"] if pool.known else []
    if pool.unusable:
        first = pool.unusable[0]
        left_out.append(f"{len(pool.unusable):,} that cannot be used (the first: {first['file']}: {first['reason']})")
    without = f", without {' and '.join(left_out)}" if left_out else ""
    yield f"{counted(len(found), 'unlabelled file')}{without}{'; the ones most worth a label:' if found else ''}"
    for one in found[:most]:
        yield f"  {one['score']:.3f}  {one['file']}: {one['reason']}"
