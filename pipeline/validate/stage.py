"""Stage 3: weights → a report on the test split, and the gate that `export` checks."""

from datetime import UTC, datetime
from typing import Any, TypedDict

import numpy as np
import torch

from models.classifier import Classifier
from models.targets import TARGETS
from pipeline.extract import Features, load_media, skipped
from pipeline.memory import block_import
from pipeline.profile import step
from pipeline.report import curves, page
from pipeline.report.schema import Baseline, Check, Clip, Gate, LearningCurve, Mistake, Regressor, Report
from pipeline.run import Run, library_versions, write_json, write_npz
from pipeline.sources import SPLITS
from pipeline.task import Task, UserError, Validate
from pipeline.threads import subnormals_flushed
from pipeline.train import weights
from pipeline.train.data import Datasets, Rows, load_datasets, standardised
from pipeline.validate import samples
from pipeline.validate.inside import CLIPS, inside
from pipeline.validate.learning_curve import learning_curve
from pipeline.validate.predictions import ClassPredictions, Predictions, predict
from pipeline.validate.scope import counts, scope
from pipeline.validate.takes import lower_metrics, score_apart, suspect_takes
from service.media.native import trim


class _Baselines(TypedDict, total=False):
    baselines: list[Baseline]
    regressors: list[Regressor]


@subnormals_flushed()
def validate(task: Task, run: Run) -> Report:
    """Evaluate `run/weights.pt` on the test split; write `report.json`, the arrays behind its figures, and the page.

    Returns
    -------
    the report, as `report.json` holds it

    Raises
    ------
    UserError : there are no features, weights or test samples; the features are not those that the network was trained
        on; or the task asks for baselines and the targets are numbers
    """
    features = Features.of(run)
    classifier, facts = weights.of(run)
    _check(task, features, facts)
    predictions, known, usual = predict(classifier, facts, features)
    test = predictions.metrics() | known
    files = features.file[features.rows("test")].tolist()
    suspicion = suspect_takes(features)
    takes = score_apart(suspicion, features, facts) if suspicion is not None else None
    report: Report = {
        "name": task.name,
        "kind": facts.kind,
        "scope": scope(features, task.features.kind),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": list(facts.labels),
        "task": task.resolved() | features.task | {"model": facts.model, "train": facts.train},
        "samples": _samples(features),
        "model": {"layers": classifier.summary(), "parameters": classifier.n_parameters()},
        "training": {name: getattr(facts, name) for name in ("epochs", "best_epoch", "seconds", "device")},
        "test": test,
        "calibration": predictions.calibration(classifier.temperature.item(), facts.known),
        "usual": usual.model_dump() if usual else None,
        "sets": predictions.sets(facts.scores, task.validate_.coverage),
        "learning_curve": _learning_curve(features, classifier, facts, predictions, test),
        "mistakes": _mistakes(predictions, files),
        "sample_rate": classifier.frontend.input.sample_rate,
        "notes": _notes(features),
        "takes": takes,
        "gate": gate(lower_metrics(test, takes), task.validate_),
        "weights": run.digest(run.weights, "train"),
        "libraries": library_versions(),
    }
    report.update(_baselines(task, features, classifier, facts, predictions))  # type: ignore[typeddict-item]
    report["clips"] = _save_media(run, classifier, features, predictions, files)
    write_json(run.report, report)
    trim()  # figures take tens of megabytes
    curves.draw(run)
    written = page.write(run)
    print(f"{page.headline(report)}\n→ {written}")
    return report


def gate(test: dict[str, Any], thresholds: Validate) -> Gate:
    """Compare the test metrics with the task's thresholds, `min_…` and `max_…` of a metric.

    Returns
    -------
    `passed`, and `checks`: `name`, `value`, `threshold` and `passed` of each

    Raises
    ------
    UserError : a threshold names a metric that this kind of target does not have

    Example
    -------
    >>> result = gate({"accuracy": 0.97, "ece": 0.02}, Validate(min_accuracy=0.95, max_ece=0.01))
    >>> [(check["name"], check["passed"]) for check in result["checks"]]
    [('min_accuracy', True), ('max_ece', False)]
    """
    checks: list[Check] = []
    for name, threshold in thresholds.thresholds().items():
        bound, metric = name.split("_", 1)
        if metric not in test:
            raise UserError(f"validate.{name}: this kind of target has no {metric}")
        value = test[metric]
        passed = value >= threshold if bound == "min" else value <= threshold
        checks.append({"name": name, "value": value, "threshold": threshold, "passed": bool(passed)})
    return {"passed": all(check["passed"] for check in checks), "checks": checks}


def _check(task: Task, features: Features, facts: weights.Facts) -> None:
    """Raise UserError unless the task can be validated: the features must be those that the network was trained on,
    since others may have training samples in their test split."""
    unknown = [label for label in features.labels if label not in facts.labels]
    if unknown:
        known = ", ".join(facts.labels)
        raise UserError(f"label {unknown[0]!r} is unknown to the model, which knows {known}; run `percept train` again")
    if features.data_digest() != facts.data_digest:
        raise UserError("the features have changed since the network was trained; run `percept train` again")
    if not features.rows("test").any():
        raise UserError(f"{task.name}: no test samples; add samples, or change data.splits")
    if task.validate_.baselines and not TARGETS[facts.kind].has_classes and facts.features["kind"] != "table":
        raise UserError("validate.baselines are classifiers, and the targets are numbers; set it to false")


