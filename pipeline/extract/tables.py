"""What the columns of a table hold, found in its training samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.extract.recipe import Job
from pipeline.sources.table import ColumnType, RowMedia
from pipeline.task import TableColumn, TableFeatures, Task, UserError

FREQUENT = 64  # categories of a column with a feature of their own, at most
LEAST = 3  # training samples of such a category, at least


def with_columns(task: Task, jobs: Sequence[Job]) -> Task:
    """The task with `features.columns` of these rows, if it is about a table; else the task as it is.

    Medians, and which categories are frequent, are those of the training samples.

    Raises
    ------
    UserError : there are no training samples
    """
    if not isinstance(task.features, TableFeatures):
        return task
    rows: list[NDArray[np.float32]] = []
    types: tuple[ColumnType, ...] = ()
    for one in jobs:
        assert isinstance(one.sample.media, RowMedia)
        types = one.sample.media.columns
        if one.split == "train":
            rows.append(one.sample.media.values)
    if not rows:
        raise UserError(f"{task.data.path}: no training samples")
    columns = tuple(_column(kind, values) for kind, values in zip(types, np.stack(rows).T, strict=True))
    return task.model_copy(update={"features": TableFeatures(kind="table", columns=columns)})


def _column(kind: ColumnType, values: NDArray[np.float32]) -> TableColumn:
    """The description of a column with these values (N,) of the training samples."""
    name, categories, comma = kind
    present = values[~np.isnan(values)]
    missing = len(present) < len(values)
    if not categories:
        median = float(np.median(present)) if len(present) else 0.0
        return TableColumn(name=name, median=median, comma=comma, missing=missing)
    counts = np.bincount(present.astype(np.int64), minlength=len(categories))
    order = np.argsort(-counts, kind="stable")[:FREQUENT]
    frequent = sorted(int(k) for k in order if counts[k] >= min(LEAST, counts.max()))
    rare = int(counts[frequent].sum()) < len(present)
    return TableColumn(name=name, categories=categories, frequent=tuple(frequent), rare=rare, missing=missing)
