"""Weighing classes: rare ones count as much as frequent ones, and it is on where the validation samples say so."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.mlp import MLP
from pipeline import task, train
from pipeline.run import Run
from pipeline.task import Task, Train, UserError
from pipeline.train import weights
from pipeline.train.batches import Feed
from tests.vectors import write


@pytest.fixture
def rare(tmp_path: Path) -> Task:
    """Two classes that overlap, 1 : 100."""
    rng = np.random.default_rng(0)
    y = (np.arange(4040) % 101 == 0).astype(np.int64)
    x = (rng.normal(size=(4040, 3)) + 1.5 * y[:, None]).astype(np.float32)
    split = ["validation" if i % 4 == 0 else "train" for i in range(4040)]
    options = {"epochs": 12, "learning_rate": 0.01}
    return write(tmp_path, x, y, split, 2, train=options, model={"hidden": [8]})


def test_it_is_on_where_it_lowers_the_loss_of_the_validation_samples(
    rare: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = train.train(rare, Run(tmp_path))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "weighing" in line]
    assert line.startswith("  classes of 30 to 3,000 training samples: weighing them lowers the log loss of the")
    plain, weighed = (float(word) for word in line.split("alike, ")[1].split("; ")[0].split(" → "))
    assert weighed < plain - 0.5
    assert found.train["balance"] == weights.load(tmp_path / "weights.pt")[1].train["balance"] == "on"
    on = rare.model_copy(update={"train": rare.train.model_copy(update={"balance": "on"})})
    before = torch.load(tmp_path / "weights.pt", weights_only=True)
    train.train(on, Run(tmp_path))
    after = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(after[name], values) for name, values in before.items() if name.startswith("mlp."))
    assert "weighing" not in capsys.readouterr().out


def test_classes_of_about_one_size_are_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    split = ["validation" if i % 3 == 0 else "train" for i in range(90)]
    even = write(tmp_path, x, np.arange(90) % 2, split, 2, train={"epochs": 1})
    assert train.train(even, Run(tmp_path)).train["balance"] == "auto"
    assert "weighing" not in capsys.readouterr().out
    numbers = write(tmp_path, x, x[:, :1], split, 1, train={"epochs": 1, "balance": "on"})
    with pytest.raises(UserError, match=r"train.balance weighs classes, and the targets are numbers"):
        train.train(numbers, Run(tmp_path))


@pytest.mark.parametrize(("kind", "n_outputs"), [("multiclass", 3), ("binary", 1)])
def test_closed_form_and_autograd_weigh_alike(kind: str, n_outputs: int) -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy(np.minimum(rng.geometric(0.8, 70) - 1, max(1, n_outputs - 1)))
    data = train.Dataset(torch.from_numpy(rng.normal(size=(70, 5)).astype(np.float32)), y)
    losses, networks = [], []
    for trainer in (train.ClosedForm, train.Autograd):
        mlp, options = MLP(5, [6], n_outputs, "tanh", 0), Train(batch_size=16, balance="on")
        feed = Feed([data], [0], 16, balance=True)
        running = trainer([mlp], feed, kind, [options])  # type: ignore[arg-type]
        losses.append([running.epoch(number, 1.0)[0].item() for number in range(3)])
        networks.append(mlp)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    first, second = (network.linear()[0].weight for network in networks)
    assert torch.allclose(first, second, atol=1e-5)


def test_every_class_of_every_network_counts_alike() -> None:
    x = torch.zeros(40, 2)
    data = [train.Dataset(x, torch.tensor([0] * n + [1] * (40 - n))) for n in (30, 4)]
    for sets, seeds in ((data[:1], [0]), (data, [0, 1])):
        feed = Feed(sets, seeds, 40, balance=True)
        order = feed.order(0)
        y = feed.y[order]
        total = feed.sample_weights(y).squeeze(-2)
        for k in (0, 1):
            assert torch.allclose(torch.where(y == k, total, 0).sum(-1), torch.tensor(0.5))


def test_the_gate_holds_macro_recall_and_other_frameworks_are_refused() -> None:
    assert task.load("digits", overrides=["validate.min_macro_recall=0.9"]).validate_.thresholds()["min_macro_recall"]
    with pytest.raises(UserError, match=r"train.balance needs framework = 'torch', not 'keras'"):
        task.load("regions", overrides=["train.balance=on", "train.framework=keras"])
