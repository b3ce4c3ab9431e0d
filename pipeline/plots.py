"""Every figure of a run, drawn from its saved results only: nothing here trains, predicts or measures.

Curves, confusion matrix and reliability diagram are SVG on no background, in the text colour of whatever page
holds them. Pictures of mistakes are PNG on a dark tile of their own, since a bitmap cannot follow the page.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import read_json, replacing

INK = "#010203"  # a stand-in: the saved SVG says currentColor in its place
BLUE, ORANGE = "#3576b8", "#c8601a"  # 3.8 : 1 or more on white and near-black; the colour-blind see two
TILE, LIGHT = "#15181d", "#d8dce2"  # background and text of a picture

SHADE = 0.75  # opacity of the strongest cell: above it, text in either page's colour would drop below 4.5 : 1
FAINTEST = 0.12  # opacity added to every cell that is not zero, so that a single confusion can be seen
NUMBERED = 40  # classes beyond which the cells are too small for their counts
LABEL = 24  # characters of a class name on an axis
ENLARGE = 8  # 28 × 28 pixels become 224 × 224
DYNAMIC_RANGE = 80  # dB below the loudest point of the clip
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")
HERTZ = (0, 500, 1000, 2000, 4000, 8000, 16000)  # ticks, about evenly spaced on the mel scale

Floats = NDArray[np.float64]

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "percept",  # the same results give the same bytes
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than what a page puts in its place
    "font.size": 10,
    "legend.frameon": False,
}
PICTURE_STYLE: dict[Any, Any] = STYLE | {
    "text.color": LIGHT,
    "axes.edgecolor": LIGHT,
    "axes.labelcolor": LIGHT,
    "xtick.color": LIGHT,
    "ytick.color": LIGHT,
    "axes.grid": False,
    "figure.facecolor": TILE,
    "font.size": 8,
}


def draw(run: Path) -> list[Path]:
    """Draw every figure that the results of `run` allow into `run/plots/`, and remove those of older results.

    Reads `history.json`, `report.json` and, where there is one, `mistakes.npz`. Returns the files written.
    """
    history = read_json(run / "history.json", "train")
    report = read_json(run / "report.json", "validate")
    folder = run / "plots"
    with warnings.catch_warnings():
        # DejaVu Sans may lack the script of a class name; the browser that shows the SVG has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        with matplotlib.rc_context(STYLE):
            files = [_write(folder / f"{name}.svg", _svg(figure, name)) for name, figure in _figures(history, report)]
    with matplotlib.rc_context(PICTURE_STYLE):
        for number, picture in enumerate(_pictures(run, report), start=1):
            files.append(_write(folder / f"mistake-{number:02}.png", picture))
    for stale in {*folder.glob("*.svg"), *folder.glob("*.png")} - set(files):
        stale.unlink()
    return files


def _figures(history: dict[str, Any], report: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    best_epoch = report.get("training", {}).get("best_epoch")
    for metric in ("loss", "accuracy"):
        if history.get(f"train_{metric}"):
            yield metric, curve(history, metric, best_epoch)
    test = report["test"]
    if test.get("confusion_matrix"):
        yield "confusion", confusion(test["confusion_matrix"], report["labels"])
    if test.get("reliability"):
        yield "reliability", reliability(test["reliability"])


def _pictures(run: Path, report: dict[str, Any]) -> Iterator[bytes]:
    if not report.get("mistakes") or not (run / "mistakes.npz").exists():
        return
    with np.load(run / "mistakes.npz") as arrays:
        for index in range(len(report["mistakes"])):
            array = arrays[str(index)]
            if array.ndim == 1:
                yield _png(spectrogram(array, report["sample_rate"], report["task"]["features"]))
            else:
                yield enlarged(array)


def curve(history: dict[str, Any], metric: str, best_epoch: int | None) -> Figure:
    """`metric` ("loss", "accuracy") of train and validation samples over the epochs, with the epoch kept."""
    epochs = history["epoch"]
    kept = [epoch for epoch in epochs if epoch == best_epoch]
    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    marker = "o" if len(epochs) < 3 else None  # a line through one point cannot be seen
    for split, colour, dashes in (("train", BLUE, "--"), ("validation", ORANGE, "-")):
        values = history.get(f"{split}_{metric}")
        if not values:
            continue
        axes.plot(epochs, values, dashes, color=colour, marker=marker, label=split, linewidth=1.8)
        for epoch in kept:
            axes.plot(epoch, values[epochs.index(epoch)], "o", color=colour, markersize=6)
    for epoch in kept:
        axes.axvline(epoch, color=INK, linewidth=1, linestyle=":", label=f"epoch {epoch}, kept")
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PERCENT)
    else:
        axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1.4)
    return figure


def confusion(matrix: list[list[int]], labels: list[str]) -> Figure:
    """Counts of true class (rows) against predicted class (columns), shaded by their share of the row.

    Right answers are blue, wrong ones orange, and zeros are left blank.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = float(np.clip(12 / len(labels), 0.14, 0.42))  # inches
    side = cell * len(labels)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # _svg grows the canvas around the names: no cell shrinks for them
    rows, columns = np.nonzero(counts)
    cells = list(zip(rows.tolist(), columns.tolist(), strict=True))
    squares = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in cells]
    opacity = FAINTEST + (SHADE - FAINTEST) * np.sqrt(shares)  # the root tells small shares apart
    colours = [(BLUE if y == x else ORANGE, opacity[y, x]) for y, x in cells]
    axes.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0))
    size = min(10, 0.75 * cell * 72)  # points
    if len(labels) <= NUMBERED:
        fitting = min(size, 1.3 * cell * 72 / len(str(counts.max())))
        for y, x in cells:
            axes.text(x + 0.5, y + 0.5, f"{counts[y, x]}", ha="center", va="center_baseline", fontsize=fitting)
    names = [_shorten(label) for label in labels]
    ticks = np.arange(len(labels)) + 0.5
    axes.set(xlim=(0, len(labels)), ylim=(len(labels), 0), xlabel="predicted", ylabel="true")
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xticks(ticks, names, fontsize=size)
    if max(map(len, names)) > 3:
        slope = 45 if len(labels) <= 20 else 90
        for text in axes.get_xticklabels():
            text.set(rotation=slope, rotation_mode="anchor", ha="right", va="center")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.hlines(range(len(labels) + 1), 0, len(labels), color=INK, alpha=0.12, linewidth=0.6)
    axes.vlines(range(len(labels) + 1), 0, len(labels), color=INK, alpha=0.12, linewidth=0.6)
    axes.spines[:].set_visible(False)
    return figure


