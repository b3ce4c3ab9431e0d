"""Training beyond one machine's memory, and beyond one machine: the same batches, the same history up to rounding."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.classifier import Standardize
from models.frontend import Pixels, Vector
from models.moments import Moments
from pipeline import extract, stored, task, train, validate, weights
from pipeline.extract import Features
from pipeline.runner import Runner
from pipeline.stored import Table
from pipeline.task import Task, UserError
from tests.nodes import Cluster

MB = 1 << 20


def history(run: Path) -> dict[str, list[float]]:
    result: dict[str, list[float]] = json.loads((run / "history.json").read_text())
    return result


def columns(run: Path) -> dict[str, list[float]]:
    return {name: values for name, values in history(run).items() if name != "seconds"}


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in torch.load(run / weights.FILE, weights_only=True).items() if k != "facts"}


def write(run: Path, x: np.ndarray, y: np.ndarray, split: list[str], n_labels: int, **data: Any) -> Task:
    """A run directory with features that no source has given, and the task that they belong to."""
    resolved = task.parse(
        {
            "name": "vectors", "data": {"source": "csv", "path": "vectors.csv"},
            "features": {"kind": "vector", "size": x.shape[1]}, **data,
        },
        "test",
    )  # fmt: skip
    n = len(x)
    Features(
        x=x, y=y, labels=tuple(map(str, range(n_labels))), split=np.array(split),
        file=np.array([f"{i}" for i in range(n)]), digest=np.array([f"{i:x}" for i in range(n)]),
        copies=np.empty((0, x.shape[1]), np.float32), copy_of=np.empty(0, np.int64), skipped=(),
        task=extract.origin(resolved), key="", copies_key="",
    ).save(run / extract.FILE)  # fmt: skip
    return resolved


@pytest.mark.parametrize("front", [Vector(3), Pixels()])
def test_statistics_are_those_of_float64_where_the_mean_is_large_and_the_variance_small(front: Any) -> None:
    generator = np.random.default_rng(0)
    n, d = 100_003 if front.n_features == 3 else 1_003, front.n_features
    x = torch.from_numpy(
        (4096 + generator.normal(0, 2**-9, (n, d))).astype(np.float32)
    )  # a few units in the last place
    fitted = Standardize(d).fit(x, front)
    exact = x.double().numpy().astype(np.longdouble)
    axis = None if front.one_unit else 0
    assert fitted.mean.numpy() == pytest.approx(np.broadcast_to(exact.mean(axis), d).astype(float), rel=1e-7)
    assert fitted.deviation.numpy() == pytest.approx(np.broadcast_to(exact.std(axis), d).astype(float), rel=1e-6)
    naive = (x.double().square().mean() - x.double().mean() ** 2).sqrt().item()
    joined = Moments.joined(Moments.of(part, True) for part in torch.split(x, 7)).deviation.item()
    truth = float(exact.std())
    assert abs(joined - truth) < 1e-10 * truth < abs(naive - truth)


def test_features_are_mapped_and_their_rows_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x, copies = (generator.random((n, 5), np.float32) for n in (40, 7))
    np.savez(tmp_path / "odd.npz", a=np.zeros(3, np.uint8), x=x, copies=copies)
    np.savez_compressed(tmp_path / "small.npz", x=x)
    with pytest.raises(ValueError, match="x is compressed"):
        stored.mapped(tmp_path / "small.npz", "x")
    arrays = [stored.mapped(tmp_path / "odd.npz", name) for name in ("x", "copies")]
    assert isinstance(arrays[0].base, np.memmap)
    rows = generator.permutation(47)[:30]
    table, expected = Table(arrays, rows), torch.from_numpy(np.concatenate([x, copies])[rows])
    indices = torch.from_numpy(generator.integers(0, 30, 50))
    assert torch.equal(table.take(indices), expected[indices])
    out = torch.empty(50, 5)
    assert table.take(indices, out) is out
    assert torch.equal(out, expected[indices])
    assert torch.equal(torch.cat(list(stored.pieces(table, 7))), expected)
    standardize = Standardize(5).fit(expected, Vector(5))
    assert torch.equal(
        table.standardised(standardize, torch.device("cpu")).take(indices), standardize(expected)[indices]
    )


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline import stored, task, train
import torch
resolved, run, budget, share = task.load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
torch.randn(500, 500) @ torch.randn(500, 500)  # its threads have their stacks
stored.SHARE = share
used = [1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")][0]
resource.setrlimit(resource.RLIMIT_DATA, (used + budget, used + budget))  # all but mapped files
train.train(resolved, run)
"""


