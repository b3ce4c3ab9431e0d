"""Stage 2: features → weights and history; mini-batches are reshuffled every epoch.

The features lie on the device. Where they would take more than their share of its free memory they stay in their file,
and each batch is read from there, the same one; on a Ray cluster its workers hold them (`pipeline.train.shared`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.calibration import fit_temperature
from models.card import Kind
from models.classifier import Classifier, Standardize, loss, part_rows
from models.mlp import MLP
from models.moments import Moments
from pipeline import extract
from pipeline.engine import LOCAL, Runner
from pipeline.extract import Features
from pipeline.run import replacing, write_json
from pipeline.task import Task, Train, UserError, digest
from pipeline.threads import threads
from pipeline.train import confidence, weights
from pipeline.train.data import Table, fits, piece_rows, pieces
from pipeline.train.distortion import Distortion
from pipeline.train.trainers import Autograd, Batch, Change, ClosedForm, Feed, Stored, threads_for

if TYPE_CHECKING:
    from pipeline.train.on_ray import Nodes

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 2.0  # between two checkpoints: small beside an epoch of large data, much against losing one
ROWS = 16_384  # samples that are evaluated at a time, at most, since their hidden layers take memory
MIN_CALIBRATION = 10  # validation samples; fewer say nothing about confidence
WARM_UP = 0.3  # share of a one-cycle schedule in which the learning rate rises
ENGINES: dict[str, type[ClosedForm] | type[Autograd]] = {"closed-form": ClosedForm, "autograd": Autograd}
Engine = ClosedForm | Autograd
Split = Batch | Stored
Splits = tuple[Split, Split]  # to train on, to validate on
HISTORY = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")


@dataclass(slots=True)
class State:
    """Where training stands after an epoch: with the network and the optimiser, all that a checkpoint needs."""

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


def train(task: Task, run: Path, with_validation: bool = False, engine: Runner = LOCAL) -> weights.Facts:
    """Train the task's network on `run/features.npz`; write `run/weights.pt` and `run/history.json`.

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
    features = Features.load(run / extract.FILE)
    with engine.running():
        return _train(task, run, features, with_validation, engine)


def _train(task: Task, run: Path, features: Features, with_validation: bool, engine: Runner) -> weights.Facts:
    nodes: Nodes | None = None
    if engine.is_ray:
        from pipeline.train import on_ray  # an optional extra, and seconds to import

        nodes = on_ray.Nodes(run / extract.FILE, task.train)
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
    fitted = _fit(classifier, splits, facts.kind, task.train, device, run / CHECKPOINT, first, nodes)
    state, training, validation = fitted
    facts = replace(
        facts,
        known=calibrate(classifier, training, validation, task.train.seed),
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        seconds=state.history["seconds"][-1],
        with_validation=with_validation or refit,
    )
    write_json(run / "history.json", state.history)
    if again:
        print(f"{task.name}: anew on training and validation samples, {state.best_epoch} epochs")
        options = task.train.model_copy(update={"epochs": state.best_epoch, "early_stopping": 0})
        judged, classifier = classifier, weights.network(replace(facts, known=None))
        if nodes:
            nodes.take(replace(facts, known=None), True)
        anew = digest([*made_of, "again"])
        last, training, _ = _fit(classifier, again, facts.kind, options, device, run / CHECKPOINT, anew, nodes)
        with threads(1):
            confidence.inherit(classifier, judged, training, task.train.seed)
        facts = replace(facts, seconds=facts.seconds + last.history["seconds"][-1])
    weights.save(run / weights.FILE, classifier, facts)
    (run / CHECKPOINT).unlink(missing_ok=True)
    print(f"{task.name}: {state.epoch} epochs in {facts.seconds:.1f} s on {facts.device} → {run / weights.FILE}")
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
    standardize.take(Moments.joined(Moments.of(x, front.one_unit) for x in pieces(training.x, rows)), front)
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


@torch.no_grad()
def calibrate(classifier: Classifier, training: Split, validation: Split, seed: int) -> float | None:
    """Fit the classifier's temperature and give it its familiarity, by samples with standardised features.

    Returns
    -------
    the least familiarity that counts as known; None, and nothing is fitted, for a regression, or where there are too
    few validation samples
    """
    n = len(validation.y)
    if classifier.kind == "regression":
        return None
    if n < MIN_CALIBRATION:
        print(f"  not calibrated: {n} validation samples, at least {MIN_CALIBRATION} are needed")
        return None
    with threads(1):  # no sum's order depends on their number
        logits = torch.cat([classifier.mlp(x) for x in pieces(validation.x)])
        temperature = fit_temperature(logits.cpu(), validation.y.cpu(), classifier.kind)
        classifier.temperature.fill_(temperature)
        known = confidence.teach(classifier, training, validation, seed)
    print(f"  from {n} validation samples: temperature {temperature:.3f}, known from a familiarity of {known:.3f}")
    return known


