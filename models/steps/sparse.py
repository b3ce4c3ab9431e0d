"""Samples in which most features have the same value, stored as differences from that background.

Four fifths of the pixels of a digit are empty. With the background β, one value for each feature, a sample is
x = β + s, where s is sparse, and the products of a first layer

    x Wᵀ + b = s Wᵀ + (W β + b)        ∂L/∂W = Σ_i δ_i x_iᵀ = Σ_i δ_i s_iᵀ + (Σ_i δ_i) βᵀ

multiply only by the values of s that are not 0 and by those of β (`models.steps.cpu`).
"""

import ctypes
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from models.moments import part_rows
from models.steps import Workload, llvm
from models.steps.llvm import I16, I32, I64, Writer

SHARE = 0.45  # of values that differ from the background; above it, dense products are faster
FINDING = 40  # units whose dense products take as long as finding the differences
SAMPLES = 1000  # from which the background is estimated
INDEX = 1 << 16  # features, and samples of a batch, that two bytes can count
ROOM = 1 << 24  # features times samples of a batch that a thread has memory to sort


@torch.inference_mode()
def samples_for(work: Workload, units: int, batch_size: int) -> "Sparse | None":
    """The differences of all samples, or memory for one chunk of them if every epoch changes the samples; None if dense
    products are faster for a first layer of that many units."""
    if work.samples is not None:
        common = background(work.samples(_some(work.n_samples)), units, batch_size, False)
        return None if common is None else Sparse(Differences.of(work.samples, work.n_samples, common), True)
    x = work.chunk().flatten(0, 1)
    common = background(x[:: _some(len(x)).step], units, batch_size, True)
    return None if common is None else Sparse(Differences(common, len(x), x.numel()), False)


def _some(n_samples: int) -> range:
    """Of which samples the background is estimated."""
    return range(0, n_samples, -(-n_samples // SAMPLES))


def background(some: Tensor, units: int, batch_size: int, anew: bool) -> Tensor | None:
    """The value that most of some samples share, for each feature: float32 (N, n) → (n,).

    None where too many values differ for a layer of so many units, or the batches are too large.

    anew : the samples change in every epoch, so their differences must be found again each time
    """
    n = some.shape[1]
    if max(n, batch_size) > INDEX or n * batch_size > ROOM:
        return None
    common = some.mode(0).values
    share = (some != common).to(torch.float32).mean().item()
    return common if share / SHARE + anew * FINDING / units < 1 else None


class Differences:
    """Where samples differ from their background, and by how much: a sparse matrix in rows (CSR).

    Parameters
    ----------
    background : β, float32 (n,)
    n_samples, room : samples and values to allocate memory for
    """

    def __init__(self, background: Tensor, n_samples: int, room: int) -> None:
        self.background = background
        self.starts = torch.zeros(n_samples + 1, dtype=torch.int64)
        self.features = torch.empty(room + llvm.VECTOR, dtype=torch.int16)
        self.values = torch.empty(room + llvm.VECTOR)
        self._fill = _compiled_fill(len(background))

    @classmethod
    def of(cls, samples: Callable[[range], Tensor], n_samples: int, background: Tensor) -> "Differences":
        """The differences of all samples, float32 (N, n), which are read twice, part by part: to count them first."""
        size = part_rows(len(background))
        parts = [range(first, min(first + size, n_samples)) for first in range(0, n_samples, size)]
        made = cls(background, n_samples, sum(int((samples(part) != background).sum()) for part in parts))
        for part in parts:
            made.fill(samples(part), part.start)
        return made

    def fill(self, x: Tensor, first: int = 0) -> None:
        """Write the differences of x, float32 (N, n), which must fit the memory, after those of the `first` samples."""
        x, before = x.contiguous(), int(self.starts[first])
        starts = self.starts[first : first + len(x) + 1]
        job = Job(
            x=x.data_ptr(), n_samples=len(x), background=self.background.data_ptr(), starts=starts.data_ptr(),
            features=self.features[before:].data_ptr(), values=self.values[before:].data_ptr(),
        )  # fmt: skip
        llvm.run(self._fill, job, 1)  # one thread: the position of a sample's values depends on the samples before it
        starts[1:] += before

    def addresses(self) -> dict[str, int]:
        return {name: getattr(self, name).data_ptr() for name in ("starts", "features", "values")}


class SparseBatch(NamedTuple):
    """A batch: rows of the samples, int64 (B,), contiguous."""

    samples: Differences
    rows: Tensor


class Sparse(NamedTuple):
    """The samples of a training as differences: of all samples if `complete`, else of the current chunk."""

    differences: Differences
    complete: bool

    def batches(self, rows: Tensor, gather: Callable[[], Tensor]) -> Iterable[SparseBatch]:
        """See `models.steps.Step`."""
        if not self.complete:
            self.differences.fill(gather().flatten(0, 1))
            rows = torch.arange(rows.numel()).view(rows.shape)
        return [SparseBatch(self.differences, batch) for batch in rows]


class Job(ctypes.Structure):
    """Addresses of float32 unless a comment says otherwise, and the number of samples."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("n_samples", "x", "background", "starts", "features", "values")  # int64, int16, float32
    ]


@cache
def _compiled_fill(n: int) -> Any:
    return llvm.for_this_machine(fill_written(n), ["fill"])[0]


def fill_written(n: int) -> str:
    return llvm.written(Job, {"fill": lambda writer: _write_fill(writer, n)})


def _write_fill(f: Writer, n: int) -> None:
    """The differences of all samples, without a branch per feature."""
    b = f.b
    count = f.variable(I64(0))

    def append(row: ir.Value, j: ir.Value, size: int) -> None:
        x, common = f.floats("x", b.add(row, j), size), f.floats("background", j, size)
        differs = b.fcmp_unordered("!=", x, common)
        positions = ir.VectorType(I32, size)(list(range(size)))
        features = f.compressed(b.add(f.splat(b.trunc(j, I32), size), positions), differs)
        here = b.load(count)
        f.store(f.compressed(b.fsub(x, common), differs), f.job["values"], here)
        f.store(b.trunc(features, ir.VectorType(I16, size)), f.job["features"], here)
        b.store(b.add(here, b.zext(b.ctpop(b.bitcast(differs, ir.IntType(size))), I64)), count)

    with f.loop(0, f.number("n_samples")) as i:
        row = f.at(i, n)
        f.along(n, lambda j, size: append(row, j, size))
        f.store(b.load(count), f.job["starts"], b.add(i, I64(1)))
