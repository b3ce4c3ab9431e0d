"""Stage 2: features → weights and history."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from models import frontend
from models.classifier import Classifier
from models.moments import Moments, part_rows
from models.table import Table
from pipeline.engine import LOCAL, Engine
from pipeline.errors import counted
from pipeline.extract import Features
from pipeline.run import Run, json_text, replacing
from pipeline.sources import REGISTRY
from pipeline.task import Task, Train, UserError, digest
from pipeline.threads import subnormals_flushed
from pipeline.train import balance, confidence, experts, weights
from pipeline.train.batches import Feed
from pipeline.train.data import (
    Copies,
    Dataset,
    Datasets,
    StoredMatrix,
    load_copies,
    load_datasets,
    loaded,
    pieces,
    standardised,
    training_rows,
)
from pipeline.train.devices import choose_device, device_name, fits
from pipeline.train.distortion import transform_of
from pipeline.train.loop import Checkpoints, State, fit
from pipeline.train.trainers import TRAINERS
from pipeline.train.units import TargetUnit
from pipeline.train.weights import Facts
from service.media.native import trim


class Cluster(Protocol):
    """The cluster to train on: see `on_ray.Cluster`."""

    device: str

    def fit(
        self, classifier: Classifier, facts: Facts, with_validation: bool, options: Train, fingerprint: str
    ) -> State: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What the first training of a run and `train.refit` have in common."""

    run: Run
    features: Features
    device: torch.device
    in_memory: bool  # the features fit into memory
    cluster: Cluster | None
    made_of: Sequence[Any]  # everything that the weights depend on, besides the options


@subnormals_flushed()
def train(task: Task, run: Run, with_validation: bool = False, engine: Engine = LOCAL) -> Facts:
    """Train the task's network on the run's features; write its `weights.pt` and `history.json`.

    The validation samples then calibrate the confidence and the threshold of `known` (see `confidence.calibrate`),
    and with `train.refit` the network is trained again on training and validation samples. The history is that of the
    first training.

    A run that was killed continues from its last checkpoint and ends with the weights of an undisturbed one; with
    Keras it starts again.

    Parameters
    ----------
    with_validation : train on the validation samples too, once nothing is left to decide by them; the result is not
        calibrated
    engine : where the network is trained: here, or on the nodes of a Ray cluster, with the same history up to rounding

    Raises
    ------
    UserError : no features, no such device, Keras is asked for and not installed, the loss is no longer a number, the
        engine is not available or does not support what the task asks for
    """
    features = Features.of(run)
    with engine.running():
        cluster = None
        if engine.is_ray:
            from pipeline.train import on_ray  # an optional extra, and seconds to import

            cluster = on_ray.Cluster(run, task.train)
        return _train(task, run, features, with_validation, cluster)


def _train(task: Task, run: Run, features: Features, with_validation: bool, cluster: Cluster | None) -> Facts:
    device = torch.device("cpu") if cluster else choose_device(task.train.device)
    facts = weights.begin(task, features, cluster.device if cluster else device_name(device))
    _print_summary(weights.network(facts, features.state))
    refit = task.train.refit and not with_validation and bool(features.rows("validation").any())
    keras = task.train.framework == "keras"
    in_memory = not cluster and (keras or fits(features.n_bytes, device))
    made_of = facts.data_digest, features.copies_key, len(features.copies), facts.features, facts.model, facts.device
    context = Context(run, features, device, in_memory, cluster, made_of)
    groups = features.group[features.rows("validation") & (not with_validation)]

    n = int(training_rows(features, with_validation).sum())
    classifier, state, data, options = _first_fit(task.train.for_samples(n), facts, with_validation, context)
    chosen = options.model_copy(update={"epochs": state.best_epoch})
    seconds = _fit_expert(classifier, facts, with_validation, chosen, context)
    copies = _copies(classifier, with_validation, context)
    trim()  # what held the training samples goes back before outliers are made
    facts = replace(
        facts,
        train=options.model_dump(mode="json"),
        known=confidence.calibrate(classifier, *data, task.train.seed, copies),
        scores=confidence.scores(classifier, data.validation, groups),
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        seconds=state.history["seconds"][-1] + seconds,
        with_validation=with_validation or refit,
    )
    if refit:
        classifier, seconds = _refit(task.name, options, classifier, facts, context)
        facts = replace(facts, seconds=facts.seconds + seconds)
    with replacing(run.history) as history:  # both take their places only when both could be written
        history.write_text(json_text(state.history), "utf-8")
        weights.save(run.weights, classifier, facts)
    run.checkpoint.unlink(missing_ok=True)
    print(f"{task.name}: {counted(state.epoch, 'epoch')} in {facts.seconds:.1f} s on {facts.device} → {run.weights}")
    return facts