def splits_of(features: Features, with_validation: bool, stored: bool) -> Splits:
    """What to train on and what to validate on: rows that stay in their file, or copies that may be changed."""
    of_train = ~features.rows("test") if with_validation else features.rows("train")
    of_validation = features.rows("validation") & ~of_train
    if stored:
        return _stored(features, of_train, of_train[features.copy_of]), _stored(features, of_validation)
    splits = features.with_copies(of_train), (features.x[of_validation], features.y[of_validation])
    training, validation = (Batch(torch.from_numpy(x), torch.from_numpy(y)) for x, y in splits)
    return training, validation


def _stored(features: Features, rows: NDArray[np.bool_], copies: NDArray[np.bool_] | None = None) -> Stored:
    """Those rows, and those of the copies below them."""
    taken = np.flatnonzero(rows)
    copied = np.empty(0, np.int64) if copies is None else np.flatnonzero(copies)
    table = Table([features.x, features.copies], np.concatenate([taken, len(features.x) + copied]))
    return Stored(table, torch.from_numpy(features.y[np.concatenate([taken, features.copy_of[copied]])]))


def standardised(split: Split, standardize: Standardize, device: torch.device) -> Split:
    if isinstance(split, Batch):
        return Batch(standardize.apply_(split.x).to(device), split.y.to(device))
    return Stored(split.x.standardised(standardize, device), split.y.to(device))


def fit(
    mlp: MLP,
    training: Split,
    validation: Split,
    kind: Kind,
    options: Train,
    checkpoint: Path,
    fingerprint: str,
    change: Change | None = None,
) -> State:
    """Train `mlp` in place; continue from `checkpoint` if it carries the same fingerprint."""
    feed = Feed([training], [options.seed], options.batch_size, change, options.mix)
    engine = ENGINES[options.engine]([mlp], feed, kind, [options])
    state = resume(checkpoint, fingerprint, engine, feed.device)
    started = time.perf_counter() - (state.history["seconds"][-1] if state.epoch else 0.0)
    saved = time.perf_counter()
    factor = SCHEDULES[options.schedule]
    with tqdm(total=options.epochs, initial=state.epoch, desc="train", unit="epoch", disable=None) as bar:
        while state.epoch < options.epochs and not out_of_patience(state, options):
            loss, accuracy = engine.epoch(state.epoch, factor(state.epoch, options.epochs))
            record(state, (loss.item(), accuracy.item()), mlp, validation, kind, options, started, bar)
            if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                with replacing(checkpoint) as temporary:
                    torch.save(checkpoint_of(fingerprint, engine, state), temporary)
                saved = time.perf_counter()
    if state.best:
        mlp.load_state_dict(state.best)
    return state


def record(
    state: State,
    measured: tuple[float, float],
    mlp: MLP,
    validation: Split,
    kind: Kind,
    options: Train,
    started: float,
    bar: tqdm,
) -> None:
    """After an epoch, whose mean loss and accuracy were measured: a row of the history, the best weights, the bar."""
    show(
        note(state, measured, evaluate(mlp, validation, kind), mlp, options, time.perf_counter() - started),
        options,
        bar,
    )


def show(row: Sequence[float], options: Train, bar: tqdm) -> None:
    """A row of the history, on the bar; or a line now and then, in a log."""
    bar.update()
    bar.set_postfix(loss=f"{row[1]:.4f}", validation=f"{row[3]:.4f}")
    if bar.disable and row[0] % max(1, options.epochs // 10) == 0:
        values = zip(("loss", "validation loss", "validation accuracy"), (row[1], row[3], row[4]), strict=True)
        known = ", ".join(f"{name} {value:.4f}" for name, value in values if not math.isnan(value))
        print(f"  epoch {row[0]}/{options.epochs}: {known}", flush=True)


def note(
    state: State,
    measured: tuple[float, float],
    validated: tuple[float, float],
    mlp: MLP,
    options: Train,
    seconds: float,
) -> tuple[float, ...]:
    """A row of the history, and the weights if they are the best; the row.

    Raises
    ------
    UserError : the loss is no longer a number
    """
    if not math.isfinite(measured[0]):
        raise UserError(
            f"the loss is no longer a number in epoch {state.epoch + 1}; "
            f"lower train.learning_rate, now {options.learning_rate:g}"
        )
    state.epoch += 1
    row = (state.epoch, *measured, *validated, seconds)
    for name, value in zip(HISTORY, row, strict=True):
        if not math.isnan(value):  # no validation samples, or a regression: those columns stay empty
            state.history[name].append(value)
    if not options.early_stopping:
        state.best_epoch = state.epoch
    elif validated[0] < state.best_loss:
        state.best_loss, state.best_epoch = validated[0], state.epoch
        state.best = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}
    return row


