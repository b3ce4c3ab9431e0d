"""Training on a GPU: 30 epochs of MNIST, of one network and of 64 at once, beside the usual PyTorch loop.

    python -m benchmarks.gpu [--data FOLDER] [--device cuda]

784-100-10, sigmoid, Adam, batches of 100, evaluated after every epoch; capturing the CUDA graphs is not counted. One
network is trained with the accuracy of float32; the 64, with different seeds and four learning rates, in TF32. The
peer, a lecture's loop with a DataLoader and autograd, is timed for its second epoch. Takes less than a minute on an
H100. `--device cpu` runs the same code without graphs, in float32.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.training import BATCH, CLASSES, HIDDEN, RATE, Raw, digits, features, lecture
from models.mlp import MLP
from pipeline import train
from pipeline.task import Train, UserError
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.trainers import ClosedForm

EPOCHS, NETWORKS = 30, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")), help="holds MNIST/raw")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    try:
        device = train.choose_device(arguments.device)
    except UserError as error:
        print(f"not measured: {error}")
        return
    raw = digits(arguments.data)
    print(f"{train.device_name(device)}, PyTorch {torch.__version__}")
    one, accuracy = percept(raw, device, 1)
    many, _ = percept(raw, device, NETWORKS)
    theirs = usual_loop(raw, device)
    print(f"percept, {EPOCHS} epochs                 {one:8.3f} s   accuracy {accuracy:.4f}")
    print(f"percept, {EPOCHS} epochs of {NETWORKS} networks  {many:8.3f} s   {many / one:.1f} times one network")
    print(f"lecture, {EPOCHS} epochs (from one)      {theirs:8.3f} s   {theirs / one:.0f} times percept")


def percept(raw: Raw, device: torch.device, n: int) -> tuple[float, float]:
    """Seconds of 30 epochs of `n` networks, and accuracy of the first on the test digits."""
    training, test = (Dataset(split.x.to(device), split.y.to(device)) for split in features(raw))
    options = [Train(batch_size=BATCH, learning_rate=RATE * 2 ** (m % 4)) for m in range(n)]
    networks = [MLP(784, [HIDDEN], CLASSES, "sigmoid", seed).to(device) for seed in range(n)]
    trainer = ClosedForm(networks, Feed([training] * n, [0] * n, BATCH), "multiclass", options)
    train.evaluate(networks[0], test, "multiclass")  # initialises the libraries of its matrix products
    trainer.epoch(0, 1.0)[0].tolist()  # captures the graphs, and waits
    started = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        trainer.epoch(epoch, 1.0)
        accuracy = train.evaluate(networks[0], test, "multiclass")[1]
    return time.perf_counter() - started, accuracy


def usual_loop(raw: Raw, device: torch.device) -> float:
    """Seconds of 30 epochs of the lecture's loop, extrapolated from its second epoch."""
    epochs = lecture(raw, device)
    next(epochs)
    started = time.perf_counter()
    next(epochs)
    return (time.perf_counter() - started) * EPOCHS


if __name__ == "__main__":
    main()
