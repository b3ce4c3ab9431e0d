"""Training on the scanned digits, as several tests of this folder need it."""

from pathlib import Path

import torch

from pipeline import task, train
from pipeline.run import Run
from tests.vectors import tensors


def trained(features: Path, run: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """The tensors of `weights.pt` after training the digits into a run directory."""
    link_features(features, run)
    train.train(task.load("digits", "scans", overrides), Run(run))
    return tensors(run)


def link_features(features: Path, run: Path) -> None:
    run.mkdir(exist_ok=True)
    if not (run / "features.npz").exists():
        (run / "features.npz").symlink_to(features / "features.npz")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
