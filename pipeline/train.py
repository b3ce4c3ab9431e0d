"""Stage 2: features → weights and history. The features lie on the device; mini-batches are reshuffled every epoch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models.card import Kind
from models.classifier import loss
from models.mlp import MLP
from pipeline import extract, weights
from pipeline.artifacts import replacing, write_json
from pipeline.extract import Features
from pipeline.task import Task, Train, UserError, digest
from pipeline.threads import threads

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 2.0  # between two checkpoints: small beside an epoch of large data, much against losing one
MOMENTUM = 0.9
WORK_OF_A_THREAD = 20_000_000  # multiplications of a matrix product that outweigh waiting for another thread
HISTORY = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")


@dataclass(slots=True)
class State:
    """Where training stands after an epoch: with the network and the optimiser, all that a checkpoint needs."""

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """A split on the device: standardised features float32 (N, D), targets int64 (N,) or float32 (N, K)."""

    x: Tensor
    y: Tensor


def train(task: Task, run: Path, with_validation: bool = False) -> weights.Facts:
    """Train the task's network on `run/features.npz`; write `run/weights.pt` and `run/history.json`.

    A run that was killed continues from its last checkpoint and ends with the weights of an undisturbed one; with
    Keras it starts again.

    Parameters
    ----------
    with_validation : train on the validation samples too, once everything that they decide has been decided

    Raises
    ------
    UserError : no features, no such device, no Keras where it is asked for, the loss is no longer a number
    """
    features = Features.load(run / extract.FILE)
    device = choose_device(task.train.device)
    facts = weights.begin(task, features, _device_name(device))
    classifier = weights.network(facts)
    print_summary(classifier.mlp)
    x, y = torch.from_numpy(features.x), torch.from_numpy(features.y)
    of_train = torch.from_numpy(~features.rows("test") if with_validation else features.rows("train"))
    of_validation = torch.from_numpy(features.rows("validation")) & ~of_train
    if task.train.early_stopping and not of_validation.any():
        raise UserError("train.early_stopping needs validation samples, and there are none; add samples or set it to 0")
    classifier.standardize.fit(x[of_train], classifier.frontend.one_unit)
    training, validation = (
        Batch(classifier.standardize(x[rows]).to(device), y[rows].to(device)) for rows in (of_train, of_validation)
    )
    mlp = classifier.mlp.to(device)
    fingerprint = digest([with_validation, facts.data_digest, facts.features, facts.model, facts.train, facts.device])
    work = task.train.batch_size * max(layer.numel() for layer in mlp.weights())
    with threads(max(1, work // WORK_OF_A_THREAD)):
        if task.train.framework == "keras":
            from pipeline import keras_engine  # an optional extra, and seconds to import

            state = keras_engine.fit(mlp, training, validation, facts.kind, task.train)
        else:
            state = fit(mlp, training, validation, facts.kind, task.train, run / CHECKPOINT, fingerprint)
    facts = replace(facts, epochs=state.epoch, best_epoch=state.best_epoch, seconds=state.history["seconds"][-1])
    weights.save(run / weights.FILE, classifier, facts)
    write_json(run / "history.json", state.history)
    (run / CHECKPOINT).unlink(missing_ok=True)
    print(f"{task.name}: {state.epoch} epochs in {facts.seconds:.1f} s on {facts.device} → {run / weights.FILE}")
    return facts


def fit(
    mlp: MLP,
    training: Batch,
    validation: Batch,
    kind: Kind,
    options: Train,
    checkpoint: Path,
    fingerprint: str,
) -> State:
    """Train `mlp` in place; continue from `checkpoint` if it carries the same fingerprint."""
    optimizer = make_optimizer(mlp, options)
    state = _restore(checkpoint, fingerprint, mlp, optimizer)
    started = time.perf_counter() - (state.history["seconds"][-1] if state.epoch else 0.0)
    saved = time.perf_counter()
    factor = SCHEDULES[options.schedule]
    with tqdm(total=options.epochs, initial=state.epoch, desc="train", unit="epoch", disable=None) as bar:
        while state.epoch < options.epochs and not out_of_patience(state, options):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * factor(state.epoch, options.epochs)
            measured = _epoch(mlp, optimizer, training, kind, options, state.epoch)
            record(state, measured, mlp, validation, kind, options, started, bar)
            if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, fingerprint, mlp, optimizer, state)
                saved = time.perf_counter()
    if state.best:
        mlp.load_state_dict(state.best)
    return state


def record(
    state: State,
    measured: tuple[float, float],
    mlp: MLP,
    validation: Batch,
    kind: Kind,
    options: Train,
    started: float,
    bar: tqdm,
) -> None:
    """After an epoch, whose mean loss and accuracy were measured: a row of the history, the best weights, the bar."""
    train_loss, train_accuracy = measured
    if not math.isfinite(train_loss):
        raise UserError(
            f"the loss is no longer a number in epoch {state.epoch + 1}; "
            f"lower train.learning_rate, now {options.learning_rate:g}"
        )
    validation_loss, validation_accuracy = evaluate(mlp, validation, kind)
    state.epoch += 1
    row = (state.epoch, train_loss, train_accuracy, validation_loss, validation_accuracy,
           time.perf_counter() - started)  # fmt: skip
    for name, value in zip(HISTORY, row, strict=True):
        if not math.isnan(value):  # no validation samples, or a regression: those columns stay empty
            state.history[name].append(value)
    if not options.early_stopping:
        state.best_epoch = state.epoch
    elif validation_loss < state.best_loss:
        state.best_loss, state.best_epoch = validation_loss, state.epoch
        state.best = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}
    bar.update()
    bar.set_postfix(loss=f"{train_loss:.4f}", validation=f"{validation_loss:.4f}")
    if bar.disable and state.epoch % max(1, options.epochs // 10) == 0:
        values = zip(("loss", "validation loss", "validation accuracy"), (row[1], row[3], row[4]), strict=True)
        known = ", ".join(f"{name} {value:.4f}" for name, value in values if not math.isnan(value))
        print(f"  epoch {state.epoch}/{options.epochs}: {known}", flush=True)


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


def make_optimizer(mlp: MLP, options: Train) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return torch.optim.Adam(mlp.parameters(), options.learning_rate, fused=True)
    momentum = MOMENTUM if options.optimizer == "momentum" else 0.0
    return torch.optim.SGD(mlp.parameters(), options.learning_rate, momentum, fused=True)


# Factor of the learning rate in an epoch, of all epochs; both counted from 0.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda epoch, epochs: 1.0,
    "step": lambda epoch, epochs: 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)),
    "cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    "robbins-monro": lambda epoch, epochs: 1 / (1 + epoch),  # Σ α = ∞, Σ α² < ∞ (Robbins & Monro 1951)
}


def batches(data: Batch, options: Train, epoch: int) -> Sequence[Tensor]:
    """The samples of each mini-batch of an epoch counted from 0, as indices; the seed and the epoch alone decide."""
    shuffle = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)  # so that any epoch can be done again
    return torch.split(torch.randperm(len(data.y), generator=shuffle).to(data.y.device), options.batch_size)


def penalty(mlp: MLP, activations: Sequence[Tensor], options: Train) -> Tensor | float:
    """R(θ) = l1 Σ|w| + l2 Σw² over the weights, not the biases, plus the activity penalties of the hidden layers.

    Those are sums over the units and means over the batch, so that they do not grow with it.
    """
    total: Tensor | float = 0.0
    for a in activations:
        if options.activity_l1:
            total = total + options.activity_l1 * a.abs().sum() / len(a)
        if options.activity_l2:
            total = total + options.activity_l2 * a.square().sum() / len(a)
    for w in mlp.weights():
        if options.l1:
            total = total + options.l1 * w.abs().sum()
        if options.l2:
            total = total + options.l2 * w.square().sum()
    return total


@torch.inference_mode()
def evaluate(mlp: MLP, data: Batch, kind: Kind) -> tuple[float, float]:
    """Mean loss, without the penalty, and accuracy; NaN where there is none."""
    if not len(data.y):
        return math.nan, math.nan
    logits = mlp(data.x)
    return float(loss(logits, data.y, kind)), float(_correct(logits, data.y, kind)) / len(data.y)


def print_summary(mlp: MLP) -> None:
    """Layers, output shapes and parameters, as a table."""
    for row in mlp.summary():
        print(f"  {row['name']!s:<20} {tuple(row['output'])!s:<14} {row['parameters']:>10,}")
    print(f"  {'parameters':<35} {mlp.n_parameters():>10,}")


def _epoch(
    mlp: MLP, optimizer: torch.optim.Optimizer, data: Batch, kind: Kind, options: Train, epoch: int
) -> tuple[float, float]:
    """One pass over the shuffled samples; mean loss and accuracy of the batches as they were met."""
    n = len(data.y)
    total, correct = torch.zeros((), device=data.y.device), torch.zeros((), device=data.y.device)
    for batch in batches(data, options, epoch):
        x, y = data.x[batch], data.y[batch]
        logits, activations = mlp.with_activations(x)
        data_loss = loss(logits, y, kind)
        optimizer.zero_grad()
        (data_loss + penalty(mlp, activations, options)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += data_loss.detach() * len(y)
        correct += _correct(logits.detach(), y, kind)
    return float(total) / n, float(correct) / n


def _correct(logits: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """Number of right answers; NaN for a regression, which has none."""
    if kind == "regression":
        return y.new_tensor(math.nan)
    chosen = (logits[:, 0] > 0).to(y.dtype) if kind == "binary" else logits.argmax(1)
    return (chosen == y).sum()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _save(path: Path, fingerprint: str, mlp: MLP, optimizer: torch.optim.Optimizer, state: State) -> None:
    with replacing(path) as temporary:
        torch.save(
            {
                "fingerprint": fingerprint,
                "mlp": mlp.state_dict(),
                "optimizer": optimizer.state_dict(),
                "state": {name: getattr(state, name) for name in state.__slots__},
            },
            temporary,
        )


def _restore(path: Path, fingerprint: str, mlp: MLP, optimizer: torch.optim.Optimizer) -> State:
    """The state of a killed run of the very same training, or a new one."""
    try:
        saved = torch.load(path, weights_only=True, map_location=next(mlp.parameters()).device)
        if saved["fingerprint"] != fingerprint:
            return State()
    except Exception:  # none there, or of another version: torch's loader raises many kinds
        return State()
    mlp.load_state_dict(saved["mlp"])
    optimizer.load_state_dict(saved["optimizer"])
    state = State(**saved["state"])
    print(f"  continuing after epoch {state.epoch}")
    return state
