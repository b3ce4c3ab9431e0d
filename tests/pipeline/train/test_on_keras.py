"""Keras: the loss curves and weights of the torch trainer, step by step; one line where Keras is not installed."""

import copy
import importlib
import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from models.mlp import MLP
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.task import Train, UserError
from pipeline.train import loop, weights
from pipeline.train.data import Dataset, Datasets

pytestmark = [
    pytest.mark.skipif(find_spec("keras") is None, reason="the extra percept[keras] is not installed"),
    pytest.mark.usefixtures("few_outliers"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras, with NumPy 2
]

EPOCHS = 5
TASKS = ("digits", "regions", "sine")  # multiclass, binary, regression
SOURCES = {"digits": "scans"}  # instead of the task's own
RATES = {"adam": 0.001, "momentum": 0.05, "sgd": 0.3}
PENALTIES = {"l1": 0.001, "l2": 0.002, "activity_l1": 0.003, "activity_l2": 0.004}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the features of one task for each kind of target."""
    folder = tmp_path_factory.mktemp("runs")
    for name in TASKS:
        (folder / name).mkdir()
        extract.extract(task.load(name, SOURCES.get(name)), Run(folder / name))
    return folder


@dataclass
class Trained:
    history: dict[str, list[float]]
    tensors: dict[str, torch.Tensor]
    facts: weights.Facts


def trained(runs: Path, name: str, framework: str, *overrides: str) -> Trained:
    run = runs / name
    train.train(task.load(name, SOURCES.get(name), [f"train.framework={framework}", *overrides]), Run(run))
    classifier, facts = weights.load(run / "weights.pt")
    return Trained(json.loads((run / "history.json").read_text()), classifier.state_dict(), facts)


@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["no penalty", "penalties"])
@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("name", TASKS)
def test_the_loss_curves_are_those_of_torch(runs: Path, name: str, optimizer: str, penalties: dict[str, float]) -> None:
    options = [f"train.epochs={EPOCHS}", f"train.optimizer={optimizer}", f"train.learning_rate={RATES[optimizer]}"]
    options += [f"train.{key}={value}" for key, value in penalties.items()]
    ours, keras = (trained(runs, name, framework, *options) for framework in ("torch", "keras"))
    assert list(keras.history) == list(ours.history) == list(train.HISTORY)
    for column in set(train.HISTORY) - {"seconds"}:
        assert keras.history[column] == pytest.approx(ours.history[column], rel=1e-5), column
    assert keras.facts.train["framework"] == "keras"
    assert keras.tensors.keys() == ours.tensors.keys()


@pytest.mark.parametrize("optimizer", RATES)
def test_the_steps_are_the_same_when_the_rate_falls_and_gradients_are_small(optimizer: str) -> None:
    from pipeline.train import on_keras

    draw = torch.Generator().manual_seed(3)
    x = torch.randn(90, 6, generator=draw) * torch.logspace(-6, 0, 6)  # at 1e-6 Adam's ε matters
    y = torch.randint(3, (90,), generator=draw)
    data = Datasets(Dataset(x[:70], y[:70]), Dataset(x[70:], y[70:]))
    options = Train(epochs=EPOCHS, batch_size=16, optimizer=optimizer, learning_rate=0.03, schedule="robbins-monro")
    start = MLP(6, [5, 4], 3, "tanh")
    ours, keras = copy.deepcopy(start), copy.deepcopy(start)
    trainer = train.ClosedForm([ours], train.Feed([data.training], [options.seed], 16), "multiclass", [options])
    loop.fit(trainer, ours, options, data.validation, "multiclass", loop.State())
    on_keras.fit(keras, data, "multiclass", options)
    assert (ours.weights()[-1] - start.weights()[-1]).abs().max() > 1e-3
    for a, b in zip(ours.parameters(), keras.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_early_stopping_keeps_the_same_best_weights(runs: Path) -> None:
    options = ["train.epochs=60", "train.early_stopping=3", "train.optimizer=momentum", "train.learning_rate=0.3"]
    ours, keras = (trained(runs, "digits", framework, *options) for framework in ("torch", "keras"))
    assert (keras.facts.best_epoch, keras.facts.epochs) == (ours.facts.best_epoch, ours.facts.epochs)
    assert keras.facts.epochs == keras.facts.best_epoch + 3 < 60
    for name, tensor in ours.tensors.items():
        torch.testing.assert_close(keras.tensors[name], tensor, rtol=1e-3, atol=1e-3)


def test_the_seed_fixes_the_weights(runs: Path) -> None:
    first, again, other = (
        trained(runs, "digits", "keras", "train.epochs=2", f"train.seed={seed}") for seed in (5, 5, 6)
    )
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.tensors["mlp.layers.0.weight"], other.tensors["mlp.layers.0.weight"])


def test_a_linear_model(runs: Path) -> None:
    options = ["model.hidden=[]", "train.epochs=2", "train.l2=0.01"]
    ours, keras = (trained(runs, "regions", framework, *options) for framework in ("torch", "keras"))
    assert keras.history["train_loss"] == pytest.approx(ours.history["train_loss"], rel=1e-5)


def test_a_loss_that_is_no_number_stops_with_one_line(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no longer a number in epoch \d+; lower train.learning_rate, now 1e\+30"):
        trained(runs, "sine", "keras", "train.optimizer=sgd", "train.learning_rate=1e30")


def test_without_keras_torch_trains_and_one_line_says_what_to_install(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.train.on_keras", raising=False)
    monkeypatch.delattr("pipeline.train.on_keras", raising=False)
    monkeypatch.setitem(sys.modules, "keras", None)  # makes the import fail as for a missing package
    with pytest.raises(UserError, match=r"^train.framework: .* pip install 'percept\[keras\]'.*$"):
        trained(runs, "sine", "keras")
    trained(runs, "sine", "torch", "train.epochs=1")


def test_keras_on_another_backend_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    on_keras = importlib.import_module("pipeline.train.on_keras")
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(UserError, match="Keras already runs on jax here; start a new process"):
        importlib.reload(on_keras)
