"""Tests that test_gpu.py runs in Triton's interpreter: the step of small networks on a GPU equals autograd."""

import copy
from typing import Any

import pytest
import torch

from models.mlp import MLP
from models.steps import gpu
from pipeline.task import Train
from pipeline.train.data import Dataset
from pipeline.train.trainers import Autograd, ClosedForm
from tests.models.steps.test_closed_form import OPTIMIZERS, PENALTIES, network, problem, trained


class ByKernels(ClosedForm):
    """Fails where the kernels are not used."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert isinstance(self.step, gpu.KernelStep)


def same_as_autograd(
    networks: list[MLP], data: list[Dataset], kind: Any, options: list[Train], epochs: int = 1
) -> None:
    """The networks are trained in one stack by the kernels, and each alone by autograd."""
    alone = copy.deepcopy(networks)
    found = trained(ByKernels, networks, data, kind, options, epochs)
    for m, (ours, theirs) in enumerate(zip(networks, alone, strict=True)):
        expected = trained(Autograd, [theirs], [data[m]], kind, [options[m]], epochs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[:, m], b[:, 0], rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "activation", "optimizer", "hidden"),
    [
        ("multiclass", "tanh", "adam", (7,)),
        ("multiclass", "relu", "sgd", (5, 4, 3)),
        ("binary", "relu", "momentum", (5, 4)),
        ("binary", "sigmoid", "adam", ()),
        ("regression", "sigmoid", "adam", (6, 2)),
        ("regression", "tanh", "momentum", (1,)),
    ],
)
def test_training_equals_autograd(kind: Any, activation: Any, optimizer: Any, hidden: tuple[int, ...]) -> None:
    data = problem(kind, 40)
    penalties = PENALTIES[-1] if hidden else {"l1": 1e-3, "l2": 2e-3}
    options = Train(batch_size=16, optimizer=optimizer, learning_rate=OPTIMIZERS[optimizer], **penalties)
    same_as_autograd([network(data, kind, hidden, activation)], [data], kind, [options])


@pytest.mark.parametrize("shared", [True, False], ids=["one data set", "data of their own"])
def test_stacked_networks_equal_autograd(shared: bool) -> None:
    """Networks with less data do not change when they have no batch."""
    data = [problem("multiclass", 40)] * 3 if shared else [problem("multiclass", n, seed=n) for n in (40, 25, 16)]
    options = [
        Train(batch_size=16, learning_rate=0.01 * (m + 1), l2=1e-3 * m, seed=0 if shared else m) for m in range(3)
    ]
    networks = [network(data[m], "multiclass", (5, 4), "sigmoid", seed=m) for m in range(3)]
    same_as_autograd(networks, data, "multiclass", options)


def test_large_tiles_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem("multiclass", 64, 80)  # one batch: the interpreter takes a second for it
    for multiprocessors, product, descent in ((0, 64, 64), (9, 32, 16), (4, 64, 32)):
        monkeypatch.setattr(gpu, "MULTIPROCESSORS", multiprocessors)
        assert (gpu._tile(1, 64, 70), gpu._tile(1, 70, 80, 4)) == (product, descent)
        options = Train(batch_size=64, l1=1e-4)
        same_as_autograd([network(data, "multiclass", (70,), "relu")], [data], "multiclass", [options], 1)


@pytest.mark.parametrize("size", [16, 17])
def test_rows_need_not_be_aligned_to_16_bytes(size: int) -> None:
    """If all rows are aligned, kernels read four numbers at a time."""
    data = problem("multiclass", 40, 8)
    options = Train(batch_size=size, l2=1e-3, activity_l1=1e-3)
    same_as_autograd([network(data, "multiclass", (8, 4), "tanh")], [data], "multiclass", [options])
