"""The timeline of a recording: the answers to its windows as lines of text, and as a picture.

`lines` needs no matplotlib, so that `percept predict` runs without it.
"""

import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import counted
from service.serving import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 1200  # of the drawn waveform, at most
LANES = 16  # labels that have their own lane, at most
WIDTH, RIGHT, LETTER = 9.0, 0.3, 0.08  # inches: of the figure, of its right margin, of a letter of a label
TITLE, WAVE, LANE, FOOT = 0.4, 1.1, 0.24, 0.5  # inches: heights

Windows = list[Window]


def lines(windows: Windows) -> Iterator[str]:
    """A timeline as text: consecutive windows with the same answer are one line, with their mean confidence.

    Example
    -------
    >>> flute = Window(start=0, end=1, label="flute", confidence=0.75)
    >>> for line in lines([flute, Window(start=1, end=2.5, label=None)]):
    ...     print(line)
    0:00.00–0:01.00  flute  0.7500
    0:01.00–0:02.50  silence
    """
    for answer, group in groupby(windows, _answer):
        span = list(group)
        confidences = [window.confidence for window in span if window.confidence is not None]
        confidence = f"  {np.mean(confidences):.4f}" if confidences else ""
        yield f"{_clock(span[0].start)}–{_clock(span[-1].end)}  {answer}{confidence}"


def draw(path: Path, title: str, waveform: NDArray[np.float32], windows: Windows) -> Path:
    """Draw the timeline of a classifier's recording, float32 (T,), as the PNG `path`; returns `path`.

    Raises
    ------
    ModuleNotFoundError : matplotlib is not installed
    """
    import matplotlib

    from pipeline.report.style import DARK_STYLE, png, write

    with warnings.catch_warnings(), matplotlib.rc_context(DARK_STYLE):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # DejaVu Sans may lack a label's script
        return write(path, png(_figure(title, waveform, windows)))


def _answer(window: Window) -> str:
    if window.value:
        return "  ".join(f"{name} = {value:.6g}" for name, value in window.value.items())
    return f"{window.label}, but unknown" if window.known is False else window.label or "silence"


def _confidence(window: Window) -> float:
    """Confidence as the picture shows it: 0 for an unknown sound."""
    return 0.0 if window.known is False else window.confidence or 0.0


def _clock(seconds: float) -> str:
    """Seconds as minutes and seconds.

    Example
    -------
    >>> _clock(123.5)
    '2:03.50'
    """
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _figure(title: str, waveform: NDArray[np.float32], windows: Windows) -> "Figure":
    """The waveform in the colours of its labels, above one lane for each label, the longest heard first."""
    from matplotlib.figure import Figure

    from pipeline.report.style import CLASS_COLOURS, shortened

    seconds = dict.fromkeys((window.label for window in windows if window.label is not None), 0.0)
    for window in windows:
        if window.label is not None:
            seconds[window.label] += window.end - window.start
    labels = sorted(seconds, key=seconds.__getitem__, reverse=True)[:LANES]
    colours = {label: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, label in enumerate(labels)}

    height = TITLE + WAVE + LANE * len(labels) + FOOT
    left = RIGHT + LETTER * max(map(len, shortened(labels)))
    width = WIDTH - left - RIGHT
    figure = Figure(figsize=(WIDTH, height), dpi=150)
    upper = figure.add_axes((left / WIDTH, 1 - (TITLE + WAVE) / height, width / WIDTH, WAVE / height))
    lower = figure.add_axes((left / WIDTH, FOOT / height, width / WIDTH, LANE * len(labels) / height), sharex=upper)
    upper.set_title(title, loc="left", fontsize=9)
    _draw_waveform(upper, waveform, windows, colours, width)
    _draw_lanes(lower, windows, colours)
    others = len(seconds) - len(labels)
    grey = f"; grey: {counted(others, 'label')} heard for less time" if others else ""
    lower.set(xlabel=f"time; the stronger a colour, the higher the confidence{grey}")
    return figure


def _draw_waveform(
    axes: "Axes", waveform: NDArray[np.float32], windows: Windows, colours: dict[str, str], width: float
) -> None:
    """Lowest and highest sample of up to COLUMNS columns, each in the colour of its label; width in inches."""
    from pipeline.report.style import LIGHT

    end = windows[-1].end
    columns = np.linspace(0, len(waveform), min(COLUMNS, len(waveform)), endpoint=False).astype(int)
    centres = (columns + np.append(columns[1:], len(waveform))) / 2 * end / len(waveform)  # seconds
    window_of = np.searchsorted([window.start for window in windows], centres, side="right") - 1
    shades = [colours.get(windows[i].label, LIGHT) for i in window_of]
    thick = 1.1 * width * 72 / len(columns)  # points; a little more than a column
    low, high = np.minimum.reduceat(waveform, columns), np.maximum.reduceat(waveform, columns)
    axes.axhline(0, color=LIGHT, alpha=0.3, linewidth=0.6)
    axes.vlines(centres, low, high, colors=shades, linewidth=thick, antialiaseds=False)
    limit = 1.05 * max(high.max(), -low.min())
    axes.set(xlim=(0, end), ylim=(-limit, limit), yticks=[])
    axes.tick_params(labelbottom=False, length=0)
    axes.spines[:].set_visible(False)


def _draw_lanes(axes: "Axes", windows: Windows, colours: dict[str, str]) -> None:
    """One lane for each label of `colours`, with a bar for each of its windows, the stronger the more confident."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from pipeline.report.style import LIGHT, shortened

    for lane, (label, colour) in enumerate(colours.items()):
        own = [window for window in windows if window.label == label]
        spans = [(window.start, window.end - window.start) for window in own]
        shades = [(colour, 0.15 + 0.85 * _confidence(window)) for window in own]
        axes.axhline(lane, color=LIGHT, alpha=0.12, linewidth=0.6)
        axes.broken_barh(spans, (lane - 0.38, 0.76), facecolors=shades, linewidth=0, antialiased=False)
    axes.set_ylim(len(colours) - 0.5, -0.5)
    axes.set_yticks(range(len(colours)), shortened(colours))
    for text, colour in zip(axes.get_yticklabels(), colours.values(), strict=True):
        text.set_color(colour)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    digits = -3 if windows[-1].end > 10 else None  # hundredths of a second only where the recording is short
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: _clock(t)[:digits]))
