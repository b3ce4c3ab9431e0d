"""Stage 3: weights → report on the test split, and the gate that export asks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline import extract, plots, report, sources, weights
from pipeline.artifacts import replacing, write_json
from pipeline.extract import Features
from pipeline.libraries import versions
from pipeline.sources.sample import SPLITS
from pipeline.task import Task, UserError, Validate, parse

FILE = "report.json"
MISTAKES = 12  # shown in the report
ECE_BINS = 15  # of equal width; Guo et al. 2017


def validate(task: Task, run: Path) -> dict[str, Any]:
    """Judge `run/weights.pt` on the test split; write `report.json`, `report.html`, `plots/` and `samples/`.

    Raises
    ------
    UserError : no features or weights, no test samples, or the features have labels that the network was not taught
    """
    features = Features.load(run / extract.FILE)
    classifier, facts = weights.load(run / weights.FILE)
    _check_same_data(features, facts)
    rows = features.rows("test")
    if not rows.any():
        raise UserError(f"{task.name}: no test samples; add samples, or change data.splits")
    y = features.y[rows]
    with torch.inference_mode():
        p = classifier.from_features(torch.from_numpy(features.x[rows])).numpy()
    test = metrics(p, y, facts.labels)
    files = features.file[rows]
    wrong = _worst(p, y)
    result = {
        "name": task.name,
        "kind": facts.kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": list(facts.labels),
        "task": task.resolved() | features.task | {"model": facts.model, "train": facts.train},
        "samples": _samples(features),
        "model": {"layers": classifier.mlp.summary(), "parameters": classifier.mlp.n_parameters()},
        "training": {name: getattr(facts, name) for name in ("epochs", "best_epoch", "seconds", "device")},
        "test": test,
        "mistakes": [
            {"file": str(files[i]), "label": facts.labels[y[i]], "predicted": facts.labels[p[i].argmax()],
             "confidence": float(p[i].max())}
            for i in wrong
        ],
        "sample_rate": classifier.frontend.input.sample_rate,
        "notes": _notes(features),
        "gate": gate(test, task.validate_),
        "weights": weights.file_digest(run),
        "libraries": versions(),
    }  # fmt: skip
    examples = [int(np.flatnonzero(y == k)[0]) for k in np.unique(y)]
    media = load_media(features, [str(files[i]) for i in [*wrong, *examples]])
    with replacing(run / "mistakes.npz") as temporary, temporary.open("wb") as f:
        np.savez(f, **{str(n): media[str(files[i])] for n, i in enumerate(wrong)})  # type: ignore[arg-type]
    for i in examples:
        _write_media(run / "samples", facts.labels[y[i]], media[str(files[i])], classifier.frontend.input.sample_rate)
    write_json(run / FILE, result)
    plots.draw(run)
    page = report.write(run)
    print(f"{report.headline(result)}\n→ {page}")
    return result


def _check_same_data(features: Features, facts: weights.Facts) -> None:
    """UserError where the features are not those that trained the network: its test split may have been learned."""
    unknown = [label for label in features.labels if label not in facts.labels]
    if unknown:
        known = ", ".join(facts.labels)
        raise UserError(f"label {unknown[0]!r} is unknown to the model, which knows {known}; run `percept train` again")
    if features.data_digest() != facts.data_digest:
        raise UserError("the features have changed since the network was trained; run `percept train` again")


def load_media(features: Features, files: list[str]) -> dict[str, NDArray[np.generic]]:
    """File → decoded media, from the source that the features came from."""
    origin = parse({"name": "origin", **features.task}, extract.FILE)
    wanted = set(files)
    return {s.file: s.media.load() for s in sources.load(origin) if s.file in wanted}


def metrics(p: NDArray[np.float32], y: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, Any]:
    """What a classifier's probabilities (N, K) are worth against the true classes (N,).

    Proportions come with their 95 % interval (Wilson 1927); `ece` is the expected calibration error of the winning
    class (Naeini et al. 2015), `log_loss` the mean cross entropy in nats.
    """
    chosen, k = p.argmax(1), len(labels)
    classes = list(range(k))
    precision, recall, f1, support = precision_recall_fscore_support(y, chosen, labels=classes, zero_division=0)
    hits = np.bincount(y[y == chosen], minlength=k)
    guesses = np.bincount(chosen, minlength=k)
    reliability = _reliability(p.max(1), chosen == y)
    return {
        "accuracy": float((chosen == y).mean()),
        "accuracy_interval": interval(int((chosen == y).sum()), len(y)),
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean()),
        "ece": sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in reliability) / len(y),
        "per_class": [
            {
                "label": labels[i],
                "support": int(support[i]),
                "precision": float(precision[i]) if guesses[i] else None,
                "precision_interval": interval(int(hits[i]), int(guesses[i])),
                "recall": float(recall[i]) if support[i] else None,
                "recall_interval": interval(int(hits[i]), int(support[i])),
                "f1": float(f1[i]),
            }
            for i in classes
        ],
        "confusion_matrix": confusion_matrix(y, chosen, labels=classes).tolist(),
        "reliability": reliability,
    }


def interval(successes: int, trials: int) -> list[float] | None:
    """Wilson's 95 % interval of a proportion; None without trials."""
    if not trials:
        return None
    bounds = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(bounds.low), float(bounds.high)]


def gate(test: dict[str, Any], thresholds: Validate) -> dict[str, Any]:
    """Hold the task's thresholds, `min_…` and `max_…` of a metric, against the test metrics."""
    checks = []
    for name, threshold in thresholds.model_dump(exclude_none=True).items():
        bound, metric = name.split("_", 1)
        value = test[metric]
        passed = value >= threshold if bound == "min" else value <= threshold
        checks.append({"name": name, "value": value, "threshold": threshold, "passed": bool(passed)})
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _reliability(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of the samples in each bin of confidence that has any."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(correct[bins == b].mean()),
            "count": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def _worst(p: NDArray[np.float32], y: NDArray[np.int64]) -> list[int]:
    """Indices of the mistakes that were made with the most confidence."""
    wrong = np.flatnonzero(p.argmax(1) != y)
    return [int(i) for i in wrong[np.argsort(-p[wrong].max(1), kind="stable")][:MISTAKES]]


def _samples(features: Features) -> dict[str, Any]:
    counts = {s: np.bincount(features.y[features.rows(s)], minlength=len(features.labels)) for s in SPLITS}
    return {
        **{s: int(counts[s].sum()) for s in SPLITS},
        "skipped": [{"file": file, "reason": reason} for file, reason, _ in features.skipped],
        "classes": {label: {s: int(counts[s][k]) for s in SPLITS} for k, label in enumerate(features.labels)},
    }


def _notes(features: Features) -> list[str]:
    return [
        f"class {label!r} has no {split} sample"
        for split in SPLITS
        for k, label in enumerate(features.labels)
        if not (features.y[features.rows(split)] == k).any()
    ]


def _write_media(folder: Path, label: str, media: NDArray[np.generic], sample_rate: int | None) -> None:
    """One sample of the test split as a file, to try the service with."""
    name = label.replace("/", "_")
    if sample_rate is None:
        with replacing(folder / f"{name}.png") as temporary:
            Image.fromarray(media).save(temporary, "PNG")
    else:
        with replacing(folder / f"{name}.wav") as temporary:
            soundfile.write(temporary, media, sample_rate, format="WAV")
