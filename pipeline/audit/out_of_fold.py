"""Probabilities of the classes of every sample, from networks that have not learned from that sample."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.progress import Progress
from pipeline.task import Train
from pipeline.threads import subnormals_flushed
from pipeline.train.data import Dataset, Rows
from pipeline.tune.stacks import train_and_predict

FOLDS = 5
DOUBTED = 0.1  # probability of the label, below which the second round does not learn from the sample
HIDDEN = 256
EPOCHS = 6, 40  # at least, and at most: a network that trains for long learns wrong labels by heart (Arpit et al. 2017)
WORK = 400_000  # samples that a network sees in all its epochs, about
FEW_SAMPLES = 10_000  # samples; where there are more, three folds are enough, and noise is not needed
TRAIN = Train(batch_size=100, learning_rate=3e-3, schedule="cosine", l2=5e-4, noise=0.5, mix=0.5)
OF_MANY = TRAIN.model_copy(update={"batch_size": 200, "noise": 0.0, "mix": 0.0})


@subnormals_flushed()
def out_of_fold(features: Features, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of the classes, float64 (N, K), each from networks that were trained without
    the sample's fold.

    The mean of two rounds. The second one does not learn from samples whose label the first one doubts.
    The networks are small ones of their own, whatever the task's is: they only have to tell which labels do not fit.

    Parameters
    ----------
    features : tell the kind of features, the classes and, by the samples' groups, the folds
    x : float32 (N, D), all of the features
    y : int64 (N,), the labels to be tried
    """
    n_folds = 3 if len(y) > FEW_SAMPLES else FOLDS
    _, group = np.unique(features.group, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(group.max() + 1) % n_folds)[group]  # no group is divided
    rounds = np.empty((2, len(y), len(features.labels)))
    taken = np.ones(len(y), bool)
    with Progress("audit", 2 * n_folds, "fold") as progress:
        for seed, found in enumerate(rounds):
            for k in range(n_folds):
                found[fold == k] = _of_fold(features, Rows(x, y), fold == k, taken, seed)
                progress.update()
            believed = found[np.arange(len(y)), y] > np.log(DOUBTED)
            taken = believed if len(np.unique(y[believed])) == len(features.labels) else taken
    return np.asarray(rounds.mean(0))


def _of_fold(
    features: Features, rows: Rows, held_out: NDArray[np.bool_], taken: NDArray[np.bool_], seed: int
) -> NDArray[np.float64]:
    """Logarithms of the probabilities of the samples held out, float64 (n, K), by a network trained on the others that
    are `taken`."""
    if not held_out.any() or not (taken & ~held_out).any():
        return np.full((int(held_out.sum()), len(features.labels)), -np.log(len(features.labels)))
    (found,) = committee(features, rows.of(taken & ~held_out), rows.x[held_out], _options(len(rows.y), seed), [seed])
    return np.asarray(found)


def committee(
    features: Features, known: Rows, x: NDArray[np.float32], options: Train, seeds: Sequence[int]
) -> NDArray[np.float64]:
    """Logarithms of the probabilities of samples x (N, D), float64 (C, N, K), by networks trained on known ones.

    Parameters
    ----------
    known, x : are standardised in place
    seeds : of the networks' initial weights
    """
    front, kind = features.front_end(), features.kind
    n_outputs = TARGETS[kind].n_outputs(len(features.labels))
    networks = [MLP(front.n_features, (HIDDEN,), n_outputs, "relu", seed, "he") for seed in seeds]
    training = Dataset(torch.from_numpy(known.x), torch.from_numpy(known.y))
    logits = train_and_predict(networks, options, training, torch.from_numpy(x), front, kind)
    return np.stack([_log_probabilities(z, kind == "binary") for z in logits])


def _log_probabilities(logits: torch.Tensor, is_binary: bool) -> NDArray[np.float64]:
    """Float64 (n, K): their differences must not vanish where a probability is nearly 0."""
    z = torch.cat([torch.zeros_like(logits), logits], 1) if is_binary else logits
    return np.asarray(torch.log_softmax(z.double(), 1).numpy())


def _options(n: int, seed: int) -> Train:
    """How each network is trained on n samples."""
    options = OF_MANY if n > FEW_SAMPLES else TRAIN
    return options.model_copy(update={"epochs": int(np.clip(WORK // n, *EPOCHS)), "seed": seed})


def standard(features: Features, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features x standardised with their own statistics, as a network would see them, in new memory."""
    front = features.front_end()
    z = torch.from_numpy(x.copy())
    return Standardize(front.n_features).fit(z, front).apply_(z).numpy()
