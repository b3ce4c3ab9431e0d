"""Features that stay in their file: mapped into memory, and read row by row as training asks for them.

`features.npz` is stored, not compressed, so its arrays lie in the file as they would in memory. The operating system
keeps of a mapped file what fits beside everything else, and gives it up without writing it anywhere.
"""

import os
import resource
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import Standardize

PIECE = 16 << 20  # bytes of features that are evaluated at a time
SHARE = 0.5  # of the memory that is free, which features may take
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a ZIP file: lengths of its name and of its extra field


def mapped(path: Path, name: str) -> NDArray[Any]:
    """The array `name` of an .npz file, read-only, without reading it; its bytes need not be aligned.

    Raises
    ------
    ValueError, KeyError, OSError, BadZipFile : no such file or array, or it cannot be mapped
    """
    with ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        with path.open("rb") as f:
            f.seek(member.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(f.read(_LOCAL_HEADER.size))
            f.seek(name_length + extra_length, os.SEEK_CUR)
            major, _ = np.lib.format.read_magic(f)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(f)
            if fortran_order or dtype.hasobject:
                raise ValueError(f"{name} is not a plain array in C order")
            if not np.prod(shape):
                return np.empty(shape, dtype)
            return np.asarray(np.memmap(f, dtype, "r", f.tell(), shape))


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


def fits(n_bytes: int, device: torch.device, sharers: int = 1) -> bool:
    """Whether so many bytes of features should lie in memory, on a machine (and its GPU) that `sharers` share."""
    room = _free() / sharers
    if device.type == "cuda":
        room = min(room, torch.cuda.mem_get_info(device)[0])
    return n_bytes <= SHARE * room


def _free() -> float:
    """Bytes that this process can still allocate: by the machine, its control group, and its own limit on data."""
    status = _numbers(Path("/proc/self/status"))
    room = [1024 * _numbers(Path("/proc/meminfo")).get("MemAvailable", np.inf)]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        room.append(limit - 1024 * status.get("VmData", 0))
    for group in _groups():
        try:
            maximum = float((group / "memory.max").read_text().replace("max", "inf"))
            used = float((group / "memory.current").read_text())
            cached = _numbers(group / "memory.stat").get("file", 0)  # which the kernel gives up
        except (OSError, ValueError):
            continue
        room.append(maximum - used + cached)
    return max(0.0, min(room))


def _groups() -> Iterator[Path]:
    """The control groups (version 2) of this process, the innermost first."""
    try:
        line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    except (OSError, IndexError):
        return
    root = Path("/sys/fs/cgroup")
    group = root / line.rpartition(":")[2].strip("/")
    yield from (group, *(parent for parent in group.parents if parent.is_relative_to(root)))


def _numbers(path: Path) -> dict[str, float]:
    """First word → first number of every line of one of the kernel's files; nothing where there is none."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: float(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
