"""The check of gradients: it passes where they are right, fails where they are not, and stays clear of kinks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mlp import MLP
from models.steps import reference
from models.steps.reference import Gradients, Penalties
from pipeline import extract, task
from pipeline.lessons import gradcheck
from pipeline.run import Run
from pipeline.task import Train, UserError

FACTOR = st.sampled_from([0.0, 1e-3, 0.5])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["binary", "multiclass", "regression"]),
    activation=st.sampled_from(["sigmoid", "relu", "tanh"]),
    hidden=st.lists(st.integers(1, 7), max_size=3),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 5)),
    factors=st.fixed_dictionaries(dict.fromkeys(Penalties._fields, FACTOR)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_three_gradients_agree(
    kind: Any, activation: Any, hidden: list[int], sizes: tuple[int, int, int], factors: dict[str, float], seed: int
) -> None:
    n, n_inputs, n_outputs = sizes
    rng = np.random.default_rng(seed)
    mlp = MLP(n_inputs, hidden, 1 if kind == "binary" else n_outputs, activation, seed)
    x = rng.normal(size=(n, n_inputs))
    targets = {
        "binary": rng.integers(2, size=n),
        "multiclass": rng.integers(n_outputs, size=n),
        "regression": rng.normal(size=(n, n_outputs)),
    }
    rows = gradcheck.check(mlp, torch.tensor(x), torch.tensor(targets[kind]), kind, Train(**factors))
    assert [row.name for row in rows] == [name for name, _ in mlp.named_parameters()]
    for row in rows:
        assert row.differences < 1e-7
        assert row.autograd < 1e-9


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the features of the task that the test names."""
    folder = tmp_path_factory.mktemp("run")
    extract.extract(task.load(request.param, "scans" if request.param == "digits" else None), Run(folder))
    return folder


@pytest.mark.parametrize(
    ("run", "overrides", "shapes"),
    [
        ("digits", [], [(100, 784), (100,), (10, 100), (10,)]),
        ("regions", ["model.activation='relu'", "train.l1=1e-4"], [(4, 2), (4,), (1, 4), (1,)]),
        ("sine", ["model.hidden=[5, 3]", "model.init='xavier'"], [(5, 1), (5,), (3, 5), (3,), (1, 3), (1,)]),
    ],
    indirect=["run"],
)
def test_the_gradients_of_a_task_are_right(
    run: Path, overrides: list[str], shapes: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    features = extract.Features.load(run / "features.npz")
    name = {"regression": "sine", "binary": "regions", "multiclass": "digits"}[features.kind]
    gradcheck.gradcheck(task.load(name, overrides=overrides), Run(run))
    _, _, *table, verdict = capsys.readouterr().out.splitlines()
    assert len(table) == len(shapes)
    for line, shape in zip(table, shapes, strict=True):
        assert str(shape) in line
        assert f"{min(50, np.prod(shape))}/{np.prod(shape)}" in line
        assert all(float(error) < 1e-7 for error in line.split()[-2:])
    assert verdict == "  all are below 1e-07"


@pytest.mark.parametrize("run", ["regions"], indirect=True)
@pytest.mark.parametrize("wrong", [1.0001, np.nan])
def test_a_wrong_gradient_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    right = reference.gradients

    def gradients(*problem: Any) -> Gradients:
        result = right(*problem)
        result.weights[1] *= wrong
        return result

    monkeypatch.setattr(reference, "gradients", gradients)
    with pytest.raises(UserError, match=r"^layers\.1\.weight: .* away from central differences.*$"):
        gradcheck.gradcheck(task.load("regions"), Run(run))


def test_no_features_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="percept extract"):
        gradcheck.gradcheck(task.load("regions"), Run(tmp_path))


def test_the_network_is_not_changed() -> None:
    mlp = MLP(3, [4], 2, "tanh")
    before = {name: p.clone() for name, p in mlp.named_parameters()}
    gradcheck.check(mlp, torch.ones(2, 3), torch.tensor([0, 1]), "multiclass", Train(l1=0.1))
    for name, p in mlp.named_parameters():
        assert p.dtype == torch.float32
        assert p.grad is None
        assert torch.equal(p, before[name])


def test_a_parameter_on_a_kink_is_skipped() -> None:
    mlp = MLP(3, [], 1, "relu")
    with torch.no_grad():
        mlp.layers[0].weight[0, 1] = 0  # where |w| has no derivative
        mlp.layers[0].weight[0, 2] = 1e-4  # near enough to ask for a smaller step
    weight, bias = gradcheck.check(mlp, torch.ones(2, 3), torch.tensor([0, 1]), "binary", Train(l1=0.1))
    assert (weight.compared, bias.compared) == (2, 1)
    assert max(weight.differences, bias.differences) < 1e-7
