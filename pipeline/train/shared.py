"""Training that several processes share, each of which holds a part of the samples: the same steps as one would take.

Samples are dealt to the workers once, in parts, and every batch, which the seed draws from all of them as ever
(`Feed`), is worked on by those that hold its samples. The gradients of a worker's share are a term of
the sum that the batch's are, and lie in one buffer: one all-reduce a step makes each worker's the whole. So the number
of workers changes nothing but the order of that sum. Every worker then takes the same step, and knows the same history.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.card import Kind
from models.classifier import Classifier
from models.mlp import MLP
from models.moments import Moments, part_rows
from models.steps.closed_form import Backprop, Setup
from models.steps.reference import Penalties
from pipeline.task import Train
from pipeline.threads import Pace
from pipeline.train.batches import Change, Feed
from pipeline.train.data import Split, Table, pieces, take
from pipeline.train.loop import SCHEDULES, State, note, out_of_patience
from pipeline.train.loop import totals as evaluated
from pipeline.train.trainers import totals


class Deal:
    """Who holds which of n samples: part p, of `rows` samples, lies with worker p modulo the number of workers."""

    def __init__(self, n: int, rows: int, rank: int, size: int) -> None:
        self.n, self.rows, self.rank, self.size = n, rows, rank, size
        self.n_parts = -(-n // rows)
        self.parts = range(rank, self.n_parts, size)
        self.counts = [min(rows, n - p * rows) for p in self.parts]  # samples of each of the parts

    def ranges(self) -> list[tuple[int, int]]:
        """From which to which sample the parts of this worker go."""
        return [(p * self.rows, p * self.rows + n) for p, n in zip(self.parts, self.counts, strict=True)]

    def own(self, samples: Tensor) -> Tensor:
        """Which of them lie here; bool."""
        return torch.div(samples, self.rows, rounding_mode="floor") % self.size == self.rank

    def place(self, samples: Tensor) -> Tensor:
        """Where in this worker's rows its own samples lie: all parts before the last have the same length."""
        part = torch.div(samples, self.rows, rounding_mode="floor")
        return torch.div(part, self.size, rounding_mode="floor") * self.rows + samples % self.rows


class Everyone:
    """The features of all workers' samples, float32 (n, D), as a `Feed` reads them: every worker asks for the same rows
    at the same time, gives those that it holds, and gets all."""

    def __init__(self, x: Tensor | Table, deal: Deal) -> None:
        self.x, self.deal = x, deal
        self.shape = deal.n, x.shape[1]

    def element_size(self) -> int:
        return 4

    def take(self, rows: Tensor, out: Tensor) -> Tensor:
        here = self.deal.own(rows)
        own = self.deal.place(rows[here])
        out.zero_()
        out[here] = take(self.x, own, out.new_empty(len(own), out.shape[1]))
        dist.all_reduce(out)
        return out


@dataclass(frozen=True, slots=True)
class Gathered:
    """The samples of all workers; y: their targets, which every worker has."""

    x: Everyone
    y: Tensor


class Share:
    """`ClosedForm` for one network, of whose samples this worker holds those of `deal`.

    Parameters
    ----------
    change : as of a `Feed`. Samples that it changes, or that are mixed, are first given to all workers, batch by batch,
        since the randomness is that of whole batches, and a sample's partner may lie elsewhere
    """

    def __init__(self, mlp: MLP, data: Split, deal: Deal, kind: Kind, options: Train, change: Change | None) -> None:
        self.x, self.deal, self.kind = data.x, deal, kind
        y = torch.zeros(deal.n, *data.y.shape[1:], dtype=data.y.dtype, device=data.y.device)
        at = 0
        for start, stop in deal.ranges():
            y[start:stop] = data.y[at : at + stop - start]
            at += stop - start
        dist.all_reduce(y)
        samples = Gathered(Everyone(data.x, deal), y)
        self.feed = Feed([samples], [options.seed], options.batch_size, change, options.mix)
        self.changed = change is not None or options.mix > 0
        chunk = torch.tensor([self.feed.chunk()], device=y.device)
        dist.all_reduce(chunk, dist.ReduceOp.MIN)  # of GPUs with more and less free memory
        self.chunk = int(chunk)
        self.n_outputs = mlp.linear()[-1].out_features
        penalties = Penalties(options.l1, options.l2, options.activity_l1, options.activity_l2)
        self.backprop = Backprop(
            Setup([mlp], kind, self.feed.batch_size, options.optimizer, [options.learning_rate], [penalties])
        )
        self.backprop.combine = dist.all_reduce
        self.pace = Pace()

    @torch.inference_mode()
    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """As `ClosedForm.epoch`."""
        feed, device = self.feed, self.feed.device
        self.backprop.set_rate(factor)
        order, shares, randomness = feed.order(number), feed.partner_shares(number), feed.randomness(number)
        own = self.deal.own(order) & (feed.weights[:, 0] > 0)
        y = feed.y[order[own]]
        z = torch.empty(self.n_outputs, len(y), device=device)
        room = torch.empty(self.chunk, feed.batch_size, feed.x.shape[1], device=device)
        done = 0
        for start in range(0, feed.n_steps, self.chunk):
            some = slice(start, min(start + self.chunk, feed.n_steps))
            rows, here, mixed = order[some], own[some], None if shares is None else shares[some]
            counts = here.sum(1).tolist()
            ours = slice(done, done + sum(counts))
            mine, logits = y[ours], z[:, ours]
            with self.pace.piece() as self.backprop.threads:
                if self.changed:
                    feed.fill(rows, room[: len(rows)], randomness, mixed)
                    x = room[: len(rows)][here]
                else:
                    x = take(self.x, self.deal.place(rows[here]), room.view(-1, room.shape[-1])[: len(mine)])
                if mixed is None:
                    t = feed.targets(mine.unsqueeze(0), self.n_outputs)[0]
                else:
                    t = feed.targets(feed.y[rows], self.n_outputs, mixed).mT[here].T
                w = feed.weights[some, 0][here].unsqueeze(0)
                at = 0
                for n in counts:
                    batch = slice(at, at + n)
                    self.backprop.narrow(n)
                    self.backprop.step(x[batch], t[:, batch], w[:, batch], logits[:, batch], (True,))
                    at += n
            done = ours.stop
        counted = torch.ones(1, len(y), dtype=torch.bool, device=device)
        sums = torch.cat(totals(z.unsqueeze(0), y.unsqueeze(0), counted, self.kind))
        dist.all_reduce(sums)
        loss, accuracy = sums / self.deal.n
        return loss, accuracy

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
    classifier.standardize.use(Moments.joined(parts), front)


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
