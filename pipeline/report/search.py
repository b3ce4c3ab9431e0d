"""The figures of a search for hyperparameters, drawn from `search.json`: its trials side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.report.style import BLUE, CURVES, INK, ORANGE, PERCENT, STYLE, Floats, shown, write_svg
from pipeline.run import Run

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")  # matplotlib would write powers of ten as mathematical text
PENALTIES = ("train.l1", "train.l2", "train.activity_l1", "train.activity_l2")


def draw(run: Run) -> list[Path]:
    """Draw into `run/search/` every figure that `run/search.json` allows, and remove the figures of an older search.

    Returns the files written.

    Raises
    ------
    UserError : the run has no search
    """
    result = run.json(run.search, "tune")
    folder = run.search_figures
    with matplotlib.rc_context(STYLE):
        files = [write_svg(figure, folder / f"{name}.svg") for name, figure in _figures(result)]
    for stale in set(folder.glob("*.svg")) - set(files):
        stale.unlink()
    return files


def _figures(result: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    trials = [trial for trial in result["trials"] if trial["score"] is not None]
    keys = list(result["tune"]["space"])
    if not trials:
        return
    yield "losses", losses(trials, keys)
    for key in keys:
        yield f"score-{key.replace('.', '-')}", scores(trials, key, result["tune"]["space"][key])
    for key in keys:
        if key in PENALTIES:
            yield f"regularisation-{key.split('.')[1].replace('_', '-')}", regularisation(trials, key)
    if {"train.learning_rate", "train.schedule"} & set(keys):
        yield "noise", noise(trials, keys)


def losses(trials: list[dict[str, Any]], keys: list[str]) -> Figure:
    """Loss in every epoch, mean over the folds, on a logarithmic axis: of training samples and of those held out."""
    figure = Figure(figsize=(6.4, 4))
    axes = figure.add_subplot()
    axes.plot([], [], "--", color=INK, linewidth=1, label="training")
    axes.plot([], [], "-", color=INK, label="held out")
    others = len(trials) - len(CURVES)
    if others > 0:
        axes.plot([], [], color=INK, alpha=0.2, label="another" if others == 1 else f"{others} others")
    for trial, colour in reversed(_coloured(trials)):  # the best on top
        style: dict[str, Any] = {"color": colour or INK, "alpha": 1 if colour else 0.2}
        curves = trial["curves"]
        epochs = range(1, len(curves["train_loss"]) + 1)
        label = _label(trial, keys) if colour else None
        axes.plot(epochs, curves["validation_loss"], linewidth=1.8, label=label, **style)
        if colour:
            axes.plot(epochs, curves["train_loss"], "--", linewidth=1, **style)
    axes.set(xlabel="epoch", ylabel="loss")
    _log(axes, axes.yaxis)
    _legend(axes)
    return figure


def scores(trials: list[dict[str, Any]], key: str, choices: list[Any] | dict[str, Any]) -> Figure:
    """Score against one hyperparameter: each trial with its standard deviation over the folds; the best is marked.

    trials : best first
    choices : the values of the hyperparameter that the search space lists, or its range
    """
    has_accuracy = "validation_accuracy" in trials[0]
    metric = "validation_accuracy" if has_accuracy else "validation_loss"
    values = [trial["parameters"][key] for trial in trials]
    figure = Figure(figsize=(5, 3.2))
    axes = figure.add_subplot()
    x = _axis(axes, values, choices)
    y = np.array([trial[metric]["mean"] for trial in trials])
    axes.errorbar(
        x, y, [trial[metric]["std"] for trial in trials], fmt="o", color=BLUE, markersize=5, linewidth=1,
        ecolor=(BLUE, 0.45), label="trial, ± deviation over folds",
    )  # fmt: skip
    axes.plot(x[0], y[0], "o", color=ORANGE, markersize=8, label="best", zorder=3)
    axes.set(xlabel=key, ylabel="accuracy" if has_accuracy else "squared error")
    if has_accuracy:
        axes.yaxis.set_major_formatter(PERCENT)
    else:
        _log(axes, axes.yaxis)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)
    return figure


def regularisation(trials: list[dict[str, Any]], key: str) -> Figure:
    """Effect of a penalty's strength λ on the norm of the weights, on the losses of training samples and of those held
    out, and on the gap between the two losses.

    A line joins the means of trials with the same λ.
    """
    strengths = np.array([trial["parameters"][key] for trial in trials], np.float64)
    distinct = np.unique(strengths)

    def line(axes: Axes, name: str, style: str, colour: str, label: str | None = None) -> Floats:
        values = np.array([trial[name]["mean"] for trial in trials])
        means = np.array([values[strengths == strength].mean() for strength in distinct])
        axes.plot(strengths, values, "o", color=colour, markersize=4)
        axes.plot(distinct, means, style, color=colour, label=label)
        return means

    figure = Figure(figsize=(5, 5))
    upper, lower = figure.subplots(2, 1, sharex=True)
    _axis(lower, list(distinct), [])
    line(upper, "weight_norm", "-", BLUE)
    upper.set(ylabel="norm of the weights")
    upper.set_ylim(bottom=0)
    held_out = line(lower, "validation_loss", "-", ORANGE, "held out")
    training = line(lower, "train_loss", "--", BLUE, "training")
    lower.fill_between(distinct, training, held_out, color=INK, alpha=0.08, linewidth=0, label="gap")
    lower.set(xlabel=f"λ ({key})", ylabel="loss, without penalty")
    _log(lower, lower.yaxis)
    lower.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3)
    return figure


def noise(trials: list[dict[str, Any]], keys: list[str]) -> Figure:
    """Training loss of one fold in every epoch: its jitter is the noise of the gradient.

    The noise grows with the learning rate, and fades where a schedule lowers it. A mean over folds would hide it.
    """
    figure = Figure(figsize=(6.4, 4))
    axes = figure.add_subplot()
    for trial, colour in reversed(_coloured(trials)):
        if colour:
            epochs = range(1, len(trial["trace"]) + 1)
            axes.plot(epochs, trial["trace"], color=colour, linewidth=0.9, label=_label(trial, keys))
    axes.set(xlabel="epoch", ylabel="training loss of one fold")
    _log(axes, axes.yaxis)
    _legend(axes)
    return figure


def _coloured(trials: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str | None]]:
    """The best trials with a colour each, the others with None."""
    return [(trial, CURVES[i] if i < len(CURVES) else None) for i, trial in enumerate(trials)]


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)


def _axis(axes: Axes, values: list[Any], choices: list[Any] | dict[str, Any]) -> Floats:
    """Set up the horizontal axis for a hyperparameter's values, drawn from `choices`; returns the x of each value."""
    single = all(isinstance(value, list) and len(value) == 1 for value in values)  # one hidden layer: its width
    numbers = [value[0] for value in values] if single else values
    if not all(isinstance(number, int | float) for number in numbers):
        found = [shown(value) for value in values]
        names = [name for name in dict.fromkeys(map(shown, choices)) if name in found]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        return np.array([names.index(name) for name in found], np.float64)
    x = np.array(numbers, np.float64)
    positive = x[x > 0]
    if len(positive) and x.min() >= 0 and x.max() >= 10 * positive.min():
        if x.min() > 0:
            _log(axes, axes.xaxis)
        else:  # 0 has no logarithm: it is drawn left of the smallest positive value
            axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
            axes.set_xticks(np.unique(x))
            axes.xaxis.set_major_formatter(PLAIN)
            axes.xaxis.set_minor_formatter(NullFormatter())
    return x


def _log(axes: Axes, axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers as ticks; its data must have been drawn."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    low, high = axis.get_data_interval()
    narrow = low > 0 and high < 1000 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def _label(trial: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key.partition('.')[2]} = {shown(trial['parameters'][key])}" for key in keys)
