"""The two exercises: values worked by hand, and what the figures claim."""

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.lessons import exercises

QUARTER = 1 / (1 + math.e**2)  # σ(-2); σ(2) = 1 - σ(-2)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (2.0, 1 * (1 - QUARTER) - 2 * 0.5 + 0.5 * QUARTER + 0.1),  # x - (0, 2, 4) = 2, 0, -2
        (0.0, 0.5 - 2 * QUARTER + 0.5 / (1 + math.e**4) + 0.1),
        (-1e3, 0.1),  # every unit is off: the bias alone
        (1e3, 1 - 2 + 0.5 + 0.1),  # every unit is on
    ],
)
def test_three_units_give_the_values_worked_by_hand(x: float, y: float) -> None:
    np.testing.assert_allclose(exercises.given()([x]), [y], rtol=1e-12)


def test_contributions_add_up_to_the_output() -> None:
    network, x = exercises.given(), np.linspace(-4, 8, 25)
    np.testing.assert_allclose(network.contributions(x).sum(axis=0) + 0.1, network(x))
    assert network.contributions(x).shape == (3, 25)


def test_the_fitted_layer_solves_the_normal_equations() -> None:
    fit, (x, y) = exercises.fitted(exercises.STEEP), exercises.samples()
    design = np.column_stack([exercises.hidden(x, fit.network.w, fit.network.b), np.ones(100)])
    np.testing.assert_allclose(design.T @ (fit.network(x) - y), 0, atol=1e-10)
    np.testing.assert_allclose(fit.network.b, -10 * np.array([0, 1 / 3, 2 / 3, 1]))


def test_flat_units_fit_only_with_huge_weights_that_cancel() -> None:
    exact, small = exercises.fitted(), exercises.fitted(smallest=exercises.WELL_POSED)
    steep = exercises.fitted(exercises.STEEP)
    assert exact.curve_rmse == pytest.approx(0.065, abs=0.005)
    assert exact.largest_weight > 1000
    assert exact.condition > 1e6
    assert small.largest_weight < 20
    assert small.curve_rmse > 0.4
    assert steep.largest_weight < 10
    assert steep.curve_rmse < 0.1


def test_draws_three_figures_that_follow_the_page(tmp_path: Path) -> None:
    drawn = exercises.draw(tmp_path / "figures")
    assert [path.name for path in drawn] == ["three-units.svg", "least-squares.svg", "basis.svg"]
    assert all("currentColor" in path.read_text() for path in drawn)
