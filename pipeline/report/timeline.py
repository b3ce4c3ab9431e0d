"""What is heard when in a recording: the answers to its windows as lines for people, and as a picture."""

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 1200  # of the drawn waveform
LANES = 16  # labels that have a lane of their own
WIDTH, RIGHT, LETTER = 9.0, 0.3, 0.08  # inches: the figure, beside its axes, and of a label
TITLE, WAVE, LANE, FOOT = 0.4, 1.1, 0.24, 0.5  # inches: heights


def lines(windows: list[dict[str, Any]]) -> Iterator[str]:
    """A timeline for people: neighbouring windows of the same answer become one line, with their mean confidence."""
    for answer, group in groupby(windows, _answer):
        span = list(group)
        sure = "" if span[0].get("confidence") is None else f"  {np.mean([w['confidence'] for w in span]):.4f}"
        yield f"{_clock(span[0]['start'])}–{_clock(span[-1]['end'])}  {answer}{sure}"


def draw(path: Path, title: str, waveform: NDArray[np.float32], windows: list[dict[str, Any]]) -> Path:
    """Draw the timeline of a classifier's recording, float32 (T,), as the PNG `path`, and return that.

    Raises ModuleNotFoundError where matplotlib is not installed.
    """
    import matplotlib

    from pipeline.report.style import PICTURE_STYLE, png, write

    with warnings.catch_warnings(), matplotlib.rc_context(PICTURE_STYLE):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # DejaVu Sans may lack a label's script
        return write(path, png(_figure(title, waveform, windows)))


def _answer(window: dict[str, Any]) -> str:
    if values := window.get("value"):
        return "  ".join(f"{name} = {value:.6g}" for name, value in values.items())
    if window.get("known") is False:
        return f"{window['label']}, but unknown"
    return window.get("label") or "silence"


def _confidence(window: dict[str, Any]) -> float:
    """As the picture shows it: none in what is not known."""
    return 0.0 if window.get("known") is False else float(window["confidence"])


def _clock(seconds: float) -> str:
    """123.5 → 2:03.50"""
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _figure(title: str, waveform: NDArray[np.float32], windows: list[dict[str, Any]]) -> "Figure":
    """The waveform in the colours of what is heard, above one lane for each label, the most heard first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from pipeline.report.style import GLOWING, LIGHT, shorten

    starts = np.array([window["start"] for window in windows])
    lengths = np.array([window["end"] for window in windows]) - starts
    heard: Counter[str] = Counter()
    for window, length in zip(windows, lengths, strict=True):
        if window["label"] is not None:
            heard[window["label"]] += length
    lanes = [label for label, _ in heard.most_common(LANES)]
    names = [shorten(label) for label in lanes]
    colours = {label: GLOWING[i % len(GLOWING)] for i, label in enumerate(lanes)}

    height = TITLE + WAVE + LANE * len(lanes) + FOOT
    left = RIGHT + LETTER * max(map(len, names))
    width = WIDTH - left - RIGHT
    figure = Figure(figsize=(WIDTH, height), dpi=150)
    upper = figure.add_axes((left / WIDTH, 1 - (TITLE + WAVE) / height, width / WIDTH, WAVE / height))
    lower = figure.add_axes((left / WIDTH, FOOT / height, width / WIDTH, LANE * len(lanes) / height), sharex=upper)
    end = windows[-1]["end"]

    columns = np.linspace(0, len(waveform), min(COLUMNS, len(waveform)), endpoint=False).astype(int)
    at = (columns + np.append(columns[1:], len(waveform))) / 2 * end / len(waveform)
    owner = np.searchsorted(starts, at, side="right") - 1
    shade = [colours.get(windows[i]["label"], LIGHT) for i in owner]
    thick = 1.1 * width * 72 / len(columns)  # points; a little more than a column
    low, high = np.minimum.reduceat(waveform, columns), np.maximum.reduceat(waveform, columns)
    upper.axhline(0, color=LIGHT, alpha=0.3, linewidth=0.6)
    upper.vlines(at, low, high, colors=shade, linewidth=thick, antialiaseds=False)
    limit = 1.05 * max(high.max(), -low.min())
    upper.set(xlim=(0, end), ylim=(-limit, limit), yticks=[])
    upper.set_title(title, loc="left", fontsize=9)
    upper.tick_params(labelbottom=False, length=0)
    upper.spines[:].set_visible(False)

    for lane, label in enumerate(lanes):
        own = [i for i, window in enumerate(windows) if window["label"] == label]
        spans = [(starts[i], lengths[i]) for i in own]
        sure = [(colours[label], 0.15 + 0.85 * _confidence(windows[i])) for i in own]
        lower.axhline(lane, color=LIGHT, alpha=0.12, linewidth=0.6)
        lower.broken_barh(spans, (lane - 0.38, 0.76), facecolors=sure, linewidth=0, antialiased=False)
    others = f"; grey: {len(heard) - len(lanes)} labels that are heard less" if len(heard) > len(lanes) else ""
    lower.set(ylim=(len(lanes) - 0.5, -0.5), xlabel=f"time; the stronger a colour, the surer the answer{others}")
    lower.set_yticks(range(len(lanes)), names)
    for text, label in zip(lower.get_yticklabels(), lanes, strict=True):
        text.set_color(colours[label])
    lower.spines["left"].set_visible(False)
    lower.tick_params(axis="y", length=0)
    lower.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 6, 10]))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda t, _: _clock(t)[: -3 if end > 10 else None]))
    return figure
