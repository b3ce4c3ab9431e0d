"""Features made by tests rather than by a source, and the results of a training in a form that tests can compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import task
from pipeline.extract.features import Features
from pipeline.task import Task


def history(run: Path) -> dict[str, list[float]]:
    result: dict[str, list[float]] = json.loads((run / "history.json").read_text())
    return result


def columns(run: Path) -> dict[str, list[float]]:
    return {name: values for name, values in history(run).items() if name != "seconds"}


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in torch.load(run / "weights.pt", weights_only=True).items() if k != "facts"}


def write(run: Path, x: np.ndarray, y: np.ndarray, split: list[str], n_labels: int, **data: Any) -> Task:
    """Write these features into a run directory, and return the task that they belong to."""
    resolved = task.parse(
        {
            "name": "vectors", "data": {"source": "csv", "path": "vectors.csv"},
            "features": {"kind": "vector", "size": x.shape[1]}, **data,
        },
        "test",
    )  # fmt: skip
    n = len(x)
    Features(
        x=x, y=y, labels=tuple(map(str, range(n_labels))), split=np.array(split),
        file=np.array([f"{i}" for i in range(n)]), digest=np.array([f"{i:x}" for i in range(n)]),
        copies=np.empty((0, x.shape[1]), np.float32), copy_of=np.empty(0, np.int64), skipped=(),
        task=resolved.origin(), key="", copies_key="", group=np.array([f"{i:x}" for i in range(n)]),
    ).save(run / "features.npz")  # fmt: skip
    return resolved