def reliability(bins: list[dict[str, Any]]) -> Figure:
    """How often answers of a given confidence are right, with 95 % intervals, above how many there are."""
    filled = [b for b in bins if b["count"]]
    confidence = np.array([b["confidence"] for b in filled])
    accuracy = np.array([b["accuracy"] for b in filled])
    count = np.array([b["count"] for b in filled])
    figure = Figure(figsize=(5, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=":", label="confidence = accuracy")
    low, high = _wilson(accuracy, count)
    upper.vlines(confidence, low, high, color=BLUE, linewidth=1.5, alpha=0.6, label="95 % interval")
    upper.plot(confidence, accuracy, "o-", color=BLUE, linewidth=1.5, markersize=5, label="measured")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_clip_on(False)
    upper.legend(loc="upper left")
    lower.bar(confidence, count, width=0.02, color=BLUE)
    lower.set(xlabel="confidence", ylabel="samples")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PERCENT)
    return figure


def spectrogram(waveform: NDArray[np.float32], sample_rate: int, features: dict[str, Any]) -> Figure:
    """Mel spectrogram in dB of a mono waveform (T,), framed as the task's features say where they say it."""
    import librosa  # loads numba; only a run on sound needs it

    names = ("n_fft", "hop_length", "n_mels", "fmin", "fmax")
    asked = {name: features[name] for name in names if features.get(name) is not None}
    frames = {"n_fft": 2048, "hop_length": 512, "n_mels": 64, "fmin": 0.0, "fmax": sample_rate / 2} | asked
    seconds = len(waveform) / sample_rate
    padded = np.pad(waveform, (0, max(0, frames["n_fft"] - len(waveform))))
    power = librosa.feature.melspectrogram(y=padded, sr=sample_rate, **frames)
    decibels = librosa.power_to_db(power, ref=np.max, top_db=DYNAMIC_RANGE)

    low, high = librosa.hz_to_mel([frames["fmin"], frames["fmax"]])
    half = (high - low) / (frames["n_mels"] + 1) / 2  # filters are centred between the ends of the range
    hop = frames["hop_length"] / sample_rate
    figure = Figure(figsize=(3.6, 2.3), dpi=150)
    axes = figure.add_axes((0.17, 0.2, 0.66, 0.7))
    image = axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-DYNAMIC_RANGE,
        vmax=0,
        extent=(-hop / 2, (power.shape[1] - 0.5) * hop, low + half, high - half),
    )
    hertz = [tick for tick in HERTZ if frames["fmin"] <= tick <= frames["fmax"]]
    axes.set_yticks(librosa.hz_to_mel(hertz), [str(tick) for tick in hertz])
    axes.set(xlim=(0, seconds), ylim=(low + half, high - half), xlabel="time (s)", ylabel="frequency (Hz)")
    bar = figure.colorbar(image, cax=figure.add_axes((0.86, 0.2, 0.025, 0.7)), ticks=[-80, -60, -40, -20, 0])
    bar.ax.set_title("dB", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def enlarged(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of a grey image, each pixel a square; ink (255) is light, as the model's input has it."""
    stream = io.BytesIO()
    squares = np.kron(pixels, np.ones((ENLARGE, ENLARGE), np.uint8))
    Image.fromarray(squares).save(stream, "png")
    return stream.getvalue()


def _wilson(share: Floats, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Ends of the 95 % Wilson score interval (Wilson, 1927) of each `share` of `count` samples."""
    z = 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def _shorten(label: str) -> str:
    """Cut out of the middle: names of one family often differ only at the end."""
    if len(label) <= LABEL:
        return label
    head = math.ceil((LABEL - 1) / 2)
    return f"{label[:head]}…{label[head - LABEL + 1 :]}"


def _svg(figure: Figure, name: str) -> bytes:
    """`figure` as an SVG element fit for a page: ids that no other figure has, and the page's text colour."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(f": {INK}", ": currentColor")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).encode()


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _write(path: Path, data: bytes) -> Path:
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
