"""The training and validation samples: in memory, or left in their file and read row by row.

`features.npz` is not compressed, so its arrays have the same bytes in the file as in memory. The operating system
caches as much of the file as there is free memory, and can drop that without writing it anywhere.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Standardize
from pipeline.extract import PIECE_BYTES, Features, Matrix
from pipeline.profile import step
from pipeline.task import CopyForm


class RowReader(Protocol):
    """Features float32 (N, D) that are not in memory: a `StoredMatrix`, or samples shared by several machines."""

    shape: tuple[int, int]

    def element_size(self) -> int: ...

    def read(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Those rows, int64 (n,), as float32 (n, D), written to `out` if it is given."""
        ...


class StoredMatrix:
    """A matrix float32 (N, D) whose rows are in files, mostly; a row is read when it is needed.

    Parameters
    ----------
    arrays : float32 (…, D) each, stacked vertically
    rows : int64 (N,), the rows of the stacked arrays that the matrix consists of; None = all of them
    standardize : applied to rows as they are read
    device : device of the rows that `read` returns

    Example
    -------
    >>> matrix = StoredMatrix([np.float32([[1, 2], [3, 4]]), np.float32([[5, 6]])])
    >>> matrix.read(torch.tensor([2, 0]))
    tensor([[5., 6.],
            [1., 2.]])
    """

    def __init__(
        self,
        arrays: Sequence[Matrix],
        rows: NDArray[np.int64] | None = None,
        standardize: Standardize | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.arrays = [array for array in arrays if len(array)]
        self.rows = np.arange(sum(map(len, self.arrays))) if rows is None else rows
        self.standardize, self.device = standardize, device or torch.device("cpu")
        self.shape = len(self.rows), arrays[0].shape[1]
        self._starts = np.cumsum([0, *map(len, self.arrays)])

    def element_size(self) -> int:
        return 4

    def standardised(self, standardize: Standardize, device: torch.device) -> "StoredMatrix":
        """The same rows, standardised as they are read, on a device."""
        return StoredMatrix(self.arrays, self.rows, deepcopy(standardize).cpu(), device)  # that of a classifier moves

    def read(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Those rows, int64 (n,), as float32 (n, D) on the device, written to `out` if it is given."""
        chosen = self.rows[rows.cpu().numpy()]
        direct = out is not None and out.device.type == "cpu" and out.is_contiguous()
        x = out if direct and out is not None else torch.empty(len(chosen), self.shape[1])
        target = x.numpy()
        size = piece_rows(self)  # a piece at a time: what an index selects is copied
        for first in range(0, len(chosen), size):
            piece, of_piece = target[first : first + size], chosen[first : first + size]
            for source, start, stop in zip(self.arrays, self._starts, self._starts[1:], strict=False):
                here = (start <= of_piece) & (of_piece < stop)
                piece[here] = source[of_piece[here] - start]
        if self.standardize is not None:
            self.standardize.apply_(x)
        if out is not None:
            return out if direct else out.copy_(x)
        return x.to(self.device)


class StackedRows:
    """Some rows of matrices that are stacked vertically, each in memory or not: a `RowReader`.

    Parameters
    ----------
    parts : float32 (…, D) each
    rows : int64 (N,), of the stacked matrices
    device : of the parts, and of the rows that `read` returns

    Example
    -------
    >>> stacked = StackedRows([torch.eye(2), torch.zeros(1, 2)], torch.tensor([2, 1]), torch.device("cpu"))
    >>> stacked.read(torch.tensor([1, 0]))
    tensor([[0., 1.],
            [0., 0.]])
    """

    def __init__(self, parts: Sequence["Tensor | RowReader"], rows: Tensor, device: torch.device) -> None:
        self.parts, self.rows, self.device = parts, rows, device
        self.shape = len(rows), parts[0].shape[1]
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)]).tolist()

    def element_size(self) -> int:
        return 4

    def read(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Those rows, int64 (n,), as float32 (n, D) on the device, written to `out` if it is given."""
        chosen = self.rows[rows.cpu()]
        x = torch.empty(len(chosen), self.shape[1], device=self.device) if out is None else out
        for part, start, stop in zip(self.parts, self._starts, self._starts[1:], strict=False):
            (here,) = ((start <= chosen) & (chosen < stop)).nonzero(as_tuple=True)
            if len(here) == len(chosen):
                gather(part, chosen - start, x)
            elif len(here):
                found = torch.empty(len(here), self.shape[1], device=self.device)
                x[here.to(self.device)] = gather(part, chosen[here] - start, found)
        return x


@dataclass(frozen=True, slots=True)
class Dataset:
    """Features float32 (N, D), in memory (a tensor) or not, and targets int64 (N,) or float32 (N, K)."""

    x: Tensor | RowReader
    y: Tensor


class Rows(NamedTuple):
    """The same in arrays of NumPy: features float32 (N, D), and y int64 (N,), classes, or float32 (N, K), values."""

    x: NDArray[np.float32]
    y: NDArray[Any]

    def of(self, chosen: NDArray[Any]) -> "Rows":
        """Those of a mask or of indices, in new memory."""
        return Rows(self.x[chosen], self.y[chosen])


class Datasets(NamedTuple):
    """The samples that a network is trained and validated on."""

    training: Dataset
    validation: Dataset


class Copies(NamedTuple):
    """The samples themselves, and what the verdict `known` learns from besides them and their plain copies."""

    samples: Dataset
    degraded: Dataset  # of the same classes
    foreign: Dataset  # with the class of the sample, of which they are none
    auxiliary: Dataset  # of the same classes, copies of none: see `Source`


@step("read features")
def load_datasets(features: Features, with_validation: bool, forms: Sequence[CopyForm] = ("plain",)) -> Datasets:
    """The samples of a run, as extracted, left in the file.

    Parameters
    ----------
    with_validation : train on the validation samples too; none are left to validate on
    forms : of the copies that are trained on, after the samples
    """
    training = training_rows(features, with_validation)
    validation = features.rows("validation") & ~training
    copies, none = training[features.copy_of] & np.isin(features.forms, forms), np.zeros(len(features.copies), bool)
    return Datasets(_stored(features, training, copies), _stored(features, validation, none))


def load_copies(features: Features, with_validation: bool, form: CopyForm) -> Dataset:
    """The copies of that form of the samples that are trained on, as extracted, left in the file."""
    copies = training_rows(features, with_validation)[features.copy_of] & (features.forms == form)
    return _stored(features, np.zeros(len(features.x), bool), copies)


def load_test(features: Features) -> Dataset:
    """The samples of the test split, as extracted, left in the file."""
    return _stored(features, features.rows("test"), np.zeros(len(features.copies), bool))


def training_rows(features: Features, with_validation: bool) -> NDArray[np.bool_]:
    """Which samples are trained on, bool (N,)."""
    return ~features.rows("test") if with_validation else features.rows("train")


def _stored(features: Features, samples: NDArray[np.bool_], copies: NDArray[np.bool_]) -> Dataset:
    """Those samples, followed by those copies, left in the file."""
    own, copied = np.flatnonzero(samples), np.flatnonzero(copies)
    x = StoredMatrix([features.x, features.copies], np.concatenate([own, len(features.x) + copied]))
    return Dataset(x, torch.from_numpy(features.y[np.concatenate([own, features.copy_of[copied]])]))


def standardised(data: Dataset, standardize: Standardize, device: torch.device) -> Dataset:
    """The dataset standardised, on a device; features in memory are changed in place."""
    if isinstance(data.x, Tensor):
        return Dataset(standardize.apply_(data.x).to(device), data.y.to(device))
    assert isinstance(data.x, StoredMatrix)
    return Dataset(data.x.standardised(standardize, device), data.y.to(device))


@step("read features")
def loaded(x: Tensor | RowReader) -> Tensor:
    """All rows of x (N, D), in memory; they are read in pieces, so that they are not there twice."""
    if isinstance(x, Tensor):
        return x
    n_rows = piece_rows(x)
    read = torch.empty(x.shape, device=next(pieces(x, 1), torch.empty(0)).device)
    for part, piece in zip(torch.split(read, n_rows), pieces(x, n_rows), strict=False):
        part.copy_(piece)
    return read


def piece_rows(x: Tensor | RowReader) -> int:
    """How many rows of x (N, D) fit into `PIECE_BYTES`."""
    return max(1, PIECE_BYTES // (4 * x.shape[1]))


def pieces(x: Tensor | RowReader, n_rows: int | None = None, stop: int | None = None) -> Iterator[Tensor]:
    """The rows of x, or the first `stop`, `n_rows` at a time, by default as many as fit into `PIECE_BYTES`.

    Example
    -------
    >>> [len(piece) for piece in pieces(torch.zeros(7, 3), 3)]
    [3, 3, 1]
    """
    n_rows = n_rows or piece_rows(x)
    end = x.shape[0] if stop is None else stop
    for first in range(0, end, n_rows):
        last = min(first + n_rows, end)
        yield x[first:last] if isinstance(x, Tensor) else x.read(torch.arange(first, last))


def gather(x: Tensor | RowReader, rows: Tensor, out: Tensor) -> Tensor:
    """Those rows of x, int64 (n,), written to `out`, float32 (n, D)."""
    return torch.index_select(x, 0, rows.to(x.device), out=out) if isinstance(x, Tensor) else x.read(rows, out)
