"""Data-parallel training: several processes, each with a part of the samples, take the same steps as one process with
all.

The samples are divided among the workers once. Batches are drawn from all samples, by the seed (`Feed`); each worker
computes the terms of a batch's gradients that come from its own samples, and one all-reduce a step adds the workers'
terms up. The number of workers changes only the order of that sum. Every worker then takes the same step, and has the
same history.
"""

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
from pipeline.train.data import Dataset, RowReader, gather, pieces
from pipeline.train.trainers import totals


class Partition:
    """Which worker holds which of n samples: part p, of `rows` samples, is with worker p modulo `size`, their number.

    Example
    -------
    >>> partition = Partition(n=10, rows=3, rank=1, size=2)
    >>> partition.ranges()
    [(3, 6), (9, 10)]
    >>> partition.local_index(torch.tensor([4, 9]))
    tensor([1, 3])
    """

    def __init__(self, n: int, rows: int, rank: int, size: int) -> None:
        self.n, self.rows, self.rank, self.size = n, rows, rank, size
        self.n_parts = -(-n // rows)
        self.parts = range(rank, self.n_parts, size)
        self.counts = [min(rows, n - p * rows) for p in self.parts]  # samples in each of this worker's parts

    @staticmethod
    def of_worker(n: int, n_features: int) -> "Partition":
        """The partition of this process, one of the workers of torch.distributed."""
        return Partition(n, part_rows(n_features), dist.get_rank(), dist.get_world_size())

    def ranges(self) -> list[tuple[int, int]]:
        """First sample of each of this worker's parts, and the one after its last."""
        return [(p * self.rows, p * self.rows + n) for p, n in zip(self.parts, self.counts, strict=True)]

    def owns(self, samples: Tensor) -> Tensor:
        """Which of the samples, int64 (...), this worker holds; bool (...)."""
        return torch.div(samples, self.rows, rounding_mode="floor") % self.size == self.rank

    def local_index(self, samples: Tensor) -> Tensor:
        """Row in this worker's features of each of its samples, int64 (n,)."""
        part = torch.div(samples, self.rows, rounding_mode="floor")
        return torch.div(part, self.size, rounding_mode="floor") * self.rows + samples % self.rows


class DistributedMatrix:
    """The features of all workers' samples, float32 (n, D), as a `RowReader`.

    All workers read the same rows at the same time: each fills in those that it holds, and receives all.
    """

    def __init__(self, x: Tensor | RowReader, partition: Partition) -> None:
        self.x, self.partition = x, partition
        self.shape = partition.n, x.shape[1]

    def element_size(self) -> int:
        return 4

    def read(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = torch.empty(len(rows), self.shape[1], device=rows.device)
        here = self.partition.owns(rows)
        own = self.partition.local_index(rows[here])
        out.zero_()
        out[here] = gather(self.x, own, out.new_empty(len(own), out.shape[1]))
        dist.all_reduce(out)
        return out


class DataParallel:
    """Trains one network by closed-form steps, on the samples of all workers.

    Parameters
    ----------
    data : this worker's samples, those of `partition`
    transform : see `Feed`. Samples that are transformed or mixed are first sent to all workers, batch by batch: the
        random numbers are drawn for whole batches, and a sample may be mixed with one of another worker
    """

    def __init__(
        self,
        mlp: MLP,
        data: Dataset,
        partition: Partition,
        kind: Kind,
        options: Train,
        transform: Change | None,
    ) -> None:
        self.x, self.partition, self.kind = data.x, partition, kind
        samples = Dataset(DistributedMatrix(data.x, partition), _all_targets(data.y, partition))
        self.feed = Feed([samples], [options.seed], options.batch_size, transform, options.mix, options.balance == "on")
        self.transformed = transform is not None or options.mix > 0
        chunk = torch.tensor([self.feed.chunk()], device=data.y.device)
        dist.all_reduce(chunk, dist.ReduceOp.MIN)  # GPUs may have more or less free memory
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
        """See `loop.Trainer`."""
        feed, device = self.feed, self.feed.device
        self.backprop.set_rate(factor)
        order, shares, randomness = feed.order(number), feed.partner_shares(number), feed.randomness(number)
        weights = feed.sample_weights(feed.y[order])
        own = self.partition.owns(order) & (feed.weights[:, 0] > 0)
        y = feed.y[order[own]]
        z = torch.empty(self.n_outputs, len(y), device=device)
        buffer = torch.empty(self.chunk, feed.batch_size, feed.x.shape[1], device=device)
        done = 0
        for start in range(0, feed.n_steps, self.chunk):
            steps = slice(start, min(start + self.chunk, feed.n_steps))
            rows, here, mixed = order[steps], own[steps], None if shares is None else shares[steps]
            counts = here.sum(1).tolist()
            of_chunk = slice(done, done + sum(counts))
            with self.pace.piece() as self.backprop.threads:
                x = self._samples(rows, here, buffer, randomness, mixed)
                t = self._targets(rows, here, y[of_chunk], mixed)
                self._steps(x, t, weights[steps, 0][here].unsqueeze(0), z[:, of_chunk], counts)
            done = of_chunk.stop
        counted = torch.ones(1, len(y), dtype=torch.bool, device=device)
        sums = torch.stack(totals(z.unsqueeze(0), y.unsqueeze(0), counted, self.kind))
        dist.all_reduce(sums)
        mean_loss, accuracy = sums / self.partition.n
        return mean_loss, accuracy

    def _samples(
        self, rows: Tensor, here: Tensor, buffer: Tensor, randomness: torch.Generator, shares: Tensor | None
    ) -> Tensor:
        """This worker's samples of some batches, float32 (n, D): of rows, int64 (steps, B), where `here` is true."""
        if self.transformed:
            self.feed.fill(rows, buffer[: len(rows)], randomness, shares)
            return buffer[: len(rows)][here]
        own = self.partition.local_index(rows[here])
        return gather(self.x, own, buffer.view(-1, buffer.shape[-1])[: len(own)])

    def _targets(self, rows: Tensor, here: Tensor, y: Tensor, shares: Tensor | None) -> Tensor:
        """The targets of the same samples as columns, float32 (K, n)."""
        if shares is None:
            return self.feed.targets(y.unsqueeze(0), self.n_outputs)[0]
        return self.feed.targets(self.feed.y[rows], self.n_outputs, shares).mT[here].T

    def _steps(self, x: Tensor, t: Tensor, weights: Tensor, z: Tensor, counts: list[int]) -> None:
        """One step for each of the batches, of which this worker has `counts` samples."""
        start = 0
        for n in counts:
            batch = slice(start, start + n)
            self.backprop.narrow(n)
            self.backprop.step(x[batch], t[:, batch], weights[:, batch], z[:, batch], (True,))
            start += n

    def state(self) -> dict[str, Any]:
        return self.backprop.state()

    def load(self, state: dict[str, Any]) -> None:
        self.backprop.load(state)


def _all_targets(y: Tensor, partition: Partition) -> Tensor:
    """The targets of all workers' samples, from the targets `y` of this worker's."""
    targets = torch.zeros(partition.n, *y.shape[1:], dtype=y.dtype, device=y.device)
    done = 0
    for start, stop in partition.ranges():
        targets[start:stop] = y[done : done + stop - start]
        done += stop - start
    dist.all_reduce(targets)
    return targets


def fit_standardisation(classifier: Classifier, data: Dataset, partition: Partition) -> None:
    """Fit the classifier's standardisation to the samples of all workers: the same bits as from one process."""
    front = classifier.frontend
    width = 1 if front.one_unit else front.n_features
    found = torch.zeros(partition.n_parts, 1 + 2 * width, dtype=torch.float64, device=data.y.device)
    for p, x in zip(partition.parts, pieces(data.x, partition.rows), strict=True):
        m = Moments.of(x, front.one_unit)
        found[p] = torch.cat([torch.tensor([float(m.n)]).to(m.mean), m.mean.view(-1), m.squares.view(-1)])
    dist.all_reduce(found)  # all but one worker have zeros for a part
    shape = () if front.one_unit else (width,)
    rows = (torch.split(row, [1, width, width]) for row in found.cpu())
    parts = (Moments(int(n), mean.view(shape), squares.view(shape)) for n, mean, squares in rows)
    classifier.standardize.use(Moments.joined(parts), front)
