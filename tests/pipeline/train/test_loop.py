"""The loop of training: checkpoints and kill -9, early stopping, schedules, a loss that is no longer a number."""

import math
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.mlp import MLP
from pipeline import task, train
from pipeline.extract.features import Features
from pipeline.run import Run, replacing
from pipeline.task import Train, UserError
from pipeline.train import loop, weights
from tests.pipeline.train.training import link_features, same, trained
from tests.vectors import history

pytestmark = pytest.mark.usefixtures("few_outliers")
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["pipeline.train.stage"])  # seconds to import: once for all processes


@pytest.mark.parametrize(
    "how",
    [
        "train.optimizer=adam", "train.optimizer=momentum", "train.optimizer=sgd", "train.gradients=autograd",
        "train.augment.elastic=1", "train.mix=0.5",
    ],
)  # fmt: skip
def test_a_killed_run_continues_and_ends_with_the_same_weights(
    digits: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train.epochs=12", how, "train.early_stopping=12"]
    undisturbed = trained(digits, tmp_path / "undisturbed", *options)
    run = tmp_path / "killed"
    link_features(digits, run)
    process = PROCESSES.Process(target=train_and_die, args=(run, options, 7))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (run / "weights.pt").exists()
    assert torch.load(run / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 7
    assert same(trained(digits, run, *options), undisturbed)
    assert history(run)["train_loss"] == history(tmp_path / "undisturbed")["train_loss"]
    assert "continuing after epoch 7" in capsys.readouterr().out


def train_and_die(run: Path, options: list[str], epoch: int) -> None:
    """Train, with a checkpoint after every epoch, until kill -9 while the one after `epoch` + 1 is written."""
    loop.CHECKPOINT_SECONDS = 0.0
    write = loop.write_torch

    def half(path: Path, checkpoint: Any) -> None:
        if checkpoint["state"]["epoch"] > epoch:
            with replacing(path) as temporary:
                temporary.write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
        write(path, checkpoint)

    loop.write_torch = half
    train.train(task.load("digits", "scans", options), Run(run))


def test_a_checkpoint_of_another_training_is_not_continued(digits: Path, tmp_path: Path) -> None:
    expected = trained(digits, tmp_path / "clean", "train.epochs=2")
    (tmp_path / "dirty").mkdir()
    torch.save({"fingerprint": "another"}, tmp_path / "dirty" / "checkpoint.pt")
    assert same(trained(digits, tmp_path / "dirty", "train.epochs=2"), expected)


def test_a_broken_checkpoint_is_not_continued(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"broken")
    trained(digits, tmp_path, "train.epochs=1")


def test_early_stopping_keeps_the_best_weights(digits: Path, tmp_path: Path) -> None:
    trained(digits, tmp_path, "train.epochs=200", "train.early_stopping=5", "train.learning_rate=0.02")
    record = history(tmp_path)
    best = int(np.argmin(record["validation_loss"])) + 1
    assert len(record["epoch"]) == best + 5 < 200
    classifier, facts = weights.load(tmp_path / "weights.pt")
    assert (facts.best_epoch, facts.epochs) == (best, best + 5)
    features = Features.load(digits / "features.npz")
    rows = features.rows("validation")
    with torch.inference_mode():
        logits = classifier.mlp(classifier.standardize(torch.from_numpy(features.x[rows])))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(features.y[rows])).item()
    assert loss == pytest.approx(min(record["validation_loss"]), rel=1e-4)


def test_a_loss_that_is_no_number_stops_with_one_line(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no longer a number in epoch \d+; lower train.learning_rate, now 1e\+30"):
        trained(digits, tmp_path, "train.optimizer=sgd", "train.learning_rate=1e30", "model.activation=relu")
    assert not (tmp_path / "weights.pt").exists()


def test_networks_are_over_one_by_one_and_a_failure_ends_its_own_training_only() -> None:
    """As in a search: three networks in one loop, one with early stopping, one with a NaN loss, one with neither."""
    losses = [[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 6.0, 6.0, 6.0], [5.0, math.nan, 1.0, 1.0, 1.0]]
    networks = [MLP(1, [], 1, "relu") for _ in losses]
    options = [Train(epochs=5, early_stopping=patience) for patience in (0, 2, 0)]
    weights_of = [network.layers[0].bias for network in networks]
    done: list[int] = []

    class Scripted:
        def epoch(self, number: int, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
            done.append(number)
            for bias in weights_of:
                bias.data.fill_(number + 1)
            return torch.tensor([column[number] for column in losses]), torch.full((3,), 0.5)

    def evaluate() -> list[tuple[float, float]]:
        return [(column[done[-1]], 0.5) for column in losses]

    found = loop.run_epochs(Scripted(), networks, options, evaluate, [loop.State() for _ in losses])
    whole, stopped, failed = found
    assert isinstance(whole, loop.State)
    assert isinstance(stopped, loop.State)
    assert (whole.epoch, whole.best_epoch, weights_of[0].item()) == (5, 5, 5)
    assert (stopped.epoch, stopped.best_epoch, weights_of[1].item()) == (4, 2, 2)  # the weights of its best epoch
    assert str(failed) == "the loss is no longer a number in epoch 2; lower train.learning_rate, now 0.001"


def test_schedules() -> None:
    factors = {name: [f(epoch, 100) for epoch in range(100)] for name, f in train.SCHEDULES.items()}
    assert set(factors["constant"]) == {1.0}
    assert factors["step"][0] == 1
    assert factors["step"][60] == pytest.approx(0.1)
    assert factors["step"][80] == pytest.approx(0.01)
    assert factors["cosine"][0] == 1
    assert factors["cosine"][50] == pytest.approx(0.5)
    assert factors["robbins-monro"][:3] == [1, 1 / 2, 1 / 3]
    assert all(math.isfinite(f) and 0 < f <= 1 for column in factors.values() for f in column)


def test_one_cycle_rises_and_falls() -> None:
    factors = [train.SCHEDULES["one-cycle"](epoch, 100) for epoch in range(100)]
    top = factors.index(max(factors))
    assert 29 <= top <= 30
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[0] == pytest.approx(0.04, abs=0.01)
    assert 0 < factors[-1] < 1e-3
