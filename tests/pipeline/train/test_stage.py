"""Training as a stage: its files, the seed, threads and mistakes of the user."""

import math
from pathlib import Path

import pytest
import torch

from pipeline import task, train
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.task import Task, UserError
from pipeline.threads import threads
from tests.pipeline.train.training import same, trained
from tests.vectors import history


@pytest.mark.usefixtures("few_outliers")
def test_history_and_weights(digits: Path, tmp_path: Path) -> None:
    found = trained(digits, tmp_path, "train.epochs=8", "train.learning_rate=0.003")
    assert {name for name in found if not name.startswith("familiarity.")} == {
        "standardize.mean", "standardize.deviation", "mlp.layers.0.weight", "mlp.layers.0.bias",
        "mlp.layers.1.weight", "mlp.layers.1.bias", "temperature",
    }  # fmt: skip
    record = history(tmp_path)
    assert list(record) == list(train.HISTORY)
    assert record["epoch"] == list(range(1, 9))
    assert record["train_loss"][-1] < 0.3 < record["train_loss"][0]
    assert record["validation_accuracy"][-1] > 0.9
    assert record["seconds"] == sorted(record["seconds"])
    assert not (tmp_path / "checkpoint.pt").exists()
    numbers = sum(tensor.numel() for tensor in found.values())
    assert (tmp_path / "weights.pt").stat().st_size < 4 * numbers + 10_000  # and no buffer that they are views of


@pytest.mark.usefixtures("few_outliers")
def test_the_seed_fixes_the_weights(digits: Path, tmp_path: Path) -> None:
    first, again, other = (
        trained(digits, tmp_path / name, "train.epochs=3", f"train.seed={seed}")
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.usefixtures("few_outliers")
def test_standardisation_sees_training_samples_only(digits: Path, tmp_path: Path) -> None:
    found = trained(digits, tmp_path, "train.epochs=1")
    features = Features.load(digits / "features.npz")
    assert found["standardize.mean"][0].item() == pytest.approx(features.x[features.rows("train")].mean(), rel=1e-5)


@pytest.mark.usefixtures("few_outliers")
def test_noise_and_penalties_are_weaker_for_many_samples(digits: Path, tmp_path: Path) -> None:
    share = math.sqrt(100 / Features.load(digits / "features.npz").rows("train").sum())
    weakened = trained(
        digits, tmp_path / "weakened", "train.epochs=2", "train.noise=0.5", "train.l2=0.01", "train.weaker_from=100"
    )
    weak = trained(
        digits, tmp_path / "weak", "train.epochs=2", f"train.noise={share * 0.5}", f"train.l2={share * 0.01}"
    )
    assert same(weakened, weak)
    strong = trained(
        digits, tmp_path / "strong", "train.epochs=2", "train.noise=0.5", "train.l2=0.01", "train.weaker_from=100_000"
    )
    assert not same(weakened, strong)


@pytest.mark.usefixtures("few_outliers")
def test_the_number_of_threads_changes_no_bit(digits: Path, tmp_path: Path) -> None:
    options = ("train.epochs=2", "model.hidden=[130]", "train.l1=1e-4", "train.l2=1e-3", "train.augment.elastic=1")
    results = []
    for n in sorted({1, torch.get_num_threads()}):
        with threads(n):
            results.append((trained(digits, tmp_path / f"{n}", *options), history(tmp_path / f"{n}")["train_loss"]))
    assert same(results[0][0], results[-1][0])
    assert results[0][1] == results[-1][1]


def test_training_before_extraction_is_one_line(tmp_path: Path) -> None:
    resolved: Task = task.load("digits")
    with pytest.raises(UserError, match=r"features.npz: not there yet; run `percept extract` first"):
        train.train(resolved, Run(tmp_path))
