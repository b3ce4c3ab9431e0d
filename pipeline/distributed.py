"""Training that several processes share, each of which holds a part of the samples: the same steps as one would take.

Samples do not move: they are dealt to the workers once, in parts, and every batch, which the seed draws from all of
them as ever (`pipeline.engines.Feed`), is worked on by those that hold its samples. The gradients of a worker's share
are a term of the sum that the batch's are, and lie in one buffer: one all-reduce a step makes each worker's the whole.
So the number of workers changes nothing but the order of that sum. Every worker then takes the same step, and
knows the same history.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.backprop import Backprop
from models.card import Kind
from models.classifier import Classifier, part_rows
from models.mlp import MLP
from models.moments import Moments
from models.reference import Penalties
from pipeline.engines import CHUNK, Batch, totals
from pipeline.stored import pieces
from pipeline.task import Train
from pipeline.train import SCHEDULES, Split, State, note, out_of_patience
from pipeline.train import totals as evaluated


class Deal:
    """Who holds which of n samples: part p, of `rows` samples, lies with worker p modulo the number of workers."""

    def __init__(self, n: int, rows: int, rank: int, size: int) -> None:
        self.n, self.rows, self.rank, self.size = n, rows, rank, size
        self.n_parts = -(-n // rows)
        self.parts = range(rank, self.n_parts, size)
        self.counts = [min(rows, n - p * rows) for p in self.parts]  # samples of each of the parts

    def own(self, samples: Tensor) -> Tensor:
        """Which of them lie here; bool."""
        return torch.div(samples, self.rows, rounding_mode="floor") % self.size == self.rank

    def place(self, samples: Tensor) -> Tensor:
        """Where in this worker's rows its own samples lie: all parts before the last have the same length."""
        part = torch.div(samples, self.rows, rounding_mode="floor")
        return torch.div(part, self.size, rounding_mode="floor") * self.rows + samples % self.rows


