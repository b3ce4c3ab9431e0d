"""Back-propagation on one sample, node by node: the computation graph with the value and the gradient of every node.

The numbers are those of `models/steps/reference.py`, in float64, in the textbook's notation: a sample is a row x, and
W_H has a column for each hidden unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from models.card import Kind
from models.steps import reference
from models.steps.reference import Array, Network, Penalties
from pipeline.extract import Features
from pipeline.lessons.gradcheck import as_reference, initial
from pipeline.report.style import INK, ORANGE, STYLE, write_svg
from pipeline.run import Run
from pipeline.task import Task

BATCH = 100  # samples of the batch in the table of dimensions
SHOWN = 4  # rows and columns of a value that are printed, at most
SLOPES = {"sigmoid": "a (1 - a)", "relu": "[a > 0]", "tanh": "(1 - a²)", "linear": "1"}  # g'(z), given a = g(z)
OUTPUTS = {"binary": "σ(z) - y", "multiclass": "softmax(z) - onehot(y)", "regression": "2 (z - y) / K"}  # ∂L/∂z_O
LOSSES = {
    "binary": "-[y ln σ(z) + (1 - y) ln(1 - σ(z))]",
    "multiclass": "-ln softmax(z)_y",
    "regression": "mean of (z - y)²",
}
# Inches: height of a line, width of a number and of a letter, margin of a box, distance of boxes.
LINE, DIGITS, LETTER, PAD, GAP = 0.17, 0.66, 0.085, 0.09, 0.13


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph for one sample: its value and the gradient of the loss with respect to it.

    value, gradient : float64 (rows, columns); a vector is one row
    forward, backward : how each is computed, in the notation of docs/unit.md
    """

    name: str
    value: Array
    gradient: Array
    forward: str
    backward: str
    is_parameter: bool = False

    def dimensions(self, batch: int | None) -> str:
        """Its shape for one sample (None), or for a batch.

        Example
        -------
        >>> node = Node("z_H", np.zeros((1, 4)), np.zeros((1, 4)), "x W_H + b_H", "")
        >>> node.dimensions(None), node.dimensions(100)
        ('4', '100 × 4')
        """
        rows, columns = self.value.shape
        if self.name == "L":
            return "1"
        if self.is_parameter:
            return f"{rows} × {columns}" if self.name.startswith("W") else str(columns)
        return str(columns) if batch is None else f"{batch} × {columns}"


def backprop(task: Task, run: Run) -> list[Node]:
    """Print the table of the task's network at its initial weights on its first training sample, and draw the graph
    into `lessons/backprop.svg` of the run.

    Returns
    -------
    The nodes, forward

    Raises
    ------
    UserError : there are no features
    """
    features = Features.of(run)
    facts, classifier, rows = initial(task, features)
    first = rows[:1]
    x = classifier.standardize(torch.from_numpy(features.x[first])).numpy().astype(np.float64)
    network = as_reference(classifier.mlp.double())
    found = nodes(network, x, features.y[first], facts.kind)
    y = features.y[first[0]]
    target = ", ".join(f"{v:.4f}" for v in y) if facts.kind == "regression" else f"{y} ({facts.labels[y]})"
    title = f"{features.file[first[0]]}, y = {target}"
    print(f"{task.name}: {title}; standardised, at the initial weights")
    _print_table(found)
    with matplotlib.rc_context(STYLE):
        print(f"{task.name}: → {write_svg(figure(found, title), run.lessons / 'backprop.svg')}")
    return found


def nodes(network: Network, x: Array, y: Array, kind: Kind) -> list[Node]:
    """The nodes for one sample: x (1, n_0) and y (1,) or (1, K) as in `reference.loss`.

    For one sample ∂L/∂b_l is δ_l = ∂L/∂z_l, and ∂L/∂a_{l-1} = δ_l W_lᵀ.

    Example
    -------
    >>> one = Network([np.array([[2.0]])], [np.array([1.0])], "sigmoid")
    >>> found = nodes(one, np.array([[3.0]]), np.array([[5.0]]), "regression")
    >>> [(node.name, node.value.item(), node.gradient.item()) for node in found]
    [('x', 3.0, 8.0), ('W_O', 2.0, 12.0), ('b_O', 1.0, 4.0), ('z_O', 7.0, 4.0), ('L', 4.0, 1.0)]
    """
    *inputs, output = reference.forward(network, x)
    gradients = reference.gradients(network, x, y, kind, Penalties())
    n_hidden = len(inputs) - 1
    names = ["H" if n_hidden == 1 else f"H{i}" for i in range(1, n_hidden + 1)] + ["O"]
    found: list[Node] = []
    for i, (name, a) in enumerate(zip(names, inputs, strict=True)):
        w, b, delta = network.weights[i], network.biases[i][None], gradients.biases[i][None]
        before = "x" if i == 0 else f"a_{names[i - 1]}"
        given = "given" if i == 0 else f"{_function(network)}(z_{names[i - 1]})"
        found += [
            Node(before, a, delta @ w, given, f"δ_{name} W_{name}ᵀ"),
            Node(f"W_{name}", w.T, gradients.weights[i].T, "given", f"{before}ᵀ δ_{name}", True),
            Node(f"b_{name}", b, delta, "given", f"Σ δ_{name}", True),
            Node(
                f"z_{name}", a @ w.T + b, delta, f"{before} W_{name} + b_{name}",
                f"δ_{name} = " + (f"∂L/∂a_{name} ⊙ {SLOPES[network.activation]}" if i < n_hidden else OUTPUTS[kind]),
            ),
        ]  # fmt: skip
    loss = np.array([[reference.loss(output, y, kind)]])
    return [*found, Node("L", loss, np.ones((1, 1)), LOSSES[kind], "1")]


