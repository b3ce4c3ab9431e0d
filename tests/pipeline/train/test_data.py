"""Training beyond a machine's memory: the same batches, the same history."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from models.classifier import Standardize
from models.frontend import Pixels, Vector
from models.moments import Moments
from pipeline import train
from pipeline.extract import features
from pipeline.run import Run
from pipeline.train import data, devices
from pipeline.train.data import StoredMatrix
from tests.vectors import columns, tensors, write

MB = 1 << 20


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


def test_features_stay_in_their_file_and_their_rows_are_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x, copies = (generator.random((n, 5), np.float32) for n in (40, 7))
    np.savez(tmp_path / "odd.npz", a=np.zeros(3, np.uint8), x=x, copies=copies)
    np.savez_compressed(tmp_path / "small.npz", x=x)
    with (
        (tmp_path / "small.npz").open("rb") as f,
        ZipFile(f) as archive,
        pytest.raises(ValueError, match="x is compressed"),
    ):
        features.stored(f, archive, "x")
    with (tmp_path / "odd.npz").open("rb") as f, ZipFile(f) as archive:
        arrays = [features.stored(f, archive, name) for name in ("x", "copies")]
    (tmp_path / "odd.npz").unlink()  # an extraction may replace it meanwhile
    rows = generator.permutation(47)[:30]
    matrix, expected = StoredMatrix(arrays, rows), torch.from_numpy(np.concatenate([x, copies])[rows])
    indices = torch.from_numpy(generator.integers(0, 30, 50))
    assert torch.equal(matrix.read(indices), expected[indices])
    out = torch.empty(50, 5)
    assert matrix.read(indices, out) is out
    assert torch.equal(out, expected[indices])
    assert torch.equal(torch.cat(list(data.pieces(matrix, 7))), expected)
    standardize = Standardize(5).fit(expected, Vector(5))
    assert torch.equal(
        matrix.standardised(standardize, torch.device("cpu")).read(indices), standardize(expected)[indices]
    )


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline import task, train
from pipeline.run import Run
from pipeline.train import devices
import torch
resolved, run, budget, share = task.load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
torch.randn(500, 500) @ torch.randn(500, 500)  # allocates the stacks of its threads
devices.SHARE, devices.MOST_BYTES = share, 1 << 60
used = [1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")][0]
resource.setrlimit(resource.RLIMIT_DATA, (used + budget, used + budget))
train.train(resolved, Run(run))
"""


def test_four_times_the_memory_is_trained_on_with_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets the process allocate 64 MB beside what its imports take; 270 MB are trained on."""
    budget, n, d = 64 * MB, 8_601, 8192
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
    (tmp_path / "whole" / "features.npz").symlink_to(run / "features.npz")
    del x
    monkeypatch.setattr(devices, "MOST_BYTES", 1 << 60)
    train.train(resolved, Run(tmp_path / "whole"))

    def limited(share: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, tmp_path / "task.toml", run, str(budget), str(share)]
        # Without it, glibc keeps freed memory or not, by chance, and the limit counts that too.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MB)}
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)

    greedy = limited(100.0)  # in memory, whatever is free
    assert greedy.returncode
    assert "alloc" in greedy.stderr.lower()
    done = limited(devices.SHARE)
    assert done.returncode == 0, done.stderr
    assert columns(run) == columns(tmp_path / "whole")
    found, expected = tensors(run), tensors(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
