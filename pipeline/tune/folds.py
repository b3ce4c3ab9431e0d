"""The folds of the cross-validation: a pure function of content and seed, like the splits."""

from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.frontend import build
from pipeline.extract import Features
from pipeline.task import Task, UserError
from pipeline.train import Batch
from pipeline.tune.stacks import Fold


def make_folds(task: Task, features: Features, device: torch.device) -> list[Fold]:
    """The train and validation samples in `task.tune.folds` folds; none of the test split.

    Raises
    ------
    UserError : a fold is empty
    """
    rows, fold = assign_folds(task, features)
    front = build(features.task["features"])
    folds = []
    for k in range(task.tune.folds):
        inside, outside = rows[fold == k], rows[fold != k]
        splits = features.with_copies(outside), (features.x[inside], features.y[inside])
        standardize = Standardize(front.n_features).fit(torch.from_numpy(splits[0][0]), front)
        training, held_out = (_batch(x, y, standardize, device) for x, y in splits)
        folds.append(Fold(training, held_out, standardize))
    return folds


def assign_folds(task: Task, features: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are not of the test split, int64 (N,), and the fold of each.

    A sample's fold is a pure function of its content's digest and the seed of the data, like its split.

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


def assign_fold(content: str, folds: int, seed: int) -> int:
    """Fold of a sample, counted from 0; independent of its split."""
    return int.from_bytes(sha256(f"fold:{seed}:{content}".encode()).digest()[:8], "big") % folds


def _batch(x: NDArray[np.float32], y: NDArray[Any], standardize: Standardize, device: torch.device) -> Batch:
    return Batch(standardize.apply_(torch.from_numpy(x)).to(device), torch.from_numpy(y).to(device))
