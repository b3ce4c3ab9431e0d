"""The loop of training: epochs, learning-rate schedules, history, early stopping, progress and checkpoints.

PyTorch, Keras, the workers of a Ray cluster and a search with many networks share this loop: each takes its steps in a
`Trainer`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from models.card import Kind
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.profile import step
from pipeline.task import Train, UserError
from pipeline.threads import threads
from pipeline.train.data import Dataset, piece_rows, pieces
from pipeline.train.trainers import threads_for
from pipeline.train.weights import write_torch

CHECKPOINT_SECONDS = 2.0  # between two checkpoints: much longer than writing one takes, and little work to lose
ROWS = 16_384  # samples evaluated at a time, at most: their hidden activations take memory
WARM_UP = 0.3  # share of a one-cycle schedule in which the learning rate rises


class Trainer(Protocol):
    """Trains M networks for one epoch at a time; M is 1 except in a search."""

    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """Train for epoch `number`, counted from 0, with `factor` times the learning rate.

        Returns
        -------
        Mean loss, without the penalties, and accuracy of the epoch's samples, float64 (M,) each; the accuracy of a
        regression is NaN
        """
        ...


class Resumable(Trainer, Protocol):
    """A trainer whose weights and optimiser can be saved and loaded."""

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


class Row(NamedTuple):
    """One epoch in the history. NaN: no validation samples, or the accuracy of a regression."""

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float  # since training began


HISTORY = Row._fields


@dataclass(slots=True)
class State:
    """Progress of a network's training; with its weights and the optimiser, everything that a checkpoint needs."""

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best epoch, with early stopping

    def record(self, row: Row, mlp: MLP, options: Train) -> None:
        """Add an epoch to the history, and keep its weights if they are the best.

        Raises
        ------
        UserError : the loss is no longer a number
        """
        _check_finite(row.train_loss, row.epoch, options)
        self.epoch = row.epoch
        for name, value in row._asdict().items():
            if not math.isnan(value):  # the column stays empty otherwise
                self.history[name].append(value)
        if not options.early_stopping:
            self.best_epoch = self.epoch
        elif row.validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = row.validation_loss, self.epoch
            self.best = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}

    def is_over(self, options: Train) -> bool:
        """All epochs are done, or the validation loss has not improved for `early_stopping` epochs."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= options.epochs or 0 < options.early_stopping <= waited


def _check_finite(loss: float, epoch: int, options: Train) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is no longer a number in epoch {epoch}; lower train.learning_rate, now {options.learning_rate:g}"
        )


def run_epochs(
    trainer: Trainer,
    networks: Sequence[MLP],
    options: Sequence[Train],
    evaluate: Callable[[], Sequence[tuple[float, float]]],
    states: Sequence[State],
    after_epoch: Callable[[State, Row], None] | None = None,
) -> list[State | UserError]:
    """Train the networks in place, continuing from their states, until each is over; then load its best weights.

    Parameters
    ----------
    options : one for each network; epochs and schedule are the same
    evaluate : returns the current validation loss and accuracy of each network
    after_epoch : called for each network that is still in training

    Returns
    -------
    The state of each network, or why its training failed: the loss is no longer a number
    """
    epochs, schedule = options[0].epochs, SCHEDULES[options[0].schedule]
    started = time.perf_counter() - (states[0].history["seconds"][-1] if states[0].epoch else 0.0)
    failed: dict[int, UserError] = {}
    while running := [m for m in range(len(networks)) if m not in failed and not states[m].is_over(options[m])]:
        number = states[running[0]].epoch
        with step("epochs"):
            trained: list[tuple[float, float]] = torch.stack(trainer.epoch(number, schedule(number, epochs))).T.tolist()
        with step("evaluation"):
            validated = evaluate()
        seconds = time.perf_counter() - started
        for m in running:
            row = Row(number + 1, *trained[m], *validated[m], seconds)
            try:
                states[m].record(row, networks[m], options[m])
            except UserError as error:
                failed[m] = error
                continue
            if after_epoch:
                after_epoch(states[m], row)
    for mlp, state in zip(networks, states, strict=True):
        if state.best:
            mlp.load_state_dict(state.best)
    return [failed.get(m, state) for m, state in enumerate(states)]


def all_epochs(trainer: Trainer, options: Train, after_epoch: Callable[[], None] = lambda: None) -> None:
    """Train networks for all epochs, without looking at them in between.

    Raises
    ------
    UserError : the loss is no longer a number
    """
    for epoch in range(options.epochs):
        loss, _ = trainer.epoch(epoch, SCHEDULES[options.schedule](epoch, options.epochs))
        after_epoch()
    _check_finite(loss.sum().item(), options.epochs, options)


def fit(
    trainer: Trainer,
    mlp: MLP,
    options: Train,
    validation: Dataset,
    kind: Kind,
    state: State,
    checkpoints: "Checkpoints | None" = None,
) -> State:
    """Train one network in this process, in place, with a progress bar.

    Parameters
    ----------
    state : a new one, or that of a checkpoint

    Raises
    ------
    UserError : the loss is no longer a number
    """
    with progress(options.epochs, state.epoch) as show:

        def after_epoch(state: State, row: Row) -> None:
            show(row)
            if checkpoints:
                checkpoints.save_if_due(state)

        def validate() -> list[tuple[float, float]]:
            return [evaluate(mlp, validation, kind)]

        (result,) = run_epochs(trainer, [mlp], [options], validate, [state], after_epoch)
    if isinstance(result, UserError):
        raise result
    return result


@contextmanager
def progress(epochs: int, done: int = 0) -> Iterator[Callable[[Row], None]]:
    """Yield a function that shows a row of the history: on a progress bar, or in a log once per tenth of the epochs."""
    with tqdm(total=epochs, initial=done, desc="train", unit="epoch", disable=None) as bar:

        def show(row: Row) -> None:
            bar.update()
            bar.set_postfix(loss=f"{row.train_loss:.4f}", validation=f"{row.validation_loss:.4f}")
            if bar.disable and row.epoch % max(1, epochs // 10) == 0:
                values = {"loss": row.train_loss, "validation loss": row.validation_loss}
                values["validation accuracy"] = row.validation_accuracy
                shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if not math.isnan(value))
                print(f"  epoch {row.epoch}/{epochs}: {shown}", flush=True)

        yield show


class Checkpoints:
    """Checkpoints of one training.

    Parameters
    ----------
    fingerprint : digest of everything that the training depends on; a checkpoint with another one is ignored
    write : stores a checkpoint, which `torch.save` can write
    seconds : between two checkpoints, at least
    """

    def __init__(
        self, trainer: Resumable, fingerprint: str, write: Callable[[dict[str, Any]], None], seconds: float
    ) -> None:
        self.trainer, self.fingerprint, self.write, self.seconds = trainer, fingerprint, write, seconds
        self.saved = time.perf_counter()

    @staticmethod
    def to_file(trainer: Resumable, fingerprint: str, path: Path) -> "Checkpoints":
        """Checkpoints that replace one another in a file."""
        return Checkpoints(trainer, fingerprint, partial(write_torch, path), CHECKPOINT_SECONDS)

    def resume(self, file: Path | BinaryIO, device: torch.device) -> State:
        """Load the trainer from the checkpoint of a killed run of the same training; a new state if there is none."""
        try:
            saved = torch.load(file, weights_only=True, map_location=device)
            if saved["fingerprint"] != self.fingerprint:
                return State()
        except Exception:  # no such file, or one of another version: torch's loader raises many types
            return State()
        self.trainer.load(saved["trainer"])
        state = State(**saved["state"])
        print(f"  continuing after epoch {state.epoch}")
        return state

    def save_if_due(self, state: State) -> None:
        """Write a checkpoint if the last one is `seconds` old."""
        if time.perf_counter() - self.saved > self.seconds:
            values = {name: getattr(state, name) for name in state.__slots__}
            self.write({"fingerprint": self.fingerprint, "trainer": self.trainer.state(), "state": values})
            self.saved = time.perf_counter()


def _one_cycle(progress: float) -> float:
    """A rise from 1/25 and a fall to 0, both along a cosine (Smith & Topin 2019), as in torch's OneCycleLR."""
    rising = progress < WARM_UP
    stretch = progress / WARM_UP if rising else (1 - progress) / (1 - WARM_UP)
    lowest = 1 / 25 if rising else 0.0
    return lowest + (1 - lowest) * (1 - math.cos(math.pi * stretch)) / 2