def _first_fit(
    options: Train, facts: Facts, with_validation: bool, context: Context
) -> tuple[Classifier, State, Datasets, Train]:
    """The trained network, its state, the data standardised, and the options; the better of two trainings where balance
    is to be tried."""
    features = context.features
    if not balance.is_to_be_tried(options, features, with_validation):
        classifier = weights.network(facts, features.state)
        return classifier, *_fit(classifier, facts, with_validation, options, context), options
    plain, weighed = (options.model_copy(update={"balance": value}) for value in ("off", "on"))
    first, before, data, _ = _first_fit(plain, facts, False, context)
    loss = balance.macro_loss(first, data.validation)
    second, state, data, _ = _first_fit(weighed, facts, False, context)
    if balance.chosen(loss, balance.macro_loss(second, data.validation), features):
        return second, state, data, weighed
    return first, before, data, plain


def _refit(
    name: str, options: Train, calibrated: Classifier, facts: Facts, context: Context
) -> tuple[Classifier, float]:
    """The network trained again on training and validation samples, for the best number of epochs, with the calibration
    of the first one; and the seconds that it took."""
    print(f"{name}: refitting on training and validation samples for {counted(facts.best_epoch, 'epoch')}")
    options = options.model_copy(update={"epochs": facts.best_epoch, "early_stopping": 0})
    facts = replace(facts, known=None)
    classifier = weights.network(facts, frontend.state_of(calibrated.frontend))
    state, data = _fit(classifier, facts, True, options, context)
    seconds = _fit_expert(classifier, facts, True, options, context)
    copies = _copies(classifier, True, context)
    confidence.inherit(classifier, calibrated, data.training, options.seed, copies)
    return classifier, state.history["seconds"][-1] + seconds


def _fit_expert(classifier: Classifier, facts: Facts, with_validation: bool, options: Train, context: Context) -> float:
    """Train the classifier's expert, if it has one, for as many epochs as its network, with degraded copies too; the
    seconds that it took."""
    if classifier.expert is None:
        return 0.0
    start, features = time.perf_counter(), context.features
    data = load_datasets(features, with_validation, ("plain", "degraded")).training
    data = standardised(data, classifier.standardize, context.device)
    assert isinstance(data.x, StoredMatrix)
    of_copies = np.concatenate([np.zeros(len(features.x), bool), features.forms == "degraded"])
    degraded = torch.from_numpy(of_copies[data.x.rows]).to(context.device)
    experts.fit(classifier.expert, data, degraded, classifier.standardize, facts.kind, options, context.in_memory)
    return time.perf_counter() - start


def _copies(classifier: Classifier, with_validation: bool, context: Context) -> Copies | None:
    """What was trained on without its plain copies, its other copies, and auxiliary samples, standardised, the first in
    their file; None where there are neither copies nor auxiliary samples: then it is the training samples, which need
    not be listed again."""
    features, standardize = context.features, classifier.standardize
    auxiliary = _auxiliary(classifier, context)
    if not len(features.copies) and not len(auxiliary.y):
        return None
    parts = (
        load_datasets(features, with_validation, ()).training,
        load_copies(features, with_validation, "degraded"),
        load_copies(features, with_validation, "foreign"),
        auxiliary,
    )
    return Copies(*(standardised(part, standardize, context.device) for part in parts))


