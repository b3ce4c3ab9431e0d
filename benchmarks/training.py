"""Time per epoch of percept's trainers, beside scikit-learn, Keras and the usual PyTorch loop.

    python -m benchmarks.training [--data FOLDER] [--epochs 5]

All have the same network, optimiser, batches and evaluation, in one run: 784-100-10, sigmoid, Adam, batches of 100,
trained on the 60,000 digits of MNIST and evaluated on its 10,000 test digits after every epoch (`FOLDER/MNIST/raw`;
random pixels if it is missing). Each peer is written as its users would write it. The floor is PyTorch's matrix
products and optimiser steps for the same epoch, and nothing else. The programs alternate epoch by epoch, and the best
epoch of each counts, since other work on the machine can only add time. Takes about a minute on two cores.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from models.classifier import Standardize
from models.frontend import Pixels
from models.mlp import MLP
from pipeline import train
from pipeline.task import Train
from pipeline.threads import Pace
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.trainers import Autograd, ClosedForm

HIDDEN, CLASSES, BATCH, RATE = 100, 10, 100, 1e-3
STEPS = 12  # between two choices of the number of threads, as in percept's trainer
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels, from the usual tutorials

Epochs = Iterator[float]  # accuracy on the test digits after each epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")), help="holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    raw = digits(arguments.data)
    programs: dict[str, Callable[[], Epochs]] = {
        "percept, closed form": lambda: percept(raw, ClosedForm),
        "percept, autograd": lambda: percept(raw, Autograd),
        "floor: products and Adam": lambda: floor(raw),
        "lecture: DataLoader + autograd": lambda: lecture(raw),
        "scikit-learn MLPClassifier, float64": lambda: sklearn(raw, "float64"),  # the dtype of its loaders and scalers
        "scikit-learn MLPClassifier, float32": lambda: sklearn(raw, "float32"),
        "Keras 3 on torch": lambda: keras(raw),
    }
    print(f"{os.cpu_count()} cores, PyTorch {torch.__version__} with {torch.get_num_threads()} threads")
    running = {name: start() for name, start in programs.items()}
    best: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for _ in range(arguments.epochs):
        for name, epochs in running.items():
            begun = time.perf_counter()
            accuracy[name] = next(epochs)
            best[name] = min(best.get(name, np.inf), time.perf_counter() - begun)
    reference = best["percept, closed form"]
    print(f"{'784-100-10, one epoch and its evaluation':<44}{'s':>8}{'ratio':>8}{'accuracy':>10}")
    for name, seconds in sorted(best.items(), key=lambda item: item[1]):
        shown = f"{accuracy[name]:.4f}" if accuracy[name] else ""
        print(f"{name:<44}{seconds:>8.3f}{seconds / reference:>8.2f}{shown:>10}")


class Digits(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Like torchvision.datasets.MNIST, with the transform of the usual tutorials."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])


Raw = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # images uint8 (N, 28, 28) and labels, twice


def digits(folder: Path) -> Raw:
    """MNIST's training and test digits."""
    from torchvision.datasets import MNIST

    try:
        parts = [MNIST(folder, train=split) for split in (True, False)]
        return parts[0].data, parts[0].targets, parts[1].data, parts[1].targets
    except RuntimeError:
        print(f"no MNIST in {folder}: using random pixels")
        draw = torch.Generator().manual_seed(0)
        sizes = (60_000, 10_000)
        images = [torch.randint(256, (n, 28, 28), generator=draw, dtype=torch.uint8) for n in sizes]
        labels = [torch.randint(CLASSES, (n,), generator=draw) for n in sizes]
        return images[0], labels[0], images[1], labels[1]


def features(raw: Raw) -> tuple[Dataset, Dataset]:
    """The standardised pixels of both splits, as `pipeline.train` computes them."""
    x, test_x = (images.flatten(1).to(torch.float32).div_(255) for images in (raw[0], raw[2]))
    standardize = Standardize(x.shape[1]).fit(x, Pixels())
    return Dataset(standardize.apply_(x), raw[1]), Dataset(standardize.apply_(test_x), raw[3])


