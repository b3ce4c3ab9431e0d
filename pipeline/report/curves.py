"""Every figure of a run, drawn from its saved results: nothing here trains, predicts or measures."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from pipeline.profile import step
from pipeline.report import pictures
from pipeline.report.schema import Bin, Curve, LearningCurve, Report
from pipeline.report.style import (
    BLUE,
    INK,
    ORANGE,
    PERCENT,
    PICTURE_STYLE,
    STYLE,
    Floats,
    shorten,
    shortened,
    write,
    write_svg,
)
from pipeline.run import Run

SHADE = 0.75  # opacity of the strongest cell; more would take the text's contrast below 4.5 : 1 on a light or dark page
FAINTEST = 0.12  # opacity of a cell with next to nothing in it, so that a single confusion shows
NUMBERED = 40  # classes up to which the cells are large enough for their counts
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "ncols": 3, "columnspacing": 1.4}
LOGARITHMIC = 20  # ratio of the largest to the smallest loss above which its axis is logarithmic


@step("figures")
def draw(run: Run) -> list[Path]:
    """Draw into `run/plots/` every figure that the results of `run` allow, and remove the figures of older results.

    Reads `history.json`, `report.json` and, where they exist, `mistakes.npz` and `figures.npz`. Returns the files
    written.

    Raises
    ------
    UserError : the run has not been trained or validated
    """
    history = run.json(run.history, "train")
    report: Report = run.json(run.report, "validate")
    inside = _arrays(run.inside)
    folder = run.plots
    with warnings.catch_warnings():
        # DejaVu Sans may lack the script of a class name; the browser that shows the SVG has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        with matplotlib.rc_context(STYLE):
            figures = (*_metrics(history, report), *_fitted_curve(inside, report))
            files = [write_svg(figure, folder / f"{name}.svg") for name, figure in figures]
        with matplotlib.rc_context(PICTURE_STYLE):
            for name, figure in _network_pictures(inside, report):
                files.append(write_svg(figure, folder / f"{name}.svg"))
            files += _mistakes(run, report)
    for stale in {*folder.glob("*.svg"), *folder.glob("*.png")} - set(files):
        stale.unlink()
    return files


def _metrics(history: dict[str, Any], report: Report) -> Iterator[tuple[str, Figure]]:
    best_epoch = report.get("training", {}).get("best_epoch")
    for metric in ("loss", "accuracy"):
        if history.get(f"train_{metric}"):
            yield metric, curve(history, metric, best_epoch)
    test = report["test"]
    if test.get("confusion_matrix"):
        yield "confusion", confusion(test["confusion_matrix"], report["labels"])
    if test.get("reliability"):
        yield "reliability", reliability(test["reliability"])
    if test.get("roc"):
        yield "roc", roc(test["roc"])
        yield "precision_recall", precision_recall(test["precision_recall"])
    grown = report.get("learning_curve")
    if grown and not grown["reason"]:
        yield "learning_curve", learning_curve(grown)


def _fitted_curve(inside: dict[str, Floats], report: Report) -> Iterator[tuple[str, Figure]]:
    """The fitted curve of a regression with one input, and its units' contributions."""
    if _has_classes(report) or "axis_1" not in inside or "axis_2" in inside:
        return
    yield "fit", pictures.fit(inside, report["labels"], report["task"]["data"]["source"] == "sine")
    if "votes" in inside and len(report["labels"]) == 1:
        shares = inside["votes"][0][:, None] * inside["units"]
        yield "contributions", pictures.contributions(inside["axis_1"], shares, float(inside["bias"][0]))


def _network_pictures(inside: dict[str, Floats], report: Report) -> Iterator[tuple[str, Figure]]:
    """The plane of a network with two inputs, the weights of a network on pixels, the clips of a network on sound."""
    activation = report["task"].get("model", {}).get("activation", "sigmoid")
    if "axis_2" in inside:
        if _has_classes(report):
            yield "regions", pictures.regions(inside, report["labels"])
        if "units" in inside:
            yield "units", pictures.units(inside, activation)
    if "weights" in inside:
        yield "weights", pictures.weights(inside["weights"])
    rate, features = report["sample_rate"], report["task"].get("features", {})
    for i in range(len(report.get("clips", []))):
        if rate is not None and f"mel_{i}" in inside:
            yield f"clip-{i + 1:02}", pictures.clip(inside[f"mel_{i}"], inside[f"mfcc_{i}"], rate, features)


def _mistakes(run: Run, report: Report) -> Iterator[Path]:
    """Draw the media of the worst mistakes: spectrograms of sounds as SVG, images enlarged as PNG."""
    rate = report["sample_rate"]
    for number, (_, array) in enumerate(zip(report["mistakes"], _arrays(run.mistakes).values(), strict=False), start=1):
        path = run.plots / f"mistake-{number:02}"
        if rate is None:
            yield write(path.with_suffix(".png"), pictures.enlarged(array))
        else:
            yield write_svg(pictures.spectrogram(array, rate, report["task"]["features"]), path.with_suffix(".svg"))


def _has_classes(report: Report) -> bool:
    return "accuracy" in report["test"]


def _arrays(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def curve(history: dict[str, Any], metric: str, best_epoch: int | None) -> Figure:
    """`metric` ("loss" or "accuracy") of training and validation samples over the epochs; the epoch kept is marked."""
    epochs = history["epoch"]
    kept = [epoch for epoch in epochs if epoch == best_epoch]
    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    marker = "o" if len(epochs) < 3 else None  # a line through one point is invisible
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # a single epoch would get ticks at halves
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PERCENT)
    elif scale_losses(axes, axes.lines[:2]):
        axes.set(ylabel="loss (logarithmic)")
    axes.legend(**ABOVE)
    return figure