class Share:
    """`ClosedForm` for one network, of whose samples this worker holds those of `deal`."""

    def __init__(self, mlp: MLP, data: Split, deal: Deal, kind: Kind, options: Train) -> None:
        self.data, self.deal, self.kind, self.seed = data, deal, kind, options.seed
        self.device = data.y.device
        self.batch_size = min(options.batch_size, deal.n)
        self.n_steps = -(-deal.n // self.batch_size)
        self.n_outputs = mlp.linear()[-1].out_features
        penalties = Penalties(options.l1, options.l2, options.activity_l1, options.activity_l2)
        self.backprop = Backprop(
            [mlp], kind, self.batch_size, options.optimizer, [options.learning_rate], [penalties]
        )  # fmt: skip
        self.backprop.combine = dist.all_reduce

    @torch.inference_mode()
    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """As `ClosedForm.epoch`."""
        self.backprop.set_rate(factor)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number)  # as `Feed` does
        order = torch.randperm(self.deal.n, generator=generator, device=self.device)
        at = self.deal.own(order).nonzero()[:, 0]
        rows = self.deal.place(order[at])
        counts = torch.bincount(at // self.batch_size, minlength=self.n_steps).tolist()
        del order, at
        y = self.data.y[rows]
        z = torch.empty(self.n_outputs, len(rows), device=self.device)
        width = self.data.x.shape[1]
        room = max(self.batch_size, CHUNK // (4 * width))  # samples that are gathered at a time, at least a batch's
        x, start, filled = torch.empty(room, width, device=self.device), 0, 0
        t = torch.empty(self.n_outputs, 0)
        for step, n in enumerate(counts):
            if start + n > filled:
                begin, filled = start, min(len(rows), start + room)
                self._gather(rows[begin:filled], x[: filled - begin])
                t = self._targets(y[begin:filled])
            here = slice(start - begin, start - begin + n) if n else slice(0, 0)
            size = min(self.batch_size, self.deal.n - step * self.batch_size)
            w = torch.full((1, n), 1 / size, device=self.device)
            self.backprop.narrow(n)
            self.backprop.step(x[here], t[:, here], w, z[:, start : start + n], (True,))
            start += n
        counted = torch.ones(1, len(rows), dtype=torch.bool, device=self.device)
        sums = torch.cat(totals(z.unsqueeze(0), y.unsqueeze(0), counted, self.kind))
        dist.all_reduce(sums)
        loss, accuracy = sums / self.deal.n
        return loss, accuracy

    def _gather(self, rows: Tensor, out: Tensor) -> None:
        if isinstance(self.data, Batch):
            torch.index_select(self.data.x, 0, rows, out=out)
        else:
            self.data.x.take(rows, out)

    def _targets(self, y: Tensor) -> Tensor:
        """Targets of samples as columns, float32 (K, n)."""
        if y.is_floating_point():
            return y.T.contiguous()
        if self.n_outputs == 1:
            return y.unsqueeze(0).to(torch.float32)
        return torch.zeros(self.n_outputs, len(y), device=self.device).scatter_(0, y.unsqueeze(0), 1.0)

    def state(self) -> dict[str, Any]:
        return self.backprop.state()

    def load(self, state: dict[str, Any]) -> None:
        self.backprop.load(state)


def standardise(classifier: Classifier, data: Split, deal: Deal) -> None:
    """Fit the classifier's standardisation to the samples of all workers: the same bits as where they lie together."""
    front = classifier.frontend
    width = 1 if front.one_unit else front.n_features
    found = torch.zeros(deal.n_parts, 1 + 2 * width, dtype=torch.float64, device=data.y.device)
    for p, x in zip(deal.parts, pieces(data.x, deal.rows), strict=True):
        m = Moments.of(x, front.one_unit)
        found[p] = torch.cat([torch.tensor([float(m.n)]).to(m.mean), m.mean.view(-1), m.squares.view(-1)])
    dist.all_reduce(found)  # all but one worker have zeros for a part
    shape = () if front.one_unit else (width,)
    rows = (torch.split(row, [1, width, width]) for row in found.cpu())
    parts = (Moments(int(n), mean.view(shape), squares.view(shape)) for n, mean, squares in rows)
    classifier.standardize.take(Moments.joined(parts), front)


@torch.inference_mode()
def evaluate(mlp: MLP, data: Split, n: int, kind: Kind) -> tuple[float, float]:
    """As `pipeline.train.evaluate`, of the n samples of all workers."""
    if not n:
        return math.nan, math.nan
    sums = evaluated(mlp, data, kind)
    if kind == "regression":
        sums[1] = math.nan
    dist.all_reduce(sums)
    loss, accuracy = (sums / n).tolist()
    return loss, accuracy


def fit(
    mlp: MLP,
    engine: Share,
    validation: Split,
    n_validation: int,
    kind: Kind,
    options: Train,
    state: State,
    after: Callable[[State, tuple[float, ...]], None],
) -> State:
    """Train `mlp` in place from where `state` stands; `after` is told of every epoch.

    Raises
    ------
    UserError : the loss is no longer a number
    """
    started = time.perf_counter() - (state.history["seconds"][-1] if state.epoch else 0.0)
    factor = SCHEDULES[options.schedule]
    while state.epoch < options.epochs and not out_of_patience(state, options):
        loss, accuracy = engine.epoch(state.epoch, factor(state.epoch, options.epochs))
        validated = evaluate(mlp, validation, n_validation, kind)
        seconds = time.perf_counter() - started
        after(state, note(state, (loss.item(), accuracy.item()), validated, mlp, options, seconds))
    if state.best:
        mlp.load_state_dict(state.best)
    return state


def deals(n_training: int, n_validation: int, n_features: int) -> tuple[Deal, Deal]:
    """What this worker holds of the samples to train on and of those to validate on."""
    rank, size, rows = dist.get_rank(), dist.get_world_size(), part_rows(n_features)
    return Deal(n_training, rows, rank, size), Deal(n_validation, rows, rank, size)
