"""How much the parts of a picture's features count."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.image import Picture
from pipeline import task, workflow
from pipeline.extract import Features, mirror, weighing
from pipeline.run import Run
from pipeline.workflow import Workflow

FRONT = Picture(atoms=20)


def drawn(told_by_gradients: bool, n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise, and three classes that one part of the features tells apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(0, 1, (n, FRONT.n_features)).astype(np.float32)
    telling = np.flatnonzero(FRONT.are_gradients().numpy() == told_by_gradients)
    x[:, telling] += np.random.default_rng(0).normal(0, 0.3, (3, len(telling)))[y]
    return x, y


@pytest.mark.parametrize(("told_by_gradients", "least", "most"), [(True, 0, 0.25), (False, 2, 2)])
def test_what_tells_the_classes_apart_counts_more(told_by_gradients: bool, least: float, most: float) -> None:
    share = weighing.share(FRONT, *drawn(told_by_gradients, 90, 1), *drawn(told_by_gradients, 60, 2))
    assert least <= share <= most


def test_a_few_samples_decide_nothing() -> None:
    few = drawn(True, weighing.MIN_SAMPLES - 1, 1)
    many = drawn(True, 90, 1)
    assert weighing.share(FRONT, *many, *few) == weighing.share(FRONT, *few, *many) == weighing.USUAL


def test_samples_that_are_all_alike_decide_nothing() -> None:
    x, y = drawn(True, 30, 1)
    same = np.broadcast_to(x[0], x.shape).copy()
    assert weighing.share(FRONT, same, y, same, y) == weighing.USUAL
    pictures, labels = np.full((12, 32, 32, 3), 128, np.uint8), [*"ab"] * 6
    assert not mirror.helps(FRONT, pictures, labels, pictures, labels)


def test_training_is_out_of_date_where_another_share_was_chosen() -> None:
    x, y = drawn(True, 3, 1)
    none, names = np.empty((0, x.shape[1]), np.float32), np.array([*"abc"])
    prints = set()
    for share in (0.5, 1.0, 1.0):
        state = {"share": np.array(share, np.float32)}
        found = Features(
            x, y, ("a", "b", "c"), names, names, names, none, np.empty(0, np.int64), (), {}, "", "", names, state
        )
        prints.add(found.fingerprint())
    assert len(prints) == 2


def test_extraction_of_pictures_is_out_of_date_where_another_share_may_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    flows = [
        Workflow(resolved, Run(tmp_path))
        for resolved in (task.load("pictures", str(tmp_path / "data")), task.load("sine"))
    ]
    before = [flow._inputs("extract") for flow in flows]
    monkeypatch.setattr(workflow, "WEIGHING_VERSION", 0)
    assert [flow._inputs("extract") == inputs for flow, inputs in zip(flows, before, strict=True)] == [False, True]
