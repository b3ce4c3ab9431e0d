"""Folds of the cross-validation: drawn by a hash of each group and the seed, and as full as each other."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.task import Task, UserError
from pipeline.train import Dataset, standardised
from pipeline.tune.stacks import Fold


def make_folds(task: Task, features: Features, device: torch.device) -> list[Fold]:
    """The train and validation samples in `task.tune.folds` folds, without any of the test split.

    Raises
    ------
    UserError : a fold is empty
    """
    rows, fold = assign_folds(task, features)
    front = features.front_end()
    folds = []
    for k in range(task.tune.folds):
        training = _dataset(*features.with_copies(rows[fold != k]))
        inside = rows[fold == k]
        held_out = _dataset(features.x[inside], features.y[inside])
        assert isinstance(training.x, torch.Tensor)
        standardize = Standardize(front.n_features).fit(training.x, front)
        training, held_out = (standardised(data, standardize, device) for data in (training, held_out))
        folds.append(Fold(training, held_out, standardize))
    return folds


def assign_folds(task: Task, features: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the features that are not of the test split, int64 (N,), and the fold of each.

    Raises
    ------
    UserError : a fold is empty
    """
    n = task.tune.folds
    rows = np.flatnonzero(~features.rows("test"))
    groups = features.group[rows].tolist()
    labels = features.y[rows].tolist() if TARGETS[features.kind].has_classes else [0] * len(rows)
    first = dict(sorted(zip(groups, labels, strict=True), reverse=True))  # class of each group: its first one
    fold_of = spread(first, n, task.data.seed)
    fold = np.array([fold_of[group] for group in groups], np.int64)
    if not np.bincount(fold, minlength=n).all():
        raise UserError(f"tune.folds = {n}: {len(fold_of)} groups of samples do not fill them; use fewer folds")
    return rows, fold


def spread(labels: Mapping[str, int], folds: int, seed: int) -> dict[str, int]:
    """Group → its fold, counted from 0: the groups of each class, in an order drawn by the seed, dealt out in turn.

    Parameters
    ----------
    labels : by group, the class of one of its samples

    Example
    -------
    >>> spread({"a": 0, "b": 0, "c": 1, "d": 1}, 2, seed=0)
    {'a': 0, 'b': 1, 'd': 0, 'c': 1}
    """
    order = sorted(labels, key=lambda group: (labels[group], sha256(f"fold:{seed}:{group}".encode()).digest()))
    return {group: n % folds for n, group in enumerate(order)}


def _dataset(x: NDArray[np.float32], y: NDArray[Any]) -> Dataset:
    return Dataset(torch.from_numpy(x), torch.from_numpy(y))
