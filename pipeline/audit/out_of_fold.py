"""Probabilities of the classes of every sample, from networks that have not learned from that sample."""

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Standardize
from models.frontend import FrontEnd, build
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.progress import Progress
from pipeline.task import Train
from pipeline.threads import subnormals_flushed
from pipeline.train import Dataset, standardised
from pipeline.tune.stacks import Fold, Training, train

FOLDS = 5
NETWORKS = 2  # on each fold, with different seeds; their probabilities are averaged
HIDDEN = 256
EPOCHS = 6, 40  # at least, and at most: a network that trains for long learns wrong labels by heart (Arpit et al. 2017)
WORK = 400_000  # samples that a network sees in all its epochs, about
FEW = 10_000  # samples; where there are more, one smaller network on each of three folds is enough
TRAIN = Train(batch_size=100, learning_rate=3e-3, schedule="cosine", l2=5e-4, noise=0.5, mix=0.5)
OF_MANY = TRAIN.model_copy(update={"batch_size": 200, "l2": 1e-5, "noise": 0.0, "mix": 0.0})


@subnormals_flushed()
def out_of_fold(features: Features, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of the classes, float64 (N, K), each from networks that were trained without
    the sample's fold; a mean over the networks.

    The networks are small ones of their own, whatever the task's is: they only have to tell which labels do not fit.

    Parameters
    ----------
    features : tell the kind of features, the classes and, by the samples' groups, the folds
    x : float32 (N, D), all of the features
    y : int64 (N,), the labels to be tried
    """
    many = len(y) > FEW
    n_folds, n_networks = (3, 1) if many else (FOLDS, NETWORKS)
    _, group = np.unique(features.group, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(group.max() + 1) % n_folds)[group]  # no group is divided
    found = np.empty((len(y), len(features.labels)))
    with Progress("audit", n_folds, "fold") as progress:
        for k in range(n_folds):
            found[fold == k] = _of_fold(features, x, y, fold == k, n_networks)
            progress.update()
    return found


def _of_fold(
    features: Features, x: NDArray[np.float32], y: NDArray[np.int64], held_out: NDArray[np.bool_], n_networks: int
) -> NDArray[np.float64]:
    """Logarithms of the probabilities of the samples held out, float64 (n, K)."""
    if not held_out.any() or held_out.all():
        return np.full((int(held_out.sum()), len(features.labels)), -np.log(len(features.labels)))
    front, kind, cpu = build(features.task["features"]), features.kind, torch.device("cpu")
    training = _dataset(x[~held_out], y[~held_out])
    assert isinstance(training.x, torch.Tensor)
    standardize = Standardize(front.n_features).fit(training.x, front)
    training, held = (standardised(d, standardize, cpu) for d in (training, _dataset(x[held_out], y[held_out])))
    assert isinstance(held.x, torch.Tensor)
    # The trainer evaluates the fold after each epoch, which nobody looks at here: one sample is enough.
    fold = Fold(training, Dataset(held.x[:1], held.y[:1]), standardize)
    options, hidden = _options(len(y))
    outputs = TARGETS[kind].n_outputs(len(features.labels))
    trainings = [
        Training(MLP(front.n_features, (hidden,), outputs, "relu", seed, "he"), with_seed, fold)
        for seed in range(n_networks)
        for with_seed in [options.model_copy(update={"seed": seed})]
    ]
    for state in train(trainings, kind):
        if isinstance(state, Exception):
            raise state
    with torch.inference_mode():
        logits = [training.mlp(held.x) for training in trainings]
        return np.asarray(np.mean([_log_probabilities(z, kind == "binary") for z in logits], axis=0))


def _log_probabilities(logits: torch.Tensor, is_binary: bool) -> NDArray[np.float64]:
    """Float64 (n, K): their differences must not vanish where a probability is nearly 0."""
    z = torch.cat([torch.zeros_like(logits), logits], 1) if is_binary else logits
    return np.asarray(torch.log_softmax(z.double(), 1).numpy())


def _options(n: int) -> tuple[Train, int]:
    """How each network is trained on n samples, and its hidden units."""
    options, hidden = (OF_MANY, 100) if n > FEW else (TRAIN, HIDDEN)
    return options.model_copy(update={"epochs": int(np.clip(WORK // n, *EPOCHS))}), hidden


def _dataset(x: NDArray[np.float32], y: NDArray[np.int64]) -> Dataset:
    return Dataset(torch.from_numpy(x), torch.from_numpy(y))


def standard(features: Features, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features x standardised with their own statistics, as a network would see them, in new memory."""
    front: FrontEnd = build(features.task["features"])
    z = torch.from_numpy(x.copy())
    return Standardize(front.n_features).fit(z, front).apply_(z).numpy()
