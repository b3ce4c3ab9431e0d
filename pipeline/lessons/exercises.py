"""Two exercises on a network with one input and one hidden layer, solved with plain arrays and without training.

(a) Given all weights: what does the network compute? (b) Given the hidden layer alone, with the output layer fitted by
least squares: how well can the network follow a sine?
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from pipeline.report import pictures, style
from pipeline.sources.toy import SINE_GRID, sine

Floats = NDArray[np.float64]

UNITS = 4  # of the hidden layer of (b)
STEEP = 10  # factor on the hidden weights of (b), for comparison
WELL_POSED = 1e-4  # the fit with small weights ignores singular values below this share of the largest


@dataclass(frozen=True, slots=True)
class Network:
    """y = Σ_h v_h σ(w_h x + b_h) + c, with σ the logistic function.

    Parameters
    ----------
    w, b : float64 (H,), hidden weights and biases
    v : float64 (H,), output weights
    c : output bias

    Example
    -------
    >>> step = Network(np.array([1.0]), np.array([0.0]), np.array([2.0]), 0.5)
    >>> step([0.0]).tolist()  # 2 σ(0) + 0.5
    [1.5]
    """

    w: Floats
    b: Floats
    v: Floats
    c: float

    def contributions(self, x: Floats) -> Floats:
        """x (N,) → v_h σ(w_h x + b_h) of each unit, (H, N)."""
        return self.v[:, None] * hidden(x, self.w, self.b).T

    def __call__(self, x: ArrayLike) -> Floats:
        """x (N,) → y (N,)."""
        return np.asarray(self.contributions(np.asarray(x, float)).sum(axis=0) + self.c)


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted network, its RMSE on the noisy samples and on the true curve, and the layer's condition number."""

    network: Network
    train_rmse: float
    curve_rmse: float
    condition: float

    @property
    def largest_weight(self) -> float:
        return float(np.abs(self.network.v).max())


def given() -> Network:
    """The network of (a): three units that switch on one after another, at x = 0, 2 and 4."""
    return Network(np.ones(3), -np.array([0.0, 2.0, 4.0]), np.array([1.0, -2.0, 0.5]), 0.1)


def hidden(x: Floats, w: Floats, b: Floats) -> Floats:
    """x (N,) → σ(x wᵀ + b) (N, H)."""
    return np.asarray(expit(np.outer(x, w) + b))


def samples(seed: int = 0) -> tuple[Floats, Floats]:
    """x and y (N,) of the training samples of the task `sine`."""
    training = [sample for sample in sine(seed) if sample.split == "train"]
    x = np.array([sample.media.load()[0] for sample in training], float)
    return x, np.array([sample.label[0] for sample in training], float)


def fixed(steepness: float) -> tuple[Floats, Floats]:
    """The hidden layer of (b): weights w = 1 and biases b = -(0, 1/3, 2/3, 1), both times `steepness`, (H,) each.

    Example
    -------
    >>> w, b = fixed(3)
    >>> w.tolist(), (-b).tolist()
    ([3.0, 3.0, 3.0, 3.0], [0.0, 1.0, 2.0, 3.0])
    """
    return steepness * np.ones(UNITS), -steepness * np.linspace(0, 1, UNITS)


def fitted(steepness: float = 1.0, smallest: float | None = None) -> Fit:
    """The network of (b): the hidden layer `fixed(steepness)`, with v and c by least squares on the sine samples.

    With the hidden layer fixed, the output is linear in v and c, so one system of linear equations gives the best.

    Parameters
    ----------
    smallest : directions whose singular value is below this share of the largest are ignored; None keeps all that
        differ from 0 in float64
    """
    x, y = samples()
    w, b = fixed(steepness)
    design = np.column_stack([hidden(x, w, b), np.ones(len(x))])
    solution, _, _, singular = np.linalg.lstsq(design, y, rcond=smallest)
    network = Network(w, b, solution[:-1].astype(float), float(solution[-1]))
    grid = np.linspace(0, 1, SINE_GRID)
    return Fit(network, _rmse(network(x), y), _rmse(network(grid), truth(grid)), float(singular[0] / singular[-1]))


def truth(x: Floats) -> Floats:
    """The curve that the sine samples are drawn from, without their noise."""
    return np.asarray(np.sin(2 * np.pi * x))


def draw(folder: Path) -> list[Path]:
    """Draw `three-units.svg` (a), `least-squares.svg` and `basis.svg` (b) into `folder`, and print the errors of (b).

    Returns the files written.
    """
    fits = {
        "w = 1": fitted(),
        "w = 1, small weights": fitted(smallest=WELL_POSED),
        f"w = {STEEP}": fitted(STEEP),
    }
    for name, fit in fits.items():
        print(
            f"{name:<22} RMSE {fit.train_rmse:.3f} on the samples, {fit.curve_rmse:.3f} on the curve; "
            f"largest weight {fit.largest_weight:,.1f}, condition number {fit.condition:,.0f}"
        )
    with matplotlib.rc_context(style.STYLE):
        return [
            style.write_svg(_three_units(), folder / "three-units.svg"),
            style.write_svg(_least_squares(fits), folder / "least-squares.svg"),
            style.write_svg(basis(), folder / "basis.svg"),
        ]


def _three_units() -> Figure:
    """(a): contribution of each unit over [-4, 8], and their sum with the bias."""
    x = np.linspace(-4, 8, 481)
    network = given()
    figure = pictures.contributions(x, network.contributions(x), network.c)
    figure.axes[0].set_title("1 σ(x) − 2 σ(x − 2) + 0.5 σ(x − 4) + 0.1", fontsize=10)
    return figure


def _least_squares(fits: dict[str, Fit]) -> Figure:
    """(b): the fits, with the noisy samples and the true curve.

    Over [0, 1], units with w = 1 are almost straight and almost equal. Their differences are so small that a sine takes
    weights of thousands, which cancel in all but the last digits; with weights of ordinary size, the network gives a
    straight line. Steeper units follow the sine with small weights, but four fixed ones still miss it.
    """
    x, y = samples()
    grid = np.linspace(0, 1, SINE_GRID)
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    axes.plot(x, y, ".", color=style.INK, alpha=0.4, label="samples")
    axes.plot(grid, truth(grid), "--", color=style.INK, linewidth=1.2, label="sin 2πx")
    for (name, fit), colour in zip(fits.items(), style.CURVES, strict=False):
        label = f"{name}\nRMSE {fit.curve_rmse:.3f}, largest weight {fit.largest_weight:,.0f}"
        axes.plot(grid, fit.network(grid), color=colour, linewidth=1.8, label=label)
    axes.set(xlabel="x", ylabel="y")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=0.9)
    return figure


def basis() -> Figure:
    """(b): the functions that least squares combine: the four units with w = 1, almost straight, and with steeper w."""
    grid = np.linspace(0, 1, SINE_GRID)
    figure = Figure(figsize=(6, 2.8))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, steepness in zip(panels, (1, STEEP), strict=True):
        for unit, colour in zip(hidden(grid, *fixed(steepness)).T, style.CURVES, strict=False):
            axes.plot(grid, unit, color=colour, linewidth=1.8)
        axes.set(xlabel="x", ylim=(0, 1))
        axes.set_title(f"w = {steepness}", fontsize=10)
    panels[0].set(ylabel="activation")
    return figure


def _rmse(values: Floats, y: Floats) -> float:
    return float(np.sqrt(np.mean((values - y) ** 2)))
