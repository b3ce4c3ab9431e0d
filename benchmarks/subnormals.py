"""Time of an epoch in the first quarter and the second half of a training, with subnormal numbers taken as 0 and not.

    python -m benchmarks.subnormals [--epochs 120]

ReLU units that are dead get no gradient but the penalty's, and their weights shrink for ever. 3,000 samples of 485
features, a network 485-512-20, Adam with a learning rate of 0.03, at which many units die, batches of 100, l2 of 0.002.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from models.mlp import MLP
from pipeline.task import Train
from pipeline.threads import subnormals_flushed
from pipeline.train import ClosedForm, Dataset, Feed, State, run_epochs

SAMPLES, FEATURES, CLASSES, HIDDEN = 3_000, 485, 20, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=120)
    epochs = parser.parse_args().epochs
    print("subnormals        s an epoch, first quarter   second half   ratio   subnormal weights at the end")
    for name, flushed in (("taken as 0", True), ("as they are", False)):
        with ThreadPoolExecutor(1) as pool:  # PyTorch's threads keep the mode of the thread that starts them
            seconds, share = pool.submit(train, epochs, flushed).result()
        first, last = np.median(seconds[1 : epochs // 4]), np.median(seconds[epochs // 2 :])
        print(f"  {name:<26} {first:15.3f} {last:13.3f} {last / first:7.2f} {share:10.1%}")


def train(epochs: int, flushed: bool) -> tuple[list[float], float]:
    """Seconds of each epoch, and the share of the first layer's weights that are subnormal at the end."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    x = centres[y] + torch.randn(SAMPLES, FEATURES, generator=generator)
    options = Train(epochs=epochs, learning_rate=0.03, l2=0.002, batch_size=100)
    mlp = MLP(FEATURES, [HIDDEN], CLASSES, "relu", 0, "he")
    with subnormals_flushed() if flushed else nullcontext():
        trainer = ClosedForm([mlp], Feed([Dataset(x, y)], [0], 100), "multiclass", [options])
        (state,) = run_epochs(trainer, [mlp], [options], lambda: [(0.0, 0.0)], [State()])
    assert isinstance(state, State)
    size = mlp.layers[0].weight.detach().double().abs()
    subnormal = (size > 0) & (size < torch.finfo(torch.float32).tiny)
    return np.diff(state.history["seconds"], prepend=0).tolist(), float(subnormal.float().mean())


if __name__ == "__main__":
    main()
