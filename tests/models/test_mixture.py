"""Density and range of vectors: points in empty regions and far away are less likely than the test samples."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import make_moons
from sklearn.metrics import roc_auc_score

from models.mixture import Mixture

Points = NDArray[np.float64]


def fitted(x: Points) -> Mixture:
    samples = torch.from_numpy(x.astype(np.float32))
    return Mixture(x.shape[1]).fit(samples, torch.split(samples, 100), torch.Generator().manual_seed(0))


def auroc(density: Mixture, inside: Points, outside: Points) -> float:
    scores = density(torch.from_numpy(np.concatenate([inside, outside]).astype(np.float32)))
    assert torch.isfinite(scores).all()
    return float(roc_auc_score(np.arange(len(scores)) < len(inside), scores[:, 0].double()))


def disc(n: int, inner: float, outer: float, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(inner**2, outer**2, n))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def test_the_empty_centre_of_a_ring_is_unlikely() -> None:
    assert auroc(fitted(disc(600, 0.8, 1.2, 0)), disc(300, 0.8, 1.2, 1), disc(300, 0, 0.6, 2)) > 0.98


def test_the_gap_between_two_moons_is_unlikely() -> None:
    train, test = (make_moons(600, noise=0.1, random_state=seed)[0] for seed in (0, 1))
    everywhere = np.random.default_rng(2).uniform(train.min(0), train.max(0), (2000, 2))
    distance = np.linalg.norm(everywhere[:, None] - train, axis=2).min(1)
    assert auroc(fitted(train), test, everywhere[distance > 0.25]) > 0.98


def test_one_number_of_many_that_is_two_ranges_away_is_unlikely() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(500, 200)), rng.normal(size=(200, 200))
    far = test.copy()
    far[:, 7] = train[:, 7].max() + 2 * np.ptp(train[:, 7])
    assert auroc(fitted(train), test, far) > 0.99


def test_another_value_of_a_number_that_never_differed_is_less_likely_than_any_far_away() -> None:
    """As of a table, whether a value is missing that no training sample lacked."""
    x = np.column_stack([np.random.default_rng(0).normal(size=(200, 4)), np.zeros(200)])
    changed, far = np.zeros((2, 5), np.float32)
    changed[4], far[:4] = 1, 100
    density = fitted(x)(torch.from_numpy(np.stack([changed, far])))
    assert density[0] < density[1] < fitted(x)(torch.zeros(1, 5))


def test_nothing_overflows_and_identical_samples_are_no_obstacle() -> None:
    density = fitted(np.ones((50, 3)))
    near, far = density(torch.tensor([[1.0, 1.0, 1.0], [3e38, -3e38, 1.0]]))
    assert torch.isfinite(torch.stack([near, far])).all()
    assert near > far