def disturb(options: Train, standardize: Standardize, device: torch.device) -> Change | None:
    """What the options ask to be done to standardised samples (N, D), in place, whenever they are trained on."""
    distort = None
    if options.augment:
        empty = standardize(torch.zeros_like(standardize.mean))[0].item()  # pixels share one mean and one deviation
        distort = Distortion(options.augment, empty, device)
    if not options.noise:
        return distort

    def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
        x = distort(x, generator) if distort else x
        return x.add_(torch.empty_like(x).normal_(generator=generator), alpha=options.noise)

    return noisy


def out_of_patience(state: State, options: Train) -> bool:
    return bool(options.early_stopping) and state.epoch - state.best_epoch >= options.early_stopping


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises
    ------
    UserError : cuda is asked for and not there
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _one_cycle(progress: float) -> float:
    """A rise from 1/25 and a fall to 0, both along a cosine (Smith & Topin 2019), as in torch's OneCycleLR."""
    rising = progress < WARM_UP
    stretch = progress / WARM_UP if rising else (1 - progress) / (1 - WARM_UP)
    lowest = 1 / 25 if rising else 0.0
    return lowest + (1 - lowest) * (1 - math.cos(math.pi * stretch)) / 2


# Factor of the learning rate in an epoch, of all epochs; both counted from 0.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda epoch, epochs: 1.0,
    "step": lambda epoch, epochs: 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)),
    "cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    "one-cycle": lambda epoch, epochs: _one_cycle((epoch + 0.5) / epochs),
    "robbins-monro": lambda epoch, epochs: 1 / (1 + epoch),  # Σ α = ∞, Σ α² < ∞ (Robbins & Monro 1951)
}


def evaluate(mlp: MLP, data: Split, kind: Kind) -> tuple[float, float]:
    """Mean loss, without the penalty, and accuracy; NaN where there is none."""
    n = len(data.y)
    if not n:
        return math.nan, math.nan
    mean_loss, accuracy = (totals(mlp, data, kind) / n).tolist()
    return mean_loss, accuracy


@torch.inference_mode()
def totals(mlp: MLP, data: Split, kind: Kind) -> Tensor:
    """Sum of the samples' losses, without the penalty, and number of right answers, float64 (2,); NaN for none."""
    total = torch.zeros(2, dtype=torch.float64, device=data.y.device)
    rows = min(ROWS, piece_rows(data.x))
    with threads(threads_for(min(max(1, len(data.y)), rows), mlp)):
        for x, y in zip(pieces(data.x, rows), pieces(data.y, rows), strict=True):
            logits = mlp(x)
            total += torch.stack([loss(logits, y, kind) * len(y), _correct(logits, y, kind)])
    return total


def print_summary(mlp: MLP) -> None:
    """Layers, output shapes and parameters, as a table."""
    for row in mlp.summary():
        print(f"  {row['name']!s:<20} {tuple(row['output'])!s:<14} {row['parameters']:>10,}")
    print(f"  {'parameters':<35} {mlp.n_parameters():>10,}")


def _correct(logits: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """Number of right answers; NaN for a regression, which has none."""
    if kind == "regression":
        return y.new_tensor(math.nan)
    chosen = (logits[:, 0] > 0).to(y.dtype) if kind == "binary" else logits.argmax(1)
    return (chosen == y).sum()


def device_name(device: torch.device) -> str:
    """What reports call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def checkpoint_of(fingerprint: str, engine: Any, state: State) -> dict[str, Any]:
    """What a training continues from; `resume` takes it."""
    values = {name: getattr(state, name) for name in state.__slots__}
    return {"fingerprint": fingerprint, "engine": engine.state(), "state": values}


def resume(file: Path | BinaryIO, fingerprint: str, engine: Any, device: torch.device) -> State:
    """The state of a killed run of the very same training, or a new one."""
    try:
        saved = torch.load(file, weights_only=True, map_location=device)
        if saved["fingerprint"] != fingerprint:
            return State()
    except Exception:  # none there, or of another version: torch's loader raises many kinds
        return State()
    engine.load(saved["engine"])
    state = State(**saved["state"])
    print(f"  continuing after epoch {state.epoch}")
    return state
