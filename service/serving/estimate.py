"""The accuracy of a model on the last samples that it answered, estimated without their labels.

A calibrated confidence is the probability that the answer is right, so the mean of the confidences is the accuracy to
expect: confidence-based performance estimation (CBPE; Białek et al. 2024, the authors of NannyML). Few validation
samples calibrate only roughly, so what counts is by how much confidences differ from those of the test split, whose
accuracy is known (Guillory et al. 2021 call this the difference of confidences). It holds as long as the samples are
like those, in whatever mixture. Of others, networks are too sure, or sometimes not sure enough.

Two signs tell by how much: how many samples look unfamiliar, and how often the graph's second reading of the classes,
which learned otherwise, has the same label. Where the accuracy falls, this agreement falls about as far (Baek et al.
2022; Jiang et al. 2022), whatever the confidences say. So an error of the confidences is expected that is the larger
the more samples are unfamiliar; the agreement, which chance blurs, measures it; and no estimate is given where that
error was large, or what is left of it may be. `python -m benchmarks.estimated` measures all this.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.card import USUAL_SHARES, ModelCard
from service.serving.drift import MIN_SAMPLES, WINDOW, Sample

Z = 1.96  # standard deviations on each side of a 95 % interval
WITHIN = 0.02  # an estimate waits until chance among the samples leaves no more than this on each side
TESTED = 0.9  # accuracy on the test split below which none is given: a network right in 87 % was off by up to 6.6
UNKNOWN = 0.02  # share of the samples that is usually unknown, where the card does not say how many were
# The following were chosen on 152 shifts of MNIST's validation digits and of notes, real and synthetic, in a tenth
# to all of the samples, with six networks (docs/service.md).
BIAS = 0.006  # error to expect of the confidences in samples as familiar as those of the test split
PER_UNFAMILIAR = 0.5  # and beyond that, for each share of the samples among the least familiar tenth that is new there
LEFT = 0.008  # an estimate is withheld if more of that error may be left,
CORRECTION = 0.01  # if the second reading corrects it by more,
EXCESS = 0.015  # if more samples are unknown beyond what is usual, and beyond chance,
MORE = 1.5  # if more times as many samples as usual are among the least familiar tenth,
PSI = 1.0  # or beyond this stability index; much above an alert's, for another mixture of classes has one of 0.5

FEW, UNCALIBRATED, WEAK, UNKNOWNS, UNFAMILIAR = "few", "uncalibrated", "weak", "unknown", "unfamiliar"
DISAGREEMENT, DRIFT = "disagreement", "drift"
REASONS = (FEW, UNCALIBRATED, WEAK, UNKNOWNS, UNFAMILIAR, DISAGREEMENT, DRIFT)


class Estimate(NamedTuple):
    """Accuracy, and the ends of its 95 % interval, from 0 to 1; or all NaN, and one of REASONS why."""

    accuracy: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None


def has_estimate(card: ModelCard) -> bool:
    """Whether there is anything to estimate: a regression has no confidence, and of models without groups no samples
    are counted."""
    return card.kind != "regression" and bool(card.groups)


def estimated(card: ModelCard, samples: Sequence[Sample], indices: Mapping[str, float]) -> Estimate:
    """The accuracy of a model that `has_estimate` on `samples`, as `Drift.samples` returns them, with the drift
    `indices` of the same.

    The interval holds what n samples, the test split with which the card's accuracy was measured, and the error of the
    confidences leave open.
    """
    if card.known_threshold is None:
        return Estimate(reason=UNCALIBRATED)
    tested, n_tested = card.metrics.get("accuracy", 1.0), max(1, card.samples.get("test", 0))
    if tested < TESTED:
        return Estimate(reason=WEAK)
    columns = [np.array([sample[i] for sample in samples]) for i in (1, 2, 3)]
    confidence, familiar, agrees = (column[~np.isnan(column)] for column in columns)
    if min(len(samples), len(familiar)) < MIN_SAMPLES or not indices:  # which may be older than the samples
        return Estimate(reason=FEW)
    _, low = USUAL_SHARES
    _, tail = card.usual.familiarity if card.usual else USUAL_SHARES  # it is a rank among validation samples
    more = float((familiar < tail).mean()) - low
    expected = BIAS**2 + PER_UNFAMILIAR**2 * max(0.0, max(0.0, more) ** 2 - _by_chance(low, len(familiar), n_tested))
    correction, left = _corrected(card, n_tested, confidence, agrees, expected)
    unknown = 1 - card.metrics.get("known", 1 - UNKNOWN)
    excess = max(EXCESS, Z * math.sqrt(unknown * (1 - unknown) / len(familiar)))
    chance = float((confidence * (1 - confidence)).mean()) / len(samples)
    for reason, is_so in (
        (UNKNOWNS, (familiar < card.known_threshold).mean() > unknown + excess),
        (UNFAMILIAR, more > (MORE - 1) * low or left > LEFT**2),
        (DISAGREEMENT, abs(correction) > CORRECTION),
        (DRIFT, max(indices.values()) > PSI),
        (FEW, Z * math.sqrt(chance) > WITHIN and len(samples) < WINDOW),  # there will not be more
    ):
        if is_so:
            return Estimate(reason=reason)
    known_better = tested - card.usual.confidence if card.usual else 0.0  # of the test split, than its confidences
    accuracy = min(1.0, max(0.0, float(confidence.mean()) + known_better + correction))
    margin = Z * math.sqrt(chance + tested * (1 - tested) / n_tested + left)
    return Estimate(accuracy, max(0.0, accuracy - margin), min(1.0, accuracy + margin))


def _corrected(
    card: ModelCard, n_tested: int, confidence: NDArray[np.float64], agrees: NDArray[np.float64], expected: float
) -> tuple[float, float]:
    """What the second reading adds to the estimate, and how much is left of the `expected` mean square of its error;
    nothing, and all of it, where there is no such reading.

    By how much the agreement changed otherwise than the confidences is their error and chance, both taken as normally
    distributed.
    """
    usual = card.usual
    if usual is None or usual.agreement is None or len(agrees) < MIN_SAMPLES:
        return 0.0, expected
    agreement = (usual.agreement * n_tested + 1) / (n_tested + 2)  # by Laplace's rule: never quite 1
    by_chance = _by_chance(agreement, len(agrees), n_tested)
    change = float(agrees.mean()) - usual.agreement - (float(confidence.mean()) - usual.confidence)
    weight = expected / (expected + by_chance)
    return weight * change, expected * (1 - weight)


def _by_chance(share: float, n: int, n_tested: int) -> float:
    """Variance of the difference between that share among n samples and among those of the test split."""
    return share * (1 - share) * (1 / n + 1 / n_tested)
