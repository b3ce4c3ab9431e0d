"""A user's files: a folder of class folders, or a CSV manifest."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources.files import readable, stat, stats, walk
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Sample, Split
from service.errors import Unreadable
from service.media import Limits, check_bytes

SECONDS = 120  # of a recording, unless PERCEPT_MAX_SECONDS is set: the front end needs 2 MB a second in each thread


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file that Pillow or libsndfile reads, decoded as the service decodes it."""

    path: Path
    sample_rate: int | None  # Hz; None for a picture
    limits: Limits

    def digest(self) -> str:
        return sha256(self._read()).hexdigest()

    def load(self) -> NDArray[np.generic]:
        from service.media.audio import decode_audio
        from service.media.image import decode_image

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


Entry = tuple[str, str, Split | None, Path]  # file, label, split, path


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the folder `data.path`; pictures where `sample_rate` is None, else audio.

    Raises
    ------
    UserError : the folder cannot be understood
    """
    return _samples(_folder, data, sample_rate)


def load_manifest(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the manifest `data.path`; see `load`."""
    return _samples(_manifest, data, sample_rate)


def _samples(entries: Callable[[Path], Iterator[Entry]], data: Data, sample_rate: int | None) -> list[Sample]:
    limits = Limits.from_environment(SECONDS)
    found = entries(_root(data))
    return [Sample(file, label, split, EncodedFile(path, sample_rate, limits)) for file, label, split, path in found]


def _root(data: Data) -> Path:
    return Path(data.path or "").expanduser()


def _folder(root: Path) -> Iterator[Entry]:
    found = False
    for split, folder in _class_folders(root):
        for path in walk(folder):
            found = True
            yield readable(path.relative_to(root)), readable(Path(folder.name)), split, path
    if not found:
        raise UserError(f"{root}: no files; expected one sub-folder for each class, with its files inside")


def _class_folders(root: Path) -> Iterator[tuple[Split | None, Path]]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    top = _visible_folders(root)
    by_split: list[tuple[Split | None, Path]] = [(s, root / s) for s in SPLITS if root / s in top]
    if by_split and len(by_split) < len(top):
        others = ", ".join(p.name for p in top if p.name not in SPLITS)
        raise UserError(f"{root}: class folders ({others}) are next to folders of splits; use one or the other")
    for split, folder in by_split or [(None, root)]:
        for class_folder in _visible_folders(folder):
            yield split, class_folder


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


def _fingerprint(data: Data) -> Any:
    return [stats(folder) for _, folder in _class_folders(_root(data))]


def _fingerprint_manifest(data: Data) -> Any:
    """The rows of the manifest, and path, size and time of the files that it names."""
    return [(file, label, split, stat(path)) for file, label, split, path in _manifest(_root(data))]


SOURCES = (
    Source("folder", "folder", ("pixels", "mfcc"), "a folder of class folders", load, _fingerprint),
    Source("csv", "csv", ("pixels", "mfcc"), "a .csv manifest", load_manifest, _fingerprint_manifest),
)
