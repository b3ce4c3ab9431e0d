"""Splits to train and validate on: in memory, or features that stay in their file and are read row by row.

`features.npz` is stored, not compressed, so its arrays lie in the file as they would in memory. The operating system
keeps as much of a mapped file in memory as fits beside everything else, and drops it without writing it anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Standardize
from pipeline.extract import Features

PIECE = 16 << 20  # bytes of features that are evaluated at a time


class Rows(Protocol):
    """Features float32 (N, D) that are read row by row: a `Table`, or what several machines hold."""

    shape: tuple[int, int]

    def element_size(self) -> int: ...

    def take(self, rows: Tensor, out: Tensor, /) -> Tensor: ...


class Table:
    """A matrix float32 (N, D) whose rows lie in arrays that may be mapped files; read only as they are asked for.

    Parameters
    ----------
    arrays : float32 (…, D) each, C order; taken as one below the other
    rows : int64 (N,), which of their rows the matrix consists of; all if None
    standardize : what is done to rows as they are read
    device : where to they are read
    """

    def __init__(
        self,
        arrays: Sequence[NDArray[np.float32]],
        rows: NDArray[np.int64] | None = None,
        standardize: Standardize | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.arrays = [array for array in arrays if len(array)]
        self.rows = np.arange(sum(map(len, self.arrays))) if rows is None else rows
        self.standardize, self.device = standardize, device or torch.device("cpu")
        self.shape = len(self.rows), arrays[0].shape[1]
        # As bytes, so that numpy moves rows as they are, aligned or not.
        self._bytes = [array.view(np.uint8) for array in self.arrays]
        self._starts = np.cumsum([0, *map(len, self.arrays)])

    def __len__(self) -> int:
        return self.shape[0]

    def element_size(self) -> int:
        return 4

    def standardised(self, standardize: Standardize, device: torch.device) -> "Table":
        return Table(self.arrays, self.rows, standardize, device)

    def take(self, indices: Tensor | slice, out: Tensor | None = None) -> Tensor:
        """Rows int64 (n,), or a slice of them, into float32 (n, D) on the device."""
        rows = self.rows[indices if isinstance(indices, slice) else indices.cpu().numpy()]
        direct = out is not None and out.device.type == "cpu" and out.is_contiguous()
        x = out if direct and out is not None else torch.empty(len(rows), self.shape[1])
        target = x.numpy().view(np.uint8)
        if len(self._bytes) == 1:
            np.take(self._bytes[0], rows, 0, target, mode="clip")  # "raise" would copy once more
        else:
            for source, start, stop in zip(self._bytes, self._starts, self._starts[1:], strict=False):
                here = (start <= rows) & (rows < stop)
                target[here] = source[rows[here] - start]
        if self.standardize is not None:
            self.standardize.apply_(x)
        if out is not None:
            return out if direct else out.copy_(x)
        return x.to(self.device)


def piece_rows(x: Tensor | Table) -> int:
    """How many rows of x (N, D) `PIECE` bytes hold."""
    return max(1, PIECE // (4 * x.shape[1]))


def pieces(x: Tensor | Table, n_rows: int | None = None) -> Iterator[Tensor]:
    """The rows of x, n_rows at a time, or as many as `PIECE` bytes hold."""
    n_rows = n_rows or piece_rows(x)
    for start in range(0, len(x), n_rows):
        here = slice(start, start + n_rows)
        yield x[here] if isinstance(x, Tensor) else x.take(here)


def take(x: Tensor | Rows, rows: Tensor, out: Tensor) -> Tensor:
    """Those rows of x, int64 (n,), into float32 (n, D)."""
    return torch.index_select(x, 0, rows.to(x.device), out=out) if isinstance(x, Tensor) else x.take(rows, out)


@dataclass(frozen=True, slots=True)
class Batch:
    """A split on the device: features float32 (N, D), targets int64 (N,) or float32 (N, K)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Stored:
    """A split whose features stay in their file, float32 (N, D), and only their targets lie on the device."""

    x: Table
    y: Tensor


Split = Batch | Stored
Splits = tuple[Split, Split]  # to train on, to validate on


def splits_of(features: Features, with_validation: bool, stored: bool) -> Splits:
    """What to train on and what to validate on: rows that stay in their file, or copies that may be changed."""
    of_train = ~features.rows("test") if with_validation else features.rows("train")
    of_validation = features.rows("validation") & ~of_train
    if stored:
        return _stored(features, of_train, of_train[features.copy_of]), _stored(features, of_validation)
    splits = features.with_copies(of_train), (features.x[of_validation], features.y[of_validation])
    training, validation = (Batch(torch.from_numpy(x), torch.from_numpy(y)) for x, y in splits)
    return training, validation


def _stored(features: Features, rows: NDArray[np.bool_], copies: NDArray[np.bool_] | None = None) -> Stored:
    """Those rows, and those of the copies below them."""
    taken = np.flatnonzero(rows)
    copied = np.empty(0, np.int64) if copies is None else np.flatnonzero(copies)
    table = Table([features.x, features.copies], np.concatenate([taken, len(features.x) + copied]))
    return Stored(table, torch.from_numpy(features.y[np.concatenate([taken, features.copy_of[copied]])]))


def standardised(split: Split, standardize: Standardize, device: torch.device) -> Split:
    if isinstance(split, Batch):
        return Batch(standardize.apply_(split.x).to(device), split.y.to(device))
    return Stored(split.x.standardised(standardize, device), split.y.to(device))
