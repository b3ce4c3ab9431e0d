"""Networks trained on parts of the training samples, a half, a quarter and so on, side by side: a learning curve."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Classifier
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.task import Train, UserError
from pipeline.train import Dataset
from pipeline.tune.stacks import Fold, Training, train

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training samples
FEWEST = 4  # samples of a class, on average, in the smallest part
LEAST = 3  # parts from which a curve can be drawn
COMPONENTS = 64  # principal components of the features that the networks see: they cost a tenth of all
SEEN = 4_000  # training samples by which the components are found, at most
HIDDEN = 100
STEPS = 500  # of each network
EPOCHS = 1  # of the largest part, at least; more samples would take more than a few seconds
STEPS_OF_EPOCH = 16  # to which few samples are repeated: what is done once an epoch takes as long as a step or two
TRAIN = Train(batch_size=128, learning_rate=3e-3, schedule="cosine", l2=1e-4)


@dataclass(frozen=True, slots=True)
class Parts:
    """Answers of networks trained on parts of the training samples.

    samples : (S,), how many training samples each part has, rising; the last one has all
    right : bool (S, 2, N), whether each of the two networks of a part has each test sample right
    """

    samples: tuple[int, ...]
    right: NDArray[np.bool_]


def of_test(features: Features, classifier: Classifier, with_validation: bool, seed: int) -> Parts | str:
    """The answers to the test samples; or why no networks were trained.

    The networks are small ones of their own, whatever the task's is, and all take the same number of steps. Each part
    holds the one before it, and has every class in proportion. Two networks learn from parts of each size, which have
    no sample in common if they are at most a half: they are the two ends of one order.

    Parameters
    ----------
    classifier : its standardisation is used
    with_validation : the validation samples are training samples too
    """
    rows = np.flatnonzero(~features.rows("test") if with_validation else features.rows("train"))
    shares = [share for share in SHARES if share * len(rows) >= FEWEST * len(features.labels)]
    if len(shares) < LEAST:
        return f"the {len(rows):,} training samples are too few to be divided"
    if len(rows) * EPOCHS > STEPS * TRAIN.batch_size:
        return f"{len(rows):,} training samples take more than a few seconds"
    position = positions(features.group[rows], features.y[rows], seed)
    order = np.argsort(position, kind="stable")
    sizes = [int(np.searchsorted(position[order], share)) for share in shares]
    project = _projection(features, rows[np.sort(order[:SEEN])], classifier)
    data = Dataset(project(rows)[order], torch.from_numpy(features.y[rows][order]))
    parts = [(_part(data, n, end), end) for n in sizes for end in (0, 1)]
    trainings = [
        Training(_network(data, features, end), _options(part), Fold.unwatched(part, classifier.standardize))
        for part, end in parts
    ]
    for state in train(trainings, features.kind):
        if isinstance(state, UserError):
            return str(state)
    tested, target = np.flatnonzero(features.rows("test")), TARGETS[features.kind]
    with torch.inference_mode():
        x, y = project(tested), torch.from_numpy(features.y[tested])
        right = [target.hits(training.mlp(x).mT, y).numpy() for training in trainings]
    return Parts(tuple(sizes), np.stack(right).reshape(len(sizes), 2, -1))


def positions(group: NDArray[np.str_], y: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Where each sample lies in an order of which every piece has all classes in proportion, 0 … 1.

    The groups of each class are in an order drawn by a hash of their names and the seed, and samples of a group lie
    together.

    Example
    -------
    >>> positions(np.array(["a", "b", "b", "c"]), np.array([0, 0, 0, 1]), seed=0).round(2).tolist()
    [0.17, 0.83, 0.83, 0.5]
    """
    names, of = np.unique(group, return_inverse=True)
    draw = np.array([sha256(f"part:{seed}:{name}".encode()).hexdigest() for name in names.tolist()])
    place = np.empty(len(y))
    for k in np.unique(y):
        own = np.flatnonzero(y == k)
        place[own[np.argsort(draw[of[own]], kind="stable")]] = (np.arange(len(own)) + 0.5) / len(own)
    last = np.zeros(len(names))
    np.maximum.at(last, of, place)
    return np.asarray(last[of])


def _projection(
    features: Features, rows: NDArray[np.int64], classifier: Classifier
) -> Callable[[NDArray[np.int64]], torch.Tensor]:
    """A function from rows of the features to the leading principal components that some rows have, standardised,
    float32 (n, at most COMPONENTS)."""

    def standardised(rows: NDArray[np.int64]) -> torch.Tensor:
        return classifier.standardize.apply_(torch.from_numpy(features.x[rows]))

    if features.x.shape[1] <= COMPONENTS:
        return standardised
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, size, vectors = torch.svd_lowrank(standardised(rows), COMPONENTS, niter=2)
    basis = vectors / (size[0] / len(rows) ** 0.5)  # the first component has a deviation of about 1

    def project(rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.cat([standardised(part) @ basis for part in np.array_split(rows, -(-len(rows) // SEEN))])

    return project


def _network(data: Dataset, features: Features, seed: int) -> MLP:
    return MLP(data.x.shape[1], (HIDDEN,), TARGETS[features.kind].n_outputs(len(features.labels)), "relu", seed, "he")


def _part(data: Dataset, n: int, end: int) -> Dataset:
    """The first n samples or, at the other end, the last n, in the memory of all; few are repeated for an epoch of
    STEPS_OF_EPOCH."""
    assert isinstance(data.x, torch.Tensor)
    chosen = slice(len(data.y) - n, None) if end else slice(n)
    x, y = data.x[chosen], data.y[chosen]
    copies = STEPS_OF_EPOCH * TRAIN.batch_size // n
    return Dataset(x.repeat(copies, 1), y.repeat(copies)) if copies > 1 else Dataset(x, y)


def _options(part: Dataset) -> Train:
    """How a network is trained on these samples: for STEPS steps, or an epoch if that is more."""
    return TRAIN.model_copy(update={"epochs": max(1, round(STEPS / math.ceil(len(part.y) / TRAIN.batch_size)))})
