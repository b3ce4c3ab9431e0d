"""Pictures that show nothing in particular, and collages of samples: what a network behind `known` learns from."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.classifier import Classifier, Standardize
from models.image import Picture
from models.mlp import MLP
from pipeline.threads import threads
from pipeline.train import confidence
from pipeline.train.data import Dataset
from pipeline.train.scenes import make_scenes


def discs(n: int, seed: int) -> torch.Tensor:
    """Discs in the middle of plain pages, uint8 (n, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    inside = np.hypot(x, y) < rng.uniform(0.4, 0.8, (n, 1, 1))
    ink, paper = rng.uniform(0, 90, (n, 1, 1, 3)), rng.uniform(160, 255, (n, 1, 1, 3))
    drawn = np.where(inside[..., None], ink, paper) + rng.normal(0, 4, (n, 16, 16, 3))
    return torch.from_numpy(drawn.clip(0, 255).astype(np.uint8))


def test_scenes_are_of_many_kinds_and_the_seed_fixes_them() -> None:
    first, again, others = make_scenes(40, 16, 1), make_scenes(40, 16, 1), make_scenes(40, 16, 2)
    assert first.shape == (40, 16, 16, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, others)
    contrast = first.std((1, 2, 3))
    assert contrast.min() < 15
    assert contrast.max() > 50


def test_collages_are_made_of_quadrants_of_samples() -> None:
    quadrants = torch.arange(4).repeat(5)
    own = torch.arange(90.0)[:, None].expand(90, 20).contiguous()  # each feature says whose it is
    same = torch.arange(20) // 4 * 4
    made = confidence._collages(own, quadrants, same, torch.Generator().manual_seed(0))
    parts = torch.stack([made[:, quadrants == q] for q in range(4)], 1)
    assert (parts == parts[:, :, :1]).all()  # a quadrant is of one sample
    of_each = parts[:, :, 0]
    assert (of_each[:, 0] == torch.arange(90)).all()
    assert [len(set(row)) for row in of_each[:3].tolist()] == [4, 4, 4]
    assert (of_each[30:60, 0] == of_each[30:60, 2]).all()
    assert (of_each[30:60, 1] == of_each[30:60, 3]).all()
    assert own.equal(torch.arange(90.0)[:, None].expand(90, 20))


@pytest.mark.parametrize("size", [28, 30, 47])
def test_quadrants_of_an_odd_number_of_cells_are_put_together_too(size: int) -> None:
    front = Picture(size=size, atoms=4)
    kind = torch.cat([torch.full((stop - start,), float(i)) for i, (_, start, stop) in enumerate(front.groups())])
    own = kind + 100 * torch.arange(9.0)[:, None]  # each feature says whose it is, and of which kind
    made = confidence._collages(own, *front.quadrants(), torch.Generator().manual_seed(0))
    assert torch.equal(made % 100, kind.expand(9, -1))
    assert torch.equal(made[6:], own[6:])  # of one quadrant, of one sample


@pytest.mark.usefixtures("few_outliers")
def test_scenes_that_no_network_has_seen_are_less_familiar_than_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "SCENES", 100)
    front = Picture(size=16, atoms=4)
    mlp = MLP(front.n_features, [32], 2, "relu")
    classifier = Classifier(front, Standardize(front.n_features), mlp, "multiclass")
    x = [front(discs(n, seed)) for n, seed in ((300, 0), (100, 1), (100, 2))]
    classifier.standardize.fit(x[0], front)
    training, validation, test = (classifier.standardize(part) for part in x)
    y = torch.arange(300) % 2
    with threads(1):
        known = confidence.fit_familiarity(classifier, Dataset(training, y), Dataset(validation, y[:100]), 0)
    outside = classifier.standardize(front(torch.from_numpy(make_scenes(100, 16, 9))))
    with torch.inference_mode():
        scores = [classifier.readings(part)[1] for part in (test, outside)]
    assert roc_auc_score([1] * 100 + [0] * 100, torch.cat(scores)) > 0.97
    assert (scores[0] >= known).float().mean() > 0.9
