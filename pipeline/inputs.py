"""What `percept predict` is given: files, and the rows of tables one by one, in the form that the service takes."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

from models.card import Column
from pipeline.errors import UserError, counted
from pipeline.sources import columnar, delimited
from pipeline.sources.columns import ABSENT, MISSING, SNIFFED, decimal_commas, parse_number
from pipeline.sources.delimited import column_names, find_format, rows
from service.errors import MediaError, Unusable
from service.media import Limits, check_bytes
from service.media.limits import Kind

TABLES = (*delimited.ENDINGS, *columnar.ENDINGS)  # endings of files whose rows are predicted one by one
Part = tuple[Path, Callable[[], bytes]]


def parts(
    files: Sequence[Path],
    columns: Sequence[Column],
    kind: Kind = "vector",
    commas: Mapping[str, bool] = MappingProxyType({}),
) -> Iterator[Part]:
    """What is predicted, by what reports call it, and how its bytes are read: each file, or each row of a table if
    the model is one of a table. Where a table cannot be read, that is what reading its last part raises.

    commas : column → whether the model's table had decimal commas; without those where this is not known
    """
    limits = Limits.from_environment()
    for file in files:
        if not columns or file.suffix.lower() not in TABLES:
            yield file, _content(file, kind, limits)
            continue
        try:
            yield from (_rows_of_arrays if columnar.is_columnar(file) else _rows_of_text)(file, columns, commas)
        except UserError as error:  # of this file alone: others, and its rows before, have their answers
            yield file, partial(_raise, Unusable(str(error).removeprefix(str(file)).lstrip(":, ")))


def _content(file: Path, kind: Kind, limits: Limits) -> Callable[[], bytes]:
    """What reads a file that is not larger than allowed. A pipe or a device is read now, in the main thread, which a
    signal can end: nobody may ever write to it, and it need not have an end."""

    def read() -> bytes:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            check_bytes(status.st_size, kind, limits)
            data = stream.read(-1 if S_ISREG(status.st_mode) else limits.bytes_of(kind) + 1)
        check_bytes(len(data), kind, limits)
        return data

    with suppress(OSError):  # which reading it tells
        mode = file.stat().st_mode
        if not S_ISREG(mode) and not S_ISDIR(mode):
            try:
                data = read()
            except (MediaError, OSError) as error:
                return partial(_raise, error)
            return lambda: data
    return read


def _raise(error: Exception) -> bytes:
    raise error


def _rows_of_arrays(file: Path, columns: Sequence[Column], learned: Mapping[str, bool]) -> Iterator[Part]:
    """The rows of a file of arrays, called as in training. Raises UserError where it cannot be read."""
    names, are_texts, cells_of = columnar.read_cells(file)
    head_of = zip(*cells_of[:SNIFFED], strict=True)
    texts = {name: cells for name, is_text, cells in zip(names, are_texts, head_of, strict=True) if is_text}
    commas = _commas(texts, "", learned)
    for i, cells in enumerate(cells_of):
        yield file.with_name(f"{file.name}:{i}"), partial(_as_json, names, cells, columns, commas)


def _rows_of_text(file: Path, columns: Sequence[Column], learned: Mapping[str, bool]) -> Iterator[Part]:
    """The same of a text table."""
    form = find_format(file)
    stream = rows(file, form)
    first = next(stream)
    names = column_names(first[1])
    numbered = [f"column {i}" for i in range(1, len(names) + 1)]
    is_header = not {column.name for column in columns} <= {*numbered} - {*names}  # else the model's had none either
    if not is_header:
        names = numbered
    elif (second := next(stream, None)) is None:
        raise UserError(f"{file}: no rows below the header")
    else:
        first = second
    head, wrong = [first], None
    try:
        for row in islice(stream, SNIFFED - 1):
            head.append(row)
    except UserError as error:  # which does not concern the rows before
        wrong = error
    by_column = zip_longest(*(cells for _, cells in head), fillvalue="")
    commas = _commas(dict(zip(names, by_column, strict=False)), form.delimiter, learned)
    for line, cells in chain(head, stream):
        yield file.with_name(f"{file.name}:{line}"), partial(_as_json, names, cells, columns, commas)
    if wrong:
        raise wrong


def _commas(columns: Mapping[str, Sequence[str]], delimiter: str, learned: Mapping[str, bool]) -> dict[str, bool]:
    """Which columns of texts have decimal commas."""
    of_each = [learned.get(name, False) for name in columns] if learned else []
    return dict(zip(columns, decimal_commas([*columns.values()], delimiter, of_each), strict=True))


def _as_json(
    names: Sequence[str], cells: Sequence[str], columns: Sequence[Column], commas: Mapping[str, bool]
) -> bytes:
    """A row's cells as the service takes them; `commas` says which columns have decimal commas.

    Raises Unusable if there are more of them than names."""
    if any(cell.strip() for cell in cells[len(names) :]):
        raise Unusable(f"{counted(len(cells), 'cell')} in the row, {len(names)} in the first row")
    row, values = dict(zip(names, cells, strict=False)), dict[str, Any]()
    for column in columns:
        name = normalize("NFC", column.name)
        if (text := row.get(name)) is None:
            continue
        text, number = text.strip(), None if column.categories else parse_number(text, commas.get(name, False))
        missing = text.lower() in (ABSENT if column.categories else MISSING)
        values[column.name] = None if missing else text if number is None else number
    return json.dumps(values).encode()
