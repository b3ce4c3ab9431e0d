"""features.npz: the features of every usable sample, one row each."""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from models import frontend
from models.card import Kind
from models.frontend import FrontEnd
from models.targets import TARGETS
from pipeline.extract.rows import PIECE_BYTES, FileRows, Matrix
from pipeline.run import Run, Streamed, require, write_npz
from pipeline.sources import REPEATED, Label, Split
from pipeline.task import Task, UserError, Variation, digest, parse, with_new_names
from pipeline.versions import EXTRACTION

Skipped = tuple[str, str, str, str]  # file, reason, digest of its content, label

STATE = "state."  # prefix of the names of the front end's arrays in the file
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a ZIP file: lengths of its name and of its extra field


def located(f: BinaryIO, archive: ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of the array `name` of an open .npz file, and the offset of its first byte.

    Raises
    ------
    ValueError, KeyError, OSError : no such array, or it is not there as plain bytes
    """
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    f.seek(member.header_offset)
    name_length, extra_length = _LOCAL_HEADER.unpack(f.read(_LOCAL_HEADER.size))
    f.seek(name_length + extra_length, os.SEEK_CUR)
    major, _ = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(f)
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{name} is not a plain array in C order")
    return shape, dtype, f.tell()


def stored(f: BinaryIO, archive: ZipFile, name: str) -> FileRows:
    """The matrix `name` of an open .npz file, float32 (N, D); its rows stay there.

    Raises
    ------
    ValueError, KeyError, OSError : no such matrix, or it is not there as plain bytes
    """
    shape, dtype, offset = located(f, archive, name)
    if dtype != np.float32 or len(shape) != 2:
        raise ValueError(f"{name} is not a matrix of float32")
    return FileRows(f, offset, (shape[0], shape[1]))


def _read(archive: ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def _copy_rows(source: Matrix, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Copy those rows (n,), in pieces: a large data set must not be in memory twice."""
    size = max(1, PIECE_BYTES // max(1, 4 * source.shape[1]))
    for start in range(0, len(rows), size):
        out[start : start + size] = source[rows[start : start + size]]


@dataclass(frozen=True, slots=True)
class Features:
    """The result of extraction: one row for each usable sample.

    x : float32 (N, D); of a loaded file, `FileRows`, as copies are
    y : int64 (N,), index into labels; or float32 (N, K) for regression, of values that labels name
    split, file : str (N,)
    digest : str (N,), of the content
    copies : float32 (M, D), features of varied copies of samples outside the test split
    copy_of : int64 (M,), the row that each is a copy of
    skipped : (file, reason, digest, label) of what could not be used; the digest is empty for a duplicate, the label
        for a regression and in files of earlier versions
    task : the sections `data`, `features` and `augment` that made it
    key, copies_key : see `Recipe`
    group : str (N,), what no split divides: the name of the sample's group, or where it has none its digest
    state : what the front end has learned from the training samples, by name; see `FrontEnd.learn`
    near : int64 (P, 2), pairs of rows that are near duplicates; see `near_duplicates.find`
    version : `EXTRACTION` of the code that extracted them; empty in files of before it was recorded
    """

    x: Matrix
    y: NDArray[Any]
    labels: tuple[str, ...]
    split: NDArray[np.str_]
    file: NDArray[np.str_]
    digest: NDArray[np.str_]
    copies: Matrix
    copy_of: NDArray[np.int64]
    skipped: tuple[Skipped, ...]
    task: dict[str, Any]
    key: str
    copies_key: str
    group: NDArray[np.str_]
    state: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    near: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    version: str = EXTRACTION

    @property
    def n_bytes(self) -> int:
        """Bytes of the features, including the copies."""
        return self.x.nbytes + self.copies.nbytes

    def rows(self, split: Split) -> NDArray[np.bool_]:
        """Which rows belong to a split, bool (N,)."""
        return np.asarray(self.split == split)

    def with_copies(self, rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Features and targets of those rows (mask or indices) and of their plain copies, newly allocated."""
        chosen = np.zeros(len(self.x), bool)
        chosen[rows] = True
        own, copied = np.arange(len(self.x))[rows], np.flatnonzero(chosen[self.copy_of] & (self.forms == "plain"))
        x = np.empty((len(own) + len(copied), self.x.shape[1]), np.float32)
        _copy_rows(self.x, own, x[: len(own)])
        _copy_rows(self.copies, copied, x[len(own) :])
        return x, self.y[np.concatenate([own, self.copy_of[copied]])]

    @property
    def forms(self) -> NDArray[np.str_]:
        """What each copy is, a `CopyForm` (M,): each sample that has copies has the same, in the same order."""
        of_each = Variation.model_construct(**self.task["augment"]).forms or ("plain",)
        return np.resize(np.array(of_each), len(self.copy_of))

    @property
    def has_groups(self) -> bool:
        """Whether any sample is in a group with a name."""
        return bool(self.in_groups().any())

    def divided(self) -> NDArray[np.bool_]:
        """Which pairs of near duplicates are in different splits, since the data names them, bool (P,)."""
        return np.asarray(self.split[self.near[:, 0]] != self.split[self.near[:, 1]])

    def in_groups(self) -> NDArray[np.bool_]:
        """Which samples are in a group with a name, bool (N,). One without has the digest of a content for a group: its
        own, which equal rows of a table share, or that of a near duplicate."""
        named = np.asarray(self.group != self.digest)
        contents = {content.partition(REPEATED)[0] for content in self.digest.tolist()} if named.any() else set()
        named[named] = [group not in contents for group in self.group[named].tolist()]
        return named

    def origin(self) -> Task:
        """A task with the sections that made them; the others are those of any task."""
        return parse({"name": "origin", **self.task}, "features.npz")

    def front_end(self) -> FrontEnd:
        """The front end that extracted them, with what it has learned."""
        return frontend.build(self.task["features"], self.state)

    @property
    def kind(self) -> Kind:
        """Kind of the target, which follows from y and the labels."""
        if self.y.ndim == 2:
            return "regression"
        return "binary" if len(self.labels) == 2 else "multiclass"

    def data_digest(self) -> str:
        """SHA-256 over content, target and split of every sample; it does not depend on their order."""
        targets = [self.labels[k] for k in self.y] if TARGETS[self.kind].has_classes else self.y.tolist()
        lines = sorted(f"{d} {t} {s}" for d, t, s in zip(self.digest, targets, self.split, strict=True))
        return sha256("\n".join(lines).encode()).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of everything that later stages depend on; extracting the same samples again does not change it."""
        arrays = (self.y, self.split, self.group, self.file, self.digest, self.copy_of, self.near)
        parts = [sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays]
        parts += [sha256(array.tobytes()).hexdigest() for _, array in sorted(self.state.items())]
        return digest([parts, self.labels, self.skipped, self.key, self.copies_key])

    def save(
        self, path: Path, x: Streamed | None = None, copies: Streamed | None = None, prints: Streamed | None = None
    ) -> None:
        """Write `features.npz`, with other values of `x` and `copies` if they are given, and with fingerprints."""
        arrays = {
            "x": x or self.x, "y": self.y, "labels": self.labels, "split": self.split, "files": self.file,
            "digest": self.digest, "copies": copies or self.copies, "copy_of": self.copy_of,
            "near": self.near, "prints": prints or np.empty((len(self.digest), 0), np.int8),
            "skipped": json.dumps(self.skipped), "task": json.dumps(self.task),
            "key": self.key, "copies_key": self.copies_key, "group": self.group, "version": self.version,
            **{f"{STATE}{name}": array for name, array in self.state.items()},
        }  # fmt: skip
        write_npz(path, arrays)

    @staticmethod
    def of(run: Run) -> "Features":
        """The features of a run; see `load`."""
        return run.load(run.features, "extract", Features.load)

    @staticmethod
    def load(path: Path) -> "Features":
        """Read `features.npz`; the large arrays x and copies are read as they are used.

        Raises
        ------
        UserError : there is no such file, or it is not one that `save` has written

        Example
        -------
        >>> from tempfile import TemporaryDirectory
        >>> from pipeline import extract, task
        >>> with TemporaryDirectory() as folder:
        ...     found = extract.extract(task.load("regions"), Run(Path(folder)))
        ...     again = Features.load(Path(folder) / "features.npz")  # doctest: +ELLIPSIS
        regions: 1600 samples, 1600 newly extracted, 0 skipped → ...
        >>> again.x.shape, again.labels, int(again.rows("test").sum())
        ((1600, 2), ('inside', 'outside'), 1000)
        """
        try:
            with require(path, "extract").open("rb") as f, ZipFile(f) as archive:
                digests = _read(archive, "digest")
                group = _read(archive, "group") if "group.npy" in archive.namelist() else digests
                return Features(
                    x=stored(f, archive, "x"),
                    y=_read(archive, "y"),
                    labels=tuple(_read(archive, "labels").tolist()),
                    split=_read(archive, "split"),
                    group=digests if np.array_equal(group, digests) else group,  # 256 bytes a sample
                    file=_read(archive, "files"),
                    digest=digests,
                    copies=stored(f, archive, "copies"),
                    copy_of=_read(archive, "copy_of"),
                    skipped=tuple(_skipped(*entry) for entry in json.loads(str(_read(archive, "skipped")))),
                    task=with_new_names(json.loads(str(_read(archive, "task")))),
                    key=str(_read(archive, "key")),
                    copies_key=str(_read(archive, "copies_key")),
                    version=str(_read(archive, "version")) if "version.npy" in archive.namelist() else "",
                    near=_read(archive, "near") if "near.npy" in archive.namelist() else np.empty((0, 2), np.int64),
                    state={
                        name.removeprefix(STATE).removesuffix(".npy"): _read(archive, name.removesuffix(".npy"))
                        for name in archive.namelist()
                        if name.startswith(STATE)
                    },
                )
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise UserError(f"{path}: not a features file ({error}); run `percept extract` again") from None


def _skipped(file: str, reason: str, content: str, label: str = "") -> Skipped:
    return file, reason, content, label


def targets_and_labels(targets: Sequence[Label]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """`Features.y` and `Features.labels` of samples' targets."""
    values = [target for target in targets if isinstance(target, tuple)]
    if values:
        names = ("y",) if len(values[0]) == 1 else tuple(f"y{k}" for k in range(1, len(values[0]) + 1))
        return np.array(values, np.float32), names
    labels = _sorted_labels({str(target) for target in targets})
    index = {label: k for k, label in enumerate(labels)}
    return np.array([index[str(target)] for target in targets]), labels


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Numbers by value, those of equal value (7 and 07) and other names in alphabetical order."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (Decimal(label), label)))  # int() takes 4,300 digits at most
    return tuple(sorted(labels))
