"""Parts of the training samples have every class in proportion, keep groups together, and hold one another."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.classifier import Classifier
from pipeline.extract import Features
from pipeline.train import Dataset, weights
from pipeline.tune import subsets
from tests import vectors


def trained(folder: Path, n: int) -> tuple[Features, Classifier]:
    """Three overlapping clouds, half of which are tested, and a classifier that standardises them."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = (rng.standard_normal((n, 8)) + 1.5 * np.eye(3, 8)[y]).astype(np.float32)
    task = vectors.write(folder, x, y, ["train" if i % 4 < 2 else "test" for i in range(n)], 3)
    features = Features.load(folder / "features.npz")
    return features, weights.network(weights.begin(task, features, "cpu"))


def test_every_piece_has_all_classes_and_whole_groups() -> None:
    group = np.array([f"{i // 5}" for i in range(1000)])
    y = np.arange(1000) // 5 % 4
    place = subsets.positions(group, y, seed=0)
    for share in (0.1, 0.5):
        inside = place < share
        assert np.bincount(y[inside]) == pytest.approx(np.full(4, 250 * share), abs=6)
        assert not set(group[inside]) & set(group[~inside])
    assert (place != subsets.positions(group, y, seed=1)).any()


def test_more_samples_are_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "STEPS", 100)
    parts = subsets.of_test(*trained(tmp_path, 1600), with_validation=False, seed=0)
    assert isinstance(parts, subsets.Parts)
    assert parts.samples == pytest.approx((50, 100, 200, 400, 800), abs=2)
    accuracy = parts.right.mean((1, 2))
    assert parts.right.shape == (5, 2, 800)
    assert accuracy[-1] > accuracy[0] + 0.03


@pytest.mark.parametrize(("n", "copies"), [(50, 40), (700, 2), (1600, 1), (9000, 1)])
def test_each_part_takes_as_many_steps_and_few_samples_are_repeated(n: int, copies: int) -> None:
    data = Dataset(torch.arange(10_000.0)[:, None], torch.arange(10_000))
    part = subsets._part(data, n, 1)
    assert torch.equal(part.y.bincount().nonzero()[:, 0], torch.arange(10_000 - n, 10_000))
    assert (part.y.bincount()[-n:] == copies).all()
    assert torch.equal(part.y, part.x[:, 0])
    batches = -(-len(part.y) // subsets.TRAIN.batch_size)
    assert abs(subsets._options(part).epochs * batches - subsets.STEPS) <= batches / 2


def test_too_few_samples_are_not_divided(tmp_path: Path) -> None:
    found = subsets.of_test(*trained(tmp_path, 60), with_validation=False, seed=0)
    assert found == "the 30 training samples are too few to be divided"


def test_too_many_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "STEPS", 1)
    found = subsets.of_test(*trained(tmp_path, 400), with_validation=False, seed=0)
    assert found == "200 training samples take more than a few seconds"
