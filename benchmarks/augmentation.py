"""Time to distort 60,000 digits once, beside the two usual implementations. Takes half a minute on two cores.

    python -m benchmarks.augmentation

All three rotate, scale, shear, shift and distort elastically by the same amounts, with other random values for each
image. The peers are the displacement field of Simard et al. (2003) as its formula reads, noise at every pixel convolved
with a Gaussian; and torchvision, which distorts one image at a time, so that a sample of them is timed. The
implementations alternate over three rounds, and the best round of each counts.
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms import v2

from models.frontend import IMAGE_SIZE
from pipeline.task import Augment
from pipeline.train.batches import CHUNK
from pipeline.train.distortion import Distortion

N = 60_000
SAMPLE = 500  # images that torchvision distorts in a round
OPTIONS = Augment(rotation=7, scale=0.07, shear=0.1, shift=1, elastic=0.8, smoothness=4)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    images = torch.rand(N, IMAGE_SIZE**2, generator=torch.Generator().manual_seed(0))
    implementations: dict[str, Callable[[], float]] = {
        "percept: a few coefficients times a basis": lambda: percept(images),
        "noise at every pixel, convolved": lambda: convolved(images),
        "torchvision.transforms.v2, image by image": lambda: torchvision(images),
    }
    best = dict.fromkeys(implementations, np.inf)
    for _ in range(3):
        for name, seconds_of in implementations.items():
            best[name] = min(best[name], seconds_of())
    fastest = min(best.values())
    print(f"{os.cpu_count()} cores, PyTorch {torch.__version__} with {torch.get_num_threads()} threads")
    print(f"{'60,000 digits distorted':<44}{'s':>8}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:<44}{seconds:>8.2f}{seconds / fastest:>8.1f}")


@torch.inference_mode()
def percept(images: torch.Tensor) -> float:
    distortion, generator = Distortion(OPTIONS, 0.0, images.device), torch.Generator().manual_seed(0)
    rows = CHUNK // (images.shape[1] * images.element_size())
    buffer = torch.empty(rows, images.shape[1])
    started = time.perf_counter()
    for part in torch.split(images, rows):
        distortion(buffer[: len(part)].copy_(part), generator)
    return time.perf_counter() - started


@torch.inference_mode()
def convolved(images: torch.Tensor) -> float:
    distortion, generator = Distortion(OPTIONS, 0.0, images.device), torch.Generator().manual_seed(0)
    radius = int(3 * OPTIONS.smoothness)
    d = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(d**2) / (2 * OPTIONS.smoothness**2))
    kernel /= kernel.norm()  # white noise of deviation 1 stays of deviation 1
    started = time.perf_counter()
    for part in torch.split(images, 1000):
        n = len(part)
        grid = (distortion._affine_maps(n, generator).view(2 * n, 3) @ distortion.affine).view(n, 2, IMAGE_SIZE, -1)
        side = IMAGE_SIZE + 2 * radius
        field = torch.randn(2 * n, 1, side, side, generator=generator)
        field = torch.conv2d(torch.conv2d(field, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
        grid += field.view_as(grid) * (OPTIONS.elastic * 2 / IMAGE_SIZE)
        pictures = part.view(n, 1, IMAGE_SIZE, IMAGE_SIZE)
        torch.nn.functional.grid_sample(pictures, grid.permute(0, 2, 3, 1), align_corners=False)
    return time.perf_counter() - started


def torchvision(images: torch.Tensor) -> float:
    shift = OPTIONS.shift / IMAGE_SIZE
    scale = (1 - OPTIONS.scale, 1 + OPTIONS.scale)
    transform = v2.Compose([
        v2.RandomAffine(OPTIONS.rotation, (shift, shift), scale, float(np.degrees(np.arctan(OPTIONS.shear)))),
        v2.ElasticTransform(alpha=34.0, sigma=OPTIONS.smoothness),
    ])  # fmt: skip
    pictures = images[:SAMPLE].view(SAMPLE, 1, IMAGE_SIZE, IMAGE_SIZE)
    started = time.perf_counter()
    for picture in pictures:
        transform(picture)
    return (time.perf_counter() - started) * len(images) / SAMPLE


if __name__ == "__main__":
    main()
