"""How much the parts of a picture's features count."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.image import Picture
from pipeline.extract import mirror, weighing

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
    few = drawn(True, weighing.LEAST - 1, 1)
    many = drawn(True, 90, 1)
    assert weighing.share(FRONT, *many, *few) == weighing.share(FRONT, *few, *many) == weighing.USUAL


def test_samples_that_are_all_alike_decide_nothing() -> None:
    x, y = drawn(True, 30, 1)
    same = np.broadcast_to(x[0], x.shape).copy()
    assert weighing.share(FRONT, same, y, same, y) == weighing.USUAL
    pictures, labels = np.full((12, 32, 32, 3), 128, np.uint8), [*"ab"] * 6
    assert not mirror.helps(FRONT, pictures, labels, pictures, labels)
