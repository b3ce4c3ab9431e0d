"""Files of a user: a folder of class folders, or a CSV manifest."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.sample import SPLITS, Sample, Split
from pipeline.task import Data, UserError
from service.errors import Unreadable
from service.media.audio import decode_audio
from service.media.image import decode_image
from service.media.limits import Limits, check_bytes

SECONDS = 120  # of a recording, unless PERCEPT_MAX_SECONDS is set: the front end takes 2 MB a second and thread


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file that Pillow or libsndfile reads, decoded as the service decodes it."""

    path: Path
    sample_rate: int | None  # Hz; None for a picture
    limits: Limits

    def digest(self) -> str:
        return sha256(self._read()).hexdigest()

    def load(self) -> NDArray[np.generic]:
        data = self._read()
        if self.sample_rate is None:
            return decode_image(data, self.limits)
        return decode_audio(data, self.sample_rate, self.limits)

    def _read(self) -> bytes:
        try:
            check_bytes(self.path.stat().st_size, "image" if self.sample_rate is None else "audio", self.limits)
            return self.path.read_bytes()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from None


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of `data.path`; pictures where `sample_rate` is None, else audio.

    Raises
    ------
    UserError : the folder or manifest cannot be understood
    """
    root = Path(data.path or "").expanduser()
    limits = Limits.from_environment(SECONDS)
    walk = _folder if data.source == "folder" else _manifest
    return [
        Sample(file, label, split, EncodedFile(path, sample_rate, limits)) for file, label, split, path in walk(root)
    ]


Entry = tuple[str, str, Split | None, Path]


def _folder(root: Path) -> Iterator[Entry]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    top = _visible_folders(root)
    by_split: list[tuple[Split | None, Path]] = [(s, root / s) for s in SPLITS if root / s in top]
    if by_split and len(by_split) < len(top):
        others = ", ".join(p.name for p in top if p.name not in SPLITS)
        raise UserError(f"{root}: class folders ({others}) stand beside folders of splits; use one or the other")
    found = False
    for split, folder in by_split or [(None, root)]:
        for class_folder in _visible_folders(folder):
            for path in sorted(class_folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    found = True
                    yield _readable(path.relative_to(root)), _readable(Path(class_folder.name)), split, path
    if not found:
        raise UserError(f"{root}: no files; expected one sub-folder for each class, with its files inside")


def _readable(path: Path) -> str:
    """The path as text that any report can hold, also where its bytes are no UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _manifest(manifest: Path) -> Iterator[Entry]:
    try:
        text = manifest.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{manifest}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = csv.DictReader(text.splitlines())
    columns = rows.fieldnames or []
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise UserError(
            f"{manifest}: column {missing[0]!r} is missing; expected path,label[,split], found {','.join(columns)}"
        )
    found = False
    for row in rows:
        found = True
        path, label, split = ((row.get(key) or "").strip() for key in ("path", "label", "split"))
        if not path or not label:
            raise UserError(f"{manifest}, line {rows.line_num}: {'label' if path else 'path'} is empty")
        if split and split not in SPLITS:
            raise UserError(f"{manifest}, line {rows.line_num}: split {split!r} is not {', '.join(SPLITS)}")
        named: Split | None = next((s for s in SPLITS if s == split), None)
        yield path, label, named, manifest.parent / path
    if not found:
        raise UserError(f"{manifest}: no rows")
