"""Metrics for Prometheus: requests, predictions, models and drift. No label value comes from a client."""

import math
import os
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from models.card import ModelCard
from service.serving import Answer
from service.serving.drift import COUNTED
from service.serving.estimate import REASONS, Estimate, estimated, has_estimate
from service.serving.predictor import Predictor

REQUEST_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TENTHS = tuple(i / 10 for i in range(1, 11))
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
DROPPED = ("full", "large")  # reasons why a shadow is not asked
OLDER = 100  # versions with series of their own among those that a client chose instead of the served one
WORKERS = "PROMETHEUS_MULTIPROC_DIR"  # set by BentoML: the folder through which its workers share their metrics


class Metrics:
    """The series of one worker; `render` returns those of all workers together."""

    def __init__(self) -> None:
        _forget_dead_workers()
        self._add_traffic()
        self._add_answers()
        self._add_models()
        self._add_drift()
        self._add_rollout()
        # Each series is looked up once: finding it by its labels takes longer than counting.
        self._request = lru_cache(None)(self._series_of_request)
        self._answer = lru_cache(1000)(self._series_of_answer)
        self._named: set[tuple[str, str]] = set()  # models and versions that have series of their own
        self._n_older = 0

    def _add_traffic(self) -> None:
        self._requests = Counter("percept_requests_total", "Requests answered.", ["route", "code"])
        self._seconds = Histogram("percept_request_seconds", "Time to an answer.", ["route"], buckets=REQUEST_SECONDS)
        self._in_flight = Gauge(
            "percept_in_flight", "Slots taken by requests being answered.", multiprocess_mode="livesum"
        )
        self._open = Gauge("percept_connections", "Open connections.", multiprocess_mode="livesum")
        self._closed = Counter(
            "percept_connections_closed_total", "Connections that the service closed or refused.", ["reason"]
        )
        self._closed_before: dict[str, int] = {}

    def _add_answers(self) -> None:
        self._predictions = Counter("percept_predictions_total", "Samples answered.", ["model", "version", "label"])
        self._unknown = Counter("percept_unknown_total", "Samples unlike the training data.", ["model", "version"])
        self._confidence = Histogram(
            "percept_confidence", "Confidence of the answers.", ["model", "version"], buckets=TENTHS
        )

    def _add_models(self) -> None:
        self._info = Gauge(
            "percept_model_info", "1 for the version that is served.", ["model", "version"], multiprocess_mode="livemax"
        )
        self._store = Gauge(
            "percept_store_up", "0 while changes in the model store cannot be followed.", multiprocess_mode="livemin"
        )
        self._failed = Gauge(
            "percept_model_failed",
            "1 for a version that could not be loaded; the one before it is served.",
            ["model", "version"],
            multiprocess_mode="livemax",
        )
        self._failures: set[tuple[str, str]] = set()

    def _add_drift(self) -> None:
        self._drift = Gauge(
            "percept_drift_psi",
            "Population stability index of the last samples against the training data.",
            ["model", "version", "group"],
            multiprocess_mode="livemax",
        )
        # Of the worker that answers /metrics: the three belong together.
        of_one = partial(Gauge, multiprocess_mode="livemostrecent")
        self._estimate = of_one(
            "percept_estimated_accuracy",
            "Accuracy on the last samples, estimated from their confidences; NaN if these cannot be believed.",
            ["model", "version"],
        )
        self._interval = of_one(
            "percept_estimated_accuracy_interval", "Its 95 % interval.", ["model", "version", "bound"]
        )
        self._withheld = of_one(
            "percept_estimated_accuracy_withheld", "1 for the reason why it is NaN.", ["model", "version", "reason"]
        )
        self._tested = of_one("percept_tested_accuracy", "Accuracy on the test split.", ["model", "version"])

    def _add_rollout(self) -> None:
        self._canary = Counter(
            "percept_canary_requests_total",
            "Requests for a model that has a canary, by the version that answered.",
            ["model", "version", "code"],
        )
        self._canary_seconds = Histogram(
            "percept_canary_request_seconds", "Time to their answers.", ["model", "version"], buckets=REQUEST_SECONDS
        )
        self._shadow = Counter(
            "percept_shadow_answers_total",
            "Answers of a shadow, compared with the answer that was sent, by the label of that.",
            ["model", "version", "label", "outcome"],
        )
        self._shadow_dropped = Counter(
            "percept_shadow_dropped_total", "Requests of which a shadow was not asked.", ["model", "version", "reason"]
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is a template from the table of routes, not the path that was requested."""
        count, observe = self._request(route, status)
        count()
        observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Count the answer to one sample."""
        count, confidence, unknown = self._answer(answer.model, answer.version, answer.label or "value")
        count()
        if answer.confidence is not None:
            confidence.observe(answer.confidence)
            if answer.known is False:
                unknown()

    def answers(self, predictor: Predictor, answers: NDArray[np.float32]) -> None:
        """Count the answers (N, …) to a batch that `Predictor.run` returns; confidence only of the first COUNTED."""
        card = predictor.card
        if card.kind == "regression":
            self._answer(card.name, card.version, "value")[0](len(answers))
            return
        probabilities = answers[:, : len(card.labels)]
        counts = np.bincount(probabilities.argmax(axis=1), minlength=len(card.labels)).tolist()
        for label, n in zip(card.labels, counts, strict=True):
            if n:
                self._answer(card.name, card.version, label)[0](n)
        _, confidence, unknown = self._answer(card.name, card.version, card.labels[0])
        _observe_all(confidence, probabilities[:COUNTED].max(axis=1).tolist())
        if card.known_threshold is not None and answers.shape[1] > len(card.labels):
            unknown(int((answers[:, -1] < card.known_threshold).sum()))

    def canary(self, card: ModelCard, status: int, seconds: float) -> None:
        """Count one request for a model that has a canary; the card is that of the version that answered."""
        self._canary.labels(card.name, card.version, str(status)).inc()
        self._canary_seconds.labels(card.name, card.version).observe(seconds)

    def shadow(self, card: ModelCard, label: str, outcome: str) -> None:
        """Count one answer of a shadow with that card: whether it is the "same" as the one with that label which was
        sent, "different", or an "error"."""
        self._shadow.labels(card.name, card.version, label, outcome).inc()
        for reason in DROPPED:
            self._shadow_dropped.labels(card.name, card.version, reason)  # 0, so that the first one counts as a change

    def shadow_dropped(self, card: ModelCard, reason: str) -> None:
        """Count one request of which a shadow with that card was not asked."""
        self._shadow_dropped.labels(card.name, card.version, reason).inc()

    def in_flight(self, slots: int) -> None:
        """Set how many slots requests in flight hold."""
        self._in_flight.set(slots)

    def connections(self, n: int, closed: Mapping[str, int]) -> None:
        """Set how many connections are open, and how many have been closed so far, by reason."""
        self._open.set(n)
        for reason, count in closed.items():
            self._closed.labels(reason).inc(count - self._closed_before.get(reason, 0))
            self._closed_before[reason] = count

    def changed(self, new: Predictor | None, old: Predictor | None) -> None:
        """Update the series of a model that was opened, replaced or closed; None stands for no model."""
        if old is not None:
            self._info.labels(old.card.name, old.card.version).set(0)
            for group in old.card.groups:
                self._drift.labels(old.card.name, old.card.version, group.name).set(0)
            if has_estimate(old.card):
                self._set_estimate(old.card, Estimate())
        if new is not None:
            self._named.add((new.card.name, new.card.version))
            self._info.labels(new.card.name, new.card.version).set(1)

    def store(self, failed: dict[str, str], is_up: bool) -> None:
        """Set which version of a model could not be loaded, and whether changes in the model store are followed."""
        self._store.set(is_up)
        failures = {*failed.copy().items()}
        for failure in self._failures ^ failures:
            self._failed.labels(*failure).set(failure in failures)
        self._failures = failures

    def drifts(self, predictors: Iterable[Predictor]) -> None:
        """Set how far the last samples of each predictor are from its training data."""
        for predictor in predictors:
            card, samples, indices = predictor.card, predictor.drift.samples(), predictor.drift.indices()
            for group, index in indices.items():
                self._drift.labels(card.name, card.version, group).set(index)
            if has_estimate(card):
                self._set_estimate(card, estimated(card, samples, indices))

    def render(self, predictors: Sequence[Predictor]) -> bytes:
        """All series in Prometheus' text format, with the current drift, and the resources of every worker."""
        self.drifts(predictors)
        if WORKERS not in os.environ:
            return generate_latest(REGISTRY)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(_Processes())
        return generate_latest(registry)

    def _set_estimate(self, card: ModelCard, estimate: Estimate) -> None:
        model = card.name, card.version
        self._estimate.labels(*model).set(estimate.accuracy)
        self._interval.labels(*model, "low").set(estimate.low)
        self._interval.labels(*model, "high").set(estimate.high)
        self._tested.labels(*model).set(card.metrics.get("accuracy", math.nan))
        for reason in REASONS:
            self._withheld.labels(*model, reason).set(reason == estimate.reason)

    def _series_of_request(self, route: str, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
        return self._requests.labels(route, str(status)).inc, self._seconds.labels(route).observe

    def _series_of_answer(
        self, model: str, version: str, label: str
    ) -> tuple[Callable[..., None], Histogram, Callable[..., None]]:
        if (model, version) not in self._named:
            if self._n_older == OLDER:  # else requests for old versions could fill the memory
                version = "other"
            else:
                self._n_older += 1
                self._named.add((model, version))
        return (
            self._predictions.labels(model, version, label).inc,
            self._confidence.labels(model, version),
            self._unknown.labels(model, version).inc,
        )


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Call `histogram.observe` with each value, but write each of its numbers once: they lie in a file."""
    histogram._sum.inc(sum(values))
    for bucket, n in Counts(bisect_left(histogram._upper_bounds, value) for value in values).items():
        histogram._buckets[bucket].inc(n)


class _Processes(Collector):
    """`process_*` of every worker, told apart by a label `pid`. One worker alone answers for all: without the label,
    the CPU times of two would take turns in one series, of which Prometheus would take every second as a restart."""

    def collect(self) -> Iterable[Metric]:
        """A series for each worker that is alive."""
        families: dict[str, Metric] = {}
        for pid in sorted({pid for pid, _ in _gauges() if _is_alive(pid)}):
            for found in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                family.samples += [sample._replace(labels={"pid": pid}) for sample in found.samples]
        return families.values()


def _gauges() -> set[tuple[str, Path]]:
    """Process id and file of every worker's gauges, dead ones' too."""
    files = Path(os.environ.get(WORKERS, "/nonexistent")).glob("gauge_live*_*.db")
    return {(pid, file) for file in files if (pid := file.stem.rpartition("_")[2]).isdigit()}


def _is_alive(pid: str) -> bool:
    return Path("/proc", pid).exists()


def _forget_dead_workers() -> None:
    """Remove the gauges of killed workers, which would otherwise be reported forever."""
    for pid, file in _gauges():
        if not _is_alive(pid) and Path("/proc").exists():
            file.unlink(missing_ok=True)
