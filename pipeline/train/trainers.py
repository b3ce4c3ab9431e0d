"""Trainers: one epoch of training by closed-form steps, or by autograd, against which the steps are tested.

Both take their mini-batches from a `Feed`, so that the same seed gives both the same samples in the same order.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.card import Kind
from models.mlp import MLP
from models.steps import Workload, choose
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM, Setup
from models.steps.reference import Penalties
from models.targets import TARGETS
from pipeline.task import Train
from pipeline.threads import Pace, threads
from pipeline.train.batches import Feed

WORK_OF_A_THREAD = 20_000_000  # multiplications of a matrix product that are worth another thread


class ClosedForm:
    """Closed-form steps (`models.steps`) for one network or many; on a GPU as CUDA graphs.

    A graph holds the steps of a chunk: of a whole epoch, where its samples fit into a quarter of the free memory.
    Nothing waits for the GPU inside an epoch.

    Parameters
    ----------
    options : one for each network; they differ in learning rate, penalties and seed only
    """

    def __init__(self, networks: Sequence[MLP], feed: Feed, kind: Kind, options: Sequence[Train]) -> None:
        self.feed, self.kind = feed, kind
        self.chunk = feed.chunk()
        own = (len(feed.columns),) if len(feed.columns) > 1 else ()
        self.x = torch.empty(self.chunk, *own, feed.batch_size, feed.x.shape[1], device=feed.device)
        setup = Setup(
            networks, kind, feed.batch_size, options[0].optimizer, [o.learning_rate for o in options],
            [Penalties(o.l1, o.l2, o.activity_l1, o.activity_l2) for o in options], feed.shared,
        )  # fmt: skip
        samples = feed.samples if feed.unchanged else None
        self.step = choose(
            setup, Workload(options[0].epochs * feed.n_steps, feed.x.shape[0], samples, self._first_chunk)
        )
        if not self.step.has_samples:
            feed.load()
        self.n_outputs = networks[0].linear()[-1].out_features
        self.z = torch.empty(feed.n_steps, *setup.lead, self.n_outputs, feed.batch_size, device=feed.device)
        self.t: Tensor | None = None
        self.w = feed.weights if feed.class_weights is None else feed.weights.clone()  # in one place, see `_capture`
        self.graphs: dict[int, Any] = {}
        self.pace = Pace()
        for active in set(feed.active):
            self.step.prepare(active)

    def _first_chunk(self) -> Tensor:
        rows, shares = self.feed.order(0)[: self.chunk], self.feed.partner_shares(0)
        return self._gather(rows, self.feed.randomness(0), None if shares is None else shares[: self.chunk])

    def _gather(self, rows: Tensor, randomness: torch.Generator, shares: Tensor | None) -> Tensor:
        """The samples of a chunk's batches, in memory that the next chunk uses again."""
        x = self.x[: len(rows)]
        self.feed.fill(rows, x, randomness, shares)
        return x

    @torch.inference_mode()
    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """Take every step of an epoch, its learning rate times `factor`; mean loss and accuracy (M,), see `measure`."""
        feed = self.feed
        self.step.set_rate(factor)
        order = feed.order(number)
        with threads(1):
            y, shares = feed.y[order], feed.partner_shares(number)
            targets = feed.targets(y, self.n_outputs, shares)
            weights = feed.sample_weights(y)
        self.t = targets if self.t is None or feed.device.type == "cpu" else self.t.copy_(targets)
        self.w = weights if feed.class_weights is None or feed.device.type == "cpu" else self.w.copy_(weights)
        randomness = feed.randomness(number)
        for start in range(0, feed.n_steps, self.chunk):
            stop = min(start + self.chunk, feed.n_steps)
            with self.pace.piece() as self.step.threads:
                rows, mixed = order[start:stop], None if shares is None else shares[start:stop]
                self._run(start, stop, self.step.batches(rows, partial(self._gather, rows, randomness, mixed)))
        with threads(1):
            return measure(self.z, y, feed, self.kind)

    def _run(self, start: int, stop: int, batches: Iterable[Any]) -> None:
        if self.feed.device.type == "cpu":
            self._steps(start, stop, batches)
            return
        if start not in self.graphs:
            self.graphs[start] = self._capture(start, stop, batches)
        self.graphs[start].replay()

    def _steps(self, start: int, stop: int, batches: Iterable[Any]) -> None:
        assert self.t is not None
        parts = zip(batches, self.t[start:stop], self.w[start:stop], self.z[start:stop], strict=False)
        for active, (x, t, w, z) in zip(self.feed.active[start:stop], parts, strict=True):
            self.step.step(x, t, w, z, active)

    def _capture(self, start: int, stop: int, batches: Iterable[Any]) -> Any:
        """The steps as a CUDA graph, its large products in TF32; the warm-up that it needs is undone."""
        before = {name: tensor.clone() for name, tensor in self.step.state().items()}
        products = torch.backends.cuda.matmul
        precision, products.fp32_precision = products.fp32_precision, "tf32"
        try:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # Four batches, since every fourth is aligned to 16 bytes: this compiles the kernels for both cases.
                self._steps(start, min(stop, start + 4), batches)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._steps(start, stop, batches)
        finally:
            products.fp32_precision = precision
        self.step.load(before)
        return graph

    def state(self) -> dict[str, Any]:
        return self.step.state()

    def load(self, state: dict[str, Any]) -> None:
        self.step.load(state)


