"""What extraction has finished, on disk until `features.npz` is written: nothing is decoded twice if it is stopped.

A shard is a small .npz file with the results of some contents. Shards identify contents by their digest, so that they
stay valid while files are added, renamed or removed; they are in a folder of their own for each set of parameters.
Results are read from shards row by row: a large data set is never in memory as a whole.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from pipeline.extract.features import Features, located
from pipeline.extract.recipe import Extracted, Recipe
from pipeline.run import Run, Streamed, write_npz
from pipeline.task import UserError, digest

SECONDS = 1.0  # of work that a killed extraction loses, about
BYTES = 16 << 20  # of features that are written at the latest
OPEN = 16  # files that are read at a time


@dataclass(frozen=True, slots=True)
class ShardFile:
    """Where the rows of three arrays begin in a shard, or in `features.npz`: of x, float32 (N, D), copies, (M, D), and
    prints, the fingerprints, int8 (N, P).

    x, copies, prints : offsets in bytes
    """

    path: Path
    n_features: int
    x: int
    copies: int
    n_print: int
    prints: int

    @staticmethod
    def of(path: Path) -> "ShardFile":
        """Raises ValueError, KeyError, OSError or BadZipFile if it is no such file."""
        with path.open("rb") as f, ZipFile(f) as archive:
            shape, _, x = located(f, archive, "x")
            printed, _, prints = located(f, archive, "prints")
            return ShardFile(path, shape[1], x, located(f, archive, "copies")[2], printed[1], prints)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the features of one content are.

    file : None if the content cannot be used
    row : of x
    first, n_copies : rows of copies
    reason : why it cannot be used
    """

    file: ShardFile | None
    row: int = 0
    first: int = 0
    n_copies: int = 0
    reason: str = ""

    def covers(self, n_copies: int) -> bool:
        """Whether a sample with that many copies needs no decoding."""
        return self.file is None or self.n_copies >= n_copies


class Reader:
    """Reads rows of `ShardFile`s as bytes; mapped files would count as memory of the process."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def row(self, one: Stored) -> bytes:
        """Features (D,) of a usable content."""
        assert one.file is not None
        return self._read(one.file, one.file.x, one.row, 1, 4 * one.file.n_features)

    def copies(self, one: Stored, n: int) -> bytes:
        """Features (n, D) of its first copies."""
        assert one.file is not None
        return self._read(one.file, one.file.copies, one.first, n, 4 * one.file.n_features)

    def fingerprint(self, one: Stored) -> bytes:
        """Fingerprint (P,) of a usable content."""
        assert one.file is not None
        return self._read(one.file, one.file.prints, one.row, 1, one.file.n_print)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _read(self, file: ShardFile, offset: int, first: int, n: int, size: int) -> bytes:
        descriptor = self._open.get(file.path)
        if descriptor is None:
            if len(self._open) == OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            descriptor = self._open[file.path] = os.open(file.path, os.O_RDONLY)
        data = os.pread(descriptor, n * size, offset + first * size)
        if len(data) < n * size:
            raise UserError(f"{file.path}: cut off; delete it and run `percept extract` again")
        return data


@contextmanager
def reading() -> Iterator[Reader]:
    """A reader of shards.

    Raises
    ------
    UserError : a file has been deleted meanwhile
    """
    reader = Reader()
    try:
        yield reader
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no longer there: another extraction into this folder has ended; run this one again"
        ) from None
    finally:
        reader.close()


def write(path: Path, results: Sequence[tuple[str, Extracted]]) -> None:
    """Write a shard: digest and result of each content."""
    usable = [one for _, one in results if one.row is not None]
    rows = [one.row for one in usable if one.row is not None]
    width, n_print = results[0][1].copies.shape[1], len(usable[0].fingerprint) if usable else 0
    index = [(content, one.reason if one.row is None else len(one.copies)) for content, one in results]
    write_npz(path, {
        "index": json.dumps(index),
        "x": Streamed((len(rows), width), (row.data for row in rows)),
        "copies": Streamed((sum(len(one.copies) for one in usable), width), (one.copies.data for one in usable)),
        "prints": Streamed((len(rows), n_print), (one.fingerprint.data for one in usable), "|i1"),
    })  # fmt: skip


def read(path: Path) -> dict[str, Stored]:
    """What `write` wrote, by digest, in the same order.

    Raises
    ------
    ValueError, KeyError, OSError or BadZipFile : no such file, or it is not a whole one
    """
    with np.load(path, allow_pickle=False) as archive:
        index: list[tuple[str, Any]] = json.loads(str(archive["index"]))
    file, row, first = ShardFile.of(path), 0, 0
    results = {}
    for content, result in index:
        if isinstance(result, str):
            results[content] = Stored(None, reason=result)
        else:
            results[content] = Stored(file, row, first, result)
            row, first = row + 1, first + result
    return results


class Shards:
    """The shards of a run for one set of parameters.

    folder : where they are
    before : by digest, what earlier extractions have left here
    found : the same for this extraction
    """

    def __init__(self, run: Run, recipe: Recipe) -> None:
        self.run = run
        self.folder = Path(os.path.realpath(run.shards)) / digest([recipe.key, recipe.copies_key])[:16]
        self.before: dict[str, Stored] = {}
        self.found: dict[str, Stored] = {}
        self._waiting: list[tuple[str, Extracted]] = []
        self._n_bytes, self._due = 0, time.monotonic() + SECONDS
        self._lock = Lock()
        for path in sorted(self.folder.glob("*.npz")):
            with suppress(ValueError, KeyError, OSError, EOFError, BadZipFile):  # cut off when the power failed
                self.before |= read(path)

    def add(self, content: str, one: Extracted) -> None:
        """Keep the result for a content; safe in several threads."""
        with self._lock:
            self._waiting.append((content, one))
            self._n_bytes += one.copies.nbytes + (0 if one.row is None else one.row.nbytes)
            if time.monotonic() >= self._due or self._n_bytes >= BYTES:
                self._write()

    def flush(self) -> None:
        """Write what `add` has not written yet."""
        with self._lock:
            if self._waiting:
                self._write()

    def discard(self) -> None:
        """Delete the shards of the run, whose content is in `features.npz` now."""
        shutil.rmtree(self.run.shards, ignore_errors=True)

    def _write(self) -> None:
        path = self.folder / f"{uuid.uuid4().hex}.npz"
        write(path, self._waiting)
        self.found |= read(path)
        self._waiting, self._n_bytes, self._due = [], 0, time.monotonic() + SECONDS


def of_features(features: Features, path: Path, copies: bool) -> dict[str, Stored]:
    """The contents of a features file, by digest; without its copies, unless they are asked for."""
    file = ShardFile.of(path)
    n_copies = len(features.copies) if copies else 0
    edges = np.searchsorted(features.copy_of[:n_copies], np.arange(len(features.x) + 1)).tolist()
    usable = {
        content: Stored(file, row, edges[row], edges[row + 1] - edges[row])
        for row, content in enumerate(features.digest.tolist())
    }
    return usable | {content: Stored(None, reason=reason) for _, reason, content, _ in features.skipped if content}
