"""Training many networks of one shape at once: the trials of a search, on every fold of its cross-validation.

Networks that are trained together form a stack. On a CPU a stack is as large as fits a core's cache, and each core
trains its own stacks; on a GPU one stack holds all networks.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from models.card import Kind
from models.classifier import Standardize
from models.frontend import FrontEnd
from models.mlp import MLP
from models.steps.closed_form import MOMENTS
from pipeline import threads
from pipeline.profile import WAITING, step
from pipeline.task import Train, UserError
from pipeline.train import (
    TRAINERS,
    Autograd,
    ClosedForm,
    Dataset,
    Feed,
    State,
    evaluate,
    measure,
    run_epochs,
    standardised,
    transform_of,
)

STACK = 4 << 20  # bytes of parameters, gradients and moments in a stack on a CPU: what a core's caches hold


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold held out, the others to train on; both standardised with the statistics of the training samples."""

    training: Dataset
    held_out: Dataset
    standardize: Standardize

    @classmethod
    def unwatched(cls, training: Dataset, standardize: Standardize) -> "Fold":
        """A fold of which nothing is held out, so that the networks are not evaluated after each epoch."""
        assert isinstance(training.x, torch.Tensor)
        return cls(training, Dataset(training.x[:0], training.y[:0]), standardize)


@dataclass(frozen=True, slots=True)
class Training:
    """One network to be trained on one fold; `train` leaves its trained weights in `mlp`."""

    mlp: MLP
    options: Train
    fold: Fold


def train(trainings: Sequence[Training], kind: Kind) -> list[State | UserError]:
    """Train each network as if it were alone.

    Returns
    -------
    The state of each at the end, or why its training failed
    """
    device = trainings[0].fold.training.y.device
    stacks: dict[tuple[object, ...], list[int]] = {}
    for i, training in enumerate(trainings):
        # On a CPU, networks with the same batches share the product of their first layers.
        fold = id(training.fold) if device.type == "cpu" else None
        stacks.setdefault((*_shape(training), fold), []).append(i)
    parts = [part for stack in stacks.values() for part in _parts(stack, trainings[stack[0]], device)]
    results: dict[int, State | UserError] = {}
    stop = Event()

    def train_part(part: Sequence[int]) -> None:
        results.update(zip(part, _train_stack([trainings[i] for i in part], kind, stop), strict=True))

    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with threads.pool(workers) as pool:
        try:
            with step(WAITING):
                list(pool.map(train_part, parts))
        except BaseException:  # Ctrl-C reaches this thread only
            stop.set()
            raise
    return [results[i] for i in range(len(trainings))]


def train_and_predict(
    networks: Sequence[MLP], options: Train, training: Dataset, x: Tensor, front: FrontEnd, kind: Kind
) -> list[Tensor]:
    """Train networks on a CPU, without evaluating them after each epoch; logits (N, K) of each for samples x (N, D).

    Parameters
    ----------
    training, x : features of `front`, in memory; they are standardised in place, with the statistics of `training`

    Raises
    ------
    UserError : the training of a network failed
    """
    assert isinstance(training.x, Tensor)
    standardize = Standardize(front.n_features).fit(training.x, front)
    fold = Fold.unwatched(standardised(training, standardize, torch.device("cpu")), standardize)
    for state in train([Training(mlp, options, fold) for mlp in networks], kind):
        if isinstance(state, UserError):
            raise state
    standardize.apply_(x)
    with torch.inference_mode():
        return [mlp(x) for mlp in networks]


def _shape(training: Training) -> tuple[object, ...]:
    """Everything that networks must have in common to be trained together."""
    o = training.options
    sizes = [tuple(w.shape) for w in training.mlp.weights()]
    changed = o.augment or o.noise or o.mix
    batches = (o.seed, o.augment, o.noise, o.mix, id(training.fold)) if changed else None
    alone = id(training) if o.gradients != "closed-form" else None
    return *sizes, training.mlp.activation, o.epochs, o.batch_size, o.optimizer, o.schedule, o.balance, batches, alone


def _parts(stack: list[int], example: Training, device: torch.device) -> list[list[int]]:
    """The stack, in parts of about equal size that fit the cache."""
    if device.type != "cpu":
        return [stack]
    numbers = example.mlp.n_parameters() * (2 + MOMENTS[example.options.optimizer])
    most = max(1, STACK // (numbers * 4))
    size = math.ceil(len(stack) / math.ceil(len(stack) / most))
    return [stack[i : i + size] for i in range(0, len(stack), size)]


def _train_stack(trainings: Sequence[Training], kind: Kind, stop: Event) -> list[State | UserError]:
    networks, options = [t.mlp for t in trainings], [t.options for t in trainings]
    first, fold = options[0], trainings[0].fold
    transform = transform_of(first, fold.standardize, fold.training.y.device)
    data, seeds, balance = [t.fold.training for t in trainings], [o.seed for o in options], first.balance == "on"
    feed = Feed(data, seeds, first.batch_size, transform, first.mix, balance)
    trainer = TRAINERS[first.gradients](networks, feed, kind, options)
    held_out = _evaluation(trainer, trainings, kind)

    def evaluate_unless_stopped() -> list[tuple[float, float]]:
        if stop.is_set():
            raise CancelledError
        return held_out()

    return run_epochs(trainer, networks, options, evaluate_unless_stopped, [State() for _ in trainings])


def _evaluation(
    trainer: ClosedForm | Autograd, trainings: Sequence[Training], kind: Kind
) -> Callable[[], list[tuple[float, float]]]:
    """A function that returns mean loss and accuracy of each network on its held-out fold; NaN for an empty one."""
    if not any(len(t.fold.held_out.y) for t in trainings):
        return lambda: [(math.nan, math.nan)] * len(trainings)
    if len(trainings) == 1 or not isinstance(trainer, ClosedForm):
        return lambda: [evaluate(t.mlp, t.fold.held_out, kind) for t in trainings]
    folds = {id(t.fold): t.fold for t in trainings}.values()
    members = [[m for m, t in enumerate(trainings) if t.fold is fold] for fold in folds]
    wholes = [Feed([fold.held_out], [0], len(fold.held_out.y)) for fold in folds]  # all of a fold in one batch
    result = torch.empty(2, len(trainings), dtype=torch.float64, device=trainer.feed.device)

    @torch.inference_mode()
    def together() -> list[tuple[float, float]]:
        for fold, of_fold, whole in zip(folds, members, wholes, strict=True):
            assert isinstance(fold.held_out.x, torch.Tensor)
            z = trainer.step.logits(fold.held_out.x, of_fold)
            result[:, of_fold] = torch.stack(measure(z.mT.unsqueeze(0), fold.held_out.y.unsqueeze(0), whole, kind))
        return [(loss, accuracy) for loss, accuracy in result.T.tolist()]

    return together
