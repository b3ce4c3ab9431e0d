"""Stage 2: features → weights and history."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.card import Kind
from models.classifier import Classifier
from models.mlp import MLP
from models.moments import Moments, part_rows
from pipeline.engine import LOCAL, Engine
from pipeline.extract import Features
from pipeline.run import Run, write_json
from pipeline.task import Task, Train, UserError, digest
from pipeline.threads import threads
from pipeline.train import confidence, weights
from pipeline.train.confidence import calibrate
from pipeline.train.data import Batch, Split, Splits, pieces, splits_of, standardised
from pipeline.train.distortion import disturb
from pipeline.train.loop import State, fit
from pipeline.train.memory import choose_device, device_name, fits

if TYPE_CHECKING:
    from pipeline.train.on_ray import Nodes


def train(task: Task, run: Run, with_validation: bool = False, engine: Engine = LOCAL) -> weights.Facts:
    """Train the task's network on the run's features; write its `weights.pt` and `history.json`.

    At last the validation samples say what its confidence is worth, and what counts as known (`calibrate`). The history
    is of the network before that.

    A run that was killed continues from its last checkpoint and ends with the weights of an undisturbed one; with
    Keras it starts again.

    Parameters
    ----------
    with_validation : train on the validation samples too, once everything that they decide has been decided; none are
        left to calibrate with
    engine : where the network is trained, here or on the nodes of a Ray cluster; the history is the same but for
        rounding

    Raises
    ------
    UserError : no features, no such device, no Keras where it is asked for, the loss is no longer a number, the engine
        is not there or cannot do what the task asks
    """
    features = Features.of(run)
    with engine.running():
        return _train(task, run, features, with_validation, engine)


def _train(task: Task, run: Run, features: Features, with_validation: bool, engine: Engine) -> weights.Facts:
    nodes: Nodes | None = None
    if engine.is_ray:
        from pipeline.train import on_ray  # an optional extra, and seconds to import

        nodes = on_ray.Nodes(run.features, task.train)
    device = torch.device("cpu") if nodes else choose_device(task.train.device)
    facts = weights.begin(task, features, nodes.device if nodes else device_name(device))
    classifier = weights.network(facts)
    print_summary(classifier.mlp)
    data = [facts.data_digest, features.copies_key, len(features.copies), with_validation]
    made_of = [*data, facts.features, facts.model, facts.train, facts.device]
    refit = task.train.refit and not with_validation and bool(features.rows("validation").any())
    in_memory = task.train.framework == "keras" or fits((1 + refit) * features.n_bytes, device)
    stored = bool(nodes) or not in_memory
    splits = splits_of(features, with_validation, stored)
    again = splits_of(features, True, stored) if refit else None
    del features  # from here on the splits are the only copy
    if nodes:
        nodes.take(facts, with_validation)
    first = digest([*made_of, "first"])
    fitted = _fit(classifier, splits, facts.kind, task.train, device, run.checkpoint, first, nodes)
    state, training, validation = fitted
    facts = replace(
        facts,
        known=calibrate(classifier, training, validation, task.train.seed),
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        seconds=state.history["seconds"][-1],
        with_validation=with_validation or refit,
    )
    write_json(run.history, state.history)
    if again:
        print(f"{task.name}: anew on training and validation samples, {state.best_epoch} epochs")
        options = task.train.model_copy(update={"epochs": state.best_epoch, "early_stopping": 0})
        judged, classifier = classifier, weights.network(replace(facts, known=None))
        if nodes:
            nodes.take(replace(facts, known=None), True)
        anew = digest([*made_of, "again"])
        last, training, _ = _fit(classifier, again, facts.kind, options, device, run.checkpoint, anew, nodes)
        with threads(1):
            confidence.inherit(classifier, judged, training, task.train.seed)
        facts = replace(facts, seconds=facts.seconds + last.history["seconds"][-1])
    weights.save(run.weights, classifier, facts)
    (run.checkpoint).unlink(missing_ok=True)
    print(f"{task.name}: {state.epoch} epochs in {facts.seconds:.1f} s on {facts.device} → {run.weights}")
    return facts


def _fit(
    classifier: Classifier,
    splits: Splits,
    kind: Kind,
    options: Train,
    device: torch.device,
    checkpoint: Path,
    fingerprint: str,
    nodes: "Nodes | None",
) -> tuple[State, Split, Split]:
    """Train the classifier's standardisation and network on the first split; where training stands, and the
    splits standardised, on the device. Those in memory are changed where they lie."""
    training, validation = splits
    if options.early_stopping and not len(validation.y):
        raise UserError("train.early_stopping needs validation samples, and there are none; add samples or set it to 0")
    if nodes:
        state = nodes.fit(classifier, options, checkpoint, fingerprint)
        training, validation = (standardised(s, classifier.standardize, device) for s in splits)
        return state, training, validation
    front, standardize = classifier.frontend, classifier.standardize
    rows = part_rows(front.n_features)
    standardize.use(Moments.joined(Moments.of(x, front.one_unit) for x in pieces(training.x, rows)), front)
    training, validation = (standardised(s, standardize, device) for s in splits)
    mlp = classifier.mlp.to(device)
    if options.framework == "keras":
        assert isinstance(training, Batch)
        assert isinstance(validation, Batch)
        from pipeline.train import on_keras  # an optional extra, and seconds to import

        state = on_keras.fit(mlp, training, validation, kind, options)
    else:
        change = disturb(options, standardize, device)
        state = fit(mlp, training, validation, kind, options, checkpoint, fingerprint, change)
    classifier.to(device)
    return state, training, validation


def print_summary(mlp: MLP) -> None:
    """Layers, output shapes and parameters, as a table."""
    for row in mlp.summary():
        print(f"  {row['name']!s:<20} {tuple(row['output'])!s:<14} {row['parameters']:>10,}")
    print(f"  {'parameters':<35} {mlp.n_parameters():>10,}")
