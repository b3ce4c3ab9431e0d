"""Many trainings of networks of one shape at once: trials of a search on every fold of its cross-validation.

On a CPU a stack of networks is as large as its cache can hold, and each core trains stacks of its own; on a GPU one
stack holds them all.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from models.card import Kind
from models.classifier import Standardize
from models.mlp import MLP
from models.steps.closed_form import MOMENTS
from pipeline import threads
from pipeline.task import Train, UserError
from pipeline.train import (
    SCHEDULES,
    TRAINERS,
    Batch,
    ClosedForm,
    Feed,
    State,
    disturb,
    evaluate,
    measure,
    note,
    out_of_patience,
)

STACK = 4 << 20  # bytes of parameters, gradients and moments in a stack on a CPU: what a core's caches hold


@dataclass(frozen=True, slots=True)
class Fold:
    """One part held out, the others trained on; both standardised with the statistics of the training part."""

    training: Batch
    held_out: Batch
    standardize: Standardize


@dataclass(frozen=True, slots=True)
class Training:
    """One network to be trained; `train` leaves its trained weights in `mlp`."""

    mlp: MLP
    options: Train
    fold: Fold


def shape(training: Training) -> tuple[object, ...]:
    """What networks must have in common to be trained together."""
    o = training.options
    sizes = [tuple(w.shape) for w in training.mlp.weights()]
    changed = o.augment or o.noise or o.mix
    seen = (o.seed, o.augment, o.noise, o.mix, id(training.fold)) if changed else None
    alone = id(training) if o.engine != "closed-form" else None
    return *sizes, training.mlp.activation, o.epochs, o.batch_size, o.optimizer, o.schedule, seen, alone


def train(trainings: Sequence[Training], kind: Kind) -> list[State | UserError]:
    """Train each as if it were alone; where its training stands at the end, or why it failed."""
    device = trainings[0].fold.training.x.device
    stacks: dict[tuple[object, ...], list[int]] = {}
    for i, training in enumerate(trainings):
        together = id(training.fold) if device.type == "cpu" else None  # who shares batches shares the first product
        stacks.setdefault((*shape(training), together), []).append(i)
    parts = [part for stack in stacks.values() for part in _parts(stack, trainings[stack[0]], device)]
    results: dict[int, State | UserError] = {}
    stop = Event()

    def work(part: Sequence[int]) -> None:
        results.update(zip(part, _train_stack([trainings[i] for i in part], kind, stop), strict=True))

    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with threads.pool(workers) as pool:
        try:
            list(pool.map(work, parts))
        except BaseException:  # Ctrl-C, which the workers do not see
            stop.set()
            raise
    return [results[i] for i in range(len(trainings))]


def _parts(stack: list[int], example: Training, device: torch.device) -> list[list[int]]:
    """The stack, in parts of about equal size that fit the cache."""
    if device.type != "cpu":
        return [stack]
    numbers = example.mlp.n_parameters() * (2 + MOMENTS[example.options.optimizer])
    most = max(1, STACK // (numbers * 4))
    size = math.ceil(len(stack) / math.ceil(len(stack) / most))
    return [stack[i : i + size] for i in range(0, len(stack), size)]


def _train_stack(trainings: Sequence[Training], kind: Kind, stop: Event) -> list[State | UserError]:
    options = [t.options for t in trainings]
    networks = [t.mlp for t in trainings]
    first = trainings[0]
    change = disturb(first.options, first.fold.standardize, first.fold.training.x.device)
    batches, mix = first.options.batch_size, first.options.mix
    feed = Feed([t.fold.training for t in trainings], [o.seed for o in options], batches, change, mix)
    engine = TRAINERS[first.options.engine](networks, feed, kind, options)
    started = time.perf_counter()
    states = [State() for _ in trainings]
    failed: dict[int, UserError] = {}
    running = list(range(len(trainings)))
    for epoch in range(first.options.epochs):
        measured = torch.stack(engine.epoch(epoch, SCHEDULES[first.options.schedule](epoch, first.options.epochs)))
        validated = held_out(engine, trainings, kind)
        seconds = time.perf_counter() - started
        columns = zip(measured.T.tolist(), validated.T.tolist(), strict=True)
        for m, (of_training, of_validation) in enumerate(columns):
            if m not in running:
                continue
            try:
                note(states[m], tuple(of_training), tuple(of_validation), networks[m], options[m], seconds)
            except UserError as error:
                failed[m] = error
        running = [m for m in running if m not in failed and not out_of_patience(states[m], options[m])]
        if not running or stop.is_set():
            break
    for mlp, state in zip(networks, states, strict=True):
        if state.best:
            mlp.load_state_dict(state.best)
    return [failed.get(m, state) for m, state in enumerate(states)]


@torch.inference_mode()
def held_out(engine: object, trainings: Sequence[Training], kind: Kind) -> Tensor:
    """Mean loss and accuracy of each network on what its fold holds out, float64 (2, M)."""
    if len(trainings) == 1 or not isinstance(engine, ClosedForm):
        values = [evaluate(t.mlp, t.fold.held_out, kind) for t in trainings]
        return torch.tensor(values, dtype=torch.float64).T
    result = torch.empty(2, len(trainings), dtype=torch.float64, device=engine.feed.device)
    for fold in {id(t.fold): t.fold for t in trainings}.values():
        members = [m for m, t in enumerate(trainings) if t.fold is fold]
        z = engine.step.logits(fold.held_out.x, members)
        whole = Feed([fold.held_out], [0], len(fold.held_out.y))
        result[:, members] = torch.stack(measure(z.mT.unsqueeze(0), fold.held_out.y.unsqueeze(0), whole, kind))
    return result
