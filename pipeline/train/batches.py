"""Mini-batches for training."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from pipeline.train.data import Dataset, gather, loaded

CHUNK = 4 << 20  # bytes of samples that are gathered, and distorted, at a time on a CPU: the size of its cache


Change = Callable[[Tensor, torch.Generator], Tensor]


class Feed:
    """The mini-batches of every epoch, determined by the seed and the number of the epoch alone.

    "..." is nothing if all networks see the same batches, and their number M if each sees its own.

    Parameters
    ----------
    data, seeds : one for each network; the same object and seed twice mean the same batches
    batch_size : B, or the number of samples if that is less
    transform : changes samples (N, D) in place as they are fed, with random numbers from a generator
    mix : α of mixup (Zhang et al. 2018), for networks that share their batches: each sample is fed as a mixture with
        the one before it in its batch, and so is its target; the larger share, drawn from Beta(α, α), is its own
    balance : samples of rare classes count more, so that each class counts alike
    in_memory : samples that are in a file fit into memory; see `load`
    """

    def __init__(
        self,
        data: Sequence[Dataset],
        seeds: Sequence[int],
        batch_size: int,
        transform: Change | None = None,
        mix: float = 0.0,
        balance: bool = False,
        in_memory: bool = False,
    ) -> None:
        sets = list({id(batch): batch for batch in data}.values())
        starts = accumulate((len(batch.y) for batch in sets), initial=0)
        offsets = {id(batch): start for batch, start in zip(sets, starts, strict=False)}
        columns = [(offsets[id(batch)], len(batch.y), seed) for batch, seed in zip(data, seeds, strict=True)]
        self.shared = len(set(columns)) == 1
        self.columns = columns[:1] if self.shared else columns
        self.transform, self.mix = transform, mix
        self.x, self.y = (sets[0].x, sets[0].y) if len(sets) == 1 else _joined(sets)
        self.device = self.y.device
        counts = [n for _, n, _ in columns]
        self.batch_size = min(batch_size, max(counts))
        self.n_steps = -(-max(counts) // self.batch_size)
        #: (steps, ..., 1, B): 1 / n for each of a batch's n samples, 0 for padding
        self.weights = self._shaped([self._weights(n) for _, n, _ in self.columns]).unsqueeze(-2)
        self.active = [tuple(s * self.batch_size < n for n in counts) for s in range(self.n_steps)]
        self.counts = torch.tensor(counts, device=self.device)
        self.class_weights = (
            torch.stack([self._class_weights(offset, n) for offset, n, _ in self.columns]) if balance else None
        )
        self.partners: Tensor | None = None
        self.in_memory = in_memory or isinstance(self.x, Tensor)
        #: every epoch has the same samples, from memory
        self.unchanged = self.in_memory and transform is None and not mix

    def samples(self, rows: range) -> Tensor:
        """Some of all samples, float32 (n, D)."""
        if isinstance(self.x, Tensor):
            return self.x[rows.start : rows.stop : rows.step]
        return self.x.read(torch.arange(rows.start, rows.stop, rows.step))

    def load(self) -> None:
        """Read all samples into memory, if they fit, for a step that gathers its batches from them."""
        if self.in_memory:
            self.x = loaded(self.x)

    def order(self, epoch: int) -> Tensor:
        """Indices of the samples of each batch of an epoch counted from 0; int64 (steps, ..., B)."""
        shuffled: dict[tuple[int, int], Tensor] = {}
        rows = []
        for offset, n, seed in self.columns:
            if (n, seed) not in shuffled:
                shuffled[n, seed] = torch.randperm(n, generator=self._generator(seed, epoch), device=self.device)
            filling = self.n_steps * self.batch_size - n
            rows.append(torch.nn.functional.pad(shuffled[n, seed], (0, filling)) + offset)
        return self._shaped(rows)

    def sample_weights(self, y: Tensor) -> Tensor:
        """What each sample of an epoch counts in its batch's mean, float32 (steps, ..., 1, B): `weights`, times those
        of the classes y (steps, ..., B) where these are balanced."""
        if self.class_weights is None:
            return self.weights
        table = self.class_weights[0] if y.ndim == 2 else self.class_weights
        of_class = table[y] if y.ndim == 2 else table.expand(len(y), *table.shape).gather(-1, y)
        return self.weights * of_class.unsqueeze(-2)

    def partner_shares(self, epoch: int) -> Tensor | None:
        """Share of the partner in each mixed sample of an epoch, 0 … ½, float32 (steps, B); None if nothing is
        mixed."""
        if not self.mix:
            return None
        rng = np.random.default_rng(self.randomness(epoch).initial_seed())  # torch draws no Beta from a generator
        drawn = rng.beta(self.mix, self.mix, (self.n_steps, self.batch_size)).astype(np.float32)
        return torch.from_numpy(np.minimum(drawn, 1 - drawn)).to(self.device)

    def targets(self, y: Tensor, n_outputs: int, shares: Tensor | None = None) -> Tensor:
        """Targets of batches (steps, ..., B) as columns, float32 (steps, ..., K, B): one-hot; for K = 1 as they are;
        mixed where there are `partner_shares`."""
        columns = self._columns(y, n_outputs)
        return columns if shares is None else columns.lerp(columns.roll(1, -1), shares.unsqueeze(-2))

    def _columns(self, y: Tensor, n_outputs: int) -> Tensor:
        if y.is_floating_point():
            return y.mT.contiguous()
        if n_outputs == 1:
            return y.unsqueeze(-2).to(torch.float32)
        steps, *lead, size = y.shape
        return torch.zeros(steps, *lead, n_outputs, size, device=y.device).scatter_(-2, y.unsqueeze(-2), 1.0)

    def fill(self, rows: Tensor, out: Tensor, generator: torch.Generator, shares: Tensor | None = None) -> None:
        """The samples of indices (..., B) into float32 (..., B, D), mixed where there are `partner_shares` (..., B)."""
        flat = out.view(-1, out.shape[-1])
        gather(self.x, rows.flatten(), flat)
        if shares is not None:
            if self.partners is None:  # the first call has the most rows
                self.partners = torch.empty_like(flat)
            partners = self.partners[: len(flat)]
            partners.view_as(out)[..., 1:, :].copy_(out[..., :-1, :])  # each sample's partner is the one before it
            partners.view_as(out)[..., 0, :].copy_(out[..., -1, :])
            flat.lerp_(partners, shares.flatten().unsqueeze(1))
        if self.transform:
            self.transform(flat, generator)

    def randomness(self, epoch: int) -> torch.Generator:
        """The generator of an epoch's distortions."""
        return self._generator(self.columns[0][2], ~epoch)

    def chunk(self) -> int:
        """How many batches to gather at a time: those that fit a CPU's cache, or a quarter of a GPU's free memory."""
        room = CHUNK if self.device.type == "cpu" else torch.cuda.mem_get_info(self.device)[0] // 4
        step = len(self.columns) * self.batch_size * self.x.shape[1] * self.x.element_size()
        return max(1, min(self.n_steps, room // step))

    def _shaped(self, columns: Sequence[Tensor]) -> Tensor:
        """Columns (steps · B,), one or one for each network → (steps, ..., B)."""
        if len(columns) == 1:
            return columns[0].view(self.n_steps, self.batch_size)
        return torch.stack([c.view(self.n_steps, self.batch_size) for c in columns], 1)

    def _class_weights(self, offset: int, n: int) -> Tensor:
        """Weight of each class, (K,), inversely proportional to its number of samples; their mean over samples is 1."""
        counts = torch.bincount(self.y[offset : offset + n], minlength=int(self.y.max()) + 1)
        return torch.where(counts > 0, n / ((counts > 0).sum() * counts.clamp(min=1)), 0.0).float()

    def _weights(self, n: int) -> Tensor:
        full, rest = divmod(n, self.batch_size)
        weights = torch.zeros(self.n_steps * self.batch_size, device=self.device)
        weights[: full * self.batch_size] = 1 / self.batch_size
        weights[full * self.batch_size : n] = 1 / max(rest, 1)
        return weights

    def _generator(self, seed: int, epoch: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed * 1_000_003 + epoch)  # so that any epoch can be repeated


def _joined(datasets: Sequence[Dataset]) -> tuple[Tensor, Tensor]:
    features = [data.x for data in datasets if isinstance(data.x, Tensor)]
    assert len(features) == len(datasets), "only one dataset may be trained on from its file"
    return torch.cat(features), torch.cat([data.y for data in datasets])
