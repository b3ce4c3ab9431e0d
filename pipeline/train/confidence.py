"""What teaches a trained classifier to know what it does not know: a `Familiarity`, and the least of it that counts."""

import math

import numpy as np
import torch
from torch import Tensor

from models.calibration import fit_temperature
from models.classifier import Classifier
from models.familiarity import Familiarity
from models.mlp import MLP
from pipeline.task import Train
from pipeline.threads import threads
from pipeline.train import confidence
from pipeline.train.batches import Feed
from pipeline.train.data import Batch, Split, Stored, Table, piece_rows, pieces, take
from pipeline.train.outliers import foreign, redrawn
from pipeline.train.trainers import ClosedForm

KEPT = 0.98  # share of the validation samples that count as known, at least
PICTURES = (4_000, 30_000)  # foreign ones, at least and at most; between them, as many as there are training samples
EPOCHS = 8
RATE = 3e-3


@torch.no_grad()
def teach(classifier: Classifier, training: Batch | Stored, validation: Batch | Stored, seed: int) -> float:
    """Give the classifier a `Familiarity`: fitted to the training samples, its scale to the validation samples, both
    with standardised features; the least familiarity that counts as known."""
    familiarity = _fitted(classifier, training, seed)

    def judged(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, hidden = classifier.last_layer(x)
        return x, hidden, classifier.target.answer(logits)

    familiarity.fit_scale(judged(x) for x in pieces(validation.x))
    return threshold(torch.cat([familiarity(*judged(x)) for x in pieces(validation.x)]))


@torch.no_grad()
def inherit(classifier: Classifier, judged: Classifier, training: Batch | Stored, seed: int) -> None:
    """Give the classifier, trained anew on more samples, the temperature of the `judged` one and, if that has it, a
    `Familiarity` with its scale: no samples are left that could judge again."""
    classifier.temperature.copy_(judged.temperature)
    if judged.familiarity is not None:
        familiarity = _fitted(classifier, training, seed)
        familiarity.unit.copy_(judged.familiarity.unit)
        familiarity.scale.copy_(judged.familiarity.scale)


def _fitted(classifier: Classifier, training: Batch | Stored, seed: int) -> Familiarity:
    familiarity = classifier.add_familiarity().to(training.y.device)
    if familiarity.contrast is not None:
        _contrast(familiarity.contrast, classifier, training.x, seed)
    if familiarity.density is not None:
        hidden = (classifier.last_layer(x)[1] for x in pieces(training.x))
        familiarity.density.fit_parts(zip(hidden, pieces(training.y, piece_rows(training.x)), strict=True))
    return familiarity


def threshold(familiarity: Tensor) -> float:
    """What at least KEPT of the samples, float (N,), reach: halfway from the last of them to the next, so that rounding
    loses none."""
    ranked = np.sort(familiarity.double().cpu().numpy())
    i = int((1 - KEPT) * len(ranked))
    return float((ranked[i] + (ranked[i - 1] if i else 0.0)) / 2)


def _contrast(network: MLP, classifier: Classifier, samples: Tensor | Table, seed: int) -> None:
    """Train the network on standardised pictures (N, 784): 1 = known, half of them redrawn; 0 = foreign, as many."""
    standardize = classifier.standardize
    generator = torch.Generator().manual_seed(seed)
    n = min(max(PICTURES[0], len(samples)), PICTURES[1])
    x = torch.empty(2 * n, samples.shape[1], device=standardize.mean.device)
    known, strange = x[:n], x[n:]
    take(samples, torch.randint(len(samples), (n,), generator=generator), known)
    pictures = known.mul(standardize.deviation).add_(standardize.mean).clamp_(0, 1).cpu()
    strange.copy_(foreign(pictures, n, generator))
    standardize.apply_(strange)
    known[: n // 2] = redrawn(pictures[: n // 2], generator).to(x.device)
    standardize.apply_(known[: n // 2])
    del pictures
    data = Batch(x, (torch.arange(2 * n, device=x.device) < n).long())
    options = Train(epochs=EPOCHS, learning_rate=RATE, l2=1e-5)
    engine = ClosedForm([network], Feed([data], [seed], 200), "binary", [options])
    for epoch in range(EPOCHS):
        engine.epoch(epoch, 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)))


MIN_CALIBRATION = 10  # validation samples; fewer say nothing about confidence


@torch.no_grad()
def calibrate(classifier: Classifier, training: Split, validation: Split, seed: int) -> float | None:
    """Fit the classifier's temperature and give it its familiarity, by samples with standardised features.

    Returns
    -------
    the least familiarity that counts as known; None, and nothing is fitted, for a regression, or where there are too
    few validation samples
    """
    n = len(validation.y)
    if classifier.kind == "regression":
        return None
    if n < MIN_CALIBRATION:
        print(f"  not calibrated: {n} validation samples, at least {MIN_CALIBRATION} are needed")
        return None
    with threads(1):  # no sum's order depends on their number
        logits = torch.cat([classifier.mlp(x) for x in pieces(validation.x)])
        temperature = fit_temperature(logits.cpu(), validation.y.cpu(), classifier.kind)
        classifier.temperature.fill_(temperature)
        known = confidence.teach(classifier, training, validation, seed)
    print(f"  from {n} validation samples: temperature {temperature:.3f}, known from a familiarity of {known:.3f}")
    return known
