"""Predictions of files through a run's exported graph, as JSON lines for programs or as text for people."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import listed
from pipeline.inputs import Part, parts
from pipeline.ordered import ordered
from pipeline.report import timeline
from pipeline.run import Run, file_name, require
from pipeline.sources.files import readable
from pipeline.task import UserError
from service.errors import MediaError
from service.media import Limits
from service.media.parallel import MapParts, one_by_one, shared
from service.serving import Answer, Window
from service.serving.predictor import Predictor

NONE = np.empty(0)
NAMED = 5  # other labels that a line names


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
                title = f"{readable(Path(file.name))}: {answer.label}, {answer.confidence:.4f}"
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
