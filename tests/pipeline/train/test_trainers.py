"""Trainers: penalties, and closed-form gradients against autograd."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mlp import MLP
from pipeline import train
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.task import Train
from pipeline.train import penalty
from tests.pipeline.train.training import trained
from tests.vectors import history, tensors, write

pytestmark = pytest.mark.usefixtures("few_outliers")


def test_penalties_count_the_weights_and_not_the_biases() -> None:
    mlp = MLP(2, [1], 2, "relu")
    for parameter, values in zip(mlp.parameters(), ([[1.0, -2.0]], [9.0], [[3.0], [-4.0]], [9.0, 9.0]), strict=True):
        parameter.data = torch.tensor(values)
    assert torch.as_tensor(penalty(mlp, [], Train(l1=0.5))).item() == pytest.approx(0.5 * 10)
    assert torch.as_tensor(penalty(mlp, [], Train(l2=0.1))).item() == pytest.approx(0.1 * 30)


def test_activity_penalties_are_sums_over_units_and_means_over_the_batch() -> None:
    activations = [torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[2.0], [2.0]])]
    mlp = MLP(2, [2, 1], 1, "tanh")
    assert torch.as_tensor(penalty(mlp, activations, Train(activity_l1=0.1))).item() == pytest.approx(0.5)
    assert torch.as_tensor(penalty(mlp, activations, Train(activity_l2=0.1))).item() == pytest.approx(1.1)


def test_a_penalty_makes_the_weights_smaller(digits: Path, tmp_path: Path) -> None:
    free = trained(digits, tmp_path / "free", "train.epochs=10", "train.l2=0")
    held = trained(digits, tmp_path / "held", "train.epochs=10", "train.l2=0.01")
    assert held["mlp.layers.0.weight"].norm() < 0.8 * free["mlp.layers.0.weight"].norm()


@pytest.mark.parametrize("gradients", ["closed-form", "autograd"])
def test_augmentation_makes_fitting_harder_and_leaves_the_validation_images_alone(
    digits: Path, tmp_path: Path, gradients: str
) -> None:
    options = ("train.epochs=15", "train.learning_rate=0.003", f"train.gradients={gradients}")
    plain, distorted = tmp_path / "plain", tmp_path / "distorted"
    trained(digits, plain, *options)
    found = trained(digits, distorted, *options, "train.augment.elastic=1.5", "train.augment.rotation=15")
    assert history(distorted)["train_loss"][-1] > 1.5 * history(plain)["train_loss"][-1]
    assert history(distorted)["validation_accuracy"][-1] > 0.9
    features = Features.load(digits / "features.npz")
    assert found["standardize.mean"][0].item() == pytest.approx(features.x[features.rows("train")].mean(), rel=1e-5)


def test_closed_form_and_autograd_agree_on_distorted_and_mixed_images(digits: Path, tmp_path: Path) -> None:
    options = ("train.epochs=3", "train.augment.elastic=1", "train.augment.shift=2", "train.l2=1e-4", "train.mix=0.5")
    for gradients in ("closed-form", "autograd"):
        trained(digits, tmp_path / gradients, *options, f"train.gradients={gradients}")
    found, expected = (history(tmp_path / gradients) for gradients in ("closed-form", "autograd"))
    for column in set(train.HISTORY) - {"seconds"}:
        assert found[column] == pytest.approx(expected[column], rel=1e-5), column


@pytest.mark.parametrize("gradients", ["closed-form", "autograd"])
@pytest.mark.parametrize("hidden", [[128], [128, 4]])  # the compiled step and the plain one
def test_weights_that_a_penalty_shrinks_end_at_zero_and_not_as_subnormals(
    tmp_path: Path, gradients: str, hidden: list[int]
) -> None:
    """Constant features give no gradient but the penalty's, which takes 80 % of their weights in each step."""
    rng, n = np.random.default_rng(0), 60
    x = np.zeros((2 * n, 600), np.float32)
    x[:, 300:] = rng.standard_normal((2 * n, 300))
    y = rng.integers(0, 2, 2 * n)
    resolved = write(
        tmp_path, x, y, ["train"] * n + ["test"] * n, 2, model={"hidden": hidden, "activation": "relu"},
        train={"epochs": 57, "optimizer": "sgd", "learning_rate": 0.1, "l2": 4.0, "gradients": gradients},
    )  # fmt: skip
    # PyTorch's threads belong to the thread that started them; those of this one may be older than the training.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train.train, resolved, Run(tmp_path)).result()
    before = MLP(600, hidden, 2, "relu", resolved.train.seed).layers[0].weight[:, :300]
    exact = np.abs(before.detach().numpy(), dtype=np.float64) * 0.2**57  # threads of PyTorch may flush it to zero
    assert ((exact.astype(np.float32) > 0) & (exact < np.finfo(np.float32).tiny)).mean() > 0.9  # what it would be
    assert not tensors(tmp_path)["mlp.layers.0.weight"][:, :300].any()