class Autograd:
    """The same steps by PyTorch's automatic differentiation and torch.optim, for a single network."""

    def __init__(self, networks: Sequence[MLP], feed: Feed, kind: Kind, options: Sequence[Train]) -> None:
        (self.mlp,), self.feed, self.kind, (self.options,) = networks, feed, kind, options
        feed.load()
        rate = self.options.learning_rate
        self.optimizer: torch.optim.Optimizer
        if self.options.optimizer == "adam":
            self.optimizer = torch.optim.Adam(self.mlp.parameters(), rate, BETAS, EPSILON, fused=True)
        else:
            momentum = MOMENTUM if self.options.optimizer == "momentum" else 0.0
            self.optimizer = torch.optim.SGD(self.mlp.parameters(), rate, momentum, fused=True)

    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """See `ClosedForm.epoch`."""
        with threads(threads_for(self.options.batch_size, self.mlp)):
            return self._epoch(number, factor)

    def _epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        feed, loss = self.feed, TARGETS[self.kind].loss
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * factor
        order, randomness = feed.order(number), feed.randomness(number)
        n_outputs, shares = self.mlp.linear()[-1].out_features, feed.partner_shares(number)
        soft = None if shares is None else feed.targets(feed.y[order], n_outputs, shares).mT
        weights = None if feed.class_weights is None else feed.sample_weights(feed.y[order])[:, 0]
        z = torch.empty(feed.n_steps, feed.batch_size, n_outputs, device=feed.device)
        x = torch.empty(feed.chunk(), feed.batch_size, feed.x.shape[1], device=feed.device)
        for start in range(0, feed.n_steps, len(x)):
            rows = order[start : start + len(x)]
            feed.fill(rows, x[: len(rows)], randomness, None if shares is None else shares[start : start + len(rows)])
            for s, (batch, indices) in enumerate(zip(x, rows, strict=False), start):
                n = min(feed.batch_size, len(feed.y) - s * feed.batch_size)  # the last batch may be smaller
                logits, activations = self.mlp.with_activations(batch[:n])
                target = feed.y[indices[:n]] if soft is None else soft[s, :n]
                w = None if weights is None else weights[s, :n]
                objective = loss(logits, target, w) + penalty(self.mlp, activations, self.options)
                self.optimizer.zero_grad()
                objective.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                z[s, :n] = logits.detach()
        return measure(z.mT, feed.y[order], feed, self.kind)

    def state(self) -> dict[str, Any]:
        return {"mlp": self.mlp.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.mlp.load_state_dict(state["mlp"])
        self.optimizer.load_state_dict(state["optimizer"])


def penalty(mlp: MLP, activations: Sequence[Tensor], options: Train) -> Tensor | float:
    """R(θ) = l1 Σ|w| + l2 Σw² over the weights, not the biases, plus the activity penalties of the hidden layers.

    The activity penalties are sums over the units and means over the batch, so they do not depend on its size.
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


def threads_for(n_samples: int, mlp: MLP) -> int:
    """How many threads speed up products of that many samples with the weights, even on a busy machine."""
    return max(1, n_samples * max(w.numel() for w in mlp.weights()) // WORK_OF_A_THREAD)


def measure(z: Tensor, y: Tensor, feed: Feed, kind: Kind) -> tuple[Tensor, Tensor]:
    """Mean loss, without the penalties, and accuracy of an epoch's samples, each before the step on its batch.

    Logits z float32 (steps, ..., K, B) and targets y (steps, ..., B) or (steps, ..., B, K) → float64 (M,) each; the
    accuracy of a regression is NaN.
    """
    total, correct = totals(z, y, feed.weights.squeeze(-2) > 0, kind)
    return total / feed.counts, correct / feed.counts


def totals(z: Tensor, y: Tensor, counted: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Like `measure`, but sums, over the samples that are `counted`, bool (steps, ..., B)."""
    if z.ndim - 1 > counted.ndim:  # networks that share their batches
        counted, y = counted.unsqueeze(1), y.unsqueeze(1)
    target = TARGETS[kind]
    # Batch by batch first, so that the number of threads does not change the order of the sums.
    total, correct = (
        torch.where(counted, values, 0).sum(-1, dtype=torch.float64).sum(0).view(-1)
        for values in (target.losses(z, y), target.hits(z, y))
    )
    return total, correct


TRAINERS: dict[str, type[ClosedForm] | type[Autograd]] = {"closed-form": ClosedForm, "autograd": Autograd}