#: Factor of the learning rate by epoch, counted from 0, and number of epochs: `SCHEDULES["cosine"](epoch, epochs)`.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda epoch, epochs: 1.0,
    "step": lambda epoch, epochs: 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)),
    "cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    "one-cycle": lambda epoch, epochs: _one_cycle((epoch + 0.5) / epochs),
    "robbins-monro": lambda epoch, epochs: 1 / (1 + epoch),  # Σ α = ∞, Σ α² < ∞ (Robbins & Monro 1951)
}


@torch.inference_mode()
def evaluate(
    mlp: MLP, data: Dataset, kind: Kind, combine: Callable[[Tensor], object] | None = None
) -> tuple[float, float]:
    """Mean loss, without the penalties, and accuracy; NaN for no samples, and for the accuracy of a regression.

    Parameters
    ----------
    combine : adds up, in place, the sums of several processes, each with a part of the samples (an all-reduce)
    """
    target = TARGETS[kind]
    sums = torch.zeros(3, dtype=torch.float64, device=data.y.device)  # of the losses, right answers, samples
    rows = min(ROWS, piece_rows(data.x))
    with threads(threads_for(min(max(1, len(data.y)), rows), mlp)):
        for x, y in zip(pieces(data.x, rows), pieces(data.y, rows), strict=True):
            logits = mlp(x)
            sums[:2] += torch.stack([target.loss(logits, y) * len(y), target.hits(logits.mT, y).sum()])
    sums[2] = len(data.y)
    if combine:
        combine(sums)
    mean_loss, accuracy = (sums[:2] / sums[2]).tolist()
    return mean_loss, accuracy
