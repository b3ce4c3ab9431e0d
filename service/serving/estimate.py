"""The accuracy of a model on the last samples that it answered, estimated without their labels.

A calibrated confidence is the probability that the answer is right, so the mean of the confidences is the accuracy to
expect: confidence-based performance estimation (CBPE; Białek et al. 2024, the authors of NannyML). Few validation
samples calibrate only roughly, so what counts is by how much confidences differ from those of the test split, whose
accuracy is known (Guillory et al. 2021 call this the difference of confidences). It holds as long as the samples are
like those, in whatever mixture. Of others, networks are too sure, so no estimate is given where too many samples look
unfamiliar. `python -m benchmarks.estimated` measures both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.card import LOW, ModelCard
from service.serving.drift import LEAST, Sample

Z = 1.96  # standard deviations on each side of a 95 % interval
UNKNOWN = 0.02  # share of the samples that is usually unknown, where the card does not say how many were
# An estimate is withheld beyond these. They were chosen on 73 conditions of MNIST's validation digits and of notes, in
# a tenth to all of the samples (docs/service.md). A mean familiarity tells less: where a fifth of the samples are quite
# different, it hardly moves, and where all are a little different, confidences often stay true.
EXCESS = 0.02  # share of the samples that are unknown beyond what is usual
MORE = 1.5  # times as many samples as usual in the tails of low familiarity
PSI = 1.0  # largest population stability index; much above an alert's, for another mixture of classes has one of 0.5

FEW, UNCALIBRATED, UNKNOWNS, UNFAMILIAR, DRIFT = "few", "uncalibrated", "unknown", "unfamiliar", "drift"
REASONS = (FEW, UNCALIBRATED, UNKNOWNS, UNFAMILIAR, DRIFT)


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

    The interval holds what n samples, and the test split with which the card's accuracy was measured, leave open.
    """
    if card.known_threshold is None:
        return Estimate(reason=UNCALIBRATED)
    familiar = np.array([sample.familiarity for sample in samples])
    familiar = familiar[~np.isnan(familiar)]
    if min(len(samples), len(familiar)) < LEAST or not indices:  # which may be older than the samples
        return Estimate(reason=FEW)
    tails = card.usual.familiarity if card.usual else LOW  # it is a rank among validation samples
    unknown = 1 - card.metrics.get("known", 1 - UNKNOWN)
    for reason, is_so in (
        (UNKNOWNS, (familiar < card.known_threshold).mean() > unknown + EXCESS),
        (UNFAMILIAR, any((familiar < tail).mean() > MORE * low for tail, low in zip(tails, LOW, strict=True))),
        (DRIFT, max(indices.values()) > PSI),
    ):
        if is_so:
            return Estimate(reason=reason)
    confidence = np.array([sample.confidence for sample in samples])
    tested, n_tested = card.metrics.get("accuracy", 1.0), max(1, card.samples.get("test", 0))
    known_better = tested - card.usual.confidence if card.usual else 0.0  # of the test split, than its confidences
    accuracy = min(1.0, max(0.0, float(confidence.mean()) + known_better))
    variance = float((confidence * (1 - confidence)).mean()) / len(samples) + tested * (1 - tested) / n_tested
    margin = Z * math.sqrt(variance)
    return Estimate(accuracy, max(0.0, accuracy - margin), min(1.0, accuracy + margin))
