"""Text tables (CSV, TSV and their relatives) as rows of cells, whatever program and country they come from."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from unicodedata import normalize

from pipeline.errors import UserError
from pipeline.sources.columns import parse_number

# Of files that are taken for text tables; the last three are none, which `find_format` tells, and what to do.
ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".data", ".xlsx", ".xls", ".ods")
DELIMITERS = ";\t|,"  # where two divide the first rows equally well, the earlier one: a comma may be a decimal sign
SPACE = " "  # the delimiter where none of those divides the rows; as many as there are count as one
SNIFFED = 200  # rows by which the delimiter is found
END = "\x1a\0"  # a row of its own after the last one, unless a quote is open; no text holds it
PIECE = 1 << 20  # bytes that are decoded at a time
NAMED = re.compile(r'"?sep=([^"\0\r\n])"?\1*\s*', re.IGNORECASE)  # a first line for Excel: the others' delimiter
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

Row = tuple[int, list[str]]  # number of its last line, from 1, and its cells


@dataclass(frozen=True, slots=True)
class Format:
    """How a file's bytes mean cells.

    first : line with the first row, counted from 0
    titles : lines above it that are no header but a title
    names_rows : the first column has no heading, not even an empty one, as where R writes the names of rows
    """

    encoding: str
    delimiter: str
    first: int = 0
    titles: int = 0
    names_rows: bool = False


def find_format(path: Path) -> Format:
    """The encoding, UTF-8 unless bytes contradict it, and the delimiter: what a first line `sep=;` names, or what
    divides most rows into as many cells.

    Raises
    ------
    UserError : the file is empty, or cannot be read
    """
    encoding = _encoding(path)
    with _text(path, encoding) as text:
        numbered = [(i, line) for i, line in enumerate(islice(text, SNIFFED)) if line.strip()]
    lines = [line for _, line in numbered]
    if not lines:
        raise UserError(f"{path}: empty")
    if any("\0" in line for line in lines):
        raise UserError(f"{path}: holds zero bytes, so it is not text; save the table as CSV")
    first = 0
    if named := NAMED.fullmatch(lines[0]):
        delimiter, first = named[1], numbered[0][0] + 1
        numbered, lines = numbered[1:], lines[1:]
    else:
        delimiter = max(DELIMITERS, key=lambda delimiter: _agreement(lines, delimiter))
        if not _agreement(lines, delimiter)[0] and SPACE in lines[0].strip() and _agreement(lines, SPACE)[0]:
            delimiter = SPACE
    if titles := _titles(lines, delimiter):
        first = numbered[titles][0]
    return Format(encoding, delimiter, first, titles, _names_rows(lines[titles:], delimiter))


def rows(path: Path, form: Format) -> Iterator[Row]:
    """The rows that are not blank, one after the other; there is at least one.

    Raises
    ------
    UserError : no row holds anything, or one cannot be read, mostly because a quote is never closed
    """
    with _text(path, form.encoding) as text:
        reader = csv.reader(
            chain(islice(text, form.first, None), [END]), delimiter=form.delimiter, skipinitialspace=True
        )
        last, is_empty = form.first, True  # line of the row before
        try:
            for cells in reader:
                if cells == [END]:
                    break
                if cells and cells[-1].endswith(END):  # all rows after the quote are in this cell
                    raise UserError(f"{path}, line {last + 1}: a quote is not closed")
                if any(cells) and not all(map(str.isspace, cells)):
                    yield form.first + reader.line_num, ["", *cells] if is_empty and form.names_rows else cells
                    is_empty = False
                last = form.first + reader.line_num
        except csv.Error as error:
            raise UserError(f"{path}, line {last + 1}: {error}; is a quote not closed?") from None
    if is_empty:
        raise UserError(f"{path}: empty")


def column_names(cells: list[str]) -> list[str]:
    """The names in a header in Unicode's composed form (NFC), each different: `column N` for none, and `name.2` for
    the second of that name.

    Example
    -------
    >>> column_names(["a", " b", "", "a", ""])
    ['a', 'b', 'column 3', 'a.2']
    >>> column_names(["a", "a", "a.2"])
    ['a', 'a.3', 'a.2']
    """
    stripped = [normalize("NFC", cell.strip()) for cell in cells]
    while stripped and not stripped[-1]:
        stripped.pop()
    given = [name or f"column {i}" for i, name in enumerate(stripped, start=1)]
    names: list[str] = []
    taken = set[str]()
    for name in given:
        others = (f"{name}.{n}" for n in count(2))
        names.append(name if name not in taken else next(other for other in others if other not in taken.union(given)))
        taken.add(names[-1])
    return names


def _agreement(lines: list[str], delimiter: str) -> tuple[bool, float]:
    """Whether the delimiter divides the rows at all, and the share of them that have the most usual number of cells."""
    widths = Counter(map(len, _divided(lines, delimiter)))
    (width, n), total = widths.most_common(1)[0], widths.total()
    return width > 1, n / total if width > 1 else 0.0


def _titles(lines: list[str], delimiter: str) -> int:
    """How many of the first lines are a title: one cell alone in its row, or none, above a row of names, where most
    rows have more than one cell. Numbers below a single name are no names, and the second of two columns may be
    without one."""
    if not _agreement(lines, delimiter)[0]:
        return 0
    reader, n = csv.reader(lines, delimiter=delimiter, skipinitialspace=True), 0
    for row in reader:  # of several lines, where one breaks within quotes
        cells = [cell.strip() for cell in row]
        if any(cells) and (not cells[0] or any(cells[1:]) or len(cells) == 2):
            are_names = all(parse_number(cell) is parse_number(cell, comma=True) is None for cell in cells)
            return n if are_names else 0
        n = reader.line_num
    return 0


def _names_rows(lines: list[str], delimiter: str) -> bool:
    """Whether most rows have one cell more than the first, and no two begin with the same one. A single name there does
    not tell: 1,5 may be a number."""
    first, *others = _divided(lines, delimiter)
    names = [cells[0] for cells in others if len(cells) == len(first) + 1 and cells[-1].strip()]
    return len(first) > 1 and len(set(names)) == len(names) > len(others) / 2


def _divided(lines: list[str], delimiter: str) -> list[list[str]]:
    """The cells of the rows; a single row of none where these cannot be read."""
    try:
        return list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True)) or [[]]
    except csv.Error:
        return [[]]


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 where a mark says so, or zeros among the first bytes; Windows-1252, or else Latin-1, for bytes
    that are not UTF-8."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            for mark, encoding in MARKS.items():
                if head.startswith(mark):
                    return encoding
            match [byte == 0 for byte in head]:  # SQL Server's bcp writes no mark
                case [False, True, False, True]:
                    return "utf-16-le"
                case [True, False, True, False]:
                    return "utf-16-be"
            for encoding in ("utf-8", "cp1252"):
                file.seek(0)
                decoder = codecs.getincrementaldecoder(encoding)()
                try:
                    while piece := file.read(PIECE):
                        decoder.decode(piece)
                    decoder.decode(b"", final=True)
                    return encoding
                except UnicodeDecodeError:
                    continue
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return "latin-1"


@contextmanager
def _text(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield file
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
