"""A network's predictions for the test split, and the sections of the report about them, for classes and for
numbers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import conformal
from models.card import USUAL_SHARES, Usual
from models.classifier import Classifier
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.profile import step
from pipeline.report.schema import Calibration, Sets
from pipeline.train.data import load_test, pieces
from pipeline.train.weights import Facts
from pipeline.validate import metrics
from pipeline.validate.intervals import Intervals

MISTAKES = 12  # shown in the report


@dataclass(frozen=True, slots=True)
class Predictions(ABC):
    """The network's outputs for N test samples.

    outputs : float32 (N, K), probabilities or values
    uncalibrated : float32 (N, K), the outputs without the temperature
    y : int64 (N,), index of the true class, or float32 (N, K), the true values
    labels : names of the K classes or values
    intervals : of proportions of the samples, which know their groups
    """

    outputs: NDArray[np.float32]
    uncalibrated: NDArray[np.float32]
    y: NDArray[Any]
    labels: tuple[str, ...]
    intervals: Intervals

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Section `test` of the report."""

    @abstractmethod
    def calibration(self, temperature: float, known_threshold: float | None) -> Calibration | None:
        """Section `calibration` of the report; None where there are no probabilities."""

    @abstractmethod
    def sets(self, scores: Sequence[Sequence[float]], coverage: float) -> Sets | None:
        """Section `sets` of the report; None where no set can be promised."""

    @abstractmethod
    def mistakes(self) -> list[int]:
        """Indices of the wrong answers with the highest confidence, highest first."""

    @abstractmethod
    def examples(self) -> dict[str, int]:
        """Name → index of each test sample that is saved as an example."""


class ClassPredictions(Predictions):
    """Probabilities of classes."""

    def metrics(self) -> dict[str, Any]:
        return metrics.classification(self.outputs, self.y, self.labels, self.intervals)

    def calibration(self, temperature: float, known_threshold: float | None) -> Calibration:
        return {
            "temperature": temperature,
            "uncalibrated": metrics.calibration(self.uncalibrated, self.y),
            "known_threshold": known_threshold,
        }

    def sets(self, scores: Sequence[Sequence[float]], coverage: float) -> Sets | None:
        least = conformal.least_probability(scores, coverage)
        if least is None:
            return None
        inside = conformal.members(self.outputs, least)
        covered = inside[np.arange(len(self.y)), self.y]
        return {
            "coverage": coverage,
            "threshold": least,
            "groups": round(sum(weight for _, weight in scores)),
            "covered": float(covered.mean()),
            "covered_interval": self.intervals.among(covered),
            "size": float(inside.sum(1).mean()),
            "per_class": [
                {
                    "label": label,
                    "covered": float(covered[self.y == k].mean()) if (self.y == k).any() else None,
                    "covered_interval": self.intervals.among(covered, self.y == k),
                }
                for k, label in enumerate(self.labels)
            ],
        }

    def mistakes(self) -> list[int]:
        wrong = np.flatnonzero(~self.correct())
        by_confidence = np.argsort(-self.outputs[wrong].max(1), kind="stable")
        return [int(i) for i in wrong[by_confidence][:MISTAKES]]

    def examples(self) -> dict[str, int]:
        """The first sample of each class."""
        classes, first = np.unique(self.y, return_index=True)
        return {self.labels[k]: int(i) for k, i in zip(classes, first, strict=True)}

    def correct(self) -> NDArray[np.bool_]:
        """Which answers are right, (N,)."""
        return np.asarray(self.outputs.argmax(1) == self.y)


class ValuePredictions(Predictions):
    """Values of a regression: no answer is right or wrong."""

    def metrics(self) -> dict[str, Any]:
        return metrics.regression(self.outputs, self.y)

    def calibration(self, temperature: float, known_threshold: float | None) -> None:
        return None

    def sets(self, scores: Sequence[Sequence[float]], coverage: float) -> None:
        return None

    def mistakes(self) -> list[int]:
        return []

    def examples(self) -> dict[str, int]:
        return {"sample": 0}


@torch.inference_mode()
@step("predict")
def predict(
    classifier: Classifier, facts: Facts, features: Features
) -> tuple[Predictions, dict[str, Any], Usual | None]:
    """Run the network on the test split.

    Returns
    -------
    its predictions; the metrics of its familiarity, `known` and `known_interval`, none where it has no familiarity; and
    section `usual` of the report
    """
    test = load_test(features)
    target = TARGETS[facts.kind]
    parts = []
    for part in pieces(test.x):
        x = classifier.standardize(part)
        logits, hidden = classifier.last_layer(x)
        uncalibrated = target.answer(logits)
        found = [classifier.answers(logits), uncalibrated]
        if classifier.familiarity is not None:
            found += [part for part in classifier.familiarity.readings(x, hidden, uncalibrated) if part is not None]
        parts.append(found)
    outputs, raw, *readings = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    kind = ClassPredictions if target.has_classes else ValuePredictions
    intervals = Intervals.of(features.group[features.rows("test")])
    predictions = kind(outputs, raw, test.y.numpy(), facts.labels, intervals)
    if not readings:
        return predictions, {}, None
    familiarity, *second = readings
    known = familiarity >= facts.known
    usual = None
    if target.has_classes:
        usual = Usual(
            confidence=float(outputs.max(1).mean()),
            familiarity=np.quantile(familiarity, USUAL_SHARES).tolist(),
            agreement=float((second[0].argmax(1) == outputs.argmax(1)).mean()) if second else None,
        )
    return predictions, {"known": float(known.mean()), "known_interval": intervals.among(known)}, usual
