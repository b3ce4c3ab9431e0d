"""Confidence of a trained classifier: the calibrating temperature, its familiarity, and the threshold of familiarity.

The familiarity is an in-distribution score, 0 … 1 (models/familiarity.py). An input below the threshold counts as
out-of-distribution; its answer has `known` = false.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibration import fit_temperature
from models.card import Kind
from models.classifier import Classifier
from models.familiarity import Familiarity, Outliers
from models.image import Picture
from models.mfcc import Mfcc
from models.mixture import DRAWN, DRAWN_NUMBERS
from models.mlp import MLP
from models.table import Table
from pipeline.profile import step
from pipeline.task import Train
from pipeline.threads import threads
from pipeline.train.batches import Feed
from pipeline.train.data import Copies, Dataset, RowReader, StackedRows, gather, piece_rows, pieces
from pipeline.train.distortion import transform_of
from pipeline.train.loop import all_epochs
from pipeline.train.noises import make_noises
from pipeline.train.outliers import make_outliers, redrawn
from pipeline.train.scenes import make_scenes
from pipeline.train.trainers import ClosedForm

MIN_CALIBRATION = 10  # validation samples; fewer are too few to calibrate confidence
KEPT = 0.98  # share of the validation samples that count as known, at least
PICTURES = (4_000, 20_000)  # outliers, at least and at most; between them, as many as there are training samples
NOISES, SCENES = 400, 400  # sounds that are noise, and pictures in colour that show nothing in particular
NOISE = 0.4  # share of the outliers of sounds that are noise, if there are foreign copies
DEGRADED = 0.4  # share of the sounds of the classes that are degraded
COLLAGES = 500  # made at a time
REDRAWN = 0.1  # share of the pictures of the classes that are redrawn with another pen
AUXILIARY = 0.2  # and that are auxiliary, if their source can make such; see `Source`
MOST_AUXILIARY = round(AUXILIARY * PICTURES[1])
OUTLIER_TRAINING: dict[Outliers, Train] = {
    "images": Train(epochs=12, batch_size=200, learning_rate=3e-3, schedule="cosine", l2=2e-4),
    "noises": Train(epochs=15, batch_size=200, learning_rate=1.5e-3, schedule="cosine", l2=2e-4, noise=0.3),
    "scenes": Train(epochs=8, batch_size=200, learning_rate=3e-3, schedule="cosine", l2=1e-5),
}


@torch.no_grad()
@step("calibration")
def calibrate(
    classifier: Classifier, training: Dataset, validation: Dataset, seed: int, copies: Copies | None = None
) -> float | None:
    """Fit the classifier's temperature and give it a familiarity, from samples with standardised features.

    training, validation : as for the classifier; the training samples may include plain copies
    copies : None where there are none

    Returns
    -------
    The least familiarity that counts as known. None, and nothing is fitted, for a regression, unless it is of a table,
    and for fewer validation samples than `MIN_CALIBRATION`
    """
    n = len(validation.y)
    has_classes = classifier.target.has_classes
    if not has_classes and not isinstance(classifier.frontend, Table):
        return None
    if n < MIN_CALIBRATION:
        print(f"  not calibrated: {n} validation samples, at least {MIN_CALIBRATION} are needed")
        return None
    if has_classes:
        with threads(1):  # the order of sums depends on the number of threads
            logits = torch.cat([classifier.last_layer(x)[0] for x in pieces(validation.x)])
            classifier.temperature.fill_(fit_temperature(logits.cpu(), validation.y.cpu(), classifier.kind))
    known = fit_familiarity(classifier, training, validation, seed, copies)
    fitted = f"temperature {classifier.temperature.item():.3f}, " if has_classes else ""
    print(f"  calibrated on {n} validation samples: {fitted}known if familiarity ≥ {known:.3f}")
    return known


@torch.no_grad()
def fit_familiarity(
    classifier: Classifier, training: Dataset, validation: Dataset, seed: int, copies: Copies | None = None
) -> float:
    """Give the classifier a `Familiarity`, fitted to the training samples and scaled by the validation samples.

    Returns
    -------
    The least familiarity that counts as known
    """
    familiarity = _fitted(classifier, training, seed, copies)

    def layers(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, hidden = classifier.last_layer(x)
        return x, hidden, classifier.target.answer(logits)

    few = max(1, piece_rows(validation.x) // 8)  # of which there are copies, of vectors in float64
    with threads(1):
        familiarity.fit_scale(layers(x) for x in pieces(validation.x, few))
        return threshold(torch.cat([familiarity(*layers(x)) for x in pieces(validation.x, few)]))


@torch.no_grad()
def scores(classifier: Classifier, validation: Dataset, group: NDArray[np.str_]) -> list[list[float]]:
    """The probability of each validation sample's true class, and its share of its group, (N,), which counts as one;
    none for a regression, and where the classifier is not calibrated. See models/conformal.py."""
    if classifier.familiarity is None or not classifier.target.has_classes:
        return []
    with threads(1):
        p = torch.cat([classifier.answers(classifier.last_layer(x)[0]) for x in pieces(validation.x)]).cpu()
    true = [round(value, 7) for value in p.gather(1, validation.y.cpu()[:, None])[:, 0].tolist()]
    _, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    return [list(pair) for pair in zip(true, (1 / sizes[index]).tolist(), strict=True)]


@torch.no_grad()
def inherit(
    classifier: Classifier, calibrated: Classifier, training: Dataset, seed: int, copies: Copies | None = None
) -> None:
    """Calibrate a classifier that was trained again on more samples, as the first one was: with its temperature and,
    if it has a `Familiarity`, its scale. No samples are left to fit them to."""
    classifier.temperature.copy_(calibrated.temperature)
    if calibrated.familiarity is not None:
        familiarity = _fitted(classifier, training, seed, copies)
        familiarity.unit.copy_(calibrated.familiarity.unit)
        familiarity.scale.copy_(calibrated.familiarity.scale)
        familiarity.other_units.copy_(calibrated.familiarity.other_units)


def threshold(familiarity: Tensor) -> float:
    """The threshold that at least `KEPT` of the samples, float (N,), reach: halfway between the last one and the next
    lower, so that rounding loses none.

    Example
    -------
    >>> threshold(torch.arange(100.0))
    1.5
    """
    ranked = np.sort(familiarity.double().cpu().numpy())
    i = int((1 - KEPT) * len(ranked))
    return float((ranked[i] + (ranked[i - 1] if i else 0.0)) / 2)


def _fitted(classifier: Classifier, training: Dataset, seed: int, copies: Copies | None) -> Familiarity:
    """A familiarity of the classifier, fitted to the training samples.

    The contrast and the density learn from degraded copies too, so that degraded samples are known. The discriminants
    do not: they tell much of what is foreign, and would tell less of it.
    """
    if copies is None:
        none = Dataset(torch.empty(0, training.x.shape[1]), training.y[:0])
        copies = Copies(training, none, none, none)
    familiarity = classifier.add_familiarity().to(training.y.device)
    if familiarity.contrast is not None:
        _train_contrast(familiarity.contrast, classifier, training, copies, seed)
    _fit_densities(familiarity, classifier, training, copies, seed)
    return familiarity


@threads(1)
def _fit_densities(
    familiarity: Familiarity, classifier: Classifier, training: Dataset, copies: Copies, seed: int
) -> None:
    """Fit everything but the contrast."""
    if familiarity.mixture is not None:
        generator = torch.Generator().manual_seed(seed)
        n = min(DRAWN, DRAWN_NUMBERS // training.x.shape[1] + 1, training.x.shape[0])
        rows = torch.randperm(training.x.shape[0], generator=generator)[:n]
        drawn = torch.empty(n, training.x.shape[1], device=training.y.device)
        familiarity.mixture.fit(gather(training.x, rows, drawn), pieces(training.x), generator)
    if familiarity.density is not None:
        familiarity.density.fit_parts(
            (classifier.last_layer(x)[1], y)
            for part in (training, copies.degraded)
            for x, y in zip(pieces(part.x), pieces(part.y, piece_rows(part.x)), strict=True)
        )
    if familiarity.discriminants is not None:
        targets = partial(pieces, training.y, piece_rows(training.x))
        familiarity.discriminants.fit_parts(zip(pieces(training.x), targets(), strict=True))
        directions = (familiarity.discriminants(x) for x in pieces(training.x))
        familiarity.of_direction.fit_parts(zip(directions, targets(), strict=True))
    if familiarity.typicality is not None:
        familiarity.typicality.fit_parts(pieces(training.x))


def _train_contrast(network: MLP, classifier: Classifier, training: Dataset, copies: Copies, seed: int) -> None:
    """Train the network to tell training samples from as many outliers: symbols and sounds by their class, with the
    outliers as one more class, and the last hidden layer of pictures in colour as 1 from 0."""
    front, standardize = classifier.frontend, classifier.standardize
    assert front.outliers is not None
    options = OUTLIER_TRAINING[front.outliers]
    kind: Kind = "binary" if isinstance(front, Picture) else "multiclass"
    data = _with_outliers(network, classifier, training, copies, seed)
    change = transform_of(options, standardize, standardize.mean.device)
    feed = Feed([data], [seed], options.batch_size, change, in_memory=True)
    all_epochs(ClosedForm([network], feed, kind, [options]), options)  # on all threads, for the same bits


@threads(1)
def _with_outliers(network: MLP, classifier: Classifier, training: Dataset, copies: Copies, seed: int) -> Dataset:
    """Training samples and as many outliers, and what the network is to say of them."""
    generator = torch.Generator().manual_seed(seed)
    device, front = classifier.standardize.mean.device, classifier.frontend
    n_samples = sum(len(part.y) for part in copies) if isinstance(front, Mfcc) else len(training.y)
    n = min(max(PICTURES[0], n_samples), PICTURES[1])
    x: Tensor | StackedRows
    outside = network.linear()[-1].out_features - 1
    if isinstance(front, Mfcc):
        x, inside = _with_sounds(copies, n, classifier, front, generator)
    else:
        rows = torch.randint(len(training.y), (n,), generator=generator)
        inside = training.y[rows.to(training.y.device)]
        if isinstance(front, Picture):
            inside, outside = torch.ones_like(inside), 0
            x = torch.empty(2 * n, network.linear()[0].in_features, device=device)
            _add_scenes(x, rows, classifier, front, training.x, generator)
        else:
            x, inside = _with_pictures(training, copies.auxiliary, rows, classifier, generator)
    return Dataset(x, torch.cat([inside, torch.full_like(inside, outside)]))


def _with_sounds(
    copies: Copies, n: int, classifier: Classifier, front: Mfcc, generator: torch.Generator
) -> tuple[StackedRows, Tensor]:
    """n samples and degraded copies, and n foreign copies and noises; and the classes of the first n. Plain copies are
    not among them: they are shifted in pitch, as the foreign ones are."""
    samples, degraded, foreign, _ = copies
    n_degraded = round(DEGRADED * n) if len(degraded.y) else 0
    n_noises = round(NOISE * n) if len(foreign.y) else n
    noises = make_noises(NOISES, front.sample_rate, generator.initial_seed())
    made = torch.cat([front(torch.from_numpy(noise).to(samples.y.device).unsqueeze(0)) for noise in noises])
    parts = samples.x, degraded.x, foreign.x, classifier.standardize(made)
    sizes = n - n_degraded, n_degraded, n - n_noises, n_noises
    drawn, start = [], 0
    for part, size in zip(parts, sizes, strict=True):
        drawn.append(start + torch.randint(max(1, part.shape[0]), (size,), generator=generator))
        start += part.shape[0]
    rows = torch.cat(drawn)
    return StackedRows(parts, rows, made.device), torch.cat([samples.y, degraded.y])[rows[:n].to(made.device)]


def _with_pictures(
    samples: Dataset, auxiliary: Dataset, chosen: Tensor, classifier: Classifier, generator: torch.Generator
) -> tuple[StackedRows, Tensor]:
    """The n chosen samples, some of them redrawn, some replaced by auxiliary ones, and n standardised pictures of no
    class; and the classes of the first n. Only what is drawn is in memory: `chosen` may be 60 MB."""
    standardize, n, n_redrawn = classifier.standardize, len(chosen), round(REDRAWN * len(chosen))
    device = standardize.mean.device
    if len(auxiliary.y):
        more = torch.randperm(len(auxiliary.y), generator=generator)[: round(AUXILIARY * n)]
        chosen[torch.randperm(n, generator=generator)[: len(more)]] = len(samples.y) + more
    inside = StackedRows([samples.x, auxiliary.x], chosen, device)

    def pictures(rows: Tensor) -> Tensor:
        return inside.read(rows).mul_(standardize.deviation).add_(standardize.mean).clamp_(0, 1).cpu()

    made = torch.empty(n_redrawn + n, samples.x.shape[1], device=device)
    make_outliers(pictures, n // 2, n, generator, made[n_redrawn:])
    made[:n_redrawn] = redrawn(pictures(torch.arange(n_redrawn)), generator)
    drawn = torch.arange(len(made))
    rows = torch.cat([drawn[:n_redrawn], len(made) + chosen[n_redrawn:], drawn[n_redrawn:]])
    classes = torch.cat([samples.y, auxiliary.y])[chosen.to(device)]
    return StackedRows([standardize.apply_(made), samples.x, auxiliary.x], rows, device), classes


def _add_scenes(
    hidden: Tensor,
    chosen: Tensor,
    classifier: Classifier,
    front: Picture,
    samples: Tensor | RowReader,
    generator: torch.Generator,
) -> None:
    """Fill `hidden` (2 n, H), outputs of the last hidden layer: with those for the n chosen samples, for n / 2 collages
    of quadrants of samples, and for scenes, again and again."""
    n, device = len(chosen), hidden.device
    quadrants, same = (part.to(device) for part in front.quadrants())
    for start in range(0, n, COLLAGES):
        rows = chosen[start : start + COLLAGES]
        own = gather(samples, rows, torch.empty(len(rows), front.n_features, device=device))
        hidden[start : start + len(rows)] = classifier.last_layer(own)[1]
        if start < n // 2:
            made = _collages(own, quadrants, same, generator)
            hidden[n + start : n + start + len(rows)] = classifier.last_layer(made)[1]
    scenes = torch.from_numpy(make_scenes(SCENES, front.size, generator.initial_seed())).to(device)
    features = classifier.standardize(torch.cat([front(scene) for scene in torch.split(scenes, 1)]))
    made = classifier.last_layer(features)[1]
    hidden[n + n // 2 :] = made[torch.arange(n - n // 2, device=device) % SCENES]


def _collages(own: Tensor, quadrants: Tensor, same: Tensor, generator: torch.Generator) -> Tensor:
    """As many samples (m, D) put together from quadrants of these: a third of four of them, a third of halves of two,
    and a third of one quadrant, four times. `quadrants` and `same`: see `Picture.quadrants`."""
    made, third = own.clone(), len(own) // 3
    for quadrant in (1, 2, 3):
        others = own[torch.randperm(len(own), generator=generator).to(own.device)]
        part = quadrants == quadrant
        made[:third, part] = others[:third, part]
        if quadrant == 1:
            right = part | (quadrants == 3)
            made[third : 2 * third, right] = others[third : 2 * third, right]
        made[2 * third :, part] = own[2 * third :, same[part]]
    return made
