"""Whether mirror images of training pictures teach their classes, which the validation samples decide.

A mirrored cat is a cat; a mirrored arrow is another sign.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Standardize
from models.image import Picture
from pipeline.progress import Progress

LOOKED_AT = 600, 400  # training and validation samples, at most: enough to tell, and seconds
RIDGE = 0.1  # of the mean squared length of a sample's features
LEAST = 1e-6  # ridge, where all pictures are alike

Pictures = NDArray[np.uint8]  # (N, S, S, 3)


def helps(
    front: Picture, training: Pictures, labels: Sequence[str], validation: Pictures, expected: Sequence[str]
) -> bool:
    """Whether a linear classifier (ridge regression on one-hot targets) has a smaller squared error on the validation
    pictures once it has learned from the mirror images of the training pictures too."""
    names = sorted({*labels, *expected})
    y, wanted = (_one_hot(names, part) for part in (labels, expected))
    with Progress("mirror", 2 * len(training) + len(validation), "picture") as progress:
        own, mirrored, held_out = (
            _features(front, part, progress) for part in (training, training[:, :, ::-1], validation)
        )
    standardize = Standardize(front.n_features).fit(own, front)
    own, mirrored, held_out = (standardize(part) for part in (own, mirrored, held_out))
    alone = _error(own, y, held_out, wanted)
    return _error(torch.cat([own, mirrored]), torch.cat([y, y]), held_out, wanted) < alone


def _one_hot(names: Sequence[str], labels: Sequence[str]) -> Tensor:
    return torch.tensor([[float(name == label) for name in names] for label in labels])


@torch.inference_mode()
def _features(front: Picture, pictures: Pictures, progress: Progress) -> Tensor:
    found = []
    for picture in pictures:
        found.append(front(torch.from_numpy(np.ascontiguousarray(picture[None]))))
        progress.update()
    return torch.cat(found)


def _error(x: Tensor, y: Tensor, held_out: Tensor, wanted: Tensor) -> float:
    """Mean squared error on held-out samples of ridge regression, in its dual form: there are fewer samples than
    features."""
    products, mean = x @ x.T, y.mean(0)
    ridge = (RIDGE * products.diagonal().mean()).clamp(min=LEAST)
    found = (held_out @ x.T) @ torch.linalg.solve(products + ridge * torch.eye(len(x)), y - mean) + mean
    return float((found - wanted).square().mean())