def _auxiliary(classifier: Classifier, context: Context) -> Dataset:
    """Auxiliary samples of the same classes, as extracted, on the device; none where the source makes none."""
    front, labels, data = classifier.frontend, context.features.labels, context.features.task["data"]
    make = REGISTRY[data["source"]].auxiliary
    if make is None or front.outliers != "images":
        return Dataset(torch.empty(0, front.n_features, device=context.device), torch.empty(0, dtype=torch.int64))
    pictures, names = make(confidence.MOST_AUXILIARY, data["seed"])
    kept = np.isin(names, labels)
    y = [labels.index(name) for name in names if name in labels]
    return Dataset(front(torch.from_numpy(pictures[kept]).to(context.device)), torch.tensor(y, dtype=torch.int64))


def _fit(
    classifier: Classifier, facts: Facts, with_validation: bool, options: Train, context: Context
) -> tuple[State, Datasets]:
    """Train the classifier's standardisation and network; its state, and the data standardised, on the device, in their
    file: what training has in memory is free again."""
    data = load_datasets(context.features, with_validation)
    if options.early_stopping and not len(data.validation.y):
        raise UserError("train.early_stopping needs validation samples, and there are none; add samples or set it to 0")
    fingerprint = digest([*context.made_of, options.model_dump(mode="json"), with_validation])
    if context.cluster:
        if isinstance(classifier.frontend, Table):
            raise UserError("tables are trained on one machine; leave out --engine ray")
        state = context.cluster.fit(classifier, facts, with_validation, options, fingerprint)
        return state, Datasets(*(standardised(d, classifier.standardize, context.device) for d in data))
    front, standardize = classifier.frontend, classifier.standardize
    parts = pieces(data.training.x, part_rows(front.n_features))
    moments = Moments.joined(Moments.of(part, front.one_unit) for part in parts)
    standardize.use(moments, front)
    data = Datasets(*(standardised(d, standardize, context.device) for d in data))
    mlp = classifier.mlp.to(context.device)
    unit = TargetUnit.of(data.training.y) if _has_unit(classifier) else None
    if unit is not None:
        data = Datasets(*(Dataset(d.x, unit.removed(d.y)) for d in data))
    held_out = Dataset(loaded(data.validation.x), data.validation.y) if context.in_memory else data.validation
    if options.framework == "keras":
        from pipeline.train import on_keras  # an optional extra, and seconds to import

        training = Dataset(loaded(data.training.x), data.training.y)
        state = on_keras.fit(mlp, Datasets(training, held_out), facts.kind, options)
    else:
        transform = transform_of(options, standardize, context.device)
        feed = Feed(
            [data.training], [options.seed], options.batch_size, transform, options.mix, options.balance == "on",
            context.in_memory,
        )  # fmt: skip
        trainer = TRAINERS[options.gradients]([mlp], feed, facts.kind, [options])
        checkpoints = Checkpoints.to_file(trainer, fingerprint, context.run.checkpoint)
        state = checkpoints.resume(context.run.checkpoint, context.device)
        state = fit(trainer, mlp, options, held_out, facts.kind, state, checkpoints)
        if context.device.type == "cuda" and context.in_memory:  # in the GPU's memory, where nothing else waits for it
            data = Datasets(Dataset(feed.x, data.training.y), held_out)
    if unit is not None:
        unit.restore(mlp, state.history)
    if isinstance(front, Table):
        mlp.linear()[0].weight.data[:, moments.squares == 0] = 0  # of what no sample had, nothing was learned
    classifier.to(context.device)
    return state, data


def _has_unit(classifier: Classifier) -> bool:
    """Whether the targets are numbers in a unit of the user's, and not around 1 as the tasks' own are."""
    return isinstance(classifier.frontend, Table) and not classifier.target.has_classes


def _print_summary(classifier: Classifier) -> None:
    """Print a table of layers, output shapes and parameters."""
    rows = classifier.summary()
    width = max(20, *(len(row["name"]) for row in rows))
    for row in rows:
        print(f"  {row['name']!s:<{width}} {tuple(row['output'])!s:<14} {row['parameters']:>10,}")
    print(f"  {'parameters':<{width + 15}} {classifier.n_parameters():>10,}")
