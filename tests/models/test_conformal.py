"""Sets of labels: they hold the true one as often as promised, also where samples come in groups."""

import numpy as np
import pytest

from models.conformal import least_probability, members
from service.serving.predictor import labels_from


def draw(rng: np.random.Generator, n: int, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four classes and true classes of n samples of one group, whose classifier errs `shared` ways."""
    logits = rng.normal(0, 1.5, (n, 4)) + shared * rng.normal(0, 1.5, (1, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, np.array([rng.choice(4, p=row) for row in p])


@pytest.mark.parametrize(("sizes", "shared"), [([1] * 60, 0.0), ([1] * 30 + [40] * 10, 1.5)])
def test_the_promise_is_kept_on_new_groups(sizes: list[int], shared: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        scores = []
        for size in sizes:
            p, y = draw(rng, size, shared)
            scores += [(value, 1 / size) for value in p[np.arange(size), y]]
        least = least_probability(scores, 0.9)
        assert least is not None
        p, y = draw(rng, 1, shared)
        covered.append(members(p, least)[0, y[0]])
        p, y = draw(rng, 20, shared)
        covered.append(members(p, least)[np.arange(20), y].mean())
    assert 0.89 <= np.mean(covered) <= 0.95


def test_too_few_groups_promise_nothing() -> None:
    assert least_probability([], 0.9) is None
    assert least_probability([(0.5, 1.0)] * 18, 0.95) is None
    assert least_probability([(0.5, 1.0)] * 19, 0.95) == 0.25
    assert least_probability([(0.5, 0.1)] * 180, 0.95) is None  # 18 groups of ten


def test_a_set_always_has_the_answer_and_is_the_same_in_service_and_report() -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(5), 200).astype(np.float32)
    for least in (0.05, 0.3, 0.9):
        for row, inside in zip(p, members(p, least), strict=True):
            found = labels_from(dict(zip("abcde", row.tolist(), strict=True)), least)
            assert sorted(found) == [label for label, one in zip("abcde", inside, strict=True) if one]
            assert found[0] == "abcde"[row.argmax()]
