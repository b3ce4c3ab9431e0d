"""Features that stay in their file. They are read row by row: pages of a mapped file would count as memory of the
process, and random rows soon map all of it."""

import errno
import os
import weakref
from itertools import pairwise
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES = 4 << 20  # of features that are copied or evaluated at a time


class FileRows:
    """A matrix float32 (N, D) in a file, in C order, whose rows are read when they are asked for.

    The file stays open, so it may be replaced or deleted meanwhile. Several threads may read. Pickled, it is an array:
    another process may be on another machine.

    Parameters
    ----------
    file : open, and may be closed afterwards
    offset : bytes before the first row

    Example
    -------
    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile() as file:
    ...     np.float32([[1, 2], [3, 4], [5, 6]]).tofile(file.name)
    ...     matrix = FileRows(file, 0, (3, 2))
    >>> matrix[np.array([2, 0])]
    array([[5., 6.],
           [1., 2.]], dtype=float32)
    """

    dtype = np.dtype(np.float32)

    def __init__(self, file: IO[bytes], offset: int, shape: tuple[int, int]) -> None:
        self.name, self.offset, self.shape = file.name, offset, shape
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return 4 * self.shape[0] * self.shape[1]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Rows by index, indices, slice or mask, newly allocated."""
        chosen = np.arange(len(self))[rows]
        x = np.empty((*chosen.shape, self.shape[1]), np.float32)
        self.read(chosen.reshape(-1), x.reshape(-1, self.shape[1]))
        return x

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (self[:],)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Read those rows (n,) into float32 (n, D), in C order; those that follow one another, at once.

        Raises
        ------
        OSError : the file has been cut off, or cannot be read
        """
        if not out.size:
            return
        size, memory = 4 * self.shape[1], out.data.cast("B")
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        edges, offsets = size * np.append(first, len(rows)), self.offset + size * rows[first]
        for (start, stop), offset in zip(pairwise(edges.tolist()), offsets.tolist(), strict=True):
            while start < stop:  # one call reads 2 GB at most
                n = os.preadv(self._descriptor, (memory[start:stop],), offset)
                if not n:
                    raise OSError(errno.EIO, "cut off", self.name)
                start, offset = start + n, offset + n


Matrix: TypeAlias = NDArray[np.float32] | FileRows  # float32 (N, D), in memory or in a file
