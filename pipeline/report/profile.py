"""Where the time of a command went, drawn from `profile.json`: every step, computing and waiting."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from pipeline.profile import Stage, shown
from pipeline.report.style import BLUE, INK, STYLE, write_svg
from pipeline.run import Run

WIDTH, ROW, MARGINS = 8.0, 0.26, 0.9  # inches
WAITED = 0.35  # opacity


def draw(run: Run) -> Path:
    """Draw `run/profile.svg`; returns its path.

    Raises
    ------
    UserError : no command of the run has been profiled
    """
    with matplotlib.rc_context(STYLE):
        return write_svg(_figure(run.json(run.profile, "run --profile")), run.profile_figure)


def _figure(stages: list[Stage]) -> Figure:
    """A bar for each step under the name of its stage: seconds, of which those of computing are solid."""
    rows = [
        (one["name"], None) if step is None else (step["name"], step)
        for one in stages
        for step in (None, *shown(one["steps"]))
    ]
    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    steps = {at: step for at, (_, step) in enumerate(rows) if step is not None}
    seconds = [step["seconds"] for step in steps.values()]
    axes.barh(list(steps), seconds, color=BLUE, alpha=WAITED, label="waiting")
    axes.barh(
        list(steps), [min(step["seconds"], step["processor"]) for step in steps.values()], color=BLUE, label="computing"
    )
    for at, step in steps.items():
        axes.text(step["seconds"], at, f" {step['seconds']:.1f} s", va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for at, tick in enumerate(axes.get_yticklabels()):
        tick.set_fontweight("normal" if at in steps else "bold")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max(seconds))
    axes.set_xlabel("seconds, of all threads together")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right")
    return figure
