"""The computation graph: values and gradients of every node are those of PyTorch, and dimensions those of a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.mlp import MLP
from models.steps import reference
from models.targets import TARGETS
from pipeline import extract, task
from pipeline.lessons import backprop
from pipeline.lessons.gradcheck import as_reference
from pipeline.run import Run


@pytest.mark.parametrize(
    ("kind", "hidden", "activation", "y"),
    [
        ("binary", [4], "sigmoid", [1]),
        ("multiclass", [5, 3], "tanh", [2]),
        ("regression", [3], "relu", [[0.5, -1.0, 2.0]]),
        ("binary", [], "sigmoid", [0]),
    ],
)
def test_the_nodes_are_those_of_automatic_differentiation(kind: Any, hidden: Any, activation: Any, y: Any) -> None:
    mlp = MLP(2, hidden, 1 if kind == "binary" else 3, activation, seed=1).double()
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64, requires_grad=True)
    found = {n.name: n for n in backprop.nodes(as_reference(mlp), x.detach().numpy(), np.array(y), kind)}
    z, hidden_outputs = mlp.with_activations(x)
    for node in (z, *hidden_outputs):
        node.retain_grad()
    loss = TARGETS[kind].loss(z, torch.from_numpy(np.array(y)))
    loss.backward()
    layers = ["H"] if len(hidden) == 1 else [f"H{i + 1}" for i in range(len(hidden))]
    expected = {"x": x, "z_O": z} | {f"a_{name}": a for name, a in zip(layers, hidden_outputs, strict=True)}
    for name, layer in zip([*layers, "O"], mlp.linear(), strict=True):
        expected |= {f"W_{name}": layer.weight, f"b_{name}": layer.bias}
    for name, tensor in expected.items():
        assert tensor.grad is not None
        value, gradient = (t.detach().numpy() for t in (tensor, tensor.grad))
        if name.startswith("W"):
            value, gradient = value.T, gradient.T
        np.testing.assert_allclose(found[name].value, np.atleast_2d(value), rtol=1e-12)
        np.testing.assert_allclose(found[name].gradient, np.atleast_2d(gradient), rtol=1e-9, atol=1e-15)
    assert found["L"].value.item() == pytest.approx(loss.item())
    assert next(iter(found)) == "x"
    assert list(found)[-1] == "L"


def test_dimensions_are_those_of_one_sample_and_of_a_batch() -> None:
    network = as_reference(MLP(2, [4], 1, "sigmoid").double())
    found = {n.name: n for n in backprop.nodes(network, np.zeros((1, 2)), np.array([1]), "binary")}
    x, a, z = reference.forward(network, np.zeros((100, 2)))
    for name, array in (("x", x), ("a_H", a), ("z_O", z)):
        assert found[name].dimensions(100) == " × ".join(map(str, array.shape))
        assert found[name].dimensions(None) == str(array.shape[1])
    assert {n.dimensions(None) == n.dimensions(100) for n in found.values() if n.is_parameter} == {True}
    assert (found["W_H"].dimensions(100), found["b_H"].dimensions(100)) == ("2 × 4", "4")


@pytest.mark.parametrize("name", ["regions", "sine"])
def test_the_figure_shows_every_number(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, asked = Run(tmp_path), task.load(name, overrides=["model.hidden=[3, 2]"])
    extract.extract(asked, run)
    found = backprop.backprop(asked, run)
    drawn = (run.lessons / "backprop.svg").read_text()
    for node in found:
        for number in (*node.value.flat, *node.gradient.flat):
            assert f">{number:.4f}".replace("-", "−") in drawn
    assert "currentColor" in drawn
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if line.startswith("  ")][1:] == [node.name for node in found]
