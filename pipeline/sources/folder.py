"""A user's files: a folder of class folders, or a CSV manifest."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError, counted, listed
from pipeline.sources.delimited import Row, column_names, find_format, rows
from pipeline.sources.files import Identity, expanded, identity, loose, readable, stat, stats, walk
from pipeline.sources.layout import ClassFolder, are_groups, class_folders, is_media
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Sample, Split
from pipeline.sources.split_names import is_fold, split_of_each
from service.errors import Unreadable
from service.media import Limits, check_bytes

COLUMNS = ("path", "label", "split", "group")  # of a manifest; the last two may be absent
LISTED = 5  # of its other columns, in a message
SECONDS = 120  # of a recording, unless PERCEPT_MAX_SECONDS is set: the front end needs 2 MB a second in each thread


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file that Pillow or libsndfile reads, decoded as the service decodes it."""

    path: Path
    sample_rate: int | None  # Hz; None for a picture
    limits: Limits
    size: int | None = None  # pixels: width and height of a picture in colour; None for one in MNIST's form

    def digest(self) -> str:
        return sha256(self._read()).hexdigest()

    def load(self) -> NDArray[np.generic]:
        from service.media.audio import decode_audio
        from service.media.image import decode_image
        from service.media.picture import decode_picture

        data = self._read()
        if self.size is not None:
            return decode_picture(data, self.size, self.limits)
        if self.sample_rate is None:
            return decode_image(data, self.limits)
        return decode_audio(data, self.sample_rate, self.limits)

    def _read(self) -> bytes:
        try:
            status = self.path.stat()
            if not S_ISREG(status.st_mode) and not S_ISDIR(status.st_mode):  # a pipe would never end
                raise Unreadable("cannot be read: not a regular file")
            check_bytes(status.st_size, "image" if self.sample_rate is None else "audio", self.limits)
            return self.path.read_bytes()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from None


Entry = tuple[str, str, Split | None, str | None, Path]  # file, label, split, group, path


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the folder `data.path`; pictures where `sample_rate` is None, else audio.

    Raises
    ------
    UserError : the folder cannot be understood
    """
    return _samples(_folder, data, sample_rate)


def _load_manifest(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the manifest `data.path`, and one line about columns that have no part in it; see `load`."""
    samples = _samples(_manifest, data, sample_rate)
    manifest = _root(data)
    if others := [
        name for name in read_manifest(manifest)[0] if name not in COLUMNS and not name.startswith("column ")
    ]:
        print(f"{manifest}: columns that are not read: {listed(others, LISTED)}; each file is one sample, whole")
    return samples


def _samples(entries: Callable[[Data], Iterator[Entry]], data: Data, sample_rate: int | None) -> list[Sample]:
    limits = Limits.from_environment(SECONDS)
    return [  # macOS writes ö as o and dots: two names that look alike are one class, or one group
        Sample(
            file,
            normalize("NFC", label),
            split,
            EncodedFile(path, sample_rate, limits),
            group and normalize("NFC", group),
        )
        for file, label, split, group, path in entries(data)
    ]