def scale_losses(axes: Axes, lines: Sequence[Line2D]) -> bool:
    """Let the axis of losses begin at 0, or make it logarithmic where those of the lines differ much; whether it is."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
    is_logarithmic = bool(drawn.min() > 0 and drawn.max() > LOGARITHMIC * drawn.min())
    if is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    return is_logarithmic


def confusion(matrix: list[list[int]], labels: list[str]) -> Figure:
    """Counts of true class (rows) against predicted class (columns), shaded by their share of the row.

    Right answers are blue, wrong ones orange, and zeros are blank.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = float(np.clip(12 / len(labels), 0.14, 0.42))  # inches
    side = cell * len(labels)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # the saved SVG grows to include the names next to the cells
    rows, columns = np.nonzero(counts)
    cells = list(zip(rows.tolist(), columns.tolist(), strict=True))
    squares = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in cells]
    opacity = FAINTEST + (SHADE - FAINTEST) * np.sqrt(shares)  # the root makes small shares distinguishable
    colours = [(BLUE if y == x else ORANGE, opacity[y, x]) for y, x in cells]
    axes.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0))
    size = min(10, 0.75 * cell * 72)  # points
    if len(labels) <= NUMBERED:
        fitting = min(size, 1.3 * cell * 72 / len(str(counts.max())))
        for y, x in cells:
            axes.text(x + 0.5, y + 0.5, f"{counts[y, x]}", ha="center", va="center_baseline", fontsize=fitting)
    names = shortened(labels)
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


def reliability(bins: list[Bin]) -> Figure:
    """How often answers of a given confidence are right, with 95 % intervals where the report has them; below it, how
    many answers there are."""
    filled = [b for b in bins if b["count"]]
    confidence = np.array([b["confidence"] for b in filled])
    accuracy = np.array([b["accuracy"] for b in filled])
    count = np.array([b["count"] for b in filled])
    figure = Figure(figsize=(5, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=":", label="confidence = accuracy")
    if all("interval" in b for b in filled):  # reports of earlier versions have none
        low, high = np.array([b["interval"] for b in filled]).T
        upper.vlines(confidence, low, high, color=BLUE, linewidth=1.5, alpha=0.6, label="95 % interval")
    upper.plot(confidence, accuracy, "o-", color=BLUE, linewidth=1.5, markersize=5, label="measured", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(**ABOVE)
    lower.bar(confidence, count, width=0.02, color=BLUE)
    lower.set(xlabel="confidence", ylabel="samples")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PERCENT)
    return figure


def learning_curve(found: LearningCurve) -> Figure:
    """Accuracy, and the recall of the weakest class, over the number of training samples on a logarithmic scale, with
    95 % intervals; and what the task's network has now, and may have with twice as many samples."""
    figure = Figure(figsize=(5.5, 3.6))
    axes = figure.add_subplot()
    curves: list[tuple[str, Curve, str]] = [("accuracy", found["accuracy"], BLUE)]
    if "recall" in found:
        curves.append((f"recall of {shorten(found['weakest'])}", found["recall"], ORANGE))
    samples, along = found["samples"], np.array(found["along"])
    n = int(np.searchsorted(along, samples[-1])) + 1  # of the points up to the present number of samples
    for number, (label, curve, colour) in enumerate(curves):
        at = np.array(samples) * 1.03 ** (number - (len(curves) - 1) / 2)  # beside each other
        low, high = np.array(curve["intervals"]).T
        axes.vlines(at, low, high, color=colour, linewidth=1.5, alpha=0.6)
        axes.plot(at, curve["measured"], "o", color=colour, markersize=5, label=label)
        axes.plot(along[:n], curve["fitted"][:n], "-", color=colour, linewidth=1.2)
        axes.plot(along[n - 1 :], curve["fitted"][n - 1 :], "--", color=colour, linewidth=1.2)
        axes.fill_between(along, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(at[-1], curve["now"], "D", color=colour, markersize=6, markerfacecolor="none")
        low, high = curve["doubled_interval"]
        axes.vlines(2 * at[-1], low, high, color=colour, linewidth=1.5, alpha=0.6)
        axes.plot(2 * at[-1], curve["doubled"], "D", color=colour, markersize=6, markerfacecolor="none")
    axes.plot(
        [], [], "D", color=INK, markersize=6, markerfacecolor="none", label="this network, and with twice as many"
    )
    ticks = [*samples, 2 * samples[-1]]
    axes.set(xscale="log", xlabel="training samples", ylabel="test samples that are right")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(**ABOVE | {"ncols": 2})
    return figure


def roc(curve: dict[str, list[float]]) -> Figure:
    """True positive rate against false positive rate."""
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=":", label="guessing")
    axes.plot(curve["fpr"], curve["tpr"], color=BLUE, linewidth=1.8, label="the model")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    _percent_axes(axes)
    axes.legend(loc="lower right")
    return figure


def precision_recall(curve: dict[str, list[float]]) -> Figure:
    """Precision against recall."""
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    guessing = curve["precision"][0]  # at the lowest threshold every answer is positive
    axes.axhline(guessing, color=INK, linewidth=1, linestyle=":", label="guessing")
    axes.step(curve["recall"], curve["precision"], where="post", color=BLUE, linewidth=1.8, label="the model")
    axes.set(xlabel="recall", ylabel="precision")
    _percent_axes(axes)
    axes.legend(loc="lower left")
    return figure


def _percent_axes(axes: Axes) -> None:
    """Both axes from 0 to 100 %, with room for a curve that runs along the edge."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT)
