"""How much the colours and patches of pictures count beside their gradients, which the validation samples decide.

Gradients tell solids apart by their outline and hardly tell textures apart; colours and patches do the opposite. A
network that has few pictures to learn from learns by heart whatever it is given most of, and there are four times as
many features of colours and patches. How to weigh parts of a kernel by held-out samples is multiple kernel learning
(Gönen & Alpaydın 2011); here there are two parts, and one share.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from models.classifier import Standardize
from models.image import Picture

SHARES = (2.0, 1.0, 0.5, 0.25, 0.125)  # that are compared
USUAL = 0.5  # with too few samples, or samples that are all alike
MIN_SAMPLES = 10  # samples of each split from which they decide
LOOKED_AT = 2_000, 1_000  # training and validation samples, at most: enough to tell, and seconds
RIDGE = 0.1  # of the kernel of a sample with itself


def share(
    front: Picture,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    held_out: NDArray[np.float32],
    expected: NDArray[np.int64],
) -> float:
    """By what colours and patches are to be multiplied once they are standardised; gradients are not.

    Of `SHARES` the one with which kernel ridge regression on one-hot targets, with a Gaussian kernel as wide as the
    samples' mean distance, has the smallest squared error on the samples held out.

    Parameters
    ----------
    x, y : features (N, D) and classes (N,) of training samples
    held_out, expected : the same of validation samples
    """
    if min(len(y), len(expected)) < MIN_SAMPLES or (x == x[0]).all():
        return USUAL
    standardize = Standardize(front.n_features).fit(torch.from_numpy(x), front)
    own, other = (standardize(torch.from_numpy(part)) for part in (x, held_out))
    n_classes = int(max(y.max(), expected.max())) + 1
    targets, wanted = (one_hot(torch.from_numpy(part), n_classes).double() for part in (y, expected))
    are_gradients = front.are_gradients()
    of_gradients, of_others = (
        [_distances(some[:, part], own[:, part]) for some in (own, other)] for part in (are_gradients, ~are_gradients)
    )

    def error(share: float) -> float:
        among, between = (a + share * share * b for a, b in zip(of_gradients, of_others, strict=True))
        return _error(among, between, targets, wanted)

    return min(SHARES, key=error)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of samples (n, d) and (m, d), float64 (n, m)."""
    return torch.cdist(a.double(), b.double()).square()


def _error(among: Tensor, between: Tensor, targets: Tensor, wanted: Tensor) -> float:
    """Mean squared error on held-out samples, from squared distances among the others (N, N) and to these (M, N)."""
    width, mean = among.mean(), targets.mean(0)
    kernel = torch.exp(-among / width) + RIDGE * torch.eye(len(among), dtype=among.dtype)
    found = torch.exp(-between / width) @ torch.linalg.solve(kernel, targets - mean) + mean
    return float((found - wanted).square().mean())
