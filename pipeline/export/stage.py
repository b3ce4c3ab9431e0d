"""Stage 4: weights → one self-contained ONNX graph with its card, checked against torch and librosa, into the store."""

from contextlib import ExitStack
from datetime import UTC, datetime

import bentoml
import numpy as np

from models.card import SAMPLES_FILE, SIGNATURE_FILE, FeatureGroup, ModelCard, Usual, seal
from models.classifier import Classifier
from models.moments import part_rows
from pipeline.export.bom import bom
from pipeline.export.check import check
from pipeline.export.graph import Graph, to_onnx
from pipeline.extract import Features
from pipeline.profile import step
from pipeline.report.schema import Report
from pipeline.run import Run, library_versions, replacing
from pipeline.signing import Signer
from pipeline.task import Task, UserError, digest
from pipeline.train import weights
from pipeline.train.data import load_datasets, pieces
from pipeline.validate import samples
from service.serving import store
from service.serving.drift import Scores

PLOTTED = 2  # numbers of a vector whose ranges are kept, at most: the page plots those
BINS = 10  # of a feature group's scores, in the card


def export(task: Task, run: Run, force: bool = False, signer: Signer | None = None) -> ModelCard:
    """Export `run/weights.pt` to `model.onnx`, `card.json` and `bom.json` in `run`, and put them into BentoML's model
    store.

    Parameters
    ----------
    force : export although the gate has not passed; the card records it
    signer : signs the files that the store gets

    Raises
    ------
    UserError : no valid report of these weights, the gate has not passed, or a check of the graph fails
    """
    classifier, facts = weights.of(run)
    report: Report = run.json(run.report, "validate")
    _check_report(report, run, force)
    features = Features.of(run)
    graph = Graph(classifier)
    model = to_onnx(graph)
    tag = bentoml.Tag(task.name, None).make_new_version()
    card = _card(tag, graph, facts, report, features, check(model, graph, run))
    file, text = seal(model.SerializeToString(), card)
    made = {run.bom: bom(card, report, file), run.card: text + b"\n", run.model: file}
    contents = {path.name: content for path, content in made.items()} | {run.report.name: run.report.read_bytes()}
    names = card.labels if card.kind != "regression" else ("sample",)
    contents[SAMPLES_FILE] = samples.packed(run.samples, names, card.input)
    if signer is not None:
        contents[SIGNATURE_FILE] = signer.sign(contents, str(tag))
    # The files of the run take their places only after the store has the model: they stay whole, and of one version.
    with ExitStack() as written:
        for path, content in made.items():
            written.enter_context(replacing(path)).write_bytes(content)
        with step("model store"):
            store.add(tag, facts.kind, contents)
    checks = ", ".join(f"{name} {value:.1e}" for name, value in card.checks.items())
    signed = "" if signer is None else f"; signed by {signer.who}"
    print(f"{task.name}: {tag} → {run.model} and the model store; largest differences: {checks}{signed}")
    return ModelCard.model_validate_json(text)


def _check_report(report: Report, run: Run, force: bool) -> None:
    """Raise UserError unless the report is of the run's weights and its gate has passed, or is forced."""
    if report["weights"] != run.digest(run.weights, "train"):
        raise UserError(f"{run.report}: not the report of these weights; run `percept validate` first")
    if report["gate"]["passed"] or force:
        return
    lines = [
        f"gate: {c['name']} = {c['threshold']:g}, but the test split gives {c['value']:.4f}"
        for c in report["gate"]["checks"]
        if not c["passed"]
    ]
    raise UserError("\n".join([*lines, "not exported; --force overrides the gate"]))


def _card(
    tag: bentoml.Tag,
    graph: Graph,
    facts: weights.Facts,
    report: Report,
    features: Features,
    checks: dict[str, float],
) -> ModelCard:
    assert tag.version is not None
    classifier = graph.reference
    passed, sets, usual = report["gate"]["passed"], report.get("sets"), report.get("usual")
    return ModelCard(
        name=tag.name,
        version=tag.version,
        kind=facts.kind,
        labels=facts.labels,
        input=classifier.frontend.input,
        output=graph.outputs[0],
        features=facts.features,
        temperature=classifier.temperature.item(),
        known_threshold=facts.known,
        set_threshold=sets["threshold"] if sets else None,
        coverage=sets["coverage"] if sets else None,
        groups=_feature_groups(classifier, features),
        usual=Usual(**usual) if usual else None,
        ranges=ranges(classifier, features),
        parameters=classifier.n_parameters(),
        metrics={name: value for name, value in report["test"].items() if isinstance(value, float)},
        scope=tuple(report.get("scope", ())),
        samples={split: report["samples"][split] for split in ("train", "validation", "test")},
        checks=checks,
        gate_passed=passed,
        gate_forced=not passed,
        data_digest=facts.data_digest,
        task_digest=digest(report["task"]),
        training_seconds=facts.seconds,
        training_device=facts.device,
        libraries=library_versions(),
        created=datetime.now(UTC),
    )


def ranges(classifier: Classifier, features: Features) -> tuple[tuple[float, float], ...]:
    """Least and greatest value of each number over the training samples, for a model of one or two; else none."""
    if classifier.frontend.input.kind != "vector" or classifier.frontend.n_features > PLOTTED:
        return ()
    x = features.x[features.rows("train")]
    return tuple((float(column.min()), float(column.max())) for column in x.T)


def _feature_groups(classifier: Classifier, features: Features) -> tuple[FeatureGroup, ...]:
    """Distribution of the training split's features, group by group, for the card; empty below ten samples.

    These are the features on which the service detects drift: the media themselves if the front end only scales them,
    else the standardised features.
    """
    x = load_datasets(features, with_validation=False).training.x
    n_samples = int(features.rows("train").sum())  # without copies, which come last
    if n_samples < BINS:
        return ()
    scale, spans = classifier.frontend.scale, classifier.frontend.groups()
    scores = Scores([span[1:] for span in spans])
    parts = [
        scores((classifier.standardize(part) if scale is None else part * scale).numpy())
        for part in pieces(x, part_rows(x.shape[1]), n_samples)  # small ones: scores take several times as much memory
    ]
    groups = []
    for (name, start, stop), score in zip(spans, np.concatenate(parts).T, strict=True):
        edges = np.unique(np.quantile(score, np.linspace(0, 1, BINS + 1)[1:-1]))
        counts = np.bincount(np.searchsorted(edges, score, side="right"), minlength=len(edges) + 1)
        shares = tuple((counts / len(score)).tolist())
        groups.append(FeatureGroup(name=name, start=start, stop=stop, edges=tuple(edges.tolist()), shares=shares))
    return tuple(groups)
