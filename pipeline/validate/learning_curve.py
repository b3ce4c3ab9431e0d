"""The learning curve of the report: accuracy over the number of training samples, and what twice as many would bring.

The error falls as a power of the number of samples, e(n) = c + a n⁻ᵇ (Cortes et al. 1993, "Learning curves: asymptotic
values and rate of convergence"). Better networks start lower and fall at about the same rate (Hestness et al. 2017,
"Deep learning scaling is predictable, empirically"), so the share of their errors that small networks would keep is
what the task's network can expect too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier
from pipeline.extract import Features
from pipeline.report.schema import Curve, LearningCurve
from pipeline.train.weights import Facts
from pipeline.tune import subsets
from pipeline.validate.intervals import wilson

DRAWS = 400
EXPONENTS = np.linspace(0.05, 1.5, 30)  # b; most measured ones are between 0.07 and 1 (Viering & Loog 2022)
POINTS = 20  # of the fitted curve up to the present number of samples
FEWEST = 30  # test samples, or groups of them, with fewer of which nothing can be said
Floats = NDArray[np.float64]


def learning_curve(
    features: Features, classifier: Classifier, facts: Facts, right: NDArray[np.bool_], weakest: str | None
) -> LearningCurve:
    """Train small networks on parts of the training samples, and extend the curve to twice as many.

    Parameters
    ----------
    right : bool (N,), whether the task's network has each test sample right
    weakest : a class with a curve of its own

    Returns
    -------
    Section `learning_curve` of the report
    """
    rows = features.rows("test")
    groups = np.unique(features.group[rows], return_inverse=True)[1]
    if right.all():
        return {"reason": "no test sample is wrong, so no gain could be seen"}
    if groups.max(initial=-1) + 1 < FEWEST:
        return {"reason": "the test samples are too few to tell"}
    parts = subsets.of_test(features, classifier, facts.with_validation, facts.train["seed"])
    if isinstance(parts, str):
        return {"reason": parts}
    samples = np.array(parts.samples, np.float64)
    along = np.append(np.geomspace(samples[0], samples[-1], POINTS), samples[-1] * np.geomspace(1, 2, POINTS // 4)[1:])
    found: LearningCurve = {
        "reason": "",
        "samples": list(parts.samples),
        "along": along.tolist(),
        "accuracy": _curve(samples, parts.right, right, groups, along),
    }
    own = features.y[rows] == (facts.labels.index(weakest) if weakest in facts.labels else -1)
    if weakest is not None and not right[own].all():
        found["weakest"] = weakest
        found["recall"] = _curve(samples, parts.right[..., own], right[own], groups[own], along)
    return found


def _curve(
    samples: Floats, right: NDArray[np.bool_], ours: NDArray[np.bool_], group: NDArray[np.int64], along: Floats
) -> Curve:
    """The curve over these test samples.

    Parameters
    ----------
    samples : (S,), sizes of the parts
    right : bool (S, 2, N), answers of the small networks
    ours : bool (N,), answers of the task's network
    group : int64 (N,), of each test sample
    along : (P,), numbers of training samples at which the fitted curve is wanted, the last one twice the present one
    """
    error = Errors.of(right, group)
    drawn = error.draws()
    weights = 1 / np.diag(error.covariance)
    fitted = fit(samples, np.vstack([error.mean, drawn]), weights)
    curves = np.clip(1 - fitted.at(along), 0, 1)
    now, then = fitted.at(samples[-1] * np.array([1.0, 2.0])).T
    then[1:] += error.of_two_trainings(now[1:], then[1:])
    doubled = np.clip(1 - (1 - ours.mean()) * then / now, 0, 1)
    low, high = np.quantile(curves[1:], [0.025, 0.975], axis=0)
    measured = 1 - right.mean((1, 2))
    return {
        "measured": (1 - measured).tolist(),
        "intervals": [wilson(float(1 - e), n) for e, n in zip(measured, error.trials().tolist(), strict=True)],
        "fitted": curves[0].tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "now": float(ours.mean()),
        "doubled": float(doubled[0]),
        "doubled_interval": np.quantile(doubled[1:], [0.025, 0.975]).tolist(),
    }


@dataclass(frozen=True, slots=True)
class Errors:
    """Shares of wrong answers at S sizes, and how far they may be off.

    mean : (S,); half an error is added, since none in so many samples does not mean that there are none
    covariance : (S, S); all sizes have the same test samples, and samples of one group are wrong together
    spread : variance of one training, as a multiple of e (1 - e)
    """

    mean: Floats
    covariance: Floats
    spread: float

    @staticmethod
    def of(right: NDArray[np.bool_], group: NDArray[np.int64]) -> "Errors":
        """The errors of answers (S, 2, N), two trainings at each size, to samples of these groups (N,)."""
        n, (_, of) = right.shape[2], np.unique(group, return_inverse=True)
        wrong = 1.0 - right
        e = (wrong.mean(1).sum(1) + 0.5) / (n + 1)
        size = np.bincount(of).astype(np.float64)
        sums = np.stack([np.bincount(of, row) for row in wrong.mean(1)])  # of each group
        residual = sums - wrong.mean((1, 2))[:, None] * size  # of a ratio estimator (Cochran 1977, §6.3)
        covariance = residual @ residual.T / n**2
        np.fill_diagonal(covariance, np.maximum(np.diag(covariance), e * (1 - e) / n))
        pair = wrong.mean(2)
        spread = float((np.diff(pair, axis=1)[:, 0] ** 2 / 2 / (e * (1 - e))).mean())
        return Errors(e, covariance + np.diag(spread * e * (1 - e) / 2), spread)

    def trials(self) -> Floats:
        """How many independent samples would be as uncertain, (S,)."""
        return np.asarray(self.mean * (1 - self.mean) / np.diag(self.covariance))

    def draws(self) -> Floats:
        """Errors that these might have been, (DRAWS, S)."""
        values, vectors = np.linalg.eigh(self.covariance)
        normal = np.random.default_rng(0).standard_normal((DRAWS, len(values)))
        drawn = self.mean + normal @ (vectors * np.sqrt(np.maximum(values, 0))).T
        return np.asarray(np.clip(drawn, self.mean / 20, 1.0))

    def of_two_trainings(self, now: Floats, then: Floats) -> Floats:
        """By how much an error `then` (n,) may be missed that is foretold from one of `now`: each is of one training,
        and on other test samples more or fewer of those would lie between the two."""
        one, two = (e * (1 - e).clip(0) for e in (now, then))
        between = np.abs(now - then) / (self.trials()[-1])
        normal = np.random.default_rng(1).standard_normal(len(now))
        return np.asarray(normal * np.sqrt(self.spread * (two + (then / now) ** 2 * one) + between))


@dataclass(frozen=True, slots=True)
class PowerLaws:
    """e(n) = c + a (n / unit)⁻ᵇ, one for each row of (D,)."""

    a: Floats
    b: Floats
    c: Floats
    unit: float

    def at(self, n: Floats) -> Floats:
        """The errors at these numbers of samples (P,), (D, P)."""
        power: Floats = (np.asarray(n) / self.unit)[None] ** -self.b[:, None]
        return self.c[:, None] + self.a[:, None] * power


def fit(samples: Floats, errors: Floats, weights: Floats) -> PowerLaws:
    """The power laws with the least weighted squared distance from errors (D, S) at numbers of samples (S,).

    For each exponent b, c and a follow from a linear regression; neither is below 0.

    Example
    -------
    >>> n = np.array([100.0, 200, 400, 800])
    >>> law = fit(n, 0.1 * (n[None] / 100) ** -0.5, np.ones(4))
    >>> print(f"{law.at(np.array([1600.0]))[0, 0]:.4f}")
    0.0250
    """
    unit, w = samples[-1], weights / weights.sum()
    best, found = np.full(len(errors), np.inf), np.zeros((3, len(errors)))
    for exponent in EXPONENTS:
        power = (samples / unit) ** -exponent
        mean, centred = errors @ w, power - power @ w
        a = np.maximum((errors * w) @ centred / (w @ centred**2), 0)
        c = mean - a * (power @ w)
        through = c < 0
        a = np.where(through, (errors * w) @ power / (w @ power**2), a)
        c = np.where(through, 0, c)
        distance = ((errors - c[:, None] - a[:, None] * power) ** 2) @ w
        better = distance < best
        best = np.where(better, distance, best)
        found = np.where(better, np.stack([a, np.full_like(a, exponent), c]), found)
    a, b, c = found
    return PowerLaws(a, b, c, unit)
