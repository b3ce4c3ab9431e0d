"""Stage 3: weights → report on the test split, and the gate that export asks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from models.card import Input
from models.classifier import Classifier, outputs
from pipeline import sources
from pipeline.extract import Features
from pipeline.report import curves, page
from pipeline.run import Run, library_versions, replacing, write_json, write_npz
from pipeline.sources.sample import SPLITS
from pipeline.task import Task, UserError, Validate, parse
from pipeline.train import weights
from pipeline.validate import baselines, inside, metrics
from service.errors import MediaError

MISTAKES = 12  # shown in the report


def validate(task: Task, run: Run) -> dict[str, Any]:
    """Judge `run/weights.pt` on the test split; write `report.json`, the files that figures need, and the page.

    Raises
    ------
    UserError : no features or weights, no test samples, the features have labels that the network was not taught, or
        baselines are asked for and there are no classes
    """
    features = Features.of(run)
    classifier, facts = weights.of(run)
    _check_same_data(features, facts)
    rows = features.rows("test")
    if not rows.any():
        raise UserError(f"{task.name}: no test samples; add samples, or change data.splits")
    if task.validate_.baselines and facts.kind == "regression":
        raise UserError("validate.baselines tell classes apart, and the targets are numbers; set it to false")
    y = features.y[rows]
    with torch.inference_mode():
        x = classifier.standardize(torch.from_numpy(features.x[rows]))
        logits, hidden = classifier.last_layer(x)
        p, raw = classifier.answers(logits).numpy(), outputs(logits, facts.kind)
        familiarity = None if classifier.familiarity is None else classifier.familiarity(x, hidden, raw).numpy()
        uncalibrated = raw.numpy()
    regression = facts.kind == "regression"
    test = metrics.regression(p, y) if regression else metrics.classification(p, y, facts.labels)
    if familiarity is not None:
        known = int((familiarity >= facts.known).sum())
        test |= {"known": known / len(y), "known_interval": metrics.interval(known, len(y))}
    files = features.file[rows].tolist()
    wrong = [] if regression else _worst(p, y)
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
        "baselines": _baselines(features, classifier, facts, p.argmax(1) == y) if task.validate_.baselines else [],
        "calibration": None if regression else {
            "temperature": classifier.temperature.item(),
            "uncalibrated": metrics.calibration(uncalibrated, y),
            "known_threshold": facts.known,
        },
        "mistakes": [
            {"file": files[i], "label": facts.labels[y[i]], "predicted": facts.labels[p[i].argmax()],
             "confidence": float(p[i].max())}
            for i in wrong
        ],
        "sample_rate": classifier.frontend.input.sample_rate,
        "notes": _notes(features),
        "gate": gate(test, task.validate_),
        "weights": weights.file_digest(run),
        "libraries": library_versions(),
    }  # fmt: skip
    examples = [0] if regression else [int(np.flatnonzero(y == k)[0]) for k in np.unique(y)]
    media = load_media(features, [files[i] for i in [*wrong, *examples]])
    clips = examples[: inside.CLIPS] if classifier.frontend.input.kind == "audio" else []
    result["clips"] = [{"file": files[i], "label": facts.labels[y[i]]} for i in clips]
    heard = [np.asarray(media[files[i]], np.float32) for i in clips]
    write_npz(run.inside, inside.inside(classifier, features, heard), compress=True)
    if classifier.frontend.input.kind != "vector":
        write_npz(run.mistakes, {str(n): media[files[i]] for n, i in enumerate(wrong)})
    for i in examples:
        name = "sample" if regression else facts.labels[y[i]]
        _write_media(run.samples, name, media[files[i]], classifier.frontend.input)
    write_json(run.report, result)
    curves.draw(run)
    written = page.write(run)
    print(f"{page.headline(result)}\n→ {written}")
    return result


def _baselines(
    features: Features, classifier: Classifier, facts: weights.Facts, right: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Baselines on the network's features and splits; right: bool, whether the network is, for each test sample."""

    def rows(x: NDArray[np.float32], y: NDArray[np.int64]) -> baselines.Rows:
        return baselines.Rows(classifier.standardize(torch.from_numpy(x)).numpy(), y)

    train, validation, test = (features.rows(split) for split in SPLITS)
    with torch.inference_mode():
        learned = rows(*features.with_copies(train | validation)) if facts.with_validation else None
        training = rows(*features.with_copies(train))
        held_out, judged = (rows(features.x[split], features.y[split]) for split in (validation, test))
    return baselines.baselines(training, held_out, judged, right, facts.train["seed"], learned)