def _function(network: Network) -> str:
    return {"sigmoid": "σ"}.get(network.activation, network.activation)


def _print_table(found: Sequence[Node]) -> None:
    """Print one line for each node: its dimensions for one sample and for a batch, and how it is computed."""
    head = ("node", "one sample", f"batch of {BATCH}", "forward", "∂L/∂node, walking back")
    rows = [(n.name, n.dimensions(None), n.dimensions(BATCH), n.forward, n.backward) for n in found]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def figure(found: Sequence[Node], title: str) -> Figure:
    """The graph from the input at the top to the loss at the bottom, parameters on the left: values and the arrows
    forward in the colour of the text, gradients and the arrows back in orange."""
    levels: list[list[Node]] = []  # a node of the samples, and the parameters that it is computed from
    waiting: list[Node] = []
    for node in found:
        if node.is_parameter:
            waiting.append(node)
        else:
            levels.append([node, *waiting])
            waiting = []
    heights = [max(_height(level[0]), sum(_height(p) + GAP for p in level[1:]) - GAP) + 3 * GAP for level in levels]
    left = max((_width(node) for level in levels for node in level[1:]), default=0.0)
    right = max(_width(level[0]) for level in levels)
    width, top = left + 5 * GAP + right, sum(heights) - 3 * GAP + 2 * LINE
    drawn = Figure(figsize=(width, top))
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, top))
    axes.axis("off")
    axes.text(0, top - LINE / 2, title, va="center", fontweight="bold")
    top -= 2 * LINE
    centre, above = width - right / 2, None
    for (node, *parameters), height in zip(levels, heights, strict=True):
        _box(axes, node, centre - right / 2, top, right)
        if above is not None:
            _arrows(axes, (centre, above), (centre, top))
        y = top
        for parameter in parameters:
            _box(axes, parameter, 0, y, left)
            middle = y - _height(parameter) / 2
            _arrows(axes, (left, middle), (centre - right / 2, max(middle, top - _height(node) + PAD)))
            y -= _height(parameter) + GAP
        above, top = top - _height(node), top - height
    return drawn


def _arrows(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow forward, and beside it one back."""
    along = np.subtract(end, start)
    aside = 0.06 * np.array([along[1], -along[0]]) / np.hypot(*along)
    for sign, (a, b), colour in ((1, (start, end), INK), (-1, (end, start), ORANGE)):
        properties = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 1, "shrinkB": 1}
        axes.annotate("", np.add(b, sign * aside), np.add(a, sign * aside), arrowprops=properties)


def _box(axes: Axes, node: Node, x: float, top: float, width: float) -> None:
    """A box with its upper left corner at (x, top): how the node is computed and its value, then the gradient."""
    height = _height(node)
    outline = FancyBboxPatch((x, top - height), width, height, boxstyle="round,pad=0,rounding_size=0.06")
    outline.set(facecolor="none", edgecolor=INK, linewidth=0.8, alpha=0.6)
    axes.add_patch(outline)
    y = top - PAD - LINE / 2
    for heading, numbers, colour in zip(_headings(node), (node.value, node.gradient), (INK, ORANGE), strict=True):
        axes.text(x + PAD, y, heading, color=colour, fontsize=9, va="center", fontweight="bold")
        y -= LINE
        for row in numbers[:SHOWN]:
            for column, number in enumerate(row[:SHOWN]):
                right = x + PAD + (column + 1) * DIGITS
                axes.text(
                    right, y, f"{number:.4f}".replace("-", "−"), color=colour, fontsize=9, va="center", ha="right"
                )
            if len(row) > SHOWN:
                axes.text(x + PAD + SHOWN * DIGITS + 0.05, y, "…", color=colour, fontsize=9, va="center")
            y -= LINE
        if len(numbers) > SHOWN:
            axes.text(x + PAD + DIGITS, y, "…", color=colour, fontsize=9, va="center", ha="right")
            y -= LINE


def _headings(node: Node) -> tuple[str, str]:
    value = node.name if node.forward == "given" else f"{node.name} = {node.forward}"
    return value, f"∂L/∂{node.name} = {node.backward}"


def _height(node: Node) -> float:
    rows = len(node.value)
    return 2 * PAD + 2 * LINE * (1 + min(rows, SHOWN) + (rows > SHOWN))


def _width(node: Node) -> float:
    columns = int(node.value.shape[1])
    numbers = min(columns, SHOWN) * DIGITS + (0.2 if columns > SHOWN else 0)
    return 2 * PAD + max(numbers, LETTER * len(max(_headings(node), key=len)))