@step("baselines", all_threads=True)
def _baselines(
    task: Task, features: Features, classifier: Classifier, facts: weights.Facts, predictions: Predictions
) -> _Baselines:
    """Sections `baselines` or, for a regression, `regressors`: simpler models on the network's features and splits;
    none where the task asks for none."""
    if not task.validate_.baselines:
        return {"baselines": []}
    with block_import("pandas"):  # which scikit-learn imports for data frames, with PyArrow: 60 MB
        from pipeline.validate import baselines

    def datasets(with_validation: bool) -> Datasets:
        read = load_datasets(features, with_validation)
        return Datasets(*(standardised(data, classifier.standardize, torch.device("cpu")) for data in read))

    training, held_out = datasets(with_validation=False)
    learned = datasets(with_validation=True).training if facts.with_validation else None
    rows = features.rows("test")
    with torch.inference_mode():
        test = Rows(classifier.standardize(torch.from_numpy(features.x[rows])).numpy(), features.y[rows])
    seed = facts.train["seed"]
    if not isinstance(predictions, ClassPredictions):
        return {"regressors": baselines.regressors(learned or training, test, predictions.outputs, seed)}
    boosted, right = facts.features["kind"] == "table", predictions.correct()
    return {
        "baselines": baselines.baselines(training, held_out, test, right, seed, predictions.intervals, learned, boosted)
    }


@step("learning curve")
def _learning_curve(
    features: Features, classifier: Classifier, facts: weights.Facts, predictions: Predictions, test: dict[str, Any]
) -> LearningCurve | None:
    if not isinstance(predictions, ClassPredictions):
        return None
    worst = page.weakest(test)
    trim()  # small networks are trained on parts of all samples
    return learning_curve(features, classifier, facts, predictions.correct(), worst and worst["label"])


def _mistakes(predictions: Predictions, files: list[str]) -> list[Mistake]:
    return [
        {
            "file": files[i],
            "label": predictions.labels[predictions.y[i]],
            "predicted": predictions.labels[predictions.outputs[i].argmax()],
            "confidence": float(predictions.outputs[i].max()),
        }
        for i in predictions.mistakes()
    ]


@step("examples")
def _save_media(
    run: Run, classifier: Classifier, features: Features, predictions: Predictions, files: list[str]
) -> list[Clip]:
    """Write what needs the decoded samples: example files, the media of the mistakes, the arrays behind the figures.

    Returns section `clips` of the report: the clips that figures show, for a network on sound.
    """
    form = classifier.frontend.input
    kind = samples.MEDIA_KINDS[form.kind]
    examples = {name: files[i] for name, i in predictions.examples().items()}
    mistakes = [files[i] for i in predictions.mistakes()]
    media = load_media(run, [*mistakes, *examples.values()])
    for name, file in examples.items():
        samples.save(run.samples, name, media[file], form)
    if kind.shows_mistakes:
        write_npz(run.mistakes, {str(n): media[file] for n, file in enumerate(mistakes)})
    clips = list(examples.items())[:CLIPS] if kind.shows_clips else []
    waveforms = [np.asarray(media[file], np.float32) for _, file in clips]
    write_npz(run.inside, inside(classifier, features, waveforms), compress=True)
    return [{"file": file, "label": label} for label, file in clips]


def _samples(features: Features) -> dict[str, Any]:
    return {
        **{split: int(features.rows(split).sum()) for split in SPLITS},
        "skipped": [{"file": file, "reason": reason} for file, reason, *_ in features.skipped],
        "skipped_by_class": skipped.by_class(features.skipped),
        "skipped_by_reason": [
            {"reason": reason, "files": len(files), "first": files[0]}
            for reason, files in skipped.by_reason(features.skipped)
        ],
        "classes": _class_counts(features),
        "groups": counts(features),
        "near_duplicates": [
            {"files": files, "divided": divided}
            for files, divided in zip(features.file[features.near].tolist(), features.divided().tolist(), strict=True)
        ],
    }


def _class_counts(features: Features) -> dict[str, dict[str, int]]:
    """Label → split → number of samples; empty where there are no classes."""
    if not TARGETS[features.kind].has_classes:
        return {}
    counts = {s: np.bincount(features.y[features.rows(s)], minlength=len(features.labels)) for s in SPLITS}
    return {label: {s: int(counts[s][k]) for s in SPLITS} for k, label in enumerate(features.labels)}


def _notes(features: Features) -> list[str]:
    n_files = len(features.x) + len(features.skipped)
    warnings = [line] if (line := skipped.warning(len(features.skipped), n_files)) else []
    return warnings + [
        f"class {label!r} has no {split} sample"
        for label, counts in _class_counts(features).items()
        for split, count in counts.items()
        if not count
    ]
