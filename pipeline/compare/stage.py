"""Compare two models on the same test samples, and write what was found."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.card import Input
from pipeline.compare.sides import Common, Side, common
from pipeline.errors import counted
from pipeline.extract import Features, load_media
from pipeline.progress import Progress
from pipeline.report import formats
from pipeline.report.templates import page_template
from pipeline.run import Run, replacing, write_json
from pipeline.task import UserError
from pipeline.validate import metrics
from pipeline.validate.intervals import Intervals
from service.errors import MediaError
from service.media import Limits
from service.media.table import named
from service.serving.predictor import Predictor

CLASSES = 12  # on the console, at most
DIFFERENT = 40  # samples that the page lists for each side, at most
SIGNIFICANT = 0.05


class Model(TypedDict):
    """One side: its numbers on the common samples; intervals of 95 %."""

    name: str
    accuracy: float
    accuracy_interval: list[float] | None
    log_loss: float
    ece: float
    known: float | None  # share of the samples
    bytes: int
    parameters: int
    milliseconds: float  # median of one sample, from decoded media to answer


class Comparison(TypedDict):
    """What `compare.json` holds. `only_a`: the samples that a alone has right."""

    samples: int
    groups: int
    a: Model
    b: Model
    only_a: list[dict[str, str]]
    only_b: list[dict[str, str]]
    both_wrong: int
    p_value: float
    classes: list[dict[str, Any]]
    note: str


def compare(a: str, b: str, runs: Path) -> Comparison:
    """Ask both models about the test samples that they have in common; writes `compare.json` and `compare.html` in
    the folder of the runs.

    Parameters
    ----------
    a, b : see `Side.of`

    Raises
    ------
    UserError : a model or test samples are missing, or the media of one do not suit the other
    """
    sides = Side.of(a, runs), Side.of(b, runs)
    predictors = Predictor(sides[0].model), Predictor(sides[1].model)
    samples = common(sides, predictors, runs)
    answered = [_answers(*one) for one in zip(sides, predictors, samples.runs, samples.files, strict=True)]
    found = _comparison(sides, predictors, samples, answered)
    write_json(runs / "compare.json", found)
    page = runs / "compare.html"
    with replacing(page) as temporary:
        temporary.write_text(_page(found), "utf-8", "backslashreplace")
    print("\n".join(lines(found)))
    print(f"→ {page}")
    return found


Answers = tuple[list[dict[str, Any]], float]  # fields of each answer, median milliseconds


def _answers(side: Side, predictor: Predictor, run: Run, files: Sequence[str]) -> Answers:
    media, answers, seconds = load_media(run, files), [], []
    form, own = predictor.card.input, Features.of(run).front_end().input
    takes, has = ((one.kind, one.sample_rate, () if one.columns else one.shape) for one in (form, own))
    if takes != has or bool(form.columns) != bool(own.columns):
        raise UserError(f"{side.name} takes {_described(form)}, and {run.folder} has {_described(own)}")
    limits = Limits.from_environment()
    with Progress("compare", len(files), "sample") as progress:
        for file in files:
            sample = media[file]
            try:
                if form.columns != own.columns:  # an older version may know other columns and categories
                    sample = predictor.decode(
                        json.dumps(named(np.asarray(sample, np.float32), own.columns)).encode(), limits
                    )
                started = time.perf_counter()
                answers.append(predictor.predict(sample).fields())
            except MediaError as error:
                raise UserError(f"{side.name}: {file}: {error}") from None
            seconds.append(time.perf_counter() - started)
            progress.update()
    return answers, 1e3 * float(np.median(seconds))


def _described(form: Input) -> str:
    if form.sample_rate is not None:
        return f"{form.kind} at {form.sample_rate:,} Hz"
    return "rows of a table" if form.columns else f"{form.kind} of {' × '.join(map(str, form.shape[1:]))}"


def _comparison(
    sides: tuple[Side, Side], predictors: tuple[Predictor, Predictor], samples: Common, answered: Sequence[Answers]
) -> Comparison:
    intervals = Intervals.of(samples.group)
    predicted = [np.array([str(answer["label"]) for answer in answers]) for answers, _ in answered]
    right = [np.asarray(labels == samples.label) for labels in predicted]
    models = [
        _model(side, predictor, samples, answers, hits, intervals)
        for side, predictor, answers, hits in zip(sides, predictors, answered, right, strict=True)
    ]

    def only(mine: NDArray[np.bool_], other: NDArray[np.bool_], said: NDArray[np.str_]) -> list[dict[str, str]]:
        return [
            {"file": samples.files[0][i], "label": str(samples.label[i]), "other_said": str(said[i])}
            for i in np.flatnonzero(mine & ~other)
        ]

    return {
        "samples": len(samples.label),
        "groups": intervals.n_groups,
        "a": models[0],
        "b": models[1],
        "only_a": only(right[0], right[1], predicted[1]),
        "only_b": only(right[1], right[0], predicted[0]),
        "both_wrong": int((~right[0] & ~right[1]).sum()),
        "p_value": metrics.mcnemar(right[0], right[1], intervals),
        "classes": [_class(str(label), samples.label == label, right) for label in np.unique(samples.label)],
        "note": samples.note,
    }


def _model(
    side: Side, predictor: Predictor, samples: Common, answers: Answers, hits: NDArray[np.bool_], intervals: Intervals
) -> Model:
    rows, milliseconds = answers
    labels = list(predictor.card.labels)
    p = np.array([[row["probabilities"][label] for label in labels] for row in rows], np.float32)
    index = {label: k for k, label in enumerate(labels)}
    known = [row["known"] for row in rows if row.get("known") is not None]
    # A class that the model does not know has probability 0.
    y = np.array([index.get(label, len(labels)) for label in samples.label.tolist()])
    calibration = metrics.calibration(np.pad(p, ((0, 0), (0, 1))), y)
    return {
        "name": side.name,
        "accuracy": float(hits.mean()),
        "accuracy_interval": intervals.among(hits),
        "log_loss": calibration["log_loss"],
        "ece": calibration["ece"],
        "known": float(np.mean(known)) if known else None,
        "bytes": side.model.stat().st_size,
        "parameters": predictor.card.parameters,
        "milliseconds": milliseconds,
    }


def _class(label: str, rows: NDArray[np.bool_], right: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    a, b = (hits[rows] for hits in right)
    return {
        "label": label, "samples": int(rows.sum()), "recall_a": float(a.mean()), "recall_b": float(b.mean()),
        "only_a": int((a & ~b).sum()), "only_b": int((b & ~a).sum()),
    }  # fmt: skip


def verdict(found: Comparison) -> str:
    """Which of the two is better, in a sentence."""
    a, b, p = len(found["only_a"]), len(found["only_b"]), found["p_value"]
    first, second = found["a"]["name"], found["b"]["name"]
    alone = f"{first} alone has {counted(a, 'sample')} right, {second} alone {b}"
    numbers = f"{alone} (McNemar's exact test: p = {p:.2g})"
    if p >= SIGNIFICANT:
        return f"No difference beyond chance: {numbers}"
    return f"{first if a > b else second} is better: {numbers}"


def lines(found: Comparison) -> list[str]:
    """The comparison for the terminal."""
    groups = "" if found["groups"] == found["samples"] else f" in {counted(found['groups'], 'group')}"
    head = [f"{counted(found['samples'], 'test sample')}{groups}; {found['both_wrong']:,} that both have wrong"]
    rows = [("", found["a"]["name"], found["b"]["name"]), *table(found)]
    width = [max(len(row[i]) for row in rows) for i in range(3)]
    head += [f"  {row[0]:<{width[0]}}  {row[1]:>{width[1]}}  {row[2]:>{width[2]}}" for row in rows]
    changed = sorted(found["classes"], key=lambda c: -abs(c["recall_a"] - c["recall_b"]))
    for one in [c for c in changed if c["recall_a"] != c["recall_b"]][:CLASSES]:
        recalls = f"{formats.percent(one['recall_a'])} to {formats.percent(one['recall_b'])}"
        head.append(f"  {one['label']}: recall {recalls} of {one['samples']:,}")
    return [*head, *([found["note"]] if found["note"] else []), verdict(found)]


def table(found: Comparison) -> list[tuple[str, str, str]]:
    """Name of each number and its text for both sides."""

    def row(name: str, shown: Any) -> tuple[str, str, str]:
        return name, shown(found["a"]), shown(found["b"])

    return [
        row("accuracy", lambda m: f"{formats.percent(m['accuracy'])} ({formats.interval(m['accuracy_interval'])})"),
        row("log loss", lambda m: f"{m['log_loss']:.4g}"),
        row("ECE", lambda m: f"{m['ece']:.4g}"),
        row("known", lambda m: "–" if m["known"] is None else formats.percent(m["known"])),
        row("size", lambda m: formats.size(m["bytes"])),
        row("parameters", lambda m: formats.count(m["parameters"])),
        row("milliseconds", lambda m: f"{m['milliseconds']:.3g}"),
    ]


def _page(found: Comparison) -> str:
    template = page_template(Path(__file__).parent, {"percent": formats.percent, "count": formats.count})
    return template.render(found=found, table=table(found), verdict=verdict(found), most=DIFFERENT)
