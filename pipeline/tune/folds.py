"""Folds of the cross-validation: a sample's fold, like its split, is a pure function of its content and the seed."""

from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.frontend import build
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
    front = build(features.task["features"])
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
    fold = np.array([assign_fold(features.digest[row], n, task.data.seed) for row in rows], np.int64)
    if not np.bincount(fold, minlength=n).all():
        raise UserError(f"tune.folds = {n}: {len(rows)} samples do not fill them; use fewer folds")
    return rows, fold


def assign_fold(digest: str, folds: int, seed: int) -> int:
    """Fold of a sample, counted from 0, from the digest of its content; independent of its split.

    Example
    -------
    >>> [assign_fold("e3b0c442", 5, seed) for seed in (0, 1, 2)]
    [0, 0, 0]
    """
    return int.from_bytes(sha256(f"fold:{seed}:{digest}".encode()).digest()[:8], "big") % folds


def _dataset(x: NDArray[np.float32], y: NDArray[Any]) -> Dataset:
    return Dataset(torch.from_numpy(x), torch.from_numpy(y))
