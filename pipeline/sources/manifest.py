"""A user's files in a CSV manifest, with the columns path,label[,split][,group]."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pipeline.errors import UserError, listed
from pipeline.sources.delimited import Row, column_names, find_format, rows
from pipeline.sources.encoded import Entry, samples
from pipeline.sources.files import expanded, readable, stat, unreadable
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Sample
from pipeline.sources.split_names import is_fold, split_of_each

COLUMNS = ("path", "label", "split", "group")  # of a manifest; the last two may be absent
LISTED = 5  # of its other columns, in a message


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the manifest `data.path`, and one line about columns that have no part in it; pictures where
    `sample_rate` is None, else audio.

    Raises
    ------
    UserError : the manifest cannot be understood
    """
    manifest = expanded(data.path or "")
    columns, lines = read_manifest(manifest)
    found = samples(_entries(manifest, columns, lines), sample_rate)
    if others := [name for name in columns if name not in COLUMNS and not name.startswith("column ")]:
        print(f"{manifest}: columns that are not read: {listed(others, LISTED)}; each file is one sample, whole")
    return found


def _entries(manifest: Path, columns: Sequence[str], lines: Iterator[Row]) -> Iterator[Entry]:
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise UserError(
            f"{manifest}: column {missing[0]!r} is missing; expected path,label[,split][,group], "
            f"found {','.join(columns)}"
        )
    cells_of = [(line, dict(zip(columns, map(str.strip, cells), strict=False))) for line, cells in lines]
    given = [(line, [cells.get(column, "") for column in COLUMNS]) for line, cells in cells_of]
    if not given:
        raise UserError(f"{manifest}: no rows")
    splits = split_of_each([split for _, (_, _, split, _) in given], manifest)
    for line, (path, label, split, group) in given:
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
        yield readable(path), label, splits.get(split), group or None, manifest.parent / path


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
    stand in a name, with accents composed or apart, as the file's system wrote them, and with the bytes that `readable`
    has written out, as in the manifest that an audit saves."""
    if path.isascii() and "\\" not in path:
        return path
    slashed = path.replace("\\", "/")
    forms = (path, slashed, normalize("NFC", slashed), normalize("NFD", slashed), unreadable(path))
    return next((form for form in dict.fromkeys(forms) if _is_there(folder / form)), slashed)


def _is_there(path: Path) -> bool:
    """Whether there is such a file, as far as the system says: some names are too long for it."""
    return stat(path)[1] >= 0


def _fingerprint(data: Data) -> Any:
    """The rows of the manifest, and path, size and time of the files that it names."""
    manifest = expanded(data.path or "")
    return [(*entry, stat(path)) for *entry, path in _entries(manifest, *read_manifest(manifest))]


SOURCES = (Source("csv", "csv", ("pixels", "image", "mfcc"), "a .csv manifest", load, _fingerprint),)
