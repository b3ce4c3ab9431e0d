"""The fast steps can be deleted without any other change, and the plain step trains to the same losses."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
FAST = ("cpu", "gpu", "sparse", "llvm")
PROGRAM = """
import torch
from models.mlp import MLP
from pipeline.task import Train
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.trainers import ClosedForm

draw = torch.Generator().manual_seed(0)
x = torch.randn(400, 300, generator=draw) * (torch.rand(400, 300, generator=draw) < 0.2)
data = Dataset(x, (x[:, :100].sum(1) > 0).long())
options = Train(epochs=2_500, batch_size=50, learning_rate=0.01)  # so many that compiling pays; four are taken
trainer = ClosedForm([MLP(300, [60], 2, "relu")], Feed([data], [0], 50), "multiclass", [options])
print(type(trainer.step).__name__)
for epoch in range(4):
    print(*trainer.epoch(epoch, 1.0)[0].tolist())
"""


def trained_with(folder: Path) -> str:
    """What the program prints with the packages of that folder."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained_here() -> str:
    """What the program prints in this process, which has imported PyTorch already."""
    with redirect_stdout(io.StringIO()) as printed:
        exec(PROGRAM, {})
    return printed.getvalue()


def read(printed: str) -> tuple[str, list[float]]:
    """The step that was chosen, and the losses of four epochs."""
    step, *losses = printed.split()
    return step, [float(loss) for loss in losses]


def test_without_the_fast_steps_training_takes_the_plain_one(tmp_path: Path) -> None:
    for package in ("models", "pipeline", "service"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FAST:
        (tmp_path / "models" / "steps" / f"{name}.py").unlink()
    step, losses = read(trained_with(tmp_path))
    assert step == "Backprop"
    fast, expected = read(trained_here())
    assert fast in ("CompiledStep", "Backprop")  # the latter where this machine does not run what it compiled
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
