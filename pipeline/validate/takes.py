"""Takes of one source that nobody has named as groups: whether file names and features tell of some, and how much lower
the accuracy is once they are kept apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.targets import TARGETS
from pipeline.extract import Features, nearest, principal
from pipeline.report.schema import Takes
from pipeline.sources.groups import captures
from pipeline.task import Train
from pipeline.train import Dataset, weights
from pipeline.train.weights import Facts
from pipeline.tune.folds import spread
from pipeline.tune.stacks import train_and_predict
from pipeline.validate.intervals import Intervals

# What files that belong together may have in common, as `data.group` takes it: the name up to its last number; up to
# its first; its second word; its first two words; its first.
PATTERNS = (
    r"([^/]*[^/\d])\d+[^/\d]*\.[^/.]*$",  # not that of .mp3
    r"([^/\d]*\d+)[^/]*$",
    r"[^/ _.-]+[ _.-]+([^/ _.-]+)[ _.-]+[^/]*$",
    r"([^/ _.-]+[ _.-]+[^/ _.-]+)[ _.-]+[^/]*$",
    r"([^/ _.-]+)[ _-]+[^/]*$",
)
OWN = ("folder", "csv")  # sources whose files have names of their users'
LOOKED_AT = 3_000  # samples whose nearest neighbours are looked for
LEAST = 30  # samples, of which something can be said
LIFT, MORE = 2.0, 0.1  # neighbours from one group are so many times, and by such a share, more frequent than by chance
TIE = 0.02  # of that share: of two patterns that differ less, the one with fewer groups is taken
SHARED = 0.25  # of the test samples, at least, must have training samples in their group
GROUPS = 3  # that each class has at least, as with groups that have names
FOLDS = 5
WORK = 800_000  # samples that all the networks see in all their epochs, at most; but in 5 epochs at least
LIMIT = 20_000  # samples that each of them learns from, at most, besides their copies
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Files that look like takes of one source.

    pattern : a regular expression with one capture
    group : int64 (N,), of each sample
    """

    pattern: str
    group: NDArray[np.int64]


def suspect_takes(features: Features) -> Suspicion | None:
    """The likeliest way in which the files may belong together; None if the data name groups, or nothing tells of any.

    Names alone are not enough, since most files are numbered: within a class, the nearest neighbours of samples must
    have the same capture much more often than if it had nothing to do with the features.
    """
    named = features.task["data"]["source"] in OWN and features.task["features"]["kind"] != "table"
    if not named or features.has_groups or not TARGETS[features.kind].has_classes or len(features.y) < LEAST:
        return None
    neighbours = _neighbours(features)
    found: list[tuple[float, Suspicion]] = []
    for pattern in PATTERNS:
        group = _captured(features, pattern)
        if _may_be_groups(features, group) and (excess := _excess(features.y, group, neighbours)) >= MORE:
            found.append((excess, Suspicion(pattern, group)))
    if not found:
        return None
    most = max(excess for excess, _ in found)
    return min((one for excess, one in found if excess >= most - TIE), key=lambda one: int(one.group.max()))


def score_apart(suspicion: Suspicion, features: Features, facts: Facts) -> Takes:
    """What the test samples' accuracy is if no network has learned from a sample of their group: cross-validation, with
    networks like the one that was trained."""
    test, names = features.rows("test"), features.file
    labels = {str(g): int(k) for g, k in zip(suspicion.group[::-1], features.y[::-1], strict=True)}
    fold_of = spread(labels, FOLDS, facts.train["seed"])
    fold = np.array([fold_of[str(g)] for g in suspicion.group])
    correct = np.zeros(len(features.y), np.bool_)
    for k in np.unique(fold[test]):
        held_out = np.flatnonzero(test & (fold == k))
        correct[held_out] = _answers(features, facts, fold != k, held_out) == features.y[held_out]
    counts = np.bincount(suspicion.group)
    largest = np.flatnonzero(suspicion.group == counts.argmax())
    recalls = [correct[test & (features.y == c)].mean() for c in np.unique(features.y[test])]
    return {
        "pattern": suspicion.pattern,
        "groups": len(counts),
        "files": [str(name) for name in names[largest[:EXAMPLES]]],
        "accuracy": float(correct[test].mean()),
        "accuracy_interval": Intervals.of(suspicion.group[test]).among(correct[test]),
        "macro_recall": float(np.mean(recalls)),
    }