def load_unlabelled(folder: Path, sample_rate: int | None) -> list[Sample]:
    """The files below a folder as samples with an empty label, called by their absolute paths; see `load`.

    Raises
    ------
    UserError : no such folder, or no files in it
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    limits = Limits.from_environment(SECONDS)
    paths = walk(folder.resolve())
    if not paths:
        raise UserError(f"{folder}: no files to label")
    return [Sample(readable(path), "", None, EncodedFile(path, sample_rate, limits)) for path in paths]


def _root(data: Data) -> Path:
    return expanded(data.path or "")


def _folder(data: Data) -> Iterator[Entry]:
    root = _root(data)
    found = class_folders(root, data.group is not None)
    inside = {folder: walk(folder, _identities(found)) for _, folder in found}
    if not any(inside.values()):
        found_outside = f"{counted(n, 'file')}, none in a class folder" if (n := len(loose(root))) else "no files"
        raise UserError(f"{root}: {found_outside}; expected one sub-folder for each class, with its files inside")
    filled = {folder.name for folder, paths in inside.items() if paths}
    if empty := [folder for folder in inside if folder.name not in filled]:
        raise UserError(f"{empty[0]}: no files of this class; add some, or remove the folder")
    _mention_loose_files(root, inside)
    with_groups = are_groups([[path.relative_to(folder) for path in paths] for folder, paths in inside.items()])
    for split, folder in found:
        for path in inside[folder]:
            name, group = path.relative_to(folder), None
            if with_groups and len(name.parts) > 1:  # of one name in several classes: one group, but not across splits
                group = readable(Path(folder.parent.name if split else "", name.parts[0]))
            yield readable(path.relative_to(root)), readable(Path(folder.name)), split, group, path


def _mention_loose_files(root: Path, classes: Iterable[Path]) -> None:
    """Print how many recordings or pictures are in no class folder."""
    places = sorted({root, *(folder.parent for folder in classes)})
    outside = [path for place in places for path in loose(place) if is_media(path)]
    if outside:
        files = counted(len(outside), "file")
        print(f"{root}: {files} left out, since in no class folder; the first: {outside[0]}")


def _identities(found: Iterable[ClassFolder]) -> set[Identity | None]:
    return {identity(folder) for _, folder in found}


def _manifest(data: Data) -> Iterator[Entry]:
    manifest = _root(data)
    columns, lines = read_manifest(manifest)
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise UserError(
            f"{manifest}: column {missing[0]!r} is missing; expected path,label[,split][,group], "
            f"found {','.join(columns)}"
        )
    cells_of = [(line, dict(zip(columns, map(str.strip, cells), strict=False))) for line, cells in lines]
    listed = [(line, [cells.get(column, "") for column in COLUMNS]) for line, cells in cells_of]
    if not listed:
        raise UserError(f"{manifest}: no rows")
    splits = split_of_each([split for _, (_, _, split, _) in listed], manifest)
    for line, (path, label, split, group) in listed:
        if not path or not label:
            raise UserError(f"{manifest}, line {line}: {'label' if path else 'path'} is empty")
        if "\0" in path:
            raise UserError(f"{manifest}, line {line}: a zero byte in the path {path!r}")
        if split and split not in splits:
            how = "; of a cross-validation's folds, name one test, another validation, the rest train"
            raise UserError(
                f"{manifest}, line {line}: split {split!r} is not {', '.join(SPLITS)}{how if is_fold(split) else ''}"
            )
        path = as_on_disk(path, manifest.parent)
        yield path, label, splits.get(split), group or None, manifest.parent / path


def read_manifest(manifest: Path) -> tuple[list[str], Iterator[Row]]:
    """The names of its columns in lower case, and its rows. Where these have a cell more than there are names, it is
    not the name of the row if it is a file's: then one is at the end, without a name."""
    form = find_format(manifest)
    lines = rows(manifest, form)
    columns = [name.casefold() for name in column_names(next(lines)[1])]
    if form.names_rows:
        first = next(lines)
        if _is_there(manifest.parent / as_on_disk(first[1][0].strip(), manifest.parent)):
            columns.pop(0)
        lines = chain([first], lines)
    return columns, lines


def as_on_disk(path: str, folder: Path) -> str:
    """A path in a manifest as the file is called: with slashes for the backslashes of Windows, which elsewhere may
    stand in a name, and with accents composed or apart, as the file's system wrote them."""
    if path.isascii() and "\\" not in path:
        return path
    slashed = path.replace("\\", "/")
    forms = (path, slashed, normalize("NFC", slashed), normalize("NFD", slashed))
    return next((form for form in dict.fromkeys(forms) if _is_there(folder / form)), slashed)


def _is_there(path: Path) -> bool:
    """Whether there is such a file, as far as the system says: some names are too long for it."""
    return stat(path)[1] >= 0


def _fingerprint(data: Data) -> Any:
    found = class_folders(_root(data), data.group is not None)
    return [stats(folder, _identities(found)) for _, folder in found]


def _fingerprint_manifest(data: Data) -> Any:
    """The rows of the manifest, and path, size and time of the files that it names."""
    return [(*entry, stat(path)) for *entry, path in _manifest(data)]


SOURCES = (
    Source("folder", "folder", ("pixels", "image", "mfcc"), "a folder of class folders", load, _fingerprint),
    Source("csv", "csv", ("pixels", "image", "mfcc"), "a .csv manifest", _load_manifest, _fingerprint_manifest),
)
