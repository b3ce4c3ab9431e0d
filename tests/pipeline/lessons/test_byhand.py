"""Networks set by hand: what problem sheets ask of them, with answers worked out on paper."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.mlp import MLP
from pipeline.errors import UserError
from pipeline.lessons.byhand import Problem, gradients, read
from pipeline.lessons.byhand_report import report
from tests.command import percept

SIGMA = 1 / (1 + math.exp(-1))  # σ(1)
SQUARE = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])


def problem(**options: Any) -> Problem:
    return read(None, options)


def answers(x: Any, **options: Any) -> list[float]:
    asked = problem(**options)
    return [float(v) for v in asked.network(np.array(x, float).reshape(-1, len(asked.network.w_hidden))).ravel()]


@pytest.mark.parametrize(
    ("unit", "y"),
    [  # z = (3 - 1, -3 + 2) = (2, -1); y = 2 u1 - 3 u2 + 0.5
        ("step", 2 * 1 - 3 * 0 + 0.5),
        ("linear", 2 * 2 - 3 * -1 + 0.5),
        ("sigmoid", 2 / (1 + math.exp(-2)) - 3 * (1 - SIGMA) + 0.5),
        ("relu", 2 * 2 - 0 + 0.5),
        ("tanh", 2 * math.tanh(2) + 3 * math.tanh(1) + 0.5),
    ],
)
def test_a_forward_pass_of_every_unit(unit: str, y: float) -> None:
    given = {"w_hidden": "1, -1", "b_hidden": "-1, 2", "w_output": "2, -3", "b_output": "0.5"}
    assert answers([3], unit=unit, **given) == pytest.approx([y])


def test_a_step_is_on_where_its_sum_is_0() -> None:
    assert answers([-1e-9, 0, 1e-9], unit="step", w_hidden="1", w_output="1") == [0, 1, 1]


def test_two_inputs_and_two_outputs() -> None:
    # z_H = (1, 2) [[1, 0], [-1, 2]] + (0, -1) = (-1, 3); u = (0, 3); z_O = u [[5, 1], [1, -1]] + (1, 0) = (4, -3)
    given = {"unit": "relu", "w_hidden": "[[1, 0], [-1, 2]]", "b_hidden": "0, -1", "w_output": "[[5, 1], [1, -1]]"}
    assert answers([1, 2], b_output="1, 0", **given) == [4, -3]
    softmax = answers([1, 2], b_output="1, 0", output="softmax", **given)
    assert softmax == pytest.approx([1 / (1 + math.exp(-7)), 1 / (1 + math.exp(7))])


def test_xor_of_two_steps() -> None:
    """Unit 1 is OR, unit 2 is AND; OR and not AND is XOR."""
    given = {"unit": "step", "w_hidden": "[[1, 1], [1, 1]]", "b_hidden": "-0.5, -1.5", "w_output": "1, -1"}
    assert answers(SQUARE, output="step", b_output="-0.5", **given) == [0, 1, 1, 0]


@pytest.mark.parametrize(("bias", "truth"), [("-0.5", [0, 1, 1, 1]), ("-1.5", [0, 0, 0, 1])])
def test_or_and_and_of_one_step(bias: str, truth: list[float]) -> None:
    assert answers(SQUARE, unit="step", w_hidden="[[1], [1]]", b_hidden=bias, w_output="1") == truth


def test_a_triangle_is_where_three_steps_agree() -> None:
    """x1 ≥ 0, x2 ≥ 0 and x1 + x2 ≤ 1: the output counts to three."""
    given = {"unit": "step", "w_hidden": "[[1, 0, -1], [0, 1, -1]]", "b_hidden": "0, 0, 1", "w_output": "1, 1, 1"}
    inside, outside = [[0.2, 0.2], [0, 1], [0.5, 0.5]], [[-0.1, 0.5], [0.5, -0.1], [0.6, 0.6]]
    assert answers(inside + outside, output="step", b_output="-2.5", **given) == [1, 1, 1, 0, 0, 0]


def test_steps_make_a_staircase() -> None:
    """Heights 2, -1, 4 from 0, 1 and 3 on: the output weights are the jumps 2, -3, 5."""
    given = {"unit": "step", "w_hidden": "1, 1, 1", "b_hidden": "0, -1, -3", "w_output": "2, -3, 5"}
    assert answers([-1, 0.5, 2, 4], **given) == [0, 2, -1, 4]


def test_relus_through_points_change_the_slope_at_each() -> None:
    """(0, 1), (1, 3), (2, 2), (3, 2): slopes 2, -1, 0, so the weights are 2, -3, 1, and the bias is 1."""
    asked = problem(unit="relu", w_hidden="1, 1, 1", b_hidden="0, -1, -2", points="[[0, 1], [1, 3], [2, 2], [3, 2]]")
    np.testing.assert_allclose(asked.network.w_output[:, 0], [2, -3, 1], atol=1e-12)
    np.testing.assert_allclose(asked.network.b_output, [1], atol=1e-12)
    np.testing.assert_allclose(asked.network(np.array([[-5], [0.5], [10.0]])).ravel(), [1, 2, 2], atol=1e-12)


def test_a_hat_and_the_absolute_value_of_relus() -> None:
    hat = {"w_hidden": "1, 1, 1", "b_hidden": "0, -1, -2", "w_output": "1, -2, 1"}
    assert answers([-1, 0.5, 1, 1.5, 3], unit="relu", **hat) == [0, 0.5, 1, 0.5, 0]
    assert answers([-2, 0, 3], unit="relu", w_hidden="1, -1", w_output="1, 1") == [2, 0, 3]


def test_more_points_than_weights_leave_the_least_error() -> None:
    """A linear unit fits a straight line: through (0, 0), (1, 1), (2, 0) it is the mean, 1/3."""
    asked = problem(unit="linear", w_hidden="1", points="[[0, 0], [1, 1], [2, 0]]")
    np.testing.assert_allclose(np.append(asked.network.w_output, asked.network.b_output), [0, 1 / 3], atol=1e-12)


def test_a_mixture_is_a_weighted_mean() -> None:
    """u = (σ(x), σ(-x)) sums to 1, so y = a1 σ(x) + a2 σ(-x)."""
    given = {"w_hidden": "1, -1", "w_output": "4, 2", "mixture": True}
    assert answers([0, 1], **given) == pytest.approx([3, 4 * SIGMA + 2 * (1 - SIGMA)])
    # relu(x) / (relu(x) + relu(1 - x)) is x between 0 and 1; equal weights give a constant wherever a unit responds
    hats = {"unit": "relu", "w_hidden": "1, -1", "b_hidden": "0, 1", "mixture": True}
    assert answers([0.25, 0.5, 7], w_output="0, 8", **hats) == [6, 4, 0]
    assert answers([-3, 0.3, 7], w_output="5, 5", **hats) == pytest.approx([5, 5, 5])
    for output in ("linear", "step", "sigmoid"):
        nowhere = {**hats, "w_hidden": "1, 1", "b_hidden": "0, -1", "w_output": "1, 1", "output": output}
        assert np.isnan(answers([-1, 1], **nowhere)).tolist() == [True, False]
    fitted = problem(points="[[0, 3], [1, 1]]", **hats)
    np.testing.assert_allclose(fitted.network.w_output[:, 0], [1, 3], atol=1e-12)
    assert fitted.network.parameters == 2 + 2 + 2


def test_gradients_by_the_chain_rule_through_a_hidden_layer() -> None:
    """x = 2, z = 2 · 0.5 + 0 = 1, u = σ(1), z_O = 3 u - 1, L = (z_O - 1)²: δ_O = 2 (3 u - 2), δ_H = δ_O 3 u (1 - u)."""
    loss, found = gradients(problem(w_hidden="0.5", w_output="3", b_output="-1", x="2", y="1"))
    delta = 2 * (3 * SIGMA - 2)
    hidden = delta * 3 * SIGMA * (1 - SIGMA)
    assert loss == pytest.approx((3 * SIGMA - 2) ** 2)
    assert [g.item() for g in found.values()] == pytest.approx([2 * hidden, hidden, SIGMA * delta, delta])


@pytest.mark.parametrize(
    ("unit", "u", "slope"), [("tanh", math.tanh(1), 1 - math.tanh(1) ** 2), ("relu", 1, 1), ("linear", 1, 1)]
)
def test_gradients_through_the_logistic_loss(unit: str, u: float, slope: float) -> None:
    """One sample of class 1, z_O = 2 u: δ_O = σ(2 u) - 1."""
    loss, found = gradients(problem(unit=unit, w_hidden="1", w_output="2", output="sigmoid", x="1", y="1"))
    delta = 1 / (1 + math.exp(-2 * u)) - 1
    assert loss == pytest.approx(math.log(1 + math.exp(-2 * u)))
    assert [g.item() for g in found.values()] == pytest.approx([delta * 2 * slope, delta * 2 * slope, delta * u, delta])


def test_gradients_through_softmax() -> None:
    """z_O = (0, ln 3): p = (1/4, 3/4), y = 0: L = ln 4, δ_O = (-3/4, 3/4), δ_H = δ_O · (0, ln 3) = 3/4 ln 3."""
    given = {"unit": "linear", "w_hidden": "1", "w_output": f"[[0, {math.log(3)}]]", "output": "softmax"}
    loss, found = gradients(problem(x="1", y="0", **given))
    assert loss == pytest.approx(math.log(4))
    hidden = 0.75 * math.log(3)
    for gradient, worked in zip(found.values(), ([[hidden]], [hidden], [[-0.75, 0.75]], [-0.75, 0.75]), strict=True):
        np.testing.assert_allclose(gradient, worked)


def test_gradients_of_a_batch_are_the_mean() -> None:
    given = {"w_hidden": "[[1, 2], [0, -1]]", "w_output": "1, -1", "output": "sigmoid"}
    each = [gradients(problem(x=x, y=y, **given))[1]["W_H"] for x, y in (("1, 2", "0"), ("-1, 0.5", "1"))]
    both = gradients(problem(x="[[1, 2], [-1, 0.5]]", y="0, 1", **given))[1]["W_H"]
    np.testing.assert_allclose(both, np.mean(each, axis=0))


@pytest.mark.parametrize(("d", "h", "k"), [(1, 3, 1), (2, 4, 1), (5, 20, 3)])
def test_parameters_are_counted(d: int, h: int, k: int) -> None:
    table = {"w_hidden": str(np.ones((d, h)).tolist()), "w_output": str(np.ones((h, k)).tolist())}
    assert (
        problem(**table).network.parameters
        == h * (d + 1) + k * (h + 1)
        == sum(p.numel() for p in MLP(d, [h], k, "sigmoid").parameters())
    )


MISTAKES: list[tuple[Mapping[str, str], str]] = [
    ({}, "w_hidden is missing"),
    ({"w_hidden": "1, 1"}, "w_output is missing"),
    ({"w_hidden": "1, 1", "w_output": "1"}, "w_output: an array of 1 × 1, but there are 2 hidden units"),
    ({"w_hidden": "1, 1", "w_output": "1, 1", "b_hidden": "1, 2, 3"}, "b_hidden: 3 numbers"),
    ({"w_hidden": "1, 1", "w_output": "1, 1", "b_output": "1, 2"}, "b_output: 2 numbers for 1 outputs"),
    ({"w_hidden": "[[1, 1], [1]]", "w_output": "1, 1"}, "w_hidden: its rows have different lengths"),
    ({"w_hidden": "", "w_output": "1"}, "w_hidden: expected one row for each input"),
    ({"w_hidden": "nan", "w_output": "1"}, "w_hidden: nan is not finite"),
    ({"w_hidden": "1", "w_output": "-inf"}, "w_output: -inf is not finite"),
    ({"w_hidden": "1" + "0" * 400, "w_output": "1"}, "w_hidden: a number is not finite or too large"),
    ({"w_hidden": "true", "w_output": "1"}, "w_hidden: expected numbers, not true"),
    ({"w_hidden": "one", "w_output": "1"}, "--w-hidden: expected numbers"),
    ({"w_hidden": "[[1]", "w_output": "1"}, "--w-hidden: expected numbers"),
    ({"w_hidden": "1]\nx = [2", "w_output": "1"}, "--w-hidden: expected numbers"),
    ({"w_hidden": "[" * 3000, "w_output": "1"}, "--w-hidden: expected numbers"),
    ({"w_hidden": "1", "w_output": "1", "unit": "sigmoyd"}, "unit: there is no 'sigmoyd'"),
    ({"w_hidden": "1", "w_output": "1", "output": "relu"}, "output: there is no 'relu'"),
    ({"w_hidden": "1", "w_output": "1", "output": "softmax"}, "softmax takes two outputs or more"),
    ({"w_hidden": "1", "w_output": "1", "x": "[[1, 2]]"}, "x: an array of 1 × 2, but the network has 1 input"),
    ({"w_hidden": "1", "w_output": "1", "x": "1, 2", "y": "1"}, "y: 1 numbers for 2 inputs"),
    ({"w_hidden": "1", "w_output": "1", "y": "1"}, "y: 1 numbers for 0 inputs"),
    ({"w_hidden": "1", "w_output": "1", "x": "1", "y": "2", "output": "sigmoid"}, "y: expected classes from 0 to 1"),
    ({"w_hidden": "1", "w_output": "1", "x": "1", "y": "1", "unit": "step"}, "y: there are no gradients"),
    ({"w_hidden": "1", "points": "[[1, 2], [3]]"}, "points: its rows have different lengths"),
    ({"w_hidden": "1", "points": "1, 2"}, "points: expected a list of rows"),
    ({"w_hidden": "1", "points": "[[1, 2]]", "output": "sigmoid"}, "only a linear output is fitted"),
    ({"w_hidden": "1", "w_output": "1", "points": "[[1, 2, 3]]"}, "points: 3 numbers in a row"),
    ({"w_hidden": "1", "w_output": "1", "range": "2, 1"}, "range: expected two numbers"),
    ({"w_hidden": "1", "w_output": "1", "unit": "tanh", "mixture": "yes"}, "mixture: expected true or false"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(None, options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w_hiden = [1]", "unknown key 'w_hiden'"),
        ("w_hidden = [1", "not valid TOML"),
        ("w_hidden = [1]\nw_output = [1]\nunit = 3", "unit: there is no 3"),
        ("w_hidden = [1]\nw_output = [1]\nunit = []", "unit: there is no []"),
        ("w_hidden = {a = 1}\nw_output = [1]", "w_hidden: expected numbers"),
        ("w_hidden = [[1], 2]\nw_output = [1]", "w_hidden: its rows have different lengths"),
        ("w_hidden = [1, -1]\nw_output = [1, 1]\nunit = 'tanh'\nmixture = true", "a mixture divides by"),
        ("w_hidden = [1]\nw_output = [1]\nb_output = 1\nmixture = true", "a mixture has no b_output"),
        ("w_hidden = [1]\nunit = 'relu'\nmixture = true\npoints = [[-1, 0]]", "a mixture has no value"),
        ("w_hidden = 1979-05-27\nw_output = [1]", "w_hidden: expected numbers"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "network.toml"
    file.write_text(text)
    done = percept("exercises", "--network", file, home=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") <= 1


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(
        'unit = "relu"\nw_hidden = [1, 1, 1]\nb_hidden = [0, -1, -2]\npoints = [[0, 0], [1, 2], [2, 1], [3, 3]]'
    )
    done = percept("exercises", "--network", file, "--x", "0.5", "--y", "0", "--out", "drawn", home=tmp_path)
    assert done.stdout.splitlines() == [
        "hidden: 1 → 3 relu, W_H 1 × 3 and b_H 3: 6 parameters",
        "output: 3 → 1 linear, W_O 3 × 1 and b_O 1: 4 parameters",
        "total: 10 parameters",
        "least squares at 4 points: W_O = (2, -3, 3), b_O = 0; RMSE 0",
        "x = 0.5  z_H = (0.5, -0.5, -1.5)  u = (0.5, 0, 0)  z_O = 1  y = 1",
        "loss L = 1",
        "∂L/∂W_H = (2, 0, 0)",
        "∂L/∂b_H = (4, 0, 0)",
        "∂L/∂W_O = (1, 0, 0)",
        "∂L/∂b_O = 2",
        *(f"drawn/{name}.svg" for name in ("backprop", "units", "output")),
    ]
    options = ("--unit", "step", "--w-hidden", "[[1,0],[0,-1]]", "--b-hidden", "-1,1", "--w-output", "[[1,0],[0,1]]")
    done = percept("exercises", *options, "--output", "softmax", "--out", "plane", home=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["plane/units.svg", "plane/output.svg"]


def test_three_inputs_are_computed_and_not_drawn(tmp_path: Path) -> None:
    assert report(problem(w_hidden="[[1], [1], [1]]", w_output="1", x="1, 2, 3"), tmp_path) == []
