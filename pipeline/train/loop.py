"""The loop of training: epochs, schedules of the learning rate, early stopping, history and checkpoints."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from tqdm import tqdm

from models.card import Kind
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.run import replacing
from pipeline.task import Train, UserError
from pipeline.threads import threads
from pipeline.train.batches import Change, Feed
from pipeline.train.data import Split, piece_rows, pieces
from pipeline.train.trainers import TRAINERS, threads_for

CHECKPOINT_SECONDS = 2.0  # between two checkpoints: small beside an epoch of large data, much against losing one
ROWS = 16_384  # samples that are evaluated at a time, at most, since their hidden layers take memory
WARM_UP = 0.3  # share of a one-cycle schedule in which the learning rate rises
HISTORY = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")


@dataclass(slots=True)
class State:
    """Where training stands after an epoch: with the network and the optimiser, all that a checkpoint needs."""

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


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
    engine = TRAINERS[options.engine]([mlp], feed, kind, [options])
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


def out_of_patience(state: State, options: Train) -> bool:
    return bool(options.early_stopping) and state.epoch - state.best_epoch >= options.early_stopping


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
            total += torch.stack([TARGETS[kind].loss(logits, y) * len(y), _correct(logits, y, kind)])
    return total


def _correct(logits: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """Number of right answers; NaN for a regression, which has none."""
    if kind == "regression":
        return y.new_tensor(math.nan)
    chosen = (logits[:, 0] > 0).to(y.dtype) if kind == "binary" else logits.argmax(1)
    return (chosen == y).sum()


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
