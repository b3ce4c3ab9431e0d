"""What `percept exercises` prints and draws of a network set by hand."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.lessons import backprop
from pipeline.lessons.byhand import KINDS, Floats, Problem, as_reference, gradients
from pipeline.report import pictures
from pipeline.report.style import CURVES, INK, ORANGE, PICTURE_STYLE, STYLE, write_svg

GRID = 481, 201  # points along the axis of one input, and along each axis of two
PLANE = 2  # inputs of a network that is drawn over a plane
ROUNDING = 1e-12


def report(problem: Problem, out: Path) -> list[Path]:
    """Print the layers, the fitted weights, the values at x and the gradients; draw the figures into `out`.

    One input: `units.svg`, the response of each hidden unit, and `output.svg`, the weighted responses and their sum.
    Two inputs: the same over the plane, with the line of each unit. One sample with its target: `backprop.svg`.

    Returns
    -------
    The files written
    """
    _print_layers(problem)
    if problem.is_fitted:
        _print_fit(problem)
    if problem.x is not None:
        _print_values(problem.network.sums(problem.x), problem)
    drawn: list[Path] = []
    if problem.y is not None:
        _print_gradients(problem)
        if len(problem.y) == 1:
            drawn.append(_graph(problem, out / "backprop.svg"))
    d = len(problem.network.w_hidden)
    if d == 1:
        with matplotlib.rc_context(STYLE):
            drawn += [write_svg(units(problem), out / "units.svg"), write_svg(output(problem), out / "output.svg")]
    elif d == PLANE:
        with matplotlib.rc_context(PICTURE_STYLE):
            inside = _on_grid(problem)
            drawn += [
                write_svg(pictures.units(inside, problem.network.unit), out / "units.svg"),
                write_svg(plane(problem, inside), out / "output.svg"),
            ]
    return drawn


def _print_layers(problem: Problem) -> None:
    """The layers, and how many parameters each has."""
    n = problem.network
    (d, h), k = n.w_hidden.shape, n.w_output.shape[1]
    name = "mixture" if n.mixture else n.output
    last = n.parameters - h * (d + 1)
    print(f"hidden: {d} → {h} {n.unit}, W_H {d} × {h} and b_H {h}: {h * (d + 1)} parameters")
    print(f"output: {h} → {k} {name}, W_O {h} × {k}" + ("" if n.mixture else f" and b_O {k}") + f": {last} parameters")
    print(f"total: {n.parameters} parameters")


def _print_fit(problem: Problem) -> None:
    """The fitted output layer, and its error at the points."""
    n, points = problem.network, problem.points
    assert points is not None
    x, y = np.split(points, [len(n.w_hidden)], axis=1)
    rmse = float(np.sqrt(np.mean((n(x) - y) ** 2)))
    bias = "" if n.mixture else f", b_O = {_row(n.b_output)}"
    print(f"least squares at {len(x)} points: W_O = {_matrix(n.w_output)}{bias}; RMSE {_row(np.array([rmse]))}")


def _print_values(sums: Floats, problem: Problem) -> None:
    """The forward pass at each x."""
    n, x = problem.network, problem.x
    assert x is not None
    for row in zip(x, sums, n.responses(x), n.logits(x), n(x), strict=True):
        names = ("x", "z_H", "u", "z_O", "y")
        print("  ".join(f"{name} = {_row(value)}" for name, value in zip(names, row, strict=True)))


def _print_gradients(problem: Problem) -> None:
    """The mean loss, and the gradient of every parameter."""
    loss, found = gradients(problem)
    print(f"loss L = {loss:.6g}")
    for name, gradient in found.items():
        print(f"∂L/∂{name} = {_matrix(gradient) if gradient.ndim == 2 else _row(gradient)}")


def _row(values: Floats) -> str:
    # What rounding leaves of a 0 is printed as 0.
    words = ["undefined" if np.isnan(v) else f"{0 if abs(v) < ROUNDING else v:.6g}" for v in values]
    return words[0] if len(words) == 1 else f"({', '.join(words)})"


def _matrix(values: Floats) -> str:
    rows = values.T if values.shape[1] == 1 else values
    return _row(rows[0]) if len(rows) == 1 else "(" + ", ".join(_row(row) for row in rows) + ")"


def _graph(problem: Problem, path: Path) -> Path:
    n, x, y = problem.network, problem.x, problem.y
    assert x is not None
    assert y is not None
    nodes = backprop.nodes(as_reference(n), x, y, KINDS[n.output])
    with matplotlib.rc_context(STYLE):
        return write_svg(backprop.figure(nodes, f"x = {_row(x[0])}, y = {_row(np.atleast_1d(y[0]))}"), path)


def units(problem: Problem) -> Figure:
    """The response of each hidden unit over the range; of a mixture, dashed, its share of their sum too."""
    n = problem.network
    x = np.linspace(*problem.limits, GRID[0])
    responses, shares = n.responses(x[:, None]), n.shares(x[:, None])
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    for j, (response, share) in enumerate(zip(responses.T, shares.T, strict=True)):
        colour, label = CURVES[j % len(CURVES)], f"unit {j + 1}" if j < pictures.RESPONSES else None
        axes.plot(x, response, color=colour, linewidth=1.8, label=label)
        if n.mixture:
            axes.plot(x, share, "--", color=colour, linewidth=1.2)
    if n.mixture:
        axes.plot([], [], "--", color=INK, linewidth=1.2, label="share of the sum")
    axes.set(xlabel="x", ylabel="response u")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def output(problem: Problem) -> Figure:
    """The weighted responses, the output and the points, one panel for each output."""
    n = problem.network
    x = np.linspace(*problem.limits, GRID[0])
    shares, y = n.shares(x[:, None]), n(x[:, None])
    k = y.shape[1]
    figure = Figure(figsize=(6, 0.6 + 3 * k))
    for i, axes in enumerate(figure.subplots(k, 1, sharex=True, squeeze=False)[:, 0]):
        for j, share in enumerate((shares * n.w_output[:, i]).T[: pictures.RESPONSES]):
            axes.plot(x, share, color=CURVES[j % len(CURVES)], linewidth=1.3, label=f"unit {j + 1}, weighted")
        if not n.mixture:
            axes.plot(x, np.full_like(x, n.b_output[i]), ":", color=INK, linewidth=1, label="bias")
        axes.plot(x, y[:, i], color=INK, linewidth=2.4, label="output")
        if problem.points is not None:
            axes.plot(problem.points[:, 0], problem.points[:, 1 + i], "o", color=ORANGE, markersize=5, label="points")
        axes.set(ylabel="y" if k == 1 else f"y{i + 1}")
    axes.set(xlabel="x")
    figure.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _on_grid(problem: Problem) -> dict[str, Floats]:
    """The arrays of `pictures.units` over the square."""
    n = problem.network
    axis = np.linspace(*problem.limits, GRID[1])
    x = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis)], axis=1)
    shape = (-1, GRID[1], GRID[1])
    arrays = {"units": n.responses(x), "sums": n.sums(x), "logits": n.logits(x), "answers": n(x)}
    return {"axis_1": axis, "axis_2": axis, "votes": n.w_output.T} | {
        name: values.T.reshape(shape) for name, values in arrays.items()
    }


def plane(problem: Problem, inside: dict[str, Floats]) -> Figure:
    """The output over two inputs, with the line of every unit, its number on the side where z > 0, and the points.

    Several outputs are drawn as regions, in the colour of the largest; one output has a colour bar.
    """
    x, y, answers = inside["axis_1"], inside["axis_2"], inside["answers"]
    k = len(answers)
    figure = Figure(figsize=(5.2, 4.3), dpi=150)
    axes = figure.add_axes((0.13, 0.11, 0.66, 0.82))
    values = answers[0] if k == 1 else np.where(np.isnan(answers).any(axis=0), np.nan, answers.argmax(axis=0))
    image = axes.imshow(values, origin="lower", cmap="viridis", extent=(x[0], x[-1], y[0], y[-1]), aspect="auto")
    bar = figure.colorbar(image, cax=figure.add_axes((0.82, 0.11, 0.03, 0.6)), ticks=range(k) if k > 1 else None)
    bar.ax.set_title("y" if k == 1 else "largest\noutput", fontsize=8)
    if k > 1:
        bar.ax.set_yticklabels([f"y{i + 1}" for i in range(k)])
    bar.outline.set_visible(False)
    for j in range(min(len(inside["sums"]), pictures.RESPONSES)):
        _line(axes, problem, j)
    for array, marker in ((problem.points, "o"), (problem.x, "X")):
        if array is not None:
            axes.plot(array[:, 0], array[:, 1], marker, color="white", markeredgecolor="black", markersize=6)
    axes.set(xlabel="x1", ylabel="x2", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.legend(handles=_legend(problem), loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


def _line(axes: Axes, problem: Problem, j: int) -> None:
    """The line w·x + b = 0 of unit j, with its number on the side where the sum is positive."""
    n = problem.network
    w, b = n.w_hidden[:, j], float(n.b_hidden[j])
    length, (low, high) = float(np.hypot(*w)), problem.limits
    if length == 0:
        return  # the same everywhere
    middle = np.full(2, (low + high) / 2)
    foot = middle - (middle @ w + b) / length**2 * w  # the point of the line nearest to the middle
    along = np.array([-w[1], w[0]]) / length * 2 * (high - low)
    (x1, y1), (x2, y2) = foot - along, foot + along
    axes.plot([x1, x2], [y1, y2], color="black", linewidth=2.4, alpha=0.6)  # on the light end of the colours
    axes.plot([x1, x2], [y1, y2], "--", color="white", linewidth=1.3)
    number = foot + w / length * 0.04 * (high - low)
    if (np.abs(number - middle) < 0.48 * (high - low)).all():
        axes.text(number[0], number[1], str(j + 1), color="white", ha="center", va="center", fontweight="bold",
                  bbox={"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "none"})  # fmt: skip


def _legend(problem: Problem) -> list[Line2D]:
    handles = [Line2D([], [], linestyle="--", color=INK, label="z = 0, number where z > 0")]
    for array, marker, name in ((problem.points, "o", "points"), (problem.x, "X", "x")):
        if array is not None:
            handles.append(Line2D([], [], linestyle="none", marker=marker, color=INK, label=name))
    return handles