def test_four_times_the_memory_is_trained_on_with_the_same_losses(tmp_path: Path) -> None:
    """The kernel lets the process allocate 96 MB beside what its imports take; 400 MB are trained on."""
    budget, n, d = 96 * MB, 12_801, 8192
    generator = np.random.default_rng(2)
    y = generator.integers(0, 3, n)
    x = generator.random((n, d), np.float32)
    x[np.arange(n), y] += 3
    assert x.nbytes > 4 * budget
    options = {"train": {"epochs": 2, "early_stopping": 2}, "model": {"hidden": [16]}}
    run = tmp_path / "limited"
    resolved = write(run, x, y, ["validation" if i % 10 == 0 else "train" for i in range(n)], 3, **options)
    (tmp_path / "task.toml").write_text(
        f'name = "vectors"\ndata = {{source = "csv", path = "vectors.csv"}}\n'
        f'features = {{kind = "vector", size = {d}}}\ntrain = {{epochs = 2, early_stopping = 2}}\n'
        "model = {hidden = [16]}\n"
    )
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / extract.FILE).symlink_to(run / extract.FILE)
    del x
    train.train(resolved, tmp_path / "whole")

    def limited(share: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, tmp_path / "task.toml", run, str(budget), str(share)]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    greedy = limited(100.0)  # in memory, whatever is free
    assert greedy.returncode
    assert "alloc" in greedy.stderr.lower()
    done = limited(stored.SHARE)
    assert done.returncode == 0, done.stderr
    assert columns(run) == columns(tmp_path / "whole")
    found, expected = tensors(run), tensors(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("digits")
    extract.extract(task.load("digits"), run)
    return run


def both(source: Path, folder: Path, resolved: Task, engine: Runner) -> tuple[Path, Path]:
    """The task trained on this machine and on the engine, from the same features."""
    runs = folder / "here", folder / "there"
    for run, where in zip(runs, (Runner(), engine), strict=True):
        run.mkdir()
        (run / extract.FILE).symlink_to(source / extract.FILE)
        train.train(resolved, run, engine=where)
    return runs


def assert_same(here: Path, there: Path) -> None:
    expected, found = columns(here), columns(there)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name
    a, b = tensors(here), tensors(there)
    assert torch.equal(a["standardize.mean"], b["standardize.mean"])
    assert torch.equal(a["standardize.deviation"], b["standardize.deviation"])
    for name, values in a.items():
        if name.startswith("mlp."):
            assert torch.allclose(values, b[name], rtol=1e-3, atol=1e-5), name


def test_three_workers_tell_two_classes_apart(cluster: Cluster, tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    y = generator.integers(0, 2, 1201)
    x = generator.normal(0, 1, (1201, 600)).astype(np.float32)
    x[:, 0] += 3 * y
    (tmp_path / "source").mkdir()
    resolved = write(
        tmp_path / "source", x, y, ["validation" if i % 8 == 0 else "train" for i in range(1201)], 2,
        train={"optimizer": "sgd", "learning_rate": 0.1, "epochs": 4, "batch_size": 7},
    )  # fmt: skip
    assert_same(*both(tmp_path / "source", tmp_path, resolved, cluster.engine))


def test_three_workers_share_a_regression_whose_samples_are_mixed_and_noisy(cluster: Cluster, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(1000, 1, (1203, 600)).astype(np.float32)
    y = (x[:, :2] - 1000 + generator.normal(0, 0.1, (1203, 2))).astype(np.float32)
    options = {
        "optimizer": "momentum",
        "learning_rate": 0.01,
        "epochs": 4,
        "l1": 1e-4,
        "l2": 1e-3,
        "mix": 0.4,
        "noise": 0.1,
    }
    (tmp_path / "source").mkdir()
    resolved = write(
        tmp_path / "source", x, y, ["validation" if i % 6 == 0 else "train" for i in range(1203)], 2,
        train=options | {"activity_l1": 1e-4, "activity_l2": 1e-4}, model={"hidden": [30, 20]},
    )  # fmt: skip
    assert_same(*both(tmp_path / "source", tmp_path, resolved, cluster.engine))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.framework=keras", "train.framework = 'keras'"), ("train.engine=autograd", "train.engine = 'autograd'"),
        ("train.device=cuda", "no node of the Ray cluster has a GPU"),
    ],
)  # fmt: skip
def test_what_is_not_distributed_is_refused_in_one_line(
    cluster: Cluster, digits: Path, tmp_path: Path, override: str, named: str
) -> None:
    (tmp_path / extract.FILE).symlink_to(digits / extract.FILE)
    with pytest.raises(UserError, match=named) as refusal:
        train.train(task.load("digits", overrides=[override]), tmp_path, engine=cluster.engine)
    assert "\n" not in str(refusal.value)


def test_a_node_that_dies_costs_no_more_than_the_time_since_the_last_checkpoint(
    cluster: Cluster, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.1)
    resolved = task.load("digits", overrides=["train.epochs=25", "train.early_stopping=25"])
    checkpoint = tmp_path / "there" / train.CHECKPOINT
    killed: list[int] = []

    def kill() -> None:
        while not checkpoint.exists():
            time.sleep(0.02)
        cluster.kill(cluster.workers[0])
        killed.append(torch.load(checkpoint, weights_only=True)["state"]["epoch"])

    thread = threading.Thread(target=kill)
    thread.start()
    here, there = both(digits, tmp_path, resolved, cluster.engine)
    thread.join()
    assert 0 < killed[0] < 25
    assert_same(here, there)
    assert not checkpoint.exists()
    reports = [validate.validate(resolved, run)["test"]["accuracy"] for run in (here, there)]
    assert reports[0] == pytest.approx(reports[1], abs=0.01)