def lower_metrics(test: dict[str, Any], takes: Takes | None) -> dict[str, Any]:
    """The test metrics, with the lower accuracy and macro recall where takes of one source were kept apart."""
    if takes is None:
        return test
    lower = {name: min(test[name], takes[name]) for name in ("accuracy", "macro_recall")}
    return test | lower


def _captured(features: Features, pattern: str) -> NDArray[np.int64]:
    """The group of each sample, counted from 0: that of its capture, or one of its own."""
    files = features.file.tolist()
    names = [group or f"/{file}" for file, group in zip(files, captures(pattern, files), strict=True)]
    _, group = np.unique(np.array(names), return_inverse=True)
    return np.asarray(group.reshape(-1), np.int64)


def _may_be_groups(features: Features, group: NDArray[np.int64]) -> bool:
    """Whether each class has enough of them, and the splits share some."""
    if any(len(np.unique(group[features.y == k])) < GROUPS for k in range(len(features.labels))):
        return False
    trained = np.isin(group[features.rows("test")], group[~features.rows("test")])
    return bool(trained.mean() >= SHARED) if len(trained) else False


def _neighbours(features: Features) -> NDArray[np.int64]:
    """The nearest sample of the same class for each of some samples; -1 for the others. (N,)"""
    n = len(features.y)
    rows = np.sort(np.random.default_rng(0).choice(n, min(n, LOOKED_AT), replace=False))
    front = features.front_end()
    x = torch.from_numpy(np.ascontiguousarray(features.x[rows]))
    points = principal(Standardize(front.n_features).fit(x, front).apply_(x).numpy())
    found = np.full(n, -1)
    for k in range(len(features.labels)):
        own = np.flatnonzero(features.y[rows] == k)
        if len(own) > 1:
            found[rows[own]] = rows[nearest(points, 1, own, own)[0][:, 0]]
    return found


def _excess(y: NDArray[np.int64], group: NDArray[np.int64], neighbours: NDArray[np.int64]) -> float:
    """By how much the share of samples whose neighbour is of their group is above what chance gives; 0 if it is not
    LIFT times as large."""
    rows = np.flatnonzero(neighbours >= 0)
    together = float((group[rows] == group[neighbours[rows]]).mean())
    _, pair, size = np.unique(np.stack([y[rows], group[rows]]), axis=1, return_inverse=True, return_counts=True)
    of_class = np.bincount(y[rows])[y[rows]]
    chance = float(((size[pair.reshape(-1)] - 1) / np.maximum(of_class - 1, 1)).mean())
    return together - chance if together >= LIFT * chance else 0.0


def _answers(
    features: Features, facts: Facts, learned: NDArray[np.bool_], held_out: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes that a network trained on those samples and their copies gives to the samples held out."""
    rows = np.flatnonzero(learned)
    if len(rows) > LIMIT:
        rows = np.sort(np.random.default_rng(0).choice(rows, LIMIT, replace=False))
    x, y = features.with_copies(rows)
    training, held = Dataset(torch.from_numpy(x), torch.from_numpy(y)), torch.from_numpy(features.x[held_out])
    epochs = min(facts.best_epoch, max(5, WORK // (FOLDS * len(y))))
    options = Train(**facts.train).model_copy(
        update={"epochs": epochs, "early_stopping": 0, "framework": "torch", "device": "cpu"}
    )
    networks = [weights.network(facts).mlp]
    (logits,) = train_and_predict(networks, options, training, held, features.front_end(), facts.kind)
    return np.asarray(TARGETS[facts.kind].answer(logits).argmax(1).numpy())