def _check_same_data(features: Features, facts: weights.Facts) -> None:
    """UserError where the features are not those that trained the network: its test split may have been learned."""
    unknown = [label for label in features.labels if label not in facts.labels]
    if unknown:
        known = ", ".join(facts.labels)
        raise UserError(f"label {unknown[0]!r} is unknown to the model, which knows {known}; run `percept train` again")
    if features.data_digest() != facts.data_digest:
        raise UserError("the features have changed since the network was trained; run `percept train` again")


def load_media(features: Features, files: list[str]) -> dict[str, NDArray[np.generic]]:
    """File → decoded media, from the source that the features came from.

    Raises
    ------
    UserError : a file is no longer there, or no longer what it was
    """
    origin = parse({"name": "origin", **features.task}, "features.npz")
    wanted = set(files)
    try:
        media = {s.file: s.media.load() for s in sources.load(origin) if s.file in wanted}
    except MediaError as error:
        raise UserError(f"a sample has changed since extraction ({error}); run `percept extract` again") from None
    if gone := wanted - media.keys():
        raise UserError(f"{min(gone)}: no longer in the source; run `percept extract` again")
    return media


def gate(test: dict[str, Any], thresholds: Validate) -> dict[str, Any]:
    """Hold the task's thresholds, `min_…` and `max_…` of a metric, against the test metrics."""
    checks = []
    for name, threshold in thresholds.thresholds().items():
        bound, metric = name.split("_", 1)
        if metric not in test:
            raise UserError(f"validate.{name}: this kind of target has no {metric}")
        value = test[metric]
        passed = value >= threshold if bound == "min" else value <= threshold
        checks.append({"name": name, "value": value, "threshold": threshold, "passed": bool(passed)})
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _worst(p: NDArray[np.float32], y: NDArray[np.int64]) -> list[int]:
    """Indices of the mistakes that were made with the most confidence."""
    wrong = np.flatnonzero(p.argmax(1) != y)
    return [int(i) for i in wrong[np.argsort(-p[wrong].max(1), kind="stable")][:MISTAKES]]


def _samples(features: Features) -> dict[str, Any]:
    return {
        **{s: int(features.rows(s).sum()) for s in SPLITS},
        "skipped": [{"file": file, "reason": reason} for file, reason, _ in features.skipped],
        "classes": _classes(features),
    }


def _classes(features: Features) -> dict[str, dict[str, int]]:
    """Label → split → number of samples; nothing for a regression."""
    if features.kind == "regression":
        return {}
    counts = {s: np.bincount(features.y[features.rows(s)], minlength=len(features.labels)) for s in SPLITS}
    return {label: {s: int(counts[s][k]) for s in SPLITS} for k, label in enumerate(features.labels)}


def _notes(features: Features) -> list[str]:
    return [
        f"class {label!r} has no {split} sample"
        for label, counts in _classes(features).items()
        for split, count in counts.items()
        if not count
    ]


def _write_media(folder: Path, name: str, media: NDArray[np.generic], form: Input) -> None:
    """One sample of the test split as a file that the service takes, to try it with."""
    ending = {"image": "png", "audio": "wav", "vector": "json"}[form.kind]
    with replacing(folder / f"{name.replace('/', '_')}.{ending}") as temporary:
        if form.kind == "image":
            Image.fromarray(media).save(temporary, "PNG")
        elif form.kind == "audio":
            soundfile.write(temporary, media, form.sample_rate, format="WAV")
        else:
            temporary.write_text(f"{media.tolist()}\n", "utf-8")
