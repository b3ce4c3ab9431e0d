"""features.npz: what extraction found, one row for each usable sample."""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from models.card import Kind
from pipeline.run import Run, require, write_npz
from pipeline.sources.sample import Split, Target
from pipeline.task import UserError

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


@dataclass(frozen=True, slots=True)
class Features:
    """What extraction found: one row for each usable sample.

    x float32 (N, D); y int64 (N,), index into labels, or float32 (N, K) for regression, of values that labels name;
    split, file and digest of the content, str (N,); copies float32 (M, D), features of varied copies, and copy_of
    int64 (M,), whose row each is a copy of, never of the test split; skipped:
    (file, reason, digest, or nothing for a duplicate) of what was not usable; task: the sections `data`, `features`
    and `augment` that made it; key: see `_key`; copies_key: the same for the copies.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    labels: tuple[str, ...]
    split: NDArray[np.str_]
    file: NDArray[np.str_]
    digest: NDArray[np.str_]
    copies: NDArray[np.float32]
    copy_of: NDArray[np.int64]
    skipped: tuple[tuple[str, str, str], ...]
    task: dict[str, Any]
    key: str
    copies_key: str

    @property
    def n_bytes(self) -> int:
        """Bytes of the features, copies and all."""
        return self.x.nbytes + self.copies.nbytes

    def rows(self, split: Split) -> NDArray[np.bool_]:
        """Which rows are of that split."""
        return np.asarray(self.split == split)

    def with_copies(self, rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Features and targets of those rows (mask or indices) and of their copies, newly allocated."""
        chosen = np.zeros(len(self.x), bool)
        chosen[rows] = True
        copied = chosen[self.copy_of]
        if not copied.any():  # a large data set is not to lie there twice
            return self.x[rows], self.y[rows]
        x = np.concatenate([self.x[rows], self.copies[copied]])
        return x, np.concatenate([self.y[rows], self.y[self.copy_of[copied]]])

    @property
    def kind(self) -> Kind:
        """Kind of the target, as the targets show it."""
        if self.y.ndim == 2:
            return "regression"
        return "binary" if len(self.labels) == 2 else "multiclass"

    def data_digest(self) -> str:
        """SHA-256 over content, target and split of every sample, whatever their order."""
        targets = self.y.tolist() if self.kind == "regression" else [self.labels[k] for k in self.y]
        lines = sorted(f"{d} {t} {s}" for d, t, s in zip(self.digest, targets, self.split, strict=True))
        return sha256("\n".join(lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        arrays = {
            "x": self.x, "y": self.y, "labels": self.labels, "split": self.split, "files": self.file,
            "digest": self.digest, "copies": self.copies, "copy_of": self.copy_of,
            "skipped": json.dumps(self.skipped), "task": json.dumps(self.task),
            "key": self.key, "copies_key": self.copies_key,
        }  # fmt: skip
        write_npz(path, arrays)

    @staticmethod
    def of(run: Run) -> "Features":
        """Those of a run; see `load`."""
        return run.load(run.features, "extract", Features.load)

    @staticmethod
    def load(path: Path) -> "Features":
        """Read `features.npz`, x and copies once they are used; UserError where there is none or it is not ours."""
        try:
            with np.load(require(path, "extract"), allow_pickle=False) as f:
                return Features(
                    mapped(path, "x"), f["y"], tuple(f["labels"].tolist()), f["split"], f["files"], f["digest"],
                    mapped(path, "copies"), f["copy_of"],
                    tuple(tuple(entry) for entry in json.loads(str(f["skipped"]))),
                    json.loads(str(f["task"])), str(f["key"]), str(f["copies_key"]),
                )  # fmt: skip
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise UserError(f"{path}: not a features file ({error}); run `percept extract` again") from None


def targets_and_labels(targets: Sequence[Target]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """What `Features.y` and `Features.labels` hold."""
    values = [target for target in targets if isinstance(target, tuple)]
    if values:
        names = ("y",) if len(values[0]) == 1 else tuple(f"y{k}" for k in range(1, len(values[0]) + 1))
        return np.array(values, np.float32), names
    labels = _sorted_labels({str(target) for target in targets})
    index = {label: k for k, label in enumerate(labels)}
    return np.array([index[str(target)] for target in targets]), labels


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Numbers by value, other names by the alphabet."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
