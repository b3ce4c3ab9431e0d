"""Predictions of files through a run's exported graph, as JSON lines for programs or as text for people."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from models.card import Column
from pipeline.errors import counted, listed
from pipeline.ordered import ordered
from pipeline.report import timeline
from pipeline.run import Run, file_name, require
from pipeline.sources import columnar, delimited
from pipeline.sources.columns import ABSENT, MISSING, SNIFFED, decimal_commas, parse_number
from pipeline.sources.delimited import column_names, find_format, rows
from pipeline.task import UserError
from service.errors import MediaError, Unusable
from service.media import Limits, check_bytes
from service.media.limits import Kind
from service.media.parallel import MapParts, one_by_one, shared
from service.serving import Answer, Window
from service.serving.predictor import Predictor

NONE = np.empty(0)
Part = tuple[Path, Callable[[], bytes]]
NAMED = 5  # other labels that a line names
TABLES = (*delimited.ENDINGS, *columnar.ENDINGS)  # endings of files whose rows are predicted one by one


def predict(runs: Path, name: str, files: Sequence[Path], as_json: bool = False, window: str | None = None) -> bool:
    """Print the prediction of each file.

    Parameters
    ----------
    runs : folder of the run directories
    name : of a run, or of a task (see `task.load`)
    as_json : one JSON object a line, else text
    window : seconds, of the windows of a timeline, which is drawn unless `as_json`; None for no timeline

    Returns
    -------
    Whether every file could be predicted.

    Raises
    ------
    UserError : no exported model of that name, or no timeline of such windows
    """
    run = Run.named(runs, name)
    predictor = Predictor(require(run.model, "export"), arena=os.cpu_count() == 1)
    try:
        seconds = predictor.parse_timeline(window)
    except MediaError as error:
        raise UserError(str(error)) from None
    pictures, failed = set[Path](), False
    form = predictor.card.input
    many = len(files) > 1
    learned = predictor.card.features.get("columns", ())
    commas = {column["name"]: column["comma"] for column in learned if column.get("comma") is not None}
    for file, sample, answer in _answers(predictor, parts(files, form.columns, form.kind, commas), seconds, many):
        if isinstance(answer, Exception):
            failed = True
            reason = getattr(answer, "strerror", None) or str(answer)
            print(_line({"file": str(file), "error": reason}) if as_json else f"{file}  {reason}")
            continue
        if as_json:
            fields = {name: value for name, value in answer.fields().items() if name not in ("model", "version")}
            print(_line({"file": str(file)} | fields))
            continue
        print(f"{file}  {_text(answer)}")
        if answer.timeline is not None:
            print(*(f"  {line}" for line in timeline.lines(answer.timeline)), sep="\n")
            if answer.label is not None:
                picture = _unused(run.timelines / file_name(file.stem, "png"), pictures)
                title = f"{file.name}: {answer.label}, {answer.confidence:.4f}"
                failed |= not _draw(picture, title, sample, answer.timeline)
    return not failed


def _answers(
    predictor: Predictor, parts: Iterable[Part], window: float | None, many: bool
) -> Iterator[tuple[Path, NDArray[Any], Answer | MediaError | OSError]]:
    """Each part's name, decoded media and answer, or why there is none, in order; computed on all cores. Of one file,
    which may be a long recording, the cores share the pieces."""
    limits, cores = Limits.from_environment(), os.cpu_count() or 1
    helper = ThreadPoolExecutor(1)  # starts its thread when it is needed
    map_parts: MapParts = one_by_one if many or cores == 1 else partial(shared, helper)

    def answer(part: Part) -> tuple[Path, NDArray[Any], Answer | MediaError | OSError]:
        file, read = part
        sample: NDArray[Any] = NONE
        try:
            sample = predictor.decode(read(), limits, map_parts)
            return file, sample, predictor.predict(sample, window, map_parts=map_parts)
        except (MediaError, OSError) as error:
            return file, sample, error

    with helper, ThreadPoolExecutor(cores) as pool, closing(ordered(pool, answer, parts, 2 * cores)) as found:
        yield from found


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
            yield from _rows(file, columns, commas)
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


def _rows(file: Path, columns: Sequence[Column], learned: Mapping[str, bool]) -> Iterator[Part]:
    """The rows of a table, called as in training. Raises UserError where it cannot be read."""
    if columnar.is_columnar(file):
        names, are_texts, cells_of = columnar.read_cells(file)
        head_of = zip(*cells_of[:SNIFFED], strict=True)
        texts = {name: cells for name, is_text, cells in zip(names, are_texts, head_of, strict=True) if is_text}
        commas = _commas(texts, "", learned)
        for i, cells in enumerate(cells_of):
            yield file.with_name(f"{file.name}:{i}"), partial(_as_json, names, cells, columns, commas)
        return
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


def _line(values: dict[str, Any]) -> str:
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return json.dumps(values, ensure_ascii=not is_unicode, default=Window.fields)


def _text(answer: Answer) -> str:
    """One prediction for people.

    Example
    -------
    >>> _text(Answer(model="m", version="v", label="a", confidence=0.2, set=[*"abcdefgh"]))
    'a  0.2000  or b, c, d, e, f and 2 more'
    """
    unknown = "  unknown: unlike what it was trained on" if answer.known is False else ""
    if answer.value is not None:
        return "  ".join(f"{name} = {value:.6g}" for name, value in answer.value.items()) + unknown
    others = f"  or {listed(answer.set[1:], NAMED)}" if answer.set and answer.set[1:] else ""
    return f"{answer.label}  {answer.confidence:.4f}{others}{unknown}"


def _unused(path: Path, used: set[Path]) -> Path:
    """The path, with a number where this command has used it already."""
    while path in used:
        path = path.with_stem(f"{path.stem}-2")
    used.add(path)
    return path


def _draw(picture: Path, title: str, waveform: NDArray[np.float32], windows: list[Window]) -> bool:
    """Draw a timeline; false if the picture cannot be written. Without matplotlib there is just no picture."""
    try:
        drawn = timeline.draw(picture, title, waveform, windows)
    except ModuleNotFoundError as error:
        print(f"percept: no picture is drawn: {error.name} is not installed", file=sys.stderr)
    except OSError as error:
        print(f"percept: no picture is drawn: {error.filename or picture}: {error.strerror}", file=sys.stderr)
        return False
    else:
        print(f"  → {drawn}")
    return True
