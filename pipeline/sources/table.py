"""A user's table of numbers and categories, one sample a row: CSV and its relatives, NumPy's arrays, Parquet."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError, counted, listed
from pipeline.sources import columnar
from pipeline.sources.columns import CATEGORIES, SNIFFED, Column, decimal_commas
from pipeline.sources.delimited import Format, Row, column_names, find_format, rows
from pipeline.sources.files import expanded, stat
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import REPEATED, SPLITS, Label, Sample, Split
from pipeline.sources.split_names import split_of_each
from service.errors import Unusable

VERSION = 7  # raise it when the same file is read otherwise
PIECE = 1 << 15  # rows whose cells are in memory as text
LISTED = 5  # columns that a message names
MANY = 20  # different numbers in the target's column; from more on it is a regression
QUOTED = 40  # characters of a cell in a message
LABELS = 100_000  # different texts in the target's column, at most


class ColumnType(NamedTuple):
    """What a column holds.

    categories : in alphabetical order; none for numbers
    comma : whether it is the decimal sign of its numbers in the file; None where they are no text
    """

    name: str
    categories: tuple[str, ...] = ()
    comma: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RowMedia:
    """The values of a row, as the input of the graph; `reason` says why it cannot be used.

    values : float32 (D,), NaN where missing; of a category its index
    key : digest of the values, which does not change with the other rows
    earlier : how many rows before it have the same values
    columns : of all rows
    """

    values: NDArray[np.float32]
    key: bytes
    earlier: int
    columns: tuple[ColumnType, ...]
    reason: str = ""

    def digest(self) -> str:
        if self.reason:
            raise Unusable(self.reason)
        return f"{self.key.hex()}{REPEATED}{self.earlier}" if self.earlier else self.key.hex()

    def load(self) -> NDArray[np.float32]:
        if self.reason:
            raise Unusable(self.reason)
        return self.values


@dataclass(frozen=True, slots=True)
class Read:
    """A file as it was read.

    columns : N rows each
    target : name of the column that is predicted
    places : what reports call each row
    wrong : place and reason of each row that is left out
    """

    columns: list[Column]
    target: str
    places: Sequence[str]
    wrong: list[tuple[str, str]]


def load(data: Data, sample_rate: int | None = None) -> list[Sample]:
    """The rows of the table `data.path` as samples, float32 (D,), with the target in the column `data.target`.

    Columns of numbers and of categories are used; what a network cannot learn from is left out, and named on the
    console, with what the target was taken for. A column `split` of names of splits divides the rows.

    Raises
    ------
    UserError : no such file or column, or nothing in it to learn from
    """
    path = expanded(data.path or "")
    if not path.is_file():
        raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    read = _arrays(path, data.target) if columnar.is_columnar(path) else _text(path, data.target)
    [target] = [column for column in read.columns if column.name == read.target]
    others = [column for column in read.columns if column is not target]
    splits, others = _splits(others, path)
    used = [column for column in others if not column.unusable()]
    _say_unused(path, [column for column in others if column not in used])
    if not used:
        raise UserError(f"{path}: no column of numbers or categories beside the target {target.name!r}")
    if blurred := [column.name for column in used if column.is_numeric and column.is_blurred]:
        print(f"{path.name}: float32, which a network takes, makes most numbers equal in {listed(blurred, LISTED)}")
    labels = _labels(target, data, path)
    values, types = _values(used)
    keys = _keys(values, types)
    lacking = f"no value in the target's column {target.name!r}"
    samples = []
    met: Counter[bytes] = Counter()
    for i, (place, label) in enumerate(zip(read.places, labels, strict=True)):
        media = RowMedia(values[i], keys[i], met[keys[i]], types, "" if label is not None else lacking)
        met[keys[i]] += 1
        samples.append(Sample(place, "" if label is None else label, splits[i] if splits else None, media))
    none = np.empty(0, np.float32)
    return samples + [Sample(place, "", None, RowMedia(none, b"", 0, types, reason)) for place, reason in read.wrong]


def _arrays(path: Path, target: str | None) -> Read:
    """The arrays of a file, column by column."""
    columns, name = columnar.read(path, target)
    names = [column.name for column in columns]
    if name not in names:
        raise UserError(f"{path}: {_no_target(target, names)}")
    return Read(columns, name, [f"{path.name}:{i}" for i in range(len(columns[0].codes))], [])


def _text(path: Path, target: str | None) -> Read:
    """A text table, column by column."""
    form = find_format(path)
    stream = rows(path, form)
    number, first = next(stream)
    names, is_header = _names(path, first, target)
    columns = [
        Column(name, has_name=not is_header or bool(cell.strip()), limit=LABELS if name == target else CATEGORIES)
        for name, cell in zip(names, first, strict=False)  # without empty cells at the end
    ]
    wrong: list[tuple[str, str]] = []
    places: list[str] = []
    head = [] if is_header else [(number, first)]
    whole = _of_width(chain(head, stream), len(names), path, wrong)
    while piece := list(islice(whole, PIECE)):
        cells = list(zip(*(row for _, row in piece), strict=True))
        if not places:
            commas = decimal_commas([texts[:SNIFFED] for texts in cells], form.delimiter)
            for column, comma in zip(columns, commas, strict=True):
                column.comma = comma
        for column, texts in zip(columns, cells, strict=True):
            column.add(texts)
        places += [f"{path.name}:{line}" for line, _ in piece]
    if not places:
        reason = (
            f"none of its rows can be used; the first, {': '.join(wrong[0])}" if wrong else "no rows below the header"
        )
        raise UserError(f"{path}: {reason}")
    for column in columns:
        column.finish()
    _say_format(path, form, columns)
    return Read(columns, target if target in names else f"column {target}", places, wrong)


def _of_width(stream: Iterable[Row], width: int, path: Path, wrong: list[tuple[str, str]]) -> Iterable[Row]:
    """The rows that have one cell for each column; the others are added to `wrong`."""
    for line, cells in stream:
        while len(cells) > width and not cells[-1].strip():  # a delimiter at the end of the line
            cells.pop()
        if len(cells) == width:
            yield line, cells
        else:
            wrong.append((f"{path.name}:{line}", f"{counted(len(cells), 'cell')} in the row, {width} in the first row"))


def _names(path: Path, first: list[str], target: str | None) -> tuple[list[str], bool]:
    """Names of the columns, each different, and whether the first row has them.

    A file without a header has its target's column given by number.
    """
    names = column_names(first)
    if target is not None and target in names:
        cells = [normalize("NFC", cell.strip()) for cell in first]
        renamed = [(cell, name) for cell, name in zip(cells, names, strict=False) if cell not in ("", name)]
        if renamed:
            (cell, name), have = renamed[0], "has" if len(renamed) == 1 else "have"
            columns = counted(len(renamed), "column")
            print(f"{path.name}: {columns} {have} the name of another; the second {cell!r} is {name}")
        return names, True
    numbered = [f"column {i}" for i in range(1, len(names) + 1)]
    if target is not None and target.removeprefix("column ") in map(str, range(1, len(names) + 1)):
        return numbered, False
    raise UserError(f"{path}: {_no_target(target, names)}")


def _no_target(target: str | None, names: list[str]) -> str:
    some = listed(names, 20)
    if target is None:
        return f"which column is to be predicted? --set data.target=NAME, one of {some}"
    close = difflib.get_close_matches(target, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {some}"
    return f"no column {target!r}; {hint} (in a file without a header data.target is the column's number)"


def _splits(columns: list[Column], path: Path) -> tuple[list[Split | None] | None, list[Column]]:
    """The split of each row, where a column of that name has names of splits, or none; and the other columns.

    Raises
    ------
    UserError : some of its cells name a split, and others something else
    """
    for column in columns:
        if column.name.strip().lower() != "split" or not (meaning := split_of_each(column.texts, path)):
            continue
        if others := [text for text in column.texts if text not in meaning]:
            raise UserError(
                f"{path}: column {column.name!r}: {others[0][:QUOTED]!r} is not {', '.join(SPLITS)}; if the column is "
                "none of splits, give it another name"
            )
        meanings = [*meaning.values(), None]  # an empty cell, which names none, has the code -1
        return [meanings[code] for code in column.codes], [other for other in columns if other is not column]
    return None, columns


def _say_unused(path: Path, columns: Sequence[Column]) -> None:
    """One line for all columns that cannot be used."""
    by_reason: dict[str, list[str]] = {}
    for column in columns:
        by_reason.setdefault(column.unusable(), []).append(column.name)
    parts = [f"{reason}: {listed(names, LISTED)}" for reason, names in by_reason.items()]
    if parts:
        print(f"{path.name}: not used, since a network cannot learn from them: {'; '.join(parts)}")


def _say_format(path: Path, form: Format, columns: Sequence[Column]) -> None:
    """What was not plain about the file."""
    facts = []
    if form.titles:
        facts.append(f"the header is in line {form.first + 1}")
    if form.encoding not in ("utf-8", "utf-8-sig"):
        facts.append(f"read as {form.encoding}")
    if commas := [column.name for column in columns if column.comma and column.is_numeric and column.has_fractions]:
        facts.append(f"decimal commas in {listed(commas, LISTED)}")
    if mixed := [column for column in columns if column.is_numeric and len(column.units) > 1]:
        units = " and ".join(sorted(mixed[0].units))
        facts.append(f"{mixed[0].name} has numbers in {units}, which are not converted")
    if words := [column for column in columns if column.is_numeric and column.n_words]:
        cells = counted(sum(column.n_words for column in words), "cell")
        first = f"the first {words[0].first_word[:QUOTED]!r} in {words[0].name}"
        facts.append(f"{cells} without a number in columns of numbers, taken as missing, {first}")
    if facts:
        print(f"{path.name}: {'; '.join(facts)}")


def _labels(target: Column, data: Data, path: Path) -> list[Label | None]:
    """The target of each row, None where it is missing; and one line about what it was taken for."""
    if not target.n_different:
        raise UserError(f"{path}: no row has a value in the target's column {target.name!r}")
    is_regression = target.is_numeric and target.n_different > MANY if data.regression is None else data.regression
    if is_regression:
        if not target.n_numbers:
            raise UserError(f"{path}: data.regression, but {target.name!r} holds no numbers")
        if target.is_blurred:  # all answers would be right
            reason = f"float32, in which a network answers, makes most numbers in {target.name!r} equal"
            raise UserError(f"{path}: {reason}; subtract what they share")
        low, high = np.nanmin(target.numbers), np.nanmax(target.numbers)
        print(
            f"{path.name}: {target.name} is predicted as a number (regression), from {low:g} to {high:g}; "
            "--set data.regression=false for classes"
        )
        return [None if np.isnan(value) else (float(value),) for value in target.numbers]
    if target.n_different > LABELS:
        raise UserError(f"{path}: {target.name!r} has more than {LABELS:,} different values, too many for classes")
    texts = list(target.texts)
    how = "; --set data.regression=true for a number" if target.is_numeric and len(texts) > 2 else ""
    classes = listed(sorted(texts), LISTED)
    print(f"{path.name}: {target.name} is predicted as one of {counted(len(texts), 'class', 'es')}: {classes}{how}")
    return [None if code < 0 else texts[code] for code in target.codes]


def _values(columns: Sequence[Column]) -> tuple[NDArray[np.float32], tuple[ColumnType, ...]]:
    """The columns as one matrix float32 (N, D), and their names and categories."""
    values = np.empty((len(columns[0].codes), len(columns)), np.float32)
    types: list[ColumnType] = []
    for d, column in enumerate(columns):
        if column.is_numeric:
            values[:, d] = column.numbers
            types.append(ColumnType(column.name, comma=column.comma))
            continue
        names = sorted(column.texts)
        place = np.array([*(names.index(text) for text in column.texts), np.nan], np.float32)
        values[:, d] = place[column.codes]  # -1, the last, where the cell is empty
        types.append(ColumnType(column.name, tuple(names)))
    return values, tuple(types)


def _keys(values: NDArray[np.float32], types: tuple[ColumnType, ...]) -> list[bytes]:
    """A digest of each row's values that stays the same when other rows change, and with them the categories'
    indices."""
    parts = values.copy().view(np.uint32)
    for d, (_, names, _) in enumerate(types):
        if names:
            codes = [int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") for name in names]
            place = np.where(np.isnan(values[:, d]), -1, values[:, d]).astype(np.int64)
            parts[:, d] = np.array([*codes, 0], np.uint32)[place]
    return [sha256(row.data).digest() for row in np.ascontiguousarray(parts)]


def _fingerprint(data: Data) -> Any:
    return [VERSION, stat(expanded(data.path or "")), data.target, data.regression]


SOURCES = (Source("table", "table", ("table",), "a table: .csv, .tsv, .npz, .npy or .parquet", load, _fingerprint),)
