"""Gradients of mini-batches are unbiased and spread as the variance of single samples says; step sizes follow the
differential equation."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import extract, task
from pipeline.lessons import descent
from pipeline.run import Run


@pytest.fixture(scope="module")
def spreads(tmp_path_factory: pytest.TempPathFactory) -> list[descent.Spread]:
    run = Run(tmp_path_factory.mktemp("run"))
    extract.extract(task.load("regions"), run)
    found = descent.minibatches(task.load("regions"), run)
    assert "currentColor" in (run.lessons / "minibatches.svg").read_text()
    return found


def test_gradients_of_mini_batches_are_unbiased(spreads: list[descent.Spread]) -> None:
    assert [one.size for one in spreads] == list(descent.SIZES)
    ratios = [one.distance / one.expected_distance for one in spreads]
    assert max(ratios) < 3  # in standard errors
    assert np.sqrt(np.mean(np.square(ratios))) < 1.6


def test_their_spread_falls_with_the_root_of_the_size(spreads: list[descent.Spread]) -> None:
    for one in spreads:
        assert one.spread == pytest.approx(one.expected_spread, rel=0.12)
    assert spreads[0].spread / spreads[3].spread == pytest.approx(np.sqrt(10), rel=0.12)


def test_a_biased_gradient_is_seen() -> None:
    samples = np.random.default_rng(0).normal(1, 1, (300, 10))

    def biased(chosen: np.ndarray | slice) -> np.ndarray:
        found = samples[chosen]
        return found.mean(axis=0) + (0.5 if 1 < len(found) < 300 else 0)

    _, found = descent.spreads(biased, 300, np.random.default_rng(1))
    assert found[0].distance < 3 * found[0].expected_distance
    assert all(one.distance > 5 * one.expected_distance for one in found[1:])


def test_what_the_schedules_sum_to() -> None:
    sums = {name: (rates.sum(), (rates**2).sum()) for name, rates in descent.schedules().items()}
    assert sums["α"] == (500, 250)
    harmonic = np.sum(1 / np.arange(1, 1001))
    assert sums["α / (1 + t), t in steps"][0] == pytest.approx(0.5 * harmonic)
    assert sums["α / (1 + t), t in epochs"][0] == pytest.approx(5 * np.sum(1 / np.arange(1, 101)))
    assert sums["α / (1 + t)², t in steps"][0] < 0.5 * np.pi**2 / 6


def test_small_steps_follow_the_differential_equation() -> None:
    theta = descent.descend(np.full(3000, 1e-3))
    tau = 1e-3 * np.arange(3001)
    np.testing.assert_allclose(theta.mean(axis=1), descent.solution(tau), atol=0.01)


def test_falling_steps_end_at_the_minimum_unless_they_fall_too_fast() -> None:
    ends = {name: descent.descend(rates)[-1] - descent.MEAN for name, rates in descent.schedules().items()}
    rms = {name: np.sqrt(np.mean(left**2)) for name, left in ends.items()}
    constant, epochs, steps, too_fast = rms.values()
    assert epochs < steps < constant < too_fast
    # A constant step jitters with variance α / (2 - α) of that of a batch's mean.
    assert constant == pytest.approx(np.sqrt(0.5 / 1.5 / descent.BATCH), rel=0.1)


def test_the_table_and_the_figure_of_the_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "currentColor" in descent.robbins_monro(tmp_path).read_text()
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(descent.schedules())