def percept(raw: Raw, kind: type[ClosedForm] | type[Autograd]) -> Epochs:
    training, test = features(raw)
    options = Train(batch_size=BATCH, learning_rate=RATE)
    mlp = MLP(784, [HIDDEN], CLASSES, "sigmoid")
    trainer = kind([mlp], Feed([training], [0], BATCH), "multiclass", [options])
    for epoch in count():
        trainer.epoch(epoch, 1.0)[0].item()
        yield train.evaluate(mlp, test, "multiclass")[1]


@torch.inference_mode()
def floor(raw: Raw) -> Epochs:
    """The five matrix products of a step and Adam, always on the same batch, and the two of the evaluation."""
    x = torch.randn(BATCH, 784)
    mlp = MLP(784, [HIDDEN], CLASSES, "sigmoid")
    (w, v), (b, c) = ([p.data for p in parameters] for parameters in ([*mlp.weights()], [m.bias for m in mlp.linear()]))
    a, d_a, d = torch.randn(BATCH, HIDDEN), torch.randn(BATCH, HIDDEN) / 100, torch.randn(CLASSES, BATCH) / 100
    z, w_gradient, v_gradient = torch.empty(CLASSES, BATCH), torch.empty_like(w), torch.empty_like(v)
    flat, gradient, first, second = (torch.zeros(mlp.n_parameters()) for _ in range(4))
    step, test = torch.zeros(()), torch.randn(len(raw[3]), 784)
    hidden, out = torch.empty(len(test), HIDDEN), torch.empty(len(test), CLASSES)
    pace, steps = Pace(), len(raw[1]) // BATCH
    while True:
        for _ in range(steps // STEPS):
            with pace.piece() as n:
                for _ in range(STEPS):
                    torch.set_num_threads(n)
                    torch.addmm(b, x, w.T, out=a)
                    torch.set_num_threads(1)
                    torch.addmm(c[:, None], v, a.T, out=z)
                    torch.mm(d, a, out=v_gradient)
                    torch.mm(d.T, v, out=d_a)
                    torch.set_num_threads(n)
                    torch.mm(d_a.T, x, out=w_gradient)
                    torch._fused_adam_(
                        [flat], [gradient], [first], [second], [], [step], lr=RATE, beta1=0.9, beta2=0.999,
                        weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
                    )  # fmt: skip
        torch.addmm(c, torch.addmm(b, test, w.T, out=hidden), v.T, out=out)
        yield 0.0


def lecture(raw: Raw, device: torch.device | str = "cpu") -> Epochs:
    """The training loop of the lecture, and of most tutorials."""
    torch.manual_seed(0)
    loader = DataLoader(Digits(raw[0], raw[1]), batch_size=BATCH, shuffle=True)
    test_loader = DataLoader(Digits(raw[2], raw[3]), batch_size=1000)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, CLASSES)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    while True:
        model.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in test_loader:
                images, labels = images.to(device), labels.to(device)
                correct += int((model(images).argmax(1) == labels).sum())
        yield correct / len(raw[3])


def flat_float32(images: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = images.numpy().reshape(len(images), -1).astype("float32")
    return (pixels / 255 - MEAN) / DEVIATION


def sklearn(raw: Raw, dtype: str) -> Epochs:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    x, test_x = (flat_float32(images).astype(dtype) for images in (raw[0], raw[2]))
    y, test_y = raw[1].numpy(), raw[3].numpy()
    model = MLPClassifier(
        (HIDDEN,), activation="logistic", alpha=0, batch_size=BATCH, learning_rate_init=RATE, random_state=0
    )
    while True:
        model.partial_fit(x, y, classes=np.arange(CLASSES))  # one epoch of shuffled batches
        yield float(model.score(test_x, test_y))


def keras(raw: Raw) -> Epochs:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    x, test_x = flat_float32(raw[0]), flat_float32(raw[2])
    y, test_y = raw[1].numpy(), raw[3].numpy()
    model = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(HIDDEN, "sigmoid"), keras.layers.Dense(CLASSES, "softmax")]
    )
    model.compile(keras.optimizers.Adam(RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    while True:
        history = model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, validation_data=(test_x, test_y))
        yield float(history.history["val_accuracy"][0])


if __name__ == "__main__":
    main()
